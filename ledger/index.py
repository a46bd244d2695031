"""The index of a shard: which entries have this id, subject, content, owner or parent; exact and at append speed.

New items go into tables in memory (`ledger.tail`). After some 65,000 entries the tables are sorted and become runs of
level 0 (`ledger.runs`); sixteen adjacent runs of a level are merged into one of the next (`ledger.merge`), in bounded
steps that each append pays for. So an item is written about once for each level, in sequence, and a look-up asks a few
dozen runs. A filter (`ledger.filter`) tells most new ids from old ones without asking any.

A shard keeps what this index gives it and gives it back on opening; the index itself writes nothing:

    index = Index.open(manifest, read, new_seed=seed)
    delete index.take_up(stored names, read), at the latest with the first batch
    insert the items of the entries from index.runs.num_entries on into `index.tails`; index.refilled(their number)
    for each batch: insert its items into `index.tails`
                    writes = index.prepare(number of entries with the batch, read)
                    store `writes` and the batch in one transaction
                    index.applied(writes), or index.discard() if the transaction failed

Nothing but the tables changes before `applied`, and `discard` puts them back, so a failed batch leaves no trace. Where
entries are durable before they are stored (`ledger.wal`), their items are kept with `accept`, and batches go on coming
between `prepare` and `applied` unless `will_flush`.
Source: O'Neil et al., The Log-Structured Merge-Tree, Acta Informatica 1996; merging paid by each insert: Bentley and
Saxe, Decomposable Searching Problems, 1980.
Turned down: a B-tree of LMDB with hashed keys (0.2 to 0.8 million random inserts a second, falling with size), and
merging in a thread of its own (its bursts would be the append's latency, and its lag has no bound).
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ledger.entry import PARENTS_MAX
from ledger.filter import Filter
from ledger.merge import FAN_IN, Merge, Step
from ledger.runs import (
    LEVEL_MAX,
    SEGMENT_ITEMS,
    BlobName,
    Family,
    ReadSegment,
    Run,
    Runs,
    fences_blob,
    run_id,
    segment_blob,
)
from ledger.tail import Indices, Keys, Tail, found, found_many, new_tail, sorted_items, truncate

BLOCK_ENTRIES = 65_536
"""The most entries whose items are in the tables, or in a run of level 0."""

BATCH_ENTRIES_MAX = 8_192
"""The most entries between two calls of `prepare`."""

MERGE_ITEMS_PER_ITEM = 2
"""Credit that every merge under way earns by a place for an item. So it is done before half as many entries have come
as it has, and no append pays for much more than another: with 8 for all merges together, a look-up asked a third fewer
runs, but appends went at half the speed for a million entries in sixteen."""

SPARE_DELETES = 1
"""Blobs deleted beyond as many as are put. What a merge has replaced stays until its place is needed: where many pages
are free, LMDB goes through all of them for every row that fits in none of the gaps (20 ms for 1 MB, measured)."""

ITEMS_PER_ENTRY_MAX = {
    Family.ID: 1,
    Family.SUBJECT: 1,
    Family.CONTENT: 1,
    Family.OWNER: 1,
    Family.PARENT: PARENTS_MAX,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The limits above; smaller ones make many merges of few items."""

    block_entries: int = BLOCK_ENTRIES
    batch_entries_max: int = BATCH_ENTRIES_MAX
    segment_items: int = SEGMENT_ITEMS
    fan_in: int = FAN_IN


@dataclass(frozen=True, slots=True, eq=False)
class Writes:
    """What is to be stored and deleted together with a batch. No manifest: it stays as it is."""

    puts: tuple[tuple[BlobName, bytes], ...]
    deletes: tuple[BlobName, ...]
    manifest: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """The state that takes effect once `writes` are durable."""

    writes: Writes
    num_entries: int
    runs: Runs
    flushed: dict[Family, Run]
    steps: dict[tuple[Family, int], Step]
    credits: dict[tuple[Family, int], int]


