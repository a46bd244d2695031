"""What settlement remembers: accounts, pending transfers and transferred assets, as arrays, and the way back.

Accounts and assets are only ever added, in the order of the log, so their row numbers are a function of the entries.
Rows of pending transfers are used again. A row is found by its id (`ledger.idtable`).

Every change is one step in a journal, which says enough to undo it: a failed chain, or a batch that the disk refused,
leaves no trace. A pending transfer that ended stays until `commit`: before, its end may be undone; afterwards, the
ledger can be asked how it ended.

Everything here is numba and allocates nothing; `ledger.book` makes room. The rules are not here: `ledger.settlement`.
"""

from typing import Any

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from ledger import idtable
from ledger.compiled import njit
from ledger.idtable import WORD_BYTES

# np.int64 and not int: numba would compile every function anew for every literal that it is called with.
NO_ROW = np.int64(-1)
_OPENED, _MONEY, _ASSET = np.int64(1), np.int64(2), np.int64(3)

ACCOUNT_DTYPE = np.dtype(
    [
        ("id_lo", "<u8"),
        ("id_hi", "<u8"),
        ("debits_pending", "<u8"),
        ("debits_posted", "<u8"),
        ("credits_pending", "<u8"),
        ("credits_posted", "<u8"),
        ("index", "<u8"),  # of the entry that opened it
        ("currency", "<u4"),
        ("flags", "<u2"),  # its limits, as in the entry
        ("reserved", "<u2"),  # 0
    ],
    align=True,
)
PENDING_DTYPE = np.dtype(
    [
        ("id_lo", "<u8"),
        ("id_hi", "<u8"),
        ("index", "<u8"),  # of its entry
        ("expires_ns", "<u8"),  # Unix time; 0: never
        ("amount", "<u8"),
        ("row", "<i8"),  # the debit account, or the asset
        ("credit_row", "<i8"),  # -1 for an asset
        ("currency", "<u4"),
        ("code", "<u2"),
        ("kind", "u1"),  # MONEY or OWNERSHIP; 0: the row is free
        ("ended", "u1"),  # 0: live; else the `Result` for whoever tries to end it again
    ],
    align=True,
)
ASSET_DTYPE = np.dtype(
    [
        ("id_lo", "<u8"),
        ("id_hi", "<u8"),
        ("owner_lo", "<u8"),
        ("owner_hi", "<u8"),
        ("heir_lo", "<u8"),  # who gets it if the transfer that holds it is posted; 0: nothing holds it
        ("heir_hi", "<u8"),
    ],
    align=True,
)
_ACCOUNT_WORDS, _PENDING_WORDS, _ASSET_WORDS = (
    dtype.itemsize // WORD_BYTES for dtype in (ACCOUNT_DTYPE, PENDING_DTYPE, ASSET_DTYPE)
)

STEP_DTYPE = np.dtype(
    [
        ("subject", "<i8"),  # what changed: an account was opened, money, an asset
        ("row", "<i8"),  # the account, the debit account, the asset
        ("credit_row", "<i8"),
        ("pending_row", "<i8"),  # the pending transfer that this step began or ended; -1: none
        ("pending_added", "<u8"),  # to debits and to credits, modulo 2**64
        ("posted_added", "<u8"),
        ("owner_lo", "<u8"),  # the asset's, before; 0: this step added the asset
        ("owner_hi", "<u8"),
        ("heir_lo", "<u8"),
        ("heir_hi", "<u8"),
    ],
    align=True,
)

STATE_DTYPE = np.dtype(
    [
        ("keys", "<u8"),  # addresses of the arrays
        ("accounts", "<u8"),
        ("account_table", "<u8"),
        ("assets", "<u8"),
        ("asset_table", "<u8"),
        ("pendings", "<u8"),
        ("pending_table", "<u8"),
        ("free_pendings", "<u8"),  # int64, rows of pending transfers that are not in use
        ("journal", "<u8"),
        ("batch_table", "<u8"),  # the ids of the batch in hand
        ("account_places", "<i8"),  # lengths of the tables; there are half as many rows
        ("asset_places", "<i8"),
        ("pending_places", "<i8"),
        ("batch_places", "<i8"),
        ("num_accounts", "<i8"),
        ("num_assets", "<i8"),
        ("num_pendings", "<i8"),  # rows that were ever in use
        ("num_free", "<i8"),  # those of them that are not now
        ("num_steps", "<i8"),
        ("num_steps_max", "<i8"),  # so many steps there is room for, whatever rows they add
        ("earliest_ns", "<u8"),  # no live transfer expires before this
        ("is_listed", "<i8"),  # `batch_table` is filled in
    ],
    align=True,
)
"""One record, which every kernel takes as `state`: where the arrays of a `ledger.book.Book` are, and how full.

Addresses and not a tuple of arrays: numba counts the references of every array of a tuple in every call, which took
four fifths of the time of a transfer. The record is valid as long as its book.
"""


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@njit(nogil=True)
def keys_of(state: Any) -> Any:
    return carray(_pointer(state.keys), (idtable.NUM_KEYS,), np.uint64)


