"""What is sequenced and not integrated yet: it counts for whatever comes after it, as if it had been appended."""

import asyncio
import hashlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from sequencing import (
    BATCH_MAX,
    Opener,
    append,
    assert_consistent,
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
from settling import NS_PER_S, account, ending, id_of, money, ownership
from shards import NOW_NS, asset, columns, content_of, keys_of, payloads_of

from ledger import group as group_module
from ledger import payload as payload_module
from ledger import wal as wal_module
from ledger import writer as writer_module
from ledger.entry import Entry, Flag, Kind, encode, from_bytes
from ledger.errors import EntryInvalid, EntryNotFound, LedgerError, LedgerFull, LedgerReadOnly
from ledger.group import Answer, Committer
from ledger.index import Sizes
from ledger.payload import Payload, check_payloads
from ledger.receipt import verify
from ledger.result import Result
from ledger.runs import Family
from ledger.shard import Appended, Shard
from ledger.wal import BLOCK_BYTES

ALICE, BOB = 1, 2
OK, EXISTS = int(Result.OK), int(Result.EXISTS)
META = b'{"style":"blue"}'


@pytest.fixture(autouse=True)
def balances_are_stored_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SNAPSHOT_ENTRIES_MIN", 100)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as shards:
        yield lambda name="log", **options: shards.enter_context(open_small(tmp_path / name, **options))


def assert_same(shard: Shard, other: Shard) -> None:
    """One log, byte for byte, and one book."""
    assert shard.checkpoint() == other.checkpoint()
    assert shard.book.snapshot() == other.book.snapshot()


def assert_same_answers(appended: Appended, expected: Appended) -> None:
    assert appended.results.tolist() == expected.results.tolist()
    told = np.isin(appended.results, (OK, EXISTS))  # else the index has no meaning
    assert appended.indices[told].tolist() == expected.indices[told].tolist()


def erasure(number: int, of: int) -> Entry:
    return Entry(kind=Kind.ERASURE, id=id_of(number), subject=id_of(of), owner=id_of(ALICE))


# Calls one after another, each of which needs what the ones before it have left pending.
CALLS = (
    [bare(10), bare(11, parents=((0, 0),))],
    [bare(12, parents=((0, 1),)), bare(13, parents=((0, 2),))],
    [bare(14, parents=((0, 9),)), bare(15, parents=((0, 3),)), bare(16, parents=((1, 0),))],
    [bare(10), bare(11), bare(12, tier=3), bare(17)],
    [account(ALICE), account(BOB, Flag.DEBITS_WITHIN_CREDITS)],
    [money(20, ALICE, BOB, 9), money(21, BOB, ALICE, 10), money(22, BOB, ALICE, 4)],
    [money(23, ALICE, BOB, 7, Flag.PENDING), money(24, ALICE, BOB, 5, Flag.PENDING, num_bytes=1)],
    [ending(25, 23, Flag.POST), ending(26, 23, Flag.VOID), ending(27, 20, Flag.POST), ending(28, 999, Flag.VOID)],
    [ending(29, 23, Flag.POST)],
    [ownership(30, 10, ALICE, BOB), ownership(31, 10, ALICE, BOB), ownership(32, 11, BOB, ALICE)],
    [ownership(33, 12, ALICE, BOB, Flag.PENDING), ownership(34, 12, ALICE, BOB)],
    [ending(35, 33, Flag.VOID, Kind.OWNERSHIP), ownership(36, 12, ALICE, BOB)],
    [money(40, ALICE, BOB, 1, Flag.LINKED), bare(41, flags=Flag.LINKED), bare(10)],
    [money(42, ALICE, BOB, 1, Flag.LINKED), ownership(43, 10, BOB, ALICE, Flag.LINKED), bare(44)],
    [money(40, ALICE, BOB, 2), bare(41)],
    [bare(50), bare(50), money(51, ALICE, BOB, 3), ending(52, 51, Flag.POST), bare(51)],
    [Entry(kind=Kind.ASSET, id=id_of(0)), bare(53, flags=Flag.POST), bare(54)],
    [erasure(55, 54)],
    [],
    [bare(56), bare(54), erasure(57, 99)],
)


@pytest.mark.parametrize("integrate_every", [1, 3, 100])
def test_what_is_sequenced_is_answered_as_if_it_had_been_appended(log: Opener, integrate_every: int) -> None:
    shard, other, seen = log(), log("other"), set[int]()
    for number, entries in enumerate(CALLS, 1):
        expected = other.append(columns(*entries))
        assert_same_answers(shard.sequence(columns(*entries)), expected)
        seen |= set(expected.results.tolist())
        if number % integrate_every == 0:
            shard.integrate()
            assert shard.num_pending == 0
    assert_same(shard, other)
    assert len(seen) >= 12, "the calls are answered in many ways"


def test_reads_of_a_shard_integrate_and_a_reader_that_was_kept_sees_it_then(log: Opener) -> None:
    shard = log()
    append(shard, bare(10))
    reader = shard.reader()
    sequence(shard, bare(11))
    assert (shard.num_pending, reader.tree_size, reader.index_of(id_of(11))) == (1, 1, None)
    assert (shard.find(id_of(11)), shard.num_pending) == (1, 0)
    assert (reader.tree_size, reader.index_of(id_of(11))) == (2, 1)
    reads: list[Callable[[], object]] = [
        lambda: shard.tree_size,
        lambda: shard.checkpoint(),
        lambda: shard.entry(1),
        lambda: shard.receipt(0),
        lambda: shard.consistency(1, 2),
        lambda: shard.read_entries(0, 1),
        lambda: shard.read_hashes(0, 0, 1),
        lambda: shard.reader(),
    ]
    for number, read in enumerate(reads, 12):
        assert sequence(shard, bare(number)) == [OK] and shard.num_pending == 1
        read()
        assert shard.num_pending == 0 and reader.index_of(id_of(number)) == number - 10


def test_payloads_are_kept_with_what_is_pending(log: Opener) -> None:
    """Content and metadata, one of them, or none; of what was recorded, and not of what was there already."""
    meta_hash = hashlib.sha256(META).digest()
    payloads = [Payload(content_of(10), META), Payload(content_of(11)), Payload(None, META), Payload()]
    entries = [asset(10, meta_hash=meta_hash), asset(11), bare(12, meta_hash=meta_hash), bare(13)]
    shard = log()
    assert shard.sequence(columns(*entries[:1]), payloads[:1]).results.tolist() == [OK]
    assert shard.sequence(columns(*entries), payloads).results.tolist() == [EXISTS, OK, OK, OK]
    kill(shard)
    shard = log()
    for index, payload in enumerate(payloads):
        for read, blob in ((shard.content, payload.content), (shard.meta, payload.meta)):
            if blob is None:
                with pytest.raises(EntryNotFound):
                    read(index)
            else:
                assert read(index) == blob


def test_what_is_erased_while_it_is_pending_is_gone(log: Opener) -> None:
    shard = log()
    shard.sequence(columns(asset(10), asset(11)), payloads_of([10, 11]))
    assert sequence(shard, erasure(12, 10)) == [OK]
    assert shard.num_pending == 0, "an erasure changes the store"
    kill(shard)
    shard = log()
    with pytest.raises(EntryNotFound):
        shard.content(0)
    assert shard.content(1) == content_of(11)
    assert_whole(shard, 10, 11, 12)


def test_time_goes_on_over_what_is_pending_whatever_the_clock_says(log: Opener) -> None:
    now_ns = [NOW_NS]
    shard = log(now_ns=lambda: now_ns[0])
    sequence(shard, bare(10), bare(11))
    now_ns[0] -= 5 * NS_PER_S
    sequence(shard, bare(12))
    kill(shard)
    shard = log(now_ns=lambda: now_ns[0])
    sequence(shard, bare(13))
    append(shard, bare(14))
    now_ns[0] += 10 * NS_PER_S
    sequence(shard, bare(15))
    times = [shard.entry(index).time_ns - NOW_NS for index in range(6)]
    assert times == [0, 1, 2, 3, 4, 5 * NS_PER_S]


def test_what_is_held_and_pending_expires_once(log: Opener) -> None:
    now_ns = [NOW_NS]
    shard = log(now_ns=lambda: now_ns[0])
    sequence(shard, account(ALICE), account(BOB), money(10, ALICE, BOB, 7, Flag.PENDING, num_bytes=1))
    assert not len(shard.expire().results) and shard.num_pending == 3, "nothing is due"
    assert shard.live() == [2]
    now_ns[0] += 2 * NS_PER_S
    assert sequence(shard, ending(11, 10, Flag.POST)) == [Result.PENDING_TRANSFER_EXPIRED]
    assert shard.expire().results.tolist() == [OK] and shard.num_pending == 0
    assert not len(shard.expire().results)
    assert sequence(shard, ending(11, 10, Flag.VOID)) == [Result.PENDING_TRANSFER_EXPIRED]
    assert shard.book.balance(id_of(ALICE)).debits_pending == 0 and shard.live() == []


def test_no_more_than_a_batch_of_the_largest_size_is_ever_pending(log: Opener) -> None:
    shard, numbers = log(), itertools.count(10)
    for size in [BATCH_MAX, *[1] * 40, *[7] * 9, BATCH_MAX, 1, BATCH_MAX]:
        assert set(sequence(shard, *(bare(next(numbers)) for _ in range(size)))) == {OK}
        assert shard.num_pending <= BATCH_MAX
    assert_whole(shard, *range(10, next(numbers)))


def test_what_the_log_has_no_room_for_is_committed(log: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of more than the rest of the file, and than the whole of it."""
    monkeypatch.setattr(wal_module, "FILE_BYTES", 8 * BLOCK_BYTES)
    contents = [bytes([number]) * (5_000 if number % 5 else 40_000) for number in range(30)]
    shard, changes = log(), set()
    for number, content in enumerate(contents, 10):
        entry = asset(number, content_hash=hashlib.sha256(content).digest(), num_bytes=len(content))
        before = shard.num_pending
        assert shard.sequence(columns(entry), [Payload(content)]).results.tolist() == [OK]
        changes.add(shard.num_pending - before)
    assert max(changes) == 1 and min(changes) < 0, "some wait, and some have what waits integrated"
    assert_whole(shard, *range(10, 40))
    assert [shard.content(index) for index in range(30)] == contents


def test_a_log_whose_files_cannot_be_made_is_done_without(log: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory may not be written any more, or has no room for two files: a commit may still do."""
    shard = log()
    for number, error in ((10, full()), (12, LedgerReadOnly("it may not be written", where="here", fix="Allow it."))):
        with monkeypatch.context() as patch:
            patch.setattr(wal_module, "create_once", raising(error))
            assert sequence(shard, bare(number)) == [OK]
            assert sequence(shard, bare(number), bare(number + 1)) == [EXISTS, OK]
            assert shard.num_pending == 0
    assert sequence(shard, bare(14)) == [OK] and shard.num_pending == 1
    assert_whole(shard, *range(10, 15))


@pytest.mark.parametrize("num_before", range(0, 48, 12))
def test_a_batch_that_was_refused_has_made_no_room_in_the_index(
    log: Opener, monkeypatch: pytest.MonkeyPatch, num_before: int
) -> None:
    """However full its tables are by then."""
    shard = log()
    for number in range(num_before):
        append(shard, bare(100 + number))
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(shard._store, "write", failing(shard, full()))
            with pytest.raises(LedgerFull):
                append(shard, *(bare(500 + place) for place in range(BATCH_MAX)))
        numbers = range(1000 + shard.tree_size, 1000 + shard.tree_size + 2 * BATCH_MAX)
        for number in numbers:
            assert sequence(shard, bare(number)) == [OK]
        shard.integrate()
    assert_consistent(shard)


class Calls:
    """Calls of a few entries each, some of which are about the ones before, into two shards."""

    def __init__(self, seed: int, shard: Shard, other: Shard) -> None:
        self.chance = random.Random(seed)
        self.numbers = itertools.count(1000)
        self.shard = shard
        self.other = other

    def make(self) -> None:
        """One call: sequenced here, appended there. None if it would have to wait for a commit."""
        batch = [self.entry() for _ in range(self.chance.randint(1, 4))]
        if self.shard.num_pending + len(batch) <= BATCH_MAX:
            assert_same_answers(self.shard.sequence(columns(*batch)), self.other.append(columns(*batch)))

    def entry(self) -> Entry:
        number = next(self.numbers)
        earlier = max(number - self.chance.randint(1, 12), 1000)
        makers: list[Callable[[], Entry]] = [
            lambda: bare(number, parents=((0, self.chance.randrange(self.other.tree_size + 3)),)),
            lambda: money(number, ALICE, BOB, 5, self.chance.choice([Flag(0), Flag.PENDING])),
            lambda: ending(number, earlier, self.chance.choice([Flag.POST, Flag.VOID])),
            lambda: ownership(number, earlier, ALICE, BOB),
            lambda: bare(earlier),
        ]
        return self.chance.choice(makers)()


@pytest.mark.parametrize("seed", range(2))
def test_what_is_sequenced_during_a_commit_counts_and_is_integrated_next(
    log: Opener, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever else is in that commit, segments of merges, say; those that need the turn, for runs or balances, have
    nobody sequence meanwhile."""
    shard, other = log(), log("other")
    for each in (shard, other):
        append(each, account(ALICE), account(BOB))
    calls, moments = Calls(seed, shard, other), []

    def meanwhile() -> None:
        moments.append(is_free := not shard._writer._turn.locked())
        if is_free:
            calls.make()

    with monkeypatch.context() as patch:
        patch.setattr(shard._store, "write", interrupted(shard, meanwhile))
        for _ in range(120):
            calls.make()
            if calls.chance.random() < 0.6:
                shard.integrate()
    assert moments.count(True) > 60 and moments.count(False) > 15
    assert shard._writer.memory.book_size >= 100
    assert max(run.level for run in shard._writer.memory.index.runs.families[Family.ID]) >= 1
    assert_same(shard, other)


def number_of(entry: Entry) -> int:
    """Of which `id_of` makes its id."""
    return int.from_bytes(entry.id[:8], "little")


class Crowd:
    """Threads that each do one thing to a shard, until all writers are done; the first failure ends them all."""

    def __init__(self, shard: Shard, path: Path) -> None:
        self.shard = shard
        self.keys = keys_of(path).verifier_keys
        self.acknowledged: dict[int, int] = {}
        self.failures: list[BaseException] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        write = [self.shard.sequence, self.shard.sequence, self.shard.append, self.shard.sequence]
        writers = [self.thread(self.write, name, call) for name, call in enumerate(write, 1)]
        others = [self.thread(self.look, seed) for seed in (1, 2)]
        others += [self.thread(self.again, call) for call in (self.shard.integrate, self.shard.expire)]
        for thread in writers:
            thread.join()
        self.is_over.set()
        for thread in others:
            thread.join()
        assert not self.failures, self.failures

    def thread(self, work: Callable[..., None], *args: object) -> threading.Thread:
        def guarded() -> None:
            try:
                work(*args)
            except BaseException as error:
                self.failures.append(error)
                self.is_over.set()

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def write(self, name: int, call: Callable[..., Appended]) -> None:
        chance = random.Random(name)
        for first in range(1000 * name, 1000 * name + 600, 10):
            if self.is_over.is_set():
                return
            batch = [asset(first + place) for place in range(chance.randint(1, 5))]
            batch.append(money(first + 6, ALICE, BOB, 3, Flag.PENDING, num_bytes=chance.randrange(2)))
            batch.append(ownership(first + 7, first, ALICE, BOB))
            contents = [Payload(content_of(number_of(entry))) for entry in batch[:-2]]
            payloads = [*contents, Payload(), Payload()]
            answers = call(columns(*batch), payloads).answers()
            assert {answer.result for answer in answers} == {OK}
            again = call(columns(*batch), payloads).answers()
            assert again == [Answer(answer.index, Result.EXISTS) for answer in answers]
            self.acknowledged.update(
                (number_of(entry), answer.index) for entry, answer in zip(batch, answers, strict=True)
            )

    def look(self, seed: int) -> None:
        """What was acknowledged is read and proved; a reader that was kept sees whole entries that it can find."""
        chance, reader = random.Random(seed), self.shard.reader()
        while not self.is_over.is_set():
            index = chance.randrange(reader.tree_size)
            assert reader.index_of(reader.entry(index).id) == index
            known = list(self.acknowledged.items())
            if known:
                number, index = chance.choice(known)
                assert verify(self.shard.receipt(index), self.keys).entry.id == id_of(number)
                assert self.shard.find(id_of(number)) == index
                if number % 10 < 6:
                    assert self.shard.content(index) == content_of(number)

    def again(self, call: Callable[[], object]) -> None:
        while not self.is_over.wait(0.002):
            call()


def test_threads_that_do_everything_at_once_leave_one_log_that_replays(log: Opener, tmp_path: Path) -> None:
    ticks = itertools.count(NOW_NS, NS_PER_S // 100)  # what is held for a second is over after some calls
    shard = log(now_ns=lambda: next(ticks), sizes=Sizes(192, 64, 16, 3))
    append(shard, account(ALICE), account(BOB))
    crowd = Crowd(shard, tmp_path / "log")
    crowd.run()
    assert_consistent(shard)
    entries = from_bytes(shard.read_entries(0, shard.tree_size))
    ids = [entry["id"].tobytes() for entry in entries]
    assert len(set(ids)) == len(ids)
    assert {number: ids[index] for number, index in crowd.acknowledged.items()} == {
        number: id_of(number) for number in crowd.acknowledged
    }
    num_expired = np.count_nonzero(entries["flags"] & int(Flag.EXPIRED))
    assert len(ids) == 2 + len(crowd.acknowledged) + num_expired and num_expired


def test_what_is_sequenced_beside_the_end_is_recorded_or_refused(log: Opener) -> None:
    """Nothing is acknowledged that the next owner does not find."""
    shard, acknowledged, is_begun = log(), [], threading.Event()

    def write() -> None:
        for number in itertools.count(10):
            try:
                sequence(shard, bare(number))
            except LedgerError:
                return
            acknowledged.append(number)
            is_begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    is_begun.wait()
    shard.close()
    thread.join()
    for _ in range(2):
        with pytest.raises(LedgerError, match="it is closed"):
            sequence(shard, bare(1))
    shard.close()
    with log() as shard:
        found = range(10, 10 + shard.tree_size)
        assert set(acknowledged) <= set(found) and len(found) <= len(acknowledged) + 1
        assert_whole(shard, *found)


def test_whoever_hands_in_while_the_committer_is_closed_is_answered_or_refused(
    log: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the look whether it is closed and the handing in."""
    committer, closer = Committer(log()), []
    make = group_module._Waiting

    def make_late(*args: object) -> object:
        closer.append(threading.Thread(target=committer.close))
        closer[0].start()
        closer[0].join(0.2)  # as long as it takes to close it, if nothing keeps it from that
        return make(*args)  # type: ignore[arg-type]

    async def hand_in() -> Answer:
        return await asyncio.wait_for(committer.append(encode(bare(10))), 5)

    with monkeypatch.context() as patch:
        patch.setattr(group_module, "_Waiting", make_late)
        assert asyncio.run(hand_in()) == Answer(0, Result.OK)
    closer[0].join()
    with pytest.raises(LedgerError, match="it is closed"):
        asyncio.run(hand_in())


def test_an_integration_that_fails_in_an_unforeseen_way_ends_no_thread(
    log: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, tried = log(), threading.Semaphore(0)
    committer = Committer(shard)

    def fail() -> None:
        tried.release()
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(shard, "integrate", fail)
        for number in (10, 11):
            assert asyncio.run(committer.append(encode(bare(number)))).result == Result.OK
            assert tried.acquire(timeout=10)
    committer.close()
    assert_whole(shard, 10, 11)


def test_whoever_hands_in_an_entry_keeps_the_interpreter_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel would give it up, and the committer begin with what there is: batches of half the size."""
    monkeypatch.setattr(payload_module, "named_payloads", raising(AssertionError("a kernel was called")))
    check_payloads(encode(bare(10)), None)
    check_payloads(encode(asset(10)), payloads_of([10]))
    with pytest.raises(EntryInvalid, match="a content that does not come with it"):
        check_payloads(encode(asset(10)), None)
