"""Tiles: a log as a finite set of files that never change, and one that does (C2SP tlog-tiles).

    checkpoint                      the newest signed checkpoint
    tile/<level>/<N>[.p/<width>]    256 hashes of the tree, or fewer at its right edge
    tile/entries/<N>[.p/<width>]    the 256 entries under tile/0/<N>: each a 16-bit big-endian length and the bytes

Hash i of tile (level, N) is the root over the leaves (256 N + i) 256^level up to (256 N + i + 1) 256^level: a stored
node of the tree (`ledger.tree`), of level 8 * level. So serving a tile is one read, any cache or file server can do it,
and a client computes from tiles whatever proof it wants (`ledger.tile_client`).
Turned down: an API that computes proofs. It costs the log work for every question, and no cache can answer it.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from ledger.entry import ENTRY_BYTES
from ledger.errors import EntryNotFound, LogMismatch, ReceiptInvalid
from ledger.files import create_once, hold_lock, make_directory
from ledger.note import Checkpoint, read_checkpoint
from ledger.replace import replace_file
from ledger.tree import TILE_HASHES, TILE_LEVELS, Edge

CHECKPOINT_PATH = "checkpoint"
LEVEL_MAX = 63
EXPORT_LOCK = ".export.lock"

FRAMED_BYTES = 2 + ENTRY_BYTES
"""An entry in a bundle, behind its length."""

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")
_LENGTH = np.frombuffer(ENTRY_BYTES.to_bytes(2, "big"), np.uint8)

Fetch = Callable[[str], bytes]
"""path -> the bytes that a log serves under it; EntryNotFound if it serves none."""


class Source(Protocol):
    """A log that can be served as tiles: a shard, or a client's verified view of somebody else's."""

    @property
    def tree_size(self) -> int:
        """How many entries the newest checkpoint covers."""

    def checkpoint(self) -> str:
        """The newest checkpoint, a signed note. What it covers can already be read."""

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """The complete nodes `begin` to `end` of a tree level that is a multiple of 8, 32 bytes each."""

    def read_entries(self, begin: int, end: int) -> bytes:
        """The entries `begin` to `end`, 240 bytes each."""


class Tile(msgspec.Struct, frozen=True):
    """A tile by its place, or with level None the bundle of entries under tile (0, index)."""

    level: int | None
    index: int
    width: int = TILE_HASHES

    @property
    def path(self) -> str:
        """Where it is served: the index in groups of three digits, all but the last marked with an x."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[place : place + 3] for place in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        kind = "entries" if self.level is None else str(self.level)
        return f"tile/{kind}/{number}" + (f".p/{self.width}" if self.width < TILE_HASHES else "")

    @property
    def begin(self) -> int:
        """The index of its first hash within its level, or of its first entry."""
        return self.index * TILE_HASHES

    @property
    def end(self) -> int:
        """The index after its last."""
        return self.begin + self.width


