"""The rules of settlement one by one: every result code, chains, pending transfers, ownership, and the way back."""

import msgspec
import pytest
from settling import (
    ALICE,
    BOB,
    CAROL,
    EURO,
    FREE,
    HELD_MONEY,
    HELD_PICTURE,
    HELD_TIMED,
    NEW_PICTURE,
    NS_PER_S,
    PICTURE,
    SPARE,
    START_NS,
    Desk,
    account,
    asset,
    ending,
    id_of,
    money,
    open_world,
    ownership,
    rows_of,
)

from ledger.book import Balance, Pending
from ledger.entry import AMOUNT_MAX, Entry, Flag, Kind
from ledger.result import Result, compare

PENDING, POST, VOID, EXPIRED, LINKED = Flag.PENDING, Flag.POST, Flag.VOID, Flag.EXPIRED, Flag.LINKED
SPENDER, TAKER = Flag.DEBITS_WITHIN_CREDITS, Flag.CREDITS_WITHIN_DEBITS
NEW, OTHER = 90, 91
OWNER_HINT = {0: id_of(ALICE)}


def after(*entries: Entry) -> tuple[Entry, ...]:
    """A case: the last entry is offered after the others were recorded."""
    return entries


# What is offered and refused in that world; what comes before the last entry is accepted.
REFUSED: dict[Result, tuple[Entry, ...]] = {
    Result.RESERVED_FLAG: after(money(NEW, ALICE, BOB, 1, SPENDER)),
    Result.ID_MUST_NOT_BE_ZERO: after(money(0, ALICE, BOB, 1)),
    Result.EXISTS: after(account(ALICE, SPENDER)),
    Result.EXISTS_WITH_DIFFERENT_FLAGS: after(account(ALICE)),
    Result.EXISTS_WITH_DIFFERENT_CURRENCY: after(account(ALICE, SPENDER, currency=2)),
    Result.FLAGS_ARE_MUTUALLY_EXCLUSIVE: after(ending(NEW, HELD_MONEY, POST | VOID)),
    Result.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO: after(money(NEW, 0, BOB, 1)),
    Result.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO: after(money(NEW, ALICE, 0, 1)),
    Result.ACCOUNTS_MUST_BE_DIFFERENT: after(money(NEW, ALICE, ALICE, 1)),
    Result.ASSET_ID_MUST_NOT_BE_ZERO: after(ownership(NEW, 0, ALICE, BOB)),
    Result.NEW_OWNER_MUST_NOT_BE_ZERO: after(ownership(NEW, PICTURE, ALICE, 0)),
    Result.OWNERS_MUST_BE_DIFFERENT: after(ownership(NEW, PICTURE, ALICE, ALICE)),
    Result.PENDING_ID_MUST_BE_ZERO: after(money(NEW, ALICE, BOB, 1, subject=id_of(HELD_MONEY))),
    Result.PENDING_ID_MUST_NOT_BE_ZERO: after(ending(NEW, 0, POST)),
    Result.PENDING_ID_MUST_BE_DIFFERENT: after(ending(NEW, NEW, POST)),
    Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER: after(money(NEW, ALICE, BOB, 1, num_bytes=1)),
    Result.AMOUNT_MUST_NOT_BE_ZERO: after(money(NEW, ALICE, BOB, 0)),
    Result.AMOUNT_MUST_BE_ZERO: after(ownership(NEW, PICTURE, ALICE, BOB, amount=1)),
    Result.CURRENCY_MUST_NOT_BE_ZERO: after(money(NEW, ALICE, BOB, 1, currency=0)),
    Result.DEBIT_ACCOUNT_NOT_FOUND: after(money(NEW, OTHER, BOB, 1)),
    Result.CREDIT_ACCOUNT_NOT_FOUND: after(money(NEW, ALICE, OTHER, 1)),
    Result.ACCOUNTS_MUST_HAVE_THE_SAME_CURRENCY: after(money(NEW, ALICE, EURO, 1)),
    Result.CURRENCY_MUST_MATCH: after(money(NEW, ALICE, BOB, 1, currency=2)),
    Result.ASSET_NOT_FOUND: after(ownership(NEW, OTHER, ALICE, BOB)),
    Result.OWNER_MISMATCH: after(ownership(NEW, PICTURE, BOB, CAROL)),
    Result.ASSET_IS_HELD: after(ownership(NEW, PICTURE, ALICE, CAROL)),
    Result.PENDING_TRANSFER_NOT_FOUND: after(ending(NEW, OTHER, POST)),
    Result.PENDING_TRANSFER_HAS_DIFFERENT_KIND: after(ending(NEW, HELD_PICTURE, POST)),
    Result.PENDING_TRANSFER_NOT_DUE: after(ending(NEW, HELD_TIMED, EXPIRED)),
    Result.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID: after(
        ending(NEW, HELD_MONEY, POST, content_hash=id_of(BOB) + id_of(0))
    ),
    Result.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID: after(
        ending(NEW, HELD_MONEY, POST, content_hash=id_of(0) + id_of(FREE))
    ),
    Result.PENDING_TRANSFER_HAS_DIFFERENT_OWNER: after(
        ending(NEW, HELD_PICTURE, POST, Kind.OWNERSHIP, owner=id_of(CAROL))
    ),
    Result.PENDING_TRANSFER_HAS_DIFFERENT_CURRENCY: after(ending(NEW, HELD_MONEY, POST, currency=2)),
    Result.PENDING_TRANSFER_HAS_DIFFERENT_CODE: after(ending(NEW, HELD_MONEY, POST, code=8)),
    Result.EXCEEDS_PENDING_TRANSFER_AMOUNT: after(ending(NEW, HELD_MONEY, POST, amount=31)),
    Result.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT: after(ending(NEW, HELD_MONEY, VOID, amount=29)),
    Result.OVERFLOWS_DEBITS_PENDING: after(
        money(OTHER, SPARE, BOB, AMOUNT_MAX - 1000, PENDING), money(NEW, SPARE, FREE, 1001, PENDING)
    ),
    Result.OVERFLOWS_CREDITS_PENDING: after(
        money(OTHER, FREE, SPARE, AMOUNT_MAX - 1000, PENDING), money(NEW, BOB, SPARE, 1001, PENDING)
    ),
    Result.OVERFLOWS_DEBITS_POSTED: after(money(OTHER, SPARE, FREE, AMOUNT_MAX), money(NEW, SPARE, BOB, 1)),
    Result.OVERFLOWS_CREDITS_POSTED: after(money(OTHER, BOB, SPARE, AMOUNT_MAX - 1000), money(NEW, FREE, SPARE, 1001)),
    Result.OVERFLOWS_DEBITS: after(money(OTHER, SPARE, FREE, AMOUNT_MAX, PENDING), money(NEW, SPARE, BOB, 1)),
    Result.OVERFLOWS_CREDITS: after(
        money(OTHER, BOB, SPARE, AMOUNT_MAX - 1000, PENDING), money(NEW, FREE, SPARE, 1001)
    ),
    Result.OVERFLOWS_TIMEOUT: after(money(NEW, ALICE, BOB, 1, PENDING, num_bytes=2**63 // NS_PER_S)),
    Result.EXCEEDS_CREDITS: after(money(NEW, ALICE, BOB, 101)),
    Result.EXCEEDS_DEBITS: after(money(NEW, BOB, CAROL, 1)),
}

# How a pending transfer can be over, as the ledger tells in a hint.
ENDED = (
    Result.PENDING_TRANSFER_NOT_PENDING,
    Result.PENDING_TRANSFER_ALREADY_POSTED,
    Result.PENDING_TRANSFER_ALREADY_VOIDED,
    Result.PENDING_TRANSFER_EXPIRED,
)

BASE = money(NEW, ALICE, BOB, 5)
SAME_ID: dict[Result, tuple[Entry, Entry]] = {
    Result.EXISTS: (BASE, msgspec.structs.replace(BASE, time_ns=77, shard=3)),
    Result.EXISTS_WITH_DIFFERENT_KIND: (BASE, account(NEW)),
    Result.EXISTS_WITH_DIFFERENT_FLAGS: (BASE, money(NEW, ALICE, BOB, 5, PENDING)),
    Result.EXISTS_WITH_DIFFERENT_SUBJECT: (BASE, msgspec.structs.replace(BASE, subject=id_of(OTHER))),
    Result.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID: (BASE, money(NEW, CAROL, BOB, 5)),
    Result.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID: (BASE, money(NEW, ALICE, CAROL, 5)),
    Result.EXISTS_WITH_DIFFERENT_CONTENT: (
        asset(NEW, ALICE),
        msgspec.structs.replace(asset(NEW, ALICE), content_hash=bytes(31) + b"\1", num_bytes=3),
    ),
    Result.EXISTS_WITH_DIFFERENT_TIMEOUT: (BASE, msgspec.structs.replace(BASE, num_bytes=1)),
    Result.EXISTS_WITH_DIFFERENT_AMOUNT: (BASE, money(NEW, ALICE, BOB, 5 + 2**56)),
    Result.EXISTS_WITH_DIFFERENT_OWNER: (BASE, msgspec.structs.replace(BASE, owner=id_of(BOB))),
    Result.EXISTS_WITH_DIFFERENT_CURRENCY: (BASE, msgspec.structs.replace(BASE, currency=2)),
    Result.EXISTS_WITH_DIFFERENT_CODE: (BASE, msgspec.structs.replace(BASE, code=256)),
    Result.EXISTS_WITH_DIFFERENT_PARENTS: (BASE, msgspec.structs.replace(BASE, parents=((0, 0),))),
    Result.EXISTS_WITH_DIFFERENT_TIER: (BASE, msgspec.structs.replace(BASE, tier=1)),
    Result.EXISTS_WITH_DIFFERENT_METADATA: (BASE, msgspec.structs.replace(BASE, meta_hash=b"m" * 32)),
    Result.EXISTS_WITH_DIFFERENT_REQUEST: (BASE, msgspec.structs.replace(BASE, request_hash=b"r" * 32)),
}


def test_every_code_has_a_case() -> None:
    chains = {Result.OK, Result.LINKED_EVENT_FAILED, Result.LINKED_EVENT_CHAIN_OPEN}
    shards = {Result.NOT_CANONICAL, Result.UNKNOWN_PARENT, Result.ID_TWICE_IN_CHAIN}  # given before settlement
    assert chains | shards | set(REFUSED) | set(ENDED) | set(SAME_ID) == set(Result)


@pytest.mark.parametrize("code", REFUSED, ids=lambda code: code.name)
def test_an_entry_that_breaks_a_rule_gets_that_rules_code_and_changes_nothing(code: Result) -> None:
    desk = open_world()
    *before, refused = REFUSED[code]
    desk.take(*before)
    snapshot = desk.book.snapshot()
    assert desk.offer(refused) == [code]
    assert desk.book.snapshot() == snapshot


@pytest.mark.parametrize("code", SAME_ID, ids=lambda code: code.name)
def test_a_repeated_id_is_told_the_first_field_in_which_it_differs(code: Result) -> None:
    recorded, offered = rows_of(*SAME_ID[code])
    assert compare(recorded, offered) == compare(offered, recorded) == code


@pytest.mark.parametrize("code", ENDED, ids=lambda code: code.name)
def test_a_transfer_that_is_over_answers_as_the_ledger_remembers_it(code: Result) -> None:
    assert open_world().offer(ending(NEW, OTHER, POST), statuses={0: code}) == [code]


def test_codes_fit_into_a_byte_and_only_ok_is_zero() -> None:
    assert [code for code in Result if not 0 < code < 256] == [Result.OK]


def test_a_transfer_debits_one_account_and_credits_the_other() -> None:
    desk = open_world()
    desk.take(money(NEW, ALICE, BOB, 40))
    assert desk.book.balance(id_of(ALICE)) == Balance(1, SPENDER, 0, 40, 0, 100, 0)
    assert desk.book.balance(id_of(BOB)) == Balance(1, 0, 0, 100, 35, 40, 1)
    assert desk.book.trial_balance() == {1: (140, 140, 35, 35), 2: (0, 0, 0, 0)}


def test_a_limit_counts_what_is_pending() -> None:
    desk = open_world()
    desk.take(money(NEW, ALICE, BOB, 60, PENDING))
    assert desk.offer(money(OTHER, ALICE, BOB, 41)) == [Result.EXCEEDS_CREDITS]
    desk.take(money(OTHER, ALICE, BOB, 40), money(81, CAROL, BOB, 10), money(82, BOB, CAROL, 6, PENDING))
    assert desk.offer(money(83, BOB, CAROL, 5)) == [Result.EXCEEDS_DEBITS]


@pytest.mark.parametrize(("amount", "posted"), [(0, 30), (30, 30), (12, 12)])
def test_a_post_moves_at_most_what_is_held_and_releases_the_rest(amount: int, posted: int) -> None:
    desk = open_world()
    desk.take(ending(NEW, HELD_MONEY, POST, amount=amount))
    free = desk.book.balance(id_of(FREE))
    assert (free.debits_pending, free.debits_posted) == (5, posted)
    assert desk.book.pending(id_of(HELD_MONEY)) is None


def test_a_void_releases_everything() -> None:
    desk = open_world()
    desk.take(ending(NEW, HELD_MONEY, VOID, amount=30, code=7, currency=1, content_hash=id_of(FREE) + id_of(BOB)))
    free = desk.book.balance(id_of(FREE))
    assert (free.debits_pending, free.debits_posted) == (5, 0)


@pytest.mark.parametrize(
    ("first", "told"),
    [(POST, Result.PENDING_TRANSFER_ALREADY_POSTED), (VOID, Result.PENDING_TRANSFER_ALREADY_VOIDED)],
)
@pytest.mark.parametrize("kind", [Kind.MONEY, Kind.OWNERSHIP])
def test_a_pending_transfer_ends_once_even_within_a_batch(first: Flag, told: Result, kind: Kind) -> None:
    held = HELD_MONEY if kind == Kind.MONEY else HELD_PICTURE
    results = open_world().offer(*(ending(NEW + n, held, flag, kind) for n, flag in enumerate((first, POST, VOID))))
    assert results == [Result.OK, told, told]


def test_after_its_time_a_transfer_only_expires_and_it_does_so_once() -> None:
    desk = open_world()
    due_ns = desk.book.pending(id_of(HELD_TIMED)).expires_ns
    assert due_ns == START_NS + 9 + NS_PER_S
    desk.now_ns = due_ns - 2
    results = desk.offer(
        ending(NEW, HELD_TIMED, EXPIRED),
        ending(OTHER, HELD_TIMED, POST),
        ending(92, HELD_TIMED, VOID),
        ending(93, HELD_TIMED, EXPIRED),
        ending(94, HELD_TIMED, EXPIRED),
    )
    late = Result.PENDING_TRANSFER_EXPIRED
    assert results == [Result.PENDING_TRANSFER_NOT_DUE, late, late, Result.OK, late]
    assert desk.book.balance(id_of(FREE)).debits_pending == 30


def test_a_transfer_without_a_timeout_never_expires() -> None:
    desk = open_world()
    desk.now_ns = 2**63
    assert desk.offer(ending(NEW, HELD_MONEY, EXPIRED)) == [Result.PENDING_TRANSFER_NOT_DUE]
    assert desk.offer(ending(NEW, HELD_MONEY, POST)) == [Result.OK]


def test_a_held_asset_keeps_its_owner_until_the_transfer_is_posted() -> None:
    desk = open_world()
    assert desk.book.owner(id_of(PICTURE)) == id_of(ALICE)
    assert desk.book.pending(id_of(HELD_PICTURE)) == Pending(Kind.OWNERSHIP, 10, 0, 0)
    desk.take(ending(NEW, HELD_PICTURE, POST, Kind.OWNERSHIP))
    assert desk.book.owner(id_of(PICTURE)) == id_of(BOB)
    desk.take(ownership(OTHER, PICTURE, BOB, CAROL))
    assert desk.book.owner(id_of(PICTURE)) == id_of(CAROL)


def test_a_voided_transfer_gives_the_asset_free() -> None:
    desk = open_world()
    desk.take(
        ending(NEW, HELD_PICTURE, VOID, Kind.OWNERSHIP, content_hash=id_of(ALICE) + id_of(0), owner=id_of(BOB), code=7)
    )
    desk.take(ownership(OTHER, PICTURE, ALICE, CAROL))
    assert desk.book.owner(id_of(PICTURE)) == id_of(CAROL)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"content_hash": id_of(BOB) + id_of(0)}, Result.PENDING_TRANSFER_HAS_DIFFERENT_OWNER),
        ({"code": 8}, Result.PENDING_TRANSFER_HAS_DIFFERENT_CODE),
        ({"amount": 1}, Result.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT),
        ({"num_bytes": 1}, Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER),
    ],
)
def test_what_ends_a_transfer_of_ownership_must_match_it(fields: dict[str, object], code: Result) -> None:
    assert open_world().offer(ending(NEW, HELD_PICTURE, POST, Kind.OWNERSHIP, **fields)) == [code]


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (account(NEW, PENDING), Result.RESERVED_FLAG),
        (account(0), Result.ID_MUST_NOT_BE_ZERO),
        (account(NEW, SPENDER | TAKER), Result.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        (account(NEW, currency=0), Result.CURRENCY_MUST_NOT_BE_ZERO),
        (msgspec.structs.replace(account(NEW), amount=1), Result.AMOUNT_MUST_BE_ZERO),
        (ownership(NEW, PICTURE, BOB, CAROL, num_bytes=1), Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER),
        (money(HELD_MONEY, FREE, BOB, 30, PENDING), Result.EXISTS),
    ],
)
def test_accounts_ownership_and_live_transfers_have_the_same_kinds_of_rules(entry: Entry, code: Result) -> None:
    assert open_world().offer(entry) == [code]


