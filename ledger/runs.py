"""The settled items of the index: sorted runs, their bytes, and exact look-ups in them.

A run holds the items of one family for a range of entries, sorted by key, equal keys by index. Its bytes are blobs
under (run id, number), which are written once and never change:

    segment   run id (u64), number (u32), items (u32), checksum (u64), then a column of keys (u64) and a column of
              indices (u32, from the first entry of the run); every segment but the last has `segment_items`
    fences    one more blob after the last segment: the same header with the number of segments, and the first key
              of each
    manifest  magic (8 bytes), segment_items (u32), number of runs (u32), seed (16 bytes); of each run: family (u8),
              level (u8), zeros (6 bytes), first entry, number of entries, number of items (u64 each); checksum (u64)

A run's id is its family, level and first entry, so nothing has to count ids. A run without items has no blobs.
Everything is little-endian; checksums are XXH3-64 of the other bytes of the blob. They find damage, not forgery: who
can forge them is found by fsck, which derives every item from the entries.
"""

import struct
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from ledger.errors import LedgerCorrupt
from ledger.tail import SEED_BYTES, Indices, Keys, Offsets

SEGMENT_ITEMS = 8188
"""24 pages of 4 KiB less LMDB's page header of 16 bytes: a segment leaves nothing of its last page empty."""

LEVEL_MAX = 4
"""65,536 entries x 16^4 = 2^32: the largest run whose indices fit in 32 bits."""

FEW_KEYS = 16
"""So many are sooner found one by one than all together."""

NUM_ENTRIES_MAX, NUM_SEGMENTS_MAX = 1 << 48, (1 << 32) - 1
"""Of a shard, and of a run: what the ids of runs and the names of segments have room for."""

ReadSegment = Callable[[int, int], Any]
"""(run id, number) -> a buffer with that blob; raises LedgerCorrupt if there is none."""

BlobName = tuple[int, int]
"""(run id, number)."""

_MAGIC = b"mintidx1"
_MANIFEST = struct.Struct(f"<8sII{SEED_BYTES}s")
_RUN = struct.Struct("<BB6xQQQ")
_BLOB = struct.Struct("<QIIQ")
_CHECKSUM = struct.Struct("<Q")
_FIRST_KEY = struct.Struct("<Q")
_CHECKED_BYTES = _BLOB.size - _CHECKSUM.size
_MANIFEST_NAME = "manifest of the index"
_KEY_BYTES, _OFFSET_BYTES = 8, 4

assert sys.byteorder == "little", "columns are read in place, as the machine has them"


class Family(IntEnum):
    """What entries are found by. Numbers are for ever; new families take new ones."""

    ID = 0
    SUBJECT = 1
    CONTENT = 2
    OWNER = 3
    PARENT = 4


