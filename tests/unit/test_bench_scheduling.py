"""The scheduling benchmark's world keeps its promises, its bound is one, and its baselines serve in their order."""

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.scheduling_bound import Work, cheapest, offline_bound, windows
from bench.scheduling_policies import (
    AGEING_S,
    BASELINES,
    Edf,
    Fifo,
    Ranked,
    StrictAgeing,
    StrictPriority,
    ValueDensity,
    ValueDensityHopeful,
)
from bench.scheduling_world import (
    HEADER,
    NUM_TENANTS,
    TIER_SHARES,
    VALUE_MEDIANS,
    Floats,
    Jobs,
    Trace,
    draw_jobs,
    read_trace,
    simulate,
)
from engine.errors import InvalidRequest

Make = Callable[[Jobs], Ranked]
Row = tuple[float, float, float, int, int]
ROWS = ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:47.6805900,396,109", "2023-11-16 18:15:49.1805900,0,1"]


def make_jobs(*rows: Row) -> Jobs:
    """Jobs of one tenant from rows of arrival, service, deadline, value and tier; predictions are exact."""
    arrival, service, deadline, value, tier = zip(*rows, strict=True)
    return Jobs(
        arrival_s=np.array(arrival, dtype=float),
        cost_s=np.array(service, dtype=float),
        service_s=np.array(service, dtype=float),
        deadline_s=np.array(deadline, dtype=float),
        value=np.array(value, dtype=np.int64),
        tier=np.array(tier, dtype=np.int64),
        tenant=np.zeros(len(rows), dtype=np.int64),
    )


