"""A shard: one append-only log of entries. An append is three stages in one durable commit.

    sequence    check every entry, find repeats, settle money and ownership, give what is new its place and its time
    integrate   hash the new leaves and extend the Merkle tree and the index over them
    publish     sign the checkpoint of the new tree, if it is due

Promises: an index, once answered, never names another entry; an id has one entry for ever; a receipt or checkpoint
that was given out stays consistent with every later one. What is kept in memory (the tree's edge, the index's tables,
the balances) is derived from what is stored (`ledger.resume`), and is put back if a commit fails.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.book import DUE_MAX, Book
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
)
from ledger.errors import (
    EntryInvalid,
    EntryNotFound,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LogMismatch,
    ReceiptInvalid,
)
from ledger.expiry import expiries
from ledger.group import Answer
from ledger.head import Head
from ledger.index import Sizes
from ledger.log import shard_of_origin
from ledger.merkle import consistency_proof, inclusion_proof, leaf_hash, verify_inclusion
from ledger.note import Checkpoint, Signer
from ledger.payload import BATCH_BYTES_MAX, Payload, check_payloads
from ledger.positions import mark, rollback
from ledger.reader import Reader
from ledger.receipt import Receipt
from ledger.result import Result
from ledger.resume import Memory, begin_log, hashes_of, resumed, store_book
from ledger.runs import Family
from ledger.sequence import Sequencer
from ledger.sha256 import leaf_hashes
from ledger.store import MAP_BYTES_DEFAULT, Batch, Snapshot, Store
from ledger.tree import Edge, Nodes

LOCK_WAIT_S_DEFAULT = 5.0
SNAPSHOT_ENTRIES_MIN = 1 << 20
"""The balances are stored with the first commit after so many entries; the next start replays the others."""


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

    def answers(self) -> list[Answer]:
        """All of them."""
        return [Answer(*row) for row in zip(self.indices.tolist(), map(Result, self.results.tolist()), strict=True)]


class Publishing(msgspec.Struct, frozen=True):
    """A checkpoint is signed with the first commit after so many entries or so many milliseconds."""

    num_entries: int = 1
    interval_ms: int = 0


class Shard:
    """One shard, owned by this process. Reads may come from any thread; appends take turns."""

    def __init__(
        self,
        store: Store,
        shard: int,
        signer: Signer,
        now_ns: Callable[[], int],
        publishing: Publishing,
        batch_entries_max: int,
        memory: Memory,
    ) -> None:
        self._store = store
        self._shard = shard
        self._signer = signer
        self._now_ns = now_ns
        self._publishing = publishing
        self._batch_entries_max = batch_entries_max
        self._memory = memory
        self._is_in_doubt = False  # whether a commit ended without memory having followed it
        self._covered = np.zeros(SHARD_MAX + 1, np.uint64)
        self._turn = threading.Lock()
        self._reader = Reader(store)

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
        sizes: Sizes = Sizes(),  # noqa: B008 - it is immutable
    ) -> "Shard":
        """Own the shard in its directory (`ledger.log.shard_path`), which is made, with an empty log, on first use.

        Args:
            signer: the shard's own, from `ledger.log.open_keys`.
            entropy: random bytes, for the secret seeds of hash tables; nothing that others see depends on them.
            sizes: of the index, from which the largest batch follows.
        Raises:
            LedgerLocked, LedgerFull, LedgerReadOnly, LedgerCorrupt: see `Store.open`; or what is stored contradicts
                itself; or the shard was begun before and nothing is left of it.
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
            begin_log(store, signer)
            memory = resumed(store, shard, signer, entropy, sizes)
            return cls(store, shard, signer, now_ns, publishing, sizes.batch_entries_max, memory)
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
            LedgerError: the commit failed otherwise; from then on the shard appends nothing until it is opened again,
                since only the disk knows whether the batch is there.
        Cost: one commit (fdatasync) a batch.
        """
        self._check_batch(entries, payloads)
        rows = as_bytes(entries).copy()
        with self._turn:
            return self._appended(rows, payloads)

    def _check_batch(self, entries: Entries, payloads: Sequence[Payload] | None) -> None:
        """The limits of a batch, and that payloads are what their entries say."""
        num_bytes = sum(payload.num_bytes for payload in payloads or ())
        if len(entries) > self._batch_entries_max or num_bytes > BATCH_BYTES_MAX:
            limits = f"{self._batch_entries_max} entries or {BATCH_BYTES_MAX} bytes of payload"
            raise EntryInvalid(
                f"{len(entries)} entries with {num_bytes} bytes are more than {limits}",
                where="batch",
                fix="Append it in parts.",
            )
        if payloads is not None:
            check_payloads(as_bytes(entries).data.cast("B"), payloads)

    def expire(self, num_max: int = DUE_MAX) -> Appended:
        """Record the end of pending transfers whose time is over, at most `num_max` of them; the longest over first.

        Their money and their assets are free from then on. Whoever runs a shard calls this from time to time.
        Raises, cost: as `append`; nothing is written if nothing is due.
        """
        with self._turn:
            book = self._memory.book
            due = book.due(max(self._now_ns(), self._memory.head.time_ns + 1), num_max)
            if not due:
                return Appended(np.zeros(0, np.uint64), np.zeros(0, np.uint8))
            return self._appended(as_bytes(expiries(due, book)), None, may_expire=True)

    def live(self, begin: int = 0, num_max: int = DUE_MAX) -> list[int]:
        """Indices of pending transfers that nothing has ended, from `begin` on: see `Book.live`."""
        with self._turn:
            return self._memory.book.live(begin, num_max)

    def _appended(
        self, rows: NDArray[np.uint8], payloads: Sequence[Payload] | None, *, may_expire: bool = False
    ) -> Appended:
        if self._is_in_doubt:
            raise LedgerError(
                "an append before this one ended without its end being seen",
                where=self._signer.name,
                fix="Close the shard, open it again and repeat the call; repeats are harmless.",
            )
        memory = self._memory
        stamped = rows.view(ENTRY_DTYPE).reshape(len(rows))
        now_ns = self._now_ns()
        begin_ns = max(now_ns, memory.head.time_ns + 1)
        stamped["version"], stamped["shard"] = VERSION, self._shard
        stamped["time_ns"] = begin_ns + np.arange(len(rows), dtype=np.uint64)
        before = mark(memory.book.state)
        try:
            with self._store.write() as batch:
                size = memory.head.tree_size
                appended, recorded = self._sequenced(batch, rows, payloads, may_expire)
                if not len(recorded):
                    return appended
                edge, tree_rows = memory.edge.extended(leaf_hashes(recorded))
                for row in tree_rows:
                    batch.append_hashes(row.level, row.first, row.hashes.data)
                is_due = self._is_due(edge.size, now_ns)
                head = self._head(edge, int(recorded.view(ENTRY_DTYPE)["time_ns"][-1, 0]), is_due)
                for run, number in memory.orphans:
                    batch.delete_segment(run, number)
                writes = memory.index.prepare(edge.size, batch.segment)
                for (run, number), data in writes.puts:
                    batch.put_segment(run, number, data)
                for run, number in writes.deletes:
                    batch.delete_segment(run, number)
                if writes.manifest is not None:
                    batch.put_state("index", writes.manifest)
                book_size = self._stored_book(batch, edge.size)
                batch.put_state("head", head.pack())
                self._is_in_doubt = True
        except BaseException as error:
            memory.index.discard()
            rollback(memory.book.state, before)
            self._is_in_doubt &= not isinstance(error, LedgerFull)
            raise
        memory.index.applied(writes)
        memory.book.commit()
        published = (edge.size, now_ns) if is_due else (memory.published_size, memory.published_ns)
        self._memory = Memory(head, edge, memory.index, memory.book, *published, book_size)
        self._is_in_doubt = False
        assert edge.size == size + len(recorded)
        return appended

    def _sequenced(
        self, batch: Batch, rows: NDArray[np.uint8], payloads: Sequence[Payload] | None, may_expire: bool
    ) -> tuple[Appended, NDArray[np.uint8]]:
        """Stage 1: the answers, and the rows recorded, which are in the batch with their payloads."""
        memory = self._memory
        size, index, book = memory.head.tree_size, memory.index, memory.book
        sequencer = Sequencer(self._shard, size, self._covered, index, book, batch, may_expire=may_expire)
        results, indices = np.zeros(len(rows), np.uint8), np.zeros(len(rows), np.uint64)
        recorded = []
        keys = sequencer.keys(rows)
        for begin, end in sequencer.parts(rows, keys):
            first = sequencer.size
            part = sequencer.sequence(rows[begin:end], keys[begin:end])
            results[begin:end], indices[begin:end] = part.results, part.indices
            if len(part.rows):
                batch.append_entries(first, part.rows.data)
                recorded.append(part.rows)
        if payloads is not None:
            for place in np.flatnonzero(results == Result.OK).tolist():
                batch.put_payload(int(indices[place]), payloads[place].content, payloads[place].meta)
        all_recorded = recorded[0] if len(recorded) == 1 else np.concatenate([rows[:0], *recorded])
        self._erase(batch, sequencer, all_recorded)
        return Appended(indices, results), all_recorded

    def _erase(self, batch: Batch, sequencer: Sequencer, rows: NDArray[np.uint8]) -> None:
        """Delete what erasures are about."""
        entries = rows.view(ENTRY_DTYPE).reshape(len(rows))
        for subject in entries["subject"][entries["kind"] == Kind.ERASURE].tolist():
            for index, entry in sequencer.entries_with(Family.ID, subject):
                if entry.id == subject:
                    batch.erase_payload(index)

    def _is_due(self, size: int, now_ns: int) -> bool:
        """Whether a checkpoint is to be signed: it also is if the clock went back, so that time cannot be told."""
        since_ns = now_ns - self._memory.published_ns
        is_late = not 0 <= since_ns < self._publishing.interval_ms * 1_000_000
        return is_late or size - self._memory.published_size >= self._publishing.num_entries

    def _head(self, edge: Edge, time_ns: int, is_due: bool) -> Head:
        """Stage 3: the new head, with a new checkpoint if one is due, else with the old one."""
        root = edge.root()
        return Head(edge.size, time_ns, root, self._sign(edge.size, root) if is_due else self._memory.head.checkpoint)

    def _stored_book(self, batch: Batch, size: int) -> int:
        """Store the balances if it is time; the tree size that they are stored at."""
        if size - self._memory.book_size < SNAPSHOT_ENTRIES_MIN:
            return self._memory.book_size
        store_book(batch, self._memory.book, size)
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
        return self._reader.read_entries(begin, end)

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """The hashes of a stored level."""
        return self._reader.read_hashes(level, begin, end)

    def reader(self) -> Reader:
        """Reads and look-ups that never wait for an append; valid until the shard is closed."""
        return self._reader

    def find(self, id_: bytes) -> int | None:
        """The index of the one entry with this id."""
        return self._reader.index_of(id_)

    def entry(self, index: int) -> Entry:
        """The entry at an index, checked against its leaf hash.

        Raises:
            EntryNotFound: there is none yet.
            LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        return self._reader.entry(index)

    def content(self, index: int) -> bytes:
        """The content of an entry, checked against its hash.

        Raises:
            EntryNotFound: there is no such entry, or its content was erased, or is kept elsewhere.
            LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        with self._store.read() as snapshot:
            entry = decode(_entry_bytes(snapshot, Head.of(snapshot), index))
            return _checked(snapshot.content(index), entry.content_hash, f"content of entry {index}")

    def meta(self, index: int) -> bytes:
        """The metadata of an entry, as `content`."""
        with self._store.read() as snapshot:
            entry = decode(_entry_bytes(snapshot, Head.of(snapshot), index))
            return _checked(snapshot.meta(index), entry.meta_hash, f"metadata of entry {index}")

    def receipt(self, index: int) -> str:
        """The receipt of an entry under a checkpoint of all entries there are. One that would not verify is never
        given out.

        Raises:
            EntryNotFound: no such entry.
            LedgerCorrupt: the stored nodes do not lead to the root.
        """
        with self._store.read() as snapshot:
            head = Head.of(snapshot)
            data = _entry_bytes(snapshot, head, index)
            nodes = Nodes(head.tree_size, hashes_of(snapshot))
            proof = inclusion_proof(index, head.tree_size, nodes)
            try:
                verify_inclusion(index, head.tree_size, leaf_hash(data), proof, head.root)
            except ReceiptInvalid as error:
                raise _corrupt(error.what, f"receipt of entry {index}") from error
        return Receipt(data, index, tuple(proof), self._checkpoint(head)).text()

    def consistency(self, old: int, new: int) -> list[bytes]:
        """bytes[32] each: the proof that the tree of `old` entries is a prefix of that of `new`.

        Raises:
            EntryNotFound: not 0 < old <= new <= size.
        """
        with self._store.read() as snapshot:
            size = Head.of(snapshot).tree_size
            if not 0 < old <= new <= size:
                raise _not_found(f"no proof from {old} to {new} entries; there are {size}")
            return consistency_proof(old, new, Nodes(size, hashes_of(snapshot)))


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


def _not_found(what: str) -> EntryNotFound:
    return EntryNotFound(what, where="ledger", fix="Ask for an index or a size that the shard has reached.")


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
