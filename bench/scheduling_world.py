"""The world of the scheduling benchmark: an hour of a production trace, and servers on a virtual clock.

The trace says when requests came and how many tokens each had. What a request is worth, how urgent it is, whose it is
and how far its length was from what one expects, no public trace says: that is drawn, from the seed alone.

    tokens    the trace's number of generated tokens is taken for what a predictor expects; see `NOISE_SIGMA`
    cost_s    the prediction: linear in the tokens of the context and the generated ones
    service_s what it really takes: the prediction times lognormal noise with mean 1, which no policy may look at
    tier      0 priority, 1 standard, 2 flex, 3 batch, independent of the tokens (`TIER_SHARES`)
    value     lognormal around the tier's median, and mildly more for more tokens
    deadline  arrival, cost and a slack: log-uniform between two bounds of the tier, in mean costs
    tenant    Zipf over 50

The load sets only the speed of the clock on which requests come: at every load it is the same jobs.

A policy is asked for a job whenever a server is free and something has happened (an arrival or an end); one that keeps
a server idle on purpose is asked again at the next event. A job that was begun runs to its end.
"""

import heapq
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidRequest

NUM_SERVERS = 16
NUM_TIERS = 4
NUM_TENANTS = 50
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
TOKENS_MAX = 10_000_000

# Assumed, not measured: of the order of a chat model of 70 billion parameters on one machine of eight accelerators.
COST_BASE_S = 0.05
COST_CONTEXT_S = 0.000_2
COST_GENERATED_S = 0.02

NOISE_SIGMA = 0.35
"""Of the logarithm of actual by predicted seconds: a standard deviation of 36% around an honest mean."""
TIER_SHARES = (0.10, 0.50, 0.25, 0.15)
VALUE_MEDIANS = (40_000, 10_000, 3_000, 1_000)
VALUE_SIGMA = 0.6
VALUE_TOKENS_EXPONENT = 0.25
"""A request of sixteen times the mean number of tokens is worth twice as much, so less per second."""
SLACKS = ((1.0, 4.0), (4.0, 15.0), (30.0, 120.0), (200.0, 900.0))
"""In mean costs, which are about four and a half seconds: priority 5 to 18 s, standard 18 to 70 s, flex 2 to 9 minutes,
batch 15 to 70 minutes."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Trace(msgspec.Struct, frozen=True):
    """Requests in order of arrival, one an index; seconds since the first."""

    arrival_s: Floats
    context_tokens: Ints
    generated_tokens: Ints


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in order of arrival, one an index. A policy may look at everything but `service_s`."""

    arrival_s: Floats
    cost_s: Floats
    service_s: Floats
    deadline_s: Floats
    value: Ints
    tier: Ints
    tenant: Ints

    def __len__(self) -> int:
        return len(self.arrival_s)


class Policy(Protocol):
    """What the servers ask. A job is its index in `Jobs`."""

    name: str

    def submit(self, number: int, now_s: float) -> None:
        """A job has arrived."""

    def claim(self, now_s: float) -> int | None:
        """The job for a free server, each at most once; None to leave it idle until the next event."""

    def finished(self, number: int, now_s: float) -> None:
        """A job that was claimed has ended: where a policy learns how long it really took."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy achieved. Tuples have one number a tier; waits are from arrival to claim, of the jobs served, and
    0 where none was."""

    value_on_time: int
    num_on_time: tuple[int, ...]
    num_never_served: tuple[int, ...]
    wait_s_p99: tuple[float, ...]
    wait_s_worst: tuple[float, ...]


