"""The ledger's record: one fixed-width canonical layout, whose bytes are the leaf of the Merkle tree.

Version 2, 240 bytes, little-endian, every field aligned to its own size:

    offset  size  field           meaning
         0     2  version         2
         2     1  kind            `Kind`; 0 is never used, so zeroed bytes are no entry
         3     1  tier            lower is served first; 0 for what no request asked for
         4     2  flags           `Flag`; only a money transfer or an account has any
         6     2  shard           the shard whose log this entry is in
         8     8  time_ns         when it was sequenced, Unix time; strictly increasing within a shard
        16    16  id              one entry per id in a shard, for ever: an asset's id, a transfer's id, an account's id
        32    32  parent_indices  4 x 8; unused places are 0
        64     8  parent_shards   4 x 2; unused places are 0
        72     1  num_parents     0 to 4
        73     1  reserved        0
        74     2  code            why money moved, the user's own numbers; 0 where it has no meaning
        76     4  currency        which money; accounts of different currencies never meet; 0 where it has no meaning
        80     8  amount          money in micro-units; an asset's value or price
        88     8  num_bytes       length of the content that lies beside the entry, 0 where it is kept elsewhere;
                                  of a pending transfer: its timeout in seconds, 0 for none
        96    16  owner           whose it is (or becomes): `owner_of` a tenant, or an account's id
       112    16  subject         the other entry this one is about, by id: see the table below
       128    32  content_hash    SHA-256 of the content; of a money or ownership transfer: debit (16), credit (16)
       160    32  meta_hash       SHA-256 of the metadata (canonical JSON) beside the entry, zero if there is none
       192    32  request_hash    what idempotency compares; the caller says what it covers
       224    16  reserved        0

What each kind says:

    kind         owner          subject             content_hash          amount
    MODEL        who made it    0                   of the description    0
    POLICY       who made it    0                   of the policy         0
    CERTIFICATE  who issued it  0                   of the certificate    0
    KEY          whose key      0                   of the public key     0
    ASSET        first owner    0                   of the content        what it was worth
    DERIVATION   first owner    0                   of the content        what it was worth; a parent is an asset
    OWNERSHIP    the new owner  the asset           debit: the old owner  0
                                (or, to post or void, the pending transfer)
    MONEY        0              the pending         debit, credit         how much
                                transfer to end
    ERASURE      who asked      the asset           0                     0
    PEER         0              0                   root of that shard    tree size; code: that shard's number
    ACCOUNT      whose it is    0                   0                     0
    DECISION     0              0                   of the legs           1: commit, 0: abort

The index is not stored: it is the entry's place, and the Merkle path fixes it. 240 bytes leave room to grow and still
hash in four SHA-256 blocks (64 x 4 - 9 of padding - 1 of RFC 6962 prefix = 246).
Turned down: protobuf, CBOR or JSON leaves. Several byte strings mean one record there, and a ledger needs exactly one.
"""

import hashlib
from enum import IntEnum, IntFlag
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.errors import EntryInvalid

VERSION = 2
ENTRY_BYTES = 240
ID_BYTES = 16
HASH_BYTES = 32
PARENTS_MAX = 4
SHARD_MAX = 2**16 - 1
AMOUNT_MAX = 2**63 - 1
ZERO_ID = bytes(ID_BYTES)
ZERO_HASH = bytes(HASH_BYTES)

# name, format, offset. `debit` and `credit` are the two halves of `content_hash`. What is reserved has names, too: when
# numpy copies columns, it leaves bytes that belong to no field as it finds them.
_FIELDS: tuple[tuple[str, Any, int], ...] = (
    ("version", "<u2", 0),
    ("kind", "u1", 2),
    ("tier", "u1", 3),
    ("flags", "<u2", 4),
    ("shard", "<u2", 6),
    ("time_ns", "<u8", 8),
    ("id", f"V{ID_BYTES}", 16),
    ("parent_indices", ("<u8", (PARENTS_MAX,)), 32),
    ("parent_shards", ("<u2", (PARENTS_MAX,)), 64),
    ("num_parents", "u1", 72),
    ("reserved", "u1", 73),
    ("code", "<u2", 74),
    ("currency", "<u4", 76),
    ("amount", "<u8", 80),
    ("num_bytes", "<u8", 88),
    ("owner", f"V{ID_BYTES}", 96),
    ("subject", f"V{ID_BYTES}", 112),
    ("content_hash", f"V{HASH_BYTES}", 128),
    ("debit", f"V{ID_BYTES}", 128),
    ("credit", f"V{ID_BYTES}", 144),
    ("meta_hash", f"V{HASH_BYTES}", 160),
    ("request_hash", f"V{HASH_BYTES}", 192),
    ("reserved_end", "V16", 224),
)
ENTRY_DTYPE = np.dtype(
    {
        "names": [name for name, _, _ in _FIELDS],
        "formats": [form for _, form, _ in _FIELDS],
        "offsets": [offset for _, _, offset in _FIELDS],
        "itemsize": ENTRY_BYTES,
    }
)
Entries = NDArray[np.void]
"""Entries in columns: an array of `ENTRY_DTYPE`."""

