"""The part of a check that recomputes the Merkle tree from the entries and compares every stored hash with it.

An entry that was changed differs from its stored hash, and so does everything above it, up to the root. A stored hash
that was changed differs alone.
"""

import numpy as np
from numpy.typing import NDArray

from ledger.errors import LedgerCorrupt
from ledger.fsck_report import Tell
from ledger.fsck_walk import Walk
from ledger.merkle import LEVELS_MAX
from ledger.sha256 import HASH_BYTES, Hashes, leaf_hashes
from ledger.store import Snapshot
from ledger.tree import TILE_LEVELS, Edge, Row


class Trees:
    """The tree of the entries so far, and the walks along the stored levels. `edge`: what the root is made of."""

    def __init__(self, tell: Tell) -> None:
        self.edge = Edge(0, {})
        self._tell = tell
        self._walks = {
            level: Walk("hashes", level, HASH_BYTES) for level in range(0, LEVELS_MAX, TILE_LEVELS)
        }  # those that can be read on

    def read(self, snapshot: Snapshot, size: int) -> dict[int, Hashes]:
        """The stored hashes that come with the entries up to `size`, by level."""
        begin = self.edge.size
        stored = {}
        for level in list(self._walks):
            hashes = self._taken(snapshot, level, (size >> level) - (begin >> level))
            if hashes is not None:
                stored[level] = hashes
        return stored

    def _taken(self, snapshot: Snapshot, level: int, num_hashes: int) -> Hashes | None:
        """The next hashes of a level; None, and a problem told, if they cannot be read. Then no more are read."""
        try:
            return self._walks[level].take(snapshot, num_hashes)
        except LedgerCorrupt as error:
            self._tell(error.where, f"{error.what}; the level was not checked from here on")
            del self._walks[level]
            return None

    def grow(self, rows: NDArray[np.uint8]) -> list[Row]:
        """The hashes that come with uint8[n, 240], the next entries. Cost: that of hashing, without the interpreter."""
        self.edge, new = self.edge.extended(leaf_hashes(rows))
        return new

    def check(self, new: list[Row], stored: dict[int, Hashes]) -> None:
        """Compare what `grow` gave with what `read` gave for the same entries."""
        for row in new:
            if row.level in stored:
                self._compare(row.level, row.first, row.hashes, stored[row.level])

    def _compare(self, level: int, first: int, hashes: Hashes, stored: Hashes) -> None:
        if np.array_equal(hashes, stored):
            return
        wrong = first + np.flatnonzero((hashes != stored).any(axis=1))
        below = "of its entry" if level == 0 else "over the hashes below it"
        others = f", and {len(wrong) - 1} more of the next {len(hashes) - int(wrong[0] - first) - 1}"
        self._tell(f"hash {level}/{wrong[0]}", f"it is not the one {below}{others if len(wrong) > 1 else ''}")

    def finish(self, snapshot: Snapshot, size: int) -> None:
        """Each level ends where it should in a tree of `size` entries, and there is no other level."""
        for level in list(self._walks):
            try:
                num_hashes = self._walks[level].finish(snapshot)
            except LedgerCorrupt as error:
                self._tell(error.where, error.what)
                continue
            if num_hashes != size >> level:
                self._tell(f"hash {level}/{size >> level}", f"{num_hashes} hashes instead of {size >> level}")
        for level in range(256):
            key = next((bytes(key) for key, _ in snapshot.rows("hashes", bytes([level]))), b"")
            if key[:1] == bytes([level]) and (level % TILE_LEVELS or level >= LEVELS_MAX):
                self._tell(f"hash row {key[:32].hex()}", "no hashes of this level are stored")