def read_trace(path: Path) -> Trace:
    """Read a trace in the columns of the Azure LLM inference trace of 2023.

    Raises:
        InvalidRequest: the file cannot be read or a line is not as it should be; `where` is file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise bad_trace(f"the trace cannot be read ({error.strerror})", str(path)) from error
    if not lines or lines[0].strip() != HEADER:
        raise bad_trace("the first line is not the header of the trace", f"{path}:1")
    rows = [read_row(line, f"{path}:{number}") for number, line in enumerate(lines[1:], start=2)]
    if len(rows) < 2:
        raise bad_trace("there are fewer than two requests", f"{path}:{len(lines)}")
    stamps = np.array([row[0] for row in rows])
    steps = np.diff(stamps)
    if np.any(steps < np.timedelta64(0)):
        raise bad_trace("a request is earlier than the one before", f"{path}:{3 + int(np.argmin(steps >= 0))}")
    if stamps[-1] == stamps[0]:
        raise bad_trace("all requests came at the same time", f"{path}:{len(lines)}")
    return Trace(
        (stamps - stamps[0]) / np.timedelta64(1, "s"),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
    )


def draw_trace(seed: int, num_requests: int = 20_000) -> Trace:
    """A trace for who has none: an hour of arrivals that are dense in the middle, tokens lognormal, much as in the
    real one (whose means are 1,155 and 211)."""
    rng = np.random.default_rng(seed)
    arrival_s = np.sort(rng.uniform(0.0, 3600.0, num_requests) + 300.0 * rng.standard_normal(num_requests))
    context = np.clip(rng.lognormal(6.6, 0.95, num_requests), 1, 8_000).astype(np.int64)
    generated = np.clip(rng.lognormal(5.0, 0.8, num_requests), 1, 1_500).astype(np.int64)
    return Trace(arrival_s - arrival_s[0], context, generated)


def read_row(line: str, where: str) -> tuple[np.datetime64, int, int]:
    """Time, tokens of the context, generated tokens."""
    fields = line.strip().split(",")
    if len(fields) != 3:
        raise bad_trace(f"{len(fields)} fields where three should be", where)
    try:
        stamp, context, generated = np.datetime64(fields[0], "ns"), int(fields[1]), int(fields[2])
    except ValueError as error:
        raise bad_trace(str(error), where) from error
    if np.isnat(stamp):
        raise bad_trace("there is no time", where)
    if not (0 <= context <= TOKENS_MAX and 0 <= generated <= TOKENS_MAX):
        raise bad_trace(f"a number of tokens is not between 0 and {TOKENS_MAX:,}", where)
    return stamp, context, generated


def bad_trace(what: str, where: str) -> InvalidRequest:
    """The one error of a trace."""
    return InvalidRequest(
        what,
        where=where,
        fix=f"Name a file with a line {HEADER} and then a request a line, in order of time, as in the Azure LLM "
        "inference trace of 2023.",
    )


def draw_jobs(trace: Trace, seed: int, load: float, num_servers: int = NUM_SERVERS) -> Jobs:
    """The trace's requests with what it does not say, on a clock at which they are so much work for so many servers.

    Args:
        load: seconds of service, over servers times seconds from the first arrival to the last.
    Raises:
        InvalidRequest: the load or the number of servers is not positive.
    """
    if not (0 < load < np.inf and num_servers >= 1):
        raise InvalidRequest(
            f"a load of {load} on {num_servers} servers cannot be", where="draw_jobs", fix="Both must be positive."
        )
    rng, num = np.random.default_rng(seed), len(trace.arrival_s)
    cost_s = COST_BASE_S + COST_CONTEXT_S * trace.context_tokens + COST_GENERATED_S * trace.generated_tokens
    service_s = cost_s * rng.lognormal(-(NOISE_SIGMA**2) / 2, NOISE_SIGMA, num)
    tier = rng.choice(NUM_TIERS, num, p=TIER_SHARES)
    low, high = np.log(SLACKS).T
    slack_s = cost_s.mean() * np.exp(rng.uniform(low[tier], high[tier]))
    weights = 1.0 / np.arange(1, NUM_TENANTS + 1)
    tenant = rng.choice(NUM_TENANTS, num, p=weights / weights.sum())
    arrival_s = trace.arrival_s * (service_s.sum() / (load * num_servers * trace.arrival_s[-1]))
    return Jobs(
        arrival_s=arrival_s,
        cost_s=cost_s,
        service_s=service_s,
        deadline_s=arrival_s + cost_s + slack_s,
        value=draw_values(trace, tier, rng),
        tier=tier,
        tenant=tenant,
    )


def draw_values(trace: Trace, tier: Ints, rng: np.random.Generator) -> Ints:
    """Micro-units, at least one."""
    tokens = np.maximum(trace.context_tokens + trace.generated_tokens, 1)
    size = (tokens / tokens.mean()) ** VALUE_TOKENS_EXPONENT
    value = np.array(VALUE_MEDIANS)[tier] * size * rng.lognormal(0.0, VALUE_SIGMA, len(tier))
    return np.maximum(np.rint(value), 1).astype(np.int64)


def simulate(jobs: Jobs, policy: Policy, num_servers: int) -> Outcome:
    """Run the jobs through a policy on equal servers; what was begun is not interrupted.

    At one moment the ended are told first, then the arrivals, then claims are made. It goes on after the last arrival
    until nothing runs, and nothing is begun after the last deadline. A job ends on time if it ends by its deadline.

    Cost: O(n log k) and what the policy takes; deterministic.
    """
    arrivals, services = jobs.arrival_s.tolist(), jobs.service_s.tolist()
    assert arrivals == sorted(arrivals), "jobs are in order of arrival"
    last_s = float(jobs.deadline_s.max())
    claimed_s = np.full(len(jobs), np.nan)
    running: list[tuple[float, int]] = []
    num_arrived = 0
    while running or num_arrived < len(jobs):
        now_s = min(running[0][0] if running else np.inf, arrivals[num_arrived] if num_arrived < len(jobs) else np.inf)
        while running and running[0][0] <= now_s:
            policy.finished(heapq.heappop(running)[1], now_s)
        while num_arrived < len(jobs) and arrivals[num_arrived] <= now_s:
            policy.submit(num_arrived, now_s)
            num_arrived += 1
        while now_s <= last_s and len(running) < num_servers and (number := policy.claim(now_s)) is not None:
            assert 0 <= number < num_arrived, f"job {number} was claimed before it arrived"
            assert np.isnan(claimed_s[number]), f"job {number} was claimed twice"
            claimed_s[number] = now_s
            heapq.heappush(running, (now_s + services[number], number))
    return account(jobs, claimed_s)


def account(jobs: Jobs, claimed_s: Floats) -> Outcome:
    """The outcome of claims at these times, nan where there was none."""
    served = ~np.isnan(claimed_s)
    on_time = served & (claimed_s + jobs.service_s <= jobs.deadline_s)
    waits = [(claimed_s - jobs.arrival_s)[served & (jobs.tier == tier)] for tier in range(NUM_TIERS)]
    return Outcome(
        value_on_time=int(jobs.value[on_time].sum()),
        num_on_time=tuple(np.bincount(jobs.tier[on_time], minlength=NUM_TIERS).tolist()),
        num_never_served=tuple(np.bincount(jobs.tier[~served], minlength=NUM_TIERS).tolist()),
        wait_s_p99=tuple(float(np.percentile(wait, 99)) if len(wait) else 0.0 for wait in waits),
        wait_s_worst=tuple(float(wait.max(initial=0.0)) for wait in waits),
    )
