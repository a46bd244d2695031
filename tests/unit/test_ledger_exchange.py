"""Delivery against payment: what is agreed, what is recorded of it, and who finishes what others have left."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import orjson
import pytest
from exchanging import (
    ARTIST,
    ARTISTS,
    ASSET,
    BANK,
    BUYER,
    CURRENCY,
    DEADLINE_NS,
    FUNDS,
    HOME,
    NS_PER_S,
    PAYER,
    SELLER,
    Market,
    agreed,
    agreed_at_home,
    id_of,
    money,
)
from hypothesis import given
from hypothesis import strategies as st
from shards import open_shard

from ledger.coordinator import ROUNDS_MAX, Left, Send, conclude, to_shards, unfinished
from ledger.decision import Answer, Progress, Request, Stage, after, begin, requests, resume
from ledger.entry import AMOUNT_MAX, ZERO_ID, Entry, Flag, Kind
from ledger.errors import EntryInvalid, LedgerCorrupt
from ledger.exchange import BASIS_POINTS, ROYALTIES_MAX, Account, Exchange, Royalty, clearing_id, decode
from ledger.legs import answers, columns, decision_id, items, outcome
from ledger.payload import Payload, canonical_json
from ledger.payments import paid_for
from ledger.reader import Reader
from ledger.result import Result
from ledger.shard import Shard

Pause = Callable[[int], Awaitable[None]]


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    opened = Market(tmp_path)
    yield opened
    opened.close()


async def no_pause(num_vain: int) -> None:
    assert num_vain > 0


def carry(market: Market, progress: Progress, send: Send | None = None, pause: Pause = no_pause) -> Progress:
    """Conclude an exchange."""
    return asyncio.run(conclude(progress, send or to_shards(market.shards), lambda: market.now_ns, pause))


def ask(market: Market, progress: Progress) -> Progress:
    """One stage, in every shard that it waits for."""
    for request in requests(progress):
        progress = after(progress, answers(market.shards[request.shard], [request])[0])
    return progress


# What is agreed.


@given(st.integers(0, AMOUNT_MAX), st.lists(st.integers(0, BASIS_POINTS // ROYALTIES_MAX), max_size=ROYALTIES_MAX))
def test_every_royalty_is_rounded_down_and_the_payee_gets_what_remains(price: int, rates: list[int]) -> None:
    parents = [Account(HOME, b"parent %9d" % number) for number in range(len(rates))]
    royalties = [Royalty(payee, rate) for payee, rate in zip(parents, rates, strict=True)]
    moves = agreed_at_home(price=price, royalties=royalties).moves
    paid = {move.credit: move.amount for move in moves}
    for royalty in royalties:
        assert paid.get(royalty.payee.id, 0) * BASIS_POINTS <= price * royalty.basis_points
        assert (paid.get(royalty.payee.id, 0) + 1) * BASIS_POINTS > price * royalty.basis_points
    assert sum(paid.values()) == price
    assert len(paid) == len(moves), "nobody is paid twice"


def test_a_royalty_of_nothing_or_to_the_payer_itself_is_left_out() -> None:
    royalties = [Royalty(ARTISTS, 9), Royalty(PAYER, 1_000)]
    assert [(move.shard, move.amount) for move in agreed(price=1001, royalties=royalties).moves] == [(0, 901), (1, 901)]


def test_a_gift_moves_no_money_and_concerns_no_other_shard() -> None:
    assert (agreed(price=0).moves, agreed(price=0).shards) == ((), (HOME,))


def test_money_that_changes_shards_goes_through_one_clearing_id_in_both() -> None:
    there, here, royalty_there, royalty_here = agreed().moves
    assert (there.debit, there.credit) == (BUYER, clearing_id(0, 1, CURRENCY))
    assert (here.debit, here.credit) == (clearing_id(0, 1, CURRENCY), SELLER)
    assert (royalty_there.credit, royalty_here.debit) == (clearing_id(0, 2, CURRENCY),) * 2
    assert (there.amount, here.amount, royalty_there.amount, royalty_here.amount) == (968, 968, 33, 33)


def test_terms_have_one_form_and_nothing_else_is_read() -> None:
    exchange = agreed()
    assert decode(exchange.terms) == exchange
    assert exchange.terms == orjson.dumps(orjson.loads(exchange.terms), option=orjson.OPT_SORT_KEYS)
    fields = orjson.loads(exchange.terms)
    others = (
        exchange.terms + b" ",
        orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS),
        orjson.dumps({"terms": "exchange-1"} | fields),
        orjson.dumps(fields | {"zeal": 1}, option=orjson.OPT_SORT_KEYS),
        orjson.dumps(fields | {"id": "AAAA"}, option=orjson.OPT_SORT_KEYS),
        orjson.dumps(fields | {"terms": "exchange-2"}, option=orjson.OPT_SORT_KEYS),
        canonical_json({"checkpoint": "note"}),
        b"\xff",
        b"",
    )
    assert [decode(data) for data in others] == [None] * len(others)


@pytest.mark.parametrize(
    ("where", "fields"),
    [
        ("price", {"price": -1}),
        ("price", {"price": AMOUNT_MAX + 1}),
        ("currency", {"currency": 0}),
        ("currency", {"currency": 2**32}),
        ("royalties", {"royalties": [Royalty(ARTISTS, -1)]}),
        ("royalties", {"royalties": [Royalty(ARTISTS, 6_000), Royalty(ARTISTS, 4_001)]}),
        ("royalties", {"royalties": [Royalty(ARTISTS, 1)] * (ROYALTIES_MAX + 1)}),
        ("exchange_id", {"exchange_id": b"short"}),
        ("asset", {"asset": ZERO_ID}),
        ("seller", {"seller": ZERO_ID}),
        ("buyer", {"buyer": b""}),
        ("buyer", {"buyer": SELLER}),
        ("terms", {"home": 2**16}),
        ("terms", {"deadline_ns": 2**63}),
        ("terms", {"payee": Account(1, b"short")}),
        ("terms", {"payee": Account(-1, SELLER)}),
    ],
)
def test_terms_that_cannot_be_are_refused_and_the_error_names_the_field(where: str, fields: dict[str, object]) -> None:
    with pytest.raises(EntryInvalid) as caught:
        agreed(**fields)
    assert caught.value.where == where


def test_the_largest_exchange_fits_beside_an_entry() -> None:
    royalties = [Royalty(Account(2, b"%16d" % number), 1) for number in range(ROYALTIES_MAX)]
    exchange = agreed(price=AMOUNT_MAX, royalties=royalties)
    assert len(exchange.moves) == 2 * (ROYALTIES_MAX + 1)
    assert decode(exchange.terms) == exchange


# Within one shard.


def test_within_one_shard_asset_and_money_change_hands_in_one_append(market: Market) -> None:
    size = market.shards[HOME].tree_size
    progress = ask(market, begin(agreed_at_home()))
    assert (progress.is_committed, progress.waiting) == (True, frozenset())
    assert [market.posted(HOME, owner) for owner in (BUYER, SELLER, ARTIST)] == [FUNDS - 1001, 968, 33]
    assert market.owner() == BUYER
    assert market.shards[HOME].tree_size == size + 4


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        (Result.EXCEEDS_CREDITS, {"price": FUNDS + 1, "royalties": []}),
        (Result.OWNER_MISMATCH, {"seller": ARTIST}),
        (Result.ASSET_NOT_FOUND, {"asset": id_of("no picture")}),
        (Result.CREDIT_ACCOUNT_NOT_FOUND, {"payee": Account(HOME, id_of("nobody"))}),
    ],
)
def test_within_one_shard_a_refusal_changes_nothing_and_is_final(
    market: Market, reason: Result, fields: dict[str, object]
) -> None:
    books, exchange = market.books(), agreed_at_home(**fields)
    progress = carry(market, begin(exchange))
    assert (progress.is_committed, progress.refusal) == (False, reason)
    assert market.books() == books
    market.record(market.shards[HOME], money("more funds", BANK, BUYER, FUNDS))
    late = answers(market.shards[HOME], [Request(exchange, HOME, Stage.SETTLE)])[0]
    assert late.result not in (Result.OK, Result.EXISTS), "a late repeat of the request would settle it after all"


def test_an_exchange_settled_twice_is_settled_once(market: Market) -> None:
    carry(market, begin(agreed_at_home()))
    books = market.books()
    assert carry(market, begin(agreed_at_home())).is_committed
    assert market.books() == books


@pytest.mark.parametrize("make", [agreed, agreed_at_home])
def test_an_exchange_id_is_used_once_whatever_the_terms(market: Market, make: Callable[..., object]) -> None:
    assert carry(market, begin(agreed_at_home())).is_committed
    other = make(seller=BUYER, buyer=ARTIST)
    progress = carry(market, begin(other))  # type: ignore[arg-type]
    assert (progress.is_committed, progress.refusal) == (False, Result.EXISTS_WITH_DIFFERENT_CONTENT)
    assert market.owner() == BUYER


# Across shards.


def test_across_shards_asset_and_money_change_hands_and_clearing_accounts_agree(market: Market) -> None:
    progress = carry(market, begin(agreed()))
    assert (progress.is_committed, progress.waiting, progress.refusal) == (True, frozenset(), None)
    assert (market.posted(0, BUYER), market.posted(1, SELLER), market.posted(2, ARTIST)) == (FUNDS - 1001, 968, 33)
    assert market.owner() == BUYER
    for there, amount in ((1, 968), (2, 33)):
        between = clearing_id(0, there, CURRENCY)
        assert (market.posted(0, between), market.posted(there, between)) == (amount, -amount)
    assert [shard.live() for shard in market.shards.values()] == [[], [], []]


def test_what_one_shard_refuses_happens_in_none(market: Market) -> None:
    sums = [shard.book.trial_balance() for shard in market.shards.values()]
    progress = carry(market, begin(agreed(price=FUNDS + 1)))
    assert (progress.is_committed, progress.refusal) == (False, Result.EXCEEDS_CREDITS)
    assert market.owner() == SELLER
    assert [shard.live() for shard in market.shards.values()] == [[], [], []]
    assert [shard.book.trial_balance() for shard in market.shards.values()] == sums


def test_held_legs_block_the_asset_and_charge_the_account(market: Market) -> None:
    ask(market, begin(agreed(price=FUNDS)))
    assert market.offer(0, money("spend", BUYER, BANK, 1)) == [Result.EXCEEDS_CREDITS]
    sale = Entry(kind=Kind.OWNERSHIP, id=id_of("sale"), subject=ASSET, content_hash=SELLER + ZERO_ID, owner=ARTIST)
    assert market.offer(HOME, sale) == [Result.ASSET_IS_HELD]


def test_no_time_ends_a_held_leg(market: Market) -> None:
    decided = ask(market, ask(market, begin(agreed())))
    assert decided.stage == Stage.POST
    market.now_ns += 100 * 365 * 24 * 3600 * NS_PER_S
    assert [len(shard.expire().results) for shard in market.shards.values()] == [0, 0, 0]
    assert carry(market, decided).is_committed
    assert market.owner() == BUYER


def test_the_terms_lie_beside_the_decision_and_the_first_leg_of_every_shard(market: Market) -> None:
    exchange = agreed()
    firsts = {number: shard.tree_size for number, shard in market.shards.items()}
    ask(market, ask(market, begin(exchange)))
    for number, shard in market.shards.items():
        assert shard.meta(firsts[number]) == exchange.terms
        assert shard.entry(firsts[number]).request_hash == hashlib.sha256(exchange.terms).digest()
    index = market.shards[HOME].find(decision_id(exchange.id))
    assert index is not None
    assert market.shards[HOME].content(index) == exchange.terms
    assert market.shards[HOME].entry(index).amount == 1


def test_no_exchange_ends_the_legs_of_another_with_its_id(market: Market) -> None:
    exchange, other = agreed(), agreed(price=500)
    decided = ask(market, ask(market, begin(exchange)))
    assert decided.stage == Stage.POST
    assert carry(market, begin(other)).refusal == Result.ASSET_IS_HELD
    assert not carry(market, resume(other)).is_committed
    assert carry(market, decided).is_committed
    assert (market.owner(), market.posted(1, SELLER)) == (BUYER, 968)


def test_many_requests_in_one_append_are_answered_as_one_by_one(market: Market) -> None:
    exchanges = [agreed(exchange_id=id_of(f"exchange {number}"), price=4_000 - number) for number in range(4)]
    together = [Request(exchange, 0, Stage.PREPARE) for exchange in exchanges]
    results = [answer.result for answer in answers(market.shards[0], together)]
    assert results == [Result.OK, Result.OK, Result.EXCEEDS_CREDITS, Result.EXCEEDS_CREDITS]
    again = [answers(market.shards[0], [request])[0].result for request in together]
    assert again == [Result.EXISTS, Result.EXISTS, Result.EXCEEDS_CREDITS, Result.EXCEEDS_CREDITS]


def test_a_leg_that_something_else_has_ended_is_reported_and_not_overlooked(market: Market) -> None:
    decided = ask(market, ask(market, begin(agreed())))
    (leg,) = [entry for entry, _ in items(Request(agreed(), 2, Stage.PREPARE))]
    market.record(market.shards[2], Entry(kind=Kind.MONEY, id=id_of("by hand"), subject=leg.id, flags=Flag.VOID))
    with pytest.raises(LedgerCorrupt) as caught:
        carry(market, decided)
    assert "PENDING_TRANSFER_ALREADY_VOIDED" in caught.value.what


# A coordinator and its wires.


def lossy(market: Market, lost: Callable[[int], bool]) -> Send:
    """Sends, and loses every answer whose number, from 1, is to be lost; the request was done all the same."""
    send, count = to_shards(market.shards), iter(range(1, 10_000))

    async def sometimes(request: Request) -> Answer | None:
        answer = await send(request)
        return None if lost(next(count)) else answer

    return sometimes


def test_lost_answers_are_asked_for_again(market: Market) -> None:
    assert carry(market, begin(agreed()), lossy(market, lambda number: number % 3 != 0)).is_committed
    assert market.posted(1, SELLER) == 968


def test_a_coordinator_leaves_an_exchange_alone_after_so_many_rounds_in_vain(market: Market) -> None:
    pauses: list[int] = []

    async def pause(num_vain: int) -> None:
        pauses.append(num_vain)

    left = carry(market, begin(agreed()), lossy(market, lambda number: number > 3), pause)
    assert pauses == list(range(1, ROUNDS_MAX + 1))
    assert (left.stage, left.waiting, left.is_committed) == (Stage.COMMIT, frozenset({HOME}), None)


@pytest.mark.parametrize("make", [agreed, agreed_at_home])
def test_after_its_deadline_an_exchange_that_is_not_decided_is_called_off(
    market: Market, make: Callable[[], Exchange]
) -> None:
    market.now_ns = DEADLINE_NS + 1
    progress = carry(market, begin(make()))
    assert progress.is_committed is False
    assert [shard.live() for shard in market.shards.values()] == [[], [], []]
    assert market.owner() == SELLER


@pytest.mark.parametrize("make", [agreed, agreed_at_home])
def test_a_repeat_after_the_deadline_is_told_what_was_decided_before(
    market: Market, make: Callable[[], Exchange]
) -> None:
    carry(market, begin(make()))
    books, market.now_ns = market.books(), DEADLINE_NS + 1
    assert carry(market, begin(make())).is_committed
    assert market.books() == books


@pytest.mark.parametrize(("num_stages", "is_committed"), [(0, False), (1, False), (2, True), (3, True)])
def test_anyone_finishes_what_a_dead_coordinator_left(market: Market, num_stages: int, is_committed: bool) -> None:
    progress = begin(agreed())
    for _ in range(num_stages):
        progress = ask(market, progress)
    if num_stages == 0:  # it died with one request out
        answers(market.shards[0], [Request(agreed(), 0, Stage.PREPARE)])
    market.now_ns = DEADLINE_NS + 1
    for number in market.shards:
        market.reopen(number)
    found = {exchange for shard in market.shards.values() for exchange in unfinished(shard, market.now_ns).exchanges}
    assert found == (set() if num_stages == 3 else {agreed()})
    for exchange in found:
        assert carry(market, resume(exchange)).is_committed == is_committed
    assert market.owner() == (BUYER if is_committed else SELLER)
    assert [shard.live() for shard in market.shards.values()] == [[], [], []]


def test_a_request_that_comes_after_the_end_is_found_and_undone(market: Market) -> None:
    carry(market, resume(agreed()))
    assert answers(market.shards[2], [Request(agreed(), 2, Stage.PREPARE)])[0].result == Result.OK
    market.now_ns = DEADLINE_NS + 1
    assert unfinished(market.shards[2], market.now_ns).exchanges == [agreed()]
    assert carry(market, resume(agreed())).is_committed is False
    assert market.shards[2].live() == []


def test_unfinished_tells_nothing_before_the_deadline_and_goes_on_where_it_ended(market: Market) -> None:
    exchanges = [agreed(exchange_id=id_of(f"exchange {number}"), price=10) for number in range(3)]
    answers(market.shards[0], [Request(exchange, 0, Stage.PREPARE) for exchange in exchanges])
    assert unfinished(market.shards[0], DEADLINE_NS).exchanges == []
    assert unfinished(market.shards[0], DEADLINE_NS + 1) == Left(exchanges, [], None)
    found, begin = [], 0
    while begin is not None:
        left = unfinished(market.shards[0], DEADLINE_NS + 1, begin, looks_max=2)
        found.append([exchanges.index(exchange) for exchange in left.exchanges])
        begin = left.next_begin
    assert [number for some in found for number in some] == [0, 1, 2]
    assert max(map(len, found)) <= 2


def test_what_expires_is_not_looked_at_for_exchanges(market: Market) -> None:
    for number in range(20):
        hold = money(f"hold {number}", BUYER, BANK, 1, Flag.PENDING)
        market.record(market.shards[0], msgspec.structs.replace(hold, num_bytes=60))
    market.record(market.shards[0], money("for ever", BUYER, BANK, 1, Flag.PENDING))
    assert len(market.shards[0].live()) == 21
    assert market.shards[0].live(is_timeless=True) == [market.shards[0].tree_size - 1]


@pytest.mark.parametrize("terms", [b"others", None])
def test_a_damaged_leg_hides_no_other_one(market: Market, monkeypatch: pytest.MonkeyPatch, terms: bytes | None) -> None:
    exchanges = [agreed(exchange_id=id_of(f"exchange {number}"), price=10) for number in range(3)]
    answers(market.shards[0], [Request(exchange, 0, Stage.PREPARE) for exchange in exchanges])
    first = market.shards[0].live()[0]
    meta = Reader.meta
    monkeypatch.setattr(Reader, "meta", lambda reader, index: terms if index == first else meta(reader, index))
    monkeypatch.setattr(Shard, "meta", gone)
    left = unfinished(market.shards[0], DEADLINE_NS + 1)
    assert left.exchanges == exchanges[1:]
    (told,) = left.damaged
    assert f"metadata of entry {first}" in told


def gone(shard: Shard, index: int) -> bytes:
    """As a shard answers whose metadata are neither there nor erased."""
    raise LedgerCorrupt("it is gone, and was not erased", where=f"metadata of entry {index}", fix="Restore it.")


def test_a_look_integrates_once_however_many_legs_it_finds(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges = [agreed(exchange_id=id_of(f"exchange {number}"), price=10) for number in range(3)]
    answers(market.shards[0], [Request(exchange, 0, Stage.PREPARE) for exchange in exchanges])
    assert not market.shards[0].sequence(columns([money("later", BUYER, BANK, 5)])).results.any()
    looks = []
    monkeypatch.setattr(Shard, "_head", lambda shard: looks.append(shard))
    assert unfinished(market.shards[0], DEADLINE_NS + 1).exchanges == exchanges
    assert len(looks) == 1


def test_a_pending_transfer_that_is_no_leg_is_left_alone(market: Market) -> None:
    claims = [agreed().terms, canonical_json({"note": "rent"})]
    for number, meta in enumerate(claims):
        digest = hashlib.sha256(meta).digest()
        rent = money(f"rent {number}", BUYER, BANK, 5, Flag.PENDING)
        batch = columns([msgspec.structs.replace(rent, meta_hash=digest, request_hash=digest)])
        assert not market.shards[0].append(batch, [Payload(meta=meta)]).results.any()
    market.record(market.shards[0], money("bare", BUYER, BANK, 5, Flag.PENDING))
    assert len(market.shards[0].live()) == 3
    assert unfinished(market.shards[0], DEADLINE_NS + 1).exchanges == []


def test_terms_beside_an_entry_that_is_no_leg_of_theirs_bind_it_to_nothing(market: Market) -> None:
    exchange = agreed()
    carry(market, begin(exchange))
    claim = money("claim", BANK, ARTIST, 1)
    claim = msgspec.structs.replace(claim, meta_hash=exchange.digest, request_hash=exchange.digest)
    assert not market.shards[2].append(columns([claim]), [Payload(meta=exchange.terms)]).results.any()
    readers = {number: shard.reader() for number, shard in market.shards.items()}
    (leg,) = [entry for entry, _ in items(Request(exchange, 2, Stage.PREPARE))]
    assert paid_for(readers, 2, leg.id).exchange == exchange.id
    claimed = paid_for(readers, 2, claim.id)
    assert (claimed.exchange, claimed.others) == (None, ())


def test_an_entry_under_the_id_of_a_leg_that_says_something_else_is_no_leg(market: Market) -> None:
    exchange = agreed()
    (leg,) = [entry for entry, _ in items(Request(exchange, 2, Stage.PREPARE))]
    changed = msgspec.structs.replace(leg, amount=leg.amount + 1)
    assert not market.shards[2].append(columns([changed]), [Payload(meta=exchange.terms)]).results.any()
    assert unfinished(market.shards[2], DEADLINE_NS + 1).exchanges == []
    progress = carry(market, begin(exchange))
    assert (progress.is_committed, progress.refusal) == (False, Result.EXISTS_WITH_DIFFERENT_AMOUNT)
    readers = {number: shard.reader() for number, shard in market.shards.items()}
    assert paid_for(readers, 2, leg.id).exchange is None
    first, *_ = [entry for entry, _ in items(Request(exchange, 0, Stage.PREPARE))]
    assert leg.id not in [other.id for other in paid_for(readers, 0, first.id).others]


# Expiry of ordinary pending transfers.


def test_what_is_over_expires_and_frees_money_and_asset(market: Market) -> None:
    shard = market.shards[HOME]
    held = Entry(kind=Kind.OWNERSHIP, id=id_of("held"), subject=ASSET, content_hash=SELLER + ZERO_ID, owner=BUYER)
    held = msgspec.structs.replace(held, flags=Flag.PENDING, num_bytes=2)
    market.record(shard, money("rent", BUYER, BANK, FUNDS, Flag.PENDING, timeout_s=1), held)
    market.now_ns += NS_PER_S * 3 // 2
    (index,) = shard.expire().indices.tolist()
    assert (shard.entry(index).flags, shard.entry(index).subject) == (Flag.EXPIRED, id_of("rent"))
    market.now_ns += NS_PER_S
    assert shard.expire().results.tolist() == [Result.OK]
    assert (shard.live(), shard.expire().results.tolist()) == ([], [])
    market.record(shard, money("spend", BUYER, BANK, FUNDS))
    assert market.owner() == SELLER
    book = shard.book.snapshot()
    market.reopen(HOME)
    assert market.shards[HOME].book.snapshot() == book


def test_no_more_expire_than_are_asked_for_the_longest_over_first(market: Market) -> None:
    shard = market.shards[0]
    market.record(shard, *(money(f"rent {s}", BUYER, BANK, 1, Flag.PENDING, timeout_s=s) for s in (3, 1, 2)))
    market.now_ns += 10 * NS_PER_S
    told = shard.expire(num_max=2)
    subjects = [shard.entry(index).subject for index in told.indices.tolist()]
    assert subjects == [id_of("rent 1"), id_of("rent 2")]


def test_only_the_ledger_itself_says_that_a_transfer_is_over(market: Market) -> None:
    market.record(market.shards[0], money("rent", BUYER, BANK, 1, Flag.PENDING, timeout_s=1))
    market.now_ns += 2 * NS_PER_S
    over = Entry(kind=Kind.MONEY, id=id_of("over"), subject=id_of("rent"), flags=Flag.EXPIRED)
    assert market.offer(0, over) == [Result.RESERVED_FLAG]


def test_live_tells_the_pending_transfers_from_an_index_on(market: Market) -> None:
    shard = market.shards[0]
    first = shard.tree_size
    market.record(shard, *(money(f"rent {number}", BUYER, BANK, 1, Flag.PENDING) for number in range(4)))
    market.record(shard, Entry(kind=Kind.MONEY, id=id_of("paid"), subject=id_of("rent 1"), flags=Flag.POST))
    assert shard.live() == [first, first + 2, first + 3]
    assert shard.live(first + 1) == [first + 2, first + 3]
    assert shard.live(num_max=1) == [first]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([Result.OK, Result.OK], Result.OK),
        ([Result.EXISTS, Result.EXISTS], Result.EXISTS),
        ([Result.EXISTS, Result.LINKED_EVENT_FAILED], Result.LINKED_EVENT_FAILED),
        ([Result.LINKED_EVENT_FAILED, Result.EXCEEDS_CREDITS], Result.EXCEEDS_CREDITS),
        ([Result.EXISTS_WITH_DIFFERENT_FLAGS], Result.EXISTS_WITH_DIFFERENT_FLAGS),
    ],
)
def test_a_chain_is_done_only_if_all_of_it_is(results: list[Result], expected: Result) -> None:
    assert outcome(results) == expected


def test_a_decision_says_that_it_happens_or_that_it_does_not(tmp_path: Path) -> None:
    """Else one coordinator could read it as the one, and another as the other."""
    with open_shard(tmp_path) as shard:
        entries = [Entry(kind=Kind.DECISION, id=id_of(f"decision {amount}"), amount=amount) for amount in range(3)]
        results = shard.append(columns(entries)).results.tolist()
    assert results == [Result.OK, Result.OK, Result.NOT_CANONICAL]
