"""What becomes of an entry that is offered for recording, as one exact code; and what to say to a repeated id.

The names are TigerBeetle's wherever the same thing is meant (docs.tigerbeetle.com, create_accounts and
create_transfers), so that whoever knows those knows these; its `ledger` is our `currency`. The numbers are ours.
Where several codes apply, the one listed first is given, with two exceptions: a pending transfer that is over answers
with how it ended before any of its fields is compared, since nothing but its end is remembered; and a repeat is told so
even if its parents are unknown.
"""

from enum import IntEnum
from typing import Any

import numpy as np

from ledger.compiled import njit
from ledger.entry import ENTRY_DTYPE, Kind


class Result(IntEnum):
    """Numbers are for ever and fit into a byte; new codes take new ones. Only `OK` is recorded."""

    OK = 0
    """It is recorded."""
    LINKED_EVENT_FAILED = 1
    """Another entry of its chain failed, and says why."""
    LINKED_EVENT_CHAIN_OPEN = 2
    """The last entry of a batch is linked to nothing."""
    RESERVED_FLAG = 3
    """A flag that its kind does not have."""
    ID_MUST_NOT_BE_ZERO = 4
    """Its id is zero."""
    NOT_CANONICAL = 5
    """Reserved or unused bytes are not zero, a number is out of range, the kind is unknown, or a parent named twice."""
    UNKNOWN_PARENT = 6
    """A parent that is not in this shard before it, nor covered by a known checkpoint of its own shard."""

    ID_TWICE_IN_CHAIN = 7
    """An entry before it in its chain has its id, and the chain is not recorded."""

    EXISTS_WITH_DIFFERENT_KIND = 10
    """The id belongs to an entry of another kind."""
    EXISTS_WITH_DIFFERENT_FLAGS = 11
    """The id belongs to an entry with other flags."""
    EXISTS_WITH_DIFFERENT_SUBJECT = 12
    """The id belongs to an entry about another pending transfer or asset."""
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID = 13
    """The id belongs to a transfer from another account or owner."""
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID = 14
    """The id belongs to a transfer to another account."""
    EXISTS_WITH_DIFFERENT_CONTENT = 15
    """The id belongs to an entry, not a transfer, with another content, or length of it."""
    EXISTS_WITH_DIFFERENT_TIMEOUT = 16
    """The id belongs to a transfer with another timeout."""
    EXISTS_WITH_DIFFERENT_AMOUNT = 17
    """The id belongs to an entry with another amount."""
    EXISTS_WITH_DIFFERENT_OWNER = 18
    """The id belongs to an entry with another owner."""
    EXISTS_WITH_DIFFERENT_CURRENCY = 19
    """The id belongs to an entry in another currency."""
    EXISTS_WITH_DIFFERENT_CODE = 20
    """The id belongs to an entry with another code."""
    EXISTS_WITH_DIFFERENT_PARENTS = 21
    """The id belongs to an entry with other parents."""
    EXISTS_WITH_DIFFERENT_TIER = 22
    """The id belongs to an entry of another tier."""
    EXISTS_WITH_DIFFERENT_METADATA = 23
    """The id belongs to an entry with another metadata hash."""
    EXISTS_WITH_DIFFERENT_REQUEST = 24
    """The id belongs to an entry with another request hash."""
    EXISTS = 25
    """The same entry is recorded already: a repeat may take this for `OK`."""

    FLAGS_ARE_MUTUALLY_EXCLUSIVE = 30
    """Two of pending, post, void and expired; or both limits on one account."""
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 31
    """It names no account to take from."""
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 32
    """It names no account to give to."""
    ACCOUNTS_MUST_BE_DIFFERENT = 33
    """It gives to the account it takes from."""
    ASSET_ID_MUST_NOT_BE_ZERO = 34
    """It names no asset."""
    NEW_OWNER_MUST_NOT_BE_ZERO = 35
    """It names no new owner."""
    OWNERS_MUST_BE_DIFFERENT = 36
    """The new owner is the old one."""
    PENDING_ID_MUST_BE_ZERO = 37
    """It names a pending transfer, but neither posts, voids nor expires one."""
    PENDING_ID_MUST_NOT_BE_ZERO = 38
    """It ends a pending transfer, but names none."""
    PENDING_ID_MUST_BE_DIFFERENT = 39
    """It means to end itself."""
    TIMEOUT_RESERVED_FOR_PENDING_TRANSFER = 40
    """It has a timeout, but is not pending."""
    AMOUNT_MUST_NOT_BE_ZERO = 41
    """It moves nothing."""
    AMOUNT_MUST_BE_ZERO = 42
    """An amount on an account or on a transfer of ownership."""
    CURRENCY_MUST_NOT_BE_ZERO = 43
    """It names no currency."""

    DEBIT_ACCOUNT_NOT_FOUND = 50
    """The account it takes from does not exist."""
    CREDIT_ACCOUNT_NOT_FOUND = 51
    """The account it gives to does not exist."""
    ACCOUNTS_MUST_HAVE_THE_SAME_CURRENCY = 52
    """Its accounts keep different currencies."""
    CURRENCY_MUST_MATCH = 53
    """Its currency is not that of its accounts."""
    ASSET_NOT_FOUND = 54
    """The asset does not exist."""
    OWNER_MISMATCH = 55
    """The asset does not belong to the owner it is taken from."""
    ASSET_IS_HELD = 56
    """A pending transfer holds the asset."""

    PENDING_TRANSFER_NOT_FOUND = 60
    """The transfer to be ended does not exist."""
    PENDING_TRANSFER_NOT_PENDING = 61
    """The transfer to be ended was never pending."""
    PENDING_TRANSFER_ALREADY_POSTED = 62
    """The transfer to be ended was posted."""
    PENDING_TRANSFER_ALREADY_VOIDED = 63
    """The transfer to be ended was voided."""
    PENDING_TRANSFER_EXPIRED = 64
    """The time of the transfer to be ended is over."""
    PENDING_TRANSFER_NOT_DUE = 65
    """The transfer to be expired still has time, or all the time there is."""
    PENDING_TRANSFER_HAS_DIFFERENT_KIND = 66
    """Money would end a transfer of ownership, or the other way round."""
    PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID = 67
    """The pending transfer takes from another account."""
    PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID = 68
    """The pending transfer gives to another account."""
    PENDING_TRANSFER_HAS_DIFFERENT_OWNER = 69
    """The pending transfer has another old or new owner."""
    PENDING_TRANSFER_HAS_DIFFERENT_CURRENCY = 70
    """The pending transfer is in another currency."""
    PENDING_TRANSFER_HAS_DIFFERENT_CODE = 71
    """The pending transfer has another code."""
    EXCEEDS_PENDING_TRANSFER_AMOUNT = 72
    """More would be posted than is held."""
    PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT = 73
    """All that is held is released, or, if an amount is named, exactly that must be held."""

    OVERFLOWS_DEBITS_PENDING = 80
    """The debit account's pending debits would exceed the largest amount."""
    OVERFLOWS_CREDITS_PENDING = 81
    """The credit account's pending credits would exceed the largest amount."""
    OVERFLOWS_DEBITS_POSTED = 82
    """The debit account's posted debits would exceed the largest amount."""
    OVERFLOWS_CREDITS_POSTED = 83
    """The credit account's posted credits would exceed the largest amount."""
    OVERFLOWS_DEBITS = 84
    """The debit account's pending and posted debits together would exceed the largest amount."""
    OVERFLOWS_CREDITS = 85
    """The credit account's pending and posted credits together would exceed the largest amount."""
    OVERFLOWS_TIMEOUT = 86
    """It would expire beyond the last nanosecond that can be told."""
    EXCEEDS_CREDITS = 87
    """The debit account would spend what it has not got."""
    EXCEEDS_DEBITS = 88
    """The credit account would receive more than it has given."""


