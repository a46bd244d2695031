"""The entry layout: every byte has its place, and one entry has one encoding."""

import hashlib

import msgspec
import pytest

from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, Entry, Kind, decode, encode, owner_of
from ledger.errors import EntryInvalid

ENTRY = Entry(
    kind=Kind.ASSET,
    tier=2,
    shard=0x0102,
    time_ms=0x1112131415161718,
    asset_id=bytes(range(16)),
    content_hash=b"c" * 32,
    request_hash=b"r" * 32,
    meta_hash=b"m" * 32,
    owner=b"o" * 16,
    value_micros=0x2122232425262728,
    content_bytes=0x3132333435363738,
    parents=((0x0102, 5), (7, 0x4142434445464748)),
)


def test_an_entry_is_laid_out_as_documented_byte_for_byte() -> None:
    expected = (
        bytes.fromhex("0100 03 02 00 02 0201 1817161514131211")
        + bytes(range(16))
        + b"c" * 32
        + b"r" * 32
        + b"m" * 32
        + b"o" * 16
        + bytes.fromhex("2827262524232221 3837363534333231")
        + bytes.fromhex("0500000000000000 4847464544434241")
        + bytes(16)
        + bytes.fromhex("0201 0700")
        + bytes(4 + 40)
    )
    assert encode(ENTRY) == expected
    assert ENTRY_DTYPE.itemsize == ENTRY_BYTES == len(expected) == 240


def test_the_leaf_of_an_entry_fits_four_sha256_blocks() -> None:
    assert 1 + ENTRY_BYTES + 9 <= 4 * 64


def test_decoding_gives_back_what_was_encoded() -> None:
    assert decode(encode(ENTRY)) == ENTRY


def test_every_byte_changes_the_entry_or_makes_it_invalid() -> None:
    data = encode(ENTRY)
    for place in range(ENTRY_BYTES):
        changed = data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :]
        try:
            assert decode(changed) != ENTRY, place
            assert encode(decode(changed)) == changed, place
        except EntryInvalid:
            pass  # the other allowed outcome


@pytest.mark.parametrize("place", [0, 1, 4, *range(176, 192), *range(196, 240)])
def test_nonzero_reserved_or_unused_bytes_are_refused(place: int) -> None:
    data = bytearray(encode(ENTRY))
    data[place] ^= 2
    with pytest.raises(EntryInvalid):
        decode(bytes(data))


@pytest.mark.parametrize("data", [b"", bytes(240), bytes(239), encode(ENTRY) + b"\0", b"\1\0\3" + b"\xff" * 237])
def test_bytes_that_are_no_entry_are_refused(data: bytes) -> None:
    with pytest.raises(EntryInvalid):
        decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0},
        {"kind": 9},
        {"version": 0},
        {"version": 2},
        {"flags": 1},
        {"tier": 256},
        {"shard": -1},
        {"shard": 65536},
        {"value_micros": -1},
        {"value_micros": 2**63},
        {"value_micros": 1.5},
        {"time_ms": 2**64},
        {"asset_id": bytes(15)},
        {"asset_id": "x" * 16},
        {"content_hash": bytes(33)},
        {"parents": ((0, 1), (0, 1))},
        {"parents": ((0, 1), (0, 2), (0, 3), (0, 4), (0, 5))},
        {"parents": ((65536, 1),)},
        {"parents": ((0, 2**64),)},
        {"parents": ((0, 1.5),)},
    ],
)
def test_a_field_out_of_its_range_is_refused_and_named(change: dict[str, object]) -> None:
    with pytest.raises(EntryInvalid) as caught:
        encode(msgspec.structs.replace(ENTRY, **change))
    assert caught.value.where == next(iter(change))


def test_the_owner_is_the_start_of_the_hash_of_the_tenants_name() -> None:
    assert owner_of("Zoë") == hashlib.sha256("Zoë".encode()).digest()[:16]
