"""The first stage of an append: which entries of a batch are new, allowed, and in which order they come.

Repeats are found by id: among the ids of the batch, in the index's tables, and, where the filter cannot rule it out, in
its runs. What is found by key is compared byte by byte with the recorded entry, so the answer is exact. A batch in
which an id comes twice, or an erasure after its asset, is taken in parts, so that the second sees what became of the
first. A batch is answered as if its entries had come one by one; only chains are more than their entries.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.book import Book
from ledger.entry import (
    ENTRY_BYTES,
    ENTRY_DTYPE,
    ID_BYTES,
    Entry,
    Flag,
    Kind,
    decode,
)
from ledger.index import Index
from ledger.items import (
    HAS_ERASURES,
    NO_PLACE,
    SETTLES,
    Rows,
    id_keys,
    insert_items,
    previous_with_key,
    subject_keys,
    traits_of,
)
from ledger.pending import Recorded
from ledger.result import Result, compare
from ledger.rules import check, mark_unknown_parents, parent_ends
from ledger.runs import Family
from ledger.settlement import apply_batch
from ledger.tail import Indices, Keys, found_many, keys_of

_KIND, _ID, _OWNER, _SUBJECT = 2, 16, 96, 112
_BY_ID, _OK = int(Family.ID), int(Result.OK)  # an enumeration's attribute costs as much as a small kernel
_ASSETS = (Kind.ASSET, Kind.DERIVATION)
_TRANSFERS = (Kind.MONEY, Kind.OWNERSHIP)
_REPEATABLE = (Result.OK, Result.UNKNOWN_PARENT)
_ENDS = int(Flag.POST | Flag.VOID | Flag.EXPIRED)
_ENDED = {
    int(Flag.POST): Result.PENDING_TRANSFER_ALREADY_POSTED,
    int(Flag.VOID): Result.PENDING_TRANSFER_ALREADY_VOIDED,
    int(Flag.EXPIRED): Result.PENDING_TRANSFER_EXPIRED,
}


class Part(NamedTuple):
    """What became of some entries of a batch: results, the indices found or given, and the rows to be recorded."""

    results: NDArray[np.uint8]
    indices: NDArray[np.uint64]
    rows: Rows


class Sequencer:
    """One batch being sequenced.

    Args:
        shard: its number.
        size: how many entries are recorded before.
        covered, may_expire: see `rules.check`.
        snapshot: what is recorded; of the batch itself, too, as far as it was sequenced.
    """

    def __init__(
        self,
        shard: int,
        size: int,
        covered: NDArray[np.uint64],
        index: Index,
        book: Book,
        snapshot: Recorded,
        *,
        may_expire: bool = False,
    ) -> None:
        self.shard = shard
        self.size = size
        self.covered = covered
        self.index = index
        self.book = book
        self.snapshot = snapshot
        self.may_expire = may_expire

    def parts(self, rows: Rows, keys: Keys) -> list[tuple[int, int]]:
        """Ranges of the batch to be sequenced one after another: in none is an id twice, or an erasure with its asset,
        except within one chain. `keys`: those of their ids."""
        again = np.flatnonzero(previous_with_key(keys) != NO_PLACE)
        erasures = np.flatnonzero(rows[:, _KIND] == Kind.ERASURE) if traits_of(rows) & HAS_ERASURES else again[:0]
        if len(erasures):
            erasures = erasures[np.isin(subject_keys(rows[erasures], self.index.seed), keys)]
        if not len(again) and not len(erasures):
            return [(0, len(rows))]
        entries = rows.view(ENTRY_DTYPE).reshape(len(rows))
        linked = entries["flags"] & int(Flag.LINKED) != 0
        cuts = {0}
        for place in [*again.tolist(), *erasures.tolist()]:
            while place and linked[place - 1]:
                place -= 1
            cuts.add(place)
        return list(zip(sorted(cuts), [*sorted(cuts)[1:], len(rows)], strict=True))

    def sequence(self, rows: Rows, keys: Keys) -> Part:
        """Sequence one part: its new entries are settled and in the index's tables afterwards. `keys`: of their ids.

        Cost: about 0.3 us an entry that moves no money.
        """
        results = check(rows, self.shard, self.size, self.covered, may_expire=self.may_expire)
        indices = np.zeros(len(rows), np.uint64)
        traits = traits_of(rows)
        self.mark_repeats(rows, keys, results, indices)
        if traits & SETTLES:
            self.mark_repeats_in_chains(rows, keys, results)
        if traits:
            self.settle(rows, results, traits)
        new = results == _OK
        recorded, recorded_keys = (rows, keys) if new.all() else (rows[new], keys[new])
        indices[new] = self.size + np.arange(len(recorded), dtype=np.uint64)
        insert_items(recorded, recorded_keys, self.size, self.index.seed, self.index.tails)
        self.size += len(recorded)
        return Part(results, indices, recorded)

    def keys(self, rows: Rows) -> Keys:
        """uint64[n], the index's keys of their ids."""
        return id_keys(rows, self.index.seed)

    def mark_repeats(self, rows: Rows, keys: Keys, results: NDArray[np.uint8], indices: NDArray[np.uint64]) -> None:
        """Where an id is recorded already, say so in the results, and where.

        A repeat is told so even if its parents are unknown: after a restart a shard has yet to learn how far the others
        are covered, and what is recorded is recorded.
        """
        places, found = self.find_ids(keys)
        for place, index in zip(places.tolist(), found.tolist(), strict=True):
            recorded = np.frombuffer(self.snapshot.entries(index, index + 1, ENTRY_BYTES), np.uint8)
            same = (recorded[_ID : _ID + ID_BYTES] == rows[place, _ID : _ID + ID_BYTES]).all()
            if same and results[place] in _REPEATABLE:
                results[place], indices[place] = compare(recorded, rows[place]), index

    def mark_repeats_in_chains(self, rows: Rows, keys: Keys, results: NDArray[np.uint8]) -> None:
        """An id twice in a part is twice in a chain, which fails."""
        previous = previous_with_key(keys)
        for second in np.flatnonzero(previous != NO_PLACE).tolist():
            first = previous[second]
            same = (rows[first, _ID : _ID + ID_BYTES] == rows[second, _ID : _ID + ID_BYTES]).all()
            if same and results[second] in _REPEATABLE:
                results[second] = Result.ID_TWICE_IN_CHAIN

    def settle(self, rows: Rows, results: NDArray[np.uint8], traits: int) -> None:
        """Complete the results: chains, money, ownership, erasures, and parents within the batch."""
        if traits & HAS_ERASURES:
            self.mark_unknown_erasures(rows, results)
        ends = parent_ends(rows, self.shard, results)
        if not traits & SETTLES:
            mark_unknown_parents(ends, self.size, results)
            return
        owners, statuses = np.zeros((len(rows), 2), np.uint64), np.zeros(len(rows), np.uint8)
        self.book.reserve(len(rows))
        self.hint(rows, results, owners, statuses)
        apply_batch(self.book.state, rows, self.size, results, ends, owners, statuses)

    def mark_unknown_erasures(self, rows: Rows, results: NDArray[np.uint8]) -> None:
        """An erasure is of an asset that is recorded, or comes before it in its chain."""
        for place in np.flatnonzero((rows[:, _KIND] == Kind.ERASURE) & (results == _OK)).tolist():
            subject = rows[place, _SUBJECT : _SUBJECT + ID_BYTES].tobytes()
            if self.entry_of(subject, _ASSETS) is None and not _is_in_chain(rows, place):
                results[place] = Result.ASSET_NOT_FOUND

    def hint(
        self, rows: Rows, results: NDArray[np.uint8], owners: NDArray[np.uint64], statuses: NDArray[np.uint8]
    ) -> None:
        """What the log says where the book knows nothing: whose an asset was at first, how a pending transfer ended.
        Nobody asks that of an entry that is refused or repeated already.

        Cost: 0.02 us an entry, some 10 us for one that asks.
        """
        asked = self.book.unknown_subjects(rows, results)
        if not len(asked):
            return
        is_end = rows.view(ENTRY_DTYPE)["flags"][asked, 0] & _ENDS != 0
        statuses[asked[~is_end]] = Result.ASSET_NOT_FOUND
        places, found = self.find_ids(subject_keys(rows[asked], self.index.seed))
        for place, ends, index in zip(asked[places].tolist(), is_end[places].tolist(), found.tolist(), strict=True):
            recorded = self.snapshot.entries(index, index + 1, ENTRY_BYTES)
            if recorded[_ID : _ID + ID_BYTES] != rows[place, _SUBJECT : _SUBJECT + ID_BYTES].tobytes():
                continue
            if ends and recorded[_KIND] in _TRANSFERS:
                statuses[place] = self.end_of(decode(recorded))
            elif not ends and recorded[_KIND] in _ASSETS:
                statuses[place] = Result.OK
                owners[place] = np.frombuffer(recorded, np.uint64, 2, _OWNER)

    def end_of(self, transfer: Entry) -> Result:
        """Why a recorded transfer that is not live cannot be ended."""
        if not transfer.flags & Flag.PENDING:
            return Result.PENDING_TRANSFER_NOT_PENDING
        found = [entry for _, entry in self.entries_with(Family.SUBJECT, transfer.id) if entry.subject == transfer.id]
        ends = [entry.flags & _ENDS for entry in found if entry.kind in _TRANSFERS and entry.flags & _ENDS]
        assert len(ends) == 1, "what was pending and is not live was ended once"
        return _ENDED[ends[0]]

    def find_ids(self, keys: Keys) -> tuple[NDArray[np.int64], Indices]:
        """Places in uint64[n] keys, and the indices of the recorded entries whose id has that key."""
        places, found = found_many(self.index.tails[_BY_ID], keys)
        maybe = np.flatnonzero(self.index.maybe_flushed(keys))
        if len(maybe):
            older, older_found = self.index.runs.find_many(Family.ID, keys[maybe], self.snapshot.segment)
            places, found = np.concatenate([maybe[older], places]), np.concatenate([older_found, found])
        return places, found

    def entry_of(self, id_: bytes, kinds: tuple[Kind, ...]) -> Entry | None:
        """The recorded entry with an id, if it is of one of these kinds."""
        for _, entry in self.entries_with(Family.ID, id_):
            if entry.id == id_ and entry.kind in kinds:
                return entry
        return None

    def entries_with(self, family: Family, value: bytes) -> list[tuple[int, Entry]]:
        """(index, entry) of what has the key of a value; whether it has the value is for the caller to see."""
        key = int(keys_of(np.frombuffer(value, np.uint8).reshape(1, -1), self.index.seed)[0])
        indices = self.index.find(family, key, self.snapshot.segment)
        return [(index, decode(self.snapshot.entries(index, index + 1, ENTRY_BYTES))) for index in indices]


def _is_in_chain(rows: Rows, erasure: int) -> bool:
    """Whether the asset of an erasure comes before it in the same part, hence in the same chain: whatever becomes of
    the one becomes of both."""
    named = (rows[:erasure, _ID : _ID + ID_BYTES] == rows[erasure, _SUBJECT : _SUBJECT + ID_BYTES]).all(axis=1)
    return bool(np.isin(rows[:erasure, _KIND][named], _ASSETS).any())


def refill(index: Index, rows: Rows) -> None:
    """Put the entries that no run covers back into the index's tables, after opening."""
    begin = index.runs.num_entries
    insert_items(rows, id_keys(rows, index.seed), begin, index.seed, index.tails)
    index.refilled(begin + len(rows))
