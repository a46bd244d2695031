"""The stored half of the check of the index: every run read and found sorted, and what its items sum up to.

A sum is that of a keyed hash of each item (key, index), modulo 2^64, whatever their order. The key is drawn for this
check, so nobody can have prepared other items with the same sum: a wrong run passes with a chance of 2^-64. A sum is
kept for each segment, 24 bytes for 98,256, so that a difference can be traced to its segment.

The shard's owner may merge runs meanwhile. So a few segments are read in each snapshot, and each snapshot begins with
the manifest in it: a run that is no longer there is forgotten, a new one is read. A run never changes, and the look is
over in the first snapshot all of whose runs have been read. It belongs before the look at the head, since the head of
a later snapshot covers every entry that these runs cover.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.errors import LedgerCorrupt
from ledger.fsck_report import Tell
from ledger.head import Head
from ledger.index import BLOCK_ENTRIES
from ledger.merge import FAN_IN
from ledger.runs import Family, ReadSegment, Run, Runs, is_blob
from ledger.store import Snapshot, Store
from ledger.tail import SEED_BYTES, Keys, key_of

SEGMENTS_A_LOOK = 256
"""25 MB, about 50 ms in one snapshot."""

_NAME_BYTES = 12
_RUN_BYTES = 8


class RunCheck:
    """A run as far as it was read. `sums` and `first_indices`: uint64[s], of every segment."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sums = np.zeros(len(run.fences), np.uint64)
        self.first_indices = np.zeros(len(run.fences), np.uint64)
        self.num_read = 0
        self.is_damaged = False
        self._last = -1, -1

    @property
    def is_done(self) -> bool:
        return self.is_damaged or self.num_read == len(self.sums)

    def read(self, run: Run, segment: ReadSegment, num_max: int, seed: NDArray[np.uint64]) -> int:
        """Read on, `num_max` segments at most; how many.

        Args:
            run: the same, as the snapshot has it.
        Raises:
            LedgerCorrupt: a segment is damaged, missing or not in order; it says which.
        """
        begin = self.num_read
        for number in range(begin, min(begin + num_max, len(self.sums))):
            keys, offsets = run.arrays(number, segment)
            total, is_sorted = _sum(keys, offsets, np.uint64(run.first), seed)
            if not is_sorted or (int(keys[0]), int(offsets[0])) <= self._last or offsets.max() >= run.num_entries:
                raise LedgerCorrupt(
                    "its items are not in order, or of entries that the run does not cover",
                    where=segment_name(run.id, number),
                    fix="Restore the shard from a copy.",
                )
            self._last = int(keys[-1]), int(offsets[-1])
            self.sums[number], self.first_indices[number] = total, run.first + int(offsets[0])
            self.num_read = number + 1
        return self.num_read - begin


class StoredIndex:
    """The runs of one manifest, read. `seed`: what their keys are made with; `runs`: of each family, in order."""

    def __init__(self, seed: bytes, runs: tuple[tuple[RunCheck, ...], ...], num_orphans: int) -> None:
        self.seed = seed
        self.runs = runs
        self.num_orphans = num_orphans


NO_INDEX = StoredIndex(bytes(SEED_BYTES), ((),) * len(Family), 0)


def read_index(store: Store, seed: NDArray[np.uint64], tell: Tell) -> StoredIndex:
    """Every run of the index of a shard; what is damaged is told.

    Args:
        seed: uint64[2], random, for the sums.
    Raises:
        LedgerCorrupt: the manifest cannot be read, or the fences of a run, or the head.
    Cost: about 10 ns an item.
    """
    checks: dict[int, RunCheck] = {}
    while True:
        with store.read() as snapshot:
            runs = _runs(snapshot)
            checks = {run.id: checks.get(run.id) or RunCheck(run) for family in runs.families for run in family}
            if all(check.is_done for check in checks.values()):
                families = tuple(tuple(checks[run.id] for run in family) for family in runs.families)
                return StoredIndex(runs.seed, families, _count_orphans(runs, snapshot, tell))
            _read_some(checks, runs, snapshot, seed, tell)