def test_the_timeout_of_a_held_asset_must_not_overflow() -> None:
    entry = ownership(NEW, PICTURE, ALICE, BOB, PENDING, num_bytes=2**64 - 1)
    assert Desk().offer(entry, owners=OWNER_HINT) == [Result.OVERFLOWS_TIMEOUT]


def test_the_ledger_tells_whose_an_asset_is_until_the_book_knows() -> None:
    desk = Desk()
    assert desk.offer(ownership(1, PICTURE, BOB, CAROL), owners=OWNER_HINT) == [Result.OWNER_MISMATCH]
    no_asset = {0: Result.ASSET_NOT_FOUND}
    assert desk.offer(ownership(1, PICTURE, ALICE, BOB), owners=OWNER_HINT, statuses=no_asset) == [*no_asset.values()]
    assert desk.book.owner(id_of(PICTURE)) is None
    assert desk.offer(ownership(1, PICTURE, ALICE, BOB), owners=OWNER_HINT) == [Result.OK]
    assert desk.offer(ownership(2, PICTURE, ALICE, CAROL), owners=OWNER_HINT) == [Result.OWNER_MISMATCH]


def test_a_chain_fails_as_a_whole_and_the_first_failure_says_why() -> None:
    desk = open_world()
    snapshot = desk.book.snapshot()
    results = desk.offer(
        money(90, ALICE, BOB, 10, LINKED),
        ending(91, HELD_MONEY, POST | LINKED),
        money(92, BOB, CAROL, 1, LINKED),
        money(93, OTHER, BOB, 1),
    )
    failed = Result.LINKED_EVENT_FAILED
    assert results == [failed, failed, Result.EXCEEDS_DEBITS, failed]
    assert desk.book.snapshot() == snapshot


