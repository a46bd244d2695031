"""Processes that work on a fabric and are killed at any instruction, with exact accounting of every message.

    python tests/fabric_stress.py mailbox|router SECONDS SEED

Workers send and finish messages as fast as they can, in compiled code. Before each step that counts a worker writes
down, in memory of its own that outlives it, what it is about to do; what it did is read off the slot's word after its
death, before it is recovered. In the end every message that was sent was finished, once; every slot is free, and every
block is free or in a chain. Prints one JSON object.
"""

import json
import mmap
import os
import random
import signal
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import chain, mailbox, members, router, segment, slots
from engine.atomics import Words, fetch_add, load_acquire, store_release
from engine.fabric import Fabric
from engine.layout import Layout, SizeClass, Sizes
from engine.slots import NONE
from ledger.compiled import njit

NUM_WORKERS = 4
NUM_SLOTS = 512
IDS_PER_WORKER = 1 << 28  # a byte each of what was sent and what was finished, of memory only if used
PHASE, ID, TICKET, BEFORE, NEXT, EVIDENCE_WORDS = 0, 1, 2, 3, 4, 8
IDLE, SENDING, FINISHING = 0, 1, 2
STOP = NUM_WORKERS * EVIDENCE_WORDS
MEAN_NS = 8_000
BURST = 64


@njit(nogil=True)
def work(words, queue, is_pool, me, ev, row, sent, done, weights, area, hand, seed):  # type: ignore[no-untyped-def]
    """Send a burst, finish a burst, and so on, until told to stop."""
    state = seed
    now_ns = 1_000_000_000
    at = row * EVIDENCE_WORDS
    while load_acquire(ev, STOP) == 0:
        state = (state * 6364136223846793005 + 1442695040888963407) & 0x7FFFFFFFFFFFFFFF
        num = (state >> 33) % BURST
        for _ in range(num):
            state = (state * 6364136223846793005 + 1442695040888963407) & 0x7FFFFFFFFFFFFFFF
            now_ns += 100
            if not send_one(words, queue, is_pool, me, ev, at, sent, area, hand, state >> 33, now_ns):
                break
        for _ in range(num):
            if not finish_one(words, queue, is_pool, me, ev, at, done, weights, area, hand, now_ns):
                break


@njit(nogil=True)
def send_one(words, queue, is_pool, me, ev, at, sent, area, hand, chance, now_ns):  # type: ignore[no-untyped-def]
    slot = slots.claim(words, area, me, hand, 0)
    if slot == NONE:
        return False
    number = ev[at + NEXT]
    words[slot + mailbox.CALL] = number
    words[slot + mailbox.START] = now_ns + (chance % 4096 - 512) * 1000
    words[slot + mailbox.COST] = MEAN_NS
    words[slot + mailbox.CLASS] = (chance >> 12) % 128 | (chance >> 20) % 4 << 8
    store_release(ev, at + ID, number)
    store_release(ev, at + TICKET, slots.ticket_of(slot, load_acquire(words, slot)))
    store_release(ev, at + PHASE, SENDING)
    if is_pool:
        woken = router.submit(words, queue, slot, me, now_ns, hand, slots.HAND_WORDS)
    else:
        woken = mailbox.send(words, queue, slot, me)
    if woken == mailbox.NO_ROOM:
        store_release(ev, at + PHASE, IDLE)
        mailbox.discard(words, area, slot, me)
        return False
    sent[number] = 1
    store_release(ev, at + NEXT, number + 1)
    store_release(ev, at + PHASE, IDLE)
    return True


@njit(nogil=True)
def finish_one(words, queue, is_pool, me, ev, at, done, weights, area, hand, now_ns):  # type: ignore[no-untyped-def]
    if is_pool:
        slot = router.claim(words, queue, me, now_ns, weights, hand, slots.HAND_WORDS, now_ns % 7 == 0)
        if slot == NONE:
            slot = router.take_late(words, queue, me)
    else:
        slot = mailbox.take(words, queue, me)
    if slot == NONE:
        return False
    number = words[slot + mailbox.CALL]
    store_release(ev, at + ID, number)
    store_release(ev, at + BEFORE, (load_acquire(done, number >> 3) >> 8 * (number & 7)) & 0xFF)
    store_release(ev, at + TICKET, slots.ticket_of(slot, load_acquire(words, slot)))
    store_release(ev, at + PHASE, FINISHING)
    if mailbox.finish(words, area, slot, me):
        fetch_add(done, number >> 3, 1 << 8 * (number & 7))
    store_release(ev, at + PHASE, IDLE)
    return True


