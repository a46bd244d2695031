"""What a shard has sequenced and not integrated yet: durable in its write-ahead log, kept here, and looked up with what
is in the store."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

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


class Part(NamedTuple):
    """Consecutive entries in memory: uint8[n, 240]."""

    first: int
    rows: NDArray[np.uint8]


class Overlay:
    """A snapshot with the pending entries behind it, and those that come. The snapshot may show some of them, too."""

    def __init__(self, snapshot: Recorded, pending: Sequence[Record]) -> None:
        self._snapshot = snapshot
        self._parts = [Part(record.first, record.rows) for record in pending]
        self._firsts = [part.first for part in self._parts]

    def entries(self, begin: int, end: int, width: int) -> bytes:
        """The bytes of one entry, or of some that are in the store."""
        if not self._firsts or begin < self._firsts[0]:
            return self._snapshot.entries(begin, end, width)
        first, rows = self._parts[bisect_right(self._firsts, begin) - 1]
        if end > first + len(rows):
            raise LedgerCorrupt(f"no entry {end - 1}", where="write-ahead log", fix="Open the shard again.")
        return rows[begin - first : end - first].tobytes()

    def segment(self, run: int, number: int) -> Any:
        return self._snapshot.segment(run, number)

    def append_entries(self, first: int, rows: NDArray[np.uint8]) -> None:
        """From now on these are there, too."""
        self._parts.append(Part(first, rows))
        self._firsts.append(first)
