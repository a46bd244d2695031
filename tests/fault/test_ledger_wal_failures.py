"""Small batches and every failure: what was acknowledged is there, what was not is there as a whole or not at all.

The write-ahead log is torn at every sector of a record, in both files, over blocks that are empty and over what an
earlier use of the file has left. Commits fail in every way while entries wait for them. Copies of the directory are
taken between any two steps on the disk.
"""

import hashlib
import itertools
import random
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from sequencing import (
    BATCH_MAX,
    Opener,
    append,
    assert_whole,
    bare,
    failing,
    full,
    interrupted,
    kill,
    open_small,
    raising,
    sequence,
)
from settling import account, id_of, money
from shards import NOW_NS, asset, columns, content_of, payloads_of

from ledger import wal as wal_module
from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, Entry, Flag, Kind
from ledger.errors import LedgerCorrupt, LedgerError, LedgerFull, LedgerReadOnly, NotWritten
from ledger.index import Index, Sizes
from ledger.log import shard_path
from ledger.payload import Payload
from ledger.result import Result
from ledger.shard import Shard
from ledger.store import DATA_FILE, Batch, Store
from ledger.wal import BLOCK_BYTES, FILE_NAMES, Record, Wal, left_over, packed, secret_of

ALICE, BOB = 1, 2
OK, EXISTS = int(Result.OK), int(Result.EXISTS)
HEADER_BYTES = 32
SECTOR = 512
FILE_BYTES = 32 * BLOCK_BYTES
NUM_OPENED = 6
"""Of the torn states so many are opened as a shard; all are read as a log."""


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "FILE_BYTES", FILE_BYTES)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as shards:
        yield lambda name="log", **options: shards.enter_context(open_small(tmp_path / name, **options))


def unknown() -> LedgerError:
    return LedgerError("Input/output error", where="here", fix="Open the shard again.")


def corrupt() -> LedgerCorrupt:
    return LedgerCorrupt("a segment is missing", where="index", fix="Run fsck.")


class Torn(NamedTuple):
    """A write of one record: its file before and after, where it begins and ends, but for what only says once more
    that it is there; and which entries there were before, and are in it."""

    path: Path
    before: bytes
    after: bytes
    begin: int
    end: int
    acknowledged: list[int]
    written: list[int]

    def sectors(self) -> list[int]:
        """Where those begin that the write has changed."""
        places = range(0, FILE_BYTES, SECTOR)
        return [place for place in places if self.before[place : place + SECTOR] != self.after[place : place + SECTOR]]

    def with_only(self, sectors: list[int]) -> bytes:
        """The file if only these were written."""
        state = bytearray(self.before)
        for place in sectors:
            state[place : place + SECTOR] = self.after[place : place + SECTOR]
        return bytes(state)

    def is_whole(self, state: bytes) -> bool:
        return state[self.begin : self.end] == self.after[self.begin : self.end]


def parts_of(sectors: list[int], chance: random.Random) -> Iterator[list[int]]:
    """Some of a write's sectors: none, all; all but each, each alone; the first and the last ones; any."""
    yield from ([], sectors)
    for place in range(len(sectors)):
        yield sectors[:place] + sectors[place + 1 :]
        yield [sectors[place]]
        yield sectors[:place]
        yield sectors[place:]
    for _ in range(30):
        yield [sector for sector in sectors if chance.random() < 0.5]


def images_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILE_NAMES]


def write_torn(shard: Shard, folder: Path, num_before: int, num_entries: int) -> Torn:
    """Sequence some records, and another one whose write is looked at."""
    acknowledged = list(range(10, 10 + num_before))
    for number in acknowledged:
        assert shard.sequence(columns(asset(number)), payloads_of([number])).results.tolist() == [OK]
    written, before = list(range(50, 50 + num_entries)), images_of(folder)
    shard.sequence(columns(*map(asset, written)), payloads_of(written))
    (changed,) = [place for place, after in enumerate(images_of(folder)) if after != before[place]]
    path, after = folder / FILE_NAMES[changed], images_of(folder)[changed]
    data = packed(left_over(folder, shard._writer.memory.head.tree_size)[-1], secret_of(path))
    num_rows, num_extra = struct.unpack_from("<II", data, HEADER_BYTES - 8)
    begin = after.index(data)
    end = begin + HEADER_BYTES + num_rows * ENTRY_BYTES + num_extra
    return Torn(path, before[changed], after, begin, end, acknowledged, written)


