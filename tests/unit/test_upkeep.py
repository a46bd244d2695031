"""What the ledger has done by itself: transfers expire, exchanges end, and one super-checkpoint covers all shards."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from money_world import EUR, GBP, SECOND_NS, World

from engine.calls import Call, Expire, MomentSizes, R
from engine.embedded import Engine
from engine.errors import Unavailable
from engine.generators.fake import FakeGenerator
from engine.money import shard_of_currency, terms_of
from engine.records import ShardKeeper
from engine.settling import Settlement
from engine.upkeep import Upkeep
from ledger.coordinator import Left
from ledger.errors import LedgerCorrupt, LedgerFull
from ledger.exchange import Exchange
from ledger.fsck import check
from ledger.log import open_keys
from ledger.note import Policy, open_checkpoint
from ledger.superlog import verify_chain


@pytest.fixture(params=[False, True], ids=["in this process", "behind handles"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    opened = World(tmp_path, remote=request.param)
    yield opened
    opened.close()


def upkeep_of(world: World) -> Upkeep:
    return Upkeep(world.shards, world.settlement, 10)


def super_policy(world: World) -> Policy:
    """The super-log's key, as a third party gets it."""
    return Policy((open_keys(world.path / "super", "mintage.test/super", 1).signers[0].key,))


async def test_money_is_freed_when_its_time_is_over_though_nobody_asks(world: World) -> None:
    bob, acme, _ = await world.funded()
    hold = {"key": "h", "debit": bob, "credit": acme, "amount": 150, "mode": "hold", "timeout_s": 5}
    assert await world.move(hold) == ["ok"]
    assert await upkeep_of(world).expire() == 0
    world.clock.now_ns += 6 * SECOND_NS
    assert await upkeep_of(world).expire() == 1
    assert await world.pending(bob) == (0, 0)


async def test_a_moment_covers_every_shard_and_chains_of_each_verify_with_the_one_key(world: World) -> None:
    await world.funded()
    asset = world.asset(1)
    policy = super_policy(world)
    first = open_checkpoint(await upkeep_of(world).moment(), policy.log_keys)
    assert (first.origin, first.tree_size) == ("mintage.test/super/shard-0", 2)
    place = world.keepers[1].shard.find(bytes.fromhex(asset))
    assert place is not None
    moments = world.keepers[0].moments
    assert moments.sizes() == {number: keeper.shard.tree_size for number, keeper in enumerate(world.keepers)}
    chain = moments.chain(world.keepers[1].shard, place).text()
    assert verify_chain(chain, policy).entry.entry.id.hex() == asset


async def test_moments_follow_the_shards_and_one_where_nothing_grew_is_the_one_before(world: World) -> None:
    upkeep = upkeep_of(world)
    empty = await upkeep.moment()
    asset = world.asset(0)
    grown = await upkeep.moment()
    assert grown != empty
    assert await upkeep.moment() == grown
    world.asset(1)
    later = open_checkpoint(await upkeep.moment(), super_policy(world).log_keys)
    assert later.tree_size == open_checkpoint(grown, super_policy(world).log_keys).tree_size + 2
    assert world.keepers[0].find_one(asset).recorded is not None
    world.close()
    assert check(world.path / "super").problems == ()
    assert check(world.path).problems == ()


class Failing:
    """Shards of which some fail: `failures` says with what, by shard and name of the call."""

    def __init__(self, shards: Any, failures: dict[tuple[int, str], Exception]) -> None:
        self.shards = shards
        self.num_shards = shards.num_shards
        self.failures = failures

    async def call(self, shard: int, call: Call[R]) -> R:
        failure = self.failures.get((shard, type(call).__name__))
        if failure:
            raise failure
        return await self.shards.call(shard, call)


def upkeep_with(world: World, failures: dict[tuple[int, str], Exception]) -> Upkeep:
    shards = Failing(world.shards, failures)
    return Upkeep(shards, Settlement(shards, world.clock), 10)


DOWN = Unavailable("it is away", where="shard", fix="Wait.")
FULL = LedgerFull("no room", where="shard 0", fix="Make some.")


