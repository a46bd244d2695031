"""A pool's queue: the highest tier first, within it the earliest deadline; claimed at the last moment.

The queue is ours, not the model server's: a worker pulls only what fits now, so a later attempt of a higher tier still
overtakes everything that waits. Every claim is a lease of a worker that must keep pulling; one that stops for
`lease_s` is dead and loses its claims, which go back to their old places in the queue. A draft counts only if its
worker still holds the claim, so an attempt yields exactly one draft however often generation ran.

An attempt can kill its worker, and then those beside it are innocent. So an attempt at its last chance is handed out
alone: a worker takes it when it holds nothing else, and nothing more until it is done.

The queue has no limit of its own: an open request has at most one attempt here, and the intake limits those.

Turned down: calling generator replicas with the work. A call cannot be taken back when something better arrives, and
it hides which replica holds what.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterable

import msgspec

from engine.errors import ErrorBody, Unavailable, rebuild
from engine.generators.contract import Attempt, Draft

DEATHS_MAX = 3  # an attempt whose workers died this often is taken for their murderer
HEAP_SLACK = 64  # places of attempts nobody waits for any more are swept out of the heap beyond this and its half


class Inbox(msgspec.Struct, frozen=True):
    """What a pull brings: attempts to run, and ids to stop."""

    attempts: tuple[Attempt, ...] = ()
    aborts: tuple[str, ...] = ()


class Ticket:
    """An attempt on its way: its place in the order, who has it, who waits for it."""

    __slots__ = ("attempt", "future", "key", "num_deaths", "worker")

    def __init__(self, attempt: Attempt, key: tuple[int, int, int], future: "asyncio.Future[Draft]") -> None:
        self.attempt = attempt
        self.key = key
        self.future = future
        self.worker: str | None = None
        self.num_deaths = 0

    @property
    def last_chance(self) -> bool:
        """Whether one more death would be its last."""
        return self.num_deaths == DEATHS_MAX - 1


class Worker:
    """A generator that pulls: what it holds, what it must stop, when it was last heard of, and its newest pull."""

    __slots__ = ("aborts", "claims", "inbox", "newest", "number", "seen_s", "wake")

    def __init__(self) -> None:
        self.claims: dict[str, Ticket] = {}
        self.aborts: list[str] = []
        self.seen_s = 0.0
        self.wake = asyncio.Event()
        self.newest: object = None
        self.number: int | None = None
        self.inbox = Inbox()


class Pool:
    """The queue of one pool.

    Args:
        lease_s: a worker not heard of for so long is dead.
        now_s: a monotonic clock.
    Concurrency: one event loop.
    Cost: O(log n) an attempt.
    """

    def __init__(self, *, lease_s: float, now_s: Callable[[], float]) -> None:
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
            Unavailable: `DEATHS_MAX` workers died with this attempt in hand; or see `fail`.
        """
        if self.failure is not None:
            raise rebuild(self.failure)
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
        brings the same answer again. Nobody reads the answer of a pull that another one followed, or whose worker was
        let go while it waited: it claims nothing.
        """
        self.expire()
        worker = self.workers.setdefault(worker_id, Worker())
        worker.seen_s = self.now_s()
        newest = worker.newest = object()
        if number is not None and number == worker.number:
            return worker.inbox
        worker.wake.clear()
        inbox = self.claim(worker_id, worker, capacity)
        if not inbox.attempts and not inbox.aborts:
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together with the wake.
                async with asyncio.timeout(wait_s):
                    await worker.wake.wait()
            if self.workers.get(worker_id) is not worker or worker.newest is not newest:
                return Inbox()
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

    def leave(self, worker_id: str) -> list[Ticket]:
        """A worker goes: what it held goes back to its old place in the queue, and is returned."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return []
        worker.wake.set()
        held = [ticket for ticket in worker.claims.values() if not ticket.future.done()]
        for ticket in held:
            ticket.worker = None
            self.enqueue(ticket)
        return held

    def expire(self) -> list[str]:
        """Let go of every worker not heard of for `lease_s`; their ids. To be called once a second or so."""
        limit = self.now_s() - self.lease_s
        dead = [worker_id for worker_id, worker in self.workers.items() if worker.seen_s < limit]
        for worker_id in dead:
            for ticket in self.leave(worker_id):
                self.charge(ticket)
        return dead

    def charge(self, ticket: Ticket) -> None:
        """A worker died with the ticket in hand; one that had its last chance ends."""
        ticket.num_deaths += 1
        if ticket.num_deaths == DEATHS_MAX:
            ticket.future.set_exception(
                Unavailable(
                    f"{DEATHS_MAX} generators died while they worked on it, the last time on nothing else",
                    where="pool",
                    fix="Look for the cause in the generator's log; the request was not served.",
                )
            )

    def enqueue(self, ticket: Ticket) -> None:
        """Put a ticket into its place and wake the workers."""
        heapq.heappush(self.heap, (ticket.key, ticket))
        for worker in self.workers.values():
            worker.wake.set()

    def claim(self, worker_id: str, worker: Worker, capacity: int) -> Inbox:
        """The best of the queue, as many as the worker has room for, and the ids it must stop. A ticket at its last
        chance waits for a worker that holds nothing, and what comes after it in the queue waits behind it: so it is
        sure to get one."""
        attempts = []
        alone = any(ticket.last_chance for ticket in worker.claims.values())
        while self.heap and len(worker.claims) < capacity and not alone:
            ticket = self.heap[0][1]
            alone = ticket.last_chance and not ticket.future.done()
            if alone and worker.claims:
                break
            heapq.heappop(self.heap)
            if ticket.future.done():
                continue
            ticket.worker = worker_id
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
