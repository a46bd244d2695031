"""The entry layout: every byte has its place, and one entry has one encoding."""

import hashlib
import pickle
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from ledger.entry import (
    AMOUNT_MAX,
    ENTRY_BYTES,
    ENTRY_DTYPE,
    KINDS_WITH_CONTENT,
    VERSION,
    Entries,
    Entry,
    Flag,
    Kind,
    as_bytes,
    decode,
    encode,
    from_bytes,
    owner_of,
    zeros,
)
from ledger.errors import EntryInvalid

ENTRY = Entry(
    kind=Kind.MONEY,
    tier=2,
    flags=Flag.LINKED | Flag.PENDING,
    shard=0x0102,
    time_ns=0x1112131415161718,
    id=bytes(range(16)),
    parents=((0x0102, 5), (7, 0x4142434445464748)),
    code=0x0304,
    currency=0x05060708,
    amount=0x2122232425262728,
    num_bytes=0x3132333435363738,
    owner=b"o" * 16,
    subject=b"s" * 16,
    content_hash=b"d" * 16 + b"c" * 16,
    meta_hash=b"m" * 32,
    request_hash=b"r" * 32,
)
FIELDS = ("id", "owner", "subject", "content_hash", "debit", "credit", "meta_hash", "request_hash")


def test_an_entry_is_laid_out_as_documented_byte_for_byte() -> None:
    expected = (
        bytes.fromhex("0200 08 02 0300 0201 1817161514131211")
        + bytes(range(16))
        + bytes.fromhex("0500000000000000 4847464544434241")
        + bytes(16)
        + bytes.fromhex("0201 0700 0000 0000")
        + bytes.fromhex("02 00 0403 08070605 2827262524232221 3837363534333231")
        + b"o" * 16
        + b"s" * 16
        + b"d" * 16
        + b"c" * 16
        + b"m" * 32
        + b"r" * 32
        + bytes(16)
    )
    assert encode(ENTRY) == expected
    assert ENTRY_DTYPE.itemsize == ENTRY_BYTES == len(expected) == 240


def test_the_leaf_of_an_entry_fits_four_sha256_blocks() -> None:
    assert 1 + ENTRY_BYTES + 9 <= 4 * 64


def test_every_byte_belongs_to_one_field_but_for_the_accounts_of_a_transfer() -> None:
    """numpy leaves a byte of no field as it finds it when it copies columns."""
    fields = ENTRY_DTYPE.fields
    assert fields is not None
    taken = np.zeros(ENTRY_BYTES, np.int64)
    for name, (form, offset, *_) in fields.items():
        assert form.base.kind == "V" or offset % form.base.itemsize == 0, f"{name} is not aligned"
        taken[offset : offset + form.itemsize] += name not in ("debit", "credit")
    assert taken.tolist() == [1] * ENTRY_BYTES
    assert [fields[name][1] for name in ("content_hash", "debit", "credit")] == [128, 128, 144]


@pytest.mark.parametrize(
    "copied",
    [
        lambda entries: entries.copy(),
        lambda entries: entries[np.array([True, False, True])],
        lambda entries: entries[[2, 1]],
        lambda entries: entries[::2],
        lambda entries: entries[::-1].copy(),
    ],
)
def test_columns_that_are_copied_or_chosen_from_keep_every_byte(copied: Callable[[Entries], Entries]) -> None:
    data = encode(ENTRY)
    for _ in range(20):
        np.full(3 * ENTRY_BYTES, 0xAB, np.uint8)  # what the memory that the copy gets was used for
        chosen = copied(from_bytes(data * 3))
        assert as_bytes(chosen).tobytes() == data * len(chosen)


@pytest.mark.parametrize("name", FIELDS)
def test_a_column_holds_the_bytes_of_its_field(name: str) -> None:
    assert from_bytes(encode(ENTRY))[name].tobytes() == getattr(ENTRY, name)


def test_numbers_in_columns_are_those_of_the_entry() -> None:
    (row,) = from_bytes(encode(ENTRY))
    names = ("version", "kind", "tier", "flags", "shard", "time_ns", "code", "currency", "amount", "num_bytes")
    for name in names:
        assert int(row[name]) == getattr(ENTRY, name), name
    assert int(row["num_parents"]) == 2
    assert row["parent_shards"].tolist() == [0x0102, 7, 0, 0]
    assert row["parent_indices"].tolist() == [5, 0x4142434445464748, 0, 0]


@pytest.mark.parametrize("kind", Kind)
def test_decoding_gives_back_what_was_encoded(kind: Kind) -> None:
    largest = msgspec.structs.replace(ENTRY, kind=kind, amount=AMOUNT_MAX, flags=127, tier=255, num_bytes=2**64 - 1)
    for entry in (largest, Entry(kind=kind, id=bytes(16)), Entry(kind=kind, id=b"i" * 16, parents=((65_535, 0),) * 1)):
        assert decode(encode(entry)) == entry


def test_every_byte_changes_the_entry_or_makes_it_invalid() -> None:
    data = encode(ENTRY)
    num_refused = 0
    for place in range(ENTRY_BYTES):
        changed = data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :]
        try:
            assert decode(changed) != ENTRY, place
            assert encode(decode(changed)) == changed, place
        except EntryInvalid:
            num_refused += 1
    assert num_refused == 2 + 1 + 2 + 1 + 1 + 1 + 16 + 16 + 4, (
        "version, kind, flags, amount, parents and reserved bytes"
    )


