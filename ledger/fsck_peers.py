"""The part of a check that looks at PEER entries: the note in each one's metadata says what the entry says."""

import numpy as np
from numpy.typing import NDArray

from ledger.entry import ENTRY_DTYPE, Kind, decode
from ledger.errors import LedgerCorrupt, LedgerError
from ledger.fsck_report import Tell
from ledger.peer import recorded_peer
from ledger.store import Store

LOOKS_MAX = 4096
"""Notes that are read in one snapshot, about 50 ms."""


def check_peers(store: Store, rows: NDArray[np.uint8], begin: int, tell: Tell) -> None:
    """The PEER entries of uint8[n, 240], those from index `begin` on. One without metadata is left out: whether it
    should have some is for `fsck_payload` to tell.

    Cost: about 10 us for each.
    """
    kinds = rows.view(ENTRY_DTYPE).reshape(len(rows))["kind"]
    places = np.flatnonzero(kinds == Kind.PEER).tolist()
    for first in range(0, len(places), LOOKS_MAX):
        with store.read() as snapshot:
            for place in places[first : first + LOOKS_MAX]:
                meta = snapshot.meta(begin + place)
                if meta is not None:
                    _check(rows[place].tobytes(), meta, begin + place, tell)


def _check(row: bytes, meta: bytes, index: int, tell: Tell) -> None:
    try:
        entry = decode(row)
    except LedgerError:
        return  # no canonical entry, which `fsck_form` tells
    try:
        recorded_peer(entry, meta)
    except LedgerCorrupt as error:
        tell(f"entry {index}", f"it is no record of a checkpoint: {error.what}")
