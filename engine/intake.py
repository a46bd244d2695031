"""Open requests: one job per asset id, however many wait for it, and what became of the finished ones.

A repeat of a request finds the running job, the finished one, or the asset in the ledger; a different request under the
same key is a conflict. A job whose last waiter went away is stopped, unless somebody was told to come back for it.

Nobody waits for the ledger as long as for a job: a look-up is answered within LOOK_UP_S_MAX, or nothing is started.
"""

import asyncio
import contextvars
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from engine.errors import Cancelled, MintageError, Overloaded, Refused, Unavailable, describe
from engine.records import Outcome, conflict
from engine.request import Asset, AssetRequest, Reason, Status

log = logging.getLogger("mintage")
FINAL = ("released", "refused")  # a request that failed or was cancelled may be tried again
LOOK_UP_S_MAX = 10.0  # the ledger answers in milliseconds, or its shard is being started anew
RATE_WINDOW = 64  # finished jobs from which the rate is estimated


class Job:
    """A request that was let in: its task, who waits, and whether it goes on when nobody does."""

    def __init__(self, request: AssetRequest, task: "asyncio.Task[Status]") -> None:
        self.request = request
        self.task = task
        self.num_waiters = 0
        self.detached = False


class Intake:
    """The table of jobs.

    Args:
        mint: from request to released asset; raises the engine's errors.
        find: what the ledger knows of an asset id.
        num_open_max: jobs and look-ups at once; one more is refused with an estimate of when to come back.
        num_done_max: finished jobs remembered, oldest forgotten first; released assets are in the ledger for ever.
        now_s: a monotonic clock.
    Concurrency: one event loop.
    """

    def __init__(
        self,
        mint: Callable[[AssetRequest], Awaitable[Asset]],
        find: Callable[[str], Awaitable[Outcome]],
        *,
        num_open_max: int,
        num_done_max: int,
        now_s: Callable[[], float],
    ) -> None:
        self.mint = mint
        self.find = find
        self.num_open_max = num_open_max
        self.num_done_max = num_done_max
        self.now_s = now_s
        self.jobs: dict[str, Job] = {}
        self.done: OrderedDict[str, tuple[bytes, Status]] = OrderedDict()
        self.finish_times_s: deque[float] = deque(maxlen=RATE_WINDOW)
        self.num_look_ups = 0
        self.closed = False

    async def submit(self, request: AssetRequest, wait_s: float) -> Status:
        """Start a request and wait for it. One whose client chose the idempotency key must have been shown to `repeat`
        since the last await: that ends without one after its last look, so two repeats cannot both start a job.

        Args:
            wait_s: how long to wait; then the status is `pending` and the job goes on by itself.
        Raises:
            Overloaded: too many jobs are open.
            Unavailable: the engine is stopping.
        Cancelling the wait stops the job, if nobody else waits for it and it was never answered with `pending`.
        """
        return await self.wait(self.open(request), wait_s)

    async def repeat(self, asset_id: str, body_hash: bytes, wait_s: float) -> Status | None:
        """The outcome of a request that was sent before, waiting for it like `submit`; None if it is new, or failed
        before and may be tried again.

        Raises:
            IdempotencyConflict: the key stands for another request.
            Overloaded, Unavailable: the ledger cannot be asked now whether it knows the request.
        """
        while (job := self.jobs.get(asset_id)) is not None and job.task.cancelling():
            await asyncio.wait({job.task})  # it is being stopped for want of waiters: do not join it, follow it
        if job is None:
            status = await self.settled(asset_id, body_hash)
            if status is not None and status.state in FINAL:
                return status
            job = self.jobs.get(asset_id)  # another repeat may have begun one meanwhile
        if job is None:
            return None
        check_same(asset_id, body_hash, job.request.body_hash)
        return await self.wait(job, wait_s)

    async def status(self, asset_id: str, wait_s: float) -> Status | None:
        """How a request stands, waiting up to `wait_s` for it to finish; None where nobody knows the id.

        Raises:
            Overloaded, Unavailable: see `look_up`.
        """
        job = self.jobs.get(asset_id)
        if job is not None:
            job.detached = True  # somebody follows it by its id
            return await self.wait(job, wait_s)
        return await self.settled(asset_id)

    async def settled(self, asset_id: str, body_hash: bytes | None = None) -> Status | None:
        """What is known of a request that is not open. Where memory says it failed the ledger is asked all the same: a
        commit whose answer was lost is a commit."""
        known = self.remembered(asset_id, body_hash)
        if known is not None and known.state in FINAL:
            return known
        if body_hash is not None:
            self.check_room()  # what is sent here may become a job
        recorded = (await self.look_up(asset_id)).recorded
        if recorded is None:
            return self.remembered(asset_id, body_hash)  # it may have been sent, and have ended, in the meantime
        check_same(asset_id, body_hash, recorded.request_hash)
        return Status(asset_id, "released", recorded.asset, reasons=recorded.asset.reasons)

    def remembered(self, asset_id: str, body_hash: bytes | None) -> Status | None:
        """What memory has of a request that is not open."""
        known = self.done.get(asset_id)
        if known is None:
            return None
        check_same(asset_id, body_hash, known[0])
        return known[1]

    async def look_up(self, asset_id: str) -> Outcome:
        """Ask the ledger.

        Raises:
            Overloaded: `num_open_max` ask it already.
            Unavailable: it does not answer in time.
        """
        if self.num_look_ups >= self.num_open_max:
            raise self.overloaded()
        self.num_look_ups += 1
        try:
            async with asyncio.timeout(LOOK_UP_S_MAX):
                return await self.find(asset_id)
        except TimeoutError as error:
            raise Unavailable(
                f"the ledger has not answered after {LOOK_UP_S_MAX:g} s whether it has the asset {asset_id}",
                where="ledger",
                fix="Nothing was started. Send the request again with its idempotency key.",
            ) from error
        finally:
            self.num_look_ups -= 1

    def check_room(self) -> None:
        """One more job must be allowed."""
        if len(self.jobs) + self.num_look_ups >= self.num_open_max:
            raise self.overloaded()

    def overloaded(self) -> Overloaded:
        """The refusal of what is one too many."""
        return Overloaded(
            f"{len(self.jobs) + self.num_look_ups} requests are open, at most {self.num_open_max} are taken",
            where="intake",
            fix=f"Try again in about {self.retry_after_s()} s.",
        )

    def open(self, request: AssetRequest) -> Job:
        """A new job."""
        if self.closed:
            raise stopping()
        self.check_room()
        # A context of its own: the job outlives the HTTP request that began it, and what is cancelled with that.
        task = asyncio.get_running_loop().create_task(self.run(request), context=contextvars.Context())
        job = self.jobs[request.asset_id] = Job(request, task)
        task.add_done_callback(lambda _: self.finish(job))
        return job

    async def run(self, request: AssetRequest) -> Status:
        """The job's task: a request's outcome is always a status, never an exception."""
        try:
            asset = await self.mint(request)
            return Status(request.asset_id, "released", asset, reasons=asset.reasons)
        except Refused as error:
            reasons = tuple(reason for reason in error.reasons if isinstance(reason, Reason))
            return Status(request.asset_id, "refused", error=error.body, reasons=reasons)
        except Exception as error:
            body = describe(error)
            if body.code == MintageError.code:
                log.exception("request %s failed for a defect", request.asset_id)
            return Status(request.asset_id, "failed", error=body)

    def finish(self, job: Job) -> None:
        """A job ended: remember how."""
        asset_id = job.request.asset_id
        del self.jobs[asset_id]
        self.finish_times_s.append(self.now_s())
        self.done[asset_id] = (job.request.body_hash, self.outcome(job))
        self.done.move_to_end(asset_id)
        while len(self.done) > self.num_done_max:
            self.done.popitem(last=False)

    def outcome(self, job: Job) -> Status:
        """The status of a job that has ended. Only its last waiter and `close` stop one."""
        if not job.task.cancelled():
            return job.task.result()
        error = stopping() if self.closed else abandoned()
        return Status(job.request.asset_id, "cancelled", error=error.body)

    async def wait(self, job: Job, wait_s: float) -> Status:
        """Wait for a job without owning it."""
        job.num_waiters += 1
        try:
            done, _ = await asyncio.wait({job.task}, timeout=wait_s)
        except asyncio.CancelledError:
            if job.num_waiters == 1 and not job.detached:
                job.task.cancel()
            raise
        finally:
            job.num_waiters -= 1
        if not done:
            job.detached = True
            return Status(job.request.asset_id, "pending")
        return self.outcome(job)

    def retry_after_s(self) -> int:
        """When a place should be free: the time one in sixteen of the open jobs takes at the recent rate."""
        if len(self.finish_times_s) < 2:
            return 5
        span_s = max(self.now_s() - self.finish_times_s[0], 1e-3)
        rate = len(self.finish_times_s) / span_s
        return max(1, min(600, round(len(self.jobs) / 16 / rate)))

    async def close(self) -> None:
        """Stop every job."""
        self.closed = True
        tasks = [job.task for job in self.jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_same(asset_id: str, body_hash: bytes | None, known: bytes) -> None:
    """The same key must stand for the same request; who only asks by id has none to compare."""
    if body_hash is not None and body_hash != known:
        raise conflict(asset_id)


def abandoned() -> MintageError:
    """The error of a job that was stopped for want of waiters."""
    return Cancelled(
        "the request was stopped because nobody waited for it any more",
        where="intake",
        fix="Send it again; use 'Prefer: respond-async' to have it go on without you.",
    )


def stopping() -> MintageError:
    """The error of a request that comes, or is stopped, when the engine stops."""
    return Unavailable("the engine is stopping", where="intake", fix="Send the request again when it is back.")
