"""How much of the value that could be had on time each order of service brings in, by simulation.

    python -m bench.scheduling [--quick] [--trace CSV] [--seeds N]

An hour of a production trace (its arrivals and token counts) on 16 equal servers, at loads of 0.7, 1.0, 1.3 and 1.8 of
their capacity; tiers, values, deadlines and noise are drawn from a documented distribution (bench.scheduling_world).
Each policy sees what an engine sees: predicted cost, value, deadline, tier. `mintage` is the router that runs in
production, on memory of its own (bench.scheduling_router); the others are in bench.scheduling_policies. All get the
same jobs and are divided by the same upper bound: no policy, even one that knows the future, could have more
(bench.scheduling_bound).

The table has the mean over seeds, and the longest that a request of the lowest tier waited before it was served. In the
JSON, `loads` is load -> policy -> share of the bound. Deterministic for the same trace and seeds, on any machine.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.scheduling_bound import offline_bound
from bench.scheduling_policies import BASELINES
from bench.scheduling_router import Mintage
from bench.scheduling_world import (
    NUM_SERVERS,
    Jobs,
    Outcome,
    Policy,
    Trace,
    draw_jobs,
    draw_trace,
    read_trace,
    simulate,
)
from engine.errors import InvalidRequest

LOADS = (0.7, 1.0, 1.3, 1.8)
SEEDS_FULL, SEEDS_QUICK = 5, 1
TRACE = "data/azure_llm_2023_conv.csv"
SHARED = Path(os.environ.get("MINTAGE_SHARED", Path(__file__).parents[2] / "shared"))
LOWEST = -1
POLICIES: tuple[Callable[[Jobs], Policy], ...] = (Mintage, *BASELINES)


class Figures(msgspec.Struct):
    """What one policy brought in at one load, a figure a seed."""

    shares: list[float] = []
    worst_wait_s: list[float] = []
    outcomes: list[Outcome] = []

    @property
    def share(self) -> float:
        return float(np.mean(self.shares))


Table_ = dict[float, dict[str, Figures]]


def run(trace: Trace, loads: tuple[float, ...], seeds: range) -> Table_:
    """All policies at all loads."""
    table: Table_ = {load: defaultdict(Figures) for load in loads}
    for load in loads:
        for seed in seeds:
            jobs = draw_jobs(trace, seed, load)
            bound = offline_bound(jobs, NUM_SERVERS)
            for make in POLICIES:
                policy = make(jobs)
                outcome = simulate(jobs, policy, NUM_SERVERS)
                assert outcome.value_on_time <= bound, f"{policy.name} is above the bound at load {load}, seed {seed}"
                figures = table[load][policy.name]
                figures.shares.append(outcome.value_on_time / bound)
                figures.worst_wait_s.append(outcome.wait_s_worst[LOWEST])
                figures.outcomes.append(outcome)
    return table


def print_table(table: Table_, title: str) -> None:
    """Policies by loads."""
    shown = Table(title=title)
    shown.add_column("policy")
    for load in table:
        shown.add_column(f"load {load}", justify="right")
    shown.add_column("lowest tier's longest wait, s", justify="right")
    for name in next(iter(table.values())):
        cells = [f"{figures[name].share:.4f}" for figures in table.values()]
        waits = ", ".join(f"{max(figures[name].worst_wait_s):,.0f}" for figures in table.values())
        shown.add_row(name, *cells, waits)
    Console().print(shown)


def find_trace(path: Path | None) -> tuple[Trace, str]:
    """The trace asked for, the one beside the project, or one that is drawn; and what to call it.

    Raises:
        InvalidRequest: see `read_trace`.
    """
    if path is None and not (SHARED / TRACE).exists():
        return draw_trace(0), "drawn (no trace was given)"
    path = path or SHARED / TRACE
    return read_trace(path), path.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, done in under a minute")
    parser.add_argument("--trace", type=Path, help="a CSV with the columns TIMESTAMP,ContextTokens,GeneratedTokens")
    parser.add_argument("--seeds", type=int, help="how many seeds to take the mean of")
    options = parser.parse_args()
    num_seeds = options.seeds or (SEEDS_QUICK if options.quick else SEEDS_FULL)
    try:
        trace, name = find_trace(options.trace)
    except InvalidRequest as error:
        sys.exit(str(error))
    begun_s = time.perf_counter()
    table = run(trace, LOADS, range(1, num_seeds + 1))
    print_table(
        table, f"share of the offline bound; {len(trace.arrival_s):,} requests, {num_seeds} seeds, trace {name}"
    )
    print(msgspec.json.encode(to_json(table, trace, name, num_seeds, time.perf_counter() - begun_s)).decode())


def to_json(table: Table_, trace: Trace, name: str, num_seeds: int, seconds: float) -> dict[str, Any]:
    """The last line."""
    return {
        "loads": {str(load): {policy: f.share for policy, f in figures.items()} for load, figures in table.items()},
        "lowest_tier_worst_wait_s": {
            str(load): {policy: max(f.worst_wait_s) for policy, f in figures.items()} for load, figures in table.items()
        },
        "seeds": num_seeds,
        "num_requests": len(trace.arrival_s),
        "trace": name,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
