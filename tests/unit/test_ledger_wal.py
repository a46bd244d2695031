"""The write-ahead log: its bytes, what is left over in it, and what is refused."""

import errno
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xxhash

from ledger import wal as wal_module
from ledger.entry import ENTRY_BYTES
from ledger.errors import LedgerCorrupt, LedgerError, LedgerFull
from ledger.payload import Payload
from ledger.wal import (
    BLOCK_BYTES,
    FILE_NAMES,
    Record,
    Wal,
    broken,
    left_over,
    packed,
    packed_bytes,
    secret_of,
)

FILE_BYTES = 16 * BLOCK_BYTES
HEAD = struct.Struct("<8sQQQ")
RECORD = struct.Struct("<16sQII")
SECRET = 0x1122334455667788
ENTRIES_A_BLOCK = (BLOCK_BYTES - RECORD.size - 1) // ENTRY_BYTES
"""Without payloads, whose list takes a byte."""


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "FILE_BYTES", FILE_BYTES)


@pytest.fixture
def wal(tmp_path: Path) -> Iterator[Wal]:
    with Wal(tmp_path, random.Random(1).randbytes) as opened:
        yield opened


def record_of(first: int, num_entries: int = 1, payloads: dict[int, Payload] | None = None) -> Record:
    """Entries of bytes that depend on where they are."""
    data = random.Random(first).randbytes(num_entries * ENTRY_BYTES)
    return Record(first, np.frombuffer(data, np.uint8).reshape(num_entries, ENTRY_BYTES), payloads or {})


def write_all(wal: Wal, *records: Record) -> None:
    for record in records:
        wal.write(record)