def test_chains_and_single_entries_stand_beside_each_other() -> None:
    desk = open_world()
    first_index = len(desk.recorded)
    results = desk.offer(
        money(90, ALICE, OTHER, 1),
        money(91, ALICE, BOB, 1, LINKED),
        account(92),
        money(93, ALICE, BOB, 1000),
        account(94),
    )
    assert results == [Result.CREDIT_ACCOUNT_NOT_FOUND, Result.OK, Result.OK, Result.EXCEEDS_CREDITS, Result.OK]
    assert desk.book.balance(id_of(ALICE)).debits_posted == 1
    assert [desk.book.balance(id_of(number)).index - first_index for number in (92, 94)] == [1, 2]


def test_a_chain_must_not_be_open_at_the_end_of_a_batch() -> None:
    results = open_world().offer(money(90, ALICE, BOB, 1), money(91, ALICE, BOB, 1, LINKED), account(92, LINKED))
    assert results == [Result.OK, Result.LINKED_EVENT_FAILED, Result.LINKED_EVENT_CHAIN_OPEN]


def test_an_open_chain_still_tells_which_entry_failed_first() -> None:
    results = open_world().offer(account(90, LINKED), money(91, 0, BOB, 1, LINKED), account(92, LINKED))
    first, last = Result.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO, Result.LINKED_EVENT_CHAIN_OPEN
    assert results == [Result.LINKED_EVENT_FAILED, first, last]


