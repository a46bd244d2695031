"""Money and owners of an engine: exact codes, one outcome a key, and an asset for money wherever the two are."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from briefs import NOW_MS, commit
from money_world import EUR, GBP, NUM_SHARDS, SECOND_NS, USD, World

from actors.hop import encode
from engine.admission import converted
from engine.calls import Append, Call, Carry, CommitMoment, R, decode_call
from engine.errors import IdempotencyConflict, InvalidRequest, NotFound, Unavailable, describe, http_status
from engine.money import (
    HOLD_S_MAX,
    AccountsBody,
    ExchangeBody,
    Exchanged,
    account_id,
    exchange_id,
    shard_of_currency,
    terms_of,
)
from engine.request import shard_of
from engine.upkeep import Upkeep
from ledger.decision import Answer, Progress, Request, Stage
from ledger.entry import Kind, owner_of
from ledger.errors import LedgerFull
from ledger.fsck import check
from ledger.receipt import verify
from ledger.writer import Writer

MONEY_HOME = shard_of_currency(EUR, NUM_SHARDS)
PURSES = [("poor", "debits_within_credits"), ("rich", "none")]


@pytest.fixture(params=[False, True], ids=["in this process", "behind handles"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    opened = World(tmp_path, remote=request.param)
    yield opened
    opened.close()


# Accounts and transfers.


async def test_an_account_is_opened_once_and_a_repeat_says_that_it_exists(world: World) -> None:
    body = converted({"tenant": "acme", "currency": EUR, "accounts": [{"key": "main"}]}, AccountsBody)
    first, again = [(await world.settlement.open_accounts(body))[0] for _ in range(2)]
    assert (first.result, again.result) == ("ok", "exists")
    assert (first.id, first.shard, first.index) == (again.id, again.shard, again.index)
    assert (first.id, first.shard) == (account_id("acme", EUR, "main").hex(), shard_of_currency(EUR, NUM_SHARDS))
    other = converted({"tenant": "acme", "currency": EUR, "accounts": [{"key": "main", "code": 7}]}, AccountsBody)
    (changed,) = await world.settlement.open_accounts(other)
    assert (changed.result, changed.index) == ("exists_with_different_code", first.index)


async def test_accounts_of_other_tenants_and_currencies_are_others_even_under_one_key(world: World) -> None:
    ids = [
        *await world.accounts("acme", "main"),
        *await world.accounts("bob", "main"),
        *await world.accounts("acme", "main", currency=USD),
        *await world.accounts("acme", "main", currency=GBP),
    ]
    assert len(set(ids)) == 4
    shards = [(await world.settlement.account(each)).shard for each in ids]
    assert shards == [shard_of_currency(currency, NUM_SHARDS) for currency in (EUR, EUR, USD, GBP)]
    assert set(shards) == {0, 1}


def test_the_common_currencies_do_not_share_a_shard() -> None:
    common = [978, 840, 826, 392, 756, 156, 124, 36, 356, 752, 578]  # EUR USD GBP JPY CHF CNY CAD AUD INR SEK NOK
    for num_shards in (2, 4):
        homes = [shard_of_currency(currency, num_shards) for currency in common]
        assert min(homes.count(shard) for shard in range(num_shards)) >= len(common) // num_shards - 1


async def test_an_account_tells_how_it_stands_and_whose_it_is(world: World) -> None:
    (debit,) = await world.accounts("acme", "a", limit="credits_within_debits")
    (credit,) = await world.accounts("bob", "b")
    assert await world.move({"key": "1", "debit": debit, "credit": credit, "amount": 2**62}) == ["ok"]
    status = await world.settlement.account(debit)
    assert (status.id, status.currency, status.limit) == (debit, EUR, "credits_within_debits")
    assert (status.owner, status.debits_posted, status.credits_posted) == (owner_of("acme").hex(), 2**62, 0)
    with pytest.raises(NotFound):
        await world.settlement.account("ab" * 16)


async def test_every_transfer_of_a_batch_has_its_own_exact_result(world: World) -> None:
    poor, rich = [(await world.accounts("acme", key, limit=limit))[0] for key, limit in PURSES]
    results = await world.move(
        {"key": "1", "debit": poor, "credit": rich, "amount": 1},
        {"key": "2", "debit": rich, "credit": poor, "amount": 5},
        {"key": "3", "debit": poor, "credit": rich, "amount": 5},
        {"key": "2", "debit": rich, "credit": poor, "amount": 5},
        {"key": "2", "debit": rich, "credit": poor, "amount": 6},
        {"key": "4", "debit": rich, "credit": "ab" * 16, "amount": 1},
        {"key": "5", "debit": rich, "credit": poor},
    )
    assert results == [
        "exceeds_credits",
        "ok",
        "ok",
        "exists",
        "exists_with_different_amount",
        "credit_account_not_found",
        "amount_must_not_be_zero",
    ]
    assert await world.posted(poor) == (5, 5)


async def test_a_linked_chain_succeeds_or_fails_as_a_whole(world: World) -> None:
    a, b = await world.accounts("acme", "a", "b")
    bad = {"key": "3", "debit": a, "credit": a, "amount": 1}
    chain = [{"key": str(n), "debit": a, "credit": b, "amount": 1, "linked": True} for n in (1, 2)]
    assert await world.move(*chain, bad) == ["linked_event_failed"] * 2 + ["accounts_must_be_different"]
    assert await world.posted(a) == (0, 0)
    assert await world.move(*chain) == ["linked_event_failed", "linked_event_chain_open"]
    assert await world.move(*chain, bad | {"credit": b}) == ["ok"] * 3
    assert await world.posted(a) == (3, 0)
    assert await world.move(*chain, bad | {"credit": b}) == ["exists"] * 3, "sent again, as after a lost answer"
    assert await world.posted(a) == (3, 0)
    assert await world.move(*chain, bad | {"key": "4", "credit": b}) == ["exists"] + ["linked_event_failed"] * 2


async def test_what_is_held_is_posted_or_voided_by_its_key_once(world: World) -> None:
    a, b = await world.accounts("acme", "a", "b")
    hold = {"debit": a, "credit": b, "amount": 10, "mode": "hold"}
    assert await world.move({"key": "h1"} | hold, {"key": "h2"} | hold, {"key": "h3"} | hold) == ["ok"] * 3
    assert await world.pending(a) == (30, 0)
    assert await world.move(
        {"key": "p1", "mode": "post", "pending": "h1", "amount": 4},
        {"key": "p2", "mode": "post", "pending": "h2"},
        {"key": "v3", "mode": "void", "pending": "h3"},
        {"key": "v1", "mode": "void", "pending": "h1"},
        {"key": "v4", "mode": "void", "pending": "h4"},
    ) == ["ok", "ok", "ok", "pending_transfer_already_posted", "pending_transfer_not_found"]
    assert (await world.pending(a), await world.posted(a)) == ((0, 0), (14, 0))


async def test_money_whose_time_is_over_is_free_for_the_next_transfer(world: World) -> None:
    bob, acme, _ = await world.funded()
    spend = {"debit": bob, "credit": acme, "amount": 150}
    assert await world.move({"key": "h", "mode": "hold", "timeout_s": 5} | spend) == ["ok"]
    assert await world.move({"key": "1"} | spend) == ["exceeds_credits"]
    world.clock.now_ns += 6 * SECOND_NS
    assert await world.move({"key": "2"} | spend, {"key": "p", "mode": "post", "pending": "h"}) == [
        "ok",
        "pending_transfer_expired",
    ]


# An asset for money.


def homes() -> Any:
    """Shards of the asset: the money's, and the other one."""
    return pytest.mark.parametrize("home", [0, 1], ids=["money beside the asset", "money in another shard"])


