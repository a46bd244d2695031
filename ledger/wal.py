"""The write-ahead log of a shard: where small batches are durable before they are in the store.

LMDB flushes twice for each commit; a record here is written into blocks that the file has already, and flushed once.
Two files take turns: while the records of one are moved into the store, new ones go into the other.

    record   checksum (16 bytes, XXH3-128 of all that follows), index of the first entry (u64), number of entries (u32),
             length of the payloads (u32), the entries (240 bytes each), the payloads (MessagePack: of each that there
             is its index, content and metadata), zeros up to the next multiple of 4,096 bytes

A record begins in a block of its own, so one that is torn harms none before it. It counts if its checksum holds and its
first entry follows the last of the record before. What an earlier use of the file left has smaller indices. Checksums
find torn writes, not forgery.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES
from ledger.errors import LedgerCorrupt, LedgerError
from ledger.files import create_once, refusal_is_named
from ledger.payload import Payload

FILE_NAMES = ("wal-0", "wal-1")
FILE_BYTES = 4 * 1024 * 1024
BLOCK_BYTES = 4096

_HEADER = struct.Struct("<16sQII")
_CHECKSUM_BYTES = 16

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


class Wal:
    """The two files, made when the first record is written.

    Concurrency: one thread at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = tuple(folder / name for name in FILE_NAMES)
        self._descriptors: tuple[int, ...] = ()
        self._current = 0
        self._place = 0

    def close(self) -> None:
        """Calling it again does nothing."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()

    def __enter__(self) -> "Wal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def has_room(self, num_bytes: int) -> bool:
        """Whether the current file takes a record of such a size."""
        return self._place + num_bytes <= FILE_BYTES

    def write(self, data: bytes) -> None:
        """Add a record, of `packed`, to the current file, which has room; durable when this returns.

        Raises:
            LedgerFull, LedgerReadOnly: the files cannot be made; nothing was written.
            LedgerError: whether it is durable is not known.
        """
        if not self._descriptors:
            for path in self._paths:
                _make(path)
            with refusal_is_named(self._paths[0]):
                self._descriptors = tuple(os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in self._paths)
        descriptor = self._descriptors[self._current]
        try:
            num_written = os.pwrite(descriptor, data, self._place)
            os.fdatasync(descriptor)
        except OSError as error:
            raise _unknown(str(error), self._paths[self._current]) from error
        if num_written != len(data):
            raise _unknown(f"{num_written} of {len(data)} bytes were written", self._paths[self._current])
        self._place += len(data)

    def turn(self) -> None:
        """From now on write into the other file, from its beginning: all of its records are in the store."""
        self._current, self._place = 1 - self._current, 0


def packed(first: int, rows: NDArray[np.uint8], payloads: Payloads) -> bytes:
    """The bytes of a record, a multiple of `BLOCK_BYTES`."""
    extra = msgspec.msgpack.encode([(index, item.content, item.meta) for index, item in payloads.items()])
    header = _HEADER.pack(b"", first, len(rows), len(extra))[_CHECKSUM_BYTES:]
    body = b"".join((header, rows.tobytes(), extra))
    padding = bytes(-(_CHECKSUM_BYTES + len(body)) % BLOCK_BYTES)
    return b"".join((xxhash.xxh3_128_digest(body), body, padding))


def packed_bytes(num_rows: int, num_payload_bytes: int, num_payloads: int) -> int:
    """No record of so much is larger."""
    return _HEADER.size + num_rows * ENTRY_BYTES + num_payload_bytes + 32 * num_payloads + BLOCK_BYTES


def left_over(folder: Path, size: int) -> list[Record]:
    """The records of entries that are not in the store yet, which has the first `size`; each follows the one before.

    Raises:
        LedgerCorrupt: a record is damaged or missing, and a later one is there.
    """
    found: list[Record] = []
    for name in FILE_NAMES:
        found += [record for record in _records(folder / name) if record.end > size]
    found.sort(key=lambda record: record.first)
    for record, begin in zip(found, [size, *(record.end for record in found)], strict=False):
        if record.first != begin:
            raise LedgerCorrupt(
                f"its next record is of entry {record.first}, and {begin} entries are there without it",
                where=str(folder / "wal"),
                fix="Run fsck on the shard and restore it from a copy.",
            )
    return found


def broken(folder: Path, first: int) -> Iterator[str]:
    """Where a record of the entry `first` begins that does not hold, or would if it were not named otherwise."""
    for path in (folder / name for name in FILE_NAMES):
        data = memoryview(path.read_bytes() if path.exists() else b"")
        for place in range(0, len(data) - _HEADER.size, BLOCK_BYTES):
            checksum, named, num_rows, num_extra = _HEADER.unpack_from(data, place)
            body_place, end = place + _HEADER.size, place + _HEADER.size + num_rows * ENTRY_BYTES + num_extra
            header = _HEADER.pack(b"", first, num_rows, num_extra)[_CHECKSUM_BYTES:]
            is_other = end <= len(data) and xxhash.xxh3_128_digest(header + data[body_place:end]) == checksum
            if any(checksum) and (is_other or named == first) and _unpacked(data[place:])[0] is None:
                yield f"{path.name}, byte {place}"


def _records(path: Path) -> Iterator[Record]:
    """All that hold in a file, whether or not there are broken ones between them."""
    data = memoryview(path.read_bytes() if path.exists() else b"")
    place = 0
    while place < len(data):
        record, num_bytes = _unpacked(data[place:])
        if record is not None:
            yield record
        place += num_bytes


def _unpacked(data: memoryview) -> tuple[Record | None, int]:
    """The record at the beginning, if there is one, and how far to go on."""
    if len(data) < _HEADER.size:
        return None, BLOCK_BYTES
    checksum, first, num_rows, num_extra = _HEADER.unpack_from(data)
    middle = _HEADER.size + num_rows * ENTRY_BYTES
    end = middle + num_extra
    if not num_rows or end > len(data) or xxhash.xxh3_128_digest(data[_CHECKSUM_BYTES:end]) != checksum:
        return None, BLOCK_BYTES
    rows = np.frombuffer(data[_HEADER.size : middle], np.uint8).reshape(num_rows, ENTRY_BYTES)
    items: Sequence[tuple[int, bytes | None, bytes | None]] = msgspec.msgpack.decode(
        data[middle:end], type=list[tuple[int, bytes | None, bytes | None]]
    )
    payloads = {index: Payload(content, meta) for index, content, meta in items}
    return Record(first, rows, payloads), end + -end % BLOCK_BYTES


def _make(path: Path) -> None:
    """Make a file of `FILE_BYTES` with blocks on disk that were written once: a flush then changes nothing but data."""
    create_once(path, bytes(FILE_BYTES), 0o644)


def _unknown(what: str, path: Path) -> LedgerError:
    return LedgerError(
        what, where=str(path), fix="Close the shard, open it again and repeat the call; repeats are harmless."
    )
