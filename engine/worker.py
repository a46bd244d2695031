"""A generator at work: a thread that steps it, and a coroutine that keeps it fed from a pool.

The thread's loop is the same for every generator. The coroutine is the same for every kind of pool: `PoolPort` is the
pool itself in one process, or the pool behind a Serve handle.
"""

import asyncio
import heapq
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from engine.errors import MintageError, Unavailable
from engine.generators.contract import Attempt, Draft, Generator
from engine.pool import Inbox

PULL_WAIT_S = 1.0
STEP_S_MAX = 120.0  # of one step, by default; a large prefill on a slow CPU takes tens of seconds
STOP_S_MAX = 30.0  # for the running step to end; a thread that hangs is left to the end of its process


class PoolPort(Protocol):
    """The calls a worker makes; see `Pool` for what they mean."""

    async def pull(self, worker_id: str, capacity: int, wait_s: float) -> Inbox: ...

    async def complete(self, worker_id: str, drafts: list[Draft]) -> None: ...

    async def leave(self, worker_id: str) -> None: ...


class StepLoop(threading.Thread):
    """The thread that owns a generator and steps it while there is work.

    Args:
        generator: owned from here on; no other thread may call it.
        deliver: called in this thread with the drafts of a step, never with an empty list.
        now_s: a monotonic clock.
    """

    def __init__(
        self, generator: Generator, deliver: Callable[[list[Draft]], None], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name=f"step-{generator.info.name}", daemon=True)
        self.generator = generator
        self.deliver = deliver
        self.now_s = now_s
        self.begun_s: float | None = None
        self.commands: queue.SimpleQueue[Inbox | None] = queue.SimpleQueue()
        self.waiting: list[tuple[int, int, Attempt]] = []
        self.num_taken = 0
        self.busy = False
        self.error: BaseException | None = None

    @property
    def step_s(self) -> float:
        """How long the running step has taken so far; 0 between steps."""
        begun_s = self.begun_s
        return 0.0 if begun_s is None else self.now_s() - begun_s

    def put(self, inbox: Inbox) -> None:
        """Hand over work, from any thread."""
        self.commands.put(inbox)

    def stop(self, join_s: float) -> None:
        """Finish the running step, close the generator and end the thread; waits for that up to `join_s`."""
        self.commands.put(None)
        if self.is_alive():
            self.join(join_s)

    def run(self) -> None:
        try:
            while self.take():
                self.begun_s = self.now_s()
                finished = self.admit() + self.generator.step()
                self.begun_s = None
                self.busy = self.generator.credits() < self.generator.capacity or bool(self.waiting)
                if finished:
                    self.deliver(finished)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.generator.close()

    def take(self) -> bool:
        """Apply what arrived; when idle, sleep until something does. False: stop."""
        while True:
            try:
                inbox = self.commands.get(block=not self.busy)
            except queue.Empty:
                return True
            if inbox is None:
                return False
            # An attempt that comes a second time (the pool took us for dead meanwhile) starts anew.
            stopped = {*inbox.aborts, *(attempt.attempt_id for attempt in inbox.attempts)}
            for attempt_id in stopped:
                self.generator.abort(attempt_id)
            self.waiting = [row for row in self.waiting if row[2].attempt_id not in stopped]
            heapq.heapify(self.waiting)
            for attempt in inbox.attempts:
                heapq.heappush(self.waiting, (attempt.priority, self.num_taken, attempt))
                self.num_taken += 1
            self.busy = True

    def admit(self) -> list[Draft]:
        """Move what fits into the running batch; an attempt the generator refuses comes back as an error draft."""
        refused = []
        while self.waiting and self.generator.credits() > 0:
            attempt = heapq.heappop(self.waiting)[2]
            try:
                self.generator.add(attempt)
            except MintageError as error:
                refused.append(Draft(attempt.attempt_id, "", "error", 0, 0, self.generator.info, error.body))
        return refused


async def work(
    generator: Generator,
    port: PoolPort,
    worker_id: str,
    *,
    step_s_max: float = STEP_S_MAX,
    now_s: Callable[[], float] = time.monotonic,
) -> None:
    """Pull attempts from the pool and hand in drafts, until cancelled; then leave, so that what is unfinished goes back
    at once. A worker that fails does not leave: its end counts as a death of what it held.

    Drafts of one step leave together; those that finish while a hand-in is out leave with the next one.

    Args:
        step_s_max: a step that takes longer hangs.
        now_s: a monotonic clock.
    Raises:
        Unavailable: a step failed, or hangs; the generator is not to be used any more.
    """
    loop = asyncio.get_running_loop()
    finished: list[Draft] = []
    ready = asyncio.Event()

    def deliver(drafts: list[Draft]) -> None:
        finished.extend(drafts)
        ready.set()

    def deliver_from_thread(drafts: list[Draft]) -> None:
        loop.call_soon_threadsafe(deliver, drafts)

    stepping = StepLoop(generator, deliver_from_thread, now_s)

    async def feed() -> None:
        while stepping.is_alive():
            inbox = await port.pull(worker_id, generator.capacity, PULL_WAIT_S)
            if inbox.attempts or inbox.aborts:
                stepping.put(inbox)
            if stepping.step_s > step_s_max:
                raise Unavailable(
                    f"a step has not ended after {step_s_max:g} s",
                    where=generator.info.name,
                    fix="The generator is started anew; if its steps are that long, raise text.step_s_max.",
                )
        raise Unavailable(
            f"a step failed: {stepping.error!r}", where=generator.info.name, fix="The generator is started anew."
        )

    async def hand_in() -> None:
        while True:
            await ready.wait()
            ready.clear()
            drafts = finished[:]
            finished.clear()
            await port.complete(worker_id, drafts)

    stepping.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            group.create_task(hand_in())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    except asyncio.CancelledError:
        await port.leave(worker_id)
        raise
    finally:
        await asyncio.to_thread(stepping.stop, STOP_S_MAX)