def make_trace(num: int, seed: int = 1) -> Trace:
    """Requests that come in bursts, with tokens as long-tailed as those of a chat."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0, num) * rng.choice([0.2, 3.0], num))
    tokens = [rng.lognormal(mean, 1.0, num).astype(np.int64) for mean in (6.5, 4.8)]
    return Trace(arrival_s - arrival_s[0], tokens[0], tokens[1])


def write(folder: Path, *rows: str) -> Path:
    path = folder / "trace.csv"
    path.write_text("\n".join([HEADER, *rows]))
    return path


class Recorder:
    """Serves who came first, and writes down what it is told and asked."""

    name = "recorder"

    def __init__(self) -> None:
        self.told: list[tuple[str, int | None, float]] = []
        self.waiting: list[int] = []

    def submit(self, number: int, now_s: float) -> None:
        self.told.append(("submit", number, now_s))
        self.waiting.append(number)

    def claim(self, now_s: float) -> int | None:
        number = self.waiting.pop(0) if self.waiting else None
        self.told.append(("claim", number, now_s))
        return number

    def finished(self, number: int, now_s: float) -> None:
        self.told.append(("finished", number, now_s))


# The trace


def test_a_trace_is_read_in_seconds_since_its_first_request(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, *ROWS))
    assert trace.arrival_s.tolist() == [0.0, 1.0, 2.5]
    assert trace.context_tokens.tolist() == [374, 396, 0]
    assert trace.generated_tokens.tolist() == [44, 109, 1]


@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        ([ROWS[0], "2023-11-16 18:15:47,396"], 3, "2 fields"),
        ([ROWS[0], "", ROWS[1]], 3, "1 fields"),
        (["yesterday,1,1", ROWS[0]], 2, "yesterday"),
        ([ROWS[0], ",1,1"], 3, "no time"),
        ([ROWS[0], ROWS[1], "2023-11-16 18:15:48,1,some"], 4, "some"),
        ([ROWS[0], "2023-11-16 18:15:48,-1,5"], 3, "between 0 and"),
        ([ROWS[0], "2023-11-16 18:15:48,1,99999999999999999999"], 3, "between 0 and"),
        ([ROWS[0], ROWS[2], ROWS[1]], 4, "earlier than the one before"),
        ([ROWS[0]], 2, "fewer than two"),
        ([ROWS[0], ROWS[0]], 3, "same time"),
    ],
)
def test_a_bad_trace_is_refused_with_file_and_line(tmp_path: Path, rows: list[str], line: int, what: str) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(InvalidRequest) as caught:
        read_trace(path)
    assert caught.value.body.where == f"{path}:{line}"
    assert what in caught.value.body.what
    assert HEADER in caught.value.body.fix


def test_a_file_that_is_no_trace_or_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    with pytest.raises(InvalidRequest, match="No such file"):
        read_trace(path)
    for content in (b"", b"\xff\xfe\x00", b"time,tokens\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(InvalidRequest, match="header") as caught:
            read_trace(path)
        assert caught.value.body.where == f"{path}:1"


# The jobs


@pytest.mark.parametrize(("load", "num_servers"), [(0.7, 16), (1.0, 1), (1.8, 16), (0.01, 3)])
def test_the_load_is_what_was_asked_for(load: float, num_servers: int) -> None:
    jobs = draw_jobs(make_trace(500), 1, load, num_servers)
    span_s = jobs.arrival_s[-1] - jobs.arrival_s[0]
    assert jobs.service_s.sum() / (num_servers * span_s) == pytest.approx(load, rel=1e-12)


@pytest.mark.parametrize(("load", "num_servers"), [(0.0, 16), (-1.0, 16), (float("nan"), 16), (1.0, 0)])
def test_a_load_that_cannot_be_is_refused(load: float, num_servers: int) -> None:
    with pytest.raises(InvalidRequest, match="must be positive"):
        draw_jobs(make_trace(5), 1, load, num_servers)


def test_the_same_seed_draws_the_same_jobs_and_the_same_outcome_and_another_seed_others() -> None:
    trace = make_trace(300)
    first, again, other = (draw_jobs(trace, seed, 1.5, 4) for seed in (1, 1, 2))
    for name in Jobs.__struct_fields__:
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.value, other.value)
    outcomes = [simulate(jobs, ValueDensity(jobs), 4) for jobs in (first, again, other)]
    assert outcomes[0] == outcomes[1] != outcomes[2]


def test_every_load_has_the_same_jobs_with_the_same_slack() -> None:
    low, high = (draw_jobs(make_trace(300), 1, load) for load in (0.5, 2.0))
    for name in ("cost_s", "service_s", "value", "tier", "tenant"):
        assert np.array_equal(getattr(low, name), getattr(high, name)), name
    assert np.allclose(low.deadline_s - low.arrival_s, high.deadline_s - high.arrival_s)
    assert np.allclose(low.arrival_s, 4 * high.arrival_s)


def test_predictions_are_right_in_the_mean_but_not_exact() -> None:
    jobs = draw_jobs(make_trace(20_000), 1, 1.0)
    ratio = jobs.service_s / jobs.cost_s
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert 0.3 < ratio.std() < 0.45
    assert abs(np.corrcoef(ratio, jobs.cost_s)[0, 1]) < 0.03


def test_tiers_values_deadlines_and_tenants_are_drawn_as_documented() -> None:
    trace = make_trace(20_000)
    jobs = draw_jobs(trace, 1, 1.0)
    slack_s = jobs.deadline_s - jobs.arrival_s - jobs.cost_s
    for tier, (share, median) in enumerate(zip(TIER_SHARES, VALUE_MEDIANS, strict=True)):
        ours = jobs.tier == tier
        assert ours.mean() == pytest.approx(share, abs=0.02)
        assert np.median(jobs.value[ours]) == pytest.approx(median, rel=0.2)
        tokens = (trace.context_tokens + trace.generated_tokens)[ours]
        assert 0.1 < np.corrcoef(np.log(tokens), np.log(jobs.value[ours]))[0, 1] < 0.7
    worst = [slack_s[jobs.tier == tier].max() for tier in range(4)]
    assert worst == sorted(worst)
    assert slack_s.min() >= 0.99 * jobs.cost_s.mean()
    counts = np.bincount(jobs.tenant, minlength=NUM_TENANTS)
    assert len(counts) == NUM_TENANTS
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)
    assert (jobs.value >= 1).all()


# The servers


def test_at_one_moment_the_ended_are_told_then_the_arrivals_then_claims_are_made() -> None:
    recorder = Recorder()
    simulate(make_jobs((0, 2, 9, 1, 0), (2, 1, 9, 1, 0), (2, 1, 9, 1, 0)), recorder, 1)
    assert recorder.told == [
        ("submit", 0, 0.0),
        ("claim", 0, 0.0),
        ("finished", 0, 2.0),
        ("submit", 1, 2.0),
        ("submit", 2, 2.0),
        ("claim", 1, 2.0),
        ("finished", 1, 3.0),
        ("claim", 2, 3.0),
        ("finished", 2, 4.0),
        ("claim", None, 4.0),
    ]


def test_the_outcome_counts_what_ended_by_its_deadline_and_how_long_it_waited() -> None:
    jobs = make_jobs(
        (0, 4, 4, 100, 0),  # at once, and ends exactly at its deadline
        (0, 2, 9, 10, 1),  # waits 4, on time
        (1, 2, 7.5, 1000, 1),  # waits 5, ends at 8: late
        (1, 9, 50, 1, 3),  # waits 7, on time
    )
    outcome = simulate(jobs, Recorder(), 1)
    assert outcome.value_on_time == 111
    assert outcome.num_on_time == (1, 1, 0, 1)
    assert outcome.num_never_served == (0, 0, 0, 0)
    assert outcome.wait_s_worst == (0.0, 5.0, 0.0, 7.0)
    assert outcome.wait_s_p99 == pytest.approx((0.0, 4.99, 0.0, 7.0))


def test_as_many_jobs_run_at_once_as_there_are_servers() -> None:
    rows: list[Row] = [(0, 3, 3, 1, 0)] * 5
    for num_servers in (1, 2, 5, 7):
        outcome = simulate(make_jobs(*rows), Fifo(make_jobs(*rows)), num_servers)
        assert outcome.num_on_time == (min(num_servers, 5), 0, 0, 0)


def test_nothing_is_begun_after_the_last_deadline_but_what_runs_then_is_told_when_it_ends() -> None:
    recorder = Recorder()
    outcome = simulate(make_jobs((0, 100, 10, 1, 2), (1, 1, 5, 1, 2)), recorder, 1)
    assert outcome.num_never_served == (0, 0, 1, 0)
    assert recorder.told[-1] == ("finished", 0, 100.0)


def test_a_policy_that_keeps_a_server_idle_is_asked_again_at_the_next_event() -> None:
    class Patient(Recorder):
        def claim(self, now_s: float) -> int | None:
            return super().claim(now_s) if now_s >= 3 else None

    patient = Patient()
    outcome = simulate(make_jobs((0, 1, 9, 1, 0), (3, 1, 9, 1, 0)), patient, 2)
    assert outcome.wait_s_worst[0] == 3.0
    assert outcome.num_on_time[0] == 2


@pytest.mark.parametrize(("number", "what"), [(1, "before it arrived"), (0, "twice")])
def test_a_claim_that_cannot_be_is_caught(number: int, what: str) -> None:
    class Wrong(Recorder):
        def claim(self, now_s: float) -> int | None:
            return number

    with pytest.raises(AssertionError, match=what):
        simulate(make_jobs((0, 1, 9, 1, 0), (3, 1, 9, 1, 0)), Wrong(), 2)


# The baselines


def order(make: Make, jobs: Jobs, now_s: float = 0.0) -> list[int]:
    """How a policy serves jobs that are all there at that moment."""
    policy = make(jobs)
    for number in range(len(jobs)):
        policy.submit(number, now_s)
    return list(iter(lambda: policy.claim(now_s), None))


MIXED = make_jobs((0, 2, 90, 10, 2), (1, 1, 50, 40, 1), (2, 8, 60, 80, 0), (3, 4, 40, 4, 1))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (Fifo, [0, 1, 2, 3]),
        (StrictPriority, [2, 1, 3, 0]),
        (Edf, [3, 1, 2, 0]),
        (ValueDensity, [1, 2, 0, 3]),
        (ValueDensityHopeful, [1, 2, 0, 3]),
    ],
)
def test_each_baseline_serves_in_its_own_order(make: Make, wanted: list[int]) -> None:
    assert order(make, MIXED, 3.0) == wanted


def test_ageing_raises_a_request_by_one_tier_for_each_age_that_it_waited() -> None:
    late = 1e6
    jobs = make_jobs((0, 1, late, 1, 2), (AGEING_S - 1, 1, late, 1, 1), (AGEING_S + 1, 1, late, 1, 1))
    assert order(StrictAgeing, jobs, AGEING_S + 1) == [1, 0, 2]
    jobs = make_jobs((0, 1, late, 1, 3), (3 * AGEING_S - 1, 1, late, 1, 0), (3 * AGEING_S + 1, 1, late, 1, 0))
    assert order(StrictAgeing, jobs, 3 * AGEING_S + 1) == [1, 0, 2]


def test_every_baseline_drops_what_is_past_its_deadline_and_some_what_would_be_late() -> None:
    jobs = make_jobs((0, 1, 4, 1, 0), (0, 1, 5.5, 1, 0), (0, 1, 6, 1, 0), (0, 9, 30, 1, 0))
    for make in BASELINES:
        wanted = [2, 3] if make in (Edf, ValueDensity) else [1, 2, 3]
        assert sorted(order(make, jobs, 5.0)) == wanted, make.name


@pytest.mark.parametrize("make", BASELINES)
def test_no_baseline_looks_at_how_long_a_job_really_takes(make: Make) -> None:
    jobs = draw_jobs(make_trace(200), 1, 2.0, 2)
    blind = make(msgspec.structs.replace(jobs, service_s=np.full(len(jobs), np.nan)))
    assert simulate(jobs, blind, 2) == simulate(jobs, make(jobs), 2)


def test_the_baselines_have_names_of_their_own() -> None:
    assert len({make.name for make in BASELINES}) == len(BASELINES) == 6


# The bound


def best_value(jobs: Jobs, num_servers: int) -> int:
    """The best that any schedule achieves, by trying all. Take the jobs of the best in order of their start, each on
    the server that is free first: none starts later than in the best, so trying every order is enough."""
    arrival, service, deadline, value = (
        array.tolist() for array in (jobs.arrival_s, jobs.service_s, jobs.deadline_s, jobs.value)
    )

    def best(free_s: tuple[float, ...], rest: frozenset[int]) -> int:
        most = 0
        for number in rest:
            end_s = max(free_s[0], arrival[number]) + service[number]
            if end_s <= deadline[number]:
                then = best(tuple(sorted((end_s, *free_s[1:]))), rest - {number})
                most = max(most, value[number] + then)
        return most

    return best((0.0,) * num_servers, frozenset(range(len(jobs))))


def small(seed: int) -> Jobs:
    """Six jobs that get into each other's way, some of them hopeless; half of the times are whole numbers."""
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.uniform(0, 6, 6))
    service, slack = rng.uniform(0.5, 4, 6), rng.uniform(-0.3, 5, 6)
    if seed % 2:
        arrival, service, slack = np.floor(arrival), np.ceil(service), np.round(slack)
    deadline = np.maximum(arrival + service + slack, arrival)
    value = rng.integers(1, 100, 6)
    return make_jobs(*zip(arrival, service, deadline, value.tolist(), [0] * 6, strict=True))


