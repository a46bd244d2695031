"""What the ledger has done by itself: transfers expire, exchanges end, and one super-checkpoint covers all shards."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from money_world import SECOND_NS, World

from engine.calls import Call, CommitMoment, Expire, MomentSizes, R
from engine.embedded import Engine
from engine.generators.fake import FakeGenerator
from engine.settling import Settlement
from engine.upkeep import Upkeep
from ledger.errors import LedgerFull
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
    """Shards that have no room for what expires and a defect where exchanges are looked for."""

    def __init__(self, shards: Any) -> None:
        self.shards = shards
        self.num_shards = shards.num_shards
        self.made: list[str] = []

    async def call(self, shard: int, call: Call[R]) -> R:
        self.made.append(type(call).__name__)
        if isinstance(call, Expire):
            raise LedgerFull("no room", where="shard 0", fix="Make some.")
        if type(call).__name__ == "Unfinished":
            raise ZeroDivisionError
        return await self.shards.call(shard, call)


async def test_what_fails_is_logged_and_holds_up_nothing_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    shards = Failing(world.shards)
    with caplog.at_level(logging.WARNING, "mintage"):
        await Upkeep(shards, Settlement(shards, world.clock), 10).once()
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "ledger_full" in caplog.text
    assert shards.made[-1] == CommitMoment.__name__
    assert world.keepers[0].moments.sizes() == {0: 0, 1: 0}


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


def test_an_embedded_engine_keeps_its_ledger_and_serves_the_moments(tmp_path: Path) -> None:
    with Engine.open(tmp_path, generator=FakeGenerator()) as engine:
        note = engine.thread.run(engine.upkeep.moment())
        assert engine.stages.logs["super"].checkpoint() == note
        assert list(engine.stages.logs) == ["0", "1", "super"]
        assert not engine.keeping.done()
    assert engine.keeping.cancelled()
