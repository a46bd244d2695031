"""What a power cut leaves of a commit: the acknowledged entries, and a shard that opens.

A commit of LMDB, opened without flags as `ledger.store` does it (mdb.c, `mdb_txn_commit`):

    1. its pages are written, all of them in places that no page of the last two commits has      (`mdb_page_flush`)
    2. fdatasync                                                                                   (`mdb_env_sync0`)
    3. one of the two meta pages, in turn, is written through a descriptor opened with O_DSYNC      (`mdb_env_write_meta`)

Until 2 is done the disk may have any of the new pages, whole or by sectors, and a file of any length between; the newest
valid meta page is the old one, and nothing that it leads to was touched. Step 3 writes 120 bytes within one sector,
which a disk writes whole or not at all; when it does, the pages are there. So the states that hardware can leave are
these: any part of the new sectors under the old meta pages, and all of them under the new one.

Each is replayed here from the file before and after a commit. The states that no hardware leaves, which synced in the
order of 1 to 3, are replayed, too: a meta page before its pages, and a file cut off. Those must be detected.
"""

import faulthandler
import os
import random
import resource
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pytest
from crash_checks import Acknowledged, check_whole, opened, repeat
from crash_load import BATCHES, NUM_CALLERS, SETUP, SNAPSHOT_ENTRIES, Name, call_of

from ledger.entry import ENTRY_BYTES
from ledger.errors import LedgerCorrupt, LedgerError
from ledger.fsck import check
from ledger.log import begun_path, shard_path
from ledger.reader import PAGE_MAX
from ledger.shard import Shard
from ledger.store import DATA_FILE, NEW_FILE, READERS_FILE

NUM_STATES = 3 * int(os.environ.get("MINTAGE_KILLS", "20"))
PAGE, SECTOR = 4096, 512
META_WRITTEN = (32, 152)  # bytes of a meta page that a commit writes: mdb.c, from mm_mapsize to mm_txnid
NUM_ROUNDS = 60
NUM_COMMITS = 16
"""The last of the rounds, which are replayed."""

NUM_IMPOSSIBLE = 10
NUM_APPENDS = 10
LOCK_BYTES = 8192


class Commit(NamedTuple):
    """The data file before and after a commit, and how many entries each has."""

    before: bytes
    after: bytes
    size_before: int
    size_after: int
    name: Name


class History(NamedTuple):
    """A log, what it has acknowledged before each of its last commits, and those."""

    path: Path
    commits: list[tuple[Commit, Acknowledged]]


def names() -> Iterator[Name]:
    """Batches and small calls of all kinds, in turn."""
    for number in range(NUM_ROUNDS // 2):
        yield Name(1, BATCHES, number)
        yield Name(1, 1, number)


def answered(shard: Shard, name: Name) -> int:
    """Record a call that is new, and what expires; the index of its first entry."""
    call = call_of(name)
    appended = shard.append(call.entries, call.payloads)
    assert not appended.results.any(), appended.results
    return int(appended.indices[0])


@pytest.fixture(scope="module", autouse=True)
def small_snapshots() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.writer.SNAPSHOT_ENTRIES_MIN", SNAPSHOT_ENTRIES)
        yield


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, small_snapshots: None) -> History:
    path = tmp_path_factory.mktemp("torn") / "log"
    acknowledged, commits = Acknowledged(path), []
    file = shard_path(path, 0) / DATA_FILE
    with opened(path) as shard:
        acknowledged.answer(Name(0, SETUP, 0), answered(shard, Name(0, SETUP, 0)))
        for name in names():
            size, before, known = shard.tree_size, file.read_bytes(), acknowledged.copy()
            acknowledged.answer(name, answered(shard, name))
            acknowledged.give_out(shard)
            commits.append((Commit(before, file.read_bytes(), size, shard.tree_size, name), known))
    return History(path, commits[-NUM_COMMITS:])


def sectors(data: bytes) -> list[bytes]:
    return [data[begin : begin + SECTOR] for begin in range(0, len(data), SECTOR)]


def is_meta(sector: int) -> bool:
    return sector < 2 * PAGE // SECTOR


