"""The ledger shard actors behind handles, without Ray: minting, calls, logs, upkeep, and a farewell that gives back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from briefs import commit, policies, small_config
from stub_handle import StubHandle

from actors.gatekeeper import Gatekeeper
from actors.gateway import Gateway
from actors.hop import RemoteStages
from actors.ledger_shard import LedgerShard
from engine.calls import EntryAt, MomentSizes, OwnerOf
from engine.config import Config
from engine.errors import InvalidRequest, MintageError, NotFound
from engine.request import shard_of
from engine.service import unix_ms
from engine.settling import Settlement
from engine.upkeep import Upkeep
from ledger.entry import Kind, owner_of
from ledger.log import open_keys
from ledger.note import open_checkpoint, parse_verifier_key
from ledger.tiles import unbundle


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return small_config(tmp_path)


@pytest.fixture
def actors(config: Config) -> Iterator[list[LedgerShard]]:
    opened = [LedgerShard(config, number) for number in range(config.ledger.num_shards)]
    yield opened
    for actor in opened:
        actor.__del__()


@pytest.fixture
def stages(actors: list[LedgerShard]) -> RemoteStages:
    return RemoteStages(StubHandle(Gatekeeper(policies())), [StubHandle(actor) for actor in actors])


async def test_what_is_minted_is_found_owned_and_in_its_log(stages: RemoteStages, config: Config) -> None:
    item = commit(1)
    shard = shard_of(item.asset_id, stages.num_shards)
    recorded = (await stages.record(item)).recorded
    assert recorded is not None
    assert (await stages.find(item.asset_id)).recorded is not None
    owner = await stages.call(shard, OwnerOf(bytes.fromhex(item.asset_id)))
    assert owner is not None
    assert (owner.owner, owner.index) == (owner_of("acme"), recorded.asset.index)
    entries = unbundle(await stages.logs[str(shard)]("tile/entries/000.p/3"))
    assert bytes.fromhex(item.asset_id) in entries
    keys = open_keys(config.ledger_path, config.ledger.name, 2).verifier_keys
    note = (await stages.logs[str(shard)]("checkpoint")).decode()
    assert open_checkpoint(note, [parse_verifier_key(keys[shard])]).tree_size == 3
    assert (await stages.checkpoints())[shard] == note


async def test_the_upkeep_makes_moments_beside_the_first_shard(stages: RemoteStages) -> None:
    settlement = Settlement(stages, lambda: 0)
    await stages.record(commit(1))
    note = await Upkeep(stages, settlement, 10).moment()
    assert (await stages.logs["super"]("checkpoint")).decode() == note
    key = parse_verifier_key(await settlement.super_key())
    assert open_checkpoint(note, [key]).tree_size == stages.num_shards


async def test_the_gateways_handle_opens_accounts_moves_money_and_sells(
    actors: list[LedgerShard], config: Config
) -> None:
    handles = [StubHandle(actor) for actor in actors]
    gateway = Gateway(config, policies(), ("key",), StubHandle(Gatekeeper(policies())), handles)
    accounts = {"currency": 978, "accounts": [{"key": "a"}, {"key": "b"}]}
    a, b = [each.id for each in await gateway.open_accounts(accounts)]
    transfer = {"key": "1", "debit": a, "credit": b, "amount": 5}
    moved = await gateway.transfer({"currency": 978, "transfers": [transfer, transfer]})
    assert [each.result for each in moved] == ["ok", "exists"]
    item = commit(1)
    actors[shard_of(item.asset_id, len(actors))].keeper.commit([item])
    sale = {"key": "1", "asset": item.asset_id, "seller": "acme", "buyer": "bob", "deadline_ms": unix_ms() + 60_000}
    sold = await gateway.exchange(sale | {"price": 7, "currency": 978, "payer": a, "payee": b})
    assert sold.state == "settled"
    with pytest.raises(InvalidRequest):
        await gateway.transfer({"transfers": []})


async def test_what_is_not_there_is_not_found_and_a_question_to_the_wrong_shard_is_a_defect(
    stages: RemoteStages,
) -> None:
    with pytest.raises(NotFound):
        await stages.call(0, EntryAt(7))
    with pytest.raises(NotFound):
        await stages.logs["0"]("tile/0/007")
    with pytest.raises(MintageError, match="kept beside shard 0"):
        await stages.call(1, MomentSizes())


async def test_serves_farewell_gives_shard_and_super_log_back_at_once(config: Config) -> None:
    for _ in range(2):
        opened = [LedgerShard(config, number) for number in range(2)]
        index = opened[0].keeper.ensure(Kind.MODEL, b"a model")
        for actor in opened:
            actor.__del__()
    assert index == 0
