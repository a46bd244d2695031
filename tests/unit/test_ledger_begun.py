"""The file beside a shard's directory that says that its log was begun, and the crashes around writing it."""

from pathlib import Path

import pytest
from shards import append_assets, open_shard

from ledger import resume
from ledger.errors import LedgerCorrupt
from ledger.log import begun_path, shard_path
from ledger.note import Signer
from ledger.result import Result


def crash(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_crash_between_the_empty_tree_and_the_word_that_it_was_begun_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard_path(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(resume, "create_once", crash)
        with pytest.raises(KeyboardInterrupt):
            open_shard(tmp_path)
    assert not begun_path(path).exists()
    with open_shard(tmp_path) as shard:
        assert shard.tree_size == 0
    assert begun_path(path).read_text() == "mintage.local/shard-0\n"
    (path / "data.mdb").unlink()
    with pytest.raises(LedgerCorrupt, match="begun before") as caught:
        open_shard(tmp_path)
    assert "from a copy" in caught.value.fix


def test_a_shard_is_not_called_begun_before_its_empty_tree_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Signer, "sign", crash)
        with pytest.raises(KeyboardInterrupt):
            open_shard(tmp_path)
    assert not begun_path(shard_path(tmp_path, 0)).exists()
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [1]) == [Result.OK]


def test_a_shard_that_lost_the_word_that_it_was_begun_gets_it_again_when_it_is_opened(tmp_path: Path) -> None:
    with open_shard(tmp_path) as shard:
        append_assets(shard, [1])
    begun_path(shard_path(tmp_path, 0)).unlink()
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [1]) == [Result.EXISTS]
    assert begun_path(shard_path(tmp_path, 0)).read_text() == "mintage.local/shard-0\n"


def test_what_was_begun_is_not_begun_again_under_a_store_that_was_just_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data may be lost after the first look at it: the store is empty then, and the word is there."""
    with open_shard(tmp_path) as shard:
        append_assets(shard, [1])
    (shard_path(tmp_path, 0) / "data.mdb").unlink()
    monkeypatch.setattr(resume, "has_data", lambda _: True)
    for _ in range(2):
        with pytest.raises(LedgerCorrupt, match="begun before"):
            open_shard(tmp_path)


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    shard = open_shard(tmp_path)
    shard.close()
    shard.close()
    open_shard(tmp_path).close()
