"""Ledgers to be checked: a small one with everything in it, and a forger who signs whatever he likes."""

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from settling import account, ending, id_of, money, ownership

from ledger import resume
from ledger.book import Book
from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, Entries, Entry, Flag, Kind, as_bytes, encode, from_bytes
from ledger.head import Head
from ledger.index import Sizes
from ledger.log import LogKeys, begun_path, open_keys, shard_path
from ledger.note import Checkpoint
from ledger.payload import Payload
from ledger.result import Result
from ledger.sha256 import leaf_hashes
from ledger.shard import Publishing, Shard
from ledger.store import Store
from ledger.tree import Edge

NAME = "mintage.local"
MAP_BYTES = 1 << 28
START_NS = 10**18
NS_PER_S = 10**9
BATCH = 64
SMALL_INDEX = Sizes(block_entries=256, batch_entries_max=BATCH, segment_items=50)
"""Runs of 192 entries, which are merged after 3,072: a few thousand entries have all that an index can have."""

SELDOM = Publishing(100, 10**9)
NUM_ACCOUNTS, NUM_ROUNDS = 20, 100
FIRST_ASSET, FIRST_MOVE, FIRST_OTHER = 10_000, 100_000, 200_000


def entropy_of(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def keys_of_log(log: Path, num_shards: int = 2) -> LogKeys:
    return open_keys(log, NAME, num_shards, entropy=entropy_of(1))


def open_shard(
    log: Path,
    shard: int = 0,
    *,
    num_shards: int = 2,
    now_ns: Callable[[], int] | None = None,
    publishing: Publishing = SELDOM,
) -> Shard:
    """Everybody's shard: its clock begins at `START_NS` and goes on by a millisecond a call."""
    clock = itertools.count(START_NS, 10**6)
    return Shard.open(
        shard_path(log, shard),
        shard,
        keys_of_log(log, num_shards).signers[shard],
        now_ns or (lambda: next(clock)),
        entropy=entropy_of(2),
        publishing=publishing,
        map_bytes=MAP_BYTES,
        lock_wait_s=0,
        sizes=SMALL_INDEX,
    )


def append(shard: Shard, *items: Entry | tuple[Entry, Payload]) -> list[int]:
    """Record what must be in order, in one batch; the indices."""
    pairs = [item if isinstance(item, tuple) else (item, Payload()) for item in items]
    appended = shard.append(entries_of(*(entry for entry, _ in pairs)), [payload for _, payload in pairs])
    assert set(appended.results.tolist()) == {Result.OK}, appended.results
    return appended.indices.tolist()


def entries_of(*entries: Entry) -> Entries:
    return from_bytes(b"".join(map(encode, entries)))


def item(
    number: int, kind: Kind = Kind.ASSET, owner: int = 1, parents: tuple[tuple[int, int], ...] = (), **fields: Any
) -> tuple[Entry, Payload]:
    """An entry with a content and metadata of its own."""
    content, meta = b"content of %d " % number * (number % 7 + 1), b'{"number":%d}' % number
    entry = Entry(
        kind=kind, id=id_of(number), owner=id_of(owner), parents=parents, num_bytes=len(content), amount=5,
        content_hash=hashlib.sha256(content).digest(), meta_hash=hashlib.sha256(meta).digest(), **fields,
    )  # fmt: skip
    return entry, Payload(content, meta)


def fill(log: Path, num_rounds: int = NUM_ROUNDS) -> None:
    """A log of two shards, the first with some 65 entries a round, of every kind."""
    with open_shard(log, 1) as other:
        append(other, *(item(number) for number in range(1, 51)))
    times = itertools.count(START_NS, NS_PER_S)  # a second a batch, so that what is pending for a second expires
    with open_shard(log, now_ns=lambda: next(times)) as shard:
        shard.cover(1, 50)
        append(
            shard, *(item(FIRST_OTHER + kind, kind) for kind in (Kind.MODEL, Kind.POLICY, Kind.CERTIFICATE, Kind.KEY))
        )
        append(shard, *(account(number) for number in range(1, NUM_ACCOUNTS + 1)))
        append(shard, *(item(FIRST_ASSET + place, parents=((1, place),)) for place in range(50)))
        for round_ in range(1, num_rounds):
            play_round(shard, round_)


def play_round(shard: Shard, round_: int) -> None:
    """A batch of assets made from older ones, a batch of what happens to them, an erasure, and what expires."""
    first, move = FIRST_ASSET + 50 * round_, FIRST_MOVE + 50 * round_
    newest = shard.tree_size
    parents = [tuple((0, newest - 1 - step) for step in range(place % 5)) for place in range(50)]
    made = [
        item(first + place, Kind.DERIVATION if parents[place] else Kind.ASSET, 1, parents[place]) for place in range(50)
    ]
    append(shard, *made)
    debit, credit = round_ % NUM_ACCOUNTS + 1, (round_ + 7) % NUM_ACCOUNTS + 1
    append(
        shard,
        money(move, debit, credit, 10),
        money(move + 1, debit, credit, 20, Flag.PENDING),
        ending(move + 2, move + 1, Flag.POST),
        money(move + 3, credit, debit, 30, Flag.PENDING),
        ending(move + 4, move + 3, Flag.VOID),
        money(move + 5, debit, credit, 40, Flag.PENDING, num_bytes=1),  # expires
        money(move + 6, debit, credit, 50, Flag.PENDING),  # stays
        ownership(move + 7, first, 1, 2, Flag.LINKED),
        money(move + 8, debit, credit, 60),
        ownership(move + 9, first, 2, 3),
        ownership(move + 10, first + 1, 1, 4, Flag.PENDING),
        ending(move + 11, move + 10, Flag.POST, Kind.OWNERSHIP),
        ownership(move + 12, first + 2, 1, 4, Flag.PENDING),
    )
    append(shard, Entry(kind=Kind.ERASURE, id=id_of(move + 20), subject=id_of(first + 3), owner=id_of(1)))
    shard.expire()


def open_store(log: Path) -> Store:
    """The first shard's own store, to do with it what no shard would."""
    return Store.open(shard_path(log, 0), map_bytes=MAP_BYTES, lock_wait_s=0)


def store_book(log: Path, size: int) -> None:
    """Have the balances after so many entries stored, as the shard does it after a million."""
    book = Book(b"seed")
    with closing(open_store(log)) as store, store.write() as batch:
        book.replay(from_bytes(batch.entries(0, size, ENTRY_BYTES)), 0)
        resume.store_book(batch, book, size)


def forge(
    log: Path, entries: Sequence[Entry], payloads: dict[int, Payload] | None = None, **changed: dict[int, object]
) -> None:
    """The first shard of a log of one, with a sound tree, head and signature over whatever entries.

    Args:
        payloads: by index.
        changed: fields of entries by index, after they were numbered and given their times.
    """
    signer = keys_of_log(log, 1).signers[0]
    rows = as_bytes(entries_of(*entries)).copy()
    columns = rows.view(ENTRY_DTYPE).reshape(len(rows))
    columns["time_ns"] = START_NS + np.arange(len(rows))
    for name, values in changed.items():
        for index, value in values.items():
            columns[name][index] = value
    edge, tree_rows = Edge(0, {}).extended(leaf_hashes(rows))
    head = Head(
        edge.size,
        int(columns["time_ns"][-1]),
        edge.root(),
        signer.sign(Checkpoint(signer.name, edge.size, edge.root()).text()),
    )
    with closing(open_store(log)) as store, store.write() as batch:
        batch.append_entries(0, rows.tobytes())
        for row in tree_rows:
            batch.append_hashes(row.level, row.first, row.hashes.tobytes())
        for index, payload in sorted((payloads or {}).items()):
            batch.put_payload(index, payload.content, payload.meta)
        batch.put_state("head", head.pack())
    begun_path(shard_path(log, 0)).write_text(f"{signer.name}\n")
