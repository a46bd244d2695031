"""The ledger's record: one fixed-width canonical layout, whose bytes are the leaf of the Merkle tree.

Version 1, 240 bytes, little-endian, every field aligned to its own size:

    offset  size  field           meaning
         0     2  version         1
         2     1  kind            `Kind`; 0 is never used, so zeroed bytes are no entry
         3     1  tier            lower is served first
         4     1  flags           no bit has a meaning in version 1: 0
         5     1  num_parents     0 to 4
         6     2  shard           the shard whose log this entry is in
         8     8  time_ms         when the entry was sequenced, Unix time
        16    16  asset_id        one entry per id, for ever
        32    32  content_hash    SHA-256 of the content
        64    32  request_hash    what idempotency compares; the caller says what it covers
        96    32  meta_hash       SHA-256 of the metadata (canonical JSON)
       128    16  owner           first 16 bytes of the SHA-256 of the tenant's name (UTF-8)
       144     8  value_micros    what the asset was worth, signed, never negative
       152     8  content_bytes   length of the content
       160    32  parent_indices  4 x 8; unused places are 0
       192     8  parent_shards   4 x 2; unused places are 0
       200    40  reserved        0

The index is not stored: it is the entry's place, and the Merkle path fixes it. 240 bytes leave room to grow and still
hash in four SHA-256 blocks (64 x 4 - 9 of padding - 1 of RFC 6962 prefix = 246).
Turned down: protobuf, CBOR or JSON leaves. Several byte strings mean one record there, and a ledger needs exactly one.
"""

import hashlib
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np

from ledger.errors import EntryInvalid

VERSION = 1
ENTRY_BYTES = 240
ASSET_ID_BYTES = 16
HASH_BYTES = 32
OWNER_BYTES = 16
RESERVED_BYTES = 40
PARENTS_MAX = 4
SHARD_MAX = 2**16 - 1

ENTRY_DTYPE = np.dtype(
    [
        ("version", "<u2"),
        ("kind", "u1"),
        ("tier", "u1"),
        ("flags", "u1"),
        ("num_parents", "u1"),
        ("shard", "<u2"),
        ("time_ms", "<u8"),
        ("asset_id", f"V{ASSET_ID_BYTES}"),
        ("content_hash", f"V{HASH_BYTES}"),
        ("request_hash", f"V{HASH_BYTES}"),
        ("meta_hash", f"V{HASH_BYTES}"),
        ("owner", f"V{OWNER_BYTES}"),
        ("value_micros", "<i8"),
        ("content_bytes", "<u8"),
        ("parent_indices", "<u8", PARENTS_MAX),
        ("parent_shards", "<u2", PARENTS_MAX),
        ("reserved", f"V{RESERVED_BYTES}"),
    ]
)

_INTEGERS_MAX = {
    "version": VERSION,
    "tier": 2**8 - 1,
    "flags": 0,
    "shard": SHARD_MAX,
    "time_ms": 2**64 - 1,
    "value_micros": 2**63 - 1,
    "content_bytes": 2**64 - 1,
}
_WIDTHS = {
    "asset_id": ASSET_ID_BYTES,
    "content_hash": HASH_BYTES,
    "request_hash": HASH_BYTES,
    "meta_hash": HASH_BYTES,
    "owner": OWNER_BYTES,
}

Parent = tuple[int, int]
"""(shard, index) of an entry that another one was made from."""


class Kind(IntEnum):
    """What an entry records. Numbers are for ever; new kinds take new ones."""

    MODEL = 1
    POLICY = 2
    ASSET = 3


class Entry(msgspec.Struct, frozen=True):
    """One record, as the table at the top of this module says; `num_parents` is the length of `parents`."""

    kind: Kind
    tier: int
    shard: int
    time_ms: int
    asset_id: bytes
    content_hash: bytes
    request_hash: bytes
    meta_hash: bytes
    owner: bytes
    value_micros: int
    content_bytes: int
    parents: tuple[Parent, ...] = ()
    flags: int = 0
    version: int = VERSION


