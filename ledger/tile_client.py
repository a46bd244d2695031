"""The client's side of tiles: a log that is only fetched, never believed.

One thing is trusted, the checkpoint, because its signatures satisfy a policy. From there every hash is earned:

1. the partial tiles at the tree's right edge together give the root, which the checkpoint has signed;
2. a full tile gives one hash, which must stand at its place in the tile above, checked before it;
3. an entry of a bundle gives a leaf hash, which must stand in its tile of level 0.

So a proof that is computed here holds, and who serves the tiles can refuse to serve, but cannot lie.
Turned down: to compute proofs from tiles as they come and verify the result. It verifies proofs, but not tiles, and a
mirror needs to know what it keeps.
"""

from pathlib import Path

import numpy as np

from ledger.entry import ENTRY_BYTES
from ledger.errors import EntryNotFound, ReceiptInvalid
from ledger.merkle import consistency_proof, inclusion_proof
from ledger.note import Policy, open_checkpoint_with_policy
from ledger.sha256 import HASH_BYTES, Hashes, leaf_hashes, node_hashes
from ledger.tiles import CHECKPOINT_PATH, FRAMED_BYTES, Fetch, Tile, num_hashes, unbundle
from ledger.tree import TILE_HASHES, TILE_LEVELS, Edge, Nodes, as_hashes

TILES_KEPT_MAX = 1024
"""8 MiB: the upper tiles of a tree of any size, and some hundred of the lowest."""


