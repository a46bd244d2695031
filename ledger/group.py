"""Group commit: many callers hand in one entry each, one thread writes them together, each gets its answer.

While a batch waits for the disk the next one gathers, so the busier the shard the larger the batches: nobody waits for
a timer, and a lone caller waits for nobody.
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from typing import Protocol

import msgspec

from ledger.entry import Entries, from_bytes
from ledger.errors import LedgerError
from ledger.payload import Payload
from ledger.result import Result

BATCH_ITEMS_MAX = 4096


class Answer(msgspec.Struct, frozen=True):
    """What became of an entry: `OK` or `EXISTS` with the index that holds its id, else why it was not recorded."""

    index: int
    result: Result


class Appends(Protocol):
    """The part of a shard that a committer needs."""

    def append(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> "Columns": ...


class Columns(Protocol):
    """The answers to a batch in columns, one place an entry."""

    def answer(self, place: int) -> Answer: ...


class _Waiting(msgspec.Struct, frozen=True):
    """An entry, and where its caller waits."""

    data: bytes
    payload: Payload
    future: "asyncio.Future[Answer]"


class Committer:
    """The writer thread of a shard. Callers may be in any number of event loops.

    Args:
        shard: whose only writer this is from now on.
    """

    def __init__(self, shard: Appends) -> None:
        self._shard = shard
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    async def append(self, data: bytes, payload: Payload = Payload()) -> Answer:  # noqa: B008 - it is immutable
        """Record an entry (bytes[240]); durable when this returns.

        Raises:
            EntryInvalid: not 240 bytes.
            LedgerFull, LedgerCorrupt, LedgerError: see `Shard.append`; the entry was not recorded.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        from_bytes(data)
        self._queue.put(_Waiting(data, payload, future))
        return await future

    def close(self) -> None:
        """Write what was handed in before, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while batch := self._gathered():
            try:
                columns = self._shard.append(
                    from_bytes(b"".join(waiting.data for waiting in batch)), [waiting.payload for waiting in batch]
                )
            except LedgerError as error:
                self._tell([(waiting.future, error) for waiting in batch])
            else:
                self._tell([(waiting.future, columns.answer(place)) for place, waiting in enumerate(batch)])

    def _gathered(self) -> list[_Waiting]:
        """The next batch: the first that comes, and all that is there by then. Empty: no more will come."""
        batch: list[_Waiting] = []
        waiting = self._queue.get()
        while waiting is not None:
            batch.append(waiting)
            if len(batch) == BATCH_ITEMS_MAX or self._queue.empty():
                return batch
            waiting = self._queue.get()
        if batch:
            self._queue.put(None)  # to be found again once this batch is written
        return batch

    def _tell(self, outcomes: list[tuple["asyncio.Future[Answer]", Answer | LedgerError]]) -> None:
        """Wake the callers, each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Answer], Answer | LedgerError]]] = {}
        for row in outcomes:
            by_loop.setdefault(row[0].get_loop(), []).append(row)
        for loop, rows in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, rows)


def _resolve(rows: list[tuple["asyncio.Future[Answer]", Answer | LedgerError]]) -> None:
    """In the callers' event loop. One that was cancelled meanwhile is not told; its entry is recorded all the same."""
    for future, outcome in rows:
        if future.done():
            continue
        if isinstance(outcome, Answer):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
