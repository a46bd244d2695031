"""Expiry: the entries by which a shard records that the time of pending transfers is over."""

import hashlib
from collections.abc import Sequence

import numpy as np

from ledger.book import Book
from ledger.entry import ID_BYTES, Entries, Flag, zeros


def expiries(transfers: Sequence[bytes], book: Book, now_ns: int) -> Entries:
    """An entry EXPIRED for each live pending transfer. Its id is SHA-256("mintage expired\\n" ‖ the transfer's id ‖
    now, big-endian in 8 bytes), cut to 16 bytes: nobody can take it first, and so keep a transfer from ever expiring.
    """
    now = now_ns.to_bytes(8)
    entries = zeros(len(transfers))
    entries["flags"] = Flag.EXPIRED
    for place, transfer in enumerate(transfers):
        pending = book.pending(transfer)
        assert pending is not None, "only what is live is due"
        digest = hashlib.sha256(b"mintage expired\n" + transfer + now).digest()
        entries["id"][place], entries["subject"][place] = np.void(digest[:ID_BYTES]), np.void(transfer)
        entries["kind"][place] = pending.kind
    return entries
