"""The part of a check that replays all money and ownership into a fresh book, and holds it against what is stored.

The replay takes an ownership transfer's word for whose the asset was before its first transfer; an erasure's, that
there is an asset. What was taken on trust (`Claim`s) is proved afterwards, in one more pass over the entries, in which
only the ids that were claimed are looked for. A shard without such entries is not read twice.
"""

import hashlib
import sys
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger import idtable
from ledger.book import Book, snapshot_size
from ledger.compiled import njit
from ledger.entry import ENTRY_DTYPE, Flag, Kind
from ledger.errors import LedgerCorrupt
from ledger.fsck_form import field_dtype
from ledger.fsck_report import PROBLEMS_MAX, Tell
from ledger.positions import NO_ROW, find_asset
from ledger.store import Snapshot

_SETTLED = np.array([Kind.ACCOUNT, Kind.MONEY, Kind.OWNERSHIP], np.uint8)
_ENDS = int(Flag.POST | Flag.VOID | Flag.EXPIRED)
_ASSET, _DERIVATION, _OWNERSHIP, _ERASURE = Kind.ASSET, Kind.DERIVATION, Kind.OWNERSHIP, Kind.ERASURE
_ROW_DTYPE = field_dtype("kind", "flags", "id", "owner", "subject", "content_hash")

# A claim is uint64[6]: the asset's id (2), the owner it is said to have (2), the index of who says so, and the kind.
_CLAIM_WORDS, _CLAIM_INDEX, _CLAIM_KIND = 6, 4, 5
# What is found of a claimed id is uint64[4]: the owner (2), one more than the index, 0 if there is none, and the kind.
_FOUND_WORDS, _FOUND_INDEX, _FOUND_KIND = 4, 2, 3


class StoredBook(msgspec.Struct, frozen=True):
    """The balances as they are stored: of how many entries, and the SHA-256 of the bytes."""

    size: int
    digest: bytes


def stored_book(snapshot: Snapshot) -> StoredBook | None:
    """What a shard has stored of its balances.

    Raises:
        LedgerCorrupt: it is too short.
    """
    data = snapshot.state("book")
    if data is None:
        return None
    return StoredBook(snapshot_size(data), hashlib.sha256(data).digest())


class Settlement:
    """The book of the entries so far, and the claims to be proved."""

    def __init__(self, seed: bytes, tell: Tell) -> None:
        self._book = Book(seed)
        self._keys = idtable.make_keys(seed)
        self._tell = tell
        self._is_replayed = True
        self._claims: list[NDArray[np.uint64]] = []

    def replay(self, rows: NDArray[np.uint8], begin: int) -> None:
        """uint8[n, 240], the entries from index `begin` on. A broken rule is told, and nothing after it replayed.

        Cost: 1 ns an entry, 0.2 us one that moves money or an asset.
        """
        kinds = rows.view(ENTRY_DTYPE).reshape(len(rows))["kind"]
        is_settled = bool(np.isin(kinds, _SETTLED).any())
        if is_settled or (kinds == Kind.ERASURE).any():
            claims = np.empty((len(rows), _CLAIM_WORDS), np.uint64)
            entries = rows.view(_ROW_DTYPE).reshape(len(rows))
            num_claims = _claims(self._book.state, entries, begin, self._is_replayed, claims)
            self._claims.append(claims[:num_claims].copy())
        if not is_settled or not self._is_replayed:
            return
        try:
            self._book.replay(rows.view(ENTRY_DTYPE).reshape(len(rows)), begin)
        except LedgerCorrupt as error:
            where = error.where.replace("index", "entry")  # as every other part says it
            self._tell(where, f"{error.what}; settlement was not checked from here on")
            self._is_replayed = False

    def compare(self, stored: StoredBook) -> None:
        """After as many entries as the stored balances are of."""
        if self._is_replayed and hashlib.sha256(self._book.snapshot(stored.size)).digest() != stored.digest:
            self._tell("book", f"the stored balances are not those after the first {stored.size} entries")

    def finish(self) -> None:
        """The trial balance: every debit is somebody's credit."""
        if not self._is_replayed:
            return
        for currency, sums in self._book.trial_balance().items():
            debits, credits, pending_debits, pending_credits = sums
            if (debits, pending_debits) != (credits, pending_credits):
                pending = f"{pending_debits} and {pending_credits} pending"
                self._tell(f"currency {currency}", f"debits {debits}, credits {credits}; {pending}")

    def held(self) -> NDArray[np.uint64] | None:
        """uint64[n], ascending: the indices of the pending transfers that are live; None if a rule was broken."""
        return np.array(self._book.live(num_max=sys.maxsize), np.uint64) if self._is_replayed else None

    def claims(self) -> "Claims":
        """What is to be proved."""
        claims = self._claims or [np.empty((0, _CLAIM_WORDS), np.uint64)]
        return Claims(np.concatenate(claims), self._keys, self._tell)


