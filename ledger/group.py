"""Group commit: many callers hand in an entry or a few each, one thread writes them together, each gets its answers.

While a batch waits for the disk the next one gathers, so the busier the shard the larger the batches: nobody waits for
a timer, and a lone caller waits for nobody. What one caller does wrong is told to that caller, before it joins a batch;
what befalls a batch is told to everybody in it.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Protocol

import msgspec

from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, Entries, Flag, from_bytes
from ledger.errors import EntryInvalid, LedgerError
from ledger.payload import BATCH_BYTES_MAX, Payload, check_payloads
from ledger.result import Result

BATCH_ITEMS_MAX = 4096

_FIELDS: Any = ENTRY_DTYPE.fields
_FLAGS: int = _FIELDS["flags"][1]


class Answer(msgspec.Struct, frozen=True):
    """What became of an entry: `OK` or `EXISTS` with the index that holds its id, else why it was not recorded."""

    index: int
    result: Result


class Appends(Protocol):
    """The part of a shard that a committer needs."""

    def append(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> "Columns": ...


class Columns(Protocol):
    """The answers to a batch in columns."""

    def answers(self) -> Sequence[Answer]: ...


Answers = tuple[Answer, ...]
Outcome = Answers | Exception


class _Waiting(msgspec.Struct, frozen=True):
    """The entries of one caller, and where it waits."""

    data: bytes
    payloads: Sequence[Payload]
    future: "asyncio.Future[Answers]"

    @property
    def num_bytes(self) -> int:
        return sum([payload.num_bytes for payload in self.payloads])


class Committer:
    """The writer thread of a shard. Callers may be in any number of event loops.

    Args:
        shard: whose only writer this is from now on.
    """

    def __init__(self, shard: Appends) -> None:
        self._shard = shard
        self._waiting: deque[_Waiting] = deque()
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    async def append(self, data: bytes, payload: Payload = Payload()) -> Answer:  # noqa: B008 - it is immutable
        """Record an entry (bytes[240]); durable when this returns. A caller that is cancelled meanwhile is not told,
        and the entry is recorded all the same.

        Raises:
            EntryInvalid: not 240 bytes, a payload that is not what the entry says, or an entry linked to nothing.
            LedgerFull, LedgerCorrupt, LedgerError: see `Shard.append`; or the committer is closed.
        """
        return (await self.append_together(data, (payload,)))[0]

    async def append_together(self, data: bytes, payloads: Sequence[Payload]) -> Answers:
        """Record some entries (240 bytes each) in their order and in one batch: a linked chain, say. As `append`."""
        _check(data, payloads)
        future: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._is_closed:
                raise LedgerError("it is closed", where="committer", fix="Open the shard again.")
            self._waiting.append(_Waiting(data, payloads, future))
            self._changed.notify()
        return await future

    def close(self) -> None:
        """Write what was handed in before, and end the thread. Calling it again does nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._gathered():
            entries = from_bytes(b"".join([waiting.data for waiting in batch]))
            try:
                payloads = [payload for waiting in batch for payload in waiting.payloads]
                answers = self._shard.append(entries, payloads).answers()
            except Exception as error:  # whatever it is: nobody may wait for ever, and the next batch may go in
                _tell([(waiting.future, error) for waiting in batch])
            else:
                _tell(_parted(batch, answers))

    def _gathered(self) -> list[_Waiting]:
        """The next batch: the first that comes, and all that is there by then. Empty: no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            return _taken(self._waiting)


def _check(data: bytes, payloads: Sequence[Payload]) -> None:
    """Whatever would make a batch invalid, or link it to what another caller hands in."""
    num_bytes = sum([payload.num_bytes for payload in payloads])
    if not 0 < len(payloads) <= BATCH_ITEMS_MAX or num_bytes > BATCH_BYTES_MAX:
        limits = f"{BATCH_ITEMS_MAX} entries or {BATCH_BYTES_MAX} bytes of payload"
        raise _invalid("batch", f"{len(payloads)} entries with {num_bytes} bytes are none, or more than {limits}")
    check_payloads(data, payloads)
    if data[_FLAGS - ENTRY_BYTES] & Flag.LINKED:
        raise _invalid("flags", "the last entry is linked to nothing")


def _taken(waiting: deque[_Waiting]) -> list[_Waiting]:
    """Take away as many callers, from the first, as fit into one batch."""
    batch: list[_Waiting] = []
    num_entries = num_bytes = 0
    while waiting:
        num_entries += len(waiting[0].data) // ENTRY_BYTES
        num_bytes += waiting[0].num_bytes
        if batch and (num_entries > BATCH_ITEMS_MAX or num_bytes > BATCH_BYTES_MAX):
            break
        batch.append(waiting.popleft())
    return batch


def _parted(batch: list[_Waiting], answers: Sequence[Answer]) -> list[tuple["asyncio.Future[Answers]", Outcome]]:
    """Each caller's part of the answers."""
    remaining = iter(answers)
    return [(waiting.future, tuple(islice(remaining, len(waiting.payloads)))) for waiting in batch]


def _tell(outcomes: list[tuple["asyncio.Future[Answers]", Outcome]]) -> None:
    """Wake the callers, each event loop once. One that was closed has nobody to tell."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Answers], Outcome]]] = {}
    for row in outcomes:
        by_loop.setdefault(row[0].get_loop(), []).append(row)
    for loop, rows in by_loop.items():
        with contextlib.suppress(RuntimeError):  # it may be closed at any moment
            loop.call_soon_threadsafe(_resolve, rows)


def _resolve(rows: list[tuple["asyncio.Future[Answers]", Outcome]]) -> None:
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
