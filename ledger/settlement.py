"""Double-entry settlement as a deterministic state machine: the rules by which money and assets change hands.

The state is a function of the recorded entries alone: entries of the kinds ACCOUNT, MONEY and OWNERSHIP change it, in
the order of the log, and the same entries give the same state bit for bit. `ledger.book` keeps it and replays.

- Money moves from one account to another of the same currency; debits and credits are only ever added to.
- A pending transfer holds money or an asset until it is posted, voided or expired, once. Expiry is an entry like any
  other: before it is recorded nothing is released, after its time nothing else ends the transfer.
- Accounts may be limited: debits within credits, or credits within debits, pending ones included.
- An asset belongs to the owner that its own entry names, then to whom ownership transfers gave it. The state has every
  asset that was ever transferred or held; of the others the caller tells the owner with the entry (the hints).
- A linked chain is recorded as a whole or not at all. Offered again it exists as a whole, too.

The semantics are TigerBeetle's (docs.tigerbeetle.com: "create_accounts", "create_transfers", "Transfer", "Account"),
with ownership added, and with two differences: a transfer that is over is told apart only by how it ended, and every
entry of a chain that is recorded already is told that it exists (there, all but the first are told that the chain
failed, so that a repeat cannot be told from a chain that was never recorded).
Turned down: balances in the store, read and written a transfer at a time (a look-up in a B-tree costs more than a whole
transfer here), and expiry without an entry (balances would depend on when somebody looks).
"""

from typing import Any

import numpy as np

from ledger import idtable
from ledger.compiled import njit
from ledger.entry import AMOUNT_MAX, ENTRY_BYTES, ENTRY_DTYPE, ID_BYTES, Flag, Kind
from ledger.positions import (
    NO_ROW,
    accounts_of,
    add_asset,
    add_pending,
    assets_of,
    batch_table_of,
    change_asset,
    change_money,
    find_account,
    find_asset,
    find_pending,
    keys_of,
    mark,
    open_account,
    pendings_of,
    rollback,
)
from ledger.result import Result

_NS_PER_S = np.uint64(10**9)
_TIME_NS_MAX = np.uint64(2**63 - 1)
_AMOUNT_MAX = np.uint64(AMOUNT_MAX)
_ZERO = np.uint64(0)

# Numba knows IntEnum, but not IntFlag.
_LINKED, _PENDING = int(Flag.LINKED), int(Flag.PENDING)
_POST, _VOID, _EXPIRED = int(Flag.POST), int(Flag.VOID), int(Flag.EXPIRED)
_ENDS = _POST | _VOID | _EXPIRED
_DEBITS_WITHIN_CREDITS, _CREDITS_WITHIN_DEBITS = int(Flag.DEBITS_WITHIN_CREDITS), int(Flag.CREDITS_WITHIN_DEBITS)
_LIMITS = _DEBITS_WITHIN_CREDITS | _CREDITS_WITHIN_DEBITS


