"""What the writers of the crash tests record: calls that are a function of their name, so that anybody can repeat them.

A stream is one caller, who makes a call after the other; stream 0 hands in batches, the others a few entries each. A
life is one writer process, and calls of different lives have nothing to do with each other.
"""

import hashlib
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ledger import wal, writer
from ledger.entry import Entries, Entry, Flag, Kind, encode, from_bytes
from ledger.index import Sizes
from ledger.payload import Payload

NAME = "mintage.local"
START_NS = 1_700_000_000 * 10**9
NS_PER_S = 10**9
SIZES = Sizes(block_entries=96, batch_entries_max=64, segment_items=20)
"""Runs of some 60 entries: every other batch the index writes some, and an eighth of the time it merges others."""

SNAPSHOT_ENTRIES = 150
"""The balances are stored as often."""

WAL_BYTES = 64 * 1024
"""Room for some dozen records: the two files take turns all the time."""

NUM_CALLERS = 8
BATCHES, SETUP = 0, NUM_CALLERS + 1  # numbers of streams; callers are 1 to 8
BATCH_MIN, BATCH_MAX = 8, 64
NUM_ACCOUNTS = 6
NUM_CALLS_ROUND = 5
"""A caller makes an asset, moves money and the asset, and erases it; then begins again."""

_ID = struct.Struct("<IHHII")
_ZERO_HALF = bytes(16)
_PLAIN = Flag(0)


def make_small(change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have what happens once in a while happen all the time, in this process."""
    change(writer, "SNAPSHOT_ENTRIES_MIN", SNAPSHOT_ENTRIES)
    change(wal, "FILE_BYTES", WAL_BYTES)


class Name(NamedTuple):
    """Which call."""

    life: int
    stream: int
    number: int


class Call(NamedTuple):
    """What is handed in together."""

    entries: Entries
    payloads: list[Payload]


def id_of(name: Name, place: int) -> bytes:
    """bytes[16], the id of an entry of a call."""
    return _ID.pack(name.life, name.stream, place, name.number, 1)


ACCOUNTS = [id_of(Name(0, SETUP, 0), place) for place in range(NUM_ACCOUNTS)]


def content_of(name: Name) -> bytes:
    return b"content of %d %d %d " % name * (name.number % 90 + 1)


def call_of(name: Name) -> Call:
    """The call of a name; always the same."""
    if name.stream == SETUP:
        return _call([Entry(kind=Kind.ACCOUNT, id=account, currency=1) for account in ACCOUNTS])
    if name.stream == BATCHES:
        return _call(list(_batch(name)))
    step = name.number % NUM_CALLS_ROUND
    made = name._replace(number=name.number - step)
    if step == 0:
        content, meta = content_of(name), b'{"number":%d}' % name.number
        asset = Entry(
            kind=Kind.ASSET, id=id_of(name, 0), owner=ACCOUNTS[0], amount=5, num_bytes=len(content),
            content_hash=hashlib.sha256(content).digest(), meta_hash=hashlib.sha256(meta).digest(),
        )  # fmt: skip
        return _call([asset], [Payload(content, meta)])
    if step == 1:
        hold = _money(name, 0, Flag.PENDING | Flag.LINKED)
        return _call([hold, Entry(kind=Kind.MONEY, id=id_of(name, 1), subject=hold.id, flags=Flag.POST)])
    if step == 2:
        return _call([_money(name, 0, Flag.PENDING, timeout_s=name.number % 2)])
    if step == 3:
        halves = ACCOUNTS[0] + _ZERO_HALF
        sale = Entry(
            kind=Kind.OWNERSHIP, id=id_of(name, 0), subject=id_of(made, 0), content_hash=halves, owner=ACCOUNTS[1],
            flags=Flag.LINKED,
        )  # fmt: skip
        return _call([sale, _money(name, 1)])
    return _call([Entry(kind=Kind.ERASURE, id=id_of(name, 0), subject=id_of(made, 0), owner=ACCOUNTS[1])])


def erasure_of(name: Name) -> Name:
    """The call that erases what a call has stored."""
    return name._replace(number=name.number + NUM_CALLS_ROUND - 1)


def has_content(name: Name) -> bool:
    """Whether a call stores a content."""
    return 0 < name.stream <= NUM_CALLERS and name.number % NUM_CALLS_ROUND == 0


def _batch(name: Name) -> Iterator[Entry]:
    """Assets, some made from others, and money."""
    chance = random.Random(repr(name))
    for place in range(chance.randint(BATCH_MIN, BATCH_MAX)):
        if chance.random() < 0.2:
            yield _money(name, place)
        else:
            parents = tuple((0, index) for index in range(chance.randrange(3)))
            kind = Kind.DERIVATION if parents else Kind.ASSET
            owner, digest = ACCOUNTS[place % NUM_ACCOUNTS], hashlib.sha256(id_of(name, place)).digest()
            yield Entry(kind=kind, id=id_of(name, place), owner=owner, content_hash=digest, parents=parents)


def _money(name: Name, place: int, flags: Flag = _PLAIN, timeout_s: int = 0) -> Entry:
    debit = (name.stream + name.number + place) % NUM_ACCOUNTS
    halves = ACCOUNTS[debit] + ACCOUNTS[(debit + 1) % NUM_ACCOUNTS]
    return Entry(
        kind=Kind.MONEY, id=id_of(name, place), content_hash=halves, amount=name.number + 1, currency=1, flags=flags,
        num_bytes=timeout_s,
    )  # fmt: skip


def _call(entries: Sequence[Entry], payloads: list[Payload] | None = None) -> Call:
    return Call(from_bytes(b"".join(map(encode, entries))), payloads or [Payload() for _ in entries])