def test_what_the_caller_refused_fails_its_chain_with_the_callers_code() -> None:
    chain = money(90, ALICE, BOB, 1, LINKED), money(80, BOB, ALICE, 100), money(91, ALICE, BOB, 1)
    results = open_world().offer(*chain, results={1: Result.EXISTS})
    assert results == [Result.LINKED_EVENT_FAILED, Result.EXISTS, Result.OK]


def test_a_chain_that_is_a_repeat_as_a_whole_exists_as_a_whole_and_moves_nothing() -> None:
    desk = open_world()
    chain = money(90, ALICE, BOB, 1, LINKED), asset(91, BOB)
    assert desk.offer(*chain) == [Result.OK, Result.OK]
    snapshot = desk.book.snapshot()
    assert desk.offer(*chain, results={0: Result.EXISTS, 1: Result.EXISTS}) == [Result.EXISTS, Result.EXISTS]
    assert desk.book.snapshot() == snapshot


def test_a_chain_that_is_a_repeat_in_part_fails_with_the_first_that_does_not_fit() -> None:
    chain = money(90, ALICE, BOB, 1, LINKED), account(92, LINKED), account(91)
    failed = Result.LINKED_EVENT_FAILED
    assert open_world().offer(*chain, results={0: Result.EXISTS}) == [Result.EXISTS, failed, failed]
    assert open_world().offer(*chain, results={1: Result.EXISTS, 2: Result.EXISTS}) == [failed, Result.EXISTS, failed]
    open_chain = money(90, ALICE, BOB, 1, LINKED), account(92, LINKED)
    results = open_world().offer(*open_chain, results={0: Result.EXISTS, 1: Result.EXISTS})
    assert results == [Result.EXISTS, Result.LINKED_EVENT_CHAIN_OPEN]


