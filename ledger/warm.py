"""Compiling ahead: what a shard runs is compiled on first use, and cached on disk from then on.

On a machine that has never run this release that takes half a minute, and the interpreter is not free meanwhile. A
server does it before it says that it is there; else its first caller waits, and so does everything beside it.
"""

import tempfile
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np

from ledger.entry import ID_BYTES, ZERO_ID, Entry, Flag, Kind, encode, from_bytes, zeros
from ledger.index import Sizes
from ledger.log import open_keys, shard_path
from ledger.result import Result
from ledger.shard import Shard

_LOG = "warm-up"
_SIZES = Sizes(block_entries=16, batch_entries_max=8, segment_items=16, fan_in=2)
_BATCHES = 13
"""With these sizes the index writes its first runs and merges them, and the last batch is in none when it is opened."""

_TICK_NS = 2 * 10**9
"""What its clock goes on by whenever it is asked: longer than anything is held here."""

_FIRST, _SECOND, _HOLD, _MOVE, _ERASE = (number.to_bytes(ID_BYTES, "big") for number in range(1, 6))
"""Ids that no asset has: two accounts, who are owners, too; and what happens."""


@cache
def warm_up() -> None:
    """Compile, if need be, what a shard needs: a small one is filled in a temporary directory, looked into and thrown
    away. Once in a process; later calls do nothing.

    Raises:
        LedgerFull, LedgerReadOnly, OSError: there is no room for the temporary directory, or no right to make it.
    Cost: about 30 s on a new machine; 1 s where the compiled code is cached, most of which a first append would take.
    """
    with tempfile.TemporaryDirectory(prefix="mintage-") as folder:
        keys = open_keys(Path(folder), _LOG, 1, entropy=bytes)
        path = shard_path(Path(folder), 0)
        clock = count(0, _TICK_NS)
        for use in (_fill, _settle):
            with Shard.open(path, 0, keys.signers[0], lambda: next(clock), entropy=bytes, sizes=_SIZES) as shard:
                use(shard)


def _fill(shard: Shard) -> None:
    """Append some batches, each twice, and read the last entry."""
    batch_size = _SIZES.batch_entries_max
    for number in range(_BATCHES):
        entries = zeros(batch_size)
        ids = np.arange(1, batch_size + 1, dtype=np.uint64) + np.uint64(number * batch_size)
        entries["kind"] = Kind.ASSET
        for name, words in (("id", 2), ("owner", 2), ("content_hash", 4)):
            entries[name] = np.repeat(ids, words).reshape(-1, words).view(f"V{8 * words}").reshape(-1)
        if shard.tree_size:
            entries["num_parents"] = 1
        shard.append(entries)
        shard.sequence(entries)
    last = shard.tree_size - 1
    assert shard.find(shard.entry(last).id) == last
    shard.receipt(last)


def _settle(shard: Shard) -> None:
    """Open two accounts, hold money between them until its time is over, give the last asset away, and erase it."""
    asset = shard.entry(shard.tree_size - 1)
    steps = (
        Entry(kind=Kind.ACCOUNT, id=_FIRST, currency=1),
        Entry(kind=Kind.ACCOUNT, id=_SECOND, currency=1),
        Entry(
            kind=Kind.MONEY,
            id=_HOLD,
            content_hash=_FIRST + _SECOND,
            amount=1,
            currency=1,
            flags=Flag.PENDING,
            num_bytes=1,
        ),
        Entry(kind=Kind.OWNERSHIP, id=_MOVE, subject=asset.id, content_hash=asset.owner + ZERO_ID, owner=_SECOND),
        Entry(kind=Kind.ERASURE, id=_ERASE, subject=asset.id),
    )
    entries = from_bytes(b"".join(map(encode, steps)))
    assert set(shard.append(entries).results.tolist()) == {Result.OK}
    assert set(shard.append(entries).results.tolist()) == {Result.EXISTS}
    assert len(shard.expire().results) == 1
    shard.book.balance(_FIRST)
