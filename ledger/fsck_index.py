"""The derived half of the check of the index: the items that the entries say there are, summed up run by run.

    ID        every entry's id
    SUBJECT   the subject, unless it is zero
    CONTENT   the content hash of the kinds that have content, unless it is zero
    OWNER     the owner, unless it is zero
    PARENT    (index, shard) of every parent

Entries after the last run are in no run: the owner keeps their items in memory, and derives them on opening.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import KINDS_WITH_CONTENT, PARENTS_MAX
from ledger.fsck_form import field_dtype
from ledger.fsck_report import Tell
from ledger.fsck_runs import RunCheck, StoredIndex, mixed, run_name, segment_name
from ledger.runs import Family
from ledger.tail import Keys, key_of, seed_words

ReadRows = Callable[[int, int], NDArray[np.uint8]]
"""(begin, end) -> uint8[n, 240], entries."""

_ROW_DTYPE = field_dtype(
    "kind", "id", "num_parents", "parent_indices", "parent_shards", "owner", "subject", "content_hash"
)
_NEVER = 2**64 - 1
_HAS_CONTENT = np.zeros(2**8, np.bool_)
_HAS_CONTENT[sorted(KINDS_WITH_CONTENT)] = True
_ID, _SUBJECT, _CONTENT, _OWNER, _PARENT = Family.ID, Family.SUBJECT, Family.CONTENT, Family.OWNER, Family.PARENT


class Items:
    """The sums of the items of the entries so far, for each stored run.

    Args:
        seed: uint64[2], as `read_index` had it.
    """

    def __init__(self, stored: StoredIndex, seed: NDArray[np.uint64]) -> None:
        num_runs = max(len(family) for family in stored.runs) + 1  # and one for what is in no run
        self._stored = stored
        self._key_seed = seed_words(stored.seed)
        self._sum_seed = seed
        self._ends = np.full((len(Family), num_runs), _NEVER, np.uint64)
        for family, checks in enumerate(stored.runs):
            self._ends[family, : len(checks)] = [check.run.end for check in checks]
        self._places = np.zeros(len(Family), np.int64)  # which run of each family the next entry belongs to
        self._sums = np.zeros((len(Family), num_runs), np.uint64)

    def add(self, rows: NDArray[np.uint8], begin: int, id_keys: Keys) -> None:
        """Add uint8[n, 240], the entries from index `begin` on; the keys of their ids go into uint64[n].

        Cost: about 20 ns an item.
        """
        entries = rows.view(_ROW_DTYPE).reshape(len(rows))
        _add(entries, begin, self._key_seed, self._sum_seed, self._ends, self._places, self._sums, id_keys)

    def finish(self, read: ReadRows, size: int, block_entries: int, tell: Tell) -> None:
        """Compare, after the last of `size` entries, and say which segments differ. Runs of more entries are left.

        Cost: for each run that differs another pass over its entries, `block_entries` at a time.
        """
        for family, checks in enumerate(self._stored.runs):
            for place, check in enumerate(checks):
                is_sound = not check.is_damaged and check.run.end <= size
                if is_sound and check.sums.sum() != self._sums[family, place]:
                    self._trace(check, read, block_entries, tell)

    def _trace(self, check: RunCheck, read: ReadRows, block_entries: int, tell: Tell) -> None:
        """Which segments of a run are to blame. Every item belongs into the last one that begins at or before it."""
        run, sums = check.run, np.zeros(max(len(check.sums), 1), np.uint64)
        for begin in range(run.first, run.end, block_entries):
            rows = read(begin, min(begin + block_entries, run.end))
            entries = rows.view(_ROW_DTYPE).reshape(len(rows))
            _add_by_segment(
                entries, begin, int(run.family), self._key_seed, self._sum_seed, run.fences, check.first_indices, sums
            )
        stored = check.sums if len(check.sums) else np.zeros(1, np.uint64)
        for number in np.flatnonzero(stored != sums):
            where = segment_name(run.id, number)
            tell(where, f"its items are not those of the entries; this is of {run_name(run)}")


@njit(nogil=True)
def _keys_of(entry: Any, family: int, seed: Any, keys: Any) -> Any:
    """The keys under which an entry is found in a family, into uint64[4]; how many."""
    if family == _PARENT:
        num_parents = min(int(entry.num_parents), PARENTS_MAX)
        for place in range(num_parents):
            keys[place] = key_of((entry.parent_indices[place], np.uint64(entry.parent_shards[place])), seed)
        return num_parents
    if family == _CONTENT:
        words = entry.content_hash
        if not _HAS_CONTENT[entry.kind] or (words[0] | words[1] | words[2] | words[3]) == 0:
            return 0
        keys[0] = key_of((words[0], words[1], words[2], words[3]), seed)
        return 1
    lo, hi = entry.id[0], entry.id[1]
    if family == _SUBJECT:
        lo, hi = entry.subject[0], entry.subject[1]
    elif family == _OWNER:
        lo, hi = entry.owner[0], entry.owner[1]
    if family != _ID and (lo | hi) == 0:
        return 0
    keys[0] = key_of((lo, hi), seed)
    return 1


@njit(nogil=True)
def _add(
    entries: Any, begin: int, key_seed: Any, sum_seed: Any, ends: Any, places: Any, sums: Any, id_keys: Any
) -> None:
    keys = np.empty(PARENTS_MAX, np.uint64)
    for place in range(len(entries)):
        index = np.uint64(begin + place)
        for family in range(len(places) - 1, -1, -1):
            while index >= ends[family, places[family]]:
                places[family] += 1
            num_keys = _keys_of(entries[place], family, key_seed, keys)
            if ends[family, places[family]] != _NEVER:
                for number in range(num_keys):
                    sums[family, places[family]] += mixed(keys[number], index, sum_seed)
        id_keys[place] = keys[0]  # the family of ids came last


@njit(nogil=True)
def _add_by_segment(
    entries: Any, begin: int, family: int, key_seed: Any, sum_seed: Any, fences: Any, first_indices: Any, sums: Any
) -> None:
    keys = np.empty(PARENTS_MAX, np.uint64)
    for place in range(len(entries)):
        index = np.uint64(begin + place)
        for number in range(_keys_of(entries[place], family, key_seed, keys)):
            segment = _segment_of(keys[number], index, fences, first_indices)
            sums[segment] += mixed(keys[number], index, sum_seed)


@njit(nogil=True)
def _segment_of(key: Any, index: Any, fences: Any, first_indices: Any) -> int:
    """The last segment that begins at or before an item; the first if none does."""
    low, high = 0, len(fences)
    while low < high:
        middle = (low + high) // 2
        if fences[middle] < key or (fences[middle] == key and first_indices[middle] <= index):
            low = middle + 1
        else:
            high = middle
    return max(low - 1, 0)
