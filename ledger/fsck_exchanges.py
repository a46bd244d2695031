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
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import ENTRY_BYTES, HASH_BYTES, ID_BYTES, Flag, Kind
from ledger.errors import LedgerCorrupt
from ledger.exchange import MOVES_MAX
from ledger.fsck_form import field_dtype
from ledger.fsck_report import PROBLEMS_MAX, Tell
from ledger.head import Head
from ledger.sha256 import hash_blocks
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
_TEXT_WORDS = 3  # of 4 bytes, before what the id of a leg or of an end is the hash of
_NUMBER_AT = 4 * _TEXT_WORDS + HASH_BYTES
_NUM_NUMBERS = MOVES_MAX + 1
_BLOCK_ENTRIES = 65_536
_LOOKS_MAX, _PAUSE_S = 20, 0.05


class Exchanges:
    """What the entries of a shard say of exchanges, block after block."""

    def __init__(self) -> None:
        self._blocks: list[Records] = []
        self._before = np.zeros(5, np.uint64)
        self._legs, self._ends = _block(b"mintage leg\n", HASH_BYTES + 2), _block(b"mintage end\n", ID_BYTES)

    def collect(self, rows: NDArray[np.uint8], begin: int) -> None:
        """uint8[n, 240], the entries from index `begin` on.

        Cost: 2 ns an entry; 0.2 us and 56 bytes, less for neighbours, one of an exchange.
        """
        entries = rows.view(_ROW_DTYPE).reshape(len(rows))
        if not (num_max := _count(entries)):
            return
        records = np.zeros(num_max, RECORD_DTYPE)
        num_records = _collect(entries, begin, self._before, self._legs, self._ends, records)
        if num_records:
            self._blocks.append(records[:num_records].copy())

    def records(self) -> Records:
        """All of them so far."""
        self._blocks = [_together(self._blocks)]
        return self._blocks[0]


def check_ends(records: Records, live: NDArray[np.uint64], tell: Tell) -> None:
    """Tell whose legs in a shard were ended in part, or by something else than their exchange.

    Args:
        records: of all the entries, at least one.
        live: ascending, the indices of the pending transfers that are live after them.
    """
    is_wrong = np.zeros(len(records), np.bool_)
    _find_wrong_ends(records, _by_terms(records), live, is_wrong)
    for record in records[is_wrong][: PROBLEMS_MAX + 1]:
        what = "the legs of an exchange were not all ended by it, or not together"
        tell(f"entry {record['index']}", f"{what}; {_named(record)}")


def compare(
    collected: Sequence[Records], names: Sequence[str], read_all: Callable[[], Sequence[Records | None]], tell: Tell
) -> None:
    """Hold what shards have of exchanges against each other.

    Args:
        names: what the shards are called.
        read_all: what each has got since; None where that is not known: then nothing is missed. Is asked only if
            something seems to be missing.
    Cost: 0.3 us a record, and, if `read_all` is asked, that of reading.
    """
    records = _together(collected)
    verdicts = _verdicts(records)
    if np.isin(verdicts, _MISSED).any():
        newest = read_all()
        known = [each for each in newest if each is not None]
        verdicts = _verdicts(_together([records, *map(_reasons, known)]))[: len(records)]
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
    with closing(Store.open_readonly(path, in_order=True)) as store:
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
    _judge(records, _by_terms(records), verdicts)
    return verdicts


def _by_terms(records: Records) -> NDArray[np.int64]:
    """The order that puts records of the same terms next to each other, else as they are."""
    order = np.argsort(records["terms"][:, 0], kind="stable")
    return np.lexsort(records["terms"].T) if _is_mixed(records, order) else order


def _together(parts: Iterable[Records]) -> Records:
    """One after the other; as bytes, since numpy copies columns field by field."""
    return np.concatenate([NO_RECORDS.view(np.uint8), *(part.view(np.uint8) for part in parts)]).view(RECORD_DTYPE)


def _named(record: np.void) -> str:
    return f"the terms have the hash {record['terms'].tobytes().hex()}"


