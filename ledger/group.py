"""Group commit: many callers hand in an entry or a few each, one thread makes them durable together, each gets its
answers.

While a batch waits for the disk the next one gathers, so the busier the shard the larger the batches: nobody waits for
a timer, and a lone caller waits for nobody. What one caller does wrong is told to that caller, before it joins a batch;
what befalls a batch is told to everybody in it. A second thread integrates what the first has sequenced.
"""

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from itertools import islice
from queue import SimpleQueue
from typing import Any, Protocol

import msgspec

from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, Entries, Flag, from_bytes
from ledger.errors import EntryInvalid, LedgerBusy, LedgerError
from ledger.payload import BATCH_BYTES_MAX, Payload, check_payloads
from ledger.result import Result

BATCH_ITEMS_MAX = 4096
"""Entries of several callers that are made durable together; one caller may hand in as many as the shard takes."""

CALLERS_MAX = 16_384
WAITING_BYTES_MAX = 256 << 20
"""More is refused at once: it would only wait for longer than whoever asks does."""

INTEGRATE_AFTER_S = 0.1
INTEGRATE_BYTES = 4096 * ENTRY_BYTES
"""What is sequenced is integrated so much later, with all that was sequenced meanwhile, or once it is so much. Seldom,
because the disk serves one commit after the other: a batch that meets an integration waits for it."""

_FIELDS: Any = ENTRY_DTYPE.fields
_FLAGS: int = _FIELDS["flags"][1]
_LINKED = int(Flag.LINKED)


class Answer(msgspec.Struct, frozen=True):
    """What became of an entry: `OK` or `EXISTS` with the index that holds its id, else why it was not recorded."""

    index: int
    result: Result