async def test_what_fails_is_logged_and_holds_up_nothing_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    everywhere = [(shard, error) for shard in (0, 1) for error in (FULL, ZeroDivisionError())]
    failures = {(shard, "Expire" if error is FULL else "Unfinished"): error for shard, error in everywhere}
    with caplog.at_level(logging.WARNING, "mintage"):
        await upkeep_with(world, failures).once()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 + ["ERROR"] * 2
    assert "ledger_full" in caplog.text
    assert world.keepers[0].moments.sizes() == {0: 0, 1: 0}


@pytest.mark.parametrize("away", [0, 1])
async def test_a_shard_that_is_away_holds_up_no_other_one(world: World, away: int) -> None:
    currencies = {shard_of_currency(currency, 2): currency for currency in (EUR, GBP)}
    accounts = {}
    for shard, currency in currencies.items():
        one, two = accounts[shard] = await world.accounts("acme", "one", "two", currency=currency)
        hold = {"key": "h", "debit": one, "credit": two, "amount": 5, "mode": "hold", "timeout_s": 5}
        assert await world.move(hold, currency=currency) == ["ok"]
    world.clock.now_ns += 6 * SECOND_NS
    await upkeep_with(world, {(away, name): DOWN for name in ("Expire", "Unfinished", "ViewSince")}).once()
    assert [await world.pending(accounts[shard][0]) for shard in (away, 1 - away)] == [(5, 0), (0, 0)]


class Hanging(Failing):
    """Shards of which those named in `failures` never answer."""

    async def call(self, shard: int, call: Call[R]) -> R:
        if (shard, type(call).__name__) in self.failures:
            await asyncio.Event().wait()
        return await self.shards.call(shard, call)


async def test_a_shard_that_hangs_holds_up_no_other_one_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.upkeep.ANSWER_S_MAX", 0.05)
    bob, acme, _ = await world.funded()
    away = 1 - shard_of_currency(EUR, 2)
    hold = {"key": "h", "debit": bob, "credit": acme, "amount": 150, "mode": "hold", "timeout_s": 5}
    assert await world.move(hold) == ["ok"]
    world.clock.now_ns += 6 * SECOND_NS
    shards = Hanging(world.shards, {(away, name): DOWN for name in ("Expire", "Unfinished", "ViewSince")})
    await Upkeep(shards, Settlement(shards, world.clock), 10).once()
    assert await world.pending(bob) == (0, 0)
    for name in ("Expire", "Unfinished", "ViewSince"):
        assert f"ledger shard {away}: no answer to {name} within 0.05 s" in caplog.text
    sizes = world.keepers[0].moments.sizes()
    assert sizes == {1 - away: world.keepers[1 - away].shard.tree_size}


async def test_exchanges_with_a_part_in_a_shard_that_does_not_answer_wait_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, acme, _ = await world.funded()
    sales = {shard: terms_of(world.sale(world.asset(shard), bob, acme, key=f"{shard}"), 2) for shard in range(2)}
    here = shard_of_currency(EUR, 2)
    finished = []

    async def unfinished(shard: int, begin: int) -> Left:
        if shard != here:
            raise DOWN
        return Left(list(sales.values()), [], None)

    async def finish(exchange: Exchange) -> bool:
        finished.append(exchange)
        return True

    upkeep = upkeep_of(world)
    monkeypatch.setattr(upkeep.settlement, "unfinished", unfinished)
    monkeypatch.setattr(upkeep.settlement, "finish", finish)
    assert await upkeep.finish() == 1
    assert finished == [sales[here]]