@njit(nogil=True)
def accounts_of(state: Any) -> Any:
    """`ACCOUNT_DTYPE`[], as the three below: rows by number."""
    return carray(_pointer(state.accounts), (state.account_places // 2,), ACCOUNT_DTYPE)


@njit(nogil=True)
def assets_of(state: Any) -> Any:
    return carray(_pointer(state.assets), (state.asset_places // 2,), ASSET_DTYPE)


@njit(nogil=True)
def pendings_of(state: Any) -> Any:
    return carray(_pointer(state.pendings), (state.pending_places // 2,), PENDING_DTYPE)


@njit(nogil=True)
def _journal_of(state: Any) -> Any:
    return carray(_pointer(state.journal), (state.num_steps_max,), STEP_DTYPE)


@njit(nogil=True)
def _account_ids(state: Any) -> Any:
    """uint64[n, words]: the rows again, as `idtable` takes them."""
    return carray(_pointer(state.accounts), (state.account_places // 2, _ACCOUNT_WORDS), np.uint64)


@njit(nogil=True)
def _asset_ids(state: Any) -> Any:
    return carray(_pointer(state.assets), (state.asset_places // 2, _ASSET_WORDS), np.uint64)


@njit(nogil=True)
def _pending_ids(state: Any) -> Any:
    return carray(_pointer(state.pendings), (state.pending_places // 2, _PENDING_WORDS), np.uint64)


@njit(nogil=True)
def _account_table(state: Any) -> Any:
    return carray(_pointer(state.account_table), (state.account_places,), np.uint32)


@njit(nogil=True)
def _asset_table(state: Any) -> Any:
    return carray(_pointer(state.asset_table), (state.asset_places,), np.uint32)


@njit(nogil=True)
def _pending_table(state: Any) -> Any:
    return carray(_pointer(state.pending_table), (state.pending_places,), np.uint32)


@njit(nogil=True)
def _free_pendings(state: Any) -> Any:
    return carray(_pointer(state.free_pendings), (state.pending_places // 2,), np.int64)


@njit(nogil=True)
def batch_table_of(state: Any) -> Any:
    return carray(_pointer(state.batch_table), (state.batch_places,), np.uint32)


@njit(nogil=True)
def mark(state: Any) -> int:
    """A point to which `rollback` can return, until the next `commit`."""
    return state.num_steps


@njit(nogil=True)
def rollback(state: Any, mark: int) -> None:
    """Undo everything since a mark, last first. Cost: that of having done it."""
    while state.num_steps > mark:
        state.num_steps -= 1
        _undo(state, _journal_of(state)[state.num_steps])


@njit(nogil=True)
def commit(state: Any) -> None:
    """What was done stays: empty the journal and forget the pending transfers that ended."""
    for number in range(state.num_steps):
        pending_row = _journal_of(state)[number].pending_row
        if pending_row != NO_ROW and pendings_of(state)[pending_row].ended:
            _remove_pending(state, pending_row)
    state.num_steps_max -= state.num_steps
    state.num_steps = 0


@njit(nogil=True)
def find_account(state: Any, lo: Any, hi: Any) -> int:
    """The row of an account, or -1."""
    return idtable.find(_account_table(state), _account_ids(state), keys_of(state), lo, hi)


@njit(nogil=True)
def find_asset(state: Any, lo: Any, hi: Any) -> int:
    """The row of an asset that was transferred or held, or -1."""
    return idtable.find(_asset_table(state), _asset_ids(state), keys_of(state), lo, hi)


@njit(nogil=True)
def find_pending(state: Any, lo: Any, hi: Any) -> int:
    """The row of a pending transfer that is live or ended since the last `commit`, or -1."""
    return idtable.find(_pending_table(state), _pending_ids(state), keys_of(state), lo, hi)


@njit(nogil=True)
def open_account(state: Any, lo: Any, hi: Any, index: int, currency: int, flags: int) -> None:
    """Add an account without a balance."""
    row = state.num_accounts
    _journal(state, _OPENED, row, NO_ROW, NO_ROW)
    account = accounts_of(state)[row]
    account.id_lo = lo
    account.id_hi = hi
    account.debits_pending = 0
    account.debits_posted = 0
    account.credits_pending = 0
    account.credits_posted = 0
    account.index = index
    account.currency = currency
    account.flags = flags
    state.num_accounts += 1
    idtable.insert(_account_table(state), _account_ids(state), keys_of(state), row)


@njit(nogil=True)
def change_money(
    state: Any, debit_row: int, credit_row: int, pending_added: Any, posted_added: Any, pending_row: int
) -> None:
    """Add to the debits of one account and to the credits of another, modulo 2**64: a negative number takes away.

    Args:
        pending_row: the pending transfer that begins or ends with this, already added or marked as ended; or -1.
    """
    step = _journal_of(state)[_journal(state, _MONEY, debit_row, credit_row, pending_row)]
    step.pending_added = pending_added
    step.posted_added = posted_added
    _add(state, debit_row, credit_row, pending_added, posted_added)


@njit(nogil=True)
def change_asset(
    state: Any, asset_row: int, owner_lo: Any, owner_hi: Any, heir_lo: Any, heir_hi: Any, pending_row: int
) -> None:
    """Give an asset an owner and an heir; `pending_row` as in `change_money`."""
    step, asset = (
        _journal_of(state)[_journal(state, _ASSET, asset_row, NO_ROW, pending_row)],
        assets_of(state)[asset_row],
    )
    step.owner_lo = asset.owner_lo
    step.owner_hi = asset.owner_hi
    step.heir_lo = asset.heir_lo
    step.heir_hi = asset.heir_hi
    asset.owner_lo = owner_lo
    asset.owner_hi = owner_hi
    asset.heir_lo = heir_lo
    asset.heir_hi = heir_hi


@njit(nogil=True)
def add_asset(state: Any, lo: Any, hi: Any) -> int:
    """The row of an asset not known before, without an owner. `change_asset` must follow: its step covers this."""
    row = state.num_assets
    asset = assets_of(state)[row]
    asset.id_lo = lo
    asset.id_hi = hi
    asset.owner_lo = 0
    asset.owner_hi = 0
    asset.heir_lo = 0
    asset.heir_hi = 0
    state.num_assets += 1
    idtable.insert(_asset_table(state), _asset_ids(state), keys_of(state), row)
    return row


@njit(nogil=True)
def add_pending(state: Any, entry: Any, index: int, expires_ns: Any, row: int, credit_row: int) -> int:
    """The row of a new pending transfer. `change_money` or `change_asset` must follow: its step covers this."""
    if state.num_free:
        state.num_free -= 1
        pending_row = _free_pendings(state)[state.num_free]
    else:
        pending_row = state.num_pendings
        state.num_pendings += 1
    pending = pendings_of(state)[pending_row]
    pending.id_lo = entry.id_lo
    pending.id_hi = entry.id_hi
    pending.index = index
    pending.expires_ns = expires_ns
    pending.amount = entry.amount
    pending.row = row
    pending.credit_row = credit_row
    pending.currency = entry.currency
    pending.code = entry.code
    pending.kind = entry.kind
    pending.ended = 0
    if expires_ns:
        state.earliest_ns = min(state.earliest_ns, expires_ns)
    idtable.insert(_pending_table(state), _pending_ids(state), keys_of(state), pending_row)
    return pending_row


@njit(nogil=True)
def _journal(state: Any, subject: int, row: int, credit_row: int, pending_row: int) -> int:
    """Begin a step; its number."""
    number = state.num_steps
    step = _journal_of(state)[number]
    step.subject = subject
    step.row = row
    step.credit_row = credit_row
    step.pending_row = pending_row
    state.num_steps += 1
    return number


@njit(nogil=True)
def _undo(state: Any, step: Any) -> None:
    if step.subject == _OPENED:
        idtable.remove(_account_table(state), _account_ids(state), keys_of(state), step.row)
        state.num_accounts -= 1
    elif step.subject == _MONEY:
        nothing = np.uint64(0)
        _add(state, step.row, step.credit_row, nothing - step.pending_added, nothing - step.posted_added)
    else:
        asset = assets_of(state)[step.row]
        asset.owner_lo = step.owner_lo
        asset.owner_hi = step.owner_hi
        asset.heir_lo = step.heir_lo
        asset.heir_hi = step.heir_hi
        if step.owner_lo == 0 and step.owner_hi == 0:
            idtable.remove(_asset_table(state), _asset_ids(state), keys_of(state), step.row)
            state.num_assets -= 1
    if step.pending_row != NO_ROW:
        pending = pendings_of(state)[step.pending_row]
        if pending.ended:
            pending.ended = 0
        else:
            _remove_pending(state, step.pending_row)


@njit(nogil=True)
def _add(state: Any, debit_row: int, credit_row: int, pending_added: Any, posted_added: Any) -> None:
    debit, credit = accounts_of(state)[debit_row], accounts_of(state)[credit_row]
    debit.debits_pending += pending_added
    debit.debits_posted += posted_added
    credit.credits_pending += pending_added
    credit.credits_posted += posted_added


@njit(nogil=True)
def _remove_pending(state: Any, row: int) -> None:
    idtable.remove(_pending_table(state), _pending_ids(state), keys_of(state), row)
    pendings_of(state)[row].kind = 0
    pendings_of(state)[row].ended = 0
    _free_pendings(state)[state.num_free] = row
    state.num_free += 1