@homes()
async def test_an_asset_changes_hands_for_its_price_less_the_royalties(world: World, home: int) -> None:
    bob, acme, artist = await world.funded()
    asset = world.asset(home)
    royalties = [{"payee": artist, "basis_points": 1250}]
    sold = await world.sell(asset, bob, acme, royalties=royalties)
    assert (sold.state, sold.result, sold.shard) == ("settled", "ok", home)
    assert sold.id == exchange_id("acme", asset, "sale").hex()
    assert [await world.posted(each) for each in (bob, acme, artist)] == [(100, 150), (0, 88), (0, 12)]
    assert await world.pending(bob) == (0, 0)
    owner = await world.settlement.owner(asset)
    assert owner.owner == owner_of("bob").hex()
    named, *posted = [verify(receipt, world.keys.verifier_keys) for receipt in owner.receipts]
    assert (named.entry.kind, named.entry.owner.hex(), named.entry.shard) == (Kind.OWNERSHIP, owner.owner, home)
    assert [each.entry.subject for each in posted] == ([named.entry.id] if home != MONEY_HOME else [])
    last = [named, *posted][-1]
    assert (last.index, last.entry.time_ns // 10**6) == (owner.index, owner.time_ms)


@homes()
async def test_a_repeat_of_a_sale_is_told_that_it_is_settled_even_after_its_deadline(world: World, home: int) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(home)
    first = await world.sell(asset, bob, acme)
    sizes = [keeper.shard.tree_size for keeper in world.keepers]
    assert await world.sell(asset, bob, acme) == first
    world.clock.now_ns += 2 * HOLD_S_MAX * SECOND_NS
    assert await world.sell(asset, bob, acme) == first
    assert [keeper.shard.tree_size for keeper in world.keepers] == sizes
    assert await world.posted(acme) == (0, 100)


@homes()
async def test_what_cannot_be_paid_or_is_not_the_sellers_is_refused_for_good_and_moves_nothing(
    world: World, home: int
) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(home)
    assert (await world.sell(asset, bob, acme, price=151)).result == "exceeds_credits"
    theirs = await world.sell(asset, bob, acme, key="not mine", seller="carol")
    assert (theirs.state, theirs.result) == ("refused", "owner_mismatch")
    assert (await world.sell("ab" * 16, bob, acme)).result == "asset_not_found"
    assert (await world.sell(asset, "ab" * 16, acme, key="nobody pays")).result == "debit_account_not_found"
    again = await world.sell(asset, bob, acme, price=151)
    assert (again.state, again.result) == ("refused", "exceeds_credits")
    assert await world.move({"key": "more", "debit": acme, "credit": bob, "amount": 1}) == ["ok"]
    too_late = await world.sell(asset, bob, acme, price=151)
    assert (too_late.state, too_late.result) == ("refused", "refused_before")
    assert (await world.settlement.owner(asset)).owner == owner_of("acme").hex()
    assert (await world.posted(bob), await world.pending(bob)) == ((0, 151), (0, 0))
    assert (await world.sell(asset, bob, acme, key="anew", price=151)).state == "settled"


@homes()
async def test_a_key_stands_for_the_terms_of_its_first_sale(world: World, home: int) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(home)
    await world.sell(asset, bob, acme)
    with pytest.raises(IdempotencyConflict):
        await world.sell(asset, bob, acme, price=99)
    assert await world.posted(acme) == (0, 100)


async def test_other_terms_under_a_key_do_not_call_off_the_sale_that_is_under_way(world: World) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1 - MONEY_HOME)
    sales = [world.sell(asset, bob, acme, price=price) for price in (100, 99, 100)]
    first, other, repeat = await asyncio.gather(*sales, return_exceptions=True)
    assert isinstance(other, IdempotencyConflict)
    assert first == repeat
    assert isinstance(first, Exchanged) and first.state == "settled"
    assert await world.posted(acme) == (0, 100)
    assert world.settlement.under_way == {}


