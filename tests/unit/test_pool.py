"""The pool: the best first, claimed at the last moment, held by one worker, and never lost."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest
import virtual_time
from briefs import attempt, draft
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from virtual_time import VirtualLoop, settle

from engine.errors import Unavailable
from engine.generators.contract import Draft, ModelInfo
from engine.pool import DEATHS_MAX, HEAP_SLACK, Inbox, Pool

LEASE_S = 10.0


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> Pool:
    return Pool(lease_s=LEASE_S, now_s=clock)


async def queue(pool: Pool, name: str, *, priority: int = 1, deadline_ms: int = 1000) -> "asyncio.Task[Draft]":
    """Somebody who waits for an attempt's draft."""
    task = asyncio.ensure_future(pool.generate(attempt(name, priority=priority), deadline_ms))
    await settle()
    return task


async def pull(pool: Pool, worker: str, capacity: int = 8) -> Inbox:
    return await pool.pull(worker, capacity, 0)


def names(inbox: Inbox) -> list[str]:
    return [each.attempt_id for each in inbox.attempts]


async def test_priority_goes_before_deadline_and_deadline_before_arrival(pool: Pool) -> None:
    await queue(pool, "batch", priority=3, deadline_ms=1)
    await queue(pool, "late", deadline_ms=3000)
    await queue(pool, "first", deadline_ms=2000)
    await queue(pool, "second", deadline_ms=2000)
    await queue(pool, "urgent", priority=0, deadline_ms=9000)
    assert names(await pull(pool, "w")) == ["urgent", "first", "second", "late", "batch"]


async def test_a_later_and_more_urgent_attempt_overtakes_whatever_is_not_yet_claimed(pool: Pool) -> None:
    await queue(pool, "running")
    await queue(pool, "waiting")
    assert names(await pull(pool, "w", 1)) == ["running"]
    await queue(pool, "urgent", priority=0)
    pool.complete("w", [draft("running")])
    assert names(await pull(pool, "w", 1)) == ["urgent"]


async def test_a_worker_never_holds_more_than_its_capacity(pool: Pool) -> None:
    for number in range(5):
        await queue(pool, f"a{number}")
    assert len(names(await pull(pool, "w", 2))) == 2
    assert names(await pull(pool, "w", 2)) == []
    pool.complete("w", [draft("a0")])
    await settle()
    assert names(await pull(pool, "w", 2)) == ["a2"]
    assert pool.num_waiting == 2


async def test_a_draft_reaches_the_one_who_waits_for_it(pool: Pool) -> None:
    one, other = await queue(pool, "one"), await queue(pool, "other")
    await pull(pool, "w")
    pool.complete("w", [draft("other", "of the other"), draft("one", "of the one")])
    assert ((await one).text, (await other).text) == ("of the one", "of the other")
    assert pool.num_waiting == 0


async def test_an_attempt_stopped_while_it_waits_is_never_claimed(pool: Pool) -> None:
    gone = await queue(pool, "gone")
    gone.cancel()
    await settle()
    assert pool.num_waiting == 0
    assert await pull(pool, "w") == Inbox()


async def test_the_worker_of_a_stopped_attempt_is_told_once_and_its_draft_is_dropped(pool: Pool) -> None:
    gone = await queue(pool, "gone")
    await pull(pool, "w", 1)
    gone.cancel()
    await settle()
    await queue(pool, "next")
    inbox = await pull(pool, "w", 1)
    assert (inbox.aborts, names(inbox)) == (("gone",), ["next"])
    pool.complete("w", [draft("gone")])
    assert (await pull(pool, "w", 1)).aborts == ()
    assert gone.cancelled()


async def test_what_a_leaving_worker_held_goes_back_to_its_old_place(pool: Pool) -> None:
    for name in ("a", "b", "c"):
        await queue(pool, name)
    assert names(await pull(pool, "w", 2)) == ["a", "b"]
    pool.leave("w")
    assert names(await pull(pool, "v")) == ["a", "b", "c"]


async def test_a_worker_not_heard_of_for_the_lease_loses_its_claims_to_another(pool: Pool, clock: Clock) -> None:
    waiter = await queue(pool, "a")
    await pull(pool, "dead")
    clock.now_s = LEASE_S
    assert pool.expire() == []
    clock.now_s = LEASE_S + 0.1
    assert names(await pull(pool, "alive")) == ["a"]
    assert list(pool.workers) == ["alive"]
    pool.complete("alive", [draft("a", "by the living")])
    assert (await waiter).text == "by the living"


async def test_every_pull_and_every_hand_in_renews_the_lease(pool: Pool, clock: Clock) -> None:
    await queue(pool, "a")
    await pull(pool, "w")
    for act in ("pull", "complete", "pull"):
        clock.now_s += LEASE_S
        if act == "pull":
            await pull(pool, "w")
        else:
            pool.complete("w", [])
        assert pool.expire() == []
    assert list(pool.workers["w"].claims) == ["a"]