@pytest.mark.parametrize("file", FILE_NAMES)
@pytest.mark.parametrize("num_used", [0, 8])
@pytest.mark.parametrize("num_entries", [1, 12])
def test_a_record_torn_at_any_sector_harms_no_other(
    log: Opener, tmp_path: Path, file: str, num_used: int, num_entries: int
) -> None:
    shard, folder, chance = log(), shard_path(tmp_path / "log", 0), random.Random(num_entries)
    used = use(shard, num_used + FILE_NAMES.index(file))
    torn = write_torn(shard, folder, 3, num_entries)
    kill(shard)
    assert torn.path.name == file
    assert any(torn.before[torn.begin : torn.end]) == (num_used > 0), "it is written over older ones"
    num_stored, states = len(used), [torn.with_only(chosen) for chosen in parts_of(torn.sectors(), chance)]
    for state in states:
        torn.path.write_bytes(state)
        ends = [num_stored + 1, num_stored + 2, num_stored + 3] + [num_stored + 3 + num_entries] * torn.is_whole(state)
        assert [record.end for record in left_over(folder, num_stored)] == ends
    kept = shutil.copytree(folder, tmp_path / "kept")
    for state in [*states[:2], *chance.sample(states, NUM_OPENED)]:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        torn.path.write_bytes(state)
        assert_goes_on(log(), torn, used, is_whole=torn.is_whole(state))


def use(shard: Shard, num_turns: int) -> list[int]:
    """Have the files take turns, with records of some blocks that are in the store afterwards; which assets."""
    numbers = list(range(1000, 1000 + 16 * num_turns))
    for begin in range(0, len(numbers), 4):
        contents = [bytes([number % 250 + 1]) * 1500 for number in numbers[begin : begin + 4]]
        entries = [
            asset(number, content_hash=hashlib.sha256(content).digest(), num_bytes=len(content))
            for number, content in zip(numbers[begin : begin + 4], contents, strict=True)
        ]
        assert not shard.sequence(columns(*entries), list(map(Payload, contents))).results.any()
        if begin % 16 == 12:
            shard.integrate()
    return numbers


def assert_goes_on(shard: Shard, torn: Torn, used: list[int], *, is_whole: bool) -> None:
    """All that was acknowledged is there, and the record whole or not at all; asked again, it is."""
    there = [*used, *torn.acknowledged, *(torn.written if is_whole else [])]
    assert_whole(shard, *there)
    for number in torn.acknowledged:
        assert shard.content(there.index(number)) == content_of(number)
    for _ in range(2):
        answered = shard.sequence(columns(*map(asset, torn.written)), payloads_of(torn.written)).results.tolist()
        assert set(answered) == {EXISTS if is_whole else OK}
        is_whole = True
    assert_whole(shard, *used, *torn.acknowledged, *torn.written)
    assert shard.content(shard.tree_size - 1) == content_of(torn.written[-1])
    kill(shard)


