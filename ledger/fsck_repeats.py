"""The part of a check that finds an id that two entries have: a key for each, sorted; equal ones looked at exactly.

8 bytes of memory an entry. Equal keys of different ids are possible, but a shard of a thousand million entries has
them once in forty runs; so the pass over the entries that tells them apart is made only if there are any.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import ENTRY_DTYPE
from ledger.fsck_report import Tell
from ledger.tail import Keys, keys_of

_NUM_SUSPECTS_MAX = 1 << 20
"""Keys that are looked at exactly. So many repeats are enough to know what the shard is worth."""


class Repeats:
    """The keys of the ids of `size` entries: uint64[size], to be filled in."""

    def __init__(self, size: int, seed: bytes) -> None:
        self.keys: Keys = np.empty(size, np.uint64)
        self._seed = seed
        self._suspects: Keys = np.empty(0, np.uint64)
        self._first: dict[bytes, int] = {}

    def finish(self) -> bool:
        """After the last entry: whether some keys are equal, so that the entries must be looked at again.

        Cost: that of sorting, about 20 ns an entry.
        """
        self.keys.sort()
        num_equal = _count_equal(self.keys)
        self._suspects = np.unique(_equal(self.keys, min(num_equal, _NUM_SUSPECTS_MAX)))
        self.keys = np.empty(0, np.uint64)
        return num_equal > 0

    def look(self, rows: NDArray[np.uint8], begin: int, tell: Tell) -> None:
        """Tell which of uint8[n, 240], the entries from index `begin` on, have an id that an earlier one has."""
        ids = rows.view(ENTRY_DTYPE).reshape(len(rows))["id"]
        keys = keys_of(np.ascontiguousarray(ids).view(np.uint8).reshape(len(rows), -1), self._seed)
        for place in np.flatnonzero(np.isin(keys, self._suspects)).tolist():
            first = self._first.setdefault(ids[place].tobytes(), begin + place)
            if first != begin + place:
                tell(f"entry {begin + place}", f"it has the id of entry {first}")


@njit(nogil=True)
def _count_equal(keys: Any) -> int:
    """How many of some sorted keys are equal to the one before."""
    count = 0
    for place in range(1, len(keys)):
        count += keys[place] == keys[place - 1]
    return count


@njit(nogil=True)
def _equal(keys: Any, num_max: int) -> Any:
    """The first `num_max` of these, which must be there."""
    found = np.empty(num_max, np.uint64)
    count = 0
    for place in range(1, len(keys)):
        if count < num_max and keys[place] == keys[place - 1]:
            found[count] = keys[place]
            count += 1
    return found