def parse_path(path: str) -> Tile:
    """The tile that is served under a path.

    Raises:
        EntryNotFound: the path is no tile's, or not in the one spelling that a tile has.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise _not_found(path, "it is no tile's path")
    level = None if match[1] == "entries" else int(match[1])
    index = int(match[2].replace("x", "").replace("/", ""))
    tile = Tile(level, index, TILE_HASHES if match[3] is None else int(match[3]))
    if tile.path != path or tile.width == 0 or (level is not None and level > LEVEL_MAX):
        raise _not_found(path, "it is not in canonical form")
    return tile


def num_hashes(level: int | None, size: int) -> int:
    """How many hashes a tile level has in a tree of `size` leaves, or how many entries there are."""
    return size >> (TILE_LEVELS * (level or 0))


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """The tiles of a tree of `size` leaves that one of `since` leaves has not: entries first, then level by level."""
    assert 0 <= since <= size, (since, size)
    for level in _levels(size):
        old, new = num_hashes(level, since), num_hashes(level, size)
        if old < new:
            for index in range(old // TILE_HASHES, -(-new // TILE_HASHES)):
                yield Tile(level, index, min(TILE_HASHES, new - index * TILE_HASHES))


def partial_tiles(size: int) -> Iterator[Tile]:
    """The tiles at the right edge of a tree that are not full: at most one a level, and one bundle."""
    for level in _levels(size):
        index, width = divmod(num_hashes(level, size), TILE_HASHES)
        if width:
            yield Tile(level, index, width)


def serve(path: str, source: Source) -> bytes:
    """The bytes of a path below a log's prefix: its checkpoint, a tile or a bundle.

    Raises:
        EntryNotFound: the log serves nothing there; `what` says whether the path is wrong or the log too small.
    Cost: one read of at most 8 kB of hashes or 60 kB of entries.
    """
    if path == CHECKPOINT_PATH:
        return source.checkpoint().encode()
    return read_tile(parse_path(path), source)


def read_tile(tile: Tile, source: Source) -> bytes:
    """The content of a tile or a bundle.

    Raises:
        EntryNotFound: the log has not so many hashes or entries yet.
    """
    size = source.tree_size
    if tile.end > num_hashes(tile.level, size):
        raise _not_found(tile.path, f"it is beyond the {size} entries of the newest checkpoint")
    if tile.level is None:
        return bundle(source.read_entries(tile.begin, tile.end))
    return bytes(source.read_hashes(tile.level * TILE_LEVELS, tile.begin, tile.end))


def bundle(entries: bytes) -> bytes:
    """An entry bundle of whole entries."""
    rows = np.frombuffer(entries, np.uint8).reshape(-1, ENTRY_BYTES)
    framed = np.empty((len(rows), FRAMED_BYTES), np.uint8)
    framed[:, : len(_LENGTH)] = _LENGTH
    framed[:, len(_LENGTH) :] = rows
    return framed.tobytes()


def unbundle(data: bytes) -> bytes:
    """The entries of a bundle, one after another.

    Raises:
        ReceiptInvalid: it is not a number of entries of 240 bytes, each with its length.
    """
    if len(data) % FRAMED_BYTES == 0:
        framed = np.frombuffer(data, np.uint8).reshape(-1, FRAMED_BYTES)
        if (framed[:, : len(_LENGTH)] == _LENGTH).all():
            return framed[:, len(_LENGTH) :].tobytes()
    raise ReceiptInvalid(
        f"not a number of {ENTRY_BYTES}-byte entries with their lengths",
        where="entry bundle",
        fix="Do not trust it; ask another copy of the log.",
    )


def export(directory: Path, source: Source) -> Checkpoint:
    """Bring a directory of static files up to a log's newest checkpoint, and return that.

    The checkpoint is replaced last, so who reads the directory always finds every tile that the checkpoint needs. Only
    the tiles since the directory's own checkpoint are written; partial tiles go when their full tile is there, as the
    specification allows. An export that was interrupted is finished by the next.
    Raises:
        LogMismatch: the directory holds another log, or a larger or another tree of this one; it is left as it was.
        LedgerLocked: another export into it is running.
        LedgerFull: no room; the directory still serves its old checkpoint.
    Cost: two disk flushes a tile.
    """
    make_directory(directory)
    lock = hold_lock(directory / EXPORT_LOCK, wait_s=0)
    try:
        note = source.checkpoint()
        checkpoint = read_checkpoint(note)
        old_size = _exported_size(directory, source, checkpoint)
        for tile in tiles_of(checkpoint.tree_size, old_size):
            _publish(directory / tile.path, read_tile(tile, source))
        replace_file(directory / CHECKPOINT_PATH, note.encode())
        _remove_superseded(directory, old_size, checkpoint.tree_size)
        return checkpoint
    finally:
        os.close(lock)


def _levels(size: int) -> tuple[int | None, ...]:
    """The levels that a tree's tiles have, that of the bundles first."""
    return None, *range(-(-size.bit_length() // TILE_LEVELS))


def _exported_size(directory: Path, source: Source, checkpoint: Checkpoint) -> int:
    """The size of the directory's checkpoint, 0 if it has none, after making sure that the log has that tree too."""
    file = directory / CHECKPOINT_PATH
    if not file.exists():
        return 0
    old = read_checkpoint(file.read_text(encoding="utf-8"))
    if old.origin != checkpoint.origin or old.tree_size > checkpoint.tree_size:
        raise _mismatch(file, f"it is of {old.tree_size} entries of {old.origin}, not before {checkpoint.text()!r}")
    if Edge.load(old.tree_size, source.read_hashes).root() != old.root:
        raise _mismatch(file, f"the log has another tree of {old.tree_size} entries")
    return old.tree_size


def _publish(file: Path, data: bytes) -> None:
    """Create a tile's file. One that is there was left by an interrupted export of the same log, or is not ours."""
    make_directory(file.parent)
    if not create_once(file, data, 0o644) and file.read_bytes() != data:
        raise _mismatch(file, "the file holds another log's tile")


def _remove_superseded(directory: Path, old_size: int, new_size: int) -> None:
    """Remove the partial tiles of the old size that are full now."""
    for tile in partial_tiles(old_size):
        widths = (directory / tile.path).parent
        if num_hashes(tile.level, new_size) >= tile.begin + TILE_HASHES and widths.is_dir():
            shutil.rmtree(widths)


def _not_found(path: str, what: str) -> EntryNotFound:
    return EntryNotFound(
        what, where=path[:200], fix="Ask for a tile of the log's checkpoint; c2sp.org/tlog-tiles says how."
    )


def _mismatch(file: Path, what: str) -> LogMismatch:
    return LogMismatch(what, where=str(file), fix="Export into an empty directory, or into this log's own.")