def _block(text: bytes, num_bytes: int) -> NDArray[np.uint8]:
    """uint8[2, 64], twice the block that is the padded message of a text and so many bytes, which are still zero."""
    size = len(text) + num_bytes
    block = text + bytes(num_bytes) + b"\x80" + bytes(64 - 8 - size - 1) + (8 * size).to_bytes(8)
    return np.frombuffer(2 * block, np.uint8).reshape(2, 64).copy()


@njit(nogil=True)
def _count(entries: Any) -> int:
    """How many of some entries are transfers or decisions that have a request hash."""
    count = 0
    for place in range(len(entries)):
        count += _has_terms(entries[place])
    return count


@njit(nogil=True, inline="always")
def _has_terms(entry: Any) -> bool:
    if entry.kind != _MONEY and entry.kind != _OWNERSHIP and entry.kind != _DECISION:
        return False
    terms = entry.request_hash
    return terms[0] | terms[1] | terms[2] | terms[3] != 0


@njit(nogil=True)
def _collect(entries: Any, begin: int, before: Any, legs: Any, ends: Any, records: Any) -> int:
    """Write what some entries say of exchanges, neighbours that say the same together; how many records.

    Legs are looked for where they can be, as it takes a hash for each number: in a chain, beside the terms, or after
    another entry about the same terms.

    Args:
        before: uint64[5], the terms of the last entry that has some, and the number that its next leg may have.
        legs, ends: blocks of messages, to be filled in.
    """
    states = np.empty((2, 8), np.uint32)
    count = 0
    for place in range(len(entries)):
        entry = entries[place]
        if not _has_terms(entry):
            continue
        terms = entry.request_hash
        is_next = _is_same(terms, before)
        if not is_next:
            before[:4] = terms
            before[4] = 0
        what, number = 0, np.int64(-1)
        if entry.kind == _DECISION:
            if _is_same(terms, entry.content_hash):
                what = COMMITTED if entry.amount == 1 else ABORTED
        elif entry.flags & (_POST | _VOID):
            if _is_end(entry, ends, states):
                what = POSTED if entry.flags & _POST else VOIDED
        elif not entry.flags & _ENDS and (is_next or entry.flags & _LINKED or _is_same(terms, entry.meta_hash)):
            number = _number(entry, np.int64(before[4]), legs, states)
            if number >= 0:
                what = HELD if entry.flags & _PENDING else SETTLED
                before[4] = number + 1
        if what == 0:
            continue
        index = np.uint64(begin + place)
        last = records[count - 1]
        if count == 0 or last.what != what or last.index + last.num != index or not _is_same(last.terms, terms):
            last = records[count]
            last.terms[:] = terms
            last.index = index
            last.what = what
            count += 1
        last.num += 1
        if number >= 0:
            last.legs |= np.uint64(1) << np.uint64(number)
            if entry.kind == _OWNERSHIP:
                last.num_legs = number + 1
    return count


@njit(nogil=True)
def _is_same(terms: Any, others: Any) -> bool:
    return terms[0] == others[0] and terms[1] == others[1] and terms[2] == others[2] and terms[3] == others[3]


@njit(nogil=True)
def _is_end(entry: Any, blocks: Any, states: Any) -> bool:
    """Whether the id is that of the end of what the entry ends."""
    words = blocks.view(np.uint32)
    for word in range(2):
        _put(words[0], _TEXT_WORDS + 2 * word, entry.subject[word])
        _put(words[1], _TEXT_WORDS + 2 * word, entry.subject[word])
    hash_blocks(blocks, states)
    return _begins_with(states[0], entry.id)


@njit(nogil=True)
def _number(entry: Any, first: Any, blocks: Any, states: Any) -> Any:
    """Which leg of its terms an entry is, by its id; -1: none. Two at a time are tried, from `first` on."""
    words = blocks.view(np.uint32)
    for word in range(4):
        _put(words[0], _TEXT_WORDS + 2 * word, entry.request_hash[word])
        _put(words[1], _TEXT_WORDS + 2 * word, entry.request_hash[word])
    for step in range(0, _NUM_NUMBERS, 2):
        for lane in range(2):
            number = (first + step + lane) % _NUM_NUMBERS
            blocks[lane, _NUMBER_AT] = number >> 8
            blocks[lane, _NUMBER_AT + 1] = number & 0xFF
        hash_blocks(blocks, states)
        for lane in range(2):
            if _begins_with(states[lane], entry.id):
                return (first + step + lane) % _NUM_NUMBERS
    return np.int64(-1)


