"""Opening a shard: what is stored is checked against its head, and what is kept in memory is derived from it again.

A new shard begins with the signed empty tree. Beside its directory a file says that it was begun: a shard whose data is
gone is refused, since a new log under the same key would contradict every receipt of the old one.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from ledger.book import Book, snapshot_size
from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, HASH_BYTES, VERSION, Entries, as_bytes, from_bytes
from ledger.errors import LedgerCorrupt, LogMismatch, ReceiptInvalid
from ledger.files import create_once
from ledger.head import Head
from ledger.index import Index, Sizes
from ledger.items import Rows, id_keys, insert_items
from ledger.log import begun_path
from ledger.note import Checkpoint, Signer, is_signed_with, open_checkpoint
from ledger.runs import BlobName
from ledger.sequence import refill
from ledger.sha256 import leaf_hashes
from ledger.store import Batch, Snapshot, Store, has_data
from ledger.tail import SEED_BYTES
from ledger.tree import Edge, ReadHashes, as_hashes
from ledger.wal import WAL_STATE, Record, left_over, missing

REPLAY_ENTRIES = 65_536
"""Entries read at a time to replay their money and ownership."""


class Memory(msgspec.Struct):
    """What is derived from the store, and kept."""

    head: Head
    edge: Edge
    index: Index
    book: Book
    published_size: int
    published_ns: int
    book_size: int
    orphans: tuple[BlobName, ...] = ()
    """Segments of merges that begin anew: to be deleted with the next batch, which may write them again. Opening itself
    writes nothing, so a shard that is full can be opened."""


class Resumed(msgspec.Struct, frozen=True):
    """What a shard goes on from: `memory`, with what is `pending`, that is only in the write-ahead log. `is_wal_named`:
    the store says that there is one."""

    memory: Memory
    pending: tuple[Record, ...]
    is_wal_named: bool


def refuse_lost(path: Path) -> None:
    """Refuse the directory of a shard that was begun and whose data is gone, before anything is made there.

    Raises:
        LedgerCorrupt: it is so.
    """
    if begun_path(path).exists() and not has_data(path):
        raise _lost(path)


def begin_log(store: Store, signer: Signer) -> None:
    """Publish the empty tree in a new shard.

    The file that says that the shard was begun comes after the empty tree and before anything is given out. Where a
    crash fell between the two, the next open finds an empty tree and writes the file.
    """
    begun = begun_path(store.path)
    with store.read() as snapshot:
        is_new = snapshot.state("head") is None
    if is_new and begun.exists():
        raise _lost(store.path)
    if is_new:
        root = Edge(0, {}).root()
        with store.write() as batch:
            note = signer.sign(Checkpoint(signer.name, 0, root).text())
            batch.put_state("head", Head(0, 0, root, note).pack())
    create_once(begun, f"{signer.name}\n".encode(), 0o644)


def resumed(store: Store, shard: int, signer: Signer, entropy: Callable[[int], bytes], sizes: Sizes) -> Resumed:
    """What is to be kept in memory of a stored shard, checked against its head.

    Raises:
        LedgerCorrupt: what is stored contradicts itself, or the write-ahead log is gone.
        LogMismatch: the shard is another signer's.
    """
    with store.read() as snapshot:
        head = Head.of(snapshot)
        is_wal_named = snapshot.state(WAL_STATE) is not None
        if is_wal_named and (names := missing(store.path)):
            raise LedgerCorrupt(
                "the write-ahead log is gone, and what was recorded last may be nowhere else",
                where=", ".join(names),
                fix="Put its files back: a copy of a shard is a copy of its whole directory.",
            )
        checkpoint = _published(head, signer)
        _edge(snapshot, checkpoint.tree_size, checkpoint.root)
        edge = _edge(snapshot, head.tree_size, head.root)
        if head.time_ns != _time_of_last(snapshot, head.tree_size):
            raise _corrupt("its time is not that of the last entry", "head")
        index = Index.open(snapshot.state("index"), snapshot.segment, new_seed=entropy(SEED_BYTES), sizes=sizes)
        if not 0 <= head.tree_size - index.runs.num_entries <= sizes.block_entries:
            raise _corrupt(f"it covers {index.runs.num_entries} of {head.tree_size} entries", "index")
        orphans = index.take_up(snapshot.segments(), snapshot.segment)
        book, book_size = _book(snapshot, head.tree_size, entropy(SEED_BYTES))
        refill(index, _stored(snapshot, index.runs.num_entries, head.tree_size))
    pending = _pending(store.path, head, shard, index.runs.num_entries + sizes.block_entries)
    for record in pending:
        insert_items(record.rows, id_keys(record.rows, index.seed), record.first, index.seed, index.tails)
        book.replay(_columns(record.rows), record.first)
    index.accept()
    memory = Memory(head, edge, index, book, checkpoint.tree_size, head.time_ns, book_size, orphans)
    return Resumed(memory, pending, is_wal_named)


def hashes_of(snapshot: Snapshot) -> ReadHashes:
    """The stored levels of the tree, as `ledger.tree` reads them."""
    return lambda level, begin, end: snapshot.hashes(level, begin, end, HASH_BYTES)


def store_book(batch: Batch, book: Book, size: int) -> None:
    """Store the balances after so many entries, for the next start."""
    batch.put_state("book", book.snapshot(size))


def _published(head: Head, signer: Signer) -> Checkpoint:
    """The stored checkpoint, which is this signer's, and of the stored tree or an earlier one."""
    origin = head.checkpoint.partition("\n")[0]
    if origin != signer.name:
        raise LogMismatch(f"the shard there is {origin[:80]!r}", where=signer.name, fix="Open it with its own signer.")
    try:
        is_own = is_signed_with(head.checkpoint, signer.key)
        checkpoint = open_checkpoint(head.checkpoint, [signer.key]) if is_own else None
    except ReceiptInvalid as error:
        raise _corrupt(error.what, "head") from error
    if checkpoint is None:
        raise LogMismatch(
            f"the shard there has a checkpoint of another key than {signer.key}",
            where=signer.name,
            fix="Open it with its own key; if this is it, run fsck on the shard and restore it from a copy.",
        )
    if checkpoint.tree_size > head.tree_size:
        raise _corrupt("the checkpoint is of more entries than there are", "head")
    return checkpoint