def test_entries_of_other_kinds_pass_and_can_be_part_of_a_chain() -> None:
    desk = open_world()
    paid = desk.offer(asset(NEW_PICTURE, BOB, LINKED), money(90, ALICE, BOB, 100))
    unpaid = desk.offer(asset(52, BOB, LINKED), money(91, ALICE, BOB, 1))
    assert paid == [Result.OK, Result.OK]
    assert unpaid == [Result.LINKED_EVENT_FAILED, Result.EXCEEDS_CREDITS]


def test_an_asset_can_be_sold_in_the_batch_that_records_it() -> None:
    desk = open_world()
    desk.take(
        asset(NEW_PICTURE, ALICE, LINKED),
        ownership(90, NEW_PICTURE, ALICE, BOB, LINKED),
        money(91, BOB, ALICE, 5),
        ownership(92, NEW_PICTURE, BOB, CAROL),
    )
    assert desk.book.owner(id_of(NEW_PICTURE)) == id_of(CAROL)


def test_an_asset_whose_chain_failed_cannot_be_sold() -> None:
    results = open_world().offer(
        asset(NEW_PICTURE, ALICE, LINKED), money(90, ALICE, BOB, 101), ownership(91, NEW_PICTURE, ALICE, BOB)
    )
    assert results == [Result.LINKED_EVENT_FAILED, Result.EXCEEDS_CREDITS, Result.ASSET_NOT_FOUND]


