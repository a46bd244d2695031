"""The part of a check that is about exchanges: what was decided about one, and what became of its legs in every shard.

    leg        MONEY or OWNERSHIP whose id is that of a leg of the terms that its request hash names (`ledger.legs`)
    end        POST or VOID whose id is that of the end of a leg
    decision   DECISION about the terms

Each shard collects its own, one record for neighbours that say the same, and looks whether its legs were ended by
nothing else. Over the whole log the records of the same terms are held against each other: legs are posted only after
a decision to commit, and voided only without one; a decision to commit has every leg of the terms held. Then clearing
accounts end equal in pairs. What is undecided, or decided and not yet carried out everywhere, is no problem.

Shards are looked at one after the other, while their owners go on. A decision is durable before a leg is posted, and a
leg before the decision: so what seems to be missing is looked for once more in what the shards have got since then, in
the store or in the write-ahead log.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES, HASH_BYTES, ID_BYTES, Flag, Kind
from ledger.errors import LedgerCorrupt
from ledger.exchange import MOVES_MAX
from ledger.fsck_form import field_dtype
from ledger.fsck_report import PROBLEMS_MAX, Tell
from ledger.head import Head
from ledger.sha256 import Hashes, prefixed_hashes
from ledger.store import Store
from ledger.wal import Record, left_over

RECORD_DTYPE = np.dtype(
    [
        ("terms", "<u8", (4,)),  # their SHA-256
        ("index", "<u8"),  # of the first entry
        ("legs", "<u8"),  # a bit for each number of a leg that is held or settled here
        ("num", "<u4"),  # entries, one after the other
        ("what", "u1"),
        ("num_legs", "u1"),  # of all the terms, if the asset is among these: its number is the last; else 0
        ("reserved", "<u2"),  # 0
    ]
)
Records = NDArray[np.void]
"""What a shard has of exchanges: an array of `RECORD_DTYPE`, by index."""

NO_RECORDS: Records = np.empty(0, RECORD_DTYPE)

HELD, SETTLED, POSTED, VOIDED, COMMITTED, ABORTED = 1, 2, 4, 8, 16, 32

_UNCOMMITTED, _BOTH_WAYS, _AGAINST, _TWICE, _INCOMPLETE = 1, 2, 3, 4, 5
_SAYINGS = {
    _UNCOMMITTED: "a leg of an exchange happens, and no shard has recorded that the exchange does",
    _BOTH_WAYS: "a leg of an exchange happens, and the exchange was called off, or a leg of it voided",
    _AGAINST: "a leg of an exchange is voided, and a shard has recorded that the exchange happens",
    _TWICE: "it is decided about an exchange of which the opposite is recorded, too",
    _INCOMPLETE: "it is decided that an exchange happens, and not every leg of it is held",
}
_MISSED = (_UNCOMMITTED, _INCOMPLETE)  # because something is not there, which may only have come later

_ROW_DTYPE = field_dtype("kind", "flags", "id", "amount", "subject", "content_hash", "meta_hash", "request_hash")
_MONEY, _OWNERSHIP, _DECISION = Kind.MONEY, Kind.OWNERSHIP, Kind.DECISION
_LINKED, _PENDING = int(Flag.LINKED), int(Flag.PENDING)
_POST, _VOID = int(Flag.POST), int(Flag.VOID)
_ENDS = int(Flag.POST | Flag.VOID | Flag.EXPIRED)
_BLOCK_ENTRIES = 65_536
_LOOKS_MAX, _PAUSE_S = 20, 0.05


class Exchanges:
    """What the entries of a shard say of exchanges, block after block."""

    def __init__(self) -> None:
        self._blocks: list[Records] = []
        self._last_terms = np.zeros(4, np.uint64)

    def collect(self, rows: NDArray[np.uint8], begin: int) -> None:
        """uint8[n, 240], the entries from index `begin` on.

        Cost: 2 ns an entry; 0.2 us and 56 bytes, less for neighbours, one of an exchange.
        """
        places = np.empty(len(rows), np.int64)
        places = places[: _find(rows.view(_ROW_DTYPE).reshape(len(rows)), places)]
        if not len(places):
            return
        entries = rows[places].view(_ROW_DTYPE).reshape(len(places))
        records = np.zeros(len(places), RECORD_DTYPE)
        records["terms"], records["index"], records["num"] = entries["request_hash"], places + begin, 1
        _note_decisions(entries, records)
        _note_ends(entries, records)
        _note_legs(entries, records, self._last_terms)
        self._last_terms = records["terms"][-1].copy()
        records = records[records["what"] != 0]
        if len(records):
            self._blocks.append(_joined(records))

    def records(self) -> Records:
        """All of them so far."""
        self._blocks = [np.concatenate([NO_RECORDS, *self._blocks])]
        return self._blocks[0]


def check_ends(records: Records, live: NDArray[np.uint64], tell: Tell) -> None:
    """Tell whose legs in a shard were ended in part, or by something else than their exchange.

    Args:
        records: of all the entries, at least one.
        live: ascending, the indices of the pending transfers that are live after them.
    """
    order, starts = _by_terms(records)
    ordered = records[order]
    is_leg, is_end = ordered["what"] == HELD, (ordered["what"] & (POSTED | VOIDED)) != 0
    index, counts = ordered["index"], ordered["num"].astype(np.int64)
    num_live = np.searchsorted(live, index + ordered["num"]) - np.searchsorted(live, index)
    held, ended, left = (
        np.add.reduceat(np.where(is_it, numbers, 0), starts)
        for is_it, numbers in ((is_leg, counts), (is_end, counts), (is_leg, num_live))
    )
    is_wrong = (held != left + ended) | ((left > 0) & (ended > 0))
    for place in starts[is_wrong][: PROBLEMS_MAX + 1]:
        what = "the legs of an exchange were not all ended by it, or not together"
        tell(f"entry {index[place]}", f"{what}; {_named(ordered[place])}")


def compare(
    collected: Sequence[Records], names: Sequence[str], read_all: Callable[[], Sequence[Records | None]], tell: Tell
) -> None:
    """Hold what shards have of exchanges against each other.

    Args:
        names: what the shards are called.
        read_all: what each has got since; None where that is not known: then nothing is missed. Is asked only if
            something seems to be missing.
    Cost: 0.5 us a record, and, if `read_all` is asked, that of reading.
    """
    records = np.concatenate([NO_RECORDS, *collected])
    verdicts = _verdicts(records)
    if np.isin(verdicts, _MISSED).any():
        newest = read_all()
        known = [each for each in newest if each is not None]
        verdicts = _verdicts(np.concatenate([records, *(_reasons(each) for each in known)]))[: len(records)]
        if len(known) < len(newest):
            verdicts[np.isin(verdicts, _MISSED)] = 0
    shards = np.repeat(np.arange(len(collected)), [len(each) for each in collected])
    for verdict, saying in _SAYINGS.items():
        for place in np.flatnonzero(verdicts == verdict)[: PROBLEMS_MAX + 1]:
            record = records[place]
            tell(f"{names[shards[place]]} entry {record['index']}", f"{saying}; {_named(record)}")


def read_newest(shard_and_begin: tuple[Path, int]) -> Records:
    """What a shard's directory has from an index on, in the store or only in its write-ahead log.

    Raises:
        LedgerError: it cannot be read.
    """
    path, begin = shard_and_begin
    with closing(Store.open_readonly(path)) as store:
        records = _left_over(store)  # before the store, into which they may come meanwhile
        found, size = Exchanges(), _size(store)
        for first in range(begin, size, _BLOCK_ENTRIES):
            with store.read() as snapshot:
                data = snapshot.entries(first, min(first + _BLOCK_ENTRIES, size), ENTRY_BYTES)
            found.collect(np.frombuffer(data, np.uint8).reshape(-1, ENTRY_BYTES).copy(), first)
        for record in records:
            found.collect(record.rows.copy(), record.first)
    return found.records()


def _left_over(store: Store) -> list[Record]:
    """What is only in the write-ahead log. The owner may be writing: then it looks damaged for a moment."""
    for _ in range(_LOOKS_MAX - 1):
        try:
            return left_over(store.path, _size(store))
        except LedgerCorrupt:
            time.sleep(_PAUSE_S)
    return left_over(store.path, _size(store))


def _size(store: Store) -> int:
    with store.read() as snapshot:
        return Head.of(snapshot).tree_size


def _reasons(newest: Records) -> Records:
    """Of what came after a check what can be the reason for what it saw: decisions, and legs. Ends cannot."""
    return newest[(newest["what"] & (POSTED | VOIDED)) == 0]


def _verdicts(records: Records) -> NDArray[np.uint8]:
    """uint8[n]: what is wrong with each record, by all that there are of the same terms; 0: nothing."""
    verdicts = np.zeros(len(records), np.uint8)
    if not len(records):
        return verdicts
    order, starts = _by_terms(records)
    counts = np.diff(np.append(starts, len(records)))
    ordered = records[order]
    of_all = np.repeat(np.bitwise_or.reduceat(ordered["what"], starts), counts)
    legs = np.bitwise_or.reduceat(ordered["legs"], starts)
    num_legs = np.maximum.reduceat(ordered["num_legs"], starts).astype(np.uint64)
    is_whole = np.repeat((num_legs > 0) & (legs == (np.uint64(1) << num_legs) - np.uint64(1)), counts)
    happens = (ordered["what"] & (POSTED | SETTLED)) != 0
    is_committed, is_aborted = (of_all & COMMITTED) != 0, (of_all & ABORTED) != 0
    is_voided = (of_all & VOIDED) != 0
    found = np.zeros(len(records), np.uint8)
    found[happens & ~is_committed] = _UNCOMMITTED
    found[happens & ~is_committed & (is_aborted | is_voided)] = _BOTH_WAYS
    found[(ordered["what"] == VOIDED) & is_committed] = _AGAINST
    found[(ordered["what"] == COMMITTED) & ~is_whole] = _INCOMPLETE
    found[((ordered["what"] & (COMMITTED | ABORTED)) != 0) & is_committed & is_aborted] = _TWICE
    verdicts[order] = found
    return verdicts


def _by_terms(records: Records) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order that puts records of the same terms next to each other, else as they are; and where others begin."""
    terms = records["terms"]
    order = np.argsort(terms[:, 0], kind="stable")
    is_other = (terms[order[1:]] != terms[order[:-1]]).any(axis=1)
    if (is_other & (terms[order[1:], 0] == terms[order[:-1], 0])).any():  # a hash that somebody has made up
        order = np.lexsort(terms.T)
        is_other = (terms[order[1:]] != terms[order[:-1]]).any(axis=1)
    return order, np.flatnonzero(np.append(True, is_other))


