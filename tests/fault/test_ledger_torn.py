"""What a power cut leaves of a write: every entry that was acknowledged, and a shard that opens.

A commit of LMDB, opened without flags as `ledger.store` does it (mdb.c, `mdb_txn_commit`):

    1. its pages are written, all of them in places that no page of the last two commits has   (`mdb_page_flush`)
    2. fdatasync                                                                                (`mdb_env_sync0`)
    3. one of the two meta pages, in turn, through a descriptor opened with O_DSYNC             (`mdb_env_write_meta`)

Until 2 is done the disk may have any of the new pages, whole or by sectors, and a file of any length between; the
newest meta page is the old one, and nothing that it leads to was touched. Step 3 writes 120 bytes within one sector,
which a disk writes whole or not at all; when it does, the pages are there. So hardware can leave any part of the new
sectors under the old meta pages, or all of them under the new one.
A record of the write-ahead log is written into blocks that the file has, and counts if its checksum holds. Hardware
can leave any of its sectors.

Those states are replayed here from the files before and after a write. The states that no disk leaves, which synced
when it said so, are replayed, too: a meta page before its pages, a file cut off, a record that is broken though later
ones are there. They must be detected.
"""

import faulthandler
import os
import random
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from crash_checks import Acknowledged, check_whole, opened, repeat
from crash_load import BATCHES, NUM_CALLS_ROUND, SETUP, Name, call_of, make_small
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES
from ledger.errors import LedgerCorrupt, LedgerError
from ledger.fsck import check
from ledger.log import begun_path, shard_path
from ledger.reader import PAGE_MAX
from ledger.shard import Shard
from ledger.store import DATA_FILE, NEW_FILE, READERS_FILE
from ledger.wal import FILE_NAMES, Record

NUM_STATES = 3 * int(os.environ.get("MINTAGE_KILLS", "20"))
PAGE, SECTOR = 4096, 512
META_BYTES = 2 * PAGE
META_WRITTEN = (32, 152)  # bytes of a meta page that a commit writes: mdb.c, from mm_mapsize to mm_txnid
NUM_ROUNDS = 20
NUM_WRITES = 24
"""The last ones of the rounds, which are replayed."""

NUM_IMPOSSIBLE = 6
NUM_APPENDS = 10
WRITES_A_LIFE, NEXT_LIFE = 25, 10**6
FILES = (DATA_FILE, *FILE_NAMES)

Image = dict[str, bytes]
"""The files of a shard."""


class How(Enum):
    """How a call is recorded."""

    APPEND = 1
    SEQUENCE = 2
    INTEGRATE = 3


class Write(NamedTuple):
    """A write of a shard: its files and the number of entries before and after; the call, if it was for one."""

    before: Image
    after: Image
    size_before: int
    size_after: int
    name: Name | None


class History(NamedTuple):
    """A log, and its last writes with what had been acknowledged before each."""

    path: Path
    writes: list[tuple[Write, Acknowledged]]


def image_of(path: Path) -> Image:
    directory = shard_path(path, 0)
    return {name: (directory / name).read_bytes() for name in FILES if (directory / name).exists()}


def lay(path: Path, image: Image, chance: random.Random) -> None:
    """The shard as the machine finds it when it is on again; nobody syncs LMDB's table of readers."""
    directory = shard_path(path, 0)
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    for name, data in image.items():
        (directory / name).write_bytes(data)
    (directory / READERS_FILE).write_bytes(chance.randbytes((directory / READERS_FILE).stat().st_size))


class Recorder:
    """Writes into a shard, and what each changes on disk."""

    def __init__(self, path: Path, shard: Shard, acknowledged: Acknowledged, size: int) -> None:
        self.path = path
        self.shard = shard
        self.acknowledged = acknowledged
        self.size = size

    def write(self, name: Name, how: How) -> Write:
        """Record a call that is new, in one commit or in the write-ahead log; it is not acknowledged yet. Or integrate
        what is there, and have the call recorded and acknowledged meanwhile."""
        if how == How.INTEGRATE:
            return self._integrate(name)
        before, size, call = image_of(self.path), self.size, call_of(name)
        record = self.shard.append if how == How.APPEND else self.shard.sequence
        appended = record(call.entries, call.payloads)
        assert not appended.results.any(), appended.results
        assert int(appended.indices[0]) == size
        self.size += len(call.entries)
        return Write(before, image_of(self.path), size, self.size, name)

    def _integrate(self, name: Name) -> Write:
        writer, before = self.shard._writer, image_of(self.path)
        integrate = writer._integrate

        def integrate_after_call(pending: Sequence[Record], turn: AbstractContextManager[object]) -> None:
            nonlocal before
            if turn is writer._turn:  # else nobody can sequence meanwhile
                self.acknowledge(self.write(name, How.SEQUENCE))
                before = image_of(self.path)
            integrate(pending, turn)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "_integrate", integrate_after_call)
            self.shard.integrate()
        return Write(before, image_of(self.path), self.size, self.size, None)

    def acknowledge(self, write: Write) -> None:
        if write.name is not None:
            self.acknowledged.answer(write.name, write.size_before)