@pytest.mark.parametrize(("num_servers", "num_intervals"), [(1, 1), (1, 8), (1, 64), (2, 4), (2, 64), (3, 16)])
def test_the_bound_is_never_below_the_best_of_all_schedules_and_not_far_above(
    num_servers: int, num_intervals: int
) -> None:
    bounds, bests = [], []
    for seed in range(30):
        jobs = small(seed)
        bests.append(best_value(jobs, num_servers))
        bounds.append(offline_bound(jobs, num_servers, num_intervals))
        assert bounds[-1] >= bests[-1], f"seed {seed}"
        able = jobs.arrival_s + jobs.service_s <= jobs.deadline_s
        assert bounds[-1] <= jobs.value[able].sum() * (1 + 1e-6), f"seed {seed}"
    if num_intervals == 64:
        assert sum(bounds) < 1.15 * sum(bests)


def test_the_bound_sees_that_a_server_does_one_thing_at_a_time() -> None:
    both = make_jobs((0, 1, 1, 10, 0), (0, 1, 1, 7, 0))
    assert offline_bound(both, 1) == pytest.approx(10)
    assert offline_bound(both, 2) == pytest.approx(17)
    assert offline_bound(make_jobs((0, 2, 1, 10, 0)), 5) == 0


def random_work(seed: int) -> Work:
    jobs = small(seed)
    able = jobs.arrival_s + jobs.service_s <= jobs.deadline_s
    return Work(jobs.arrival_s[able], jobs.deadline_s[able], jobs.service_s[able], jobs.value[able].astype(float))