class Index:
    """See the top of this module.

    Concurrency: one thread at a time, but for `prepare` without `will_flush`, which only needs that no other write is
    under way; `runs` may be taken and used by any thread.
    """

    def __init__(self, runs: Runs, ids: Filter, sizes: Sizes) -> None:
        self.tails: tuple[Tail, ...] = tuple(
            new_tail(ITEMS_PER_ENTRY_MAX[family] * sizes.block_entries) for family in Family
        )
        self.runs = runs
        self._ids = ids
        self._sizes = sizes
        self._num_entries = runs.num_entries
        self._counts = [0] * len(Family)  # items in the tails that are durable
        self._merges: dict[tuple[Family, int], Merge] = {}
        self._credits: dict[tuple[Family, int], int] = {}
        self._doomed: deque[BlobName] = deque()
        self._prepared: _Prepared | None = None
        self._start_merges()

    @classmethod
    def open(cls, manifest: bytes | None, read: ReadSegment, *, new_seed: bytes, sizes: Sizes = Sizes()) -> "Index":
        """The index of a manifest, or an empty one, under `new_seed` (16 random bytes), if there is none yet.

        Raises:
            LedgerCorrupt: the manifest, the fences of a run or a segment of ids is damaged; it says which.
        Cost: reads all ids (12 bytes an entry) to fill the filter.
        """
        runs = Runs.empty(new_seed, sizes.segment_items) if manifest is None else Runs.open(manifest, read)
        ids = Filter(sum(run.num_items for run in runs.families[Family.ID]))
        for run in runs.families[Family.ID]:
            for number in range(len(run.fences)):
                ids.add(run.arrays(number, read)[0])
        return cls(runs, ids, sizes)

    @property
    def seed(self) -> bytes:
        """bytes[16], what the keys are made with; to be kept secret."""
        return self.runs.seed

    def take_up(self, stored: Iterable[BlobName], read: ReadSegment) -> tuple[BlobName, ...]:
        """After opening: let merges go on from what is stored of their outputs, and delete what they have replaced bit
        by bit. What is left, of merges that begin anew, is for the caller to delete before anything is put.

        Cost: reads what there is of the outputs.
        """
        orphans: defaultdict[int, set[int]] = defaultdict(set)
        for run, number in self.runs.orphans(stored):
            orphans[run].add(number)
        for merge in self._merges.values():
            numbers = orphans.get(merge.id, set())
            num_segments = min(set(range(len(numbers) + 1)) - numbers)  # those from 0 on without a gap
            if num_segments and merge.take_up(num_segments, read):
                numbers.difference_update(range(num_segments))
        names = sorted((run, number) for run, numbers in orphans.items() for number in numbers)
        self._doomed.extend(name for name in names if self.runs.covers(name[0]))
        return tuple(name for name in names if not self.runs.covers(name[0]))

    def refilled(self, num_entries: int) -> None:
        """After opening: the tables have the items of all stored entries that no run covers; `num_entries` in all."""
        self._num_entries = num_entries
        self.accept()

    def maybe_flushed(self, keys: Keys) -> NDArray[np.bool_]:
        """bool[n]: False where no run has an id of that key; True where one has, and for 1 in 1,000 others at most."""
        return self._ids.maybe(keys)

    def find(
        self, family: Family, key: int, read: ReadSegment, *, begin: int = 0, limit: int | None = None
    ) -> list[int]:
        """The indices under a key, ascending: of those from `begin` on the first `limit`, or all.

        Raises:
            LedgerCorrupt: a segment is damaged or missing; it says which.
        Cost: a segment is read for each run, of which there are 8 to 24 a level.
        """
        indices = self.runs.find(family, key, read, begin=begin, limit=limit)
        indices += (index for index in found(self.tails[family], key).tolist() if index >= begin)
        return indices[:limit]

    def find_many(self, family: Family, keys: Keys, read: ReadSegment) -> tuple[NDArray[np.int64], Indices]:
        """All indices under each of uint64[n] keys: see `Runs.find_many`; here with those in memory."""
        places, indices = self.runs.find_many(family, keys, read)
        newest_places, newest_indices = found_many(self.tails[family], keys)
        places = np.concatenate([places, newest_places])
        indices = np.concatenate([indices, newest_indices])
        order = np.argsort(places, kind="stable")
        return places[order], indices[order]

    def prepare(self, num_entries: int, read: ReadSegment) -> Writes:
        """What must be stored with a batch: runs of the tables if they are full, and the next steps of the merges.

        Args:
            num_entries: of the shard, with the batch; their items are in the tables.
            read: blobs as the transaction that stores the batch sees them.
        Raises:
            LedgerCorrupt: a segment is damaged or missing; it says which. Nothing has changed.
        """
        assert self._prepared is None, "the writes before were neither applied nor discarded"
        num_new = num_entries - self._num_entries
        assert num_new >= 0 and num_entries - self.runs.num_entries <= self._sizes.block_entries
        credits, steps = self._advance_merges(num_new, read)
        puts = [put for step in steps.values() for put in step.puts]
        flushed: dict[Family, Run] = {}
        if self.will_flush(num_entries):
            for family in Family:
                flushed[family], blobs = self._flush(family, num_entries)
                puts += blobs
        runs = self._runs_after(flushed, steps)
        deletes = tuple(islice(self._doomed, len(puts) + SPARE_DELETES))
        writes = Writes(tuple(puts), deletes, None if runs is self.runs else runs.manifest())
        self._prepared = _Prepared(writes, num_entries, runs, flushed, steps, credits)
        return writes

    def applied(self, writes: Writes) -> None:
        """The batch and `writes` are durable."""
        prepared = self._prepared
        assert prepared is not None and writes is prepared.writes, "these are not the writes prepared last"
        self._prepared = None
        for _ in writes.deletes:
            self._doomed.popleft()
        for name, step in prepared.steps.items():
            self._merges[name].applied(step)
            if step.run:
                self._doomed.extend(blob for run in self._merges.pop(name).inputs for blob in run.blobs())
        if prepared.flushed:
            ids = self.tails[Family.ID]
            self._ids.add(ids.keys[: int(ids.num_items[0])])
            for table in self.tails:
                truncate(table, 0)
        self._credits = prepared.credits
        self.refilled(prepared.num_entries)
        if prepared.runs is not self.runs:
            self.runs = prepared.runs
            self._start_merges()

    def discard(self) -> None:
        """The batch was not stored: forget it. It may come again, or another one."""
        self.cancel()
        self.retract()

    def cancel(self) -> None:
        """What was prepared was not stored: forget that, and keep the items."""
        self._prepared = None

    def accept(self) -> None:
        """The items in the tables stay, whatever becomes of writes: their entries are durable elsewhere."""
        self._counts = [int(table.num_items[0]) for table in self.tails]

    def retract(self) -> None:
        """Forget the items since the last `accept` or `applied`."""
        for table, count in zip(self.tails, self._counts, strict=True):
            truncate(table, count)

    def will_flush(self, num_entries: int) -> bool:
        """Whether `prepare` will make runs of the tables, and `applied` empty them: nobody may insert in between."""
        return num_entries - self.runs.num_entries + self._sizes.batch_entries_max > self._sizes.block_entries

    def _flush(self, family: Family, num_entries: int) -> tuple[Run, list[tuple[BlobName, bytes]]]:
        """The table of a family as a run of level 0, and its blobs."""
        first, size = self.runs.num_entries, self.runs.segment_items
        keys, offsets = sorted_items(self.tails[family], first)
        name = run_id(family, 0, first)
        blobs = [
            ((name, number), segment_blob(name, number, keys[start : start + size], offsets[start : start + size]))
            for number, start in enumerate(range(0, len(keys), size))
        ]
        fences = keys[::size].copy()
        run = Run.of(family, 0, first, num_entries - first, len(keys), size, fences)
        if blobs:
            blobs.append(((name, len(fences)), fences_blob(name, fences)))
        return run, blobs

    def _advance_merges(
        self, num_new: int, read: ReadSegment
    ) -> tuple[dict[tuple[Family, int], int], dict[tuple[Family, int], Step]]:
        """Every merge goes on as far as its credit allows, which is whole segments; what is left is kept. One that
        begins, or goes on after opening, has credit for a segment, so that it comes on however short a process lives.
        """
        credits: dict[tuple[Family, int], int] = {}
        steps: dict[tuple[Family, int], Step] = {}
        for name, merge in sorted(self._merges.items()):
            earned = MERGE_ITEMS_PER_ITEM * ITEMS_PER_ENTRY_MAX[name[0]] * num_new
            credit = self._credits.get(name, self._sizes.segment_items) + earned
            steps[name] = merge.step(credit, read)
            if steps[name].run is None:
                credits[name] = credit - steps[name].num_items
        return credits, steps

    def _runs_after(self, flushed: dict[Family, Run], steps: dict[tuple[Family, int], Step]) -> Runs:
        """The runs once complete merges have taken the place of their inputs, and the flushed ones have come."""
        outputs = {name: step.run for name, step in steps.items() if step.run}
        if not flushed and not outputs:
            return self.runs
        families: list[tuple[Run, ...]] = []
        for family in Family:
            runs = list(self.runs.families[family])
            for (_, level), output in ((name, run) for name, run in outputs.items() if name[0] == family):
                begin = runs.index(self._merges[family, level].inputs[0])
                runs[begin : begin + self._sizes.fan_in] = [output]
            families.append((*runs, flushed[family]) if flushed else tuple(runs))
        return Runs(self.runs.seed, self.runs.segment_items, tuple(families))

    def _start_merges(self) -> None:
        """Begin a merge wherever a level has enough runs for one and none is under way."""
        for family in Family:
            for level in range(LEVEL_MAX):
                inputs = [run for run in self.runs.families[family] if run.level == level][: self._sizes.fan_in]
                if len(inputs) == self._sizes.fan_in and (family, level) not in self._merges:
                    self._merges[family, level] = Merge(tuple(inputs))
