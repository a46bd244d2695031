"""The book of a shard: the state of settlement in memory, what can be asked of it, and its canonical bytes.

    book = Book()
    book.reserve(len(rows))
    num_recorded = apply_batch(book.state, rows, first_index, results, parent_ends, hint_owners, hint_statuses)
    ... write the entries whose result is OK; then
    book.commit()    or, if that failed: book.discard()

A snapshot is the state at one index. Whoever has it, or nothing, replays the entries that were recorded since.
"""

import hashlib
import struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger import idtable, positions
from ledger.compiled import njit
from ledger.entry import ZERO_ID, Entries, Flag, Kind, as_bytes
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.idtable import WORD_BYTES
from ledger.positions import ACCOUNT_DTYPE, ASSET_DTYPE, NO_ROW, PENDING_DTYPE, STATE_DTYPE, STEP_DTYPE
from ledger.result import Result
from ledger.settlement import ROW_DTYPE, apply

SNAPSHOT_MAGIC = b"mintage-book-2\n\0"
SNAPSHOT_HASH_BYTES = 32
DUE_MAX = 8190
"""Transfers told by one call of `due`: one batch."""

REPLAY_ENTRIES = 8192
"""Entries replayed between two commits: bounds the journal."""

_ROWS = {"account": ACCOUNT_DTYPE, "asset": ASSET_DTYPE, "pending": PENDING_DTYPE}
_ROWS_MIN = 64
_NEVER_NS = 2**64 - 1
_ID = struct.Struct("<QQ")
_SIZE = struct.Struct("<Q")
_HEADER = struct.Struct(f"<Q{len(SNAPSHOT_MAGIC)}sQQQ")  # number of entries, magic, numbers of rows
_ENDS = int(Flag.POST | Flag.VOID | Flag.EXPIRED)
_SIDES = ("debits_posted", "credits_posted", "debits_pending", "credits_pending")


class Balance(msgspec.Struct, frozen=True):
    """An account. Amounts in micro-units of its currency; `index` is where the entry that opened it is."""

    currency: int
    flags: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    index: int


class Pending(msgspec.Struct, frozen=True):
    """A live pending transfer: MONEY or OWNERSHIP, where its entry is, when it expires (Unix time; 0: never)."""

    kind: Kind
    index: int
    expires_ns: int
    amount: int