async def test_a_call_that_ends_before_its_repeat_does_not_let_other_terms_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1 - MONEY_HOME)
    concluded, may_end = world.settlement._concluded, asyncio.Event()
    calls = iter(range(3))

    async def slow(progress: Progress) -> Progress:
        if next(calls):
            await may_end.wait()
        return await concluded(progress)

    monkeypatch.setattr(world.settlement, "_concluded", slow)
    repeat, first = [asyncio.create_task(world.sell(asset, bob, acme)) for _ in range(2)]
    await asyncio.wait([repeat, first], return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(IdempotencyConflict):
        await world.sell(asset, bob, acme, price=99)
    assert next(calls) == 2, "it was not begun"
    may_end.set()
    assert await repeat == await first
    assert world.settlement.under_way == {}


@homes()
async def test_a_sale_that_was_refused_is_told_so_after_its_deadline(world: World, home: int) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(home)
    assert (await world.sell(asset, bob, acme, price=151)).result == "exceeds_credits"
    world.clock.now_ns += 61 * SECOND_NS
    late = await world.sell(asset, bob, acme, price=151)
    assert (late.state, late.result) == ("refused", "refused_before")


async def test_of_many_sales_at_once_exactly_those_happen_that_are_paid(world: World) -> None:
    bob, acme, artist = await world.funded()
    numbers = range(1, 13)
    for number in numbers:
        item = commit(number, tenant="acme")
        world.keepers[shard_of(item.asset_id, NUM_SHARDS)].commit([item])
    royalties = [{"payee": artist, "basis_points": 333}]
    sales = [world.sell(f"{number:032x}", bob, acme, price=40, royalties=royalties) for number in numbers for _ in "ab"]
    sold = await asyncio.gather(*sales)
    states = [(each.id, each.state) for each in sold]
    assert states[::2] == states[1::2], "a repeat at the same moment is told the same"
    owners = [(await world.settlement.owner(each.asset)).owner for each in sold[::2]]
    num_settled = [each.state for each in sold[::2]].count("settled")
    assert owners.count(owner_of("bob").hex()) == num_settled
    assert 1 <= num_settled <= 150 // 40
    assert [await world.posted(each) for each in (bob, acme, artist)] == [
        (40 * num_settled, 150),
        (0, 39 * num_settled),
        (0, num_settled),
    ]
    assert await world.pending(bob) == (0, 0)


async def test_a_gift_needs_no_accounts(world: World) -> None:
    asset = world.asset(1)
    body = {"key": "g", "asset": asset, "seller": "acme", "buyer": "bob", "deadline_ms": NOW_MS + 1000}
    given = await world.settlement.exchange(converted(body, ExchangeBody))
    assert given.state == "settled"
    assert (await world.settlement.owner(asset)).owner == owner_of("bob").hex()


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"payer": None}, "price"),
        ({"currency": None}, "price"),
        ({"buyer": "acme"}, "buyer"),
        ({"royalties": [{"payee": "ab" * 16, "basis_points": 6000}] * 2}, "royalties"),
        ({"deadline_ms": NOW_MS + HOLD_S_MAX * 1000 + 1}, "deadline_ms"),
    ],
)
async def test_terms_that_contradict_themselves_are_refused_with_their_place(
    world: World, fields: dict[str, Any], where: str
) -> None:
    asset = world.asset(0)
    sizes = [keeper.shard.tree_size for keeper in world.keepers]
    with pytest.raises(InvalidRequest) as caught:
        await world.sell(asset, **({"payer": "ab" * 16, "payee": "cd" * 16} | fields))
    assert caught.value.body.where == where
    assert [keeper.shard.tree_size for keeper in world.keepers] == sizes


