"""The shard: one entry per asset id for ever, parents before children, and reads that check what they give."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from ledger import shard as shard_module
from ledger.entry import Kind, owner_of
from ledger.errors import EntryInvalid, EntryNotFound, LedgerCorrupt, LogMismatch, UnknownParent
from ledger.log import LogKeys, begun_path, open_keys, shard_path
from ledger.merkle import EMPTY_ROOT, verify_consistency
from ledger.note import open_checkpoint
from ledger.receipt import verify
from ledger.shard import BATCH_BYTES_MAX, BATCH_ITEMS_MAX, NewEntry, Shard

NOW_MS = 1_700_000_000_000


def asset_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def item(number: int, **fields: object) -> NewEntry:
    given: dict[str, object] = {
        "kind": Kind.ASSET,
        "asset_id": asset_id(number),
        "content": b"content %d" % number,
        "request_hash": b"r" * 32,
        "tenant": "acme",
    }
    return NewEntry(**(given | fields))  # type: ignore[arg-type]


@pytest.fixture
def keys(tmp_path: Path) -> LogKeys:
    return open_keys(tmp_path, "mintage.local", 2)


@pytest.fixture
def open_shard(tmp_path: Path, keys: LogKeys) -> Callable[..., Shard]:
    def opener(**options: object) -> Shard:
        given: dict[str, object] = {"shard": 0, "signer": keys.signers[0], "now_ms": lambda: NOW_MS, "lock_wait_s": 0}
        return Shard.open(shard_path(tmp_path, 0), **(given | options))  # type: ignore[arg-type]

    return opener


@pytest.fixture
def shard(open_shard: Callable[..., Shard]) -> Iterator[Shard]:
    with open_shard() as opened:
        yield opened


def test_a_new_shard_has_a_signed_checkpoint_of_the_empty_tree(shard: Shard, keys: LogKeys) -> None:
    checkpoint = open_checkpoint(shard.checkpoint(), [keys.signers[0].key])
    assert (checkpoint.origin, checkpoint.tree_size, checkpoint.root) == ("mintage.local/shard-0", 0, EMPTY_ROOT)
    assert shard.size() == 0


def test_what_was_appended_is_read_back(shard: Shard) -> None:
    meta = {"policy": "Zoë", "score": 0.5, "num_tokens": 7}
    first = shard.append([item(1, kind=Kind.MODEL)])[0]
    answer = shard.append([item(2, value_micros=9, tier=3, parents=((0, first.index),), meta=meta)])[0]
    assert (answer.index, answer.status) == (1, "committed")
    entry = shard.entry(1)
    assert entry == answer.entry
    assert (entry.kind, entry.tier, entry.shard, entry.time_ms) == (Kind.ASSET, 3, 0, NOW_MS)
    assert (entry.asset_id, entry.owner, entry.value_micros) == (asset_id(2), owner_of("acme"), 9)
    assert entry.parents == ((0, 0),)
    assert shard.content(1) == b"content 2"
    assert shard.meta(1) == meta
    assert shard.meta(0) == {}
    assert shard.find(asset_id(2)) == 1
    assert shard.find(asset_id(3)) is None


def test_a_repeat_answers_with_the_first_entry_and_writes_nothing(shard: Shard) -> None:
    first = shard.append([item(1)])[0]
    before = shard.checkpoint()
    again = shard.append([item(1, content=b"generated anew", value_micros=5)])[0]
    assert (again.index, again.status, again.entry) == (0, "exists", first.entry)
    assert shard.checkpoint() == before
    assert shard.content(0) == b"content 1"


def test_another_request_under_a_used_id_conflicts_and_the_others_go_in(shard: Shard) -> None:
    first = shard.append([item(1)])[0]
    answers = shard.append([item(2), item(1, request_hash=b"x" * 32), item(3)])
    assert [(answer.index, answer.status) for answer in answers] == [
        (1, "committed"),
        (0, "conflict"),
        (2, "committed"),
    ]
    assert answers[1].entry == first.entry
    assert shard.size() == 3
    assert shard.content(2) == b"content 3"


def test_repeats_and_conflicts_inside_one_batch_are_found(shard: Shard) -> None:
    answers = shard.append([item(1), item(1, content=b"other"), item(1, request_hash=b"x" * 32), item(2)])
    assert [(answer.index, answer.status) for answer in answers] == [
        (0, "committed"),
        (0, "exists"),
        (0, "conflict"),
        (1, "committed"),
    ]
    assert shard.content(0) == b"content 1"
    assert shard.size() == 2


def test_ids_are_remembered_when_the_shard_is_opened_again(open_shard: Callable[..., Shard]) -> None:
    with open_shard() as shard:
        shard.append([item(1)])
        before = shard.checkpoint()
    with open_shard() as shard:
        assert shard.checkpoint() == before
        assert shard.append([item(1)])[0].status == "exists"
        assert shard.append([item(2)])[0].index == 1


def test_threads_that_append_the_same_ids_at_once_write_each_once(shard: Shard) -> None:
    def append_all(number: int) -> list[tuple[int, str]]:
        answers = [shard.append([item(place, content=b"by thread %d" % number)])[0] for place in range(20)]
        return [(answer.index, answer.status) for answer in answers]

    with ThreadPoolExecutor(4) as pool:
        by_thread = list(pool.map(append_all, range(4)))
    assert shard.size() == 20
    for answers in zip(*by_thread, strict=True):
        assert len({index for index, _ in answers}) == 1
        assert sorted(status for _, status in answers) == ["committed", "exists", "exists", "exists"]


def test_an_empty_batch_changes_nothing(shard: Shard) -> None:
    before = shard.checkpoint()
    assert shard.append([]) == []
    assert shard.checkpoint() == before


def test_a_parent_may_come_earlier_in_the_same_batch(shard: Shard) -> None:
    answers = shard.append([item(1), item(2, parents=((0, 0),))])
    assert answers[1].entry.parents == ((0, 0),)


@pytest.mark.parametrize("parent", [(0, 1), (0, 2), (1, 0)])
def test_an_unknown_parent_refuses_the_whole_batch(shard: Shard, parent: tuple[int, int]) -> None:
    shard.append([item(0)])
    before = shard.checkpoint()
    with pytest.raises(UnknownParent) as caught:
        shard.append([item(2, parents=(parent,)), item(3)])
    assert caught.value.where == f"asset {asset_id(2).hex()}"
    assert shard.checkpoint() == before
    assert shard.find(asset_id(2)) is shard.find(asset_id(3)) is None


def test_a_parent_in_another_shard_needs_to_be_covered(open_shard: Callable[..., Shard]) -> None:
    with open_shard(covers=lambda shard, index: (shard, index) == (1, 5)) as shard:
        assert shard.append([item(1, parents=((1, 5),))])[0].entry.parents == ((1, 5),)
        with pytest.raises(UnknownParent, match="entry 6 of shard 1"):
            shard.append([item(2, parents=((1, 6),))])
        assert shard.size() == 1


def test_a_repeat_is_answered_whatever_its_parents(shard: Shard) -> None:
    shard.append([item(1)])
    assert shard.append([item(1, parents=((0, 99),))])[0].status == "exists"


@pytest.mark.parametrize(
    "fields",
    [
        {"request_hash": b"short"},
        {"value_micros": -1},
        {"tier": 256},
        {"kind": 77},
        {"tenant": ""},
        {"tenant": "t" * 257},
        {"tenant": "\ud800"},
        {"parents": ((0, 0), (0, 0))},
        {"meta": {"score": float("nan")}},
        {"meta": {"score": float("inf")}},
        {"meta": {"flag": True}},
        {"meta": {"list": [1]}},
        {"meta": {"big": 2**64}},
        {"meta": {"text": "\ud800"}},
        {"meta": {"text": "x" * 20_000}},
    ],
)
def test_an_item_that_breaks_a_rule_refuses_the_whole_batch(shard: Shard, fields: dict[str, object]) -> None:
    with pytest.raises(EntryInvalid):
        shard.append([item(1), item(2, **fields)])
    assert shard.size() == 0


def test_a_batch_has_limits(shard: Shard) -> None:
    with pytest.raises(EntryInvalid, match="items"):
        shard.append([item(1)] * (BATCH_ITEMS_MAX + 1))
    half = bytes(BATCH_BYTES_MAX // 2 + 1)
    with pytest.raises(EntryInvalid, match="bytes"):
        shard.append([item(1, content=half), item(2, content=half)])
    assert shard.size() == 0


def test_equal_contents_are_one_blob_and_two_entries(shard: Shard) -> None:
    shard.append([item(1, content=b"same"), item(2, content=b"same")])
    assert shard.content(0) == shard.content(1) == b"same"
    assert shard.size() == 2


def test_metadata_is_hashed_in_canonical_form(shard: Shard) -> None:
    answers = shard.append([item(1, meta={"b": 1, "a": "x"}), item(2, meta={"a": "x", "b": 1})])
    assert answers[0].entry.meta_hash == answers[1].entry.meta_hash
    assert shard.meta(0) == orjson.loads(b'{"a":"x","b":1}')


@pytest.mark.parametrize("index", [-1, 2, 2**64])
def test_what_is_not_there_is_not_found(shard: Shard, index: int) -> None:
    shard.append([item(1), item(2)])
    for read in (shard.entry, shard.content, shard.meta, shard.receipt):
        with pytest.raises(EntryNotFound):
            read(index)


def test_an_asset_id_of_another_width_is_refused(shard: Shard) -> None:
    with pytest.raises(EntryInvalid):
        shard.find(b"short")


def test_a_receipt_can_be_had_for_every_tree_that_holds_the_entry(shard: Shard, keys: LogKeys) -> None:
    for number in range(5):
        shard.append([item(number)])
    for size in (3, 4, 5):
        verified = verify(shard.receipt(2, size), keys.verifier_keys, b"content 2")
        assert (verified.index, verified.tree_size) == (2, size)
    for size in (0, 2, 6):
        with pytest.raises(EntryNotFound):
            shard.receipt(2, size)


def test_an_older_checkpoint_is_given_again_byte_for_byte(shard: Shard) -> None:
    shard.append([item(1), item(2), item(3)])
    published = shard.checkpoint()
    shard.append([item(4), item(5)])
    assert shard.receipt(0, 3).endswith(f"\n\n{published}")


def test_each_checkpoint_is_consistent_with_the_ones_before(shard: Shard, keys: LogKeys) -> None:
    roots = {}
    for number in range(6):
        shard.append([item(number)])
        checkpoint = open_checkpoint(shard.checkpoint(), [keys.signers[0].key])
        roots[checkpoint.tree_size] = checkpoint.root
    for old in range(1, 7):
        for new in range(old, 7):
            verify_consistency(old, new, roots[old], roots[new], shard.consistency(old, new))
    for old, new in ((0, 1), (3, 2), (1, 7)):
        with pytest.raises(EntryNotFound):
            shard.consistency(old, new)


def test_a_shard_is_not_opened_with_another_shards_signer(open_shard: Callable[..., Shard], keys: LogKeys) -> None:
    with pytest.raises(LogMismatch):
        open_shard(signer=keys.signers[1])
    with open_shard():
        pass
    with pytest.raises(LogMismatch, match="shard-0"):
        open_shard(shard=1, signer=keys.signers[1])


@pytest.mark.parametrize("lost", ["data.mdb", ""], ids=["the data", "the directory"])
@pytest.mark.parametrize("num_entries", [0, 3])
def test_a_shard_that_lost_its_data_is_never_begun_again(
    open_shard: Callable[..., Shard], tmp_path: Path, lost: str, num_entries: int
) -> None:
    with open_shard() as shard:
        shard.append([item(number) for number in range(num_entries)])
        checkpoint = shard.checkpoint()
    path = shard_path(tmp_path, 0)
    shutil.copytree(path, tmp_path / "copy")
    if lost:
        (path / lost).unlink()
    else:
        shutil.rmtree(path)
    for _ in range(2):
        with pytest.raises(LedgerCorrupt, match="begun before") as caught:
            open_shard()
        assert "from a copy" in caught.value.fix
    shutil.copytree(tmp_path / "copy", path, dirs_exist_ok=True)
    with open_shard() as shard:
        assert shard.checkpoint() == checkpoint


def test_a_crash_between_the_empty_tree_and_the_word_that_it_was_begun_loses_neither(
    open_shard: Callable[..., Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard_path(tmp_path, 0)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_module, "create_once", crash)
        with pytest.raises(KeyboardInterrupt):
            open_shard()
    assert not begun_path(path).exists()
    with open_shard() as shard:
        assert shard.size() == 0
    assert begun_path(path).read_text() == "mintage.local/shard-0\n"
    (path / "data.mdb").unlink()
    with pytest.raises(LedgerCorrupt, match="begun before"):
        open_shard()


def test_a_shard_is_not_called_begun_before_its_empty_tree_is_durable(
    open_shard: Callable[..., Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "_publish", crash)
        with pytest.raises(KeyboardInterrupt):
            open_shard()
    assert not begun_path(shard_path(tmp_path, 0)).exists()
    with open_shard() as shard:
        assert shard.append([item(1)])[0].status == "committed"


def test_a_shard_from_before_there_was_a_word_for_it_is_called_begun_when_it_is_opened(
    open_shard: Callable[..., Shard], tmp_path: Path
) -> None:
    with open_shard() as shard:
        shard.append([item(1)])
    begun_path(shard_path(tmp_path, 0)).unlink()
    with open_shard() as shard:
        assert shard.append([item(1)])[0].status == "exists"
    assert begun_path(shard_path(tmp_path, 0)).exists()


def test_closing_twice_is_harmless(open_shard: Callable[..., Shard]) -> None:
    shard = open_shard()
    shard.close()
    shard.close()
    open_shard().close()