class Book:
    """Owns `state` and the arrays it points to. One thread at a time, and no reads while a batch is being applied.

    Args:
        seed: a secret, so that nobody can choose ids that slow the tables down. No result depends on it.
    """

    def __init__(self, seed: bytes = b"") -> None:
        self._arrays: dict[str, NDArray[Any]] = {}
        self.state: Any = np.zeros(1, STATE_DTYPE)[0]
        self.state["earliest_ns"] = _NEVER_NS
        self._keep("keys", idtable.make_keys(seed))
        for name, dtype in _ROWS.items():
            self._keep(f"{name}s", np.zeros(0, dtype))
        self._keep("free_pendings", np.zeros(0, np.int64))
        self._keep("journal", np.zeros(0, STEP_DTYPE))
        self._keep("batch_table", np.zeros(0, np.uint32))
        self.reserve(1)

    def reserve(self, num_entries: int) -> None:
        """Make room for so many more entries, whatever they are.

        Cost: amortised O(1) an entry; every doubling copies an array and fills its table again.
        """
        state = self.state
        num_steps_max = int(state["num_steps"]) + num_entries
        for name in _ROWS:
            if self._lengthen(f"{name}s", int(state[f"num_{name}s"]) + num_entries):
                table = np.zeros(idtable.places_for(len(self._arrays[f"{name}s"])), np.uint32)
                self._keep(f"{name}_table", table)
                state[f"{name}_places"] = len(table)
                self._list_rows(name)
        self._lengthen("free_pendings", len(self._arrays["pendings"]))
        self._lengthen("journal", num_steps_max)
        self._lengthen("batch_table", idtable.places_for(num_entries))
        state["num_steps_max"] = num_steps_max
        state["batch_places"] = len(self._arrays["batch_table"])

    def _keep(self, name: str, array: NDArray[Any]) -> None:
        """Put an array where the kernels find it, and keep it from being freed."""
        self._arrays[name] = array
        self.state[name] = array.ctypes.data

    def _lengthen(self, name: str, length: int) -> bool:
        """Whether an array had to be made longer: to a power of two, its contents at the beginning."""
        array = self._arrays[name]
        if length <= len(array):
            return False
        longer = np.zeros(max(1 << (length - 1).bit_length(), _ROWS_MIN), array.dtype)
        longer[: len(array)] = array
        self._keep(name, longer)
        return True

    def _list_rows(self, name: str) -> None:
        """Fill the empty table of a name's rows; those of pending transfers may be free."""
        rows = self._rows(name)
        numbers = np.flatnonzero(rows["kind"]) if name == "pending" else np.arange(len(rows))
        words = rows.view(np.uint64).reshape(len(rows), rows.itemsize // WORD_BYTES)
        idtable.insert_all(self._arrays[f"{name}_table"], words, self._arrays["keys"], numbers)

    def commit(self) -> None:
        """What was applied is recorded: it cannot be undone any more, and ended transfers are forgotten."""
        if self.state["num_steps"]:  # to call a kernel takes longer than to look
            positions.commit(self.state)

    def discard(self) -> None:
        """What was applied since the last commit is not recorded: undo it."""
        positions.rollback(self.state, 0)

    def replay(self, entries: Entries, first_index: int, owners: NDArray[np.uint64] | None = None) -> None:
        """Apply recorded entries again, and commit.

        Args:
            first_index: where the first of them is; the others follow without gaps.
            owners: uint64[n, 2], of every ownership transfer the owner that the asset's own entry names, for a
                verifier that believes nothing. None: the entry's word is taken for whose the asset was before its
                first transfer, as it was checked when it was recorded.
        Raises:
            LedgerCorrupt: an entry breaks a rule; the book is as before that entry.
        """
        rows = as_bytes(entries)
        if owners is None:
            owners = np.ascontiguousarray(entries["debit"]).view(np.uint64).reshape(len(entries), 2)
        for begin in range(0, len(rows), REPLAY_ENTRIES):
            block = rows[begin : begin + REPLAY_ENTRIES]
            self.reserve(len(block))
            num_done, result = _replay(self.state, block, first_index + begin, owners[begin:])
            self.commit()
            if result != Result.OK:
                raise LedgerCorrupt(
                    f"the entry breaks a rule of settlement, {Result(result).name}, and yet is recorded",
                    where=f"index {first_index + begin + num_done}",
                    fix="Run fsck on the shard and restore it from a copy.",
                )

    def balance(self, account_id: bytes) -> Balance:
        """An account.

        Raises:
            EntryNotFound: no account has the id.
        """
        row = positions.find_account(self.state, *_words(account_id))
        if row == NO_ROW:
            raise EntryNotFound(
                "no account has this id", where=account_id.hex(), fix="Record an entry of the kind ACCOUNT with it."
            )
        account = self._arrays["accounts"][row]
        return Balance(**{name: int(account[name]) for name in Balance.__struct_fields__})

    def trial_balance(self) -> dict[int, tuple[int, int, int, int]]:
        """Of every currency, all accounts' debits posted, credits posted, debits pending, credits pending."""
        accounts = self._rows("account")
        currencies, places = np.unique(accounts["currency"], return_inverse=True)
        sums = [_exact_sums(accounts[side], places, len(currencies)) for side in _SIDES]
        return dict(zip(currencies.tolist(), zip(*sums, strict=True), strict=True))

    def owner(self, asset_id: bytes) -> bytes | None:
        """Whose an asset is; None if it was never transferred or held: then its own entry says whose."""
        row = positions.find_asset(self.state, *_words(asset_id))
        if row == NO_ROW:
            return None
        asset = self._arrays["assets"][row]
        return _ID.pack(int(asset["owner_lo"]), int(asset["owner_hi"]))

    def pending(self, transfer_id: bytes) -> Pending | None:
        """A live pending transfer; None if it is not live."""
        row = positions.find_pending(self.state, *_words(transfer_id))
        pending = self._arrays["pendings"][row]
        if row == NO_ROW or pending["ended"]:
            return None
        return Pending(
            Kind(int(pending["kind"])), int(pending["index"]), int(pending["expires_ns"]), int(pending["amount"])
        )

    def unknown_subjects(self, rows: NDArray[np.uint8], results: NDArray[np.uint8]) -> NDArray[np.int64]:
        """int64[m], the places in uint8[n, 240] of the transfers, `OK` so far, that only the ledger can tell about: of
        an asset that was never transferred or held, or to end a transfer that is not live. They need hints."""
        places: NDArray[np.int64] = _unknown_subjects(self.state, rows, results)
        return places

    def may_be_due(self, now_ns: int) -> bool:
        """Whether `due` has to look; while another thread appends, too."""
        return now_ns >= int(self.state["earliest_ns"])

    def due(self, now_ns: int, num_max: int = DUE_MAX) -> list[bytes]:
        """Ids of live pending transfers whose time is over, by expiry, then index; at most `num_max` of them.

        An entry EXPIRED is to be recorded for each. Cost: O(1) if there is none, else O(live pending transfers).
        """
        if not self.may_be_due(now_ns):
            return []
        timed = self._rows("pending")
        timed = timed[(timed["kind"] != 0) & (timed["expires_ns"] != 0)]
        # Those that ended, too: until the commit they may come back.
        self.state["earliest_ns"] = timed["expires_ns"].min(initial=_NEVER_NS)
        over = timed[(timed["ended"] == 0) & (timed["expires_ns"] <= now_ns)]
        over = over[np.lexsort((over["index"], over["expires_ns"]))][:num_max]
        return [_ID.pack(int(pending["id_lo"]), int(pending["id_hi"])) for pending in over]

    def live(self, begin: int = 0, num_max: int = DUE_MAX, *, is_timeless: bool = False) -> list[int]:
        """Indices of the live pending transfers from index `begin` on, ascending; the first `num_max` of them.

        Args:
            is_timeless: only of those that never expire.
        Cost: O(live pending transfers).
        """
        live = self._live()
        indices = np.sort(live["index"][live["expires_ns"] == 0] if is_timeless else live["index"])
        return indices[np.searchsorted(indices, np.uint64(begin)) :][:num_max].tolist()

    def snapshot(self, num_entries: int = 0) -> bytes:
        """The whole state, canonically: equal states give equal bytes, whatever led to them.

        Args:
            num_entries: after how many it was taken; `snapshot_size` tells it again.
        """
        live = self._live()
        parts = self._rows("account"), self._rows("asset"), live[np.argsort(live["index"])]
        header = _HEADER.pack(num_entries, SNAPSHOT_MAGIC, *map(len, parts))
        data = b"".join([header, *(part.tobytes() for part in parts)])
        return data + hashlib.sha256(data).digest()

    @classmethod
    def load(cls, data: bytes, seed: bytes = b"") -> "Book":
        """The book of a snapshot.

        Raises:
            LedgerCorrupt: these are not the bytes that `snapshot` gave.
        """
        body = memoryview(data)[:-SNAPSHOT_HASH_BYTES]
        is_whole = len(body) >= _HEADER.size and hashlib.sha256(body).digest() == data[len(body) :]
        _, magic, *counts = _HEADER.unpack_from(body) if is_whole else (0, b"", 0, 0, 0)
        rows_bytes = sum(count * dtype.itemsize for count, dtype in zip(counts, _ROWS.values(), strict=True))
        if magic != SNAPSHOT_MAGIC or len(body) != _HEADER.size + rows_bytes:
            raise LedgerCorrupt(
                "the snapshot of the balances is damaged, or of another release",
                where="settlement snapshot",
                fix="Run fsck on the shard and restore it from a copy.",
            )
        book = cls(seed)
        book.reserve(max(*counts, 1))
        offset = _HEADER.size
        for (name, dtype), count in zip(_ROWS.items(), counts, strict=True):
            book._arrays[f"{name}s"][:count] = np.frombuffer(body, dtype, count, offset)
            book.state[f"num_{name}s"] = count
            book._list_rows(name)
            offset += count * dtype.itemsize
        book.state["earliest_ns"] = 0
        return book

    def _rows(self, name: str) -> NDArray[np.void]:
        return self._arrays[f"{name}s"][: self.state[f"num_{name}s"]]

    def _live(self) -> NDArray[np.void]:
        pendings = self._rows("pending")
        return pendings[(pendings["kind"] != 0) & (pendings["ended"] == 0)]


@njit(nogil=True)
def _replay(state: Any, rows: Any, first_index: int, owners: Any) -> Any:
    """Apply entries one by one up to the first that fails: how many, and its result."""
    entries = rows.view(ROW_DTYPE).reshape(len(rows))
    for place in range(len(entries)):
        result = apply(state, entries[place], first_index + place, owners[place, 0], owners[place, 1], np.uint8(0))
        if result != Result.OK:
            return place, result
    return len(entries), Result.OK


@njit(nogil=True)
def _unknown_subjects(state: Any, rows: Any, results: Any) -> Any:
    entries = rows.view(ROW_DTYPE).reshape(len(rows))
    places, num_places = np.empty(len(entries), np.int64), 0
    for place in range(len(entries)):
        places[num_places] = place
        num_places += results[place] == Result.OK and _has_unknown_subject(state, entries[place])
    return places[:num_places]


@njit(nogil=True)
def _has_unknown_subject(state: Any, entry: Any) -> bool:
    if entry.kind != Kind.MONEY and entry.kind != Kind.OWNERSHIP:
        return False
    if entry.flags & _ENDS:
        return positions.find_pending(state, entry.subject_lo, entry.subject_hi) == NO_ROW
    return entry.kind == Kind.OWNERSHIP and positions.find_asset(state, entry.subject_lo, entry.subject_hi) == NO_ROW


def snapshot_size(data: bytes) -> int:
    """After how many entries a snapshot was taken. Believe it once `Book.load` has taken the bytes, of which it is one.

    Raises:
        LedgerCorrupt: it is too short.
    """
    if len(data) < _SIZE.size:
        raise LedgerCorrupt(f"it has {len(data)} bytes", where="book", fix="Restore the shard from a copy.")
    return int(_SIZE.unpack_from(data)[0])


def _exact_sums(amounts: NDArray[np.uint64], places: NDArray[np.intp], num_places: int) -> list[int]:
    """Sums of amounts by place; in halves, since a sum of 64-bit amounts can exceed 64 bits."""
    sums = np.zeros((2, num_places), np.uint64)
    np.add.at(sums[0], places, amounts & np.uint64(2**32 - 1))
    np.add.at(sums[1], places, amounts >> np.uint64(32))
    return [low + (high << 32) for low, high in zip(*sums.tolist(), strict=True)]


def _words(value: bytes) -> tuple[np.uint64, np.uint64]:
    assert len(value) == len(ZERO_ID)
    lo, hi = _ID.unpack(value)
    return np.uint64(lo), np.uint64(hi)