async def test_many_transfers_that_are_held_are_looked_through_from_round_to_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told before a shard went away is concluded, and nothing is looked at twice before all was."""
    bob, acme, _ = await world.funded()
    sales = [terms_of(world.sale(world.asset(0), bob, acme, key=f"{n}"), 2) for n in range(5)]
    asked, finished = [], []

    async def unfinished(shard: int, begin: int) -> Left:
        if shard == 1:
            return Left([], [], None)
        asked.append(begin)
        if asked.count(3) == 1 and begin == 3:
            raise DOWN
        return Left([sales[begin]], [], begin + 1 if begin < 4 else None)

    async def finish(exchange: Exchange) -> bool:
        finished.append(exchange)
        return True

    monkeypatch.setattr("engine.upkeep.LOOKS_MAX", 2)
    upkeep = upkeep_of(world)
    monkeypatch.setattr(upkeep.settlement, "unfinished", unfinished)
    monkeypatch.setattr(upkeep.settlement, "finish", finish)
    assert [await upkeep.finish() for _ in range(4)] == [2, 1, 2, 2]
    assert asked == [0, 1, 2, 3, 3, 4, 0, 1]
    assert sorted(map(sales.index, finished)) == [0, 0, 1, 1, 2, 3, 4]


async def test_one_exchange_that_cannot_be_finished_holds_up_no_other_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, acme, _ = await world.funded()
    asset = world.asset(1)
    finished = []

    async def unfinished(shard: int, begin: int) -> Left:
        return Left([terms_of(world.sale(asset, bob, acme, key=f"{shard} {n}"), 2) for n in range(2)], [], None)

    async def finish(exchange: Exchange) -> bool:
        if not finished:
            finished.append(exchange)
            raise LedgerCorrupt("a leg is missing", where="shard 1", fix="Run fsck.")
        finished.append(exchange)
        return True

    upkeep = upkeep_of(world)
    monkeypatch.setattr(upkeep.settlement, "unfinished", unfinished)
    monkeypatch.setattr(upkeep.settlement, "finish", finish)
    assert await upkeep.finish() == 3
    assert len(finished) == 4


async def test_a_shard_that_is_away_stays_as_it_was_in_the_moment_before(world: World) -> None:
    world.asset(0)
    world.asset(1)
    await upkeep_of(world).moment()
    before = dict(world.keepers[0].moments.sizes())
    await world.accounts("acme", "one", currency=EUR)
    await world.accounts("acme", "one", currency=GBP)
    away = {(1, "ViewSince"): DOWN}
    await upkeep_with(world, away).moment()
    after = world.keepers[0].moments.sizes()
    assert (after[0], after[1]) == (before[0] + 1, before[1])
    await upkeep_of(world).moment()
    assert world.keepers[0].moments.sizes()[1] == before[1] + 1


class Counting:
    """Shards that count the rounds."""

    num_shards = 1

    def __init__(self) -> None:
        self.rounds_s: list[float] = []

    async def call(self, shard: int, call: Call[R]) -> Any:
        if isinstance(call, MomentSizes):
            self.rounds_s.append(virtual_time.now_s())
            return {}
        return []


@pytest.mark.parametrize(("interval_s", "rounds_s"), [(10.0, [10.0, 20.0, 30.0]), (0.0, [])])
def test_a_round_comes_every_interval_and_none_where_it_is_zero(interval_s: float, rounds_s: list[float]) -> None:
    async def scenario() -> list[float]:
        shards = Counting()
        task = asyncio.create_task(Upkeep(shards, Settlement(shards, lambda: 0), interval_s).for_ever())
        await asyncio.sleep(35)
        task.cancel()
        return shards.rounds_s

    assert virtual_time.run(scenario()) == rounds_s


async def test_in_this_process_a_shard_that_hangs_takes_none_of_the_threads_of_another(tmp_path: Path) -> None:
    world = World(tmp_path, remote=False)
    released = threading.Event()

    class Hang(Expire, frozen=True):
        def run(self, keeper: ShardKeeper) -> int:
            released.wait()
            return 0

    hanging = [asyncio.create_task(world.shards.call(1, Hang())) for _ in range(20)]
    try:
        await asyncio.sleep(0)
        assert await asyncio.wait_for(world.shards.call(0, Expire()), 10) == 0
    finally:
        released.set()
        await asyncio.gather(*hanging)
        world.close()


def test_an_embedded_engine_keeps_its_ledger_and_serves_the_moments(tmp_path: Path) -> None:
    with Engine.open(tmp_path, generator=FakeGenerator()) as engine:
        note = engine.thread.run(engine.upkeep.moment())
        assert engine.stages.logs["super"].checkpoint() == note
        assert list(engine.stages.logs) == ["0", "1", "super"]
        assert not engine.keeping.done()
    assert engine.keeping.cancelled()
