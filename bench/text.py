"""The text engine against bare vLLM, and what its gate lets through.

    python -m bench.text [--quick] [--num N] [--catalogue FILE] [--rounds N] [--baselines 1|2]

Each round, with its share of the products:
    1. start the real engine (Ray, Serve, vLLM) and mint one asset: `first_asset_s`
    2. mint the products through HTTP, 64 in flight: drafts and tokens per second, and memory
    3. stop it, and give exactly the same attempts (prompts, seeds, limits, grammars) to bare `vllm.LLM.generate`, with
       the same engine arguments, in its one-process mode (the faster one here). It runs twice, in the engine's process
       environment and in vLLM's own, and the faster one counts. Top-p is vLLM's own there; ours is part of the engine.
`engine_ratio` is drafts per second of 2 by 3, the median over rounds, both from the start until nothing waits to be
begun, that is while 64 are in flight. After that both have a tail, the engine a longer one: its last products make
their tries one after another, while bare vLLM got all of them at once. `engine_ratio_whole` has the tails in it.
`same_text_rate` is the share of released texts that bare vLLM wrote, too, for the same attempt. In the end every
released text is judged by bench.factcheck, which shares nothing with the gate: `fact_error_rate`.

--quick is to be done in a minute, which is what Ray, Serve and vLLM alone take to start on two cores. It measures the
embedded engine behind the same HTTP API, in one process without Ray (bench.embedded); it loads bare vLLM at the same
time, and runs it once. So its figures are another engine's, rough ones: that everything works is what it shows.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from actors.minting import Minted, mint_products
from actors.ports import free_port
from bench.factcheck import fact_errors
from engine.admission import asset_id
from engine.catalogue import Product, brief_facts
from engine.catalogue import load as load_catalogue
from engine.config import CONFIGS, Config
from engine.config import load as load_config
from engine.errors import Refused
from engine.generators.contract import Attempt
from engine.generators.runtime import text_environment
from engine.models.registry import resolve
from engine.pipeline import attempt_of, retry_plan
from engine.request import Brief
from engine.tiers import Tier
from gate.policy import load_policies

IN_FLIGHT = 64
START_S_MAX = 300.0
SHARE_PER_PLACE = 2  # products of a round for each place in flight, at the least
PLAIN_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
NUM_FULL, NUM_QUICK = 400, 4
COUNT_S = 0.5
SEED = 2
DEVELOPED_ON = {0: 400, 5: 96}  # seeds of a shuffle, and how many of its first products we looked at
GIB = 1 << 30
TENANT = "public"


class Rates(msgspec.Struct):
    """Drafts by second: while as many are in flight as may be, and over the whole run; and the whole run's tokens."""

    full_drafts_per_s: float
    drafts_per_s: float
    tokens_per_s: float
    num_drafts: int


class Measured(msgspec.Struct):
    """One round: what the engine did, and bare vLLM with the same attempts."""

    first_asset_s: float
    rss_gib: float
    pss_gib: float
    engine: "Rates"
    bare: "Rates"
    num_attempts: int
    same_text_rate: float
    rows: list[Minted]
    facts: dict[str, dict[str, str]]