async def test_a_late_draft_of_a_worker_taken_for_dead_is_dropped(pool: Pool, clock: Clock) -> None:
    waiter = await queue(pool, "a")
    await pull(pool, "dead")
    clock.now_s = LEASE_S + 1
    await pull(pool, "alive")
    pool.complete("dead", [draft("a", "too late")])
    await settle()
    assert not waiter.done()
    pool.complete("alive", [draft("a", "in time")])
    assert (await waiter).text == "in time"


async def test_a_second_draft_of_one_attempt_is_dropped(pool: Pool) -> None:
    waiter = await queue(pool, "a")
    await pull(pool, "w")
    pool.complete("w", [draft("a", "first"), draft("a", "second")])
    assert (await waiter).text == "first"


def test_a_worker_taken_for_dead_while_it_waits_in_a_pull_claims_under_a_new_lease_with_its_next() -> None:
    async def scenario() -> Draft:
        pool = Pool(lease_s=LEASE_S, now_s=virtual_time.now_s)
        pulling = asyncio.ensure_future(pool.pull("w", 8, 60))
        await asyncio.sleep(LEASE_S + 1)
        assert pool.expire() == ["w"]
        waiter = await queue(pool, "a")
        assert await pulling == Inbox()
        assert names(await pool.pull("w", 8, 60)) == ["a"]
        assert list(pool.workers["w"].claims) == ["a"]
        pool.complete("w", [draft("a")])
        return await waiter

    assert virtual_time.run(scenario()).attempt_id == "a"


def die(pool: Pool, clock: Clock, *workers: str) -> None:
    """Time passes in which every worker but these is heard of."""
    clock.now_s += LEASE_S + 1
    for worker_id, worker in pool.workers.items():
        if worker_id not in workers:
            worker.seen_s = clock.now_s
    assert set(pool.expire()) == set(workers)


async def test_an_attempt_whose_workers_keep_dying_ends_as_unavailable(pool: Pool, clock: Clock) -> None:
    waiter = await queue(pool, "murderer")
    for number in range(DEATHS_MAX):
        assert not waiter.done()
        assert names(await pull(pool, f"w{number}")) == ["murderer"]
        die(pool, clock, f"w{number}")
        await settle()
    with pytest.raises(Unavailable, match=f"{DEATHS_MAX} generators died"):
        await waiter
    assert await pull(pool, "w") == Inbox()


async def test_of_a_batch_whose_workers_keep_dying_only_the_culprit_fails(pool: Pool, clock: Clock) -> None:
    waiters = {name: await queue(pool, name) for name in ("a", "b", "culprit", "c", "d")}
    num_deaths = 0
    while not all(waiter.done() for waiter in waiters.values()):
        claimed = names(await pull(pool, f"w{num_deaths}"))
        if "culprit" in claimed:
            die(pool, clock, f"w{num_deaths}")
            num_deaths += 1
        else:
            pool.complete(f"w{num_deaths}", [draft(name) for name in claimed])
        await settle()
    assert num_deaths == DEATHS_MAX
    with pytest.raises(Unavailable):
        waiters.pop("culprit").result()
    assert {name: waiter.result().attempt_id for name, waiter in waiters.items()} == {name: name for name in "abcd"}


async def test_a_last_chance_waits_for_a_worker_with_nothing_else_and_holds_up_what_comes_after_it(
    pool: Pool, clock: Clock
) -> None:
    await queue(pool, "suspect")
    for number in range(DEATHS_MAX - 1):
        assert names(await pull(pool, f"w{number}")) == ["suspect"]
        await queue(pool, f"urgent{number}", priority=0)
        assert names(await pull(pool, "busy")) == [f"urgent{number}"]
        die(pool, clock, f"w{number}")
    await queue(pool, "later")
    assert names(await pull(pool, "busy")) == []
    pool.complete("busy", [draft("urgent0"), draft("urgent1")])
    assert names(await pull(pool, "busy")) == ["suspect"]
    await queue(pool, "urgent", priority=0)
    assert names(await pull(pool, "busy")) == []
    assert names(await pull(pool, "other")) == ["urgent", "later"]
    pool.complete("busy", [draft("suspect")])
    await queue(pool, "last")
    assert names(await pull(pool, "busy")) == ["last"]


async def test_leaving_in_good_order_is_no_death(pool: Pool) -> None:
    waiter = await queue(pool, "a")
    for number in range(2 * DEATHS_MAX):
        assert names(await pull(pool, f"w{number}")) == ["a"]
        pool.leave(f"w{number}")
    await queue(pool, "b")
    assert names(await pull(pool, "w")) == ["a", "b"]
    assert not waiter.done()