def test_an_asset_cannot_be_sold_before_it_is_recorded() -> None:
    results = open_world().offer(ownership(91, NEW_PICTURE, ALICE, BOB), asset(NEW_PICTURE, ALICE))
    assert results == [Result.ASSET_NOT_FOUND, Result.OK]


def test_only_an_asset_can_be_sold_and_only_a_pending_transfer_ended_within_a_batch() -> None:
    results = open_world().offer(
        money(90, ALICE, BOB, 1),
        ownership(91, 90, ALICE, BOB),
        ending(92, 90, POST),
        account(93),
        ending(94, 93, VOID),
    )
    not_pending, not_found = Result.PENDING_TRANSFER_NOT_PENDING, Result.PENDING_TRANSFER_NOT_FOUND
    assert results == [Result.OK, Result.ASSET_NOT_FOUND, not_pending, Result.OK, not_found]


def test_delivery_happens_if_and_only_if_payment_does() -> None:
    for price, owner in ((100, BOB), (101, ALICE)):
        desk = Desk()
        desk.take(account(ALICE), account(BOB, SPENDER), account(CAROL), money(80, CAROL, BOB, 100))
        desk.offer(money(90, BOB, ALICE, price, LINKED), ownership(91, PICTURE, ALICE, BOB), owners={1: id_of(ALICE)})
        assert (desk.book.owner(id_of(PICTURE)) or id_of(ALICE)) == id_of(owner)
        assert desk.book.balance(id_of(ALICE)).credits_posted == (100 if owner == BOB else 0)