class Claims:
    """What entries say of assets, and the assets as far as they were found."""

    def __init__(self, claims: NDArray[np.uint64], keys: NDArray[np.uint64], tell: Tell) -> None:
        self._claims = claims
        self._keys = keys
        self._tell = tell
        self.num_claims = len(claims)
        self._ids = np.empty((len(claims), 2), np.uint64)
        self._table = np.zeros(idtable.places_for(len(claims)), np.uint32)
        self._rows = np.empty(len(claims), np.int64)  # of each claim's id
        num_ids = _list_ids(claims, self._table, self._ids, keys, self._rows)
        self._found = np.zeros((num_ids, _FOUND_WORDS), np.uint64)

    def look(self, rows: NDArray[np.uint8], begin: int) -> None:
        """Look for the assets in uint8[n, 240], the entries from index `begin` on."""
        entries = rows.view(_ROW_DTYPE).reshape(len(rows))
        _look(entries, begin, self._table, self._ids, self._keys, self._found)

    def finish(self) -> NDArray[np.uint64]:
        """After the last entry: tell what is not so. uint64[n], ascending: the indices of the assets erased."""
        claims, found = self._claims, self._found[self._rows]
        is_there = np.isin(found[:, _FOUND_KIND], (Kind.ASSET, Kind.DERIVATION))
        is_there &= (found[:, _FOUND_INDEX] > 0) & (found[:, _FOUND_INDEX] <= claims[:, _CLAIM_INDEX])
        is_owners = (claims[:, 2:4] == found[:, :2]).all(axis=1)
        is_first = np.zeros(len(claims), np.bool_)
        transfers = np.flatnonzero(claims[:, _CLAIM_KIND] == Kind.OWNERSHIP)
        is_first[transfers[np.unique(self._rows[transfers], return_index=True)[1]]] = True
        for place in np.flatnonzero(~is_there)[: PROBLEMS_MAX + 1]:
            self._tell(f"entry {claims[place, _CLAIM_INDEX]}", "the asset that it is about does not come before it")
        for place in np.flatnonzero(is_there & is_first & ~is_owners)[: PROBLEMS_MAX + 1]:
            self._tell(
                f"entry {claims[place, _CLAIM_INDEX]}", "the asset does not belong to the owner it is taken from"
            )
        erased = found[is_there & (claims[:, _CLAIM_KIND] == Kind.ERASURE), _FOUND_INDEX]
        return np.unique(erased) - np.uint64(1)


@njit(nogil=True)
def _claims(state: Any, entries: Any, begin: int, is_replayed: bool, claims: Any) -> Any:
    """Write the claims of a block that is to be replayed next; how many.

    The second transfer of an asset within the block makes a claim too many.
    """
    count = 0
    for place in range(len(entries)):
        entry = entries[place]
        if entry.kind == _OWNERSHIP:
            if (
                not is_replayed
                or entry.flags & _ENDS
                or find_asset(state, entry.subject[0], entry.subject[1]) != NO_ROW
            ):
                continue
        elif entry.kind != _ERASURE:
            continue
        claims[count, :2] = entry.subject
        claims[count, 2:4] = entry.content_hash[:2]  # the debit: whose it is said to be
        claims[count, _CLAIM_INDEX] = begin + place
        claims[count, _CLAIM_KIND] = entry.kind
        count += 1
    return count


@njit(nogil=True)
def _list_ids(claims: Any, table: Any, ids: Any, keys: Any, rows: Any) -> Any:
    """Put every id into the table once; how many there are, and which row each claim's id has."""
    num_ids = np.int64(0)
    for place in range(len(claims)):
        row = idtable.find(table, ids, keys, claims[place, 0], claims[place, 1])
        if row == NO_ROW:
            row = num_ids
            ids[row] = claims[place, :2]
            idtable.insert(table, ids, keys, row)
            num_ids += 1
        rows[place] = row
    return num_ids


@njit(nogil=True)
def _look(entries: Any, begin: int, table: Any, ids: Any, keys: Any, found: Any) -> None:
    for place in range(len(entries)):
        entry = entries[place]
        row = idtable.find(table, ids, keys, entry.id[0], entry.id[1])
        if row != NO_ROW and found[row, _FOUND_INDEX] == 0:
            found[row, :2] = entry.owner
            found[row, _FOUND_INDEX] = begin + place + 1
            found[row, _FOUND_KIND] = entry.kind
