"""One owner a shard: a second one is told so, a dead one does not hold it, and who only reads asks nobody."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shards import append_assets, keys_of, open_shard

from ledger.errors import LedgerCorrupt, LedgerLocked
from ledger.files import LOCK_POLL_S, hold_lock
from ledger.fsck import check_shard
from ledger.log import shard_path
from ledger.reader import Reader
from ledger.result import Result
from ledger.store import READERS_MAX

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from shards import append_assets, open_shard
with open_shard(Path(sys.argv[1])) as shard:
    append_assets(shard, [1])
    print("owned", flush=True)
    sys.stdin.readline()
"""
READERS = """
import os, signal, sys
from pathlib import Path
from ledger.errors import LedgerError
from ledger.store import Store
receiver, sender = os.pipe()
readers = []
for _ in range(int(sys.argv[2])):
    readers.append(os.fork())
    if not readers[-1]:
        try:
            with Store.open_readonly(Path(sys.argv[1])).read() as snapshot:
                assert snapshot.state("head")
                os.write(sender, b"looking ")
                signal.pause()
        except LedgerError:
            os.write(sender, b"no place")
        os._exit(0)
    if os.read(receiver, 8) == b"no place":
        print("no place")
        break
for reader in readers:
    os.kill(reader, signal.SIGKILL)
    os.waitpid(reader, 0)
"""
NUM_APPENDS = 100
GROWTH_BYTES_MAX = 1 << 20


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the shard until it reads a line or is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "owned\n"
        yield process
        process.kill()


def kill_readers(path: Path, num_readers: int) -> str:
    """So many processes look at the shard of a log, and all are killed; "no place" if the last found none."""
    command = [sys.executable, "-c", READERS, str(shard_path(path, 0)), str(num_readers)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_a_second_owner_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with open_shard(tmp_path) as shard:
        with pytest.raises(LedgerLocked) as caught:
            open_shard(tmp_path)
        assert caught.value.where.endswith("shard-000/owner.lock")
        assert append_assets(shard, [1]) == [Result.OK]
    with open_shard(tmp_path) as shard:
        assert shard.tree_size == 1


def test_a_second_owner_in_another_process_is_refused_until_the_first_one_leaves(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    with pytest.raises(LedgerLocked):
        open_shard(tmp_path)
    assert owner.poll() is None
    owner.communicate("\n")
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [1, 2]) == [Result.EXISTS, Result.OK]


def test_a_killed_owner_does_not_hold_the_shard(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [1, 2]) == [Result.EXISTS, Result.OK]


def test_an_owner_that_leaves_in_time_is_waited_for(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    assert owner.stdin is not None
    owner.stdin.write("\n")
    owner.stdin.flush()
    with open_shard(tmp_path, lock_wait_s=30) as shard:
        assert shard.tree_size == 1


def test_waiting_for_the_lock_ends_after_the_given_time(tmp_path: Path) -> None:
    slept: list[float] = []
    hold_lock(tmp_path / "lock", 0)
    with pytest.raises(LedgerLocked):
        hold_lock(tmp_path / "lock", 1.0, sleep=slept.append)
    assert sum(slept) == pytest.approx(1.0, abs=LOCK_POLL_S)


def test_who_only_reads_reads_a_shard_that_somebody_else_owns(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    report = check_shard(shard_path(tmp_path, 0), keys_of(tmp_path).signers[0].key)
    assert (report.problems, report.num_entries) == ((), 1)
    with Reader.open(shard_path(tmp_path, 0)) as reader:
        assert reader.tree_size == 1
    assert owner.poll() is None


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
        assert shard.tree_size == 0


def test_readers_that_were_killed_take_no_place_from_others(tmp_path: Path) -> None:
    """LMDB's table has places for a limited number of readers, and the killed keep theirs."""
    with open_shard(tmp_path) as shard:
        append_assets(shard, [1])
        for _ in range(2):
            assert kill_readers(tmp_path, READERS_MAX + 1) == "no place"
            assert shard.entry(0)
        assert kill_readers(tmp_path, READERS_MAX + 1) == "no place"
        assert append_assets(shard, [2]) == [Result.OK]
        assert kill_readers(tmp_path, 2) == ""


def test_what_readers_that_were_killed_had_in_use_is_used_again(tmp_path: Path) -> None:
    """Else the file grew by some ten pages with every commit until the owner was restarted."""
    with open_shard(tmp_path) as shard:
        append_assets(shard, [0])
        kill_readers(tmp_path, 1)
        file = shard_path(tmp_path, 0) / "data.mdb"
        num_bytes = file.stat().st_size
        for number in range(1, NUM_APPENDS):
            append_assets(shard, [number])
        assert file.stat().st_size - num_bytes < GROWTH_BYTES_MAX