def some_writes(life: int) -> Iterator[tuple[Name, How]]:
    """Batches, small calls of every kind, and integration, in turn: what to give to `Recorder.write`."""
    for number in range(NUM_ROUNDS):
        yield Name(life, BATCHES, number), How.APPEND
        for stream in (1, 2):
            yield Name(life, stream, number), How.SEQUENCE
        yield Name(life, 3, NUM_CALLS_ROUND * number), How.INTEGRATE
        if number % 2:  # else the batch finds what is pending, and is recorded in the commit after
            yield Name(life, 4, NUM_CALLS_ROUND * number), How.INTEGRATE


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        yield


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, small: None) -> History:
    path = tmp_path_factory.mktemp("torn") / "log"
    acknowledged, writes = Acknowledged(path), []
    with opened(path) as shard:
        recorder = Recorder(path, shard, acknowledged, 0)
        recorder.acknowledge(recorder.write(Name(0, SETUP, 0), How.APPEND))
        for number, (name, how) in enumerate(some_writes(1)):
            known = acknowledged.copy()
            write = recorder.write(name, how)
            known = acknowledged.copy() if write.name is None else known
            recorder.acknowledge(write)
            if number % 10 == 0:
                acknowledged.give_out(shard)
            writes.append((write, known))
    return History(path, writes[-NUM_WRITES:])


def sectors(data: bytes, length: int) -> NDArray[np.uint8]:
    """uint8[n, 512] of so many bytes; zeros where the file ends."""
    return np.frombuffer(data[:length].ljust(length, b"\0"), np.uint8).reshape(-1, SECTOR).copy()


