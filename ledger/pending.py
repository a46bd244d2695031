"""What a shard has sequenced and not integrated yet: durable in its write-ahead log, kept here, and looked up with what
is in the store."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ledger.errors import LedgerCorrupt
from ledger.wal import Record


class Recorded(Protocol):
    """Where recorded entries and the index's segments are read from: see `store.Snapshot`."""

    def entries(self, begin: int, end: int, width: int) -> bytes: ...

    def segment(self, run: int, number: int) -> Any: ...


class Growing(Recorded, Protocol):
    """One that takes more entries, and shows them from then on: see `store.Batch`."""

    def append_entries(self, first: int, data: Any) -> None: ...


class Overlay:
    """A snapshot with the pending entries behind it, and those that come. The snapshot may show some of them, too.

    Args:
        pending: by index, without gaps; it does not change meanwhile.
    """

    def __init__(self, snapshot: Recorded, pending: Sequence[Record]) -> None:
        self._snapshot = snapshot
        self._pending = pending
        self._added: list[Record] = []

    def entries(self, begin: int, end: int, width: int) -> bytes:
        """The bytes of some entries, which are in the store, or in one record."""
        for records in (self._added, self._pending):
            if records and begin >= records[0].first:
                record = records[bisect_right(records, begin, key=_first) - 1]
                if end > record.end:
                    raise LedgerCorrupt(f"no entry {end - 1}", where="write-ahead log", fix="Open the shard again.")
                return record.rows[begin - record.first : end - record.first].tobytes()
        return self._snapshot.entries(begin, end, width)

    def segment(self, run: int, number: int) -> Any:
        return self._snapshot.segment(run, number)

    def append_entries(self, first: int, rows: NDArray[np.uint8]) -> None:
        """From now on these are there, too."""
        self._added.append(Record(first, rows, {}))


def _first(record: Record) -> int:
    return record.first