def _row_dtype() -> np.dtype[np.void]:
    """An entry as the rules read it: the fields that matter to them, every id in two words."""
    fields: Any = ENTRY_DTYPE.fields
    names = ("kind", "flags", "time_ns", "code", "currency", "amount", "num_bytes")
    places: list[tuple[str, Any, int]] = [(name, *fields[name][:2]) for name in names]
    for name in ("id", "owner", "subject", "debit", "credit"):
        offset = fields[name][1]
        places += [(f"{name}_lo", "<u8", offset), (f"{name}_hi", "<u8", offset + ID_BYTES // 2)]
    names_, formats, offsets = zip(*places, strict=True)
    return np.dtype({"names": names_, "formats": formats, "offsets": offsets, "itemsize": ENTRY_BYTES})


ROW_DTYPE = _row_dtype()


@njit(nogil=True)
def apply_batch(
    state: Any, rows: Any, first_index: int, results: Any, parent_ends: Any, hint_owners: Any, hint_statuses: Any
) -> int:
    """Apply a batch, chain by chain; only what is `OK` afterwards has changed the state.

    Room for the batch must have been reserved. Entries of other kinds always pass.

    Args:
        state: of a `ledger.book.Book`.
        rows: uint8[n, 240], the entries; times strictly increasing.
        first_index: where the first of them that is recorded goes; the others follow without gaps.
        results: uint8[n], in: 0, or why the entry cannot be recorded whatever the state is (a `Result`, say of a
            repeated id); out: the `Result` of each.
        parent_ends: uint64[n], the lowest index at which the entry's parents in this shard come before it
            (`ledger.rules.parent_ends`).
        hint_owners: uint64[n, 2], of an ownership transfer: the asset's owner as far as the ledger knows.
        hint_statuses: uint8[n], of an ownership transfer: `ASSET_NOT_FOUND` if the ledger does not have the asset; of
            an entry that ends a pending transfer: how that has ended, or why there is none.
            Hints count only where the state itself does not know. It does know what is in this batch, and about
            transfers whatever is not committed; a hint of zeros says that the ledger has nothing.
    Returns:
        How many are `OK`.
    Cost: O(n); about 0.1 us a transfer.
    """
    entries = rows.view(ROW_DTYPE).reshape(len(rows))
    state.is_listed = 0
    num_recorded = 0
    begin = np.int64(0)
    while begin < len(entries):
        end = begin + 1
        while entries[end - 1].flags & _LINKED and end < len(entries):
            end += 1
        index = first_index + num_recorded
        num_recorded += _apply_chain(
            state, entries, begin, end, index, results, parent_ends, hint_owners, hint_statuses
        )
        begin = end
    return num_recorded


@njit(nogil=True)
def _apply_chain(
    state: Any,
    entries: Any,
    begin: int,
    end: int,
    index: int,
    results: Any,
    parent_ends: Any,
    hint_owners: Any,
    hint_statuses: Any,
) -> int:
    """Apply the entries `begin` to `end`, all or none; how many. The first that fails keeps its reason; where all are
    repeats, nothing fails."""
    is_open = (entries[end - 1].flags & _LINKED) != 0
    if not is_open and _all_exist(results, begin, end):
        return 0
    if is_open:
        results[end - 1] = Result.LINKED_EVENT_CHAIN_OPEN
    before = mark(state)
    for place in range(begin, end):
        if results[place] == Result.OK and parent_ends[place] > np.uint64(index + place - begin):
            results[place] = Result.UNKNOWN_PARENT
        if results[place] == Result.OK:
            owner, status = hint_owners[place], hint_statuses[place]
            results[place] = _apply_in_batch(state, entries, place, index + place - begin, results, owner, status)
        if results[place] != Result.OK:
            rollback(state, before)
            for other in range(begin, end):
                if other != place and not (is_open and other == end - 1):
                    results[other] = Result.LINKED_EVENT_FAILED
            return 0
    return end - begin


@njit(nogil=True)
def _all_exist(results: Any, begin: int, end: int) -> bool:
    while begin < end and results[begin] == Result.EXISTS:
        begin += 1
    return begin == end


@njit(nogil=True)
def _apply_in_batch(
    state: Any, entries: Any, place: int, index: int, results: Any, hint_owner: Any, hint_status: int
) -> Any:
    """Apply one entry of a batch; what it refers to may be in the batch, where the ledger cannot see it yet."""
    entry = entries[place]
    result = apply(state, entry, index, hint_owner[0], hint_owner[1], hint_status)
    if result != Result.ASSET_NOT_FOUND and result != Result.PENDING_TRANSFER_NOT_FOUND:
        return result
    earlier = _find_in_batch(state, entries, place, results)
    if earlier == NO_ROW:
        return result
    subject = entries[earlier]
    is_asset = subject.kind == Kind.ASSET or subject.kind == Kind.DERIVATION
    is_transfer = subject.kind == Kind.MONEY or subject.kind == Kind.OWNERSHIP
    if result == Result.ASSET_NOT_FOUND and is_asset:
        return apply(state, entry, index, subject.owner_lo, subject.owner_hi, np.uint8(0))
    if result == Result.PENDING_TRANSFER_NOT_FOUND and is_transfer:
        return Result.PENDING_TRANSFER_NOT_PENDING
    return result


@njit(nogil=True)
def _find_in_batch(state: Any, entries: Any, place: int, results: Any) -> Any:
    """Where in the batch, before `place` and accepted, the subject of the entry there is; or -1."""
    table, keys = batch_table_of(state), keys_of(state)
    if not state.is_listed:
        table[:] = 0
        for number in range(len(entries)):
            at = idtable.home_place(table, keys, entries[number].id_lo, entries[number].id_hi)
            while table[at]:
                at = (at + 1) & (len(table) - 1)
            table[at] = number + 1
        state.is_listed = 1
    lo, hi = entries[place].subject_lo, entries[place].subject_hi
    at = idtable.home_place(table, keys, lo, hi)
    while table[at]:
        other = np.int64(table[at]) - 1
        if entries[other].id_lo == lo and entries[other].id_hi == hi and other < place and results[other] == Result.OK:
            return other
        at = (at + 1) & (len(table) - 1)
    return NO_ROW


@njit(nogil=True)
def apply(state: Any, entry: Any, index: int, hint_owner_lo: Any, hint_owner_hi: Any, hint_status: int) -> Any:
    """Apply one entry; the state changes only if the result is `OK`. Linkage is the business of `apply_batch`.

    Args:
        entry: a record of `ROW_DTYPE`.
        index: where the entry is recorded if the result is `OK`.
        hint_owner_lo, hint_owner_hi, hint_status: see `apply_batch`.
    Returns:
        A `Result`.
    """
    assert state.num_steps < state.num_steps_max, "room must be reserved: without it there are no rows to write to"
    result = np.int64(Result.OK)
    if entry.kind == Kind.ACCOUNT:
        result = _open(state, entry, index)
    elif entry.kind == Kind.MONEY or entry.kind == Kind.OWNERSHIP:
        result = _check_identity(state, entry)
        if result == Result.OK and entry.flags & _ENDS:
            result = _end(state, entry, hint_status)
        elif result == Result.OK and entry.kind == Kind.MONEY:
            result = _move_money(state, entry, index)
        elif result == Result.OK:
            result = _move_asset(state, entry, index, hint_owner_lo, hint_owner_hi, hint_status)
    return result


@njit(nogil=True)
def _open(state: Any, entry: Any, index: int) -> Result:
    limits = entry.flags & _LIMITS
    if entry.flags & ~(_LINKED | _LIMITS):
        return Result.RESERVED_FLAG
    if entry.id_lo == 0 and entry.id_hi == 0:
        return Result.ID_MUST_NOT_BE_ZERO
    row = find_account(state, entry.id_lo, entry.id_hi)
    if row != NO_ROW:
        if limits != accounts_of(state)[row].flags:
            return Result.EXISTS_WITH_DIFFERENT_FLAGS
        if entry.currency != accounts_of(state)[row].currency:
            return Result.EXISTS_WITH_DIFFERENT_CURRENCY
        return Result.EXISTS
    if limits == _LIMITS:
        return Result.FLAGS_ARE_MUTUALLY_EXCLUSIVE
    if entry.amount != 0:
        return Result.AMOUNT_MUST_BE_ZERO
    if entry.currency == 0:
        return Result.CURRENCY_MUST_NOT_BE_ZERO
    open_account(state, entry.id_lo, entry.id_hi, index, entry.currency, limits)
    return Result.OK


@njit(nogil=True)
def _check_identity(state: Any, entry: Any) -> Result:
    """Flags and id, of every transfer."""
    mode = entry.flags & (_PENDING | _ENDS)
    if entry.flags & ~(_LINKED | _PENDING | _ENDS):
        return Result.RESERVED_FLAG
    if entry.id_lo == 0 and entry.id_hi == 0:
        return Result.ID_MUST_NOT_BE_ZERO
    if mode & _PENDING and find_pending(state, entry.id_lo, entry.id_hi) != NO_ROW:
        return Result.EXISTS
    if mode & (mode - 1):
        return Result.FLAGS_ARE_MUTUALLY_EXCLUSIVE
    return Result.OK


@njit(nogil=True)
def _move_money(state: Any, entry: Any, index: int) -> Any:
    result = _check_money(entry)
    if result != Result.OK:
        return result
    debit_row = find_account(state, entry.debit_lo, entry.debit_hi)
    if debit_row == NO_ROW:
        return Result.DEBIT_ACCOUNT_NOT_FOUND
    credit_row = find_account(state, entry.credit_lo, entry.credit_hi)
    if credit_row == NO_ROW:
        return Result.CREDIT_ACCOUNT_NOT_FOUND
    result = _check_accounts(entry, accounts_of(state)[debit_row], accounts_of(state)[credit_row])
    if result != Result.OK:
        return result
    pending_row, pending_added, posted_added = NO_ROW, _ZERO, entry.amount
    if entry.flags & _PENDING:
        pending_row = add_pending(state, entry, index, _expires_ns(entry), debit_row, credit_row)
        pending_added, posted_added = entry.amount, _ZERO
    change_money(state, debit_row, credit_row, pending_added, posted_added, pending_row)
    return Result.OK


@njit(nogil=True)
def _check_money(entry: Any) -> Result:
    """What a transfer of money must say, whatever the accounts."""
    if entry.debit_lo == 0 and entry.debit_hi == 0:
        return Result.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
    if entry.credit_lo == 0 and entry.credit_hi == 0:
        return Result.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
    if entry.debit_lo == entry.credit_lo and entry.debit_hi == entry.credit_hi:
        return Result.ACCOUNTS_MUST_BE_DIFFERENT
    if entry.subject_lo != 0 or entry.subject_hi != 0:
        return Result.PENDING_ID_MUST_BE_ZERO
    if entry.num_bytes != 0 and not entry.flags & _PENDING:
        return Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
    if entry.amount == 0:
        return Result.AMOUNT_MUST_NOT_BE_ZERO
    if entry.currency == 0:
        return Result.CURRENCY_MUST_NOT_BE_ZERO
    return Result.OK


@njit(nogil=True)
def _check_accounts(entry: Any, debit: Any, credit: Any) -> Result:
    """Whether two accounts bear a transfer. Pending and posted together never exceed the largest amount."""
    if debit.currency != credit.currency:
        return Result.ACCOUNTS_MUST_HAVE_THE_SAME_CURRENCY
    if entry.currency != debit.currency:
        return Result.CURRENCY_MUST_MATCH
    if entry.flags & _PENDING:
        if entry.amount > _AMOUNT_MAX - debit.debits_pending:
            return Result.OVERFLOWS_DEBITS_PENDING
        if entry.amount > _AMOUNT_MAX - credit.credits_pending:
            return Result.OVERFLOWS_CREDITS_PENDING
    if entry.amount > _AMOUNT_MAX - debit.debits_posted:
        return Result.OVERFLOWS_DEBITS_POSTED
    if entry.amount > _AMOUNT_MAX - credit.credits_posted:
        return Result.OVERFLOWS_CREDITS_POSTED
    if entry.amount > _AMOUNT_MAX - debit.debits_posted - debit.debits_pending:
        return Result.OVERFLOWS_DEBITS
    if entry.amount > _AMOUNT_MAX - credit.credits_posted - credit.credits_pending:
        return Result.OVERFLOWS_CREDITS
    if entry.flags & _PENDING and _overflows_timeout(entry):
        return Result.OVERFLOWS_TIMEOUT
    debits = debit.debits_pending + debit.debits_posted + entry.amount
    if debit.flags & _DEBITS_WITHIN_CREDITS and debits > debit.credits_posted:
        return Result.EXCEEDS_CREDITS
    credits = credit.credits_pending + credit.credits_posted + entry.amount
    if credit.flags & _CREDITS_WITHIN_DEBITS and credits > credit.debits_posted:
        return Result.EXCEEDS_DEBITS
    return Result.OK


@njit(nogil=True)
def _overflows_timeout(entry: Any) -> bool:
    return entry.time_ns > _TIME_NS_MAX or entry.num_bytes > (_TIME_NS_MAX - entry.time_ns) // _NS_PER_S


@njit(nogil=True)
def _expires_ns(entry: Any) -> Any:
    """When a pending transfer's time is over; 0: never."""
    return entry.time_ns + entry.num_bytes * _NS_PER_S if entry.num_bytes else _ZERO


@njit(nogil=True)
def _move_asset(state: Any, entry: Any, index: int, hint_owner_lo: Any, hint_owner_hi: Any, hint_status: int) -> Any:
    result = _check_ownership(entry)
    if result != Result.OK:
        return result
    asset_row = find_asset(state, entry.subject_lo, entry.subject_hi)
    is_new = asset_row == NO_ROW
    owner_lo, owner_hi = hint_owner_lo, hint_owner_hi
    if not is_new:
        owner_lo, owner_hi = assets_of(state)[asset_row].owner_lo, assets_of(state)[asset_row].owner_hi
    elif hint_status or (owner_lo == 0 and owner_hi == 0):
        return Result.ASSET_NOT_FOUND
    if entry.debit_lo != owner_lo or entry.debit_hi != owner_hi:
        return Result.OWNER_MISMATCH
    if not is_new and _is_held(assets_of(state)[asset_row]):
        return Result.ASSET_IS_HELD
    if entry.flags & _PENDING and _overflows_timeout(entry):
        return Result.OVERFLOWS_TIMEOUT
    if is_new:
        asset_row = add_asset(state, entry.subject_lo, entry.subject_hi)
    new_lo, new_hi = entry.owner_lo, entry.owner_hi
    if entry.flags & _PENDING:
        pending_row = add_pending(state, entry, index, _expires_ns(entry), asset_row, NO_ROW)
        change_asset(state, asset_row, owner_lo, owner_hi, new_lo, new_hi, pending_row)
    else:
        change_asset(state, asset_row, new_lo, new_hi, _ZERO, _ZERO, NO_ROW)
    return Result.OK


@njit(nogil=True)
def _check_ownership(entry: Any) -> Result:
    """What a transfer of ownership must say, whatever the asset."""
    if entry.subject_lo == 0 and entry.subject_hi == 0:
        return Result.ASSET_ID_MUST_NOT_BE_ZERO
    if entry.owner_lo == 0 and entry.owner_hi == 0:
        return Result.NEW_OWNER_MUST_NOT_BE_ZERO
    if entry.owner_lo == entry.debit_lo and entry.owner_hi == entry.debit_hi:
        return Result.OWNERS_MUST_BE_DIFFERENT
    if entry.num_bytes != 0 and not entry.flags & _PENDING:
        return Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
    if entry.amount != 0:
        return Result.AMOUNT_MUST_BE_ZERO
    return Result.OK


@njit(nogil=True)
def _is_held(asset: Any) -> bool:
    return asset.heir_lo != 0 or asset.heir_hi != 0


@njit(nogil=True)
def _end(state: Any, entry: Any, hint_status: int) -> Any:
    """Post, void or expire a pending transfer."""
    if entry.subject_lo == 0 and entry.subject_hi == 0:
        return Result.PENDING_ID_MUST_NOT_BE_ZERO
    if entry.subject_lo == entry.id_lo and entry.subject_hi == entry.id_hi:
        return Result.PENDING_ID_MUST_BE_DIFFERENT
    if entry.num_bytes != 0:
        return Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
    pending_row = find_pending(state, entry.subject_lo, entry.subject_hi)
    if pending_row == NO_ROW:
        if hint_status:
            return np.int64(hint_status)
        return Result.PENDING_TRANSFER_NOT_FOUND
    result = _check_live(entry, pendings_of(state)[pending_row])
    if result != Result.OK:
        return result
    if entry.kind == Kind.MONEY:
        return _end_money(state, entry, pending_row)
    return _end_ownership(state, entry, pending_row)


@njit(nogil=True)
def _check_live(entry: Any, pending: Any) -> Any:
    """Whether it is the time to end a pending transfer, and in this way."""
    if pending.ended:
        return np.int64(pending.ended)
    is_over = pending.expires_ns != 0 and entry.time_ns >= pending.expires_ns
    if is_over and not entry.flags & _EXPIRED:
        return Result.PENDING_TRANSFER_EXPIRED
    if not is_over and entry.flags & _EXPIRED:
        return Result.PENDING_TRANSFER_NOT_DUE
    if entry.kind != pending.kind:
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_KIND
    return Result.OK


@njit(nogil=True)
def _end_of(entry: Any) -> Result:
    """What the next one that would end the same transfer is told."""
    if entry.flags & _POST:
        return Result.PENDING_TRANSFER_ALREADY_POSTED
    if entry.flags & _VOID:
        return Result.PENDING_TRANSFER_ALREADY_VOIDED
    return Result.PENDING_TRANSFER_EXPIRED


@njit(nogil=True)
def _end_money(state: Any, entry: Any, pending_row: int) -> Result:
    pending = pendings_of(state)[pending_row]
    debit, credit = accounts_of(state)[pending.row], accounts_of(state)[pending.credit_row]
    if _differs(entry.debit_lo, entry.debit_hi, debit.id_lo, debit.id_hi):
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID
    if _differs(entry.credit_lo, entry.credit_hi, credit.id_lo, credit.id_hi):
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID
    if entry.currency != 0 and entry.currency != pending.currency:
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_CURRENCY
    if entry.code != 0 and entry.code != pending.code:
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_CODE
    posted = _ZERO
    if entry.flags & _POST:
        if entry.amount > pending.amount:
            return Result.EXCEEDS_PENDING_TRANSFER_AMOUNT
        posted = entry.amount if entry.amount else pending.amount
    elif entry.amount != 0 and entry.amount != pending.amount:
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT
    pending.ended = _end_of(entry)
    change_money(state, pending.row, pending.credit_row, _ZERO - pending.amount, posted, pending_row)
    return Result.OK


@njit(nogil=True)
def _end_ownership(state: Any, entry: Any, pending_row: int) -> Result:
    pending = pendings_of(state)[pending_row]
    asset = assets_of(state)[pending.row]
    if _differs(entry.debit_lo, entry.debit_hi, asset.owner_lo, asset.owner_hi):
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_OWNER
    if _differs(entry.owner_lo, entry.owner_hi, asset.heir_lo, asset.heir_hi):
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_OWNER
    if entry.code != 0 and entry.code != pending.code:
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_CODE
    if entry.amount != 0:
        return Result.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT
    owner_lo, owner_hi = asset.owner_lo, asset.owner_hi
    if entry.flags & _POST:
        owner_lo, owner_hi = asset.heir_lo, asset.heir_hi
    pending.ended = _end_of(entry)
    change_asset(state, pending.row, owner_lo, owner_hi, _ZERO, _ZERO, pending_row)
    return Result.OK


@njit(nogil=True)
def _differs(lo: Any, hi: Any, other_lo: Any, other_hi: Any) -> bool:
    """Whether an id is named, and is another one."""
    return (lo != 0 or hi != 0) and (lo != other_lo or hi != other_hi)