def test_what_could_not_be_integrated_for_want_of_room_waits_until_there_is_some(
    log: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = log()
    append(shard, bare(10), account(ALICE), account(BOB))
    sequence(shard, bare(11), money(12, ALICE, BOB, 5))
    with monkeypatch.context() as patch:
        patch.setattr(shard._store, "write", failing(shard, full()))
        for call in [shard.integrate, lambda: sequence(shard, bare(13)), lambda: append(shard, bare(13))] * 2:
            with pytest.raises(LedgerFull):
                call()
            assert shard.num_pending == 2
        assert (shard.tree_size, shard.find(id_of(10)), shard.find(id_of(11))) == (3, 0, None), "reads go on"
        assert shard.book.balance(id_of(BOB)).credits_posted == 5, "it is recorded"
    assert sequence(shard, bare(13), bare(11)) == [OK, EXISTS]
    assert_whole(shard, 10, ALICE, BOB, 11, 12, 13)


def test_a_shard_with_pending_entries_can_be_opened_and_read_where_there_is_no_room(
    log: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = log()
    append(shard, bare(10))
    sequence(shard, bare(11), bare(12))
    kill(shard)
    for _ in range(2):
        with log() as shard, monkeypatch.context() as patch:
            patch.setattr(shard._store, "write", failing(shard, full()))
            assert (shard.tree_size, shard.num_pending, shard.entry(0).id) == (1, 2, id_of(10))
            with pytest.raises(LedgerFull):
                sequence(shard, bare(13))
            shard.close()
    shard = log()
    assert sequence(shard, bare(13), bare(12)) == [OK, EXISTS]
    assert_whole(shard, 10, 11, 12, 13)


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("num_before", [0, 25])
def test_a_commit_whose_end_was_not_seen_stops_the_shard_until_it_is_opened_again(
    log: Opener, monkeypatch: pytest.MonkeyPatch, commits: bool, num_before: int
) -> None:
    """One beside which others sequence, and one that empties the tables."""
    shard = log()
    for number in range(num_before):
        append(shard, bare(100 + number))
    sequence(shard, *(bare(10 + place) for place in range(8)))
    is_alone = shard._writer.memory.index.will_flush(num_before + 8)
    assert is_alone == (num_before > 0)
    with monkeypatch.context() as patch:
        patch.setattr(shard._store, "write", failing(shard, unknown(), commits=commits))
        with pytest.raises(LedgerError, match="Input/output error"):
            shard.integrate()
    calls: list[Callable[[], object]] = [
        shard.integrate,
        lambda: sequence(shard, bare(10)),
        lambda: append(shard, bare(18)),
        lambda: shard.tree_size,
    ]
    for call in calls:
        with pytest.raises(LedgerError, match="without its end being seen"):
            call()
    shard.close()
    shard = log()
    assert sequence(shard, bare(10), bare(18), bare(17)) == [EXISTS, OK, EXISTS]
    assert_whole(shard, *range(100, 100 + num_before), *range(10, 19))


@pytest.mark.parametrize("small", [True, False])
def test_a_commit_that_failed_before_anything_was_written_puts_nothing_in_doubt(
    log: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    """A write that ends short, for want of room that is there again when the disk is asked."""
    shard, data = log(), shard_path(tmp_path / "log", 0) / DATA_FILE
    sequence(shard, bare(10))
    shard.integrate()
    content = bytes(1 << 20)
    large = asset(11, content_hash=hashlib.sha256(content).digest(), num_bytes=len(content))
    monkeypatch.setattr("ledger.store._growth_errno", lambda _: 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (data.stat().st_size + 4096, limits[1]))
    try:
        with pytest.raises(NotWritten, match="nothing was written"):
            (shard.sequence if small else shard.append)(columns(large), [Payload(content)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert shard.append(columns(large), [Payload(content)]).results.tolist() == [OK]
    assert_whole(shard, 10, 11)


def test_an_interrupt_between_the_turn_and_the_commit_loses_nothing(
    log: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = log()
    sequence(shard, bare(10), bare(11))
    with monkeypatch.context() as patch:
        patch.setattr(shard._writer, "_integrate", raising(KeyboardInterrupt()))
        for number in (12, 13):
            with pytest.raises(KeyboardInterrupt):
                shard.integrate()
            with suppress(KeyboardInterrupt):
                sequence(shard, bare(number))
    kill(shard)
    again = log()
    assert sequence(again, bare(10), bare(11)) == [EXISTS, EXISTS]


@pytest.mark.parametrize("reopened", [True, False])
def test_an_erased_content_is_in_no_file_of_the_write_ahead_log(log: Opener, tmp_path: Path, reopened: bool) -> None:
    shard, folder, content = log(), shard_path(tmp_path / "log", 0), b"to be forgotten " * 20
    entry = asset(10, content_hash=hashlib.sha256(content).digest(), num_bytes=len(content))
    assert shard.sequence(columns(entry), [Payload(content)]).results.tolist() == [OK]
    assert any(content in data for data in images_of(folder))
    if reopened:
        shard.close()
        shard = log()
    sequence(shard, bare(11))
    erasure = Entry(kind=Kind.ERASURE, id=id_of(12), subject=id_of(10))
    assert append(shard, erasure) == [OK]
    assert not any(b"forgotten" in data for data in images_of(folder))
    sequence(shard, bare(13))
    kill(shard)
    assert_whole(log(), 10, 11, 12, 13)


def test_reads_go_on_where_what_is_pending_may_not_be_written(log: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = log()
    append(shard, bare(10))
    sequence(shard, bare(11))
    refusal = LedgerReadOnly("Read-only file system", where="disk", fix="Let it be written.")
    with monkeypatch.context() as patch:
        patch.setattr(shard._store, "write", raising(refusal))
        assert (shard.tree_size, shard.entry(0).id) == (1, id_of(10))
        assert shard.checkpoint().splitlines()[1] == "1"
    assert_whole(shard, 10, 11)


def test_more_transfers_than_a_batch_takes_expire_in_batches(tmp_path: Path) -> None:
    clock = [NOW_NS]
    with open_small(tmp_path / "timed", now_ns=lambda: clock[0]) as shard:
        append(shard, account(ALICE), account(BOB))
        for number in range(3 * BATCH_MAX):
            hold = msgspec.structs.replace(money(100 + number, ALICE, BOB, 1, Flag.PENDING), num_bytes=1)
            assert append(shard, hold) == [OK]
        clock[0] += 2 * 10**9
        assert shard.expire_all() == 3 * BATCH_MAX
        assert shard.expire_all() == 0
        assert shard.balance(id_of(ALICE)).debits_pending == 0


def test_what_contradicts_itself_is_named_each_time_and_what_is_pending_stays(
    log: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged segment of the index, say: nothing was committed, so nothing is in doubt."""
    shard = log()
    sequence(shard, bare(10))
    with monkeypatch.context() as patch:
        patch.setattr(Index, "prepare", raising(corrupt()))
        for call in [shard.integrate, lambda: sequence(shard, bare(11)), lambda: append(shard, bare(11))] * 2:
            with pytest.raises(LedgerCorrupt, match="a segment is missing"):
                call()
    assert sequence(shard, bare(11)) == [OK]
    assert_whole(shard, 10, 11)


@pytest.mark.parametrize(("call", "is_written"), [("fdatasync", True), ("pwrite", False)])
def test_a_record_whose_end_was_not_seen_is_there_as_a_whole_or_not_at_all(
    log: Opener, monkeypatch: pytest.MonkeyPatch, call: str, is_written: bool
) -> None:
    shard = log()
    sequence(shard, account(ALICE), account(BOB))
    moves = money(10, ALICE, BOB, 3), money(11, ALICE, BOB, 4)
    with monkeypatch.context() as patch:
        patch.setattr(wal_module.os, call, raising(OSError(5, "Input/output error")))
        with pytest.raises(LedgerError, match="Input/output error"):
            sequence(shard, *moves)
    with pytest.raises(LedgerError, match="without its end being seen"):
        sequence(shard, bare(12))
    shard.close()
    shard = log()
    assert sequence(shard, *moves) == [EXISTS if is_written else OK] * 2
    assert_whole(shard, ALICE, BOB, 10, 11)
    assert shard.book.balance(id_of(BOB)).credits_posted == 7


@pytest.mark.parametrize("error", [full(), unknown(), corrupt()], ids=["full", "unknown", "corrupt"])
def test_what_was_sequenced_during_a_commit_that_failed_is_kept_as_well(
    log: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: LedgerError
) -> None:
    """Both files of the write-ahead log then have some of what is pending."""
    shard, folder = log(), shard_path(tmp_path / "log", 0)
    sequence(shard, account(ALICE), account(BOB))

    @contextmanager
    def write() -> Iterator[Batch]:
        with Store.write(shard._store) as batch:
            yield batch
            assert sequence(shard, money(10, ALICE, BOB, 4), account(ALICE)) == [OK, EXISTS]
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(shard._store, "write", write)
        with pytest.raises(type(error)):
            shard.integrate()
    assert shard.num_pending == 3
    kill(shard)
    assert [record.first for record in left_over(folder, 0)] == [0, 2]
    shard = log()
    assert sequence(shard, money(10, ALICE, BOB, 4)) == [EXISTS]
    assert_whole(shard, ALICE, BOB, 10)
    assert shard.book.balance(id_of(BOB)).credits_posted == 4


class Copy(NamedTuple):
    """The directory at one moment; what had been acknowledged by then, and the call that was under way."""

    path: Path
    acknowledged: list[int]
    in_flight: list[int]


class Copier:
    """Takes copies of a log between any two steps of its shard on the disk."""

    def __init__(self, shard: Shard, path: Path) -> None:
        self.shard = shard
        self.path = path
        self.copies: list[Copy] = []
        self.acknowledged: list[int] = []
        self.in_flight: list[int] = []

    def copy(self) -> None:
        path = self.path.with_name(f"copy-{len(self.copies)}")
        shutil.copytree(self.path, path)
        self.copies.append(Copy(path, self.acknowledged.copy(), self.in_flight.copy()))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Before and after each record, in each commit, and after it."""
        write = Wal.write

        def write_record(wal: Wal, record: Record) -> None:
            self.copy()
            write(wal, record)
            self.copy()

        patch.setattr(Wal, "write", write_record)
        patch.setattr(self.shard._store, "write", interrupted(self.shard, self.copy))

    def call(self, numbers: list[int], *, alone: bool) -> None:
        self.in_flight = numbers
        record = self.shard.sequence if alone else self.shard.append
        assert not record(columns(*map(asset, numbers)), payloads_of(numbers)).results.any()
        self.acknowledged += numbers
        self.in_flight = []
        self.copy()


def test_a_copy_of_the_directory_taken_at_any_moment_has_what_was_acknowledged(
    log: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was under way is there as a whole or not at all, and can be repeated."""
    copier, chance, numbers = Copier(log(), tmp_path / "log"), random.Random(6), itertools.count(100)
    with monkeypatch.context() as patch:
        copier.watch(patch)
        for step in range(15):
            copier.call(list(itertools.islice(numbers, chance.randint(1, 9))), alone=step % 5 < 4)
            if step % 3 == 2:
                copier.shard.integrate()
    seen = set()
    for path, acknowledged, in_flight in copier.copies:
        with open_small(path) as shard:
            is_there = bool(in_flight) and shard.find(id_of(in_flight[0])) is not None
            assert_whole(shard, *acknowledged, *(in_flight if is_there else ()))
            told = [EXISTS if is_there else OK] * len(in_flight)
            again = [*in_flight, 99]
            assert shard.sequence(columns(*map(asset, again)), payloads_of(again)).results.tolist() == [*told, OK]
            assert_whole(shard, *acknowledged, *in_flight, 99)
        seen |= {is_there} if in_flight else set()
    assert len(copier.copies) > 50 and seen == {True, False}


def test_a_store_older_than_its_log_goes_on_or_is_refused(log: Opener, tmp_path: Path) -> None:
    """Restored from a copy: what it lacks is in the log, or some of it is not."""
    shard, folder = log(), shard_path(tmp_path / "log", 0)
    older = []
    for number in range(10, 14):
        older.append((folder / DATA_FILE).read_bytes())
        sequence(shard, bare(number))
        shard.integrate()
    sequence(shard, bare(14))
    kill(shard)
    for size, data in enumerate(older):
        (folder / DATA_FILE).write_bytes(data)
        if size < 3:
            with pytest.raises(LedgerCorrupt, match=f"and {size} entries are there without it"):
                log()
        else:
            shard = log()
            assert_whole(shard, *range(10, 15))
            kill(shard)


@pytest.mark.parametrize(("field", "value"), [("shard", 1), ("version", 1), ("time_ns", NOW_NS)])
def test_records_of_another_shard_or_another_time_are_refused(
    log: Opener, tmp_path: Path, field: str, value: int
) -> None:
    shard, folder = log(), shard_path(tmp_path / "log", 0)
    append(shard, bare(10))
    sequence(shard, bare(11))
    kill(shard)
    (record,) = left_over(folder, 1)
    record.rows.view(ENTRY_DTYPE)[field] = value
    with (folder / FILE_NAMES[0]).open("r+b") as file:
        file.seek(BLOCK_BYTES)
        file.write(packed(record, secret_of(folder / FILE_NAMES[0])))
    with pytest.raises(LedgerCorrupt, match="its entries do not follow those in the store"):
        log()


def test_more_entries_than_the_index_may_leave_out_are_refused(log: Opener) -> None:
    shard = log()
    sequence(shard, *(bare(10 + place) for place in range(BATCH_MAX)))
    kill(shard)
    with pytest.raises(LedgerCorrupt, match="its entries do not follow those in the store"):
        log(sizes=Sizes(block_entries=BATCH_MAX - 1, batch_entries_max=1))
    assert_whole(log(), *range(10, 10 + BATCH_MAX))
