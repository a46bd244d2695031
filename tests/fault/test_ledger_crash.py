"""A writer killed at any moment: what it acknowledged is there, nothing is settled twice, and the shard opens.

`MINTAGE_KILLS=300` kills as many writers as the ledger's evidence asks for; without it, a few.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from crash_checks import Acknowledged, check_whole, opened, repeat
from crash_load import make_small
from crash_writer import Record, read_records

from ledger.fsck import check

ROOT = Path(__file__).parents[2]
NUM_KILLS = int(os.environ.get("MINTAGE_KILLS", "20"))
KILLS_A_LOG = 20
LOAD_S_MAX = 0.15
"""A commit takes a millisecond or two, so a kill within so many falls anywhere inside one."""

PART_WHILE_OPENING = 0.3
OPEN_S_FIRST = 0.05


class Life(NamedTuple):
    """What became of one writer. `open_s`: 0 if it was killed before it had opened the shard."""

    open_s: float
    records: list[Record]


class Writers:
    """The process whose children are killed."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        command = [sys.executable, "tests/crash_writer.py"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, stdin=-1, stdout=-1, text=True
        )
        assert self._answer() == "ready"

    def live(self, path: Path, life: int, kill_s: float, begin: str) -> Life:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\t{life}\t{kill_s}\t{begin}\n")
        self._process.stdin.flush()
        open_s, records = self._answer().split("\t")
        return Life(float(open_s), read_records(bytes.fromhex(records)))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    writers = Writers()
    yield writers
    writers.close()


@pytest.mark.timeout(60 + 3 * NUM_KILLS)
def test_whatever_a_killed_writer_acknowledged_is_there_once_and_the_shard_goes_on(
    tmp_path: Path,
    writers: Writers,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    make_small(monkeypatch.setattr)
    seen: Counter[str] = Counter()
    for number in range(0, NUM_KILLS, KILLS_A_LOG):
        kill_all(tmp_path / f"log-{number}", writers, min(KILLS_A_LOG, NUM_KILLS - number), number, seen)
    for what, number in seen.items():
        record_property(what, number)
    assert seen["killed while opening"] and seen["killed at work"], seen
    assert seen["calls repeated that were not recorded"] or seen["calls repeated that were recorded"], seen


def kill_all(path: Path, writers: Writers, num_kills: int, seed: int, seen: Counter[str]) -> None:
    """One log and its writers, each of which goes on where the one before was killed."""
    chance, acknowledged, open_s = random.Random(seed), Acknowledged(path), OPEN_S_FIRST
    for life in range(1, num_kills + 1):
        if chance.random() < PART_WHILE_OPENING:
            lived = writers.live(path, life, chance.uniform(0, 1.2 * open_s), "begin")
        else:
            lived = writers.live(path, life, chance.uniform(0, LOAD_S_MAX), "opened")
        open_s = lived.open_s or open_s
        acknowledged.add(life, lived.records)
        seen["killed at work" if lived.open_s else "killed while opening"] += 1
        with opened(path) as shard:
            check_whole(shard, acknowledged, chance, (seed, life))
            repeat(shard, acknowledged, chance, seen)
    report = check(path)
    assert report.problems == (), seed
    seen["entries"] += report.num_entries
    seen["calls acknowledged"] += len(acknowledged.first)
