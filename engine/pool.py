"""A pool's queue: the highest tier first, within it the earliest deadline; claimed at the last moment.

The queue is ours, not the model server's: a worker pulls only what fits now, so a later attempt of a higher tier still
overtakes everything that waits. Every claim is a lease of a worker that must keep pulling; one that stops for
`lease_s` loses its claims, which go back to their old places in the queue. A draft counts only if its worker still
holds the claim, so an attempt yields exactly one draft however often generation ran.

Turned down: calling generator replicas with the work. A call cannot be taken back when something better arrives, and
it hides which replica holds what.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterable

import msgspec

from engine.errors import ErrorBody, Overloaded, Unavailable, rebuild
from engine.generators.contract import Attempt, Draft

CLAIMS_MAX = 3  # an attempt whose workers died this often is taken for their murderer
HEAP_SLACK = 64  # places of attempts nobody waits for any more are swept out of the heap beyond this and its half


class Inbox(msgspec.Struct, frozen=True):
    """What a pull brings: attempts to run, and ids to stop."""

    attempts: tuple[Attempt, ...] = ()
    aborts: tuple[str, ...] = ()


class Ticket:
    """An attempt on its way: its place in the order, who has it, who waits for it."""

    __slots__ = ("attempt", "future", "key", "num_claims", "worker")

    def __init__(self, attempt: Attempt, key: tuple[int, int, int], future: "asyncio.Future[Draft]") -> None:
        self.attempt = attempt
        self.key = key
        self.future = future
        self.worker: str | None = None
        self.num_claims = 0


class Worker:
    """A generator that pulls: what it holds, what it must stop, and when it was last heard of."""

    __slots__ = ("aborts", "claims", "inbox", "number", "seen_s", "wake")

    def __init__(self) -> None:
        self.claims: dict[str, Ticket] = {}
        self.aborts: list[str] = []
        self.seen_s = 0.0
        self.wake = asyncio.Event()
        self.number: int | None = None
        self.inbox = Inbox()


class Pool:
    """The queue of one pool.

    Args:
        num_waiting_max: attempts that may wait; one more is refused.
        lease_s: a worker not heard of for so long is dead.
        now_s: a monotonic clock.
    Concurrency: one event loop.
    Cost: O(log n) an attempt.
    """

    def __init__(self, *, num_waiting_max: int, lease_s: float, now_s: Callable[[], float]) -> None:
        self.num_waiting_max = num_waiting_max
        self.lease_s = lease_s
        self.now_s = now_s
        self.heap: list[tuple[tuple[int, int, int], Ticket]] = []
        self.tickets: dict[str, Ticket] = {}
        self.workers: dict[str, Worker] = {}
        self.order = itertools.count()
        self.num_drafts = 0
        self.num_tokens = 0
        self.failure: ErrorBody | None = None

    @property
    def num_waiting(self) -> int:
        """Attempts nobody has claimed."""
        return len(self.tickets) - sum(len(worker.claims) for worker in self.workers.values())

    async def generate(self, attempt: Attempt, deadline_ms: int) -> Draft:
        """Queue an attempt and wait for its draft. Cancelling the wait stops the attempt wherever it is.

        Raises:
            Overloaded: `num_waiting_max` attempts wait already.
            Unavailable: `CLAIMS_MAX` workers died with this attempt in hand; or see `fail`.
        """
        if self.failure is not None:
            raise rebuild(self.failure)
        if self.num_waiting >= self.num_waiting_max:
            raise Overloaded(
                f"{self.num_waiting} attempts wait already",
                where="pool",
                fix="Try again later, or raise pool.num_waiting_max in the configuration.",
            )
        assert attempt.attempt_id not in self.tickets, "an attempt id is used once"
        future: asyncio.Future[Draft] = asyncio.get_running_loop().create_future()
        ticket = Ticket(attempt, (attempt.priority, deadline_ms, next(self.order)), future)
        self.tickets[attempt.attempt_id] = ticket
        self.enqueue(ticket)
        try:
            return await future
        finally:
            self.forget(ticket)

    async def pull(self, worker_id: str, capacity: int, wait_s: float, number: int | None = None) -> Inbox:
        """What a worker should do next: at once if there is something, else within `wait_s`. Also its heartbeat.

        `number` counts a worker's pulls where answers can be lost on the way: a pull with the number of the last one
        brings the same answer again.
        """
        self.expire()
        worker = self.workers.setdefault(worker_id, Worker())
        worker.seen_s = self.now_s()
        if number is not None and number == worker.number:
            return worker.inbox
        worker.wake.clear()
        inbox = self.claim(worker_id, worker, capacity)
        if not inbox.attempts and not inbox.aborts:
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together with the wake.
                async with asyncio.timeout(wait_s):
                    await worker.wake.wait()
            worker = self.workers.setdefault(worker_id, Worker())  # its lease may have run out while it waited
            inbox = self.claim(worker_id, worker, capacity)
        worker.seen_s = self.now_s()
        worker.number, worker.inbox = number, inbox
        return inbox

    def fail(self, error: ErrorBody) -> None:
        """Nobody will ever pull again: everything that waits, and whatever comes later, gets the error."""
        self.failure = error
        for ticket in list(self.tickets.values()):
            if not ticket.future.done():
                ticket.future.set_exception(rebuild(error))

    def complete(self, worker_id: str, drafts: Iterable[Draft]) -> None:
        """Hand in drafts. One whose claim was lost meanwhile (aborted, or the lease ran out) is dropped."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        worker.seen_s = self.now_s()
        for draft in drafts:
            ticket = worker.claims.pop(draft.attempt_id, None)
            if ticket is not None and not ticket.future.done():
                ticket.worker = None
                ticket.future.set_result(draft)
                self.num_drafts += 1
                self.num_tokens += draft.num_tokens
        worker.wake.set()

    def leave(self, worker_id: str) -> None:
        """A worker is gone: what it held goes back to its old place in the queue."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        for ticket in worker.claims.values():
            ticket.worker = None
            if ticket.future.done():
                continue
            if ticket.num_claims < CLAIMS_MAX:
                self.enqueue(ticket)
            else:
                ticket.future.set_exception(
                    Unavailable(
                        f"{ticket.num_claims} generators died while they worked on it",
                        where="pool",
                        fix="Look for the cause in the generator's log; the request was not served.",
                    )
                )

    def expire(self) -> list[str]:
        """Let go of every worker not heard of for `lease_s`; their ids. To be called once a second or so."""
        limit = self.now_s() - self.lease_s
        dead = [worker_id for worker_id, worker in self.workers.items() if worker.seen_s < limit]
        for worker_id in dead:
            self.leave(worker_id)
        return dead

    def enqueue(self, ticket: Ticket) -> None:
        """Put a ticket into its place and wake the workers."""
        heapq.heappush(self.heap, (ticket.key, ticket))
        for worker in self.workers.values():
            worker.wake.set()

    def claim(self, worker_id: str, worker: Worker, capacity: int) -> Inbox:
        """The best of the queue, as many as the worker has room for, and the ids it must stop."""
        attempts = []
        while self.heap and len(worker.claims) < capacity:
            _, ticket = heapq.heappop(self.heap)
            if ticket.future.done():
                continue
            ticket.worker = worker_id
            ticket.num_claims += 1
            worker.claims[ticket.attempt.attempt_id] = ticket
            attempts.append(ticket.attempt)
        aborts, worker.aborts = tuple(worker.aborts), []
        return Inbox(tuple(attempts), aborts)

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for the ticket any more; whoever still works on it is told to stop."""
        attempt_id = ticket.attempt.attempt_id
        del self.tickets[attempt_id]
        if len(self.heap) > 2 * len(self.tickets) + HEAP_SLACK:
            self.heap = [row for row in self.heap if not row[1].future.done()]
            heapq.heapify(self.heap)
        worker = self.workers.get(ticket.worker) if ticket.worker is not None else None
        if worker is not None and worker.claims.pop(attempt_id, None) is not None:
            worker.aborts.append(attempt_id)
            worker.wake.set()
