"""A shard: one append-only log of entries. An append is three stages in one durable commit.

    sequence    check every entry, find repeats, settle money and ownership, give what is new its place and its time
    integrate   hash the new leaves and extend the Merkle tree and the index over them
    publish     sign the checkpoint of the new tree, if it is due

Promises: an index, once answered, never names another entry; an id has one entry for ever; a receipt or checkpoint
that was given out stays consistent with every later one. What is kept in memory (the tree's edge, the index's tables,
the balances) is derived from what is stored, and is put back if a commit fails.
"""

import hashlib
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.book import Book
from ledger.entry import (
    ENTRY_BYTES,
    ENTRY_DTYPE,
    HASH_BYTES,
    SHARD_MAX,
    VERSION,
    Entries,
    Entry,
    Kind,
    as_bytes,
    decode,
    from_bytes,
)
from ledger.errors import EntryInvalid, EntryNotFound, LedgerCorrupt, LogMismatch, ReceiptInvalid
from ledger.files import create_once
from ledger.group import Answer
from ledger.index import BATCH_ENTRIES_MAX, Index
from ledger.log import begun_path, shard_of_origin
from ledger.merkle import consistency_proof, inclusion_proof, leaf_hash, verify_inclusion
from ledger.note import Checkpoint, Signer, open_checkpoint
from ledger.payload import Payload
from ledger.positions import mark, rollback
from ledger.receipt import Receipt
from ledger.result import Result
from ledger.runs import Family
from ledger.sequence import Sequencer, refill
from ledger.sha256 import leaf_hashes
from ledger.store import MAP_BYTES_DEFAULT, Batch, Snapshot, Store
from ledger.tail import SEED_BYTES
from ledger.tree import Edge, Nodes

BATCH_ITEMS_MAX = BATCH_ENTRIES_MAX
BATCH_BYTES_MAX = 64 * 1024 * 1024
LOCK_WAIT_S_DEFAULT = 5.0
LAYOUT = 2
REPLAY_ENTRIES = 65_536
SNAPSHOT_ENTRIES_MIN = 1 << 20
"""The balances are stored with the first commit after so many entries; the next start replays the others."""

_HEAD = struct.Struct("<HQQ32s")
_BOOK = struct.Struct("<Q")


class Head(msgspec.Struct, frozen=True):
    """How far the shard has got; and the newest checkpoint that was stored, perhaps of fewer entries."""

    tree_size: int
    time_ns: int
    root: bytes
    checkpoint: str

    def pack(self) -> bytes:
        return _HEAD.pack(LAYOUT, self.tree_size, self.time_ns, self.root) + self.checkpoint.encode()

    @classmethod
    def unpack(cls, data: bytes) -> "Head":
        """Raises LedgerCorrupt: it was written by another version of this layout, or is no head."""
        if len(data) < _HEAD.size or _HEAD.unpack_from(data)[0] != LAYOUT:
            raise _corrupt("the head is not of this layout", "head")
        _, tree_size, time_ns, root = _HEAD.unpack_from(data)
        try:
            return cls(tree_size, time_ns, root, data[_HEAD.size :].decode())
        except UnicodeDecodeError:
            raise _corrupt("the checkpoint is not UTF-8", "head") from None


class Appended(msgspec.Struct, frozen=True):
    """The answers to a batch in columns.

    `results`: uint8[n], a `Result` each. `indices`: uint64[n], where the entry is if it is `OK`, where the first one is
    if its id is there already (`EXISTS...`), else without meaning.
    """

    indices: NDArray[np.uint64]
    results: NDArray[np.uint8]

    def answer(self, place: int) -> Answer:
        """One of them."""
        return Answer(int(self.indices[place]), Result(int(self.results[place])))


class Publishing(msgspec.Struct, frozen=True):
    """A checkpoint is signed with the first commit after so many entries or so many milliseconds."""

    num_entries: int = 1
    interval_ms: int = 0


class Memory(msgspec.Struct):
    """What is derived from the store, and kept."""

    head: Head
    edge: Edge
    index: Index
    book: Book
    published_size: int
    published_ns: int
    book_size: int


