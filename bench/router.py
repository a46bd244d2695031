"""How fast the fabric and its router are, beside what others use for the same.

    python -m bench.router [--quick]

    ring        two processes put integers in, two take them out, 64 a call: `ring_msgs_per_s`; its ratio to the fastest
                peer at the same work (bench.router_peers): `ring_ratio_best_peer`
    router      two processes submit a message of a random class and latest start, claim the best and finish it, in
                compiled code: pairs a second, `router_ops_per_s` with 1,000 messages waiting, and with 10 to 1,000,000
                (`router_ops_per_s_by_queued`; `router_flatness` is the slowest by the fastest of these)
    python      a submit, a claim and a finish from Python, 1 KiB: `python_submit_us`, `python_claim_us`,
                `python_finish_us`
    round trip  of 1 KiB between two processes with event loops, both asleep: `round_trip_us_p50` and `_p99`
    idle        of a core, what those two processes take while nothing happens: `idle_cpu_share`

Figures are of this machine at that moment; ratios say more. The last line is one JSON object.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Coroutine
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.router_peers import BATCH, FORK, PEERS, PeerMissing
from engine import mailbox, ring, router, slots
from engine.atomics import Words
from engine.fabric import Fabric
from engine.layout import Layout, SizeClass, Sizes
from ledger.compiled import njit

POOL, MAILBOX = "bench", "bench"
RING_LOG2 = 16
MEAN_NS = 1_000_000_000
QUEUED = (10, 1_000, 100_000, 1_000_000)
QUEUED_REPORTED = 1_000
MESSAGE = b"m" * 1024
PAUSE_S = 0.002
IDLE_S = 3.0


@njit(nogil=True)
def put(words: Words, at: int, values: Words, num: int) -> None:
    """Put `num` values in, a batch a call."""
    left = num
    while left > 0:
        left -= ring.push_many(words, at, values, min(left, len(values)))


@njit(nogil=True)
def get(words: Words, at: int, out: Words, num: int) -> None:
    """Take `num` values out, a batch a call."""
    left = num
    while left > 0:
        left -= ring.pop_many(words, at, out, min(left, len(out)))


@njit(nogil=True)
def pairs(
    words: Words, area: int, pool: int, owner: int, starts: Words, classes: Words, weights: router.Weights,
    hand: Words, num: int,
) -> int:  # fmt: skip
    """Submit and claim and finish `num` messages; how many were finished."""
    done = 0
    for number in range(num):
        submit_one(words, area, pool, owner, starts, classes, hand, number)
        slot = router.claim(words, pool, owner, 0, weights, hand, slots.HAND_WORDS, False)
        if slot != slots.NONE and mailbox.finish(words, area, slot, owner):
            done += 1
    return done


@njit(nogil=True)
def submit_one(
    words: Words, area: int, pool: int, owner: int, starts: Words, classes: Words, hand: Words, number: int
) -> bool:
    """One message, of the next of the latest starts and classes."""
    slot = slots.claim(words, area, owner, hand, 0)
    if slot == slots.NONE:
        return False
    words[slot + mailbox.START] = starts[number % len(starts)]
    words[slot + mailbox.COST] = MEAN_NS
    words[slot + mailbox.CLASS] = classes[number % len(classes)]
    return router.submit(words, pool, slot, owner, 0, hand, slots.HAND_WORDS) != mailbox.NO_ROOM


@njit(nogil=True)
def fill(words: Words, area: int, pool: int, owner: int, starts: Words, classes: Words, hand: Words, num: int) -> int:
    """Submit `num` messages; how many found room."""
    done = 0
    for number in range(num):
        if submit_one(words, area, pool, owner, starts, classes, hand, number):
            done += 1
    return done


def in_processes(works: list[Callable[[Barrier], None]]) -> float:
    """Seconds from when all are ready until the last has ended; each in a process of its own."""
    barrier = FORK.Barrier(len(works) + 1)
    processes = [FORK.Process(target=work, args=(barrier,)) for work in works]
    for process in processes:
        process.start()
    barrier.wait()
    begun_s = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - begun_s
    assert all(process.exitcode == 0 for process in processes), "a process failed"
    return seconds


def shared(num_words: int) -> Words:
    """Memory that forked children share."""
    return np.frombuffer(FORK.RawArray("q", num_words), np.int64)


def measure_ring(num_messages: int) -> float:
    """Messages per second through one ring, two producers and two consumers."""
    words = shared(ring.num_words(RING_LOG2))
    ring.initialise(words, 0, RING_LOG2)
    values = np.arange(BATCH)
    put(words, 0, values, BATCH)
    get(words, 0, values.copy(), BATCH)
    each = num_messages // 2

    def produce(barrier: Barrier) -> None:
        barrier.wait()
        put(words, 0, values, each)

    def consume(barrier: Barrier) -> None:
        out = values.copy()
        barrier.wait()
        get(words, 0, out, each)

    return 2 * each / in_processes([produce, produce, consume, consume])


def measure_router(num_queued: int, num_pairs: int) -> float:
    """Pairs of submit and claim a second, of two processes, with so many messages waiting all the time."""
    num_slots = num_queued + 8192
    layout = Layout(Sizes(classes=(SizeClass(8, num_slots),), pools={POOL: MEAN_NS}))
    words = shared(layout.num_words)
    layout.initialise(words)
    area, pool = layout.area(0), layout.pool_offsets[POOL]
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 200 * MEAN_NS, 65_536)
    classes = rng.integers(20, 60, 65_536)
    weights = router.weights_of(MEAN_NS, MEAN_NS // router.TICKS_PER_MEAN)
    hand = np.zeros(2 * slots.HAND_WORDS, np.int64)
    assert fill(words, area, pool, 1, starts, classes, hand, num_queued) == num_queued
    pairs(words, area, pool, 1, starts, classes, weights, hand, 1)
    each = num_pairs // 2

    def work(owner: int) -> Callable[[Barrier], None]:
        def run(barrier: Barrier) -> None:
            hand = np.zeros(2 * slots.HAND_WORDS, np.int64)
            barrier.wait()
            assert pairs(words, area, pool, owner, starts, classes, weights, hand, each) == each

        return run

    return 2 * each / in_processes([work(2), work(3)])


def measure_python(num_messages: int) -> dict[str, float]:
    """Microseconds a call, median over batches of 1,000."""
    fabric = Fabric(f"bench-{os.getpid()}", Sizes(pools={POOL: MEAN_NS}))
    pool = fabric.pool_of(POOL)
    spans: dict[str, list[float]] = {"submit": [], "claim": [], "finish": []}
    num = 1_000
    gc.disable()
    try:
        for _ in range(num_messages // num + 1):  # the first is not counted: it compiles
            begun_s = time.perf_counter()
            start_ns = time.time_ns() + 100 * MEAN_NS
            for number in range(num):
                fabric.submit(pool, MESSAGE, start_ns=start_ns, cost_ns=MEAN_NS, value=1_000 + number)
            submitted_s = time.perf_counter()
            messages = [fabric.claim(pool) for _ in range(num)]
            claimed_s = time.perf_counter()
            for message in messages:
                assert message is not None
                fabric.finish(message)
            finished_s = time.perf_counter()
            spans["submit"].append(submitted_s - begun_s)
            spans["claim"].append(claimed_s - submitted_s)
            spans["finish"].append(finished_s - claimed_s)
    finally:
        gc.enable()
        fabric.close()
    return {f"python_{name}_us": float(np.median(taken[1:])) / num * 1e6 for name, taken in spans.items()}


async def echo(fabric: Fabric) -> None:
    """Answer every message with its own bytes; an empty one ends it."""
    queue = fabric.mailbox_of(MAILBOX)
    ticked_s = 0.0
    while True:
        message = fabric.take(queue)
        if message is None:
            if time.monotonic() - ticked_s > 1.0:
                ticked_s = time.monotonic()
                fabric.tick()
            await fabric.rest([queue])
            continue
        data, reply = bytes(message.view), message.reply
        fabric.finish(message)
        if not data:
            return
        fabric.send(fabric.mailbox_at(reply), data)


async def ask(fabric: Fabric, num_trips: int) -> list[float]:
    """Seconds of each round trip, after a pause in which both have gone to sleep."""
    queue, own = fabric.mailbox_of(MAILBOX), fabric.mailbox
    taken = []
    for _ in range(num_trips):
        await asyncio.sleep(PAUSE_S)
        begun_s = time.perf_counter()
        fabric.send(queue, MESSAGE, reply=fabric.address)
        while (message := fabric.take(own)) is None:
            await fabric.rest([own])
        taken.append(time.perf_counter() - begun_s)
        fabric.finish(message)
    return taken


async def idle(fabric: Fabric, seconds: float) -> float:
    """CPU seconds a second of a process that waits for messages, and looks after the others once a second."""
    until_s, cpu_s, begun_s = time.monotonic() + seconds, time.process_time(), time.monotonic()
    while time.monotonic() < until_s:
        fabric.tick()
        for _ in range(2):
            await fabric.rest([fabric.mailbox])
    return (time.process_time() - cpu_s) / (time.monotonic() - begun_s)


def measure_round_trip(num_trips: int, seconds: float) -> dict[str, float]:
    """Between two processes."""
    name, sizes = f"bench-{os.getpid()}", Sizes(mailboxes=(MAILBOX,))
    here, there = FORK.Pipe()

    def run(main: Callable[[Fabric], Coroutine[Any, Any, Any]]) -> Any:
        fabric = Fabric(name, sizes)
        try:
            return asyncio.run(main(fabric))
        finally:
            fabric.close()

    def answer() -> None:
        async def main(fabric: Fabric) -> None:
            there.send(True)
            await echo(fabric)
            there.send(await idle(fabric, seconds))

        run(main)

    async def measure(fabric: Fabric) -> tuple[list[float], float]:
        here.recv()
        await ask(fabric, 50)
        taken = await ask(fabric, num_trips)
        fabric.send(fabric.mailbox_of(MAILBOX), b"")
        return taken, await idle(fabric, seconds)

    process = FORK.Process(target=answer)
    process.start()
    taken, own = run(measure)
    other = here.recv()
    process.join()
    return {
        "round_trip_us_p50": float(np.percentile(taken, 50)) * 1e6,
        "round_trip_us_p99": float(np.percentile(taken, 99)) * 1e6,
        "idle_cpu_share": own + other,
    }


def measure_peers(share: float) -> tuple[dict[str, float], dict[str, str]]:
    """Messages per second of each peer that is installed; why not of the others."""
    figures, missing = {}, {}
    for name, (measure, num_messages) in PEERS.items():
        try:
            figures[name] = measure(int(num_messages * share))
        except PeerMissing as error:
            missing[name] = str(error)
    return figures, missing


def run(share: float) -> dict[str, Any]:
    """All figures; `share` of the sizes of a full run."""
    rates = [measure_ring(int(40_000_000 * share)) for _ in range(3)]
    peers, missing = measure_peers(share)
    by_queued = {num: measure_router(num, int(2_000_000 * share)) for num in QUEUED}
    figures: dict[str, Any] = {
        "ring_msgs_per_s": float(np.median(rates)),
        "ring_ratio_best_peer": float(np.median(rates)) / max(peers.values()),
        "router_ops_per_s": by_queued[QUEUED_REPORTED],
        "router_ops_per_s_by_queued": {str(num): rate for num, rate in by_queued.items()},
        "router_flatness": min(by_queued.values()) / max(by_queued.values()),
        **measure_python(int(100_000 * share)),
        **measure_round_trip(int(2_000 * share), IDLE_S),
        "peers_msgs_per_s": peers,
        "peers_missing": missing,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
    }
    return figures


def print_table(figures: dict[str, Any]) -> None:
    """What a person reads."""
    table = Table(title="fabric and router")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("ring, messages/s", f"{figures['ring_msgs_per_s']:,.0f}")
    for name, rate in figures["peers_msgs_per_s"].items():
        table.add_row(f"  {name}", f"{rate:,.0f}")
    for name, why in figures["peers_missing"].items():
        table.add_row(f"  {name}", why)
    table.add_row("ring by the fastest peer", f"{figures['ring_ratio_best_peer']:.0f}")
    for num, rate in figures["router_ops_per_s_by_queued"].items():
        table.add_row(f"router, pairs/s with {int(num):,} waiting", f"{rate:,.0f}")
    for name in ("submit", "claim", "finish"):
        table.add_row(f"{name} from Python, us", f"{figures[f'python_{name}_us']:.2f}")
    p50, p99 = figures["round_trip_us_p50"], figures["round_trip_us_p99"]
    table.add_row("round trip of 1 KiB, us (p50, p99)", f"{p50:.0f}, {p99:.0f}")
    table.add_row("CPU of two idle members, of a core", f"{figures['idle_cpu_share']:.2%}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, done in under a minute")
    figures = run(0.1 if parser.parse_args().quick else 1.0)
    print_table(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