def shared(num_words: int) -> Words:
    """Memory that children share."""
    return np.frombuffer(mmap.mmap(-1, num_words * 8), np.int64)


class Stress:
    """The controller: starts workers, kills them, and settles what they were at."""

    def __init__(self, kind: str, seed: int) -> None:
        self.random = random.Random(seed)
        sizes = Sizes(classes=(SizeClass(8, NUM_SLOTS),), mailboxes=("work",), mailbox_log2=10, pools={"work": MEAN_NS})
        self.fabric = Fabric(f"stress-{os.getpid()}", sizes)
        self.words, self.layout = self.fabric.words, self.fabric.layout
        self.is_pool = kind == "router"
        self.queue = self.fabric.pool_of("work") if self.is_pool else self.fabric.mailbox_of("work")
        self.ev = shared(STOP + 1)
        self.done = shared(NUM_WORKERS * IDS_PER_WORKER // 8)
        self.sent, self.num_done = (array.view(np.uint8) for array in (shared(len(self.done)), self.done))
        self.pids: dict[int, tuple[int, int]] = {}
        self.weights = router.weights_of(MEAN_NS, max(MEAN_NS // router.TICKS_PER_MEAN, 1))
        self.num_kills = 0
        for row in range(NUM_WORKERS):
            self.ev[row * EVIDENCE_WORDS + NEXT] = row * IDS_PER_WORKER
        self.warm_up()

    def arguments(self, me: int, row: int, seed: int, hand: NDArray[np.int64]) -> tuple[Any, ...]:
        area = self.layout.area(0)
        return (
            self.words,
            self.queue,
            self.is_pool,
            me,
            self.ev,
            row,
            self.sent,
            self.done,
            self.weights,
            area,
            hand,
            seed,
        )

    def warm_up(self) -> None:
        """Compile, so that children have it, and recovery when the first is killed."""
        self.ev[STOP] = 1
        work(*self.arguments(self.fabric.number, 0, 1, np.zeros(8, np.int64)))
        self.start(0)
        pid = next(iter(self.pids))
        os.waitpid(pid, 0)
        self.settle(pid)
        self.fabric.tick()
        self.ev[STOP] = 0

    def start(self, row: int) -> None:
        """A worker in a process of its own."""
        seed = self.random.getrandbits(60) | 1
        pid = os.fork()
        if pid == 0:
            try:
                pid = os.getpid()
                me = members.join(self.words, self.layout.members, pid, segment.started_at(pid))
                work(*self.arguments(me, row, seed, np.zeros(8, np.int64)))
                self.ev[row * EVIDENCE_WORDS + PHASE] = IDLE
            finally:
                os._exit(0)
        self.pids[pid] = (row, seed)

    def number_of(self, pid: int) -> int:
        """The member that a process was; NONE if it died before it was one."""
        first = self.layout.members
        for number in range(1, members.NUM_MEMBERS + 1):
            word = int(self.words[first + number * members.MEMBER_WORDS])
            if members.pid_of.py_func(word) == pid and members.state_of.py_func(word) != members.FREE:
                return number
        return NONE

    def settle(self, pid: int) -> None:
        """Write down what a dead worker did, which has not been recovered yet."""
        row, _ = self.pids.pop(pid)
        at = row * EVIDENCE_WORDS
        dead = self.number_of(pid)
        phase, number, ticket = (int(self.ev[at + n]) for n in (PHASE, ID, TICKET))
        word = int(self.words[slots.slot_of.py_func(ticket)])
        same = dead != NONE and slots.is_of(ticket, word) and slots.owner_of(word) == dead
        if phase == SENDING:
            self.ev[at + NEXT] = number + 1
            if not (same and slots.state_of(word) == slots.WRITING):
                self.sent[number] = 1
        elif phase == FINISHING and not (same and slots.state_of(word) == slots.CLAIMED):
            self.num_done[number] = max(int(self.num_done[number]), int(self.ev[at + BEFORE]) + 1)
        self.ev[at + PHASE] = IDLE

    def run(self, seconds: float) -> None:
        """Kill and start workers for so long, then let all end."""
        for row in range(NUM_WORKERS):
            self.start(row)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(self.random.expovariate(1 / 0.03))
            # One at a time or two at once: then one may be the other's.
            for pid in self.random.sample(sorted(self.pids), self.random.choice((1, 1, 2))):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self.num_kills += 1
            rows = [row for pid, (row, _) in self.pids.items() if segment.started_at(pid) == 0]
            for pid in [pid for pid in self.pids if segment.started_at(pid) == 0]:
                self.settle(pid)
            self.fabric.tick()
            for row in rows:
                self.start(row)
        self.ev[STOP] = 1
        for pid in list(self.pids):
            os.waitpid(pid, 0)
            self.settle(pid)
        self.fabric.tick()

    def drain(self) -> None:
        """Finish what still waits."""
        self.ev[STOP] = 0
        hand, now_ns = np.zeros(8, np.int64), 1_000_000_000
        me, area = self.fabric.number, self.layout.area(0)
        at = (NUM_WORKERS - 1) * EVIDENCE_WORDS
        arguments = (self.words, self.queue, self.is_pool, me, self.ev, at, self.done, self.weights, area, hand, now_ns)
        while finish_one(*arguments):
            pass

    def used(self, of_ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Of the ids that workers came to, one worker after the other."""
        nexts = [int(self.ev[row * EVIDENCE_WORDS + NEXT]) for row in range(NUM_WORKERS)]
        return np.concatenate([of_ids[row * IDS_PER_WORKER : end + 1] for row, end in enumerate(nexts)])

    def check(self) -> dict[str, Any]:
        """Everything is accounted for."""
        sent, done = self.used(self.sent), self.used(self.num_done)
        lost = np.flatnonzero(sent > done)
        twice = np.flatnonzero(done > np.maximum(sent, 1))
        unsent = np.flatnonzero((done > 0) & (sent == 0))
        layout, words = self.layout, self.words
        states = words[layout.records[0] :: mailbox.MESSAGE_WORDS][:NUM_SLOTS] & slots.STATE_MASK
        return {
            "num_sent": int(sent.sum()),
            "num_done": int(done.sum()),
            "num_kills": self.num_kills,
            "lost": lost[:10].tolist(),
            "finished_twice": twice[:10].tolist(),
            "finished_unsent": unsent[:10].tolist(),
            "slots_not_free": int(np.count_nonzero(states != slots.FREE)),
            "blocks_lost": blocks_lost(words, layout),
            "slots_usable": usable(words, layout.area(0)),
        }


def blocks_lost(words: Words, layout: Layout) -> int:
    """Blocks that are neither free nor in a chain."""
    linked = set()
    for pool in layout.pool_offsets.values():
        for place in (pool + router.LATE, *range(pool + router.CHAINS, pool + router.POOL_WORDS, chain.CHAIN_WORDS)):
            reference = int(words[place + chain.HEAD])
            while reference != 0:
                block = slots.slot_of.py_func(reference)
                linked.add(block)
                following = int(words[block + chain.NEXT])
                age = ((reference & slots.GENERATION_MASK) - (following >> chain.TAG_SHIFT)) & slots.GENERATION_MASK
                reference = following & chain.TICKET_MASK if age == 0 else 0
    in_use = {
        layout.blocks + number * chain.BLOCK_WORDS
        for number in range(layout.num_blocks)
        if words[layout.blocks + number * chain.BLOCK_WORDS] & slots.STATE_MASK != slots.FREE
    }
    return len(in_use ^ linked)


def usable(words: Words, area: int) -> int:
    """How many slots can be claimed."""
    hand, count = np.zeros(2, np.int64), 0
    while slots.claim(words, area, 1, hand, 0) != NONE:
        count += 1
    return count


def main() -> None:
    kind, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    stress = Stress(kind, seed)
    try:
        stress.run(seconds)
        stress.drain()
        print(json.dumps(stress.check()))
    finally:
        for pid in stress.pids:
            os.kill(pid, signal.SIGKILL)
        segment.shutil.rmtree(stress.fabric.segment.path, ignore_errors=True)


if __name__ == "__main__":
    main()