@njit(nogil=True)
def _put(words: Any, place: int, value: Any) -> None:
    words[place] = value & np.uint64(0xFFFFFFFF)
    words[place + 1] = value >> np.uint64(32)


@njit(nogil=True)
def _begins_with(state: Any, id_: Any) -> bool:
    """Whether a hash, uint32[8] of big-endian words, begins with the bytes of uint64[2], little-endian."""
    for word in range(4):
        value = np.uint32(id_[word // 2] >> np.uint64(32 * (word % 2)))
        swapped = (value >> np.uint32(24)) | ((value >> np.uint32(8)) & np.uint32(0xFF00))
        swapped |= ((value & np.uint32(0xFF00)) << np.uint32(8)) | (value << np.uint32(24))
        if np.uint32(swapped) != state[word]:
            return False
    return True


@njit(nogil=True)
def _is_mixed(records: Any, order: Any) -> bool:
    """Whether different terms begin alike, in an order by their beginning: somebody has made up a hash."""
    for place in range(1, len(order)):
        terms, others = records[order[place]].terms, records[order[place - 1]].terms
        if terms[0] == others[0] and not _is_same(terms, others):
            return True
    return False


@njit(nogil=True)
def _end_of_terms(records: Any, order: Any, begin: Any) -> Any:
    """The place in the order after the last record of the same terms as that at `begin`."""
    end = begin + 1
    while end < len(order) and _is_same(records[order[end]].terms, records[order[begin]].terms):
        end += 1
    return end


@njit(nogil=True)
def _find_wrong_ends(records: Any, order: Any, live: Any, is_wrong: Any) -> None:
    """Mark the first record of the terms whose legs were not all ended by their ends, or only some of them."""
    begin = np.int64(0)
    while begin < len(order):
        end = _end_of_terms(records, order, begin)
        num_held, num_left, num_ended = np.int64(0), np.int64(0), np.int64(0)
        for place in range(begin, end):
            record = records[order[place]]
            if record.what == HELD:
                num_held += record.num
                num_left += np.searchsorted(live, record.index + record.num) - np.searchsorted(live, record.index)
            elif record.what == POSTED or record.what == VOIDED:
                num_ended += record.num
        is_wrong[order[begin]] = num_held != num_left + num_ended or (num_left > 0 and num_ended > 0)
        begin = end


@njit(nogil=True)
def _judge(records: Any, order: Any, verdicts: Any) -> None:
    """Fill in what is wrong with each record."""
    begin = np.int64(0)
    while begin < len(order):
        end = _end_of_terms(records, order, begin)
        what, legs, num_legs = 0, np.uint64(0), np.uint64(0)
        for place in range(begin, end):
            record = records[order[place]]
            what |= record.what
            legs |= record.legs
            num_legs = max(num_legs, np.uint64(record.num_legs))
        is_whole = num_legs > 0 and legs == (np.uint64(1) << num_legs) - np.uint64(1)
        for place in range(begin, end):
            verdicts[order[place]] = _verdict(records[order[place]].what, what, is_whole)
        begin = end


@njit(nogil=True)
def _verdict(own: Any, others: Any, is_whole: bool) -> Any:
    """What is wrong with a record, by what all those of its terms say together."""
    if own & (POSTED | SETTLED) and not others & COMMITTED:
        return _BOTH_WAYS if others & (ABORTED | VOIDED) else _UNCOMMITTED
    if own == VOIDED and others & COMMITTED:
        return _AGAINST
    if own & (COMMITTED | ABORTED) and others & COMMITTED and others & ABORTED:
        return _TWICE
    if own == COMMITTED and not is_whole:
        return _INCOMPLETE
    return 0
