"""A log in memory: entries, the stored levels of its tree, and a signed checkpoint of any of its sizes."""

import numpy as np
from shards import naive_root

from ledger.entry import ENTRY_BYTES, Kind, as_bytes, zeros
from ledger.note import Checkpoint, Signer
from ledger.sha256 import Hashes, leaf_hashes, node_hashes
from ledger.tree import TILE_HASHES, TILE_LEVELS

SIGNER = Signer("example.org/log/shard-0", b"s" * 32)


def some_entries(num_entries: int, first: int = 0) -> bytes:
    """Entries that differ from each other, and from those with another `first`."""
    entries = zeros(num_entries)
    entries["kind"] = Kind.MODEL
    entries["time_ns"] = 1 + first + np.arange(num_entries, dtype=np.uint64)
    return as_bytes(entries).tobytes()


class MemoryLog:
    """A `ledger.tiles.Source` over bytes; `tree_size` may be set to any size it has had.

    Roots are computed from the leaves, so that they owe nothing to what reads the levels.
    """

    def __init__(self, entries: bytes, signer: Signer = SIGNER) -> None:
        self.entries = entries
        self.signer = signer
        self.num_entries = self.tree_size = len(entries) // ENTRY_BYTES
        leaves = leaf_hashes(np.frombuffer(entries, np.uint8).reshape(-1, ENTRY_BYTES))
        self.leaves = [leaf.tobytes() for leaf in leaves]
        self.levels: dict[int, Hashes] = {}
        level, row = 0, leaves
        while len(row):
            self.levels[level] = row
            row = row[: len(row) // TILE_HASHES * TILE_HASHES]
            for _ in range(TILE_LEVELS):
                row = node_hashes(row)
            level += TILE_LEVELS

    def root(self, size: int) -> bytes:
        return naive_root(self.leaves[:size])

    def note(self, size: int) -> str:
        return self.signer.sign(Checkpoint(self.signer.name, size, self.root(size)).text())

    def checkpoint(self) -> str:
        return self.note(self.tree_size)

    def read_node(self, level: int, index: int) -> bytes:
        """Any complete node, for the proofs of `ledger.merkle`."""
        base = level // TILE_LEVELS * TILE_LEVELS
        row = self.levels[base][index << (level - base) : (index + 1) << (level - base)]
        while len(row) > 1:
            row = node_hashes(row)
        return row[0].tobytes()

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        return self.levels[level][begin:end].tobytes()

    def read_entries(self, begin: int, end: int) -> bytes:
        return self.entries[begin * ENTRY_BYTES : end * ENTRY_BYTES]
