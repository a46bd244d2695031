"""What a shard keeps on disk: one LMDB environment, six tables, one durable write transaction per batch.

    entries   first index (u64)               -> the canonical bytes of consecutive entries
    hashes    level (u8), first index (u64)   -> consecutive node hashes, 32 bytes each; levels 0, 8, 16, ...
    contents  index (u64)                     -> an entry's content
    metas     index (u64)                     -> an entry's metadata
    runs      run id (u64), number (u32)      -> a segment of the index (`ledger.index`)
    state     name                            -> head, index manifest, settlement snapshot

Integers are big-endian, so that LMDB's byte order is numeric order. Entries and hashes are stored as they come, in rows
of a batch, or of 409 entries of a large one: rows only ever go to the end, so pages fill up and nothing is written
twice. A batch's rows and its head are committed together and synced before `write` returns: a reader, a crash or a full
disk sees all of a batch or nothing.

This is the only file that imports lmdb. Beside LMDB's own `data.mdb` and `lock.mdb` lies `owner.lock`: LMDB admits
several writing processes in turn, but a shard has one owner. An environment must be opened in the process that uses
it and must not be used across a fork.
Turned down: a row an entry (a cycle of the interpreter lock and 16 bytes of page header for each: a third of the
speed), SQLite (tables and no queries: LMDB reads without a copy of the page cache or a lock), and a file format of our
own (it would have to prove its crash safety first).
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb

from ledger.entry import ENTRY_BYTES
from ledger.errors import (
    LayoutUnsupported,
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerReadOnly,
    LogMismatch,
    NotWritten,
)
from ledger.files import hold_lock, named_refusal, refusal_is_named, reserve, sync_directory

MAP_BYTES_DEFAULT = 1 << 40
"""Address space, not disk: the file is as large as what was written."""

DATA_FILE = "data.mdb"
NEW_FILE = "new.mdb"
"""A data file until it is whole."""

LOCK_FILE = "owner.lock"
READERS_FILE = "lock.mdb"
READERS_MAX = 126
READERS_BYTES = 64 * READERS_MAX + 128
"""LMDB's table of readers, which it maps: a cache line each, and a header of two."""

ENTRIES_ROW_BYTES = 409 * ENTRY_BYTES
"""24 pages, with LMDB's header: py-lmdb touches every page of a row that is asked for, so who reads one entry reads all
of its row from the disk."""

SYSTEM = Path("/sys")
READ_AHEAD_KB_MAX = 512
"""How far the system may read on where a page is missing. Some disks are set to 8 MB: a shard twice as large as memory
then reads 10 GB for half a million appends, each page in place of another that is needed (measured)."""

TABLES = ("entries", "hashes", "contents", "metas", "runs", "state")

_OTHER_FILES = frozenset({DATA_FILE, NEW_FILE, LOCK_FILE, READERS_FILE, "lost+found"})
"""What may lie in a directory in which a shard is begun."""

_REPEAT = "Close the shard, open it again and repeat the call; repeats are harmless."
_OPEN_AGAIN = "See to what it says, then open the shard again."
_GROWTH_PROBE_BYTES = 64 * 1024
_LOOKS_MAX = 10
_PAUSE_S = 0.02
_INDEX = struct.Struct(">Q")
_NODE = struct.Struct(">BQ")
_SEGMENT = struct.Struct(">QI")
_CORRUPT = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.NotFoundError,
)


