"""The newest entries as a reader finds them: those that no run of the index covers yet, by columns of their values.

The writer has them in hash tables, which it changes while it appends; a reader cannot look into those without making
the writer wait. So it keeps columns of its own, filled from what is committed, and scans them: a column has at most
65,536 words.
Turned down: hash tables of the reader's own. They cost more to fill than a few look-ups gain, and a command line asks
few.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES, HASH_BYTES, ID_BYTES, KINDS_WITH_CONTENT, PARENTS_MAX, SHARD_MAX, Parent
from ledger.errors import LedgerCorrupt
from ledger.index import BLOCK_ENTRIES
from ledger.runs import Family
from ledger.tail import Indices

VALUE_BYTES = {
    Family.ID: ID_BYTES,
    Family.SUBJECT: ID_BYTES,
    Family.CONTENT: HASH_BYTES,
    Family.OWNER: ID_BYTES,
    Family.PARENT: 16,
}
"""What a family is asked by: a field of the entry, or a place (`parent_value`)."""

_FIELD_PLACES = {Family.ID: 16, Family.OWNER: 96, Family.SUBJECT: 112, Family.CONTENT: 128}
_KIND, _PARENT_INDICES, _PARENT_SHARDS, _NUM_PARENTS = 2, 32, 64, 72
_PARENTS = struct.Struct(f"<{PARENTS_MAX}Q{PARENTS_MAX}H")
_PLACE = struct.Struct("<QQ")
_WORD_BYTES = 8
_ENTRY_WORDS = ENTRY_BYTES // _WORD_BYTES
_SHARD_BITS = 16
_NO_INDEX = 2**64 - 1
_KINDS = np.array(sorted(KINDS_WITH_CONTENT), np.uint8)


def _words_of(place: int, num_bytes: int) -> list[int]:
    """The words of an entry, or their columns, that a field takes."""
    return list(range(place // _WORD_BYTES, (place + num_bytes) // _WORD_BYTES))


class Newest:
    """Columns over the entries from `first` on, as many as were given.

    Concurrency: one thread extends at a time; any number of threads look for what lies below a size that they know was
    reached. What is there never changes.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.end = first
        self._columns = np.empty((_ENTRY_WORDS, BLOCK_ENTRIES), np.uint64)  # pages of unused columns are never touched

    def extend(self, data: bytes) -> None:
        """Add the entries that follow, 240 bytes each.

        Raises:
            LedgerCorrupt: the runs of the index leave out more entries than they may.
        """
        rows = np.frombuffer(data, np.uint8).reshape(-1, ENTRY_BYTES)
        begin, end = self.end - self.first, self.end - self.first + len(rows)
        if end > BLOCK_ENTRIES:
            raise LedgerCorrupt(
                f"the runs cover {self.first} of {self.first + end} entries, and may leave out {BLOCK_ENTRIES}",
                where="manifest of the index",
                fix="Run fsck on the shard and restore it from a copy.",
            )
        words, columns = rows.view(np.uint64), self._columns[:, begin:end]
        for family, place in _FIELD_PLACES.items():
            chosen = _words_of(place, VALUE_BYTES[family])
            columns[chosen] = words[:, chosen].T
        columns[_words_of(_FIELD_PLACES[Family.CONTENT], HASH_BYTES)] *= np.isin(rows[:, _KIND], _KINDS)
        parents = _words_of(_PARENT_INDICES, _NUM_PARENTS - _PARENT_INDICES)
        columns[parents] = words[:, parents].T
        for place in range(PARENTS_MAX):
            columns[parents[place]][rows[:, _NUM_PARENTS] <= place] = _NO_INDEX
        self.end += len(rows)

    def find(self, family: Family, value: bytes, begin: int, end: int) -> list[int]:
        """The indices from `begin` up to `end`, ascending, of entries that have a value.

        Cost: about 30 us; for parents 0.3 ms.
        """
        low = max(begin - self.first, 0)
        columns = self._columns[:, low : max(end - self.first, low)]
        if family == Family.PARENT:
            rows = _children(columns, *_PLACE.unpack(value))
        else:
            rows = _rows_with(columns, _words_of(_FIELD_PLACES[family], len(value)), value)
        return (rows + (self.first + low)).tolist() if any(value) or family == Family.PARENT else []

    def find_many(self, family: Family, values: NDArray[np.uint8], end: int) -> tuple[NDArray[np.int64], Indices]:
        """Of each of uint8[n, w] values: int64[m] places in `values` and the uint64[m] indices below `end` of entries
        whose field begins with the same eight bytes. Not of parents."""
        column = self._columns[_FIELD_PLACES[family] // _WORD_BYTES, : max(end - self.first, 0)]
        order = np.argsort(column, kind="stable")
        words = np.ascontiguousarray(values).view(np.uint64)[:, 0]
        low = np.searchsorted(column[order], words, "left")
        num_found = np.searchsorted(column[order], words, "right") - low
        places = np.repeat(np.arange(len(words)), num_found)
        starts = np.cumsum(num_found) - num_found
        rows = np.arange(len(places)) + np.repeat(low - starts, num_found)
        return places, (order[rows] + self.first).astype(np.uint64)


def _rows_with(columns: NDArray[np.uint64], words: list[int], value: bytes) -> NDArray[np.int64]:
    """Where the words of a field are those of a value."""
    first, *others = np.frombuffer(value, np.uint64)
    rows = np.flatnonzero(columns[words[0]] == first)
    for word, expected in zip(words[1:], others, strict=True):
        rows = rows[columns[word][rows] == expected]
    return rows


def _children(columns: NDArray[np.uint64], index: int, shard: int) -> NDArray[np.int64]:
    """Where one of the parents is (shard, index)."""
    found = np.zeros(columns.shape[1], np.bool_)
    shards = columns[_PARENT_SHARDS // _WORD_BYTES]
    for place, word in enumerate(_words_of(_PARENT_INDICES, _PARENT_SHARDS - _PARENT_INDICES)):
        of_place = (shards >> np.uint64(_SHARD_BITS * place)) & np.uint64(SHARD_MAX)
        found |= (columns[word] == np.uint64(index)) & (of_place == np.uint64(shard))
    return np.flatnonzero(found)


def parent_value(parent: Parent) -> bytes:
    """What an entry's children are found by: its index and its shard."""
    shard, index = parent
    return _PLACE.pack(index, shard)


def has_value(data: bytes, family: Family, value: bytes) -> bool:
    """Whether the bytes of an entry have a value in a family. Zeros are in none."""
    if family == Family.PARENT:
        index, shard = _PLACE.unpack(value)
        numbers = _PARENTS.unpack_from(data, _PARENT_INDICES)
        places = zip(numbers[:PARENTS_MAX], numbers[PARENTS_MAX:], strict=True)
        return (index, shard) in list(places)[: data[_NUM_PARENTS]]
    if not any(value) or (family == Family.CONTENT and data[_KIND] not in KINDS_WITH_CONTENT):
        return False
    place = _FIELD_PLACES[family]
    return data[place : place + len(value)] == value