class Shard:
    """One shard, owned by this process. Reads may come from any thread; appends take turns."""

    def __init__(
        self,
        store: Store,
        shard: int,
        signer: Signer,
        now_ns: Callable[[], int],
        publishing: Publishing,
        memory: Memory,
    ) -> None:
        self._store = store
        self._shard = shard
        self._signer = signer
        self._now_ns = now_ns
        self._publishing = publishing
        self._memory = memory
        self._covered = np.zeros(SHARD_MAX + 1, np.uint64)
        self._turn = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        shard: int,
        signer: Signer,
        now_ns: Callable[[], int],
        *,
        entropy: Callable[[int], bytes],
        publishing: Publishing = Publishing(),  # noqa: B008 - it is immutable
        map_bytes: int = MAP_BYTES_DEFAULT,
        lock_wait_s: float = LOCK_WAIT_S_DEFAULT,
    ) -> "Shard":
        """Own the shard in its directory (`ledger.log.shard_path`), which is made, with an empty log, on first use.

        Args:
            signer: the shard's own, from `ledger.log.open_keys`.
            entropy: random bytes, for the secret seeds of hash tables; nothing that others see depends on them.
        Raises:
            LedgerLocked, LedgerFull, LedgerCorrupt: see `Store.open`; or what is stored contradicts itself; or the shard
                was begun before and nothing is left of it.
            LogMismatch: the signer is another shard's, or the shard another log's.
        Cost: reads the index's ids (12 bytes an entry), and the entries since its last run and since the balances were
            stored last.
        """
        if shard_of_origin(signer.name) != shard:
            raise LogMismatch(
                f"the signer is {signer.name}", where=f"shard {shard}", fix="Open each shard with its own signer."
            )
        store = Store.open(path, map_bytes=map_bytes, lock_wait_s=lock_wait_s)
        try:
            _begin(store, signer)
            memory = _resumed(store, shard, signer, entropy)
            return cls(store, shard, signer, now_ns, publishing, memory)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Give the shard back. Calling it again does nothing."""
        self._store.close()

    def __enter__(self) -> "Shard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cover(self, shard: int, tree_size: int) -> None:
        """From now on entries of another shard below `tree_size` may be parents: a checkpoint of it, which the caller
        has verified, covers them."""
        self._covered[shard] = max(int(self._covered[shard]), tree_size)

    def append(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> Appended:
        """Record a batch; what is `OK` is durable when this returns. Version, shard and time are filled in here.

        Args:
            payloads: one for each entry, whose hashes the entries must name.
        Raises:
            EntryInvalid: the batch is too large, or a payload is not what its entry says.
            LedgerFull: no room; nothing was written and the shard goes on working.
            LedgerCorrupt: what is stored contradicts itself; nothing was written or signed.
        Cost: one commit (fdatasync) a batch.
        """
        _check_batch(entries, payloads)
        rows = as_bytes(entries).copy()
        with self._turn:
            return self._appended(rows, payloads)

    def _appended(self, rows: NDArray[np.uint8], payloads: Sequence[Payload] | None) -> Appended:
        memory = self._memory
        stamped = rows.view(ENTRY_DTYPE).reshape(len(rows))
        begin_ns = max(self._now_ns(), memory.head.time_ns + 1)
        stamped["version"], stamped["shard"] = VERSION, self._shard
        stamped["time_ns"] = begin_ns + np.arange(len(rows), dtype=np.uint64)
        before = mark(memory.book.state)
        try:
            with self._store.write() as batch:
                size = memory.head.tree_size
                appended, recorded = self._sequenced(batch, rows, payloads)
                if not len(recorded):
                    return appended
                edge, tree_rows = memory.edge.extended(leaf_hashes(recorded))
                for row in tree_rows:
                    batch.append_hashes(row.level, row.first, row.hashes.tobytes())
                head, published_ns = self._published(edge, begin_ns + len(rows) - 1)
                writes = memory.index.prepare(edge.size, batch.segment)
                for (run, number), data in writes.puts:
                    batch.put_segment(run, number, data)
                for run, number in writes.deletes:
                    batch.delete_segment(run, number)
                if writes.manifest is not None:
                    batch.put_state("index", writes.manifest)
                book_size = self._stored_book(batch, edge.size)
                batch.put_state("head", head.pack())
        except BaseException:
            memory.index.discard()
            rollback(memory.book.state, before)
            raise
        memory.index.applied(writes)
        memory.book.commit()
        published_size = edge.size if published_ns else memory.published_size
        self._memory = Memory(
            head, edge, memory.index, memory.book, published_size, published_ns or memory.published_ns, book_size
        )
        assert edge.size == size + len(recorded)
        return appended

    def _sequenced(
        self, batch: Batch, rows: NDArray[np.uint8], payloads: Sequence[Payload] | None
    ) -> tuple[Appended, NDArray[np.uint8]]:
        """Stage 1: the answers, and the rows recorded, which are in the batch with their payloads."""
        memory = self._memory
        sequencer = Sequencer(self._shard, memory.head.tree_size, self._covered, memory.index, memory.book, batch)
        results, indices = np.zeros(len(rows), np.uint8), np.zeros(len(rows), np.uint64)
        recorded = []
        for begin, end in sequencer.parts(rows):
            first = sequencer.size
            part = sequencer.sequence(rows[begin:end])
            results[begin:end], indices[begin:end] = part.results, part.indices
            if len(part.rows):
                batch.append_entries(first, part.rows.tobytes())
                recorded.append(part.rows)
        if payloads is not None:
            for place in np.flatnonzero(results == Result.OK).tolist():
                batch.put_payload(int(indices[place]), payloads[place].content, payloads[place].meta)
        all_recorded = np.concatenate(recorded) if recorded else np.empty((0, ENTRY_BYTES), np.uint8)
        self._erase(batch, sequencer, all_recorded)
        return Appended(indices, results), all_recorded

    def _erase(self, batch: Batch, sequencer: Sequencer, rows: NDArray[np.uint8]) -> None:
        """Delete what erasures are about."""
        entries = rows.view(ENTRY_DTYPE).reshape(len(rows))
        for subject in entries["subject"][entries["kind"] == Kind.ERASURE].tolist():
            for index, entry in sequencer.entries_with(Family.ID, subject):
                if entry.id == subject:
                    batch.erase_payload(index)

    def _published(self, edge: Edge, time_ns: int) -> tuple[Head, int]:
        """Stage 3: the new head, with a new checkpoint if one is due, and when; else with the old one, and 0."""
        memory, publishing = self._memory, self._publishing
        is_due = (
            edge.size - memory.published_size >= publishing.num_entries
            or time_ns - memory.published_ns >= publishing.interval_ms * 1_000_000
        )
        root = edge.root()
        note = self._sign(edge.size, root) if is_due else memory.head.checkpoint
        return Head(edge.size, time_ns, root, note), time_ns if is_due else 0

    def _stored_book(self, batch: Batch, size: int) -> int:
        """Store the balances if it is time; the tree size that they are stored at."""
        if size - self._memory.book_size < SNAPSHOT_ENTRIES_MIN:
            return self._memory.book_size
        batch.put_state("book", _BOOK.pack(size) + self._memory.book.snapshot())
        return size

    def _sign(self, size: int, root: bytes) -> str:
        return self._signer.sign(Checkpoint(self._signer.name, size, root).text())

    @property
    def book(self) -> Book:
        """Balances and owners; not to be read while another thread appends."""
        return self._memory.book

    @property
    def tree_size(self) -> int:
        """How many entries there are."""
        return self._memory.head.tree_size

    def checkpoint(self) -> str:
        """A signed checkpoint (a note) of all entries there are."""
        return self._checkpoint(self._memory.head)

    def _checkpoint(self, head: Head) -> str:
        """Of a head: the stored one if it is of as many entries, else a new one; durable entries are what matters."""
        if head.checkpoint.splitlines()[1] == str(head.tree_size):
            return head.checkpoint
        return self._sign(head.tree_size, head.root)

    def read_entries(self, begin: int, end: int) -> bytes:
        """The bytes of entries, unchecked."""
        with self._store.read() as snapshot:
            return snapshot.entries(begin, end, ENTRY_BYTES)

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """The hashes of a stored level."""
        with self._store.read() as snapshot:
            return snapshot.hashes(level, begin, end, HASH_BYTES)

    def find(self, id_: bytes) -> int | None:
        """The index of the one entry with this id."""
        with self._turn, self._store.read() as snapshot:
            sequencer = self._reader(snapshot)
            found = [index for index, entry in sequencer.entries_with(Family.ID, id_) if entry.id == id_]
        return found[0] if found else None

    def _reader(self, snapshot: Snapshot) -> Sequencer:
        memory = self._memory
        return Sequencer(self._shard, memory.head.tree_size, self._covered, memory.index, memory.book, snapshot)

    def entry(self, index: int) -> Entry:
        """The entry at an index, checked against its leaf hash.

        Raises:
            EntryNotFound: there is none yet.
            LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        with self._store.read() as snapshot:
            return decode(_entry_bytes(snapshot, _head(snapshot), index))

    def content(self, index: int) -> bytes:
        """The content of an entry, checked against its hash.

        Raises:
            EntryNotFound: there is no such entry, or its content was erased, or is kept elsewhere.
            LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        with self._store.read() as snapshot:
            entry = decode(_entry_bytes(snapshot, _head(snapshot), index))
            return _checked(snapshot.content(index), entry.content_hash, f"content of entry {index}")

    def meta(self, index: int) -> bytes:
        """The metadata of an entry, as `content`."""
        with self._store.read() as snapshot:
            entry = decode(_entry_bytes(snapshot, _head(snapshot), index))
            return _checked(snapshot.meta(index), entry.meta_hash, f"metadata of entry {index}")

    def receipt(self, index: int) -> str:
        """The receipt of an entry under a checkpoint of all entries there are. One that would not verify is never
        given out.

        Raises:
            EntryNotFound: no such entry.
            LedgerCorrupt: the stored nodes do not lead to the root.
        """
        with self._store.read() as snapshot:
            head = _head(snapshot)
            data = _entry_bytes(snapshot, head, index)
            nodes = Nodes(head.tree_size, lambda *where: snapshot.hashes(*where, HASH_BYTES))
            proof = inclusion_proof(index, head.tree_size, nodes)
            with _corrupt_if_invalid(f"receipt of entry {index}"):
                verify_inclusion(index, head.tree_size, leaf_hash(data), proof, head.root)
        return Receipt(data, index, tuple(proof), self._checkpoint(head)).text()

    def consistency(self, old: int, new: int) -> list[bytes]:
        """bytes[32] each: the proof that the tree of `old` entries is a prefix of that of `new`.

        Raises:
            EntryNotFound: not 0 < old <= new <= size.
        """
        with self._store.read() as snapshot:
            size = _head(snapshot).tree_size
            if not 0 < old <= new <= size:
                raise _not_found(f"no proof from {old} to {new} entries; there are {size}")
            return consistency_proof(old, new, Nodes(size, lambda *where: snapshot.hashes(*where, HASH_BYTES)))


def _begin(store: Store, signer: Signer) -> None:
    """Publish the empty tree in a new shard.

    The file that says that the shard was begun comes after the empty tree and before anything is given out. Where a
    crash fell between the two, the next open finds an empty tree and writes the file.
    """
    begun = begun_path(store.path)
    with store.read() as snapshot:
        is_new = snapshot.state("head") is None
    if is_new and begun.exists():
        raise LedgerCorrupt(
            "the shard was begun before, and what was in it is gone; a new log would contradict its receipts",
            where=str(begun),
            fix="Restore the shard's directory from a copy.",
        )
    if is_new:
        root = Edge(0, {}).root()
        with store.write() as batch:
            note = signer.sign(Checkpoint(signer.name, 0, root).text())
            batch.put_state("head", Head(0, 0, root, note).pack())
    create_once(begun, f"{signer.name}\n".encode(), 0o644)


def _resumed(store: Store, shard: int, signer: Signer, entropy: Callable[[int], bytes]) -> Memory:
    """What is to be kept in memory of a stored shard, checked against its head."""
    with store.read() as snapshot:
        head = _head(snapshot)
        _check_signature(head, signer)
        edge = Edge.load(head.tree_size, lambda *where: snapshot.hashes(*where, HASH_BYTES))
        if edge.root() != head.root:
            raise _corrupt("the stored nodes do not lead to the root", "hashes")
        index = Index.open(snapshot.state("index"), snapshot.segment, new_seed=entropy(SEED_BYTES))
        orphans = index.runs.orphans(snapshot.segments())
        stored = snapshot.state("book")
        book = Book.load(stored[_BOOK.size :], entropy(SEED_BYTES)) if stored else Book(entropy(SEED_BYTES))
        book_size = int(_BOOK.unpack_from(stored)[0]) if stored else 0
        for begin in range(book_size, head.tree_size, REPLAY_ENTRIES):
            end = min(begin + REPLAY_ENTRIES, head.tree_size)
            book.replay(from_bytes(snapshot.entries(begin, end, ENTRY_BYTES)), begin)
        refill(index, snapshot, shard, head.tree_size, book)
    if orphans:
        with store.write() as batch:
            for run, number in orphans:
                batch.delete_segment(run, number)
    return Memory(head, edge, index, book, int(head.checkpoint.splitlines()[1]), head.time_ns, book_size)


def _check_signature(head: Head, signer: Signer) -> None:
    """The stored checkpoint is this signer's, and of the stored tree or an earlier one."""
    with _corrupt_if_invalid("head"):
        origin = head.checkpoint.partition("\n")[0]
        if origin != signer.name:
            raise LogMismatch(
                f"the shard there is {origin[:80]!r}", where=signer.name, fix="Open it with its own signer."
            )
        checkpoint = open_checkpoint(head.checkpoint, [signer.key])
    if checkpoint.tree_size > head.tree_size:
        raise _corrupt("the checkpoint is of more entries than there are", "head")
    if checkpoint.tree_size == head.tree_size and checkpoint.root != head.root:
        raise _corrupt("the checkpoint has another root", "head")


