"""What a shard keeps on disk: one LMDB environment, five tables, one durable write transaction per batch.

    entries   index (u64)               -> the entry's canonical bytes
    ids       asset id (16)             -> index (u64)
    nodes     level (u8), index (u64)   -> node hash (32); level 0 are the leaf hashes
    blobs     SHA-256 (32)              -> content or metadata
    head      "head"                    -> layout (u16), tree size (u64), signed checkpoint (UTF-8)

Integers are big-endian, so that LMDB's byte order is numeric order. A batch's rows and its checkpoint are committed
together and synced before `write` returns: a reader, a crash or a full disk sees all of a batch or nothing.

This is the only file that imports lmdb. Beside LMDB's own `data.mdb` and `lock.mdb` lies `owner.lock`: LMDB admits
several writing processes in turn, but a shard has one owner. An environment must be opened in the process that uses
it and must not be used across a fork.
Turned down: SQLite (five tables and no queries: LMDB reads without a copy of the page cache or a lock), and a file
format of our own (it would have to prove its crash safety first).
"""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from ledger.errors import LedgerCorrupt, LedgerError, LedgerFull
from ledger.files import FULL_ERRNOS, full_is_named, hold_lock, reserve, sync_directory
from ledger.merkle import HASH_BYTES, Node

LAYOUT = 1
MAP_BYTES_DEFAULT = 1 << 40
"""Address space, not disk: the file is as large as what was written."""

DATA_FILE = "data.mdb"
LOCK_FILE = "owner.lock"
READERS_FILE = "lock.mdb"
READERS_MAX = 126
READERS_BYTES = 64 * READERS_MAX + 128
"""LMDB's table of readers, which it maps: a cache line each, and a header of two."""

TABLES = ("entries", "ids", "nodes", "blobs", "head")

_GROWTH_PROBE_BYTES = 64 * 1024
_INDEX = struct.Struct(">Q")
_NODE = struct.Struct(">BQ")
_HEAD = struct.Struct(">HQ")
_HEAD_KEY = b"head"
_CORRUPT = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.NotFoundError,
)


class Head(msgspec.Struct, frozen=True):
    """How far the shard has got, and the signed note that says so."""

    tree_size: int
    checkpoint: str