async def test_a_sale_past_its_deadline_is_called_off(world: World) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1)
    late = await world.sell(asset, bob, acme, deadline_ms=NOW_MS - 1)
    assert (late.state, late.result) == ("refused", "deadline_exceeded")
    assert (await world.posted(bob), await world.pending(bob)) == ((0, 150), (0, 0))


class Failing:
    """Shards of which one has no room for some stages."""

    def __init__(self, shards: Any) -> None:
        self.shards = shards
        self.num_shards = NUM_SHARDS
        self.stages: set[Stage] = set()
        self.away: int | None = None

    async def call(self, shard: int, call: Call[R]) -> R:
        if shard == self.away:
            raise Unavailable("it is away", where=f"shard {shard}", fix="Wait.")
        if isinstance(call, Carry) and call.requests[0].stage in self.stages:
            raise LedgerFull("no room", where=f"shard {shard}", fix="Make some.")
        return await self.shards.call(shard, call)


@pytest.fixture
def failing(world: World, monkeypatch: pytest.MonkeyPatch) -> Failing:
    async def no_pause(_: int) -> None: ...

    monkeypatch.setattr("engine.settling._pause", no_pause)
    world.settlement.shards = Failing(world.shards)
    return world.settlement.shards


async def test_an_account_can_be_read_though_another_shard_is_away(world: World, failing: Failing) -> None:
    (account,) = await world.accounts("acme", "main")
    failing.away = 1 - MONEY_HOME
    assert (await world.settlement.account(account)).shard == MONEY_HOME
    with pytest.raises(Unavailable, match="it is away"):
        await world.settlement.account("ab" * 16)  # it may be there
    failing.away = MONEY_HOME
    with pytest.raises(Unavailable, match="it is away"):
        await world.settlement.account(account)
    failing.away = None
    with pytest.raises(NotFound):
        await world.settlement.account("ab" * 16)