def assert_left_over(folder: Path, size: int, *expected: Record) -> None:
    found = left_over(folder, size)
    assert [record.first for record in found] == [record.first for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.rows.tobytes() == other.rows.tobytes() and one.payloads == other.payloads


def change(path: Path, place: int, data: bytes) -> None:
    """Write over some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def test_what_was_written_is_left_over_in_its_order(wal: Wal, tmp_path: Path) -> None:
    payloads = {8: Payload(b"content", b"meta"), 9: Payload(None, b""), 11: Payload(bytes(5000), None)}
    records = record_of(5, 3), record_of(8, 4, payloads), record_of(12)
    write_all(wal, *records)
    assert_left_over(tmp_path, 5, *records)
    assert_left_over(tmp_path, 8, *records[1:])
    assert_left_over(tmp_path, 12, records[2])
    assert_left_over(tmp_path, 13)


def test_nothing_is_left_over_where_nothing_was_written(wal: Wal, tmp_path: Path) -> None:
    assert left_over(tmp_path, 0) == []
    assert list(tmp_path.iterdir()) == [], "the files are made with the first record"


def test_the_bytes_are_those_of_the_format(wal: Wal, tmp_path: Path) -> None:
    payloads = {7: Payload(b"content", None), 8: Payload(None, b"meta")}
    first, second = record_of(7, 2, payloads), record_of(9, ENTRIES_A_BLOCK)
    write_all(wal, first, second)
    data = (tmp_path / FILE_NAMES[0]).read_bytes()
    magic, length, secret, checksum = HEAD.unpack_from(data)
    assert (magic, length, len(data)) == (b"mintwal2", FILE_BYTES, FILE_BYTES)
    assert checksum.to_bytes(8, "little") == xxhash.xxh3_64_digest(data[:24])
    assert not any(data[HEAD.size : BLOCK_BYTES])

    digest, index, num_entries, num_extra = RECORD.unpack_from(data, BLOCK_BYTES)
    begin, middle = BLOCK_BYTES + RECORD.size, BLOCK_BYTES + RECORD.size + 2 * ENTRY_BYTES
    end = middle + num_extra
    assert (index ^ secret, num_entries) == (7, 2) and data[begin:middle] == first.rows.tobytes()
    assert msgspec.msgpack.decode(data[middle:end]) == [[7, b"content", None], [8, None, b"meta"]]
    assert digest == xxhash.xxh3_128_digest(data[BLOCK_BYTES + 16 : end], secret)
    again = 2 * BLOCK_BYTES - RECORD.size
    assert not any(data[end:again]), "almost up to the next block there are zeros"
    assert data[again : 2 * BLOCK_BYTES] == data[BLOCK_BYTES : BLOCK_BYTES + RECORD.size]

    assert data[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] == packed(second, secret)
    assert not any(data[3 * BLOCK_BYTES :])
    assert data != (tmp_path / FILE_NAMES[1]).read_bytes()[: len(data)], "each has a secret of its own"


@pytest.mark.parametrize("num_entries", [1, 16, 17, 34])
@pytest.mark.parametrize("num_bytes", [None, 0, 1, 200, 255, 256, 4000, 70_000])
def test_no_record_is_larger_than_was_said(num_entries: int, num_bytes: int | None) -> None:
    payloads = {}
    if num_bytes is not None:
        payloads = {2**63 - 1 - place: Payload(bytes(num_bytes), bytes(num_bytes)) for place in range(num_entries)}
    data = packed(record_of(0, num_entries, payloads), SECRET)
    said = packed_bytes(num_entries, sum(item.num_bytes for item in payloads.values()), len(payloads))
    assert len(data) <= said < len(data) + 3 * BLOCK_BYTES and len(data) % BLOCK_BYTES == 0


def test_a_file_is_filled_to_its_last_block_and_grows_no_further(wal: Wal, tmp_path: Path) -> None:
    records, size = [], 0
    while wal.has_room(BLOCK_BYTES):
        records.append(record_of(size, ENTRIES_A_BLOCK))
        wal.write(records[-1])
        size = records[-1].end
    assert len(records) == FILE_BYTES // BLOCK_BYTES - 1, "one block is the head"
    assert {(tmp_path / name).stat().st_size for name in FILE_NAMES} == {FILE_BYTES}
    assert_left_over(tmp_path, 0, *records)


def test_a_new_file_has_all_of_its_blocks_on_disk(wal: Wal, tmp_path: Path) -> None:
    """So a flush of a record has no allocation to write down."""
    wal.write(record_of(0))
    for name in FILE_NAMES:
        assert (tmp_path / name).stat().st_blocks * 512 >= FILE_BYTES


def test_both_files_can_hold_what_is_left_over(wal: Wal, tmp_path: Path) -> None:
    first, second, third = record_of(0, 2), record_of(2, 3), record_of(5)
    wal.write(first)
    wal.turn()
    write_all(wal, second, third)
    assert_left_over(tmp_path, 0, first, second, third)
    wal.turn()  # the first two are in the store
    fourth = record_of(6)
    wal.write(fourth)
    assert_left_over(tmp_path, 5, third, fourth)
    with pytest.raises(LedgerCorrupt, match="its next record is of entry 2, and 0 entries are there without it"):
        left_over(tmp_path, 0)


def test_what_an_earlier_use_of_a_file_left_is_not_taken(wal: Wal, tmp_path: Path) -> None:
    """Longer records and more of them; the new one ends in the middle of an old one."""
    write_all(wal, record_of(0, 40), record_of(40, 60), record_of(100))
    wal.turn()
    wal.turn()
    new = record_of(101, 20)
    wal.write(new)
    assert_left_over(tmp_path, 101, new)
    assert_left_over(tmp_path, 121)


def forged(first: int, secret: int) -> bytes:
    """A block that is a record with that secret."""
    return packed(record_of(first), secret)


def test_a_payload_in_the_form_of_a_record_is_not_taken_for_one(wal: Wal, tmp_path: Path) -> None:
    """Not even where a shorter record has come over the beginning of the one that it is in."""
    lead = BLOCK_BYTES - RECORD.size - ENTRY_BYTES - 6  # the list, the item, its index, and the content's length
    content = bytes(lead) + b"".join(forged(1 + place, 0) for place in range(3))
    wal.write(record_of(0, 1, {0: Payload(content)}))
    file = tmp_path / FILE_NAMES[0]
    data = file.read_bytes()
    assert data[2 * BLOCK_BYTES : 5 * BLOCK_BYTES] == content[lead:], "the forgeries begin where records do"
    wal.turn()
    wal.turn()
    new = record_of(1)
    wal.write(new)
    assert_left_over(tmp_path, 1, new)
    assert_left_over(tmp_path, 2)
    assert list(broken(tmp_path, 2)) == [], "nor for a damaged one"

    change(file, 2 * BLOCK_BYTES, b"".join(forged(2 + place, secret_of(file)) for place in range(3)))
    assert [record.first for record in left_over(tmp_path, 1)] == [1, 2, 3, 4], "who knows the secret can make some"


@pytest.mark.parametrize("place", range(4))
def test_a_record_that_is_torn_is_left_out_and_the_ones_before_are_not(wal: Wal, tmp_path: Path, place: int) -> None:
    """`place`: which of the four sectors with something in them was not written."""
    first, last = record_of(3, 2), record_of(5, 7)
    write_all(wal, first, last)
    change(tmp_path / FILE_NAMES[0], 2 * BLOCK_BYTES + 512 * place, bytes(512))
    assert_left_over(tmp_path, 3, first)
    assert_left_over(tmp_path, 5)
    wal.turn()
    again = record_of(5, 3)
    wal.write(again)
    assert_left_over(tmp_path, 3, first, again)


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_record_that_is_damaged_before_a_good_one_is_told(wal: Wal, tmp_path: Path, damaged: int) -> None:
    write_all(wal, record_of(0, 2), record_of(2, 2), record_of(4, 2))
    change(tmp_path / FILE_NAMES[0], (1 + damaged) * BLOCK_BYTES + 100, b"damage")
    begin = 2 * damaged
    with pytest.raises(LedgerCorrupt, match=f"is of entry {begin + 2}, and {begin} entries are there"):
        left_over(tmp_path, 0)
    assert_left_over(tmp_path, 4, record_of(4, 2))


def test_a_store_that_is_older_than_the_log_is_told(wal: Wal, tmp_path: Path) -> None:
    """It was restored from a copy."""
    write_all(wal, record_of(10, 5), record_of(15, 5))
    assert_left_over(tmp_path, 10, record_of(10, 5), record_of(15, 5))
    for size in (0, 9, 11, 14, 16):
        with pytest.raises(LedgerCorrupt, match=f"and {size} entries are there without it"):
            left_over(tmp_path, size)


@pytest.mark.parametrize("other", [record_of(0, 3), record_of(1, 2), record_of(2, 4), record_of(4, 1)])
def test_records_that_overlap_or_leave_a_gap_are_told(wal: Wal, tmp_path: Path, other: Record) -> None:
    write_all(wal, record_of(0, 3), other)
    with pytest.raises(LedgerCorrupt, match="its next record is of entry"):
        left_over(tmp_path, 0)


@pytest.mark.parametrize("name", FILE_NAMES)
@pytest.mark.parametrize("place", range(HEAD.size))
def test_a_head_that_is_damaged_is_told(wal: Wal, tmp_path: Path, name: str, place: int) -> None:
    """Else every record of the file would be none."""
    wal.write(record_of(0))
    flipped = (tmp_path / name).read_bytes()[place] ^ 0x40
    change(tmp_path / name, place, bytes([flipped]))
    with pytest.raises(LedgerCorrupt, match="it has no head, or was cut off"):
        left_over(tmp_path, 0)


@pytest.mark.parametrize("name", FILE_NAMES)
@pytest.mark.parametrize("length", [0, 1, HEAD.size, BLOCK_BYTES, FILE_BYTES - 1])
def test_a_file_that_was_cut_off_is_told(wal: Wal, tmp_path: Path, name: str, length: int) -> None:
    wal.write(record_of(0))
    os.truncate(tmp_path / name, length)
    with pytest.raises(LedgerCorrupt, match="it has no head, or was cut off"):
        left_over(tmp_path, 0)


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_that_is_missing_is_told(wal: Wal, tmp_path: Path, name: str) -> None:
    wal.write(record_of(0))
    wal.turn()
    wal.write(record_of(1))
    (tmp_path / name).unlink()
    with pytest.raises(LedgerCorrupt, match="one of its two files is missing"):
        left_over(tmp_path, 0)


def test_one_file_without_records_is_what_a_crash_left_while_the_two_were_made(wal: Wal, tmp_path: Path) -> None:
    wal.write(record_of(0))
    (tmp_path / FILE_NAMES[1]).unlink()
    change(tmp_path / FILE_NAMES[0], BLOCK_BYTES, bytes(BLOCK_BYTES))
    assert left_over(tmp_path, 0) == []
    with Wal(tmp_path, random.Random(2).randbytes) as again:
        again.write(record_of(0))
        assert_left_over(tmp_path, 0, record_of(0))


def test_a_file_that_cannot_be_read_is_told(wal: Wal, tmp_path: Path) -> None:
    wal.write(record_of(0))
    (tmp_path / FILE_NAMES[1]).unlink()
    (tmp_path / FILE_NAMES[1]).mkdir()
    with pytest.raises(LedgerError, match="Is a directory"):
        left_over(tmp_path, 0)


def test_whatever_is_in_the_blocks_is_read_without_harm(wal: Wal, tmp_path: Path) -> None:
    wal.write(record_of(0))
    file, chance = tmp_path / FILE_NAMES[0], random.Random(3)
    numbers = (0, 1, 2**31, 2**32 - 1)
    for _ in range(50):
        garbage = bytearray(chance.randbytes(FILE_BYTES - 2 * BLOCK_BYTES))
        for place in range(0, len(garbage), BLOCK_BYTES):
            head = chance.randbytes(16), chance.choice((1, 2**64 - 1)), chance.choice(numbers), chance.choice(numbers)
            RECORD.pack_into(garbage, place, *head)
        change(file, 2 * BLOCK_BYTES, garbage)
        assert_left_over(tmp_path, 0, record_of(0))
        list(broken(tmp_path, 1))


@pytest.mark.parametrize("extra", [b"", b"\xc1", b"\x91", b"\x91\x93\x00\xa1a\xc0", b"\x91\x92\x00\xc0", b"\x90\x90"])
def test_payloads_of_another_form_are_told_though_their_checksum_holds(wal: Wal, tmp_path: Path, extra: bytes) -> None:
    wal.write(record_of(0))
    file = tmp_path / FILE_NAMES[0]
    body = RECORD.pack(b"", secret_of(file), 1, len(extra))[16:] + record_of(0).rows.tobytes() + extra
    change(file, BLOCK_BYTES, xxhash.xxh3_128_digest(body, secret_of(file)) + body)
    with pytest.raises(LedgerCorrupt, match="the payloads of entry 0 on"):
        left_over(tmp_path, 0)


def test_the_files_are_used_again_with_their_secrets(wal: Wal, tmp_path: Path) -> None:
    wal.write(record_of(0, 20))
    secrets = [secret_of(tmp_path / name) for name in FILE_NAMES]
    wal.close()
    with Wal(tmp_path, random.Random(2).randbytes) as again:
        again.write(record_of(20))
    assert [secret_of(tmp_path / name) for name in FILE_NAMES] == secrets and len(set(secrets)) == 2
    assert_left_over(tmp_path, 20, record_of(20))


def test_after_it_is_closed_nothing_is_written(wal: Wal, tmp_path: Path) -> None:
    wal.write(record_of(0))
    wal.close()
    wal.close()
    with pytest.raises(LedgerError, match="it is closed"):
        wal.write(record_of(1))
    assert_left_over(tmp_path, 0, record_of(0))


def short(descriptor: int, data: bytes, place: int, write: Callable[[int, bytes, int], int] = os.pwrite) -> int:
    return write(descriptor, data[: BLOCK_BYTES // 2], place)


def fails(*_: object) -> int:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("call", "instead", "what"),
    [
        ("pwrite", short, "2048 of 4096 bytes were written"),
        ("pwrite", fails, "Input/output error"),
        ("fdatasync", fails, "Input/output error"),
    ],
)
def test_a_write_that_fails_is_told_and_harms_nothing_before_it(
    wal: Wal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, instead: object, what: str
) -> None:
    wal.write(record_of(0))
    with monkeypatch.context() as patch:
        patch.setattr(wal_module.os, call, instead)
        with pytest.raises(LedgerError, match=what) as caught:
            wal.write(record_of(1, ENTRIES_A_BLOCK))
    assert type(caught.value) is LedgerError and "open it again" in caught.value.fix
    assert left_over(tmp_path, 0)[0].rows.tobytes() == record_of(0).rows.tobytes()


def test_where_there_is_no_room_for_the_files_nothing_is_left_of_them(
    wal: Wal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    make = wal_module.create_once

    def no_room(path: Path, data: bytes, mode: int) -> bool:
        if path.name == FILE_NAMES[1]:
            raise LedgerFull("No space left on device", where=str(path), fix="Free some space and try again.")
        return make(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr(wal_module, "create_once", no_room)
        for _ in range(3):
            with pytest.raises(LedgerFull):
                wal.write(record_of(0))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert left_over(tmp_path, 0) == []
    wal.write(record_of(0))
    assert_left_over(tmp_path, 0, record_of(0))