class Snapshot:
    """One consistent state of a shard. Valid inside the `with` that gave it; keep it short, it pins pages."""

    def __init__(self, transaction: Any, tables: dict[str, Any]) -> None:
        self._transaction = transaction
        self._tables = tables

    def head(self) -> Head | None:
        """The head; None before the first one was written.

        Raises:
            LedgerCorrupt: it was written by another version of this layout, or is no head.
        """
        data = self._get("head", _HEAD_KEY)
        if data is None:
            return None
        if len(data) < _HEAD.size or _HEAD.unpack_from(data)[0] != LAYOUT:
            raise _corrupt("the head is not of this layout", "head")
        try:
            return Head(_HEAD.unpack_from(data)[1], data[_HEAD.size :].decode())
        except UnicodeDecodeError:
            raise _corrupt("the checkpoint is not UTF-8", "head") from None

    def entry(self, index: int) -> bytes | None:
        """The bytes stored for an entry, unchecked."""
        return self._get("entries", _INDEX.pack(index))

    def index_of(self, asset_id: bytes) -> int | None:
        """The index of the one entry with this id."""
        data = self._get("ids", asset_id)
        return None if data is None else unpack_index(data)

    def node(self, level: int, index: int) -> bytes:
        """bytes[32], a node that the head says is there.

        Raises:
            LedgerCorrupt: it is not.
        """
        data = self._get("nodes", _NODE.pack(level, index))
        if data is None or len(data) != HASH_BYTES:
            raise _corrupt("the node is missing or is no hash", f"node {level}/{index}")
        return data

    def blob(self, digest: bytes) -> bytes | None:
        """The bytes stored under a SHA-256, unchecked."""
        return self._get("blobs", digest)

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value of a table, in order of the keys."""
        return iter(self._transaction.cursor(self._tables[table]))

    def num_rows(self, table: str) -> int:
        return self._transaction.stat(self._tables[table])["entries"]

    def _get(self, table: str, key: bytes) -> bytes | None:
        return self._transaction.get(key, db=self._tables[table])


class Batch(Snapshot):
    """A write transaction: what it has put is visible to its own reads, and to others once it has committed."""

    def put_entry(self, index: int, asset_id: bytes, data: bytes) -> None:
        self._put_new("entries", _INDEX.pack(index), data)
        self._put_new("ids", asset_id, _INDEX.pack(index))

    def put_node(self, node: Node) -> None:
        self._put_new("nodes", _NODE.pack(node.level, node.index), node.hash)

    def put_blob(self, digest: bytes, data: bytes) -> None:
        """Equal bytes are stored once."""
        self._transaction.put(digest, data, db=self._tables["blobs"], overwrite=False)

    def put_head(self, head: Head) -> None:
        data = _HEAD.pack(LAYOUT, head.tree_size) + head.checkpoint.encode()
        self._transaction.put(_HEAD_KEY, data, db=self._tables["head"])

    def _put_new(self, table: str, key: bytes, data: bytes) -> None:
        """Rows of an append-only log are never replaced; one that is already there contradicts the head."""
        if not self._transaction.put(key, data, db=self._tables[table], overwrite=False):
            raise _corrupt("a row beyond the head already exists", f"{table} {key.hex()}")


class Store:
    """A shard's environment. Up to `READERS_MAX` snapshots at a time, in any threads; writers take turns.

    `open` makes this process the owner; `open_readonly` looks at a shard whoever owns it, and writes nothing.
    """

    def __init__(self, path: Path, environment: Any, tables: dict[str, Any], lock: int | None) -> None:
        self.path = path
        self._environment = environment
        self._tables = tables
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, map_bytes: int, lock_wait_s: float) -> "Store":
        """Own the shard in a directory, which is made on first use.

        Args:
            map_bytes: how large the shard may grow. Open again with more once it is full.
        Raises:
            LedgerLocked: another owner kept it for `lock_wait_s` seconds.
            LedgerFull: no room to make it.
            LedgerCorrupt: the file there is no environment of this kind.
        """
        with full_is_named(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = hold_lock(path / LOCK_FILE, lock_wait_s)
        try:
            with full_is_named(path), _named_errors(path):
                reserve(path / READERS_FILE, READERS_BYTES)
                environment = lmdb.open(str(path), map_size=map_bytes, max_dbs=len(TABLES), max_readers=READERS_MAX)
                tables = _make_tables(environment)
        except BaseException:
            os.close(lock)
            raise
        sync_directory(path)
        sync_directory(path.parent)
        return cls(path, environment, tables, lock)

    @classmethod
    def open_readonly(cls, path: Path) -> "Store":
        """Look at a shard without owning it. Not in a process that already has it open: LMDB forbids that.

        Raises:
            LedgerCorrupt: there is no environment of this kind.
            LedgerError: it cannot be opened; the text says why.
        """
        with _named_errors(path):
            environment = lmdb.open(
                str(path), map_size=MAP_BYTES_DEFAULT, max_dbs=len(TABLES), readonly=True, create=False
            )
            return cls(path, environment, _find_tables(environment), None)

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """A snapshot. It holds whatever happens to writers meanwhile.

        Raises:
            LedgerCorrupt: LMDB found a broken page.
        """
        with _named_errors(self.path), self._environment.begin() as transaction:
            yield Snapshot(transaction, self._tables)

    @contextmanager
    def write(self) -> Iterator[Batch]:
        """A batch that is durable when the `with` ends, and undone when it ends with an exception.

        Raises:
            LedgerFull: no room in the map or on disk; nothing was written, and the store goes on working.
            LedgerCorrupt: LMDB found a broken page.
            LedgerError: the commit failed otherwise, and whether it is on disk is not known until the next open.
        """
        try:
            with _named_errors(self.path), self._environment.begin(write=True) as transaction:
                yield Batch(transaction, self._tables)
        except LedgerFull:
            with self.read():  # LMDB refuses this after a failure that may have reached the disk
                pass
            raise

    def close(self) -> None:
        """Give the shard back. Calling it again does nothing."""
        self._environment.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def unpack_index(data: bytes) -> int:
    """The index in a stored key or value.

    Raises:
        LedgerCorrupt: it has not eight bytes.
    """
    if len(data) != _INDEX.size:
        raise _corrupt("an index has not eight bytes", data[: _INDEX.size].hex())
    return int(_INDEX.unpack(data)[0])


def _make_tables(environment: Any) -> dict[str, Any]:
    """All tables, made in one transaction, so that there is never an environment with some of them."""
    with environment.begin(write=True) as transaction:
        return {name: environment.open_db(name.encode(), txn=transaction) for name in TABLES}


def _find_tables(environment: Any) -> dict[str, Any]:
    return {name: environment.open_db(name.encode(), create=False) for name in TABLES}


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn LMDB's errors into ours."""
    try:
        yield
    except lmdb.Error as error:
        raise _named(error, path) from error


def _named(error: lmdb.Error, path: Path) -> LedgerError:
    if isinstance(error, lmdb.MapFullError):
        return LedgerFull(
            "the map is full", where=str(path), fix="Open the shard again with a larger map_bytes, then append again."
        )
    code = getattr(error, "code", 0)
    if code == errno.EIO:
        code = _growth_errno(path / DATA_FILE)
    if code in FULL_ERRNOS:
        return LedgerFull(os.strerror(code), where=str(path), fix="Free some space, then append again.")
    if isinstance(error, _CORRUPT):
        return LedgerCorrupt(str(error), where=str(path), fix="Run fsck on the shard and restore it from a copy.")
    return LedgerError(
        str(error), where=str(path), fix="Close the shard, open it again and repeat the call; repeats are harmless."
    )


def _growth_errno(file: Path) -> int:
    """Why a data file cannot grow: an errno, or 0 if it can.

    LMDB reports a short write as EIO, and a disk that fills up gives a short write first. So the file system itself
    is asked for a little space past the end, which LMDB will use once it gets there. It is not given back: cutting the
    file could cut off what another thread has written meanwhile.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, _GROWTH_PROBE_BYTES)
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(descriptor)
    return 0


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
