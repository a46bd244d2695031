"""The write-ahead log of a shard: where small batches are durable before they are in the store.

LMDB flushes twice for each commit; a record here is written into blocks that the file has already, and flushed once.
Two files take turns: while the records of one are moved into the store, new ones go into the other.

    file     head: magic (8 bytes), length of the file (u64), secret (u64), checksum (u64, XXH3-64 of these); zeros up
             to 4,096 bytes; then records
    record   checksum (16 bytes, XXH3-128 under the secret of all that follows), index of the first entry (u64, its bits
             changed where the secret has some), number of entries (u32), length of the payloads (u32), the entries (240
             bytes each), the payloads (MessagePack: of each that there is its index, content and metadata), zeros, and
             all before the entries once more, which ends at the next multiple of 4,096 bytes

A record begins in a block of its own, so one that is torn harms none before it. It counts if its checksum holds and its
first entry follows the last of the record before. What an earlier use of the file left has smaller indices. That there
was a record is seen at both of its ends: a sector that the disk loses does not make it a place never written to.

The blocks inside a record are what callers made them, and stay when a shorter record is written over its beginning.
Nobody can make one that would be taken for a record, or for a damaged one: the secret is nowhere but here.
"""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES
from ledger.errors import LedgerCorrupt, LedgerError, LedgerFull
from ledger.files import create_once
from ledger.payload import Payload

FILE_NAMES = ("wal-0", "wal-1")
WAL_STATE = "wal"
"""The state of the store that says that the files were made."""

FILE_BYTES = 4 * 1024 * 1024
BLOCK_BYTES = 4096

_MAGIC = b"mintwal2"
_SECRET_BYTES = 8
_HEAD = struct.Struct("<8sQQQ")
_HEAD_CHECKED_BYTES = 24
_RECORD = struct.Struct("<16sQII")
_CHECKSUM_BYTES = 16
_PAYLOAD_BYTES = 32  # more than MessagePack adds to a payload

Payloads = dict[int, Payload]
"""By index of the entry; entries without any are not in it."""


class Record(NamedTuple):
    """Entries (uint8[n, 240]) that were given consecutive places together, and their payloads."""

    first: int
    rows: NDArray[np.uint8]
    payloads: Payloads

    @property
    def end(self) -> int:
        """The index after the last."""
        return self.first + len(self.rows)


class _File(NamedTuple):
    """One that is open."""

    descriptor: int
    secret: int


class _Image(NamedTuple):
    """All of a file, as it was read."""

    path: Path
    secret: int
    data: memoryview


class Wal:
    """The two files, made when the first record is written.

    Args:
        entropy: random bytes, for the files' secrets.
    Concurrency: one thread at a time.
    """

    def __init__(self, folder: Path, entropy: Callable[[int], bytes]) -> None:
        self._paths = tuple(folder / name for name in FILE_NAMES)
        self._entropy = entropy
        self._files: list[_File] = []
        self._is_closed = False
        self._current = 0
        self._place = BLOCK_BYTES

    def close(self) -> None:
        """Nothing is written from now on. Calling it again does nothing."""
        self._is_closed = True
        while self._files:
            os.close(self._files.pop().descriptor)

    def __enter__(self) -> "Wal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def has_room(self, num_bytes: int) -> bool:
        """Whether the current file takes a record of such a size."""
        return self._place + num_bytes <= FILE_BYTES

    def write(self, record: Record) -> None:
        """Add a record to the current file, which has room; durable when this returns.

        Raises:
            LedgerFull, LedgerReadOnly: the files cannot be made; nothing was written.
            LedgerCorrupt: the files there are damaged; nothing was written.
            LedgerError: it is closed; or whether the record is durable is not known.
        """
        if self._is_closed:
            raise _error("it is closed", self._paths[self._current])
        self.make()
        try:
            file = self._files[self._current]
            data = packed(record, file.secret)
            num_written = os.pwrite(file.descriptor, data, self._place)
            os.fdatasync(file.descriptor)
        except OSError as error:
            raise _error(str(error), self._paths[self._current]) from error
        if num_written != len(data):
            raise _error(f"{num_written} of {len(data)} bytes were written", self._paths[self._current])
        self._place += len(data)

    def turn(self) -> None:
        """From now on write into the other file, from its beginning: all of its records are in the store."""
        self._current, self._place = 1 - self._current, BLOCK_BYTES

    def wipe(self) -> None:
        """Leave nothing readable in either file, all of whose records are in the store; durable when this returns.

        Raises, as `write`: what was in them may still be.
        Cost: writes both; nothing if there are none.
        """
        if not self._files and len(missing(self._paths[0].parent)) == len(self._paths):
            return
        self.make()
        for path, file in zip(self._paths, self._files, strict=True):
            try:
                num_written = os.pwrite(file.descriptor, bytes(FILE_BYTES - BLOCK_BYTES), BLOCK_BYTES)
                os.fdatasync(file.descriptor)
            except OSError as error:
                raise _error(str(error), path) from error
            if num_written != FILE_BYTES - BLOCK_BYTES:
                raise _error(f"{num_written} of its bytes were wiped", path)

    def make(self) -> None:
        """Both files, if they are not open yet, with blocks on disk that were written once, so that a flush changes
        nothing but data. Raises as `write` does."""
        if len(self._files) == len(self._paths):
            return
        if absent := missing(self._paths[0].parent):
            _refuse_last_room(self._paths[0].parent, len(absent))
        for path in self._paths:
            head = _head(FILE_BYTES, int.from_bytes(self._entropy(_SECRET_BYTES), "little"))
            create_once(path, head.ljust(FILE_BYTES, b"\0"), 0o644)
        for path in self._paths[len(self._files) :]:
            secret = secret_of(path)
            try:
                self._files.append(_File(os.open(path, os.O_RDWR | os.O_CLOEXEC), secret))
            except OSError as error:
                raise _error(str(error), path) from error