@pytest.mark.parametrize("place", [0, 1, 5, *range(48, 64), *range(68, 72), 73, *range(224, 240)])
def test_nonzero_reserved_or_unused_bytes_are_refused(place: int) -> None:
    data = bytearray(encode(ENTRY))
    data[place] ^= 4
    with pytest.raises(EntryInvalid):
        decode(bytes(data))


@pytest.mark.parametrize("num_parents", [0, 1, 5, 255])
def test_another_number_of_parents_than_there_are_is_refused(num_parents: int) -> None:
    data = bytearray(encode(ENTRY))
    data[72] = num_parents
    with pytest.raises(EntryInvalid):
        decode(bytes(data))


@pytest.mark.parametrize("data", [b"", bytes(240), bytes(239), encode(ENTRY) + b"\0", b"\2\0\3" + b"\xff" * 237])
def test_bytes_that_are_no_entry_are_refused(data: bytes) -> None:
    with pytest.raises(EntryInvalid):
        decode(data)


def test_an_entry_of_another_version_is_said_to_be_one() -> None:
    with pytest.raises(EntryInvalid, match="another release") as caught:
        decode(b"\1" + encode(ENTRY)[1:])
    assert caught.value.where == "version"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0},
        {"kind": max(Kind) + 1},
        {"version": 1},
        {"version": 3},
        {"flags": 128},
        {"flags": -1},
        {"tier": 256},
        {"shard": -1},
        {"shard": 65536},
        {"code": 65536},
        {"currency": 2**32},
        {"amount": -1},
        {"amount": 2**63},
        {"amount": 1.5},
        {"num_bytes": 2**64},
        {"time_ns": 2**64},
        {"id": bytes(15)},
        {"id": "x" * 16},
        {"owner": bytes(17)},
        {"subject": bytes(0)},
        {"content_hash": bytes(33)},
        {"meta_hash": bytes(31)},
        {"request_hash": None},
        {"parents": ((0, 1), (0, 1))},
        {"parents": ((0, 1), (0, 2), (0, 3), (0, 4), (0, 5))},
        {"parents": ((65536, 1),)},
        {"parents": ((0, 2**64),)},
        {"parents": ((0, -1),)},
        {"parents": ((0, 1.5),)},
    ],
)
def test_a_field_out_of_its_range_is_refused_and_named(change: dict[str, object]) -> None:
    with pytest.raises(EntryInvalid) as caught:
        encode(msgspec.structs.replace(ENTRY, **change))
    assert caught.value.where == next(iter(change))


def test_the_owner_is_the_start_of_the_hash_of_the_tenants_name() -> None:
    assert owner_of("Zoë") == hashlib.sha256("Zoë".encode()).digest()[:16]


def test_new_columns_are_of_this_version_and_no_entry_yet() -> None:
    entries = zeros(3)
    assert entries["version"].tolist() == [VERSION] * 3
    assert not as_bytes(entries)[:, 2:].any()
    with pytest.raises(EntryInvalid, match="no kind"):
        decode(entries[0].tobytes())


def test_columns_and_bytes_are_one_memory() -> None:
    entries = zeros(2)
    rows = as_bytes(entries)
    entries["kind"] = Kind.ASSET, Kind.MODEL
    assert rows[:, 2].tolist() == [Kind.ASSET, Kind.MODEL]
    data = encode(ENTRY) * 3
    assert as_bytes(from_bytes(data)).tobytes() == data
    assert len(from_bytes(b"")) == 0


def test_columns_that_come_from_another_process_are_the_same_bytes() -> None:
    entries = from_bytes(encode(ENTRY))
    assert as_bytes(pickle.loads(pickle.dumps(entries))).tobytes() == encode(ENTRY)


@pytest.mark.parametrize("num_bytes", [1, 239, 241])
def test_bytes_of_no_whole_number_of_entries_are_refused(num_bytes: int) -> None:
    with pytest.raises(EntryInvalid):
        from_bytes(bytes(num_bytes))


@pytest.mark.parametrize("wrong", [np.concatenate([zeros(1), zeros(1)]), as_bytes(zeros(2)), zeros(4).reshape(2, 2)])
def test_what_is_no_column_of_entries_is_refused_instead_of_misread(wrong: np.ndarray) -> None:
    with pytest.raises(EntryInvalid, match="no entries"):
        as_bytes(wrong)


def test_the_numbers_of_kinds_and_flags_are_for_ever() -> None:
    kinds = "MODEL POLICY ASSET CERTIFICATE KEY DERIVATION OWNERSHIP MONEY ERASURE PEER ACCOUNT DECISION"
    flags = "LINKED PENDING POST VOID EXPIRED DEBITS_WITHIN_CREDITS CREDITS_WITHIN_DEBITS"
    assert [(kind.name, kind.value) for kind in Kind] == [(name, 1 + place) for place, name in enumerate(kinds.split())]
    assert [(flag.name, flag.value) for flag in Flag] == [
        (name, 1 << place) for place, name in enumerate(flags.split())
    ]
    assert {1, 2, 3, 4, 5, 6} == KINDS_WITH_CONTENT
