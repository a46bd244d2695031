"""The part of a check that looks at each entry alone: form, shard, version, time, and which parents it names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, SHARD_MAX, VERSION, Flag
from ledger.fsck_report import PROBLEMS_MAX, Tell
from ledger.result import Result
from ledger.rules import check

_ANYTHING = np.full(SHARD_MAX + 1, 2**64 - 1, np.uint64)
"""Parents in other shards are looked up when all shards are done."""

_OTHER_VERSION, _OTHER_SHARD, _OLD_TIME = 1, 2, 4
_SAYINGS = {
    _OTHER_VERSION: f"its version is not {VERSION}",
    _OTHER_SHARD: "it says that it belongs to another shard",
    _OLD_TIME: "its time is not after that of the entry before it",
}
_RESULTS = {
    Result.UNKNOWN_PARENT: "a parent of it does not come before it",
    Result.NOT_CANONICAL: "it is not in canonical form",
    Result.RESERVED_FLAG: "it has a flag that its kind does not have",
    Result.ID_MUST_NOT_BE_ZERO: "its id is zero",
}


def field_dtype(*names: str) -> np.dtype[np.void]:
    """An entry as a kernel reads it: only these fields, hashes and ids in words (numba knows no overlapping fields)."""
    fields: Any = ENTRY_DTYPE.fields
    forms = [fields[name][0] for name in names]
    return np.dtype(
        {
            "names": list(names),
            "formats": [
                ("<u8", (form.itemsize // 8,)) if form.type is np.void and not form.shape else form for form in forms
            ],
            "offsets": [fields[name][1] for name in names],
            "itemsize": ENTRY_BYTES,
        }
    )


_ROW_DTYPE = field_dtype("version", "shard", "time_ns", "num_parents", "parent_indices", "parent_shards")


class Forms:
    """The entries of a shard, block after block.

    `last_ns`: the time of the newest entry. `furthest`: uint64[65536], of every shard one more than the largest index
    that an entry names as its parent there.
    """

    def __init__(self, shard: int, tell: Tell) -> None:
        self.last_ns = 0
        self.furthest = np.zeros(SHARD_MAX + 1, np.uint64)
        self._shard = shard
        self._tell = tell
        self._linked = False

    def check(self, rows: NDArray[np.uint8], begin: int) -> None:
        """uint8[n, 240], the entries from index `begin` on. Cost: about 30 ns an entry."""
        entries = rows.view(_ROW_DTYPE).reshape(len(rows))
        results = check(rows, self._shard, begin, _ANYTHING, may_expire=True)
        marks = np.zeros(len(rows), np.uint8)
        self.last_ns = int(_look(entries, self._shard, np.uint64(self.last_ns), marks, self.furthest))
        for place in np.flatnonzero(results)[: PROBLEMS_MAX + 1]:
            self._tell(f"entry {begin + place}", _RESULTS[Result(results[place])])
        for place in np.flatnonzero(marks)[: PROBLEMS_MAX + 1]:
            for mark, saying in _SAYINGS.items():
                if marks[place] & mark:
                    self._tell(f"entry {begin + place}", saying)
        self._linked = bool(rows.view(ENTRY_DTYPE)[-1]["flags"] & Flag.LINKED)

    def finish(self, size: int) -> None:
        """After the last entry, with which no chain may be left open: a batch ends there."""
        if self._linked:
            self._tell(f"entry {size - 1}", "it is linked to an entry that is not there")


@njit(nogil=True)
def _look(entries: Any, shard: int, last_ns: Any, marks: Any, furthest: Any) -> Any:
    """Fill in the marks and the parents; the time of the last entry."""
    for place in range(len(entries)):
        entry = entries[place]
        if entry.version != VERSION:
            marks[place] |= _OTHER_VERSION
        if entry.shard != shard:
            marks[place] |= _OTHER_SHARD
        if entry.time_ns <= last_ns:
            marks[place] |= _OLD_TIME
        last_ns = entry.time_ns
        for parent in range(min(entry.num_parents, len(entry.parent_indices))):
            other = entry.parent_shards[parent]
            furthest[other] = max(furthest[other], entry.parent_indices[parent] + np.uint64(1))
    return last_ns
