"""Reads of a shard that never wait for its writer, and that work the same in the owner's process and in any other.

A look is one read transaction: the head, the manifest of the index and the entries in it belong together. What is
found by the index's runs and by scanning the entries after them (`ledger.newest`) is compared with the entry itself,
and the entry with its leaf hash. Nothing of the writer's memory is used, so no lock is shared with it; the transaction
pins pages only for one page of answers (`PAGE_MAX`), or once for the newest entries when the reader begins.

    with Reader.open(path) as reader: ...     beside the owner
    shard.reader()                            in the owner's process

Turned down: to look into the writer's tables. They change while it appends, so a reader would wait for a commit, or
need memory fences that numba does not give.
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES, HASH_BYTES, Entries, Entry, decode, from_bytes
from ledger.errors import EntryInvalid, EntryNotFound, LedgerCorrupt
from ledger.head import Head
from ledger.merkle import EMPTY_ROOT, consistency_proof, leaf_hash
from ledger.newest import VALUE_BYTES, Newest, has_value, parent_value
from ledger.note import Checkpoint, read_checkpoint
from ledger.runs import Family, Runs
from ledger.store import Snapshot, Store
from ledger.tail import SEED_BYTES, Indices, keys_of
from ledger.tree import Edge, Nodes

PAGE_MAX = 1024
"""Entries in a page: about 0.1 s in one transaction."""

_NO_RUNS = Runs.empty(bytes(SEED_BYTES))
"""Before the first run there is no manifest, and no seed is needed."""


class Found(msgspec.Struct, frozen=True):
    """An entry and where it is."""

    index: int
    entry: Entry


class Page(msgspec.Struct, frozen=True):
    """Some of what was asked for, by index; `next_begin` is where the next page begins, None if this is the last."""

    found: tuple[Found, ...]
    next_begin: int | None


class _Known(msgspec.Struct, frozen=True):
    """What is kept between looks: the runs of a manifest, and the entries after them."""

    manifest: bytes | None
    runs: Runs
    newest: Newest


class Reader:
    """A shard as anybody may read it.

    Concurrency: any number of threads. They take turns for as long as it takes to read what was appended since the
    last look, at most 65,536 entries (about 10 ms); no writer ever waits for them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()
        self._known = _Known(None, _NO_RUNS, Newest(0))

    @classmethod
    def open(cls, path: Path) -> "Reader":
        """Look at the shard in a directory, whoever owns it. Not in a process that has it open: LMDB forbids that.

        Raises:
            LedgerCorrupt, LedgerError: see `Store.open_readonly`; or it has no head of this layout.
        """
        if not path.is_dir():
            raise EntryNotFound(
                "there is no such directory", where=str(path), fix="Name the directory of a shard (shard-000, ...)."
            )
        reader = cls(Store.open_readonly(path))
        try:
            reader.head()
        except BaseException:
            reader.close()
            raise
        return reader

    def close(self) -> None:
        """Only of a reader that was opened: one that a shard gave out ends with the shard."""
        self._store.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def head(self) -> Head:
        """How far the shard has got, and its newest stored checkpoint."""
        with self._store.read() as snapshot:
            return Head.of(snapshot)

    @property
    def tree_size(self) -> int:
        """How many entries are durable; the stored checkpoint may cover fewer."""
        return self.head().tree_size

    @property
    def origin(self) -> str:
        return read_checkpoint(self.checkpoint()).origin

    def checkpoint(self) -> str:
        """The newest checkpoint that was stored, a signed note; nobody has verified it here."""
        return self.head().checkpoint

    def entry(self, index: int) -> Entry:
        """The entry at an index, checked against its leaf hash.

        Raises:
            EntryNotFound: there is none yet.
            LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        return self.entries([index])[0].entry

    def entries(self, indices: Sequence[int]) -> list[Found]:
        """The entries at some indices, in their order; as `entry`. `PAGE_MAX` of them at most."""
        rows = self.rows(indices)
        return [Found(index, decode(row.tobytes())) for index, row in zip(indices, rows, strict=True)]

    def rows(self, indices: Sequence[int]) -> Entries:
        """`entries` in columns, in the canonical form that they were recorded in."""
        assert len(indices) <= PAGE_MAX, "more than a page would pin pages for long"
        with self._store.read() as snapshot:
            size = Head.of(snapshot).tree_size
            return from_bytes(b"".join([_checked_entry(snapshot, index, size) for index in indices]))

    def content(self, index: int) -> bytes | None:
        """The content of an entry, unchecked; None if it was erased or is kept elsewhere."""
        with self._store.read() as snapshot:
            return snapshot.content(index)

    def meta(self, index: int) -> bytes | None:
        """The metadata of an entry, as `content`."""
        with self._store.read() as snapshot:
            return snapshot.meta(index)

    def read_entries(self, begin: int, end: int) -> bytes:
        """The bytes of entries, unchecked."""
        with self._store.read() as snapshot:
            return snapshot.entries(begin, end, ENTRY_BYTES)

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """The hashes of a stored level."""
        with self._store.read() as snapshot:
            return snapshot.hashes(level, begin, end, HASH_BYTES)

    def tree(self, size: int) -> Checkpoint:
        """The tree of the first `size` entries as its stored nodes give it: what a checkpoint of it must say.

        Raises:
            EntryNotFound: there are fewer entries.
        """
        self._check_size(size)
        root = Edge.load(size, self.read_hashes).root() if size else EMPTY_ROOT
        return Checkpoint(self.origin, size, root)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """bytes[32] each: the proof that the tree of `old` entries is a prefix of that of `new`; none for 0.

        Raises:
            EntryNotFound: not old <= new <= size.
        """
        self._check_size(new)
        if not 0 <= old <= new:
            raise _not_found(f"a proof from {old} to {new} entries")
        return consistency_proof(old, new, Nodes(new, self.read_hashes)) if old else []

    def find(self, family: Family, value: bytes, *, begin: int = 0, limit: int = PAGE_MAX) -> Page:
        """The entries that have a value in a family of the index, from index `begin` on, `limit` of them at most.

        Args:
            value: bytes of the family's width; of PARENT: `parent_value`. Zeros are found nowhere.
        Raises:
            EntryInvalid: the value is not so wide, or the limit is not from 1 to `PAGE_MAX`.
            LedgerCorrupt: a segment, or an entry that is found, is damaged.
        Cost: a segment is read for each run, 8 to 24 a level: 0.2 ms among 20 million entries; 0.1 ms for each found.
        """
        _check_question(family, value, limit)
        rows = self._matching(family, value, begin, limit + 1)  # one more tells whether there are more
        found = tuple(Found(index, decode(data)) for index, data in rows[:limit])
        return Page(found, rows[limit][0] if len(rows) > limit else None)

    def find_all(self, family: Family, value: bytes, *, begin: int = 0) -> Iterator[Found]:
        """Everything that `find` finds, a page at a time, each in a look of its own."""
        at: int | None = begin
        while at is not None:
            page = self.find(family, value, begin=at)
            yield from page.found
            at = page.next_begin

    def by_id(self, id_: bytes) -> Found | None:
        """The one entry with an id."""
        _check_question(Family.ID, id_, 1)
        rows = self._matching(Family.ID, id_, 0, 1)
        return Found(rows[0][0], decode(rows[0][1])) if rows else None

    def index_of(self, id_: bytes) -> int | None:
        """Where the one entry with an id is."""
        _check_question(Family.ID, id_, 1)
        rows = self._matching(Family.ID, id_, 0, 1)
        return rows[0][0] if rows else None

    def indices_of(self, ids: NDArray[np.uint8]) -> NDArray[np.int64]:
        """int64[n], where the entries with uint8[n, 16] ids are, n at most `PAGE_MAX`; -1 for what there is not. Of
        several with one id, which no sound shard has, the first."""
        assert len(ids) <= PAGE_MAX
        indices = np.full(len(ids), -1, np.int64)
        with self._store.read() as snapshot:
            places, found = self._candidates_of_many(snapshot, Family.ID, ids)
            for place, index in zip(places.tolist(), found.tolist(), strict=True):
                if 0 <= indices[place] < index:
                    continue
                if has_value(snapshot.entries(index, index + 1, ENTRY_BYTES), Family.ID, ids[place].tobytes()):
                    indices[place] = index
        return indices

    def are_subjects(self, ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """bool[n]: False where no entry is about what has one of uint8[n, 16] ids, n at most `PAGE_MAX`; True where one
        is, or seems to be."""
        assert len(ids) <= PAGE_MAX
        answers = np.zeros(len(ids), np.bool_)
        with self._store.read() as snapshot:
            answers[self._candidates_of_many(snapshot, Family.SUBJECT, ids)[0]] = True
        return answers

    def children(self, shard: int, index: int, *, begin: int = 0, limit: int = PAGE_MAX) -> Page:
        """The entries of this shard that name (shard, index) as a parent; a page, as `find`."""
        return self.find(Family.PARENT, parent_value((shard, index)), begin=begin, limit=limit)

    def _matching(self, family: Family, value: bytes, begin: int, num: int) -> list[tuple[int, bytes]]:
        """Index and bytes of the first `num` entries from `begin` on that have a value."""
        rows: list[tuple[int, bytes]] = []
        with self._store.read() as snapshot:
            size = Head.of(snapshot).tree_size
            known = self._learned(snapshot, size)
            while len(rows) < num:
                candidates = _candidates(known, snapshot, family, value, begin, size, num - len(rows))
                if not candidates:
                    break
                for index in candidates:
                    data = _checked_entry(snapshot, index, size)
                    if has_value(data, family, value):
                        rows.append((index, data))
                begin = candidates[-1] + 1
        return rows

    def _candidates_of_many(
        self, snapshot: Snapshot, family: Family, values: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], Indices]:
        """int64[m] places in uint8[n, w] values, and the uint64[m] indices of entries that may have them."""
        size = Head.of(snapshot).tree_size
        known = self._learned(snapshot, size)
        older, older_found = known.runs.find_many(family, keys_of(values, known.runs.seed), snapshot.segment)
        newer, newer_found = known.newest.find_many(family, values, size)
        return np.concatenate([older, newer]), np.concatenate([older_found, newer_found])

    def _learned(self, snapshot: Snapshot, size: int) -> _Known:
        """Runs and newest entries as a transaction sees them; there may be later ones in `newest`."""
        manifest = snapshot.state("index")
        with self._turn:
            known = self._known
            if known.manifest != manifest:
                runs = _NO_RUNS if manifest is None else Runs.open(manifest, snapshot.segment)
                known = self._known = _Known(manifest, runs, Newest(runs.num_entries))
            if known.newest.end < size:
                known.newest.extend(snapshot.entries(known.newest.end, size, ENTRY_BYTES))
            return known

    def _check_size(self, size: int) -> None:
        largest = self.tree_size
        if not 0 <= size <= largest:
            raise _not_found(f"a tree of {size} entries; there are {largest}")


def _candidates(
    known: _Known, snapshot: Snapshot, family: Family, value: bytes, begin: int, end: int, limit: int
) -> list[int]:
    """The first `limit` indices from `begin` up to `end`, ascending, that may have a value."""
    key = int(keys_of(np.frombuffer(value, np.uint8).reshape(1, -1), known.runs.seed)[0])
    indices = known.runs.find(family, key, snapshot.segment, begin=begin, limit=limit)
    if len(indices) < limit:
        indices += known.newest.find(family, value, begin, end)
    return indices[:limit]


def _checked_entry(snapshot: Snapshot, index: int, size: int) -> bytes:
    """The bytes of the entry at an index, which are those of its leaf."""
    if not 0 <= index < size:
        raise _not_found(f"no entry {index}; there are {size}")
    data = snapshot.entries(index, index + 1, ENTRY_BYTES)
    if leaf_hash(data) != snapshot.hashes(0, index, index + 1, HASH_BYTES):
        raise LedgerCorrupt(
            "the entry is not its leaf",
            where=f"entry {index}",
            fix="Run fsck on the shard and restore it from a copy.",
        )
    return data


def _check_question(family: Family, value: bytes, limit: int) -> None:
    if len(value) != VALUE_BYTES[family]:
        raise EntryInvalid(
            f"{len(value)} bytes instead of {VALUE_BYTES[family]}",
            where=family.name.lower(),
            fix="Give the whole value, as entries have it.",
        )
    if not 0 < limit <= PAGE_MAX:
        raise EntryInvalid(f"a page of {limit}", where="limit", fix=f"Ask for 1 to {PAGE_MAX} entries at a time.")


def _not_found(what: str) -> EntryNotFound:
    return EntryNotFound(what, where="ledger", fix="Ask for an index or a size that the shard has reached.")
