"""What a home has recorded of the edges that it adopted (`ledger.adopt`), as anybody finds it among its entries."""

from collections.abc import Iterator

import numpy as np

from ledger.entry import Kind, from_bytes
from ledger.errors import LedgerCorrupt
from ledger.peer import ADOPTED, Peer, peer_id, recorded_peer
from ledger.reader import Reader

BLOCK_ENTRIES = 65_536


def recorded_adoptions(home: Reader) -> Iterator[Peer]:
    """The checkpoints that were adopted, the newest first. A record without its own metadata is left out: that it has
    none is for fsck to tell.

    Raises:
        LedgerCorrupt: an entry is not the one that was recorded.
    Cost: reads the entries backwards, about 0.1 us each: what was recorded last is found first.
    """
    end = home.tree_size
    while end:
        begin = max(0, end - BLOCK_ENTRIES)
        kinds = from_bytes(home.read_entries(begin, end))["kind"]
        for place in np.flatnonzero(kinds == Kind.PEER)[::-1].tolist():
            if peer := _adopted_at(home, begin + place):
                yield peer
        end = begin


def _adopted_at(home: Reader, index: int) -> Peer | None:
    """What a PEER entry records, if that was adopted."""
    entry, meta = home.entry(index), home.meta(index) or b""
    try:
        peer = recorded_peer(entry, meta)
    except LedgerCorrupt:
        return None
    return peer if entry.id == peer_id(peer.checkpoint, ADOPTED) else None
