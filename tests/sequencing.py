"""A shard of which much is pending, as tests open it: small tables, and short ways to say what must hold of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from settling import id_of
from shards import asset, columns, open_shard, root_of

from ledger.book import Book
from ledger.entry import ENTRY_BYTES, Entry, from_bytes
from ledger.errors import LedgerFull
from ledger.index import Sizes
from ledger.note import read_checkpoint
from ledger.shard import Shard
from ledger.store import Batch, Store

BATCH_MAX = 16
SIZES = Sizes(block_entries=48, batch_entries_max=BATCH_MAX, segment_items=8, fan_in=3)
"""The tables are emptied after two or three batches of the largest size; three runs are merged."""

Opener = Callable[..., Shard]
"""Opens the shard of a log by its name: `open_small`."""


def open_small(path: Path, **options: object) -> Shard:
    """Shard 0 of the log in a directory, with the sizes above; its clock stands still."""
    return open_shard(path, **({"sizes": SIZES} | options))  # type: ignore[arg-type]


def bare(number: int, **fields: object) -> Entry:
    """An asset whose content is kept elsewhere."""
    return asset(number, **({"num_bytes": 0} | fields))


def sequence(shard: Shard, *entries: Entry) -> list[int]:
    """The `Result` of each."""
    return shard.sequence(columns(*entries)).results.tolist()


def append(shard: Shard, *entries: Entry) -> list[int]:
    """The `Result` of each."""
    return shard.append(columns(*entries)).results.tolist()


def kill(shard: Shard) -> None:
    """Its process ends without a word; what is in the write-ahead log alone stays there."""
    shard._writer._wal.close()
    shard._store.close()


def assert_consistent(shard: Shard) -> None:
    """Tree, times and balances are those of the entries."""
    data = shard.read_entries(0, shard.tree_size)
    rows = [data[place : place + ENTRY_BYTES] for place in range(0, len(data), ENTRY_BYTES)]
    assert read_checkpoint(shard.checkpoint()).root == root_of(rows)
    entries, book = from_bytes(data), Book(b"another")
    assert (np.diff(entries["time_ns"].astype(np.int64)) > 0).all()
    book.replay(entries, 0)
    assert shard.book.snapshot() == book.snapshot()


def assert_whole(shard: Shard, *numbers: int) -> None:
    """Exactly the entries with these ids are there, in that order, and are found; all is consistent."""
    assert_consistent(shard)
    entries = from_bytes(shard.read_entries(0, shard.tree_size))
    assert [entry["id"].tobytes() for entry in entries] == [id_of(number) for number in numbers]
    assert [shard.find(id_of(number)) for number in numbers] == list(range(len(numbers)))


def failing(shard: Shard, error: Exception, *, commits: bool = False) -> Callable[[], Any]:
    """`Store.write` for a shard, which fails at the end of each commit; after it was done, if so."""

    @contextmanager
    def write() -> Iterator[Batch]:
        with Store.write(shard._store) as batch:
            yield batch
            if not commits:
                raise error
        raise error

    return write


def interrupted(shard: Shard, do: Callable[[], None]) -> Callable[[], Any]:
    """`Store.write` for a shard, which has something done at two moments of each commit: before it is durable, and
    before memory has followed it."""

    @contextmanager
    def write() -> Iterator[Batch]:
        with Store.write(shard._store) as batch:
            yield batch
            do()
        do()

    return write


def raising(error: Exception) -> Callable[..., Any]:
    """A function that does nothing else."""

    def call(*_: object) -> None:
        raise error

    return call


def full() -> LedgerFull:
    return LedgerFull("the disk is full", where="here", fix="Make some room.")