async def test_a_pull_whose_answer_was_lost_brings_it_again(pool: Pool) -> None:
    await queue(pool, "a")
    first = await pool.pull("w", 8, 0, 1)
    await queue(pool, "b")
    assert names(first) == ["a"]
    assert await pool.pull("w", 8, 0, 1) == first
    assert names(await pool.pull("w", 8, 0, 2)) == ["b"]


@pytest.mark.parametrize("number", [1, 2, None])
async def test_of_two_pulls_that_overlap_only_the_newer_one_claims(pool: Pool, number: int | None) -> None:
    old = asyncio.ensure_future(pool.pull("w", 8, 60, number and 1))
    await settle()
    new = asyncio.ensure_future(pool.pull("w", 8, 60, number))
    await settle()
    await queue(pool, "a")
    assert (await old, names(await new)) == (Inbox(), ["a"])
    if number is not None:
        assert names(await pool.pull("w", 8, 60, number)) == ["a"]


async def test_a_pull_that_waits_when_its_worker_leaves_ends_at_once_and_claims_nothing(pool: Pool) -> None:
    pulling = asyncio.ensure_future(pool.pull("w", 8, 60))
    await settle()
    pool.leave("w")
    waiter = await queue(pool, "a")
    assert await pulling == Inbox()
    assert (pool.workers, pool.num_waiting) == ({}, 1)
    waiter.cancel()


async def test_attempts_that_nobody_waits_for_do_not_pile_up_while_no_worker_comes(pool: Pool) -> None:
    kept = await queue(pool, "kept")
    for number in range(10 * HEAP_SLACK):
        gone = await queue(pool, f"gone{number}")
        gone.cancel()
        await settle()
        assert len(pool.heap) <= 2 + 2 * 2 + HEAP_SLACK
    assert names(await pull(pool, "w")) == ["kept"]
    assert not kept.done()


def test_a_waiting_pull_wakes_at_once_for_work() -> None:
    async def scenario() -> tuple[float, list[str]]:
        pool = Pool(lease_s=LEASE_S, now_s=virtual_time.now_s)
        asyncio.get_running_loop().call_later(3, lambda: asyncio.ensure_future(pool.generate(attempt("a"), 1000)))
        inbox = await pool.pull("w", 1, 60)
        return virtual_time.now_s(), names(inbox)

    assert virtual_time.run(scenario()) == (3, ["a"])


def test_a_waiting_pull_wakes_at_once_to_stop_an_attempt() -> None:
    async def scenario() -> tuple[float, Inbox]:
        pool = Pool(lease_s=LEASE_S, now_s=virtual_time.now_s)
        waiter = await queue(pool, "a")
        await pool.pull("w", 1, 60)
        asyncio.get_running_loop().call_later(3, waiter.cancel)
        inbox = await pool.pull("w", 1, 60)
        return virtual_time.now_s(), inbox

    assert virtual_time.run(scenario()) == (3, Inbox(aborts=("a",)))


@pytest.mark.parametrize("num_turns", range(4))
async def test_a_cancelled_pull_never_goes_on_however_late_after_its_wake_it_is_cancelled(
    pool: Pool, num_turns: int
) -> None:
    pulling = asyncio.ensure_future(pool.pull("w", 1, 60))
    await settle()
    pool.workers["w"].wake.set()
    await settle(num_turns)
    was_done = pulling.done()
    pulling.cancel()
    await settle()
    assert pulling.cancelled() != was_done
    await queue(pool, "a")
    assert names(await pull(pool, "v")) == ["a"]


def test_a_pull_that_finds_nothing_comes_back_empty_after_its_wait() -> None:
    async def scenario() -> tuple[Inbox, float]:
        pool = Pool(lease_s=LEASE_S, now_s=virtual_time.now_s)
        return await pool.pull("w", 1, 7), virtual_time.now_s()

    assert virtual_time.run(scenario()) == (Inbox(), 7)


