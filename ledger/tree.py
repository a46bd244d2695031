"""A shard's Merkle tree as it is stored and as it grows: batches of leaves in, rows of hashes out.

Only levels 0, 8, 16, ... are stored: the levels of the tiles that the log serves (C2SP tlog-tiles), 1/255 more than the
leaves alone. A node in between is the root over at most 128 stored ones and is computed when a proof asks for it.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from ledger.merkle import EMPTY_ROOT, LEVELS_MAX, node_hash
from ledger.sha256 import HASH_BYTES, Hashes, node_hashes

TILE_LEVELS = 8
"""A tile spans so many levels."""

TILE_HASHES = 1 << TILE_LEVELS

ReadHashes = Callable[[int, int, int], bytes]
"""(level, begin, end) -> the stored hashes of a level that is a multiple of 8, 32 bytes each."""


class Row(msgspec.Struct, frozen=True):
    """New complete nodes of one stored level: uint8[n, 32], the first with index `first`."""

    level: int
    first: int
    hashes: Hashes


class Edge:
    """The right edge of a tree: all that growing it and computing its root needs.

    `last[level]` is the newest left-hand (even) node of a level: the only ones that a later node or root is made of.
    """

    def __init__(self, size: int, last: dict[int, Hashes]) -> None:
        self.size = size
        self._last = last

    @classmethod
    def load(cls, size: int, read: ReadHashes) -> "Edge":
        """The edge of the first `size` leaves. Cost: one read of less than a tile for each stored level."""
        last: dict[int, Hashes] = {}
        for level in range(0, size.bit_length(), TILE_LEVELS):
            begin = size >> (level + TILE_LEVELS) << TILE_LEVELS
            row = as_hashes(read(level, begin, size >> level))
            for sublevel in range(level, level + TILE_LEVELS):
                if len(row) % 2:
                    last[sublevel] = row[-1:]
                row = node_hashes(row[: len(row) // 2 * 2])
        return cls(size, last)

    def extended(self, leaves: Hashes) -> tuple["Edge", list[Row]]:
        """The edge after more leaf hashes, and the rows to store; this one stays as it is.

        Cost: a hash for each leaf, in one call for each level.
        """
        last, rows = dict(self._last), []
        level, first, hashes = 0, self.size, leaves
        while len(hashes):
            if level % TILE_LEVELS == 0:
                rows.append(Row(level, first, hashes))
            if first % 2:
                hashes, first = np.concatenate([last[level], hashes]), first - 1
            num_paired = len(hashes) // 2 * 2
            if num_paired < len(hashes):
                last[level] = hashes[-1:].copy()
            level, first, hashes = level + 1, first // 2, node_hashes(hashes[:num_paired])
        return Edge(self.size + len(leaves), last), rows

    def root(self) -> bytes:
        """bytes[32], the root over all leaves so far. Cost: one hash per set bit of the size."""
        hashes = [self._last[level].tobytes() for level in range(LEVELS_MAX) if self.size >> level & 1]
        if not hashes:
            return EMPTY_ROOT
        root = hashes[0]
        for left in hashes[1:]:
            root = node_hash(left, root)
        return root


class Nodes:
    """Any complete node of a stored tree, for the proofs of `ledger.merkle`. Keeps the tiles that it has opened."""

    def __init__(self, size: int, read: ReadHashes) -> None:
        self._size = size
        self._read = read
        self._tiles: dict[tuple[int, int], list[Hashes]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """bytes[32], the node (level, index)."""
        base, above = level // TILE_LEVELS * TILE_LEVELS, level % TILE_LEVELS
        number, place = divmod(index << above, TILE_HASHES)
        return self._tile(base, number)[above][place >> above].tobytes()

    def _tile(self, level: int, number: int) -> list[Hashes]:
        """The levels of a tile, lowest first."""
        levels = self._tiles.get((level, number))
        if levels is None:
            begin = number << TILE_LEVELS
            row = as_hashes(self._read(level, begin, min(begin + TILE_HASHES, self._size >> level)))
            levels = [row]
            while len(row) > 1:
                row = node_hashes(row[: len(row) // 2 * 2])
                levels.append(row)
            self._tiles[level, number] = levels
        return levels


def as_hashes(data: bytes | memoryview) -> Hashes:
    """uint8[n, 32] over bytes."""
    return np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES)
