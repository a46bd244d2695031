"""The keeper of a shard: an asset with its parents and receipt, once for ever."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import lmdb
import msgspec
import pytest
from briefs import ASSET_POLICY, MODEL, NOW_MS, TRUE_COPY, commit, open_keepers

from engine.errors import InvalidRequest, MintageError
from engine.generators.contract import ModelInfo
from engine.records import META_REASONS_MAX, Outcome, ShardKeeper, found, refuse_other_layouts, source_of
from engine.request import Asset, Reason
from engine.tiers import Tier
from ledger.entry import Entry, Kind, encode, from_bytes, owner_of
from ledger.errors import LayoutUnsupported, LedgerCorrupt, LedgerFull, ReceiptInvalid
from ledger.fsck import check
from ledger.log import LogKeys, open_keys, shard_path
from ledger.receipt import verify
from ledger.shard import Shard
from ledger.store import DATA_FILE


def asset_of(outcome: Outcome) -> Asset:
    assert outcome.error is None
    assert outcome.recorded is not None
    return outcome.recorded.asset


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[tuple[LogKeys, list[ShardKeeper]]]:
    keys, keepers = open_keepers(tmp_path)
    yield keys, keepers
    for keeper in keepers:
        keeper.close()


@pytest.fixture
def keys(ledger: tuple[LogKeys, list[ShardKeeper]]) -> LogKeys:
    return ledger[0]


@pytest.fixture
def keeper(ledger: tuple[LogKeys, list[ShardKeeper]]) -> ShardKeeper:
    return ledger[1][0]


def test_an_asset_is_recorded_with_everything_that_was_said_of_it(keeper: ShardKeeper) -> None:
    asset = asset_of(keeper.commit([commit()])[0])
    assert asset == Asset(
        asset_id=f"{1:032x}",
        content=TRUE_COPY,
        content_hash=hashlib.sha256(TRUE_COPY.encode()).hexdigest(),
        shard=0,
        index=2,
        receipt=asset.receipt,
        tier=Tier.FLEX,
        policy="default",
        model="fake",
        num_attempts=3,
        num_tokens=60,
        constrained=True,
        latency_ms=123,
        reasons=commit().reasons,
    )
    entry = keeper.shard.entry(2)
    assert (entry.kind, entry.tier, entry.amount, entry.time_ns) == (Kind.ASSET, 2, 50_000, NOW_MS * 10**6 + 2)
    assert (entry.owner, entry.request_hash) == (owner_of("acme"), commit().request_hash)


def test_a_receipt_verifies_with_the_public_keys_and_fails_for_other_content(
    keeper: ShardKeeper, keys: LogKeys
) -> None:
    asset = asset_of(keeper.commit([commit()])[0])
    verified = verify(asset.receipt, keys.verifier_keys, TRUE_COPY.encode())
    assert (verified.index, verified.entry.id.hex()) == (asset.index, asset.asset_id)
    with pytest.raises(ReceiptInvalid):
        verify(asset.receipt, keys.verifier_keys, b"another copy")


def test_the_same_request_again_is_answered_with_the_asset_that_is_there(keeper: ShardKeeper) -> None:
    first = asset_of(keeper.commit([commit()])[0])
    size = keeper.shard.tree_size
    again = asset_of(keeper.commit([commit(content="written again", num_attempts=1)])[0])
    assert (again.content, again.index, again.num_attempts) == (first.content, first.index, first.num_attempts)
    assert keeper.shard.tree_size == size


def test_another_request_under_the_same_id_is_a_conflict_and_changes_nothing(keeper: ShardKeeper) -> None:
    keeper.commit([commit()])
    (outcome,) = keeper.commit([commit(request_hash=b"\1" * 32, content="another")])
    assert outcome.recorded is None
    assert outcome.error is not None
    assert outcome.error.code == "idempotency_conflict"
    assert asset_of(keeper.find_one(f"{1:032x}")).content == TRUE_COPY


def test_a_batch_may_repeat_and_contradict_itself_and_each_item_gets_its_own_answer(keeper: ShardKeeper) -> None:
    outcomes = keeper.commit([commit(1), commit(2), commit(1), commit(2, request_hash=b"\1" * 32)])
    assert [asset_of(outcome).index for outcome in outcomes[:3]] == [2, 3, 2]
    assert outcomes[3].error is not None


def test_model_and_policy_are_recorded_once_and_are_the_parents_in_that_order(keeper: ShardKeeper) -> None:
    assets = [asset_of(outcome) for outcome in keeper.commit([commit(1), commit(2)])]
    entries = [keeper.shard.entry(asset.index) for asset in assets]
    assert [entry.parents for entry in entries] == [((0, 0), (0, 1))] * 2
    assert [keeper.shard.entry(index).kind for index in (0, 1)] == [Kind.MODEL, Kind.POLICY]
    assert keeper.shard.content(1) == ASSET_POLICY
    assert msgspec.json.decode(keeper.shard.content(0), type=ModelInfo) == MODEL
    assert keeper.shard.tree_size == 4


def test_a_new_model_or_policy_is_a_new_parent(keeper: ShardKeeper) -> None:
    keeper.commit([commit(1)])
    other = commit(2, policy=b'{"name":"luxury"}', model=ModelInfo("tiny", "11" * 32, "vllm"))
    asset = asset_of(keeper.commit([other])[0])
    assert keeper.shard.entry(asset.index).parents == ((0, 3), (0, 4))


def test_model_and_policy_are_not_recorded_again_after_a_restart(tmp_path: Path) -> None:
    for number in (1, 2):
        _, keepers = open_keepers(tmp_path)
        asset = asset_of(keepers[0].commit([commit(number)])[0])
        assert keepers[0].shard.entry(asset.index).parents == ((0, 0), (0, 1))
        for keeper in keepers:
            keeper.close()
    assert check(tmp_path).problems == ()
    assert check(tmp_path).num_entries == 4


def test_assets_are_found_by_their_ids_and_nothing_else_is(keeper: ShardKeeper) -> None:
    keeper.commit([commit(1), commit(2)])
    found = keeper.find([f"{2:032x}", f"{3:032x}", f"{1:032x}"])
    assert [outcome.recorded and outcome.recorded.asset.asset_id for outcome in found] == [
        f"{2:032x}",
        None,
        f"{1:032x}",
    ]
    assert found[0].recorded is not None
    assert found[0].recorded.request_hash == commit(2).request_hash
    policy_id = hashlib.sha256(ASSET_POLICY).hexdigest()[:32]
    assert keeper.shard.find(bytes.fromhex(policy_id)) == 1
    assert keeper.find_one(policy_id) == Outcome()


def test_of_many_reasons_only_the_first_are_recorded(keeper: ShardKeeper) -> None:
    reasons = tuple(Reason(number, "length", "too short") for number in range(META_REASONS_MAX + 5))
    assert asset_of(keeper.commit([commit(reasons=reasons)])[0]).reasons == reasons[:META_REASONS_MAX]


def test_an_empty_batch_has_no_outcomes(keeper: ShardKeeper) -> None:
    assert keeper.commit([]) == []


def test_a_source_in_another_shard_is_a_parent_because_its_receipt_proves_it(
    ledger: tuple[LogKeys, list[ShardKeeper]], tmp_path: Path
) -> None:
    _, (here, there) = ledger
    source = asset_of(there.commit([commit(1)])[0])
    derived = asset_of(here.commit([commit(2, source=source.receipt)])[0])
    assert here.shard.entry(derived.index).parents[2] == (1, source.index)
    for keeper in (here, there):
        keeper.close()
    assert check(tmp_path).problems == ()


def test_a_forged_receipt_is_refused_and_the_rest_of_its_batch_is_recorded(
    ledger: tuple[LogKeys, list[ShardKeeper]],
) -> None:
    _, (here, there) = ledger
    source = asset_of(there.commit([commit(1)])[0])
    forged = source.receipt.replace(f"index {source.index}", f"index {source.index + 1}")
    assert forged != source.receipt
    outcomes = here.commit([commit(2), commit(3, source=forged), commit(4)])
    assert [outcome.recorded is not None for outcome in outcomes] == [True, False, True]
    assert outcomes[1].error is not None
    assert outcomes[1].error.code == "receipt_invalid"
    assert here.find_one(f"{3:032x}") == Outcome()


def test_a_receipt_of_another_log_proves_nothing(keeper: ShardKeeper, tmp_path: Path) -> None:
    _, foreign = open_keepers(tmp_path / "foreign")
    source = asset_of(foreign[1].commit([commit(1)])[0])
    for each in foreign:
        each.close()
    (outcome,) = keeper.commit([commit(2, source=source.receipt)])
    assert outcome.error is not None
    assert outcome.error.code == "receipt_invalid"


def test_a_full_ledger_says_so_and_what_was_recorded_can_still_be_read(tmp_path: Path) -> None:
    _, (keeper,) = open_keepers(tmp_path, num_shards=1, map_bytes=1 << 20)
    first = asset_of(keeper.commit([commit(1)])[0])
    with pytest.raises(LedgerFull):
        for number in range(2, 100):
            keeper.commit([commit(number, content=f"{number} " * 10_000)])
    assert asset_of(keeper.find_one(first.asset_id)).content == first.content
    keeper.close()
    assert check(tmp_path).problems == ()


@pytest.fixture
def damaged(keeper: ShardKeeper, monkeypatch: pytest.MonkeyPatch) -> ShardKeeper:
    """A shard in which the entry at index 3 cannot be read."""
    read = keeper.shard.entry

    def entry(index: int) -> Entry:
        if index == 3:
            raise LedgerCorrupt("its bytes are not its leaf", where="entry 3", fix="Restore it from a copy.")
        return read(index)

    monkeypatch.setattr(keeper.shard, "entry", entry)
    return keeper


def test_an_entry_that_cannot_be_read_back_fails_its_own_item_of_a_durable_batch(damaged: ShardKeeper) -> None:
    outcomes = damaged.commit([commit(number) for number in (1, 2, 3)])
    assert [outcome.error and outcome.error.code for outcome in outcomes] == [None, "ledger_corrupt", None]
    assert (asset_of(outcomes[0]).index, asset_of(outcomes[2]).index, damaged.shard.tree_size) == (2, 4, 5)


def test_a_damaged_entry_fails_its_own_item_of_a_look_up(damaged: ShardKeeper) -> None:
    damaged.commit([commit(number) for number in (1, 2, 3)])
    outcomes = damaged.find([f"{number:032x}" for number in (1, 2, 3, 4)])
    assert [outcome.error and outcome.error.code for outcome in outcomes] == [None, "ledger_corrupt", None, None]
    assert [outcome.recorded is not None for outcome in outcomes] == [True, False, True, False]


def test_the_error_of_a_look_up_is_raised_by_whoever_needs_the_asset(damaged: ShardKeeper) -> None:
    damaged.commit([commit(number) for number in (1, 2)])
    assert found(damaged.find_one(f"{1:032x}")).recorded is not None
    assert found(damaged.find_one(f"{4:032x}")) == Outcome()
    with pytest.raises(MintageError) as caught:
        found(damaged.find_one(f"{2:032x}"))
    assert (caught.value.body.code, caught.value.http_status) == ("ledger_corrupt", 500)


def test_a_source_that_was_not_found_is_the_requests_fault() -> None:
    with pytest.raises(InvalidRequest) as caught:
        source_of(Outcome(), "ab" * 16)
    assert caught.value.body.where == "brief.source"


def test_a_log_of_another_release_is_refused_before_anything_is_started_on_it(
    ledger: tuple[LogKeys, list[ShardKeeper]], tmp_path: Path
) -> None:
    _, keepers = ledger
    for keeper in keepers:
        keeper.close()
    refuse_other_layouts(tmp_path, len(keepers) + 1)
    data = shard_path(tmp_path, 0) / DATA_FILE
    sound = data.read_bytes()
    data.write_bytes(b"x" * len(sound))
    refuse_other_layouts(tmp_path, len(keepers))  # what is damaged is for its keeper to say
    data.write_bytes(sound)
    with closing(lmdb.open(str(data.parent), max_dbs=1)) as environment:
        environment.open_db(b"blobs")
    with pytest.raises(LayoutUnsupported, match="another release"):
        refuse_other_layouts(tmp_path, len(keepers))


# ---- a shard that was put back


def put_back(tmp_path: Path, shard: int) -> None:
    """A ledger with assets in both shards and a moment of them; then one shard is again what it was before the moment.
    What it was lies in `newest`."""
    for number in (1, 2):
        _, keepers = open_keepers(tmp_path)
        for keeper in keepers:
            assert keeper.commit([commit(number)])[0].recorded
        sizes = keepers[0].moments.sizes()
        if number == 2:
            keepers[0].moments.commit([keeper.view(sizes.get(place, 0)) for place, keeper in enumerate(keepers)])
        for keeper in keepers:
            keeper.close()
        shutil.copytree(shard_path(tmp_path, shard), tmp_path / f"copy {number}")
    replace_shard(tmp_path, shard, "copy 1")


def replace_shard(tmp_path: Path, shard: int, copy: str) -> None:
    shutil.rmtree(shard_path(tmp_path, shard))
    shutil.copytree(tmp_path / copy, shard_path(tmp_path, shard))


def keeper_alone(tmp_path: Path, shard: int) -> ShardKeeper:
    """As each actor has it: nobody else in the process owns anything of the ledger."""
    keys = open_keys(tmp_path, "mintage.test", 2)
    return ShardKeeper(tmp_path, keys, shard, map_bytes=1 << 28, now_ns=lambda: NOW_MS * 10**6, entropy=os.urandom)


@pytest.mark.parametrize("shard", [0, 1])
def test_a_shard_that_was_put_back_is_not_kept_and_the_newest_copy_is(tmp_path: Path, shard: int) -> None:
    put_back(tmp_path, shard)
    file = shard_path(tmp_path, shard) / DATA_FILE
    before = file.read_bytes()
    for begin in {0, shard}:  # the embedded engine has the other one's keeper in this process
        with ExitStack() as opened, pytest.raises(LedgerCorrupt, match="recorded 4 entries of it") as caught:
            for number in range(begin, shard + 1):
                opened.callback(keeper_alone(tmp_path, number).close)
        assert caught.value.where == f"mintage.test/shard-{shard}"
    assert file.read_bytes() == before, "nothing was written or signed"
    replace_shard(tmp_path, shard, "copy 2")
    keeper = keeper_alone(tmp_path, shard)
    assert keeper.shard.tree_size == 4
    keeper.close()


def test_a_shard_with_another_history_is_not_kept(tmp_path: Path) -> None:
    put_back(tmp_path, 1)
    keys = open_keys(tmp_path, "mintage.test", 2)
    with Shard.open(shard_path(tmp_path, 1), 1, keys.signers[1], lambda: NOW_MS * 10**6, entropy=os.urandom) as shard:
        for number in range(1, 8):
            owner = from_bytes(encode(Entry(kind=Kind.MODEL, id=bytes([number] * 16))))
            assert not shard.append(owner).results.any()
    with pytest.raises(LedgerCorrupt, match="recorded 4 entries of it"):
        keeper_alone(tmp_path, 1)


def test_a_keeper_gives_its_super_log_the_room_that_the_shards_have(tmp_path: Path) -> None:
    _, keepers = open_keepers(tmp_path, map_bytes=1 << 20)
    info = keepers[0].moments.log._store._environment.info()
    assert info["map_size"] == 1 << 20
    for keeper in keepers:
        keeper.close()