def _runs(snapshot: Snapshot) -> Runs:
    """The runs that there are, which cover all entries but the newest."""
    manifest, size = snapshot.state("index"), Head.of(snapshot).tree_size
    runs = Runs.empty(bytes(SEED_BYTES)) if manifest is None else Runs.open(manifest, snapshot.segment)
    if not 0 <= size - runs.num_entries <= BLOCK_ENTRIES:
        raise LedgerCorrupt(
            f"its runs cover {runs.num_entries} of {size} entries",
            where="manifest of the index",
            fix="Restore the shard from a copy.",
        )
    return runs


def _read_some(checks: dict[int, RunCheck], runs: Runs, snapshot: Snapshot, seed: Keys, tell: Tell) -> None:
    """Go on where the last snapshot ended."""
    num_left = SEGMENTS_A_LOOK
    for run in (run for family in runs.families for run in family):
        check = checks[run.id]
        if check.is_done:
            continue
        try:
            num_left -= check.read(run, snapshot.segment, num_left, seed)
        except LedgerCorrupt as error:
            tell(segment_name(run.id, check.num_read), f"{error.what}; this is of {run_name(run)}")
            check.is_damaged = True
        if num_left <= 0:
            return


def segment_name(run: int, number: int) -> str:
    return f"index run {run:#018x}, segment {number}"


def run_name(run: Run) -> str:
    """A run in words."""
    return f"{run.family.name}, entries {run.first} to {run.end - 1}"


def _count_orphans(runs: Runs, snapshot: Snapshot, tell: Tell) -> int:
    """How many segments belong to no run, for a reason; damaged ones, and stored rows without a reason, are told."""
    known = {run.id: run for family in runs.families for run in family if run.num_items}
    num_orphans, foreign = 0, dict[int, list[int]]()
    for run, number, data in _segments(snapshot, tell):
        if run in known and number <= len(known[run].fences):
            continue
        if run in known or not _may_be_left(run, runs):
            foreign.setdefault(run, []).append(number)
            continue
        num_orphans += 1
        if not is_blob(run, number, data):
            tell(segment_name(run, number), "the checksum or the name is wrong; it belongs to no run yet, or no more")
    for run, numbers in foreign.items():
        others = f", and neither do {len(numbers) - 1} more" if len(numbers) > 1 else ""
        tell(segment_name(run, numbers[0]), f"it belongs to no run, nor to one being made or replaced{others}")
    return num_orphans


def _segments(snapshot: Snapshot, tell: Tell) -> Iterator[tuple[int, int, memoryview]]:
    """Run, number and bytes of everything that is stored of the index."""
    for key, data in snapshot.rows("runs"):
        if len(key) == _NAME_BYTES:
            yield int.from_bytes(key[:_RUN_BYTES], "big"), int.from_bytes(key[_RUN_BYTES:], "big"), data
        else:
            tell(f"index row {bytes(key[:32]).hex()}", "it is not named as a segment is")


def _may_be_left(run: int, runs: Runs) -> bool:
    """Whether a run is being made of others, or has been replaced by one, so that segments of it may be there."""
    family, level, first = run >> 56, (run >> 48) & 0xFF, run & (2**48 - 1)
    if family >= len(Family):
        return False
    inputs = [other for other in runs.families[family] if other.level == level - 1]
    is_made = len(inputs) >= FAN_IN and inputs[0].first == first
    return is_made or any(other.level > level and other.first <= first < other.end for other in runs.families[family])


@njit(nogil=True)
def mixed(key: Any, index: Any, seed: Any) -> Any:
    """An item's part of a sum."""
    return key_of((key, index), seed)


@njit(nogil=True)
def _sum(keys: Any, offsets: Any, first: Any, seed: Any) -> Any:
    """The sum of the items of a segment, and whether they strictly ascend."""
    total = np.uint64(0)
    is_sorted = True
    for place in range(len(keys)):
        total += mixed(keys[place], first + np.uint64(offsets[place]), seed)
        if place:
            is_equal = keys[place] == keys[place - 1]
            is_sorted &= keys[place] > keys[place - 1] or (is_equal and offsets[place] > offsets[place - 1])
    return total, is_sorted