def _joined(records: Records) -> Records:
    """One record for neighbours that say the same."""
    before, after = records[:-1], records[1:]
    goes_on = (before["what"] == after["what"]) & (before["index"] + np.uint64(1) == after["index"])
    goes_on &= (before["terms"] == after["terms"]).all(axis=1)
    starts = np.flatnonzero(np.append(True, ~goes_on))
    joined = records[starts]
    for name, function in (("num", np.add), ("legs", np.bitwise_or), ("num_legs", np.maximum)):
        joined[name] = function.reduceat(records[name], starts)
    return joined


def _note_decisions(entries: NDArray[np.void], records: Records) -> None:
    is_one = (entries["kind"] == _DECISION) & (entries["content_hash"] == entries["request_hash"]).all(axis=1)
    records["what"][is_one] = np.where(entries["amount"][is_one] == 1, COMMITTED, ABORTED)


def _note_ends(entries: NDArray[np.void], records: Records) -> None:
    """What ends a leg, by its id."""
    places = np.flatnonzero((entries["kind"] != _DECISION) & ((entries["flags"] & (_POST | _VOID)) != 0))
    subjects = np.ascontiguousarray(entries["subject"][places]).view(np.uint8).reshape(-1, ID_BYTES)
    is_one = _begin_with(_hashes(b"mintage end\n", subjects), entries["id"][places])
    places = places[is_one]
    records["what"][places] = np.where(entries["flags"][places] & _POST, POSTED, VOIDED)


