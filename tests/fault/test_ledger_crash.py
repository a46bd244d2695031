"""A writer killed at any moment: what it acknowledged is there, nothing is settled twice, and the shard opens.

`MINTAGE_KILLS=300` kills as many writers as the ledger's evidence asks for; without it, a few.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from crash_load import (
    NAME,
    NUM_CALLERS,
    SETUP,
    SIZES,
    SNAPSHOT_ENTRIES,
    START_NS,
    Call,
    Name,
    call_of,
    content_of,
    erasure_of,
    has_content,
    id_of,
)
from crash_writer import BEGUN, DONE, FAILED, HEAD, OPENED, Record, read_records

from ledger.book import Book
from ledger.entry import ENTRY_BYTES, Kind, as_bytes, from_bytes
from ledger.errors import EntryNotFound
from ledger.fsck import check
from ledger.log import open_keys, shard_path
from ledger.merkle import verify_consistency
from ledger.note import read_checkpoint
from ledger.receipt import verify
from ledger.result import Result
from ledger.sha256 import leaf_hashes
from ledger.shard import Shard
from ledger.tree import Edge

ROOT = Path(__file__).parents[2]
NUM_KILLS = int(os.environ.get("MINTAGE_KILLS", "20"))
KILLS_A_LOG = 20
LOAD_S_MAX = 0.15
"""A commit takes a millisecond or two, so a kill within so many falls anywhere inside one."""

PART_WHILE_OPENING = 0.3
OPEN_S_FIRST = 0.05
NUM_SAMPLES = 12
ASSIGNED = ((0, 2), (6, 16))  # bytes of an entry that the shard fills in: version; shard and time
PAYLOAD_KINDS = [Kind.ASSET, Kind.DERIVATION]


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


class Acknowledged:
    """Everything that the writers of a log have promised."""

    def __init__(self) -> None:
        self.first: dict[Name, int] = {}
        self.roots: dict[int, bytes] = {}
        self.unanswered: list[Name] = []

    def add(self, life: int, records: list[Record]) -> None:
        begun = []
        for record in records:
            name = Name(life, record.stream, record.number)
            if record.kind == BEGUN:
                begun.append(name)
            elif record.kind == DONE:
                assert record.num_entries == len(call_of(name).entries)
                self.first[name] = record.first
            elif record.kind == HEAD:
                assert self.roots.setdefault(record.first, record.root) == record.root
            assert record.kind != FAILED, record.root
        self.unanswered = [name for name in begun if name not in self.first]


@pytest.mark.timeout(60 + 3 * NUM_KILLS)
def test_whatever_a_killed_writer_acknowledged_is_there_once_and_the_shard_goes_on(
    tmp_path: Path, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.shard.SNAPSHOT_ENTRIES_MIN", SNAPSHOT_ENTRIES)
    seen: Counter[str] = Counter()
    for number in range(0, NUM_KILLS, KILLS_A_LOG):
        kill_all(tmp_path / f"log-{number}", writers, min(KILLS_A_LOG, NUM_KILLS - number), number, seen)
    print(dict(seen))
    assert seen["killed while opening"] and seen["killed at work"], seen
    assert seen["calls repeated that were not recorded"] or seen["calls repeated that were recorded"], seen


def kill_all(path: Path, writers: Writers, num_kills: int, seed: int, seen: Counter[str]) -> None:
    """One log and its writers, each of which goes on where the one before was killed."""
    chance, acknowledged, open_s = random.Random(seed), Acknowledged(), OPEN_S_FIRST
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


def opened(path: Path) -> Shard:
    keys = open_keys(path, NAME, 1)
    return Shard.open(
        shard_path(path, 0), 0, keys.signers[0], lambda: START_NS, entropy=os.urandom, lock_wait_s=0, sizes=SIZES
    )


def check_whole(shard: Shard, acknowledged: Acknowledged, chance: random.Random, where: tuple[int, int]) -> None:
    """The tree, the ids and the balances are those of the entries; and what was promised is among them."""
    data = shard.read_entries(0, shard.tree_size)
    entries = from_bytes(data)
    assert Edge(0, {}).extended(leaf_hashes(as_bytes(entries)))[0].root() == root_of(shard), where
    assert len(np.unique(entries["id"].view("V16"))) == len(entries), where
    book = Book(b"another")
    book.replay(entries, 0)
    assert shard.book.snapshot() == book.snapshot(), where
    for debits, credits, held_debits, held_credits in book.trial_balance().values():
        assert (debits, held_debits) == (credits, held_credits), where
    check_entries(shard, entries, acknowledged, where)
    check_checkpoints(shard, acknowledged, chance, where)
    check_samples(shard, acknowledged, chance, where)


def root_of(shard: Shard) -> bytes:
    return read_checkpoint(shard.checkpoint()).root


def check_entries(shard: Shard, entries: np.ndarray, acknowledged: Acknowledged, where: tuple[int, int]) -> None:
    """Every acknowledged entry is at its index with its bytes, but for what the shard fills in."""
    calls = {first: call_of(name).entries for name, first in acknowledged.first.items()}
    indices = np.concatenate(
        [np.arange(first, first + len(call)) for first, call in calls.items()] or [np.zeros(0, int)]
    )
    assert indices.max(initial=-1) < shard.tree_size, where
    expected = as_bytes(np.concatenate([*calls.values(), entries[:0]])).copy()
    recorded = as_bytes(entries[indices]).copy()
    for begin, end in ASSIGNED:
        expected[:, begin:end] = recorded[:, begin:end] = 0
    assert (expected == recorded).all(), where
    assert (np.diff(entries["time_ns"].astype(np.int64)) > 0).all(), where


def check_checkpoints(shard: Shard, acknowledged: Acknowledged, chance: random.Random, where: tuple[int, int]) -> None:
    """Checkpoints that were given out are of trees that this one grew out of; the newest always among them."""
    sizes = sorted(size for size in acknowledged.roots if size)
    for size in {*sizes[-1:], *chance.sample(sizes, min(NUM_SAMPLES, len(sizes)))}:
        proof = shard.consistency(size, shard.tree_size)
        verify_consistency(size, shard.tree_size, acknowledged.roots[size], root_of(shard), proof)


def check_samples(shard: Shard, acknowledged: Acknowledged, chance: random.Random, where: tuple[int, int]) -> None:
    """Some entries are found by id and their receipts verify; contents are there unless they were erased."""
    keys = [str(shard._signer.key)]
    names = list(acknowledged.first)
    for name in {*names[-NUM_CALLERS:], *chance.sample(names, min(NUM_SAMPLES, len(names)))}:
        if name.stream == SETUP:
            continue
        index = acknowledged.first[name]
        assert shard.find(id_of(name, 0)) == index, where
        assert verify(shard.receipt(index), keys).index == index
        if not has_content(name):
            continue
        if shard.find(id_of(erasure_of(name), 0)) is None:
            assert shard.content(index) == content_of(name), where
        else:
            with pytest.raises(EntryNotFound):
                shard.content(index)


def repeat(shard: Shard, acknowledged: Acknowledged, chance: random.Random, seen: Counter[str]) -> None:
    """Whoever had no answer asks again, and is told so; whoever had one gets the same."""
    answered = chance.sample(list(acknowledged.first), min(NUM_SAMPLES, len(acknowledged.first)))
    for name in answered:
        assert repeated(shard, call_of(name)) == (Result.EXISTS, acknowledged.first[name]), name
    if Name(0, SETUP, 0) not in acknowledged.first:
        acknowledged.unanswered.insert(0, Name(0, SETUP, 0))
    for name in acknowledged.unanswered:
        result, first = repeated(shard, call_of(name))
        assert result in (Result.OK, Result.EXISTS), name
        assert repeated(shard, call_of(name)) == (Result.EXISTS, first), name
        acknowledged.first[name] = first
        seen[f"calls repeated that were {'not ' if result == Result.OK else ''}recorded"] += 1


def repeated(shard: Shard, call: Call) -> tuple[Result, int]:
    """The one answer to all entries of a call, and the index of its first; it is recorded as a whole or not at all."""
    appended = shard.append(call.entries, call.payloads)
    (result,) = set(appended.results.tolist())
    first = int(appended.indices[0])
    assert appended.indices.tolist() == list(range(first, first + len(call.entries)))
    return Result(result), first