class VerifiedTiles:
    """A log as its tiles show it at one checkpoint. It is a `ledger.tiles.Source`, so it can be exported: a mirror.

    Raises, like every method here:
        ReceiptInvalid: what was fetched is not what the checkpoint has signed; `where` names the path.
        EntryNotFound: the log does not serve it, or the tree is too small for the question.
    Concurrency: one thread; open several for several.
    """

    def __init__(self, fetch: Fetch, policy: Policy) -> None:
        self._fetch = fetch
        self._note = _as_text(fetch(CHECKPOINT_PATH))
        self._witnessed = open_checkpoint_with_policy(self._note, policy)
        self._tiles: dict[Tile, Hashes] = {}
        self._edge = self._verified_edge()

    @property
    def tree_size(self) -> int:
        return self._witnessed.checkpoint.tree_size

    def checkpoint(self) -> str:
        return self._note

    def inclusion_proof(self, index: int) -> list[bytes]:
        """The proof that the entry `index` is in the checkpoint's tree. Cost: at most one tile a level."""
        if not 0 <= index < self.tree_size:
            raise _beyond(f"entry {index}", self.tree_size)
        return inclusion_proof(index, self.tree_size, Nodes(self.tree_size, self.read_hashes))

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """The proof that the checkpoint's tree grew out of its first `old_size` (> 0) entries."""
        if not 0 < old_size <= self.tree_size:
            raise _beyond(f"a tree of {old_size} entries", self.tree_size)
        return consistency_proof(old_size, self.tree_size, Nodes(self.tree_size, self.read_hashes))

    def root(self, old_size: int) -> bytes:
        """bytes[32], the root over the first `old_size` entries: what an older checkpoint must have signed."""
        if not 0 <= old_size <= self.tree_size:
            raise _beyond(f"a tree of {old_size} entries", self.tree_size)
        return Edge.load(old_size, self.read_hashes).root()

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """The complete nodes `begin` to `end` of a tree level that is a multiple of 8, 32 bytes each."""
        assert level % TILE_LEVELS == 0, level
        tiles = self._tiles_over(level // TILE_LEVELS, begin, end)
        parts = [self._tile(tile)[max(begin - tile.begin, 0) : end - tile.begin].tobytes() for tile in tiles]
        return b"".join(parts)

    def read_entries(self, begin: int, end: int) -> bytes:
        """The entries `begin` to `end`, 240 bytes each. Fetches every bundle that they lie in."""
        parts = []
        for tile in self._tiles_over(None, begin, end):
            first, last = max(begin - tile.begin, 0), end - tile.begin
            parts.append(self._bundle(tile)[first * ENTRY_BYTES : last * ENTRY_BYTES])
        return b"".join(parts)

    def _tiles_over(self, level: int | None, begin: int, end: int) -> list[Tile]:
        """The tiles that hold the places `begin` to `end` of a level."""
        total = num_hashes(level, self.tree_size)
        if not 0 <= begin <= end <= total:
            raise _beyond(f"places {begin} to {end} of level {level or 0}", self.tree_size)
        if begin == end:
            return []
        indices = range(begin // TILE_HASHES, (end - 1) // TILE_HASHES + 1)
        return [Tile(level, index, min(TILE_HASHES, total - index * TILE_HASHES)) for index in indices]

    def _verified_edge(self) -> dict[Tile, Hashes]:
        """Step 1: the partial tiles, which have the checkpoint's root."""
        edge: dict[Tile, Hashes] = {}

        def read(level: int, begin: int, end: int) -> bytes:
            if begin == end:
                return b""
            tile = Tile(level // TILE_LEVELS, begin // TILE_HASHES, end - begin)
            edge[tile] = self._fetched(tile)
            return edge[tile].tobytes()

        if Edge.load(self.tree_size, read).root() != self._witnessed.checkpoint.root:
            raise _invalid(CHECKPOINT_PATH, "the tiles at the right edge do not lead to the root that was signed")
        return edge

    def _tile(self, tile: Tile) -> Hashes:
        """uint8[width, 32], a verified tile, after step 2 if it is a full one. Recurs at most once a level."""
        assert tile.level is not None
        known = self._edge.get(tile)
        if known is None:
            known = self._tiles.get(tile)
        if known is not None:
            return known
        hashes = self._fetched(tile)
        above = self._tiles_over(tile.level + 1, tile.index, tile.index + 1)[0]
        if not np.array_equal(_top(hashes), self._tile(above)[tile.index % TILE_HASHES]):
            raise _invalid(tile.path, "the tile is not the one that the tile above it was made of")
        while len(self._tiles) >= TILES_KEPT_MAX:
            del self._tiles[next(iter(self._tiles))]  # the oldest
        self._tiles[tile] = hashes
        return hashes

    def _bundle(self, tile: Tile) -> bytes:
        """Step 3: the entries of a bundle."""
        entries = unbundle(self._whole_or_part(tile, FRAMED_BYTES))
        rows = np.frombuffer(entries, np.uint8).reshape(-1, ENTRY_BYTES)
        if not np.array_equal(leaf_hashes(rows), self._tile(Tile(0, tile.index, tile.width))):
            raise _invalid(tile.path, "the entries are not those of their tile")
        return entries

    def _fetched(self, tile: Tile) -> Hashes:
        """uint8[width, 32], a tile as it was served."""
        return as_hashes(self._whole_or_part(tile, HASH_BYTES))

    def _whole_or_part(self, tile: Tile, item_bytes: int) -> bytes:
        """The items of a tile as served. A log that has grown may have the partial one only as part of the full one."""
        path, num_bytes = tile.path, tile.width * item_bytes
        try:
            data = self._fetch(path)
        except EntryNotFound:
            if tile.width == TILE_HASHES:
                raise
            path = Tile(tile.level, tile.index).path
            data = self._fetch(path)
            if len(data) == TILE_HASHES * item_bytes:
                return data[:num_bytes]
        if len(data) != num_bytes:
            raise _invalid(path, f"{len(data)} bytes, not {num_bytes}")
        return data


def fetch_from(directory: Path) -> Fetch:
    """Fetch from a directory of static files, as `ledger.tiles.export` writes it."""

    def fetch(path: str) -> bytes:
        try:
            return (directory / path).read_bytes()
        except FileNotFoundError:
            raise EntryNotFound(
                "no such file", where=str(directory / path), fix="Ask another copy of the log."
            ) from None

    return fetch


def _top(hashes: Hashes) -> Hashes:
    """uint8[32], the root over a full tile."""
    while len(hashes) > 1:
        hashes = node_hashes(hashes)
    return hashes[0]


def _as_text(note: bytes) -> str:
    try:
        return note.decode()
    except UnicodeDecodeError:
        raise _invalid(CHECKPOINT_PATH, "it is not UTF-8") from None


def _invalid(path: str, what: str) -> ReceiptInvalid:
    return ReceiptInvalid(what, where=path, fix="Do not trust it; ask another copy of the log.")


def _beyond(what: str, size: int) -> EntryNotFound:
    return EntryNotFound(
        f"{what} in a tree of {size}", where="tiles", fix="Ask for what the checkpoint covers, or fetch a newer one."
    )