def _check_batch(entries: Entries, payloads: Sequence[Payload] | None) -> None:
    """The limits of a batch, and that payloads are what their entries say."""
    num_bytes = sum(len(payload.content or b"") + len(payload.meta or b"") for payload in payloads or ())
    if len(entries) > BATCH_ITEMS_MAX or num_bytes > BATCH_BYTES_MAX:
        limits = f"{BATCH_ITEMS_MAX} entries or {BATCH_BYTES_MAX} bytes of payload"
        raise _invalid("batch", f"{len(entries)} entries with {num_bytes} bytes are more than {limits}")
    if payloads is None:
        return
    if len(payloads) != len(entries):
        raise _invalid("payloads", f"{len(payloads)} for {len(entries)} entries")
    for place, payload in enumerate(payloads):
        for name, data in (("content_hash", payload.content), ("meta_hash", payload.meta)):
            if data is not None and hashlib.sha256(data).digest() != entries[name][place].tobytes():
                raise _invalid(name, f"entry {place} does not name the hash of its payload")


def _head(snapshot: Snapshot) -> Head:
    data = snapshot.state("head")
    if data is None:
        raise _corrupt("there is no head", "head")
    return Head.unpack(data)


def _entry_bytes(snapshot: Snapshot, head: Head, index: int) -> bytes:
    if not 0 <= index < head.tree_size:
        raise _not_found(f"no entry {index}; there are {head.tree_size}")
    data = snapshot.entries(index, index + 1, ENTRY_BYTES)
    if leaf_hash(data) != snapshot.hashes(0, index, index + 1, HASH_BYTES):
        raise _corrupt("the entry is not its leaf", f"entry {index}")
    return data


def _checked(data: bytes | None, digest: bytes, where: str) -> bytes:
    if data is None:
        raise _not_found(f"the {where} is not here: it was erased, or is kept elsewhere")
    if hashlib.sha256(data).digest() != digest:
        raise _corrupt("the bytes do not have their hash", where)
    return data


@contextmanager
def _corrupt_if_invalid(where: str) -> Iterator[None]:
    """A proof of our own that does not verify means that the store is damaged."""
    try:
        yield
    except ReceiptInvalid as error:
        raise _corrupt(error.what, where) from error


def _invalid(field: str, what: str) -> EntryInvalid:
    return EntryInvalid(what, where=field, fix="Correct the batch and append it again.")


def _not_found(what: str) -> EntryNotFound:
    return EntryNotFound(what, where="ledger", fix="Ask for an index or a size that the shard has reached.")


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
