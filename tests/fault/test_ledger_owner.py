"""One owner a shard: a second one is told so, a dead one does not hold it, and fsck asks nobody."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.entry import Kind
from ledger.errors import LedgerCorrupt, LedgerLocked
from ledger.files import LOCK_POLL_S, hold_lock
from ledger.fsck import check
from ledger.log import open_keys, shard_path
from ledger.shard import NewEntry, Shard

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
sys.path.insert(0, "tests/fault")
from pathlib import Path
from test_ledger_owner import ITEM, open_shard
with open_shard(Path(sys.argv[1])) as shard:
    shard.append([ITEM])
    print("owned", flush=True)
    sys.stdin.readline()
"""
ITEM = NewEntry(Kind.ASSET, b"a" * 16, b"content", b"r" * 32, "acme")


def open_shard(path: Path, lock_wait_s: float = 0) -> Shard:
    keys = open_keys(path, "mintage.local", 1)
    return Shard.open(shard_path(path, 0), shard=0, signer=keys.signers[0], now_ms=lambda: 1, lock_wait_s=lock_wait_s)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the shard until it reads a line or is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "owned\n"
        yield process
        process.kill()


def test_a_second_owner_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with open_shard(tmp_path) as shard:
        with pytest.raises(LedgerLocked) as caught:
            open_shard(tmp_path)
        assert caught.value.where.endswith("shard-000/owner.lock")
        assert shard.append([ITEM])[0].index == 0


def test_a_second_owner_in_another_process_is_refused(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    with pytest.raises(LedgerLocked):
        open_shard(tmp_path)
    assert owner.poll() is None


def test_a_killed_owner_does_not_hold_the_shard(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    with open_shard(tmp_path) as shard:
        assert shard.size() == 1


def test_an_owner_that_leaves_in_time_is_waited_for(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    assert owner.stdin is not None
    owner.stdin.write("\n")
    owner.stdin.flush()
    with open_shard(tmp_path, lock_wait_s=30) as shard:
        assert shard.size() == 1


def test_waiting_for_the_lock_ends_after_the_given_time(tmp_path: Path) -> None:
    slept: list[float] = []
    hold_lock(tmp_path / "lock", 0)
    with pytest.raises(LedgerLocked):
        hold_lock(tmp_path / "lock", 1.0, sleep=slept.append)
    assert sum(slept) == pytest.approx(1.0, abs=LOCK_POLL_S)


def test_fsck_reads_a_shard_that_somebody_else_owns(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    report = check(tmp_path)
    assert (report.problems, report.num_entries) == ((), 1)
    assert owner.poll() is None


def test_fsck_in_the_owners_own_process_says_why_it_cannot(tmp_path: Path) -> None:
    with open_shard(tmp_path):
        (problem,) = check(tmp_path).problems
    assert "already open in this process" in problem.what


def test_a_shard_that_failed_to_open_is_given_back(tmp_path: Path) -> None:
    with open_shard(tmp_path):
        pass
    file = shard_path(tmp_path, 0) / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(LedgerCorrupt):
            open_shard(tmp_path)
    file.write_bytes(whole)
    with open_shard(tmp_path) as shard:
        assert shard.size() == 0
