"""A shard: one append-only log of entries. `ledger.writer` has how an append is done; reads are here and in
`ledger.reader`.

Promises: an index, once answered, never names another entry; an id has one entry for ever; a receipt or checkpoint
that was given out stays consistent with every later one.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ledger.book import DUE_MAX, Balance, Book
from ledger.entry import (
    ENTRY_BYTES,
    HASH_BYTES,
    ZERO_HASH,
    Entries,
    Entry,
    Kind,
    decode,
)
from ledger.errors import (
    EntryNotFound,
    LedgerCorrupt,
    LedgerError,
    LogMismatch,
    NotWritten,
    ReceiptInvalid,
)
from ledger.head import Head
from ledger.index import Sizes
from ledger.log import shard_of_origin
from ledger.merkle import consistency_proof, inclusion_proof, leaf_hash, verify_inclusion
from ledger.note import Signer
from ledger.payload import KINDS_WITH_PAYLOAD, Payload
from ledger.reader import Reader
from ledger.receipt import Receipt
from ledger.result import Result
from ledger.resume import begin_log, hashes_of, refuse_lost, resumed
from ledger.runs import Family
from ledger.store import MAP_BYTES_DEFAULT, Snapshot, Store
from ledger.tree import Nodes
from ledger.writer import Appended, Publishing, Writer

LOCK_WAIT_S_DEFAULT = 5.0


class Shard:
    """One shard, owned by this process. Reads may come from any thread; appends take turns."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer
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
            stored last, each of which is compared with its leaf hash (0.3 us).
        """
        if shard_of_origin(signer.name) != shard:
            raise LogMismatch(
                f"the signer is {signer.name}", where=f"shard {shard}", fix="Open each shard with its own signer."
            )
        refuse_lost(path)
        store = Store.open(path, map_bytes=map_bytes, lock_wait_s=lock_wait_s)
        try:
            begin_log(store, signer)
            state = resumed(store, shard, signer, entropy, sizes)
            batch_max = sizes.batch_entries_max
            return cls(store, Writer(store, shard, signer, now_ns, publishing, batch_max, entropy, state))
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Give the shard back. Calling it again does nothing.

        What is sequenced is integrated first; what cannot be stays in the write-ahead log, for the next who opens it.
        What no checkpoint covers is signed.
        """
        try:
            with suppress(LedgerError):
                self._writer.close()
        finally:
            self._store.close()

    def __enter__(self) -> "Shard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cover(self, shard: int, tree_size: int) -> None:
        """From now on entries of another shard below `tree_size` may be parents: a checkpoint of it, which the caller
        has verified, covers them."""
        self._writer.cover(shard, tree_size)

    def append(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> Appended:
        """Record a batch; what is `OK` is durable when this returns. Version, shard and time are filled in here.

        Args:
            payloads: one for each entry, whose hashes the entries must name. An entry that names a length or a hash
                comes with its payload (`ledger.payload`).
        Raises:
            EntryInvalid: the batch is too large, or a payload is not what its entry says, or is missing.
            NotWritten: no room (LedgerFull), no right (LedgerReadOnly), or the disk failed before anything was written;
                the shard goes on working.
            LedgerCorrupt: what is stored contradicts itself; nothing was written or signed.
            LedgerError: the commit failed otherwise; from then on the shard appends nothing until it is opened again,
                since only the disk knows whether the batch is there.
        Cost: one commit (fdatasync) a batch.
        """
        return self._writer.append(entries, payloads)

    def sequence(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> Appended:
        """Record a small batch as `append` does, but leave its integration into the tree, and its checkpoint, to
        `integrate`; what is `OK` is durable when this returns, in the write-ahead log.

        Every call sees what was sequenced before it. Reads of this object integrate it first, or go on without it where
        there is no room; those of a `Reader` see it once it is integrated.
        Raises: as `append`.
        Cost: one flush of some blocks, a third to a half of what a commit takes.
        """
        return self._writer.sequence(entries, payloads)

    def integrate(self) -> None:
        """Integrate what was sequenced, under a checkpoint if one is due; others may sequence meanwhile. Nothing
        happens if there is nothing.

        Raises:
            NotWritten: as `append`; it stays in the write-ahead log, and is tried again with every append.
            LedgerCorrupt, LedgerError: as `append`.
        Cost: one commit, and about 1 us an entry.
        """
        self._writer.integrate()

    @property
    def batch_entries_max(self) -> int:
        """How many entries a batch may have."""
        return self._writer.batch_entries_max

    @property
    def num_pending(self) -> int:
        """How many entries are sequenced and not integrated."""
        return self._writer.num_pending

    def expire(self, num_max: int = DUE_MAX) -> Appended:
        """Record the end of pending transfers whose time is over, at most `num_max` of them; the longest over first.

        Their money and their assets are free from then on. Whoever runs a shard calls this from time to time.
        Raises, cost: as `append`; nothing is written if nothing is due.
        """
        return self._writer.expire(num_max)

    def expire_all(self) -> int:
        """`expire` until nothing is due; how many."""
        num_expired = 0
        while num := int((self.expire().results == Result.OK).sum()):
            num_expired += num
        return num_expired

    def live(self, begin: int = 0, num_max: int = DUE_MAX, *, is_timeless: bool = False) -> list[int]:
        """Indices of pending transfers that nothing has ended, from `begin` on: see `Book.live`."""
        return self._writer.live(begin, num_max, is_timeless)

    def balance(self, account: bytes) -> Balance:
        """How an account stands, with all that was sequenced; never half of a batch. See `Book.balance`."""
        return self._writer.balance(account)

    @property
    def book(self) -> Book:
        """Balances and owners; not to be read while another thread appends."""
        return self._writer.memory.book

    @property
    def tree_size(self) -> int:
        """How many entries there are."""
        return self._head().tree_size

    def checkpoint(self) -> str:
        """A signed checkpoint (a note) of all entries there are."""
        return self._checkpoint(self._head())

    def _head(self) -> Head:
        """With all that was sequenced, unless there is no room for it."""
        if self._writer.num_pending:
            with suppress(NotWritten):
                self._writer.integrate()
        return self._writer.memory.head

    def _checkpoint(self, head: Head) -> str:
        """Of a head: the stored one if it is of as many entries, else a new one; durable entries are what matters."""
        if head.checkpoint.splitlines()[1] == str(head.tree_size):
            return head.checkpoint
        return self._writer.sign(head.tree_size, head.root)

    def read_entries(self, begin: int, end: int) -> bytes:
        """The bytes of entries, unchecked."""
        return self.reader().read_entries(begin, end)

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """The hashes of a stored level."""
        return self.reader().read_hashes(level, begin, end)

    def reader(self) -> Reader:
        """Reads and look-ups, which wait for no append once what was sequenced before is integrated; valid until the
        shard is closed."""
        self._head()
        return self._reader

    def find(self, id_: bytes) -> int | None:
        """The index of the one entry with this id."""
        return self.reader().index_of(id_)

    def entry(self, index: int) -> Entry:
        """The entry at an index, checked against its leaf hash.

        Raises:
            EntryNotFound: there is none yet.
            LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        return self.reader().entry(index)

    def content(self, index: int) -> bytes:
        """The content of an entry, checked against its hash.

        Raises:
            EntryNotFound: there is no such entry, or its content was erased, or is kept elsewhere.
            LedgerCorrupt: the stored bytes are not those that were recorded, or they are gone without an erasure.
        """
        entry, data, _ = self._payload(index)
        is_here = entry.kind in KINDS_WITH_PAYLOAD and entry.num_bytes > 0
        return self._checked(data, entry, entry.content_hash, f"content of entry {index}", is_here)

    def meta(self, index: int) -> bytes:
        """The metadata of an entry, as `content`."""
        entry, _, data = self._payload(index)
        return self._checked(data, entry, entry.meta_hash, f"metadata of entry {index}", entry.meta_hash != ZERO_HASH)

    def _payload(self, index: int) -> tuple[Entry, bytes | None, bytes | None]:
        """An entry, its content and its metadata, unchecked."""
        self._head()
        with self._store.read() as snapshot:
            entry = decode(_entry_bytes(snapshot, Head.of(snapshot), index))
            return entry, snapshot.content(index), snapshot.meta(index)

    def _checked(self, data: bytes | None, entry: Entry, digest: bytes, where: str, is_here: bool) -> bytes:
        """What lies beside an entry, which is what the entry says; `is_here`: unless it was erased."""
        if data is None:
            about = self._reader.find_all(Family.SUBJECT, entry.id) if is_here else ()
            if is_here and not any(found.entry.kind == Kind.ERASURE for found in about):
                raise _corrupt("it is gone, and was not erased", where)
            raise _not_found(f"the {where} is not here: it was erased, or is kept elsewhere")
        if hashlib.sha256(data).digest() != digest:
            raise _corrupt("the bytes do not have their hash", where)
        return data

    def receipt(self, index: int) -> str:
        """The receipt of an entry under a checkpoint of all entries there are. One that would not verify is never
        given out.

        Raises:
            EntryNotFound: no such entry.
            LedgerCorrupt: the stored nodes do not lead to the root.
        """
        self._head()
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
        self._head()
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


def _not_found(what: str) -> EntryNotFound:
    return EntryNotFound(what, where="ledger", fix="Ask for an index or a size that the shard has reached.")


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