_INTEGERS_MAX = {
    "version": VERSION,
    "tier": 2**8 - 1,
    "flags": 2**7 - 1,
    "shard": SHARD_MAX,
    "time_ns": 2**64 - 1,
    "code": 2**16 - 1,
    "currency": 2**32 - 1,
    "amount": AMOUNT_MAX,
    "num_bytes": 2**64 - 1,
}
_WIDTHS = {
    "id": ID_BYTES,
    "owner": ID_BYTES,
    "subject": ID_BYTES,
    "content_hash": HASH_BYTES,
    "meta_hash": HASH_BYTES,
    "request_hash": HASH_BYTES,
}

Parent = tuple[int, int]
"""(shard, index) of an entry that another one was made from."""


class Kind(IntEnum):
    """What an entry records. Numbers are for ever; new kinds take new ones."""

    MODEL = 1
    POLICY = 2
    ASSET = 3
    CERTIFICATE = 4
    KEY = 5
    DERIVATION = 6
    OWNERSHIP = 7
    MONEY = 8
    ERASURE = 9
    PEER = 10
    ACCOUNT = 11
    DECISION = 12


_KINDS = frozenset(Kind)
KINDS_WITH_CONTENT = frozenset({Kind.MODEL, Kind.POLICY, Kind.ASSET, Kind.CERTIFICATE, Kind.KEY, Kind.DERIVATION})
"""Those whose `content_hash` an entry is found by."""


class Flag(IntFlag):
    """What a transfer or an account is."""

    LINKED = 1  # stands or falls with the next entry of its batch
    PENDING = 2  # holds the money or the asset until it is posted, voided or expired
    POST = 4  # ends the pending transfer named by `subject`: it happens
    VOID = 8  # ends it: it does not happen
    EXPIRED = 16  # ends it because its time is over; written by the ledger itself
    DEBITS_WITHIN_CREDITS = 32  # of an account: it may not spend what it has not got
    CREDITS_WITHIN_DEBITS = 64  # of an account: it may not receive more than it has given


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record, as the table at the top of this module says; `num_parents` is the length of `parents`."""

    kind: Kind
    id: bytes
    shard: int = 0
    time_ns: int = 0
    tier: int = 0
    flags: int = 0
    parents: tuple[Parent, ...] = ()
    code: int = 0
    currency: int = 0
    amount: int = 0
    num_bytes: int = 0
    owner: bytes = ZERO_ID
    subject: bytes = ZERO_ID
    content_hash: bytes = ZERO_HASH
    meta_hash: bytes = ZERO_HASH
    request_hash: bytes = ZERO_HASH
    version: int = VERSION

    @property
    def debit(self) -> bytes:
        """bytes[16]: the account, or the owner, that a transfer takes from."""
        return self.content_hash[:ID_BYTES]

    @property
    def credit(self) -> bytes:
        """bytes[16]: the account that a money transfer gives to."""
        return self.content_hash[ID_BYTES:]


def owner_of(tenant: str) -> bytes:
    """bytes[16], the owner field of a tenant's entries: the name itself stays out of the public record."""
    return hashlib.sha256(tenant.encode()).digest()[:ID_BYTES]


def zeros(num_entries: int) -> Entries:
    """Entries to be filled: version 2, all else zero."""
    entries = np.zeros(num_entries, ENTRY_DTYPE)
    entries["version"] = VERSION
    return entries


def as_bytes(entries: Entries) -> NDArray[np.uint8]:
    """uint8[n, 240]: the same memory as bytes, a row an entry.

    Raises:
        EntryInvalid: they are not in columns of `ENTRY_DTYPE`; `np.concatenate` makes of such columns others.
    """
    if entries.ndim != 1 or entries.dtype.itemsize != ENTRY_BYTES:
        raise _invalid("entries", f"{entries.ndim} dimensions of {entries.dtype.itemsize}-byte items are no entries")
    return np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), ENTRY_BYTES)


def from_bytes(data: bytes | memoryview) -> Entries:
    """Entries over the bytes of whole entries, without a copy.

    Raises:
        EntryInvalid: the length is no multiple of 240.
    """
    if len(data) % ENTRY_BYTES:
        raise _invalid("entry", f"{len(data)} bytes are not a number of {ENTRY_BYTES}-byte entries")
    return np.frombuffer(data, ENTRY_DTYPE)


def encode(entry: Entry) -> bytes:
    """bytes[240], the one canonical form of an entry.

    Raises:
        EntryInvalid: a field is out of its range or width.
    """
    _check(entry)
    row = np.zeros((), ENTRY_DTYPE)
    row["kind"] = entry.kind
    for name in _INTEGERS_MAX:
        row[name] = getattr(entry, name)
    for name in _WIDTHS:
        row[name] = np.void(getattr(entry, name))
    row["num_parents"] = len(entry.parents)
    for place, (shard, index) in enumerate(entry.parents):
        row["parent_shards"][place], row["parent_indices"][place] = shard, index
    return row.tobytes()


def decode(data: bytes) -> Entry:
    """The entry of bytes[240]; `encode` gives the same bytes back.

    Raises:
        EntryInvalid: wrong length, another version, an unknown kind, or bytes that `encode` never writes.
    """
    if len(data) != ENTRY_BYTES:
        raise _invalid("entry", f"{len(data)} bytes instead of {ENTRY_BYTES}")
    row: Any = np.frombuffer(data, ENTRY_DTYPE)[0]
    if int(row["version"]) != VERSION:
        raise _invalid("version", f"{row['version']} is not {VERSION}: another release of Mintage wrote it")
    if int(row["kind"]) not in _KINDS:
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
    if entry.kind not in _KINDS:
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