@pytest.mark.parametrize("scale", [0.0, 3.0, 30.0, 300.0])
def test_whatever_the_prices_the_bound_holds(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)

    def guess(work: Work, num_servers: int, edges_s: Floats) -> Floats:
        return rng.exponential(scale, len(edges_s) - 1) * rng.integers(0, 2, len(edges_s) - 1)

    monkeypatch.setattr("bench.scheduling_bound.find_prices", guess)
    for seed in range(30):
        assert offline_bound(small(seed), 2, 16) >= best_value(small(seed), 2), f"seed {seed}"


def test_the_cheapest_place_of_a_job_is_one_piece_and_found_wherever_it_begins() -> None:
    for seed in range(30):
        work, rng = random_work(seed), np.random.default_rng(seed)
        edges_s = np.linspace(0, work.deadline_s.max(), 17)
        paid = np.concatenate([[0.0], np.cumsum(rng.exponential(1.0, 16) * np.diff(edges_s))])
        starts_s = np.linspace(work.arrival_s, work.deadline_s - work.service_s, 2001)
        tried = np.interp(starts_s + work.service_s, edges_s, paid) - np.interp(starts_s, edges_s, paid)
        assert np.allclose(cheapest(work, edges_s, paid), tried.min(axis=0), atol=0.02), f"seed {seed}"
        assert (cheapest(work, edges_s, paid) <= tried.min(axis=0) + 1e-12).all(), f"seed {seed}"


