"""A shard: one append-only log of entries. An append is three stages in one durable commit.

    sequence    check every entry, find repeats, settle money and ownership, give what is new its place and its time
    integrate   hash the new leaves and extend the Merkle tree and the index over them
    publish     sign the checkpoint of the new tree, if it is due

Promises: an index, once answered, never names another entry; an id has one entry for ever; a receipt or checkpoint
that was given out stays consistent with every later one. What is kept in memory (the tree's edge, the index's tables,
the balances) is derived from what is stored, and is put back if a commit fails.
"""

import struct
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.book import Book
from ledger.entry import (
    SHARD_MAX,
    Kind,
)
from ledger.errors import LogMismatch
from ledger.group import Answer
from ledger.index import BATCH_ENTRIES_MAX, Index
from ledger.log import shard_of_origin
from ledger.note import Signer
from ledger.result import Result
from ledger.store import MAP_BYTES_DEFAULT, Store
from ledger.tree import Edge

BATCH_ITEMS_MAX = BATCH_ENTRIES_MAX
BATCH_BYTES_MAX = 64 * 1024 * 1024
LOCK_WAIT_S_DEFAULT = 5.0
LAYOUT = 2

_SETTLED = (Kind.ACCOUNT, Kind.MONEY, Kind.OWNERSHIP)
_ASSETS = (Kind.ASSET, Kind.DERIVATION)
_HEAD = struct.Struct("<HQQ32s")


class Head(msgspec.Struct, frozen=True):
    """How far the shard has got; and the newest checkpoint that was published, perhaps of fewer entries."""

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
    """What is derived from the store and kept."""

    head: Head
    edge: Edge
    index: Index
    book: Book
    published_ns: int = 0


class Shard:
    """One shard, owned by this process. Reads may come from any thread; appends take turns."""

    def __init__(
        self, store: Store, shard: int, signer: Signer, now_ns: Callable[[], int], publishing: Publishing, memory: Memory
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
            entropy: random bytes, for the secret seeds of hash tables; nothing that is stored for others depends on it.
        Raises:
            LedgerLocked, LedgerFull, LedgerCorrupt: see `Store.open`; or what is stored contradicts itself.
            LogMismatch: the signer is another shard's, or the shard another log's.
        Cost: reads the index's ids (12 bytes an entry), and the entries since its last run and the last snapshot of
            the balances.
        """
        if shard_of_origin(signer.name) != shard:
            raise LogMismatch(
                f"the signer is {signer.name}", where=f"shard {shard}", fix="Open each shard with its own signer."
            )
        store = Store.open(path, map_bytes=map_bytes, lock_wait_s=lock_wait_s)
        try:
            memory = _begin(store, signer) or _resume(store, signer, entropy)
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