class _Row(NamedTuple):
    """A run as the manifest has it."""

    family: int
    level: int
    first: int
    num_entries: int
    num_items: int


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What is kept in memory of a run.

    Args:
        id: `run_id` of the next three.
        first: the first entry it covers; the indices in its segments count from here.
        fences: uint64[s], the first key of every segment.
        checked: a byte a segment, 1 once its checksum was found right in this process.
    """

    id: int
    family: Family
    level: int
    first: int
    num_entries: int
    num_items: int
    segment_items: int
    fences: Keys
    checked: bytearray = field(repr=False)

    @classmethod
    def of(
        cls,
        family: Family,
        level: int,
        first: int,
        num_entries: int,
        num_items: int,
        segment_items: int,
        fences: Keys,
    ) -> "Run":
        """A run of which no segment was checked yet."""
        name = run_id(family, level, first)
        checked = bytearray(len(fences))
        return cls(name, family, level, first, num_entries, num_items, segment_items, fences, checked)

    @property
    def end(self) -> int:
        """The first entry after those it covers."""
        return self.first + self.num_entries

    def blobs(self) -> list[BlobName]:
        """The names of everything that is stored of it."""
        return [(self.id, number) for number in range(len(self.fences) + 1)] if self.num_items else []

    def columns(self, number: int, read: ReadSegment) -> tuple[memoryview, memoryview]:
        """The keys (u64) and the offsets of the indices (u32) of a segment, in place.

        Raises:
            LedgerCorrupt: the segment is damaged. Checked once in the life of the run; later reads trust it.
        """
        data = memoryview(read(self.id, number))
        if not self.checked[number]:
            self._check(number, data)
            self.checked[number] = 1
        middle = _BLOB.size + _KEY_BYTES * ((len(data) - _BLOB.size) // (_KEY_BYTES + _OFFSET_BYTES))
        return data[_BLOB.size : middle].cast("Q"), data[middle:].cast("I")

    def arrays(self, number: int, read: ReadSegment) -> tuple[Keys, Offsets]:
        """`columns` as uint64[n] and uint32[n]."""
        keys, offsets = self.columns(number, read)
        return np.frombuffer(keys, np.uint64), np.frombuffer(offsets, np.uint32)

    def find(self, key: int, read: ReadSegment, begin: int) -> Iterator[int]:
        """The indices under a key that are not before `begin`, ascending."""
        fences = self.fences.data
        number = max(bisect_left(fences, key) - 1, 0)
        while number < len(fences) and fences[number] <= key:
            keys, offsets = self.columns(number, read)
            low = bisect_left(keys, key)
            if low < len(keys) and keys[low] == key:
                high = bisect_right(keys, key, low)
                low = bisect_left(offsets, begin - self.first, low, high) if begin > self.first else low
                yield from (self.first + offset for offset in offsets[low:high])
            number += 1

    def find_many(self, keys: Keys, read: ReadSegment) -> tuple[NDArray[np.int64], Indices]:
        """int64[m] places in uint64[n] keys, which are ascending, and the uint64[m] indices found for them."""
        places, indices = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        first_numbers = np.maximum(np.searchsorted(self.fences, keys, "left") - 1, 0)
        last_numbers = np.searchsorted(self.fences, keys, "right") - 1
        for number in _covered(first_numbers, last_numbers, len(self.fences)):
            begin = np.searchsorted(last_numbers, number, "left")
            end = np.searchsorted(first_numbers, number, "right")
            segment_keys, offsets = self.arrays(number, read)
            low = np.searchsorted(segment_keys, keys[begin:end], "left")
            num_found = np.searchsorted(segment_keys, keys[begin:end], "right") - low
            starts = np.cumsum(num_found) - num_found
            places.append(np.repeat(np.arange(begin, end), num_found))
            rows = np.arange(len(places[-1])) + np.repeat(low - starts, num_found)
            indices.append(offsets[rows] + np.uint64(self.first))
        return np.concatenate(places), np.concatenate(indices)

    def rank(self, key: int, side: Literal["left", "right"], read: ReadSegment) -> int:
        """How many items have a lesser key (left), or none greater (right)."""
        number = int(np.searchsorted(self.fences, np.uint64(key), side)) - 1
        if number < 0:
            return 0
        return number * self.segment_items + int(np.searchsorted(self.arrays(number, read)[0], np.uint64(key), side))

    def _check(self, number: int, data: memoryview) -> None:
        num_items = min(self.segment_items, self.num_items - number * self.segment_items)
        _check_blob(data, self.id, number, num_items, _KEY_BYTES + _OFFSET_BYTES)
        if _FIRST_KEY.unpack_from(data, _BLOB.size)[0] != self.fences[number]:
            raise _corrupt("the first key is not the one in the fences", _name(self.id, number))


def _covered(first_numbers: NDArray[np.int64], last_numbers: NDArray[np.int64], num_numbers: int) -> list[int]:
    """The numbers in any of the ranges first to last, each once, ascending; a range may be empty."""
    num_begun = np.cumsum(np.bincount(first_numbers, minlength=num_numbers + 1))
    num_ended = np.cumsum(np.bincount(last_numbers + 1, minlength=num_numbers + 1))
    return np.flatnonzero(num_begun > num_ended).tolist()


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """All runs at one moment, of each family in order of their entries. It never changes; threads may share it.

    A reader in another thread takes `index.runs`, begins its read transaction and takes `index.runs` again: if it is
    the same, the transaction sees all of its blobs, because a run's blobs are stored before the index has it and
    deleted after the index has replaced it. In another process the manifest in the transaction says what the runs are.
    """

    seed: bytes
    segment_items: int
    families: tuple[tuple[Run, ...], ...]

    @classmethod
    def empty(cls, seed: bytes, segment_items: int = SEGMENT_ITEMS) -> "Runs":
        return cls(seed, segment_items, ((),) * len(Family))

    @classmethod
    def open(cls, manifest: bytes, read: ReadSegment) -> "Runs":
        """The runs of a manifest.

        Raises:
            LedgerCorrupt: the manifest or the fences of a run are damaged; it says which.
        Cost: reads the fences: one blob a run.
        """
        seed, segment_items, rows = _unpack_manifest(manifest)
        families: list[list[Run]] = [[] for _ in Family]
        for row in rows:
            if row.first + row.num_entries > NUM_ENTRIES_MAX or row.num_items > NUM_SEGMENTS_MAX * segment_items:
                raise _corrupt("a run has more entries or items than there may be", _MANIFEST_NAME)
            if row.family >= len(Family) or row.level > LEVEL_MAX:
                raise _corrupt("a run has no such family or level", _MANIFEST_NAME)
            runs = families[row.family]
            if row.first != (runs[-1].end if runs else 0):
                raise _corrupt("a run does not begin where the one before ends", _MANIFEST_NAME)
            runs.append(_open_run(row, segment_items, read))
        if len({runs[-1].end if runs else 0 for runs in families}) > 1:
            raise _corrupt("its families do not cover the same entries", _MANIFEST_NAME)
        return cls(seed, segment_items, tuple(map(tuple, families)))

    def manifest(self) -> bytes:
        """The one canonical form of what these runs are."""
        runs = [run for family in self.families for run in family]
        parts = [_MANIFEST.pack(_MAGIC, self.segment_items, len(runs), self.seed)]
        parts += [_RUN.pack(run.family, run.level, run.first, run.num_entries, run.num_items) for run in runs]
        data = b"".join(parts)
        return data + _CHECKSUM.pack(_checksum(data))

    @property
    def num_entries(self) -> int:
        """How many entries, from the first, are covered."""
        family = self.families[Family.ID]
        return family[-1].end if family else 0

    def find(
        self, family: Family, key: int, read: ReadSegment, *, begin: int = 0, limit: int | None = None
    ) -> list[int]:
        """The indices under a key, ascending: of those from `begin` on the first `limit`, or all.

        Raises:
            LedgerCorrupt: a segment is damaged or missing; it says which.
        Cost: a segment is read for each run, of which there are 8 to 24 a level.
        """
        runs = (run for run in self.families[family] if run.end > begin)
        return list(islice(chain.from_iterable(run.find(key, read, begin) for run in runs), limit))

    def find_many(self, family: Family, keys: Keys, read: ReadSegment) -> tuple[NDArray[np.int64], Indices]:
        """All indices under each of uint64[n] keys.

        Returns:
            int64[m] places in `keys` and the uint64[m] indices found for them, ordered by place, then index.
        Raises:
            LedgerCorrupt: a segment is damaged or missing; it says which.
        Cost: each segment that may have one of the keys is read once; about 3 us for each run and key if these are
            few, at least 50 us a run if they are many.
        """
        if len(keys) <= FEW_KEYS:
            found = [self.find(family, key, read) for key in keys.tolist()]
            few = np.repeat(np.arange(len(keys)), list(map(len, found)))
            return few, np.array(list(chain.from_iterable(found)), np.uint64)
        order = np.argsort(keys)
        ascending = keys[order]
        results = [run.find_many(ascending, read) for run in self.families[family]]
        places = order[np.concatenate([np.empty(0, np.int64), *(row[0] for row in results)])]
        indices = np.concatenate([np.empty(0, np.uint64), *(row[1] for row in results)])
        by_place = np.lexsort((indices, places))
        return places[by_place], indices[by_place]

    def orphans(self, stored: Iterable[BlobName]) -> list[BlobName]:
        """Which stored blobs belong to no run: left by a merge that a crash cut short, or that was not cleaned up."""
        known = {run.id: len(run.fences) for family in self.families for run in family if run.num_items}
        return [(run, number) for run, number in stored if number > known.get(run, -1)]

    def covers(self, run: int) -> bool:
        """Whether a run of a higher level has taken the place of the one with this id, which is never written again."""
        family, level, first = run >> 56, run >> 48 & 0xFF, run & (1 << 48) - 1
        runs = self.families[family] if family < len(self.families) else ()
        return any(other.level > level and other.first <= first < other.end for other in runs)


def run_id(family: Family, level: int, first: int) -> int:
    """u64: no two runs ever have the same family, level and first entry."""
    assert first < NUM_ENTRIES_MAX
    return family << 56 | level << 48 | first


def segment_blob(run: int, number: int, keys: Keys, offsets: Offsets) -> bytes:
    """The bytes of a segment."""
    return _blob(run, number, keys, offsets)


def fences_blob(run: int, fences: Sequence[int] | Keys) -> bytes:
    """The bytes of a run's fences; its number is the number of segments."""
    return _blob(run, len(fences), np.asarray(fences, np.uint64))