class Sequences(Protocol):
    """The part of a shard that a committer needs: see `ledger.shard.Shard`."""

    @property
    def batch_entries_max(self) -> int: ...

    def expire_all(self) -> int: ...

    def sequence(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> "Columns": ...

    def integrate(self) -> None: ...


class Columns(Protocol):
    """The answers to a batch in columns."""

    def answers(self) -> Sequence[Answer]: ...


Answers = tuple[Answer, ...]
Outcome = Answer | Answers | Exception


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    """The entries of one caller, and where it waits. One that asks for one answer gets that, else it gets a tuple.
    `is_open`: its last entry is linked, so it must be the last of a batch, which then tells it that this is wrong."""

    data: bytes
    payloads: Sequence[Payload] | None
    num_bytes: int
    is_one: bool
    is_open: bool
    future: "asyncio.Future[Any]"


class Committer:
    """The writer threads of a shard. Callers may be in any number of event loops.

    Args:
        shard: whose only writer this is from now on.
    """

    def __init__(self, shard: Sequences) -> None:
        self._shard = shard
        self._entries_max = shard.batch_entries_max
        self._num_waiting = 0
        self._waiting_bytes = 0
        self._handed_in: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._held_over: _Waiting | None = None
        self._is_closed = False
        self._closing = threading.Lock()
        self._sequenced = threading.Event()
        self._sequenced_bytes = 0  # since the last integration; about, as two threads count
        self._is_due = threading.Event()
        self._done = threading.Event()
        self._threads = (
            threading.Thread(target=self._run, name="committer", daemon=True),
            threading.Thread(target=self._integrate, name="integrator", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    async def append(self, data: bytes, payload: Payload | None = None) -> Answer:
        """Record an entry (bytes[240]); durable when this returns. What is over by then has been expired before. A
        caller that is cancelled meanwhile is not told, and the entry is recorded all the same.

        Raises:
            EntryInvalid: not 240 bytes, or a payload that is not what the entry says or is missing.
            LedgerBusy: too much waits already.
            LedgerFull, LedgerCorrupt, LedgerError: see `Shard.append`; or the committer is closed.
        """
        answer: Answer = await self._handed(data, None if payload is None else (payload,), is_one=True)
        return answer

    async def append_together(self, data: bytes, payloads: Sequence[Payload] | None = None) -> Answers:
        """Record some entries (240 bytes each) in their order and in one batch: a linked chain, say. As `append`."""
        answers: Answers = await self._handed(data, payloads, is_one=False)
        return answers

    def _handed(self, data: bytes, payloads: Sequence[Payload] | None, *, is_one: bool) -> "asyncio.Future[Any]":
        num_bytes = 0 if payloads is None else sum([payload.num_bytes for payload in payloads])
        _check(data, payloads, num_bytes, 1 if is_one else self._entries_max)
        future = asyncio.get_running_loop().create_future()
        is_open = data[_FLAGS - ENTRY_BYTES] & _LINKED != 0
        with self._closing:  # nothing is handed in behind the end
            if self._is_closed:
                raise LedgerError("it is closed", where="committer", fix="Open the shard again.")
            if self._num_waiting >= CALLERS_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
                raise LedgerBusy(
                    f"{self._num_waiting} callers with {self._waiting_bytes} bytes wait already",
                    where="committer",
                    fix="Try again in a second, or with fewer callers at a time.",
                )
            self._num_waiting += 1
            self._waiting_bytes += len(data) + num_bytes
            self._handed_in.put(_Waiting(data, payloads, num_bytes, is_one, is_open, future))
        return future

    def close(self) -> None:
        """Write what was handed in before, and end the threads. Calling it again does nothing."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._handed_in.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._gathered():
            outcomes: Sequence[Outcome]
            try:
                self._shard.expire_all()
                outcomes = _parted(batch, self._shard.sequence(_entries(batch), _payloads(batch)).answers())
            except Exception as error:  # whatever it is: nobody may wait for ever, and the next batch may go in
                outcomes = [error] * len(batch)
            num_bytes = sum([len(waiting.data) + waiting.num_bytes for waiting in batch])
            with self._closing:
                self._num_waiting -= len(batch)
                self._waiting_bytes -= num_bytes
            _tell([waiting.future for waiting in batch], outcomes)
            self._sequenced_bytes += num_bytes
            self._sequenced.set()
            if self._sequenced_bytes >= INTEGRATE_BYTES:
                self._is_due.set()
        self._done.set()
        self._sequenced.set()
        self._is_due.set()

    def _integrate(self) -> None:
        """What fails, whatever it is, stays sequenced; the next batch is told, since it needs what failed."""
        while not self._done.is_set():
            self._sequenced.wait()
            self._is_due.wait(INTEGRATE_AFTER_S)
            self._sequenced.clear()
            self._sequenced_bytes = 0
            if not self._done.is_set():
                self._is_due.clear()
            with contextlib.suppress(Exception):
                self._shard.integrate()

    def _gathered(self) -> list[_Waiting]:
        """The next batch: the first that comes, and all that is there by then, as far as it fits. Empty: no more will
        come."""
        first = self._held_over or self._handed_in.get()
        self._held_over = None
        if first is None:
            return []
        batch = [first]
        entry_bytes, num_bytes = len(first.data), first.num_bytes
        entry_bytes_max = min(BATCH_ITEMS_MAX, self._entries_max) * ENTRY_BYTES
        is_open, handed_in = first.is_open, self._handed_in
        while not is_open and not handed_in.empty():
            waiting = handed_in.get()
            if waiting is None:
                handed_in.put(None)  # nobody hands in any more
                break
            entry_bytes += len(waiting.data)
            num_bytes += waiting.num_bytes
            if entry_bytes > entry_bytes_max or num_bytes > BATCH_BYTES_MAX:
                self._held_over = waiting
                break
            batch.append(waiting)
            is_open = waiting.is_open
        return batch


def _check(data: bytes, payloads: Sequence[Payload] | None, num_bytes: int, entries_max: int) -> None:
    """Whatever would make a batch invalid."""
    num_entries, rest = divmod(len(data), ENTRY_BYTES)
    if rest or not 0 < num_entries <= entries_max or num_bytes > BATCH_BYTES_MAX:
        limits = f"{entries_max} entries of {ENTRY_BYTES} bytes, or {BATCH_BYTES_MAX} bytes of payload"
        raise _invalid("batch", f"{len(data)} bytes of entries with {num_bytes} bytes are none, or more than {limits}")
    check_payloads(data, payloads)


def _entries(batch: list[_Waiting]) -> Entries:
    return from_bytes(b"".join([waiting.data for waiting in batch]))


def _payloads(batch: list[_Waiting]) -> list[Payload] | None:
    """One for each entry, or None if nobody has any."""
    if all(waiting.payloads is None for waiting in batch):
        return None
    return [payload for waiting in batch for payload in waiting.payloads or _no_payloads(waiting)]


def _no_payloads(waiting: _Waiting) -> list[Payload]:
    return [Payload()] * (len(waiting.data) // ENTRY_BYTES)


def _parted(batch: list[_Waiting], answers: Sequence[Answer]) -> Sequence[Outcome]:
    """Each caller's part of the answers."""
    if len(answers) == len(batch):
        return [answer if waiting.is_one else (answer,) for waiting, answer in zip(batch, answers, strict=True)]
    remaining = iter(answers)
    return [
        next(remaining) if waiting.is_one else tuple(islice(remaining, len(waiting.data) // ENTRY_BYTES))
        for waiting in batch
    ]


def _tell(futures: list["asyncio.Future[Any]"], outcomes: Sequence[Outcome]) -> None:
    """Wake the callers, each event loop once. One that was closed has nobody to tell."""
    loops = [future.get_loop() for future in futures]
    for loop in set(loops):
        mine = [place for place, other in enumerate(loops) if other is loop]
        with contextlib.suppress(RuntimeError):  # it may be closed at any moment
            loop.call_soon_threadsafe(_resolve, [(futures[place], outcomes[place]) for place in mine])


def _resolve(rows: list[tuple["asyncio.Future[Any]", Outcome]]) -> None:
    """In the callers' event loop, but for those that were cancelled."""
    for future, outcome in rows:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _invalid(field: str, what: str) -> EntryInvalid:
    return EntryInvalid(what, where=field, fix="Correct the entries and append them again.")