def test_the_nodes_of_a_job_make_up_each_interval_of_its_window_once() -> None:
    for seed in range(30):
        work = random_work(seed)
        edges_s = np.linspace(0, work.deadline_s.max(), 17)
        covered = np.zeros((len(work.value), 16), dtype=int)
        for job, node in zip(*windows(work, edges_s), strict=True):
            depth = int(node).bit_length() - 1
            first = (node - 2**depth) * 16 // 2**depth
            covered[job, first : first + 16 // 2**depth] += 1
        wanted = (edges_s[:-1] < work.deadline_s[:, None]) & (edges_s[1:] > work.arrival_s[:, None])
        assert np.array_equal(covered, wanted), f"seed {seed}"


def test_no_baseline_exceeds_the_bound_and_at_a_high_load_those_that_know_values_come_closest() -> None:
    for load, seed in itertools.product((0.7, 3.0), (1, 2)):
        jobs = draw_jobs(make_trace(2000, seed), seed, load, 4)
        bound = offline_bound(jobs, 4, 256)
        shares = {make.name: simulate(jobs, make(jobs), 4).value_on_time / bound for make in BASELINES}
        assert max(shares.values()) <= 1, f"load {load}, seed {seed}"
        if load < 1:
            assert max(shares.values()) > 0.95, f"seed {seed}"
        else:
            assert shares["value_density"] > 1.1 * max(shares["fifo"], shares["edf"]), f"seed {seed}"