def partly(commit: Commit, chance: random.Random) -> bytes:
    """The file before a commit with some of its sectors, whole pages or not, and perhaps a part of its new length."""
    old, new = sectors(commit.before), sectors(commit.after)
    length = chance.choice([len(old), len(new), chance.randint(len(old), len(new))])
    state = [*old, *(bytes(SECTOR) for _ in range(length - len(old)))]
    part, unit = chance.choice([0.02, 0.5, 0.98, 1.0]), chance.choice([1, PAGE // SECTOR])
    for begin in range(0, length, unit):
        if chance.random() < part:
            for sector in range(begin, min(begin + unit, length)):
                state[sector] = state[sector] if is_meta(sector) else new[sector]
    return b"".join(state)


def without_some(commit: Commit, chance: random.Random) -> bytes:
    """The file after a commit, but some of its pages were not written. No hardware leaves that."""
    old, new = sectors(commit.before), sectors(commit.after)
    old += [bytes(SECTOR)] * (len(new) - len(old))
    unit = PAGE // SECTOR
    changed = [page for page in range(2, len(new) // unit) if old[page * unit :][:unit] != new[page * unit :][:unit]]
    for page in chance.sample(changed, chance.randint(1, len(changed))):
        new[page * unit : (page + 1) * unit] = old[page * unit : (page + 1) * unit]
    return b"".join(new)


def lay(path: Path, state: bytes, chance: random.Random) -> None:
    """The shard as the machine finds it when it is on again; LMDB's table of readers is never synced."""
    (shard_path(path, 0) / DATA_FILE).write_bytes(state)
    (shard_path(path, 0) / READERS_FILE).write_bytes(chance.randbytes(LOCK_BYTES))


def test_a_commit_writes_its_meta_page_within_one_sector(history: History) -> None:
    for commit, _ in history.commits:
        changed = [place for place in range(2 * PAGE) if commit.before[place] != commit.after[place]]
        begin, end = META_WRITTEN
        assert {place // PAGE for place in changed} in ({0}, {1})
        assert all(begin <= place % PAGE < end <= SECTOR for place in changed)


@pytest.mark.timeout(60 + NUM_STATES)
def test_no_part_of_a_commit_that_a_power_cut_leaves_harms_what_was_acknowledged(history: History) -> None:
    chance, seen = random.Random(1), Counter[str]()
    for number in range(NUM_STATES):
        commit, known = history.commits[number % len(history.commits)]
        acknowledged = known.copy()
        lay(history.path, partly(commit, chance), chance)
        with opened(history.path) as shard:
            assert shard.tree_size == commit.size_before, number
            check_whole(shard, acknowledged, chance, (1, number))
            acknowledged.unanswered = [commit.name]
            repeat(shard, acknowledged, chance, seen)
            check_whole(shard, acknowledged, chance, (1, number))
        if number % NUM_COMMITS == 0:
            assert check(history.path).problems == (), number
    assert seen == {"calls repeated that were not recorded": NUM_STATES}


def test_a_power_cut_after_a_commit_leaves_all_of_it(history: History) -> None:
    chance, seen = random.Random(2), Counter[str]()
    for number, (commit, known) in enumerate(history.commits):
        acknowledged = known.copy()
        lay(history.path, commit.after, chance)
        with opened(history.path) as shard:
            assert shard.tree_size == commit.size_after
            acknowledged.unanswered = [commit.name]
            repeat(shard, acknowledged, chance, seen)
            check_whole(shard, acknowledged, chance, (2, number))
    assert seen == {"calls repeated that were recorded": NUM_COMMITS}


def test_one_power_cut_after_the_other_loses_nothing(history: History) -> None:
    """The machine fails in every commit; sometimes what the next finds is what the one before had left half done."""
    chance, seen = random.Random(3), Counter[str]()
    commit, known = history.commits[0]
    acknowledged, state, file = known.copy(), commit.before, shard_path(history.path, 0) / DATA_FILE
    for number in range(NUM_STATES // 2):
        lay(history.path, state, chance)
        name = Name(2, chance.choice([BATCHES, *range(1, NUM_CALLERS + 1)]), 5 * number)
        with opened(history.path) as shard:
            check_whole(shard, acknowledged, chance, (3, number))
            size, before = shard.tree_size, file.read_bytes()
            first = answered(shard, name)
            done = Commit(before, file.read_bytes(), size, shard.tree_size, name)
            is_durable = chance.random() < 0.5
            if is_durable:
                acknowledged.answer(name, first)
                acknowledged.give_out(shard)
            seen["durable" if is_durable else "lost"] += 1
        state = done.after if is_durable else partly(done, chance)
    lay(history.path, state, chance)
    assert check(history.path).problems == ()
    assert seen["durable"] and seen["lost"], seen


@pytest.mark.parametrize("left", [b"", bytes(PAGE), bytes(2 * PAGE), b"half of a" * 2000])
def test_a_power_cut_while_a_shard_is_made_leaves_one_that_can_be_made(tmp_path: Path, left: bytes) -> None:
    directory = shard_path(tmp_path / "log", 0)
    with opened(tmp_path / "log"):
        pass
    begun_path(directory).unlink()
    (directory / DATA_FILE).unlink()
    (directory / NEW_FILE).write_bytes(left)
    with opened(tmp_path / "log") as shard:
        assert answered(shard, Name(0, SETUP, 0)) == 0
    assert not (directory / NEW_FILE).exists()
    assert check(tmp_path / "log").problems == ()


def rows_of(shard: Shard, num_entries: int) -> bytes:
    """The first entries, each checked against its leaf."""
    pages = [range(begin, min(begin + PAGE_MAX, num_entries)) for begin in range(0, num_entries, PAGE_MAX)]
    return b"".join([shard.reader().rows(page).tobytes() for page in pages])


def is_silently_wrong(path: Path, expected: bytes) -> bool:
    """Whether a shard gives other entries than expected, at once or after some more appends, and says nothing."""
    num_entries = len(expected) // ENTRY_BYTES
    try:
        with opened(path) as shard:
            if shard.tree_size != num_entries or rows_of(shard, num_entries) != expected:
                return True
            for number in range(NUM_APPENDS):
                answered(shard, Name(9, BATCHES, number))
            return rows_of(shard, num_entries) != expected
    except LedgerError:
        return False


def _exit_with_verdict(path: Path, expected: bytes) -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os._exit(is_silently_wrong(path, expected))


def exit_code_of_verdict(path: Path, expected: bytes) -> int:
    """Of a process that asks `is_silently_wrong`: LMDB trusts its pages, and damaged ones may kill it (-signal)."""
    process = get_context("fork").Process(target=_exit_with_verdict, args=(path, expected))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def expected_of(history: History, commit: Commit, chance: random.Random) -> bytes:
    """The entries after a commit."""
    lay(history.path, commit.after, chance)
    with opened(history.path) as shard:
        return rows_of(shard, shard.tree_size)


def test_a_meta_page_before_its_pages_is_found_by_fsck_or_does_no_harm(history: History) -> None:
    """No disk that syncs leaves that; one that lies about it does."""
    chance, seen = random.Random(4), Counter[str]()
    for number in range(NUM_IMPOSSIBLE):
        commit, _ = chance.choice(history.commits)
        expected = expected_of(history, commit, chance)
        lay(history.path, without_some(commit, chance), chance)
        is_found = bool(check(history.path).problems)
        exit_code = exit_code_of_verdict(history.path, expected)
        assert is_found or exit_code == 0, number
        seen["found" if is_found else "no harm"] += 1
    assert seen["found"] > NUM_IMPOSSIBLE // 2, seen


def test_a_file_that_was_cut_off_is_found(history: History) -> None:
    """No disk that syncs leaves that. The owner, who cannot know why a file ends early, opens it or not; fsck knows."""
    chance = random.Random(5)
    for number in range(NUM_IMPOSSIBLE):
        commit, _ = chance.choice(history.commits)
        expected = expected_of(history, commit, chance)
        num_lost = chance.choice([1, SECTOR, PAGE, chance.randint(1, len(commit.after) // 2)])
        lay(history.path, commit.after[:-num_lost], chance)
        (problem,) = check(history.path).problems
        assert f"ends {num_lost} bytes before its last page" in problem.what, number
        exit_code = exit_code_of_verdict(history.path, expected)
        assert check(history.path).problems or exit_code == 0, number


@pytest.mark.parametrize("meta", [0, 1])
def test_a_meta_page_that_is_none_is_named(history: History, meta: int) -> None:
    """No power cut leaves that: a commit writes a part of the page that has no mark of what it is."""
    chance = random.Random(6)
    state = bytearray(history.commits[-1][0].after)
    state[meta * PAGE : (meta + 1) * PAGE] = chance.randbytes(PAGE)
    lay(history.path, bytes(state), chance)
    with pytest.raises(LedgerCorrupt, match="not an LMDB file"):
        opened(history.path)
    lay(history.path, history.commits[-1][0].after, chance)
    with opened(history.path) as shard:
        assert shard.tree_size == history.commits[-1][0].size_after