def _edge(snapshot: Snapshot, size: int, root: bytes) -> Edge:
    """The edge of the first `size` leaves, which has this root."""
    edge = Edge.load(size, hashes_of(snapshot))
    if edge.root() != root:
        raise _corrupt(f"the stored nodes do not lead to the root of {size} entries", "hashes")
    return edge


def _pending(path: Path, head: Head, shard: int, end_max: int) -> tuple[Record, ...]:
    """What is only in the write-ahead log: entries that this shard made after those in the store, before `end_max`."""
    time_ns, pending = head.time_ns, left_over(path, head.tree_size)
    for record in pending:
        entries = _columns(record.rows)
        times = entries["time_ns"]
        is_own = (entries["version"] == VERSION).all() and (entries["shard"] == shard).all()
        if not is_own or times[0] <= time_ns or (times[1:] <= times[:-1]).any() or record.end > end_max:
            raise _corrupt("its entries do not follow those in the store", f"write-ahead log, entry {record.first}")
        time_ns = int(times[-1])
    return tuple(pending)


def _stored(snapshot: Snapshot, begin: int, end: int) -> Rows:
    """uint8[n, 240], stored entries, which are what their leaves say: else repeats, or balances, would be wrong."""
    rows = as_bytes(from_bytes(snapshot.entries(begin, end, ENTRY_BYTES))).copy()  # writable, as kernels have them
    is_leaf = (leaf_hashes(rows) == as_hashes(snapshot.hashes(0, begin, end, HASH_BYTES))).all(axis=1)
    if not is_leaf.all():
        raise _corrupt("the entry is not its leaf", f"entry {begin + int(np.argmin(is_leaf))}")
    return rows


def _columns(rows: Rows) -> Entries:
    return rows.reshape(-1).view(ENTRY_DTYPE)


def _time_of_last(snapshot: Snapshot, size: int) -> int:
    """0 if there is none."""
    return int(_columns(_stored(snapshot, size - 1, size))["time_ns"][0]) if size else 0


def _book(snapshot: Snapshot, tree_size: int, seed: bytes) -> tuple[Book, int]:
    """The balances after all entries, and after how many they were stored last."""
    stored, book, book_size = snapshot.state("book"), Book(seed), 0
    if stored is not None:
        book, book_size = Book.load(stored, seed), snapshot_size(stored)
    if book_size > tree_size:
        raise _corrupt(f"the balances are those of {book_size} entries", "settlement snapshot")
    for begin in range(book_size, tree_size, REPLAY_ENTRIES):
        end = min(begin + REPLAY_ENTRIES, tree_size)
        book.replay(_columns(_stored(snapshot, begin, end)), begin)
    return book, book_size


def _lost(path: Path) -> LedgerCorrupt:
    return LedgerCorrupt(
        "the shard was begun before, and what was in it is gone; a new log would contradict its receipts",
        where=str(begun_path(path)),
        fix="Restore the shard's directory from a copy.",
    )


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