# What a repeat may not change, in the order in which it is told: all but the version and what the ledger itself
# assigns, shard and time.
_COMPARED_FIELDS = (
    (("kind",), Result.EXISTS_WITH_DIFFERENT_KIND),
    (("flags",), Result.EXISTS_WITH_DIFFERENT_FLAGS),
    (("subject",), Result.EXISTS_WITH_DIFFERENT_SUBJECT),
    (("debit",), Result.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID),
    (("credit",), Result.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID),
    (("num_bytes",), Result.EXISTS_WITH_DIFFERENT_TIMEOUT),
    (("amount",), Result.EXISTS_WITH_DIFFERENT_AMOUNT),
    (("owner",), Result.EXISTS_WITH_DIFFERENT_OWNER),
    (("currency",), Result.EXISTS_WITH_DIFFERENT_CURRENCY),
    (("code",), Result.EXISTS_WITH_DIFFERENT_CODE),
    (("num_parents", "parent_indices", "parent_shards"), Result.EXISTS_WITH_DIFFERENT_PARENTS),
    (("tier",), Result.EXISTS_WITH_DIFFERENT_TIER),
    (("meta_hash",), Result.EXISTS_WITH_DIFFERENT_METADATA),
    (("request_hash",), Result.EXISTS_WITH_DIFFERENT_REQUEST),
)


def _spans() -> Any:
    """int64[n, 3]: first byte, byte after the last, and the code to give if any between them differs."""
    fields: Any = ENTRY_DTYPE.fields
    spans = []
    for names, code in _COMPARED_FIELDS:
        for name in names:
            form, offset = fields[name][:2]
            spans.append((offset, offset + form.itemsize, code))
    return np.array(spans, np.int64)


_SPANS = _spans()
_KIND_BYTE = int(_SPANS[0, 0])
_DEBIT_BYTE, _CREDIT_END = int(_SPANS[3, 0]), int(_SPANS[4, 1])


@njit(nogil=True)
def compare(recorded: Any, offered: Any) -> Any:
    """What to say to an entry whose id is recorded already: `EXISTS`, or the first field in which it differs.

    Args:
        recorded: uint8[240], the entry that has the id.
        offered: uint8[240], the entry that wants it.
    """
    kind = recorded[_KIND_BYTE]
    is_transfer = kind == Kind.MONEY or kind == Kind.OWNERSHIP
    for begin, end, code in _SPANS:
        for place in range(begin, end):
            if recorded[place] != offered[place]:
                is_content = _DEBIT_BYTE <= place < _CREDIT_END or code == Result.EXISTS_WITH_DIFFERENT_TIMEOUT
                if is_content and not is_transfer:
                    return Result.EXISTS_WITH_DIFFERENT_CONTENT
                return np.int64(code)
    return Result.EXISTS