async def finish(world: World) -> int:
    return await Upkeep(world.settlement.shards, world.settlement, 0).finish()


async def test_a_sale_that_was_held_and_not_decided_is_called_off_after_its_deadline(
    world: World, failing: Failing
) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1)
    failing.stages = {Stage.COMMIT, Stage.ABORT}
    begun = await world.sell(asset, bob, acme)
    assert (begun.state, begun.result) == ("pending", "undecided")
    assert await world.pending(bob) == (100, 0)
    assert await finish(world) == 0, "it still has time"
    world.clock.now_ns += 61 * SECOND_NS
    assert await finish(world) == 0, "the decision cannot be recorded"
    failing.stages = set()
    assert await finish(world) == 1
    assert (await world.posted(bob), await world.pending(bob)) == ((0, 150), (0, 0))
    assert (await world.sell(asset, bob, acme)).state == "refused"


async def test_a_sale_that_was_decided_and_not_posted_is_posted_later(world: World, failing: Failing) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1)
    failing.stages = {Stage.POST}
    assert (await world.sell(asset, bob, acme)).state == "pending"
    failing.stages = set()
    world.clock.now_ns += 61 * SECOND_NS
    assert await finish(world) == 1
    assert await finish(world) == 0
    assert (await world.posted(acme), (await world.settlement.owner(asset)).owner) == ((0, 100), owner_of("bob").hex())
    assert (await world.sell(asset, bob, acme)).state == "settled"


async def test_a_sale_goes_on_when_nobody_waits_for_it_any_more(world: World) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1)
    waiting = asyncio.create_task(world.sell(asset, bob, acme))
    while not world.settlement.exchanging:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(*world.settlement.exchanging)
    assert waiting.cancelled()
    assert await world.posted(acme) == (0, 100)


async def test_a_sale_whose_deadline_passes_before_it_is_decided_is_called_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1 - MONEY_HOME)
    send = world.settlement._send

    async def slow(request: Request) -> Answer | None:
        answer = await send(request)
        if request.stage == Stage.PREPARE:
            world.clock.now_ns += 61 * SECOND_NS
        return answer

    monkeypatch.setattr(world.settlement, "_send", slow)
    late = await world.sell(asset, bob, acme)
    assert (late.state, late.result) == ("refused", "deadline_exceeded")
    assert (await world.posted(bob), await world.pending(bob)) == ((0, 150), (0, 0))


