"""The worker: a thread that steps a generator, and a coroutine that keeps it fed."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from briefs import attempt

import engine.worker
from engine.embedded import LocalPort
from engine.errors import Unavailable
from engine.generators.contract import Attempt, Draft
from engine.generators.fake import FakeGenerator
from engine.pool import Inbox, Pool
from engine.worker import StepLoop, work

PATIENCE_S = 20.0


class SteppedGenerator(FakeGenerator):
    """Steps only when the test permits it, and says when a step has begun."""

    def __init__(self, *, capacity: int = 8) -> None:
        super().__init__(capacity=capacity)
        self.permits = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.closed = threading.Event()
        self.num_running_max = 0
        self.aborted: list[str] = []
        self.finished: set[str] = set()

    def add(self, attempt: Attempt) -> None:
        super().add(attempt)
        self.num_running_max = max(self.num_running_max, len(self.running))

    def step(self) -> list[Draft]:
        self.begun.release()
        assert self.permits.acquire(timeout=PATIENCE_S)
        drafts = super().step()
        self.finished.update(names(drafts))
        return drafts

    def abort(self, attempt_id: str) -> None:
        super().abort(attempt_id)
        self.aborted.append(attempt_id)

    def close(self) -> None:
        super().close()
        self.closed.set()


class FailingGenerator(FakeGenerator):
    """Its first step fails."""

    def step(self) -> list[Draft]:
        raise RuntimeError("out of memory")


Deliveries = queue.SimpleQueue[list[Draft]]


@contextmanager
def stepping(generator: FakeGenerator) -> Iterator[tuple[StepLoop, Deliveries]]:
    """A running step loop and what it delivers."""
    deliveries: Deliveries = queue.SimpleQueue()
    loop = StepLoop(generator, deliveries.put)
    loop.start()
    try:
        yield loop, deliveries
    finally:
        loop.stop(PATIENCE_S)
        assert not loop.is_alive()


def names(drafts: list[Draft]) -> list[str]:
    return [draft.attempt_id for draft in drafts]


def test_the_drafts_of_one_step_are_delivered_together() -> None:
    with stepping(FakeGenerator()) as (loop, deliveries):
        loop.put(Inbox((attempt("a", "one two"), attempt("b", "one two three"), attempt("c", "one two"))))
        assert names(deliveries.get(timeout=PATIENCE_S)) == ["a", "c"]
        assert names(deliveries.get(timeout=PATIENCE_S)) == ["b"]
    assert deliveries.empty()


def test_no_more_run_at_once_than_there_are_credits_and_all_are_served() -> None:
    generator = SteppedGenerator(capacity=2)
    generator.permits.release(1000)
    with stepping(generator) as (loop, deliveries):
        loop.put(Inbox(tuple(attempt(f"a{number}", "one two") for number in range(7))))
        drafts: list[Draft] = []
        while len(drafts) < 7:
            drafts += deliveries.get(timeout=PATIENCE_S)
    assert sorted(names(drafts)) == [f"a{number}" for number in range(7)]
    assert generator.num_running_max == 2


def test_what_waits_for_a_credit_is_admitted_by_priority_and_then_by_arrival() -> None:
    with stepping(FakeGenerator(capacity=1)) as (loop, deliveries):
        order = [("late", 3), ("first", 1), ("second", 1), ("urgent", 0)]
        loop.put(Inbox(tuple(attempt(name, "word", priority=priority) for name, priority in order)))
        served = [names(deliveries.get(timeout=PATIENCE_S)) for _ in order]
    assert served == [["urgent"], ["first"], ["second"], ["late"]]


def test_an_abort_reaches_what_runs_and_what_waits() -> None:
    generator = SteppedGenerator(capacity=1)
    with stepping(generator) as (loop, deliveries):
        loop.put(Inbox((attempt("runs", "one two three four"), attempt("waits", "one"))))
        assert generator.begun.acquire(timeout=PATIENCE_S)
        loop.put(Inbox((attempt("stays", "one"),), aborts=("runs", "waits", "unknown")))
        generator.permits.release(1000)
        assert names(deliveries.get(timeout=PATIENCE_S)) == ["stays"]
    assert deliveries.empty()


def test_an_attempt_that_comes_a_second_time_starts_anew_and_yields_one_draft() -> None:
    generator = SteppedGenerator(capacity=1)
    with stepping(generator) as (loop, deliveries):
        loop.put(Inbox((attempt("runs", "one two three"), attempt("waits", "one"))))
        assert generator.begun.acquire(timeout=PATIENCE_S)
        loop.put(Inbox((attempt("runs", "one two three"), attempt("waits", "one"))))
        generator.permits.release(1000)
        served = [names(deliveries.get(timeout=PATIENCE_S)) for _ in range(2)]
    assert served == [["runs"], ["waits"]]
    assert deliveries.empty()


def test_an_attempt_the_generator_refuses_comes_back_as_an_error_draft_and_the_others_go_on() -> None:
    with stepping(FakeGenerator()) as (loop, deliveries):
        loop.put(Inbox((attempt("huge", "word " * 3000), attempt("small", "one"))))
        drafts = {draft.attempt_id: draft for draft in deliveries.get(timeout=PATIENCE_S)}
    assert drafts["huge"].finish_reason == "error"
    error = drafts["huge"].error
    assert error is not None
    assert (error.code, "3000 words" in error.what) == ("invalid_request", True)
    assert (drafts["small"].finish_reason, drafts["small"].error) == ("stop", None)


def test_stop_ends_the_thread_and_closes_the_generator_whatever_is_under_way() -> None:
    generator = SteppedGenerator()
    with stepping(generator) as (loop, _):
        loop.put(Inbox((attempt("endless", "word " * 90),)))
        generator.permits.release(3)
        loop.stop(0)
        generator.permits.release(1000)
        assert generator.closed.wait(PATIENCE_S)
    assert not generator.running


def test_an_idle_loop_takes_no_steps() -> None:
    generator = SteppedGenerator()
    generator.permits.release(1000)
    with stepping(generator) as (loop, deliveries):
        loop.put(Inbox((attempt("a", "one"),)))
        deliveries.get(timeout=PATIENCE_S)
        loop.put(Inbox(aborts=("unknown",)))
    assert generator.num_steps <= 2


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a thread sets no event of this loop
            await asyncio.sleep(0.001)


def new_pool() -> Pool:
    return Pool(lease_s=60, now_s=asyncio.get_running_loop().time)


async def ended(worker: "asyncio.Task[None]") -> None:
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_work_serves_what_is_queued_and_closes_its_generator_when_it_is_cancelled() -> None:
    generator = SteppedGenerator(capacity=4)
    generator.permits.release(10_000)
    pool = new_pool()
    worker = asyncio.create_task(work(generator, LocalPort(pool), "w"))
    drafts = await asyncio.gather(*(pool.generate(attempt(f"a{n}", f"copy {n}"), 1000) for n in range(20)))
    assert [draft.text for draft in drafts] == [f"copy {n}" for n in range(20)]
    assert generator.num_running_max <= 4
    await ended(worker)
    assert generator.closed.is_set()


async def test_work_stops_what_nobody_waits_for() -> None:
    generator = SteppedGenerator()
    pool = new_pool()
    worker = asyncio.create_task(work(generator, LocalPort(pool), "w"))
    leaving = asyncio.create_task(pool.generate(attempt("leaving", "word " * 90), 1000))
    assert await asyncio.to_thread(generator.begun.acquire, timeout=PATIENCE_S)
    assert list(generator.running) == ["leaving"]
    leaving.cancel()
    staying = asyncio.create_task(pool.generate(attempt("staying", "one two"), 1000))
    await until(lambda: list(pool.workers["w"].claims) == ["staying"])
    generator.permits.release(1000)
    assert (await staying).text == "one two"
    assert "leaving" in generator.aborted
    assert generator.finished == {"staying"}
    await ended(worker)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_work_ends_as_unavailable_when_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.worker, "PULL_WAIT_S", 0.01)
    pool = new_pool()
    waiter = asyncio.create_task(pool.generate(attempt("a"), 1000))
    with pytest.raises(Unavailable, match="out of memory") as caught:
        await work(FailingGenerator(), LocalPort(pool), "w")
    assert caught.value.body.where == "fake"
    pool.leave("w")
    assert (await pool.pull("another", 8, 0)).attempts[0].attempt_id == "a"
    waiter.cancel()


async def test_work_ends_as_unavailable_when_a_step_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.worker, "PULL_WAIT_S", 0.01)
    monkeypatch.setattr(engine.worker, "STOP_S_MAX", 0.01)
    generator, pool, now_s = SteppedGenerator(), new_pool(), 0.0
    worker = asyncio.create_task(work(generator, LocalPort(pool), "w", step_s_max=120, now_s=lambda: now_s))
    await until(lambda: "w" in pool.workers)
    now_s += 1000.0  # nobody minds that an idle generator takes no steps
    waiter = asyncio.create_task(pool.generate(attempt("a", "one two"), 1000))
    assert await asyncio.to_thread(generator.begun.acquire, timeout=PATIENCE_S)
    now_s += 120.0
    generator.permits.release()
    assert await asyncio.to_thread(generator.begun.acquire, timeout=PATIENCE_S)
    assert not worker.done()
    now_s += 120.1
    with pytest.raises(Unavailable, match="a step has not ended after 120 s") as caught:
        await worker
    assert caught.value.body.where == "fake"
    assert list(pool.workers["w"].claims) == ["a"], "a worker that failed does not leave in good order"
    generator.permits.release(1000)
    assert generator.closed.wait(PATIENCE_S)
    waiter.cancel()


async def test_a_worker_that_is_cancelled_leaves_and_what_it_held_goes_to_another_at_once() -> None:
    generator, pool = SteppedGenerator(), new_pool()
    worker = asyncio.create_task(work(generator, LocalPort(pool), "w"))
    waiter = asyncio.create_task(pool.generate(attempt("a", "word " * 90), 1000))
    assert await asyncio.to_thread(generator.begun.acquire, timeout=PATIENCE_S)
    worker.cancel()
    await until(lambda: "w" not in pool.workers)
    assert not worker.done(), "it leaves before its last step has ended"
    assert (await pool.pull("another", 8, 0)).attempts[0].attempt_id == "a"
    generator.permits.release(1000)
    await asyncio.gather(worker, return_exceptions=True)
    waiter.cancel()


class BrokenPort(LocalPort):
    """A pool that cannot be reached."""

    async def pull(self, worker_id: str, capacity: int, wait_s: float) -> Inbox:
        raise Unavailable("the pool is gone", where="pool", fix="Start it.")


async def test_work_ends_with_the_error_of_its_pool_and_closes_its_generator() -> None:
    generator = SteppedGenerator()
    with pytest.raises(Unavailable, match="the pool is gone"):
        await work(generator, BrokenPort(new_pool()), "w")
    assert generator.closed.is_set()


class SlowPort(LocalPort):
    """Hand-ins wait for the test; what was handed in together is kept."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.door = asyncio.Event()
        self.handed_in: list[list[str]] = []

    async def complete(self, worker_id: str, drafts: list[Draft]) -> None:
        self.handed_in.append(names(drafts))
        await self.door.wait()
        await super().complete(worker_id, drafts)


async def test_drafts_that_finish_while_a_hand_in_is_out_leave_together_with_the_next() -> None:
    generator = SteppedGenerator()
    port = SlowPort(new_pool())
    worker = asyncio.create_task(work(generator, port, "w"))
    # The endless one keeps the thread in `step`: when a step has begun, the drafts of all before it are delivered.
    copies = {"endless": "word " * 90, "first": "one", "second": "one two three", "third": "one two three four"}
    waiters = [asyncio.create_task(port.pool.generate(attempt(name, copy), 1000)) for name, copy in copies.items()]
    await until(lambda: len(port.pool.tickets) == len(copies))
    while not {"first", "second", "third"} <= generator.finished:
        assert await asyncio.to_thread(generator.begun.acquire, timeout=PATIENCE_S)
        generator.permits.release()
    assert await asyncio.to_thread(generator.begun.acquire, timeout=PATIENCE_S)
    await until(lambda: port.handed_in == [["first"]])
    port.door.set()
    generator.permits.release(1000)
    await asyncio.gather(*waiters)
    assert port.handed_in == [["first"], ["second", "third"], ["endless"]]
    await ended(worker)