def _refuse_last_room(folder: Path, num_files: int) -> None:
    """Files that never shrink are made where they leave as much room again: the last of it is for commits, of this
    shard and of those beside it."""
    disk = os.statvfs(folder)
    num_bytes, num_free = 2 * num_files * FILE_BYTES, disk.f_bavail * disk.f_frsize
    if num_free < num_bytes:
        raise LedgerFull(
            f"{num_free} bytes are free, and a write-ahead log is made where there are {num_bytes}",
            where=str(folder),
            fix="Free some space and try again.",
        )


def packed(record: Record, secret: int) -> bytes:
    """The bytes of a record in a file with that secret, a multiple of `BLOCK_BYTES`."""
    first, rows, payloads = record
    extra = msgspec.msgpack.encode([(index, item.content, item.meta) for index, item in payloads.items()])
    fields = _RECORD.pack(b"", first ^ secret, len(rows), len(extra))[_CHECKSUM_BYTES:]
    body = b"".join((fields, rows.tobytes(), extra))
    header = xxhash.xxh3_128_digest(body, secret) + fields
    padding = bytes(_length(len(rows), len(extra)) - _CHECKSUM_BYTES - len(body) - _RECORD.size)
    return b"".join((header, body[len(fields) :], padding, header))


def _length(num_rows: int, num_extra: int) -> int:
    """Of a record in its file, a multiple of `BLOCK_BYTES`."""
    num_bytes = 2 * _RECORD.size + num_rows * ENTRY_BYTES + num_extra
    return num_bytes + -num_bytes % BLOCK_BYTES


def packed_bytes(num_rows: int, num_payload_bytes: int, num_payloads: int) -> int:
    """No record of so much is larger."""
    return _length(num_rows, num_payload_bytes + _PAYLOAD_BYTES * (num_payloads + 1))


def secret_of(path: Path) -> int:
    """The secret of a file. Raises as `left_over` does."""
    return _read(path).secret


def left_over(folder: Path, size: int) -> list[Record]:
    """The records of entries that are not in the store yet, which has the first `size`; each follows the one before.

    Raises:
        LedgerCorrupt: a record is damaged or missing, and a later one is there; or a file is damaged or missing.
        LedgerError: a file cannot be read.
    Cost: reads both files.
    """
    images = _images(folder)
    records = [record for image in images for record in _records(image)]
    if records and len(images) < len(FILE_NAMES):
        raise _corrupt("one of its two files is missing", folder / "wal")
    found = sorted((record for record in records if record.end > size), key=lambda record: record.first)
    for record, begin in zip(found, [size, *(record.end for record in found)], strict=False):
        if record.first != begin:
            raise _corrupt(
                f"its next record is of entry {record.first}, and {begin} entries are there without it", folder / "wal"
            )
    return found


def missing(folder: Path) -> list[str]:
    """The names of the files that are not there."""
    return [name for name in FILE_NAMES if not (folder / name).exists()]


