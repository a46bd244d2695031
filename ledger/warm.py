"""Compiling ahead: what an append and a look-up run is compiled on first use, and cached on disk from then on.

On a machine that has never run this release that takes some 20 seconds, and the interpreter is not free meanwhile. A
server does it before it says that it is there; else its first caller waits, and so does everything beside it.
"""

import tempfile
from pathlib import Path

import numpy as np

from ledger.entry import Kind, zeros
from ledger.index import Sizes
from ledger.log import open_keys, shard_path
from ledger.shard import Shard

_LOG = "warm-up"
_SIZES = Sizes(block_entries=16, batch_entries_max=8, segment_items=16, fan_in=2)
_BATCHES = 12
"""With these sizes the index writes its first runs and merges them."""


def warm_up() -> None:
    """Compile, if need be, what a shard without settlement needs: a small one is filled in a temporary directory, looked
    into and thrown away.

    Raises:
        LedgerFull, LedgerReadOnly, OSError: there is no room for the temporary directory, or no right to make it.
    Cost: about 20 s on a new machine; 0.3 s where the compiled code is cached, which a first append would take, too.
    """
    with tempfile.TemporaryDirectory(prefix="mintage-") as folder:
        keys = open_keys(Path(folder), _LOG, 1, entropy=bytes)
        path = shard_path(Path(folder), 0)
        with Shard.open(path, 0, keys.signers[0], lambda: 0, entropy=bytes, sizes=_SIZES) as shard:
            _fill(shard)


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
        shard.append(entries)
    last = shard.tree_size - 1
    assert shard.find(shard.entry(last).id) == last
    shard.receipt(last)
