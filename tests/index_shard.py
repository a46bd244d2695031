"""A shard of nothing but an index: blobs in a dictionary, and a dictionary of lists to compare it with."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ledger.errors import LedgerCorrupt
from ledger.index import Index, Sizes
from ledger.runs import FEW_KEYS, Family
from ledger.tail import insert

SEED = bytes(range(16))

Items = Sequence[tuple[Family, int]]
"""The (family, key) of every item of one entry."""


class IndexShard:
    """Does what a shard does with an index, and keeps what the index should know."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.manifest: bytes | None = None
        self.blobs: dict[tuple[int, int], bytes] = {}
        self.entries: list[Items] = []
        self.model: defaultdict[tuple[Family, int], list[int]] = defaultdict(list)
        self.num_reads = 0
        self.reopen()

    def read(self, run: int, number: int) -> bytes:
        self.num_reads += 1
        if (run, number) not in self.blobs:
            raise LedgerCorrupt("the segment is missing", where=f"run {run:#018x}, segment {number}", fix="None.")
        return self.blobs[run, number]

    def append(self, batch: Sequence[Items], *, is_stored: bool = True) -> None:
        """A batch of entries; if it is not stored, as when the disk is full."""
        self._insert(batch, len(self.entries))
        writes = self.index.prepare(len(self.entries) + len(batch), self.read)
        if not is_stored:
            self.index.discard()
            return
        for name in writes.deletes:
            del self.blobs[name]
        assert self.blobs.keys().isdisjoint(name for name, _ in writes.puts), "a blob was written twice"
        self.blobs.update(writes.puts)
        self.manifest = writes.manifest or self.manifest
        self.index.applied(writes)
        for items in batch:
            for name in items:
                self.model[name].append(len(self.entries))
            self.entries.append(items)

    def reopen(self) -> None:
        """As after a crash: what was stored is all there is."""
        self.index = Index.open(self.manifest, self.read, new_seed=SEED, sizes=self.sizes)
        for name in self.index.take_up(self.blobs, self.read):
            del self.blobs[name]
        first = self.index.runs.num_entries
        self._insert(self.entries[first:], first)
        self.index.refilled(len(self.entries))

    def find(self, family: Family, key: int) -> list[int]:
        return self.index.find(family, key, self.read)

    def check(self) -> None:
        """Every item is found, and nothing else is."""
        for (family, key), indices in self.model.items():
            assert self.find(family, key) == indices, f"{family!r} {key}"
        for family in Family:
            keys = np.array([key for name, key in self.model if name == family], np.uint64)
            for some in (keys, keys[:FEW_KEYS]):
                places, indices = self.index.find_many(family, some, self.read)
                pairs = [(place, index) for place, key in enumerate(some.tolist()) for index in self.model[family, key]]
                assert list(zip(places.tolist(), indices.tolist(), strict=True)) == pairs

    def _insert(self, batch: Sequence[Items], first: int) -> None:
        for index, items in enumerate(batch, first):
            for family, key in items:
                insert(self.index.tails[family], np.uint64(key), np.uint64(index))