def broken(folder: Path, first: int) -> Iterator[str]:
    """Where a record of the entry `first` begins that does not hold, or would if it were not named otherwise."""
    for image in _images(folder):
        for place in sorted(set(_begins(image, first))):
            if not 0 < place < len(image.data) or not _record_bytes(image.data[place:], image.secret):
                yield f"{image.path.name}, byte {place}"


def _begins(image: _Image, first: int) -> Iterator[int]:
    """Where a record of the entry `first` begins, as either of its ends says."""
    for place in range(BLOCK_BYTES, len(image.data), BLOCK_BYTES):
        if _is_of(image, place, place, first):
            yield place
        last = place + BLOCK_BYTES - _RECORD.size
        _, _, num_rows, num_extra = _RECORD.unpack_from(image.data, last)
        begin = place + BLOCK_BYTES - _length(num_rows, num_extra)
        if _is_of(image, last, begin, first):
            yield begin


def _is_of(image: _Image, header: int, begin: int, first: int) -> bool:
    """Whether a header, which is that of a record at `begin`, names an entry, or its checksum holds if it did."""
    checksum, named, num_rows, num_extra = _RECORD.unpack_from(image.data, header)
    if named ^ image.secret == first:
        return True
    end = begin + _RECORD.size + num_rows * ENTRY_BYTES + num_extra
    if not 0 < begin < end <= len(image.data):
        return False
    fields = _RECORD.pack(b"", first ^ image.secret, num_rows, num_extra)[_CHECKSUM_BYTES:]
    digest: bytes = xxhash.xxh3_128_digest(fields + image.data[begin + _RECORD.size : end], image.secret)
    return digest == checksum


def _images(folder: Path) -> list[_Image]:
    """The files that there are."""
    return [_read(folder / name) for name in FILE_NAMES if (folder / name).exists()]


def _read(path: Path) -> _Image:
    """A file, whose head holds."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise LedgerError(str(error), where=str(path), fix="See to what it says, then open the shard again.") from error
    _, length, secret, _ = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0, 0, 0)
    if len(data) < length or data[: _HEAD.size] != _head(length, secret):
        raise _corrupt("it has no head, or was cut off, or another release wrote it", path)
    return _Image(path, secret, data)


def _head(length: int, secret: int) -> bytes:
    """The beginning of a file."""
    data = _HEAD.pack(_MAGIC, length, secret, 0)[:_HEAD_CHECKED_BYTES]
    return data + xxhash.xxh3_64_digest(data)


def _records(image: _Image) -> Iterator[Record]:
    """All that hold in a file, whether or not there are broken ones between them."""
    place = BLOCK_BYTES
    while place < len(image.data):
        num_bytes = _record_bytes(image.data[place:], image.secret)
        if num_bytes:
            yield _unpacked(image, place)
        place += num_bytes or BLOCK_BYTES


def _record_bytes(data: memoryview, secret: int) -> int:
    """The length of the record at the beginning, a multiple of `BLOCK_BYTES`; 0 if none holds there."""
    if len(data) < _RECORD.size:
        return 0
    checksum, _, num_rows, num_extra = _RECORD.unpack_from(data)
    end = _RECORD.size + num_rows * ENTRY_BYTES + num_extra
    if not num_rows or end > len(data) or xxhash.xxh3_128_digest(data[_CHECKSUM_BYTES:end], secret) != checksum:
        return 0
    return _length(num_rows, num_extra)


def _unpacked(image: _Image, place: int) -> Record:
    """The record there, which holds."""
    _, named, num_rows, num_extra = _RECORD.unpack_from(image.data, place)
    first = named ^ image.secret
    begin, middle = place + _RECORD.size, place + _RECORD.size + num_rows * ENTRY_BYTES
    rows = np.frombuffer(image.data[begin:middle], np.uint8).reshape(num_rows, ENTRY_BYTES).copy()
    try:
        items = msgspec.msgpack.decode(
            image.data[middle : middle + num_extra], type=list[tuple[int, bytes | None, bytes | None]]
        )
    except msgspec.DecodeError as error:
        raise _corrupt(f"the payloads of entry {first} on: {error}", image.path) from error
    return Record(first, rows, {index: Payload(content, meta) for index, content, meta in items})


def _error(what: str, path: Path) -> LedgerError:
    return LedgerError(
        what, where=str(path), fix="Close the shard, open it again and repeat the call; repeats are harmless."
    )


def _corrupt(what: str, path: Path) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=str(path), fix="Run fsck on the shard and restore it from a copy.")