class PoolMachine(RuleBasedStateMachine):
    """Clients come and leave, workers pull, hand in, stall and die, in any order.

    Each worker signs its drafts, so that the machine knows whose draft an attempt got.
    """

    @initialize()
    def begin(self) -> None:
        self.loop = VirtualLoop()
        self.clock = Clock()
        self.pool = Pool(lease_s=LEASE_S, now_s=self.clock)
        self.waiters: dict[str, asyncio.Task[Draft]] = {}
        self.believes: dict[str, set[str]] = {}
        self.keys: dict[str, tuple[int, int, int]] = {}
        self.delivered: dict[str, str] = {}
        self.deaths: dict[str, int] = {}

    def settle(self) -> None:
        self.loop.run_until_complete(settle(5))

    def waiting(self) -> Iterator[str]:
        held = self.held()
        return (name for name, waiter in self.waiters.items() if not waiter.done() and name not in held)

    def held(self) -> dict[str, str]:
        """Attempt -> worker, as the pool has it."""
        pairs = [(name, worker_id) for worker_id, worker in self.pool.workers.items() for name in worker.claims]
        assert len(pairs) == len(dict(pairs)), "two workers hold one attempt"
        return dict(pairs)

    @rule(priority=st.integers(0, 3), deadline_ms=st.integers(1, 5))
    def request(self, priority: int, deadline_ms: int) -> None:
        number = len(self.waiters)
        name = f"a{number}"
        coroutine = self.pool.generate(attempt(name, priority=priority), deadline_ms)
        self.waiters[name] = self.loop.create_task(coroutine)
        self.keys[name] = (priority, deadline_ms, number)
        self.settle()

    @rule(data=st.data())
    @precondition(lambda self: any(not waiter.done() for waiter in self.waiters.values()))
    def client_leaves(self, data: st.DataObject) -> None:
        running = [name for name, waiter in self.waiters.items() if not waiter.done()]
        self.waiters[data.draw(st.sampled_from(running))].cancel()
        self.settle()

    @rule(worker=st.sampled_from("uvw"), capacity=st.integers(1, 4))
    def pull(self, worker: str, capacity: int) -> None:
        self.expire()
        held = [name for name, holder in self.held().items() if holder == worker]
        waiting = sorted(self.waiting(), key=self.keys.__getitem__)
        inbox = self.loop.run_until_complete(self.pool.pull(worker, capacity, 0))
        assert names(inbox) == self.expected(held, waiting, capacity), "the best of what waits, best first"
        mine = self.believes.setdefault(worker, set())
        mine.difference_update(inbox.aborts)
        mine.update(names(inbox))

    def expected(self, held: list[str], waiting: list[str], capacity: int) -> list[str]:
        """What a worker should get: the best that fits, and one at its last chance neither beside nor before others."""

        def is_suspect(name: str) -> bool:
            return self.deaths.get(name, 0) == DEATHS_MAX - 1

        if any(map(is_suspect, held)):
            return []
        if waiting and not held and is_suspect(waiting[0]):
            return waiting[:1]
        harmless = itertools.takewhile(lambda name: not is_suspect(name), waiting)
        return list(harmless)[: max(0, capacity - len(held))]

    @rule(worker=st.sampled_from("uvw"), data=st.data())
    def hand_in(self, worker: str, data: st.DataObject) -> None:
        mine = sorted(self.believes.get(worker, set()))
        chosen = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
        holders = self.held()
        self.pool.complete(worker, [draft(name, model=ModelInfo(worker, "00", "fake")) for name in chosen])
        self.settle()
        self.believes.setdefault(worker, set()).difference_update(chosen)
        for name in chosen:
            waiter = self.waiters[name]
            if holders.get(name) == worker:
                assert name not in self.delivered, "an attempt got two drafts"
                assert waiter.done() and waiter.result().model.name == worker
                self.delivered[name] = worker

    @rule(seconds=st.sampled_from([1.0, 4.0, LEASE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule()
    def expire(self) -> None:
        held = self.held()
        dead = self.pool.expire()
        for name, worker in held.items():
            self.deaths[name] = self.deaths.get(name, 0) + (worker in dead)
        self.settle()
        assert all(self.waiters[name].done() for name, num in self.deaths.items() if num == DEATHS_MAX)

    @rule(worker=st.sampled_from("uvw"))
    def worker_leaves(self, worker: str) -> None:
        self.pool.leave(worker)
        self.believes.pop(worker, None)
        self.settle()

    @invariant()
    def nothing_is_lost_and_nothing_is_held_twice(self) -> None:
        held = set(self.held())
        running = {name for name, waiter in self.waiters.items() if not waiter.done()}
        in_heap = [ticket.attempt.attempt_id for _, ticket in self.pool.heap if not ticket.future.done()]
        assert len(in_heap) == len(set(in_heap))
        assert held.isdisjoint(in_heap)
        assert held | set(in_heap) == running == set(self.pool.tickets)
        assert self.pool.num_waiting == len(in_heap)

    def teardown(self) -> None:
        """A worker that does not die serves all who are left: every attempt has exactly one outcome."""
        self.clock.now_s += LEASE_S + 1
        for _ in range(1 + len(self.waiters)):
            inbox = self.loop.run_until_complete(self.pool.pull("last", 8, 0))
            self.pool.complete("last", [draft(name) for name in names(inbox)])
            self.settle()
        for name, waiter in self.waiters.items():
            assert waiter.done(), f"{name} has no outcome"
            if not waiter.cancelled() and (error := waiter.exception()) is not None:
                assert isinstance(error, Unavailable)
        assert not self.pool.tickets
        self.loop.close()


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWhateverHappensEveryAttemptHasOneOutcome = PoolMachine.TestCase