def first_key(data: Any) -> int:
    """The first key of a segment, unchecked. Raises LedgerCorrupt if there is none."""
    if len(data) < _BLOB.size + _KEY_BYTES:
        raise _corrupt(f"{len(data)} bytes are no segment", _MANIFEST_NAME)
    key: int = _FIRST_KEY.unpack_from(data, _BLOB.size)[0]
    return key


def is_blob(run: int, number: int, data: memoryview) -> bool:
    """Whether these are the unchanged bytes of a segment or of fences with that name, whatever is in them."""
    if len(data) < _BLOB.size or _BLOB.unpack_from(data)[:2] != (run, number):
        return False
    return bool(_BLOB.unpack_from(data)[3] == _checksum(data[:_CHECKED_BYTES], data[_BLOB.size :]))


def _blob(run: int, number: int, *columns: NDArray[Any]) -> bytes:
    head = _BLOB.pack(run, number, len(columns[0]), 0)[:_CHECKED_BYTES]
    body = b"".join([column.tobytes() for column in columns])
    return head + _CHECKSUM.pack(_checksum(head, body)) + body


def _open_run(row: _Row, segment_items: int, read: ReadSegment) -> Run:
    """A run with the fences that are stored."""
    family, num_segments = Family(row.family), -(-row.num_items // segment_items)
    fences = np.empty(0, np.uint64)
    if row.num_items:
        run = run_id(family, row.level, row.first)
        data = memoryview(read(run, num_segments))
        _check_blob(data, run, num_segments, num_segments, _KEY_BYTES)
        fences = np.frombuffer(bytes(data[_BLOB.size :]), np.uint64)
    return Run.of(family, row.level, row.first, row.num_entries, row.num_items, segment_items, fences)


def _check_blob(data: memoryview, run: int, number: int, num_items: int, item_bytes: int) -> None:
    """Length, name and checksum."""
    if len(data) != _BLOB.size + num_items * item_bytes:
        raise _corrupt(f"{len(data)} bytes are not those of {num_items} items", _name(run, number))
    stored_run, stored_number, stored_items, checksum = _BLOB.unpack_from(data)
    if (stored_run, stored_number, stored_items) != (run, number, num_items):
        raise _corrupt("another segment is in its place", _name(run, number))
    if _checksum(data[:_CHECKED_BYTES], data[_BLOB.size :]) != checksum:
        raise _corrupt("the checksum is wrong", _name(run, number))


def _unpack_manifest(manifest: bytes) -> tuple[bytes, int, list[_Row]]:
    """The seed, the items a segment, and the runs."""
    num_rows, rest = divmod(len(manifest) - _MANIFEST.size - _CHECKSUM.size, _RUN.size)
    if num_rows < 0 or rest:
        raise _corrupt(f"{len(manifest)} bytes are not those of a number of runs", _MANIFEST_NAME)
    if _CHECKSUM.pack(_checksum(manifest[: -_CHECKSUM.size])) != manifest[-_CHECKSUM.size :]:
        raise _corrupt("the checksum is wrong", _MANIFEST_NAME)
    magic, segment_items, num_runs, seed = _MANIFEST.unpack_from(manifest)
    if magic != _MAGIC or num_runs != num_rows or not segment_items:
        raise _corrupt("it has another form: another release of Mintage wrote it", _MANIFEST_NAME)
    rows = _RUN.iter_unpack(manifest[_MANIFEST.size : -_CHECKSUM.size])
    return seed, segment_items, [_Row(*row) for row in rows]


def _checksum(*parts: Any) -> int:
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()


def _name(run: int, number: int) -> str:
    return f"index run {run:#018x}, segment {number}"


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