class Snapshot:
    """One consistent state of a shard. Valid inside the `with` that gave it; keep it short, it pins pages.

    Memoryviews that it returns lie in the map: they end with it, too.
    """

    def __init__(self, transaction: Any, tables: dict[str, Any]) -> None:
        self._transaction = transaction
        self._tables = tables

    @property
    def commit(self) -> int:
        """The number of the commit that it shows; each is one more than the one before."""
        return int(self._transaction.id())

    def state(self, name: str) -> bytes | None:
        """What was last put under a name."""
        data = self._transaction.get(name.encode(), db=self._tables["state"])
        return None if data is None else bytes(data)

    def entries(self, begin: int, end: int, width: int) -> bytes:
        """The stored bytes of the entries `begin` to `end`, `width` bytes each, unchecked.

        Raises:
            LedgerCorrupt: some of them are not there.
        """
        return self._range("entries", b"", begin, end, width)

    def hashes(self, level: int, begin: int, end: int, width: int) -> bytes:
        """The stored hashes of a level. Raises as `entries` does."""
        return self._range("hashes", bytes([level]), begin, end, width)

    def content(self, index: int) -> bytes | None:
        """An entry's content, unchecked; None if it was erased or never stored."""
        return self._blob("contents", index)

    def meta(self, index: int) -> bytes | None:
        """An entry's metadata, unchecked; None if it was erased or never stored."""
        return self._blob("metas", index)

    def segment(self, run: int, number: int) -> memoryview:
        """A segment of the index.

        Raises:
            LedgerCorrupt: it is not there.
        """
        data = self._transaction.get(_SEGMENT.pack(run, number), db=self._tables["runs"])
        if data is None:
            raise _corrupt("a segment of the index is missing", f"index run {run:#018x}, segment {number}")
        return memoryview(data)

    def segments(self) -> Iterator[tuple[int, int]]:
        """(run, number) of every stored segment."""
        cursor = self._transaction.cursor(self._tables["runs"])
        return (_SEGMENT.unpack(key) for key in cursor.iternext(keys=True, values=False))

    def rows(self, table: str, start: bytes = b"") -> Iterator[tuple[memoryview, memoryview]]:
        """Every key and value of a table from the key `start` on, in order of the keys."""
        cursor = self._transaction.cursor(self._tables[table])
        return iter(cursor) if cursor.set_range(start) else iter(())

    def _blob(self, table: str, index: int) -> bytes | None:
        data = self._transaction.get(_INDEX.pack(index), db=self._tables[table])
        return None if data is None else bytes(data)

    def _range(self, table: str, prefix: bytes, begin: int, end: int, width: int) -> bytes:
        """Items `begin` to `end` out of rows of consecutive items."""
        parts = []
        cursor = self._transaction.cursor(self._tables[table])
        found = begin < end and _seek_row(cursor, prefix, begin)
        while found and begin < end:
            key, value = cursor.item()
            first = unpack_index(key[len(prefix) :])
            if key[: len(prefix)] != prefix or not first <= begin < first + len(value) // width:
                break
            stop = min(end, first + len(value) // width)
            parts.append(bytes(value[(begin - first) * width : (stop - first) * width]))
            begin = stop
            found = begin < end and cursor.next()
        if begin < end:
            raise _corrupt("the row is missing", f"{table} {'/'.join(map(str, [*prefix, begin]))}")
        return b"".join(parts)


def _seek_row(cursor: Any, prefix: bytes, item: int) -> bool:
    """Put the cursor on the last row that begins at or before an item."""
    key = prefix + _INDEX.pack(item)
    if not cursor.set_range(key):
        return bool(cursor.last())
    return bool(cursor.key() == key or cursor.prev())


class Batch(Snapshot):
    """A write transaction: what it has put is visible to its own reads, and to others once it has committed."""

    def append_entries(self, first: int, data: Any) -> None:
        """The canonical bytes of consecutive entries from index `first`; their rows must come after every other."""
        every = memoryview(data).cast("B")
        for begin in range(0, len(every), ENTRIES_ROW_BYTES):
            row = every[begin : begin + ENTRIES_ROW_BYTES]
            self._append("entries", _INDEX.pack(first + begin // ENTRY_BYTES), row)

    def append_hashes(self, level: int, first: int, data: Any) -> None:
        """Consecutive hashes of a level from index `first`."""
        self._put_new("hashes", _NODE.pack(level, first), data)

    def put_payload(self, index: int, content: bytes | None, meta: bytes | None) -> None:
        """What belongs to an entry; None for what is kept elsewhere."""
        if content is not None:
            self._append("contents", _INDEX.pack(index), content)
        if meta is not None:
            self._append("metas", _INDEX.pack(index), meta)

    def erase_payload(self, index: int) -> None:
        """Delete an entry's content and metadata; without effect where there are none."""
        for table in ("contents", "metas"):
            self._transaction.delete(_INDEX.pack(index), db=self._tables[table])

    def put_segment(self, run: int, number: int, data: Any) -> None:
        self._put_new("runs", _SEGMENT.pack(run, number), data)

    def delete_segment(self, run: int, number: int) -> None:
        self._transaction.delete(_SEGMENT.pack(run, number), db=self._tables["runs"])

    def put_state(self, name: str, data: bytes) -> None:
        self._transaction.put(name.encode(), data, db=self._tables["state"])

    def _append(self, table: str, key: bytes, data: Any) -> None:
        """Rows of a log only go to the end; one that would not contradicts the head."""
        if not self._transaction.put(key, data, db=self._tables[table], append=True):
            raise _corrupt("a row at or beyond this one already exists", f"{table} {key.hex()}")

    def _put_new(self, table: str, key: bytes, data: Any) -> None:
        if not self._transaction.put(key, data, db=self._tables[table], overwrite=False):
            raise _corrupt("the row already exists", f"{table} {key.hex()}")


class Store:
    """A shard's environment. Up to `READERS_MAX` snapshots at a time, in any threads; writers take turns.

    `open` makes this process the owner; `open_readonly` looks at a shard whoever owns it, and changes nothing.
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
            LedgerFull, LedgerReadOnly: no room to make it, or no right to write there.
            LedgerCorrupt: the file there is no environment of this kind, or was cut off.
            LayoutUnsupported: another release wrote it.
            LogMismatch: what is there is no directory, or has files and no shard in it.
        """
        with refusal_is_named(path):
            _make_directory(path)
            lock = hold_lock(path / LOCK_FILE, lock_wait_s)
        try:
            with refusal_is_named(path), _named_errors(path, _OPEN_AGAIN):
                _make_environment(path, map_bytes)
                reserve(path / READERS_FILE, READERS_BYTES)
                environment = lmdb.open(
                    str(path),
                    map_size=map_bytes,
                    max_dbs=len(TABLES),
                    max_readers=READERS_MAX,
                    readahead=_reads_ahead_little(path),
                )
                tables = _tables(environment, path, complete=True)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, environment, tables, lock)

    @classmethod
    def open_readonly(cls, path: Path, *, in_order: bool = False) -> "Store":
        """Look at a shard without owning it. Not in a process that already has it open: LMDB forbids that.

        Whoever may write there is entered in LMDB's table of readers, so that the owner leaves what is read. Others,
        and who looks at a bare copy, write nothing; instead no owner can open the shard until they have closed it.
        Args:
            in_order: whether all of it will be read, in order: then the system may read on as far as it likes.
        Raises:
            LedgerCorrupt: there is no environment of this kind, or it was cut off.
            LayoutUnsupported: another release wrote it.
            LedgerReadOnly: this user may not read it, or may not write there while an owner has it open.
            LedgerError: it cannot be opened; the text says why.
        """
        with refusal_is_named(path), _named_errors(path, _OPEN_AGAIN):
            if not has_data(path):
                raise LedgerCorrupt(
                    f"there is no {DATA_FILE}, or nothing in it",
                    where=str(path),
                    fix="Name the directory of a shard, or restore it from a copy.",
                )
            is_entered, lock = _entered(path)
            try:
                environment = lmdb.open(
                    str(path),
                    map_size=MAP_BYTES_DEFAULT,
                    max_dbs=len(TABLES),
                    readonly=True,
                    create=False,
                    lock=is_entered,
                    readahead=in_order or _reads_ahead_little(path),
                )
                return cls(path, environment, _tables(environment, path, complete=False), lock)
            except BaseException:
                if lock is not None:
                    os.close(lock)
                raise

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """A snapshot. It holds whatever happens to writers meanwhile.

        Raises:
            LedgerCorrupt: LMDB found a broken page.
        """
        with _named_errors(self.path), self._begin_read() as transaction:
            yield Snapshot(transaction, self._tables)

    def _begin_read(self) -> Any:
        """A process that was killed keeps its places in the table of readers: where there is no other, they are taken
        from it."""
        try:
            return self._environment.begin(buffers=True)
        except lmdb.ReadersFullError:
            self._environment.reader_check()
            return self._environment.begin(buffers=True)

    def _begin_write(self) -> Any:
        """What readers that were killed had pinned is free again. Cost: 0.1 us more."""
        self._environment.reader_check()
        return self._environment.begin(write=True, buffers=True)

    @contextmanager
    def write(self) -> Iterator[Batch]:
        """A batch that is durable when the `with` ends, and undone when it ends with an exception.

        Raises:
            NotWritten: the commit failed, for want of room (LedgerFull) or the right to write (LedgerReadOnly), or
                otherwise; nothing was written, and the store goes on working.
            LedgerCorrupt: LMDB found a broken page.
            LedgerError: the commit failed, and whether it is on disk is not known until the next open.
        """
        number = 0
        try:
            with _named_errors(self.path), self._begin_write() as transaction:
                number = transaction.id()
                yield Batch(transaction, self._tables)
            _complete(self._environment, self.path)
        except LedgerError as error:
            if isinstance(error.__cause__, lmdb.Error) and not isinstance(error, LedgerCorrupt):
                self._refuse_if_written(number, error)
            raise

    def _refuse_if_written(self, number: int, error: LedgerError) -> None:
        """After a failed commit, say whether anything of it may be on disk: LMDB refuses to go on after a failure that
        may have reached its root, and counts commits."""
        with self.read():
            pass
        if type(error) is LedgerError and self._environment.info()["last_txnid"] < number:
            raise NotWritten(
                f"{error.what}; nothing was written",
                where=error.where,
                fix="Repeat the call; if it fails again, see to the disk.",
            ) from error

    def close(self) -> None:
        """Give the shard back. Calling it again does nothing."""
        self._environment.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def unpack_index(data: bytes | memoryview) -> int:
    """The index in a stored key.

    Raises:
        LedgerCorrupt: it has not eight bytes.
    """
    if len(data) != _INDEX.size:
        raise _corrupt("an index has not eight bytes", bytes(data[: _INDEX.size]).hex())
    return int(_INDEX.unpack(data)[0])


def has_data(path: Path) -> bool:
    """Whether there is a data file with anything in it."""
    file = path / DATA_FILE
    return file.exists() and file.stat().st_size > 0


def _entered(path: Path) -> tuple[bool, int | None]:
    """Whether a reader is entered in LMDB's table; and else what keeps owners out until it is closed, a file
    descriptor, if there ever was one. An owner makes its lock before the data, so a bare copy has none.

    Raises:
        LedgerReadOnly: an owner has the shard open.
    """
    readers, owner = path / READERS_FILE, path / LOCK_FILE
    if not owner.exists():
        return False, None
    if os.access(readers if readers.exists() else path, os.W_OK):
        return True, None
    descriptor = os.open(owner, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False, descriptor
    except BlockingIOError as error:
        os.close(descriptor)
        raise LedgerReadOnly(
            "an owner has it open, and this user may not be entered among its readers",
            where=str(readers),
            fix="Let this user write to that file, look when no owner runs, or look at a copy.",
        ) from error


def _make_directory(path: Path) -> None:
    """Make the directory of a shard, if there is none."""
    if path.exists() and not path.is_dir():
        raise LogMismatch(
            "there is a file and no directory", where=str(path), fix="Name the directory of a shard, or a new one."
        )
    path.mkdir(parents=True, exist_ok=True)


def _make_environment(path: Path, map_bytes: int) -> None:
    """Make the data file, with its tables, if there is none. Its name is durable when this returns.

    It is made under another name, and gets its own once it is whole: LMDB begins a new file with pages that it does not
    sync, so a power cut could leave a file that cannot be opened.
    """
    new = path / NEW_FILE
    if not has_data(path):
        if others := sorted({each.name for each in path.iterdir()} - _OTHER_FILES):
            raise LogMismatch(
                f"there is no shard, but {others[0]!r}",
                where=str(path),
                fix="Name the directory of a shard, or a new one.",
            )
        new.unlink(missing_ok=True)
        try:
            with _named_errors(path):
                _make_tables(new, map_bytes)
            new.replace(path / DATA_FILE)
        finally:
            new.unlink(missing_ok=True)
    sync_directory(path)
    sync_directory(path.parent)


def _make_tables(file: Path, map_bytes: int) -> None:
    """Make a data file with empty tables, durably."""
    environment = lmdb.open(str(file), subdir=False, lock=False, map_size=map_bytes, max_dbs=len(TABLES))
    with closing(environment), environment.begin(write=True) as transaction:
        for name in TABLES:
            environment.open_db(name.encode(), txn=transaction)


def _reads_ahead_little(path: Path) -> bool:
    """Whether the disk is set to read on by no more than `READ_AHEAD_KB_MAX`, as far as the system tells: a disk, or
    the one that a partition is of, or a file system with a setting of its own."""
    device = path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    disk = SYSTEM / "dev/block" / name
    folders = disk / "queue", disk.resolve().parent / "queue", SYSTEM / "class/bdi" / name
    for setting in (folder / "read_ahead_kb" for folder in folders):
        with suppress(OSError, ValueError):
            return int(setting.read_text()) <= READ_AHEAD_KB_MAX
    return True


def _tables(environment: Any, path: Path, *, complete: bool) -> dict[str, Any]:
    """The tables of an environment.

    Args:
        complete: see `_complete`; else a file that ends too early is refused.
    """
    try:
        environment.reader_check()
        if complete:
            _complete(environment, path)
        elif (num_bytes := _missing_for_long(environment, path)) > 0:
            raise LedgerCorrupt(
                f"the file ends {num_bytes} bytes before its last page",
                where=str(path / DATA_FILE),
                fix="It was cut off: restore it from a copy; or let its owner open it, if that died at a bad moment.",
            )
        with environment.begin() as transaction:
            names = sorted(transaction.cursor().iternext(values=False))
        if b"entries" not in names:  # every release has had this one
            raise _corrupt("there are no tables of a ledger", str(path))
        if names != sorted(name.encode() for name in TABLES):
            raise layout_unsupported("it has other tables", str(path))
        return {name: environment.open_db(name.encode(), create=False) for name in TABLES}
    except BaseException:
        environment.close()
        raise


def layout_unsupported(what: str, where: str) -> LayoutUnsupported:
    """The error of a shard that is stored in another way than this release stores it."""
    return LayoutUnsupported(
        f"it was written by another release of Mintage: {what}",
        where=where,
        fix="Open it with the release that wrote it, or name another data directory (data_dir, mintage run --data).",
    )


def _missing_bytes(environment: Any, path: Path) -> int:
    """How far the file ends before the last page that the environment knows."""
    num_bytes: int = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    return num_bytes - (path / DATA_FILE).stat().st_size


def _missing_for_long(environment: Any, path: Path) -> int:
    """The same; but a busy owner, which sees to it right after its commit, gets some time for that."""
    for _ in range(_LOOKS_MAX):
        if (num_bytes := _missing_bytes(environment, path)) <= 0:
            break
        time.sleep(_PAUSE_S)
    return num_bytes


def _complete(environment: Any, path: Path) -> None:
    """Let the file reach to the last page that the environment knows.

    LMDB does not write pages at its end that one transaction took and freed. To read beyond the end of a mapped file
    kills the process (SIGBUS), so for everybody else a file that ends too early is one that was cut off. If it was, it
    has holes now: what belongs there is found missing when it is read.
    """
    if _missing_bytes(environment, path) <= 0:
        return
    with suppress(OSError):  # the commit is done; the next one tries again
        descriptor = os.open(path / DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            page_bytes = environment.stat()["psize"]
            os.posix_fallocate(descriptor, environment.info()["last_pgno"] * page_bytes, page_bytes)
        finally:
            os.close(descriptor)


@contextmanager
def _named_errors(path: Path, fix: str = _REPEAT) -> Iterator[None]:
    """Turn LMDB's errors into ours; `fix` is for those without a better name."""
    try:
        yield
    except lmdb.Error as error:
        raise _named(error, path, fix) from error


def _named(error: lmdb.Error, path: Path, fix: str) -> LedgerError:
    if isinstance(error, lmdb.MapFullError):
        return LedgerFull(
            "the map is full", where=str(path), fix="Open the shard again with a larger map_bytes, then append again."
        )
    if isinstance(error, lmdb.ReadersFullError):
        return LedgerBusy(
            f"{READERS_MAX} readers look at the shard", where=str(path), fix="Try again once one of them is done."
        )
    code = getattr(error, "code", 0)
    if code == errno.EIO:
        code = _growth_errno(path)
    if refusal := named_refusal(code, path):
        return refusal
    if isinstance(error, _CORRUPT):
        return LedgerCorrupt(str(error), where=str(path), fix="Run fsck on the shard and restore it from a copy.")
    return LedgerError(str(error), where=str(path), fix=fix)


def _growth_errno(path: Path) -> int:
    """Why the data file cannot grow: an errno, or 0 if it can.

    LMDB reports a short write as EIO, and a disk that fills up gives a short write first. So the file system itself
    is asked for a little space past the end, which LMDB will use once it gets there. It is not given back: cutting the
    file could cut off what another thread has written meanwhile.
    """
    file = next((file for file in (path / NEW_FILE, path / DATA_FILE) if file.exists()), None)
    if file is None:
        return 0
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, _GROWTH_PROBE_BYTES)
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(descriptor)
    return 0


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