@pytest.mark.parametrize("world", [False], indirect=True)  # behind handles all is asked again for seconds
async def test_what_was_recorded_and_cannot_be_read_yet_is_not_answered_from_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(MONEY_HOME)
    assert (await world.settlement.owner(asset)).owner == owner_of("acme").hex()
    integrate = Writer._integrate

    def full(*_: object) -> None:
        raise LedgerFull("no room", where="disk", fix="Make some.")

    monkeypatch.setattr(Writer, "_integrate", full)
    assert (await world.sell(asset, bob, acme)).state == "settled"
    (opened,) = await world.accounts("carol", "main")
    questions: list[Callable[[], Awaitable[object]]] = [
        lambda: world.settlement.owner(asset),
        lambda: world.settlement.account(opened),
        lambda: world.settlement.lineage(asset, "descendants"),
    ]
    for question in questions:
        with pytest.raises(Exception) as caught:
            await question()
        assert (describe(caught.value).code, http_status(describe(caught.value))) == ("ledger_full", 503)
    monkeypatch.setattr(Writer, "_integrate", integrate)
    assert (await world.settlement.owner(asset)).owner == owner_of("bob").hex()
    assert (await world.settlement.account(opened)).credits_posted == 0
    with pytest.raises(IdempotencyConflict):
        await world.sell(asset, bob, acme, price=99)


# Owners and lineage.


async def test_an_asset_that_was_never_sold_is_its_tenants_by_its_own_entry(world: World) -> None:
    asset = world.asset(1)
    owner = await world.settlement.owner(asset)
    assert (owner.owner, owner.shard) == (owner_of("acme").hex(), 1)
    (receipt,) = owner.receipts
    assert verify(receipt, world.keys.verifier_keys).entry.id.hex() == asset
    for question in (world.settlement.owner, world.settlement.lineage):
        with pytest.raises(NotFound):
            await question("ab" * 16)


async def test_lineage_leads_over_shards_up_and_down(world: World) -> None:
    asset = world.asset(1)
    found = world.keepers[1].find_one(asset).recorded
    assert found is not None
    derived = commit(500, source=found.asset.receipt)
    world.keepers[0].commit([derived])
    up = await world.settlement.lineage(asset)
    place = f"1/{found.asset.index}"
    assert [(each.place, each.depth, each.kind) for each in up.entries] == [
        (place, 0, "asset"),
        ("1/0", 1, "model"),
        ("1/1", 1, "policy"),
    ]
    assert up.edges == ((place, "1/0"), (place, "1/1"))
    down = await world.settlement.lineage(asset, "descendants")
    assert [(each.kind, each.id) for each in down.entries] == [("asset", asset), ("derivation", derived.asset_id)]
    assert down.edges == ((down.entries[1].place, place),)
    assert not (up.is_truncated or down.is_truncated)
    cut = await world.settlement.lineage(asset, "descendants", 0)
    assert (len(cut.entries), cut.is_truncated) == (1, True)
    with pytest.raises(InvalidRequest):
        await world.settlement.lineage(asset, depth=65)


async def test_all_of_it_is_a_sound_ledger(world: World) -> None:
    bob, acme, artist = await world.funded()
    for home in (0, 1):
        await world.sell(world.asset(home), bob, acme, royalties=[{"payee": artist, "basis_points": 1}], price=70)
    world.close()
    report = check(world.path)
    assert (report.problems, report.ok) == ((), True)


def test_terms_say_the_price_in_millionths_and_the_deadline_in_nanoseconds(world: World) -> None:
    exchange = terms_of(world.sale("ab" * 16, "cd" * 16, "ef" * 16), NUM_SHARDS)
    assert sum(move.amount for move in exchange.moves) == 100
    assert exchange.deadline_ns == (NOW_MS + 60_000) * 10**6


def test_calls_travel_as_what_they_are() -> None:
    for call in (Append(b"\0" * 240), CommitMoment(())):
        assert decode_call(encode(call)) == call