def owner_of(tenant: str) -> bytes:
    """bytes[16], the owner field of a tenant's entries: the name itself stays out of the public record."""
    return hashlib.sha256(tenant.encode()).digest()[:OWNER_BYTES]


def encode(entry: Entry) -> bytes:
    """bytes[240], the one canonical form of an entry.

    Raises:
        EntryInvalid: a field is out of its range or width.
    """
    _check(entry)
    unused = (0,) * (PARENTS_MAX - len(entry.parents))
    row = (
        entry.version,
        entry.kind,
        entry.tier,
        entry.flags,
        len(entry.parents),
        entry.shard,
        entry.time_ms,
        entry.asset_id,
        entry.content_hash,
        entry.request_hash,
        entry.meta_hash,
        entry.owner,
        entry.value_micros,
        entry.content_bytes,
        tuple(index for _, index in entry.parents) + unused,
        tuple(shard for shard, _ in entry.parents) + unused,
        bytes(RESERVED_BYTES),
    )
    return np.array(row, ENTRY_DTYPE).tobytes()


def decode(data: bytes) -> Entry:
    """The entry of bytes[240]; `encode` gives the same bytes back.

    Raises:
        EntryInvalid: wrong length, unknown version or kind, or bytes that `encode` never writes.
    """
    if len(data) != ENTRY_BYTES:
        raise _invalid("entry", f"{len(data)} bytes instead of {ENTRY_BYTES}")
    row: Any = np.frombuffer(data, ENTRY_DTYPE)[0]
    if int(row["kind"]) not in set(Kind):
        raise _invalid("kind", f"no kind has the number {row['kind']}")
    shards, indices = row["parent_shards"].tolist(), row["parent_indices"].tolist()
    num_parents = int(row["num_parents"])
    fields: dict[str, Any] = {name: int(row[name]) for name in _INTEGERS_MAX}
    fields |= {name: row[name].tobytes() for name in _WIDTHS}
    parents = tuple(zip(shards, indices, strict=True))[:num_parents]
    entry = Entry(kind=Kind(int(row["kind"])), parents=parents, **fields)
    if num_parents > PARENTS_MAX or encode(entry) != data:
        raise _invalid("entry", "the bytes are not in canonical form: reserved or unused bytes are not zero")
    return entry


def _check(entry: Entry) -> None:
    """Ranges and widths, and types too: numpy would cut a float to an integer without a word."""
    for name, largest in _INTEGERS_MAX.items():
        number = getattr(entry, name)
        if not isinstance(number, int) or not 0 <= number <= largest:
            raise _invalid(name, f"{number!r} is not an integer from 0 to {largest}")
    for name, width in _WIDTHS.items():
        data = getattr(entry, name)
        if not isinstance(data, bytes) or len(data) != width:
            raise _invalid(name, f"{data!r} is not {width} bytes")
    if entry.version != VERSION:
        raise _invalid("version", f"{entry.version} is not {VERSION}")
    if entry.kind not in set(Kind):
        raise _invalid("kind", f"no kind has the number {entry.kind}")
    if len(entry.parents) > PARENTS_MAX or len(set(entry.parents)) != len(entry.parents):
        raise _invalid("parents", f"more than {PARENTS_MAX} parents, or one of them twice")
    for parent in entry.parents:
        if not all(isinstance(number, int) for number in parent) or not _is_place(*parent):
            raise _invalid("parents", f"{parent!r} is not a shard and an index")


def _is_place(shard: int, index: int) -> bool:
    return 0 <= shard <= SHARD_MAX and 0 <= index < 2**64


def _invalid(field: str, what: str) -> EntryInvalid:
    return EntryInvalid(what, where=field, fix="Correct the field; ledger/entry.py has the layout.")