class Process:
    """A child process with its own group, so that nothing of it stays behind."""

    def __init__(self, args: Sequence[str], environment: dict[str, str], log: Path) -> None:
        with log.open("wb") as errors:
            self.child = subprocess.Popen(
                [sys.executable, "-m", *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | environment,
                text=True,
                start_new_session=True,
            )
        self.log = log

    def memory_gib(self) -> tuple[float, float]:
        """Resident and proportional set sizes of the process and all its descendants, summed."""
        rss = pss = 0
        root = psutil.Process(self.child.pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                info = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            rss, pss = rss + info.rss, pss + info.pss
        return rss / GIB, pss / GIB

    def read(self) -> dict[str, Any]:
        """The next JSON line that it prints."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.startswith("{"):
                return msgspec.json.decode(line)
        raise SystemExit(f"a process of the benchmark ended early; its log: {self.log.read_text()[-2000:]}")

    def write(self, line: str) -> None:
        """One line to its standard input."""
        assert self.child.stdin is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def stop(self, *, at_once: bool) -> None:
        """Ask it to end, or kill it with everything it started."""
        descendants = psutil.Process(self.child.pid).children(recursive=True) if self.child.poll() is None else []
        if at_once:
            for process in descendants:
                process.kill()
            self.child.kill()
        else:
            self.child.send_signal(signal.SIGINT)
        self.child.wait(60)
        psutil.wait_procs(descendants, timeout=30)


def main() -> None:
    options = parse_options()
    config = load_config(None)
    resolve(config.text.model, config.cache_path)  # conversion, if it is still to do, is part of no figure
    num = options.num or (NUM_QUICK if options.quick else NUM_FULL)
    products, where = choose_products(options.catalogue, num)
    num_rounds = 1 if options.quick else options.rounds
    shares = [products[number::num_rounds] for number in range(num_rounds)]
    num_baselines = 1 if options.quick else options.baselines
    in_flight = min(IN_FLIGHT, len(products))
    if not options.quick:
        in_flight = max(1, min(IN_FLIGHT, len(shares[-1]) // SHARE_PER_PLACE))  # else a round would be all tail
    with tempfile.TemporaryDirectory(prefix="mintage-bench-") as folder:
        rounds = [
            measure(
                config, share, Path(folder), num_in_flight=in_flight, num_baselines=num_baselines, quick=options.quick
            )
            for share in shares
        ]
    result = summary(rounds) | {
        "num_products": len(products),
        "in_flight": in_flight,
        "catalogue": where,
        "quick": options.quick,
        "engine": "embedded" if options.quick else "ray",
    }
    print_table(result)
    print(msgspec.json.encode(result).decode())


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.text")
    parser.add_argument("--quick", action="store_true", help="embedded engine, few products; same keys")
    parser.add_argument("--num", type=int, default=None, help=f"how many products ({NUM_FULL})")
    parser.add_argument("--catalogue", type=Path, default=None, help="CSV of products")
    parser.add_argument("--rounds", type=int, default=2, help="engine and bare vLLM in turn, so often")
    parser.add_argument("--baselines", type=int, choices=(1, 2), default=2, help="environments of bare vLLM to try")
    return parser.parse_args()


def choose_products(catalogue: Path | None, num: int) -> tuple[list[Product], str]:
    """Random products of the named catalogue, of the shared one where it is there, else of our own. Never those of the
    shared one that prompt, gate and fact checker were developed on; our own we have all seen."""
    shared = Path(os.environ.get("MINTAGE_SHARED", CONFIGS.parent.parent / "shared"), "data", "catalogue.csv")
    path = catalogue or (shared if shared.exists() else CONFIGS / "catalogue.csv")
    products = load_catalogue(path)
    if path.resolve() == shared.resolve():
        seen = {product.sku for seed, n in DEVELOPED_ON.items() for product in shuffled(products, seed)[:n]}
        products = [product for product in products if product.sku not in seen]
    return shuffled(products, SEED)[:num], path.name if path != CONFIGS / "catalogue.csv" else "configs/catalogue.csv"


def shuffled(products: list[Product], seed: int) -> list[Product]:
    """A copy in the order that the seed gives."""
    order = list(products)
    random.Random(seed).shuffle(order)
    return order


def measure(
    config: Config, products: list[Product], folder: Path, *, num_in_flight: int, num_baselines: int, quick: bool
) -> Measured:
    """One round."""
    prefix = f"bench-{time.time_ns()}"
    environments = [text_environment(config.text.threads), PLAIN_ENVIRONMENT][:num_baselines]
    early = Process(["bench.bare", str(num_in_flight)], environments[0], folder / "bare.log") if quick else None
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    start_s = time.monotonic()
    if quick:
        engine = Process(["bench.embedded", str(port), str(folder / prefix)], environments[0], folder / "engine.log")
    else:
        command = ["actors.cli", "run", "--port", str(port), "--data", str(folder / prefix)]
        engine = Process(command, {}, folder / "engine.log")
    try:
        first_asset_s = wait_first_asset(engine, url, products[0], start_s)
        if early is not None:
            early.read()
        rows, ours, memory = asyncio.run(mint_measured(engine, url, products, prefix, num_in_flight))
    finally:
        engine.stop(at_once=quick)
    attempts = attempts_of(config, products, rows, prefix)
    file = folder / prefix / "attempts"
    file.write_bytes(msgspec.msgpack.encode(attempts))
    answers = []
    for environment in environments:
        bare = early or Process(["bench.bare", str(num_in_flight)], environment, folder / "bare.log")
        try:
            if early is None:
                bare.read()
            bare.write(str(file))
            answers.append(bare.read())
        finally:
            bare.stop(at_once=True)
    baseline = max((msgspec.convert(answer, Rates) for answer in answers), key=lambda found: found.full_drafts_per_s)
    if num_in_flight == len(products):  # no product ever waited: whole runs are compared
        baseline.full_drafts_per_s = baseline.drafts_per_s
    texts = msgspec.msgpack.decode(file.with_suffix(".texts").read_bytes(), type=dict[str, str])
    released = [row.asset for row in rows if row.asset is not None]
    same = [texts[f"{asset.asset_id}/{asset.num_attempts - 1}"] == asset.content for asset in released]
    return Measured(
        first_asset_s=first_asset_s,
        rss_gib=memory[0],
        pss_gib=memory[1],
        engine=ours,
        bare=baseline,
        num_attempts=len(attempts),
        same_text_rate=sum(same) / max(len(same), 1),
        rows=rows,
        facts={product.sku: brief_facts(product) for product in products},
    )


def wait_first_asset(engine: Process, url: str, product: Product, start_s: float) -> float:
    """Seconds from the start of the engine to its first released asset, asked for from the first moment on."""
    until_s = start_s + START_S_MAX
    number = 0
    while time.monotonic() < until_s:
        if engine.child.poll() is not None:
            raise SystemExit(f"the engine did not start; its log: {engine.log.read_text()[-2000:]}")
        try:
            body = {"brief": {"facts": brief_facts(product)}, "idempotency_key": f"first-{time.time_ns()}-{number}"}
            response = httpx.post(f"{url}/v1/assets", json=body, timeout=START_S_MAX, trust_env=False)
            number += 1
            if response.status_code == 200:
                return time.monotonic() - start_s
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"no asset after {START_S_MAX:g} s; the engine's log: {engine.log.read_text()[-2000:]}")


async def mint_measured(
    engine: Process, url: str, products: list[Product], prefix: str, num_in_flight: int
) -> tuple[list[Minted], Rates, tuple[float, float]]:
    """All products; the rows, how fast they came, and the memory in the middle of it."""
    rows: list[Minted] = []
    sampled: list[tuple[float, float]] = []
    sampler = threading.Thread(target=lambda: sampled.append(engine.memory_gib()))
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        counts = [await count(client, url)]
        counting = asyncio.create_task(count_on(client, url, counts))
        last_begun_s = counts[0].time_s
        tiers = [Tier.BATCH] * len(products)
        async for row in mint_products(url, products, tiers, key_prefix=prefix, num_in_flight=num_in_flight):
            rows.append(row)
            last_begun_s = max(last_begun_s, time.monotonic() - row.latency_s)
            if len(rows) == (len(products) + 1) // 2:
                sampler.start()
        counting.cancel()
        counts.append(await count(client, url))
    sampler.join()
    full_end_s = last_begun_s if num_in_flight < len(products) else counts[-1].time_s
    return rows, rates(counts, full_end_s), sampled[0]


class Count(msgspec.Struct):
    """What the engine has generated by a moment."""

    time_s: float
    num_drafts: int
    num_tokens: int


async def count(client: httpx.AsyncClient, url: str) -> Count:
    """Now."""
    health = (await client.get(f"{url}/healthz")).json()
    return Count(time.monotonic(), health["num_drafts"], health["num_tokens"])


async def count_on(client: httpx.AsyncClient, url: str, counts: list[Count]) -> None:
    """Add a count twice a second, until cancelled."""
    while True:
        await asyncio.sleep(COUNT_S)
        counts.append(await count(client, url))


def rates(counts: list[Count], full_end_s: float) -> Rates:
    """Rates from the first count to the last, and to the moment from which on fewer are in flight."""
    start, last = counts[0], counts[-1]
    drafts = [row.num_drafts - start.num_drafts for row in counts]
    full_s, wall_s = full_end_s - start.time_s, last.time_s - start.time_s
    num_full = float(np.interp(full_end_s, [row.time_s for row in counts], drafts))
    return Rates(num_full / full_s, drafts[-1] / wall_s, (last.num_tokens - start.num_tokens) / wall_s, drafts[-1])


def attempts_of(config: Config, products: list[Product], rows: list[Minted], prefix: str) -> list[Attempt]:
    """Exactly the attempts that the engine made: they follow from the request, its key and how many tries it took,
    since the deadline is a day away and no try was made before its turn."""
    policy = load_policies(config.policies_path)["default"]
    facts = {product.sku: brief_facts(product) for product in products}
    attempts = []
    for row in rows:
        if row.asset is not None:
            num_tries = row.asset.num_attempts
            if row.asset.constrained and num_tries <= 1 + policy.retries.free:
                raise SystemExit(f"{row.sku} had too little time for its free retries, so the round says nothing")
        elif row.error is not None and row.error.code == Refused.code:
            num_tries = len({reason.attempt for reason in row.reasons if reason.check != "grammar"})
        else:
            raise SystemExit(f"{row.sku} failed, so the round says nothing: {row.error}")
        brief, identity = Brief(facts=facts[row.sku]), asset_id(TENANT, f"{prefix}/{row.sku}")
        attempts += [
            attempt_of(identity, brief, row.tier, policy, config.sampling, plan)
            for plan in list(retry_plan(policy))[:num_tries]
        ]
    return attempts


def summary(rounds: list[Measured]) -> dict[str, Any]:
    """The figures over all rounds."""
    rows = [row for measured in rounds for row in measured.rows]
    released = [(row.sku, row.asset) for row in rows if row.asset is not None]
    facts = {sku: value for measured in rounds for sku, value in measured.facts.items()}
    wrong = {sku: errors for sku, asset in released if (errors := fact_errors(facts[sku], asset.content))}
    for measured in rounds:
        if measured.engine.num_drafts != measured.num_attempts:
            raise SystemExit(f"the engine made {measured.engine.num_drafts} drafts, bare vLLM {measured.num_attempts}")
    first = sum(asset.num_attempts == 1 for _, asset in released)

    def median(figure: Callable[[Measured], float]) -> float:
        return round(statistics.median(map(figure, rounds)), 3)

    return {
        "engine_ratio": median(lambda measured: measured.engine.full_drafts_per_s / measured.bare.full_drafts_per_s),
        "engine_ratio_whole": median(lambda measured: measured.engine.drafts_per_s / measured.bare.drafts_per_s),
        "engine_drafts_per_s": median(lambda measured: measured.engine.full_drafts_per_s),
        "bare_drafts_per_s": median(lambda measured: measured.bare.full_drafts_per_s),
        "engine_tokens_per_s": median(lambda measured: measured.engine.tokens_per_s),
        "bare_tokens_per_s": median(lambda measured: measured.bare.tokens_per_s),
        "rounds": [[msgspec.structs.asdict(rates) for rates in (each.engine, each.bare)] for each in rounds],
        "same_text_rate": median(lambda measured: measured.same_text_rate),
        "first_asset_s": median(lambda measured: measured.first_asset_s),
        "rss_gib": round(max(measured.rss_gib for measured in rounds), 2),
        "pss_gib": round(max(measured.pss_gib for measured in rounds), 2),
        "accept_rate_first_try": round(first / len(rows), 3),
        "retry_rate": round(sum(asset.num_attempts > 1 for _, asset in released) / len(rows), 3),
        "constrained_rate": round(sum(asset.constrained for _, asset in released) / len(rows), 3),
        "released_rate": round(len(released) / len(rows), 3),
        "refused_rate": round(1 - len(released) / len(rows), 3),
        "fact_error_rate": round(len(wrong) / max(len(released), 1), 4),
        "fact_errors": {sku: errors[:3] for sku, errors in sorted(wrong.items())[:20]},
        "receipts_verified": sum(row.verified for row in rows),
    }


def print_table(result: dict[str, Any]) -> None:
    """The figures for a person."""
    table = Table("figure", "value", title="bench.text")
    for name, value in result.items():
        table.add_row(name, str(value).replace("[", r"\["))
    Console().print(table)


if __name__ == "__main__":
    main()