def _note_legs(entries: NDArray[np.void], records: Records, last_terms: NDArray[np.uint64]) -> None:
    """The legs, by their ids. They are looked for where they can be, as it takes a hash for each number: in a chain,
    beside the terms, or after another entry about the same terms.

    `last_terms`: of the entry before these.
    """
    terms = records["terms"]
    may_be = (entries["flags"] & _LINKED) != 0
    may_be |= (entries["meta_hash"] == terms).all(axis=1)
    may_be |= (terms == np.concatenate([last_terms[None], terms[:-1]])).all(axis=1)
    may_be &= (entries["kind"] != _DECISION) & ((entries["flags"] & _ENDS) == 0)
    left = np.flatnonzero(may_be)
    for number in range(MOVES_MAX + 1):
        if not len(left):
            return
        named = np.empty((len(left), HASH_BYTES + 2), np.uint8)
        named[:, :HASH_BYTES] = np.ascontiguousarray(terms[left]).view(np.uint8)
        named[:, HASH_BYTES:] = number >> 8, number & 0xFF
        is_one = _begin_with(_hashes(b"mintage leg\n", named), entries["id"][left])
        places, left = left[is_one], left[~is_one]
        records["what"][places] = np.where(entries["flags"][places] & _PENDING, HELD, SETTLED)
        records["legs"][places] = 1 << number
        records["num_legs"][places] = (number + 1) * (entries["kind"][places] == _OWNERSHIP)


def _hashes(text: bytes, rows: NDArray[np.uint8]) -> Hashes:
    """uint8[n, w] -> uint8[n, 32], the SHA-256 of a text and each row."""
    data = np.empty((len(rows), len(text) - 1 + rows.shape[1]), np.uint8)
    data[:, : len(text) - 1] = np.frombuffer(text[1:], np.uint8)
    data[:, len(text) - 1 :] = rows
    return prefixed_hashes(text[0], data)


def _begin_with(hashes: Hashes, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of uint8[n, 32] begin with the uint64[2] beside them."""
    equal: NDArray[np.bool_] = (hashes.view(np.uint64)[:, :2] == ids).all(axis=1)
    return equal


def _named(record: np.void) -> str:
    return f"the terms have the hash {record['terms'].tobytes().hex()}"


@njit(nogil=True, cache=True)
def _find(entries: Any, places: Any) -> int:
    """Write where in some entries transfers and decisions are that have a request hash; how many."""
    count = 0
    for place in range(len(entries)):
        entry = entries[place]
        if entry.kind == _MONEY or entry.kind == _OWNERSHIP or entry.kind == _DECISION:
            terms = entry.request_hash
            if terms[0] | terms[1] | terms[2] | terms[3]:
                places[count] = place
                count += 1
    return count