def partly(name: str, old: bytes, new: bytes, chance: random.Random) -> bytes:
    """A file with some of the sectors of a write that was not synced, whole pages or not, perhaps of part of its
    length; never its meta page."""
    length = chance.choice([len(old), len(new), chance.randrange(len(old), len(new) + 1, SECTOR)])
    state, written = sectors(old, length), sectors(new, length)
    part, unit = chance.choice([0.02, 0.5, 0.98, 1.0]), chance.choice([1, PAGE // SECTOR])
    chosen = np.random.default_rng(chance.randrange(2**32)).random(-(-len(state) // unit)) < part
    chosen = np.repeat(chosen, unit)[: len(state)]
    if name == DATA_FILE:
        chosen[: META_BYTES // SECTOR] = False
    state[chosen] = written[chosen]
    return state.tobytes()


def torn(write: Write, chance: random.Random) -> Image:
    """What a power cut during a write leaves."""
    return {name: partly(name, write.before.get(name, b""), data, chance) for name, data in write.after.items()}


def go_on(shard: Shard) -> None:
    """Record what nobody knows yet: until then fsck tells of a record of the write-ahead log that was torn."""
    assert not shard.append(call_of(Name(NEXT_LIFE, BATCHES, 0)).entries).results.any()


def test_every_write_is_synced_before_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB without a flag that leaves a sync out, or that has it write in another order; and the write-ahead log."""
    synced: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr("ledger.wal.os.fdatasync", lambda file: (synced.append(file), sync(file)))
    with opened(tmp_path / "log") as shard:
        flags = shard._store._environment.flags()
        assert flags["sync"] and flags["metasync"] and not flags["writemap"] and not flags["map_async"]
        for number in range(1, 4):
            shard.sequence(call_of(Name(0, SETUP, 0)).entries[number : number + 1])
            assert len(synced) == number


def test_a_commit_writes_its_meta_page_within_one_sector(history: History) -> None:
    num_commits = 0
    for write, _ in history.writes:
        old, new = write.before[DATA_FILE][:META_BYTES], write.after[DATA_FILE][:META_BYTES]
        changed = np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))
        begin, end = META_WRITTEN
        assert end <= SECTOR and ((changed % PAGE >= begin) & (changed % PAGE < end)).all()
        num_commits += len(set(changed // PAGE))
    assert num_commits


@pytest.mark.timeout(60 + NUM_STATES)
def test_no_part_of_a_write_that_a_power_cut_leaves_harms_what_was_acknowledged(history: History) -> None:
    chance, seen = random.Random(1), Counter[str]()
    for number in range(NUM_STATES):
        write, known = history.writes[number % NUM_WRITES]
        acknowledged = known.copy()
        acknowledged.unanswered = [write.name] if write.name else []
        lay(history.path, torn(write, chance), chance)
        with opened(history.path) as shard:
            assert shard.tree_size in (write.size_before, write.size_after), number
            check_whole(shard, acknowledged, chance, (1, number))
            repeat(shard, acknowledged, chance, seen)
            check_whole(shard, acknowledged, chance, (1, number))
            go_on(shard)
        if number % NUM_WRITES == 0:
            assert check(history.path).problems == (), number
    assert seen["calls repeated that were not recorded"] and seen["calls repeated that were recorded"], seen


def test_a_power_cut_after_a_write_leaves_all_of_it(history: History) -> None:
    chance, seen = random.Random(2), Counter[str]()
    for number, (write, known) in enumerate(history.writes):
        acknowledged = known.copy()
        acknowledged.unanswered = [write.name] if write.name else []
        lay(history.path, write.after, chance)
        with opened(history.path) as shard:
            assert shard.tree_size == write.size_after
            repeat(shard, acknowledged, chance, seen)
            check_whole(shard, acknowledged, chance, (2, number))
    assert set(seen) == {"calls repeated that were recorded"}


def test_one_power_cut_after_the_other_loses_nothing(history: History) -> None:
    """The machine fails again and again, and what is found is what the failure before has left half done."""
    chance, seen = random.Random(3), Counter[str]()
    (write, known), is_torn = history.writes[0], True
    acknowledged, image = known.copy(), write.before
    for life in range(2, 2 + NUM_STATES // 4):
        lay(history.path, image, chance)
        with opened(history.path) as shard:
            if chance.random() < 0.5:  # else the first write finds what is pending
                check_whole(shard, acknowledged, chance, (3, life))
            recorder = Recorder(history.path, shard, acknowledged, shard.tree_size)
            todo = list(some_writes(life))[: chance.randint(1, WRITES_A_LIFE)]
            for number, (name, how) in enumerate(todo, 1):
                write = recorder.write(name, how)
                is_torn = number == len(todo) and chance.random() < 0.7
                if not is_torn:
                    recorder.acknowledge(write)
            image = torn(write, chance) if is_torn else write.after
            seen["torn" if is_torn else "whole"] += 1
    lay(history.path, image, chance)
    with opened(history.path) as shard:
        check_whole(shard, acknowledged, chance, (3, 0))
        go_on(shard)
    assert check(history.path).problems == ()
    assert seen["torn"] and seen["whole"], seen


@pytest.mark.parametrize("left", [b"", bytes(PAGE), bytes(2 * PAGE), b"half of a" * 2000])
def test_a_power_cut_while_a_shard_is_made_leaves_one_that_can_be_made(tmp_path: Path, left: bytes) -> None:
    directory = shard_path(tmp_path / "log", 0)
    with opened(tmp_path / "log"):
        pass
    begun_path(directory).unlink()
    (directory / DATA_FILE).unlink()
    (directory / NEW_FILE).write_bytes(left)
    with opened(tmp_path / "log") as shard:
        assert not shard.append(call_of(Name(0, SETUP, 0)).entries).results.any()
    assert not (directory / NEW_FILE).exists()
    assert check(tmp_path / "log").problems == ()


def test_a_record_that_is_broken_though_later_ones_are_there_is_named(history: History, tmp_path: Path) -> None:
    """No power cut leaves that: each is durable before the next is written. The last one, broken, is one that never
    was acknowledged; nothing can tell it from one that was."""
    path, chance = tmp_path / "log", random.Random(7)
    with opened(path) as shard:
        recorder = Recorder(path, shard, Acknowledged(path), 0)
        recorder.write(Name(0, SETUP, 0), How.APPEND)
        recorder.write(Name(1, 1, 0), How.SEQUENCE)  # so that there is a write-ahead log
        writes = [recorder.write(Name(1, 1, number), How.SEQUENCE) for number in range(1, 4)]
    image = writes[-1].after
    places = [begin for write in writes for begin in changed_blocks(write, FILE_NAMES[0])]
    assert len(places) == len(writes)
    for broken, place in enumerate(places):
        data = bytearray(image[FILE_NAMES[0]])
        data[place + chance.randrange(ENTRY_BYTES)] ^= 1 << chance.randrange(8)
        lay(path, image | {FILE_NAMES[0]: bytes(data)}, chance)
        if broken < len(places) - 1:
            with pytest.raises(LedgerCorrupt, match="entries are there without it"):
                opened(path)
        else:
            with opened(path) as shard:
                assert shard.tree_size == writes[-1].size_before
    lay(path, image, chance)
    with opened(path) as shard:
        assert shard.tree_size == writes[-1].size_after


def changed_blocks(write: Write, name: str) -> list[int]:
    """Where the blocks of a file begin that a write changed."""
    old, new = write.before.get(name, b""), write.after[name]
    length = len(new)
    changed = (sectors(old, length) != sectors(new, length)).reshape(-1, PAGE).any(axis=1)
    return (np.flatnonzero(changed) * PAGE).tolist()


def commits_of(history: History) -> list[Write]:
    """Those writes that were commits, and left nothing pending."""
    return [write for write, _ in history.writes if write.name is not None and write.name.stream == BATCHES]


def without_some(write: Write, chance: random.Random) -> bytes:
    """The data file after a commit, but some of its pages were not written."""
    new = write.after[DATA_FILE]
    old, state = sectors(write.before[DATA_FILE], len(new)).reshape(-1, PAGE), sectors(new, len(new)).reshape(-1, PAGE)
    changed = [begin // PAGE for begin in changed_blocks(write, DATA_FILE) if begin >= META_BYTES]
    lost = chance.sample(changed, chance.randint(1, len(changed)))
    state[lost] = old[lost]
    return state.tobytes()


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
                shard.append(call_of(Name(NEXT_LIFE, BATCHES, number)).entries)
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


def expected_of(history: History, write: Write, chance: random.Random) -> bytes:
    """The entries after a write."""
    lay(history.path, write.after, chance)
    with opened(history.path) as shard:
        return rows_of(shard, shard.tree_size)


def test_a_meta_page_before_its_pages_is_found_by_fsck_or_does_no_harm(history: History) -> None:
    """No disk that syncs leaves that; one that lies about it does."""
    chance, seen = random.Random(4), Counter[str]()
    for number in range(NUM_IMPOSSIBLE):
        write = chance.choice(commits_of(history))
        expected = expected_of(history, write, chance)
        lay(history.path, write.after | {DATA_FILE: without_some(write, chance)}, chance)
        is_found = bool(check(history.path).problems)
        assert is_found or exit_code_of_verdict(history.path, expected) == 0, number
        seen["found" if is_found else "no harm"] += 1
    assert seen["found"] > NUM_IMPOSSIBLE // 2, seen


def test_a_file_that_was_cut_off_is_found(history: History) -> None:
    """No disk that syncs leaves that. The owner cannot know why a file ends early, and opens it or not; fsck knows, and
    still knows when the owner has given the file its length again."""
    chance = random.Random(5)
    for number in range(NUM_IMPOSSIBLE):
        write = chance.choice(commits_of(history))
        expected, data = expected_of(history, write, chance), write.after[DATA_FILE]
        num_lost = chance.choice([1, SECTOR, PAGE, chance.randint(1, len(data) // 2)])
        lay(history.path, write.after | {DATA_FILE: data[:-num_lost]}, chance)
        assert "before its last page" in check(history.path).problems[0].what, number
        exit_code = exit_code_of_verdict(history.path, expected)
        assert check(history.path).problems or exit_code == 0, number


@pytest.mark.parametrize("meta", [0, 1])
def test_a_meta_page_that_is_none_is_named(history: History, meta: int) -> None:
    """No power cut leaves that: a commit writes a part of the page that has no mark of what it is."""
    chance, write = random.Random(6), history.writes[-1][0]
    state = bytearray(write.after[DATA_FILE])
    state[meta * PAGE : (meta + 1) * PAGE] = chance.randbytes(PAGE)
    lay(history.path, write.after | {DATA_FILE: bytes(state)}, chance)
    with pytest.raises(LedgerCorrupt, match="not an LMDB file"):
        opened(history.path)
    lay(history.path, write.after, chance)
    with opened(history.path) as shard:
        assert shard.tree_size == write.size_after
