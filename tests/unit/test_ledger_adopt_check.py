"""The check of an edge in an interpreter of its own: it sees what any check sees, and inherits nothing."""

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ledger import fsck_afresh
from ledger.adopt import edge_signer
from ledger.entry import Kind, zeros
from ledger.fsck import CheckFailed
from ledger.fsck_afresh import Found, check_afresh, found_in
from ledger.log import shard_path
from ledger.note import Signer
from ledger.result import Result
from ledger.shard import Shard
from ledger.store import DATA_FILE, Store

EDGE = 17


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return edge_signer(tmp_path, "example.org/log", EDGE)


@pytest.fixture
def shard(tmp_path: Path, signer: Signer) -> Path:
    """A shard with two entries whose parent is in another."""
    entries = zeros(2)
    entries["kind"], entries["num_parents"] = Kind.MODEL, 1
    entries["id"] = np.array([bytes([1] * 16), bytes([2] * 16)], "V16")
    entries["parent_shards"][:, 0], entries["parent_indices"][:, 0] = 3, [50, 7]
    with Shard.open(shard_path(tmp_path, EDGE), EDGE, signer, lambda: 10**18, entropy=os.urandom) as open_shard:
        open_shard.cover(3, 100)
        assert (open_shard.append(entries).results == Result.OK).all()
    return shard_path(tmp_path, EDGE)


def test_it_sees_what_any_check_sees(shard: Path, signer: Signer) -> None:
    assert check_afresh(shard, signer.key) == found_in(shard, signer.key) == Found((), 0, {3: 50})
    file = shard / DATA_FILE
    file.write_bytes(file.read_bytes().replace(bytes([2] * 16), bytes([4] * 16)))
    found = check_afresh(shard, signer.key)
    assert found.problems
    assert found == found_in(shard, signer.key)


def test_another_key_is_a_problem(shard: Path, signer: Signer) -> None:
    other = Signer(signer.name, b"x" * 32).key
    assert [problem.where for problem in check_afresh(shard, other).problems] == [f"{shard.name} head"]


def test_it_inherits_no_lock_of_the_process_that_asks(
    shard: Path, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "links = [os.path.realpath(f'/proc/self/fd/{each}') for each in os.listdir('/proc/self/fd')]\n"
        f"open({str(tmp_path / 'open files')!r}, 'w').write('\\n'.join(links))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    home = Signer("example.org/log/shard-0", b"h" * 32)
    with Shard.open(tmp_path / "home", 0, home, lambda: 10**18, entropy=os.urandom):
        assert check_afresh(shard, signer.key).problems == ()
    assert [line for line in (tmp_path / "open files").read_text().splitlines() if str(tmp_path / "home") in line] == []


def test_a_check_with_a_defect_is_not_taken_for_a_sound_shard(
    shard: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsck_afresh, "_COMMAND", "1 // 0")
    with pytest.raises(CheckFailed, match="ended with 1"):
        check_afresh(shard, signer.key)


def test_a_shard_that_may_not_be_opened_is_not_taken_for_a_sound_one(
    shard: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert found_in(shard, signer.key).problems == ()
    with closing(Store.open(shard, map_bytes=1 << 28, lock_wait_s=0)):
        (told,) = found_in(shard, signer.key).problems
    assert "an owner has it open" in told.what
