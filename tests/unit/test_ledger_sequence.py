"""The first stage of an append: parts of a batch, repeats wherever they are, and what the log knows of the past."""

import random
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from settling import account, ending, id_of, money, ownership
from shards import asset

from ledger.book import Book
from ledger.entry import SHARD_MAX, Entries, Entry, Flag, Kind, as_bytes, encode, from_bytes
from ledger.index import Index, Sizes
from ledger.result import Result
from ledger.sequence import Sequencer, refill
from ledger.tail import Keys

SHARD, FOREIGN = 0, 1
SIZES = Sizes(block_entries=16, batch_entries_max=8, segment_items=4, fan_in=3)
"""A run after every other batch of eight."""

LINKED, PENDING, POST, VOID, EXPIRED = Flag.LINKED, Flag.PENDING, Flag.POST, Flag.VOID, Flag.EXPIRED
KeysOf = Callable[[Keys], Keys]
ALICE, BOB = 1, 2


class MemoryLog:
    """A shard's first stage with its index and its book, over entries in memory."""

    def __init__(self, keys_of: KeysOf = lambda keys: keys) -> None:
        self.keys_of = keys_of
        self.index = Index.open(None, self.segment, new_seed=bytes(range(16)), sizes=SIZES)
        self.manifest: bytes | None = None
        self.book = Book()
        self.recorded = b""
        self.blobs: dict[tuple[int, int], bytes] = {}
        self.covered = np.zeros(SHARD_MAX + 1, np.uint64)
        self.time_ns = 0
        self.num_parts = 0

    def entries(self, begin: int, end: int, width: int) -> bytes:
        data = self.recorded[begin * width : end * width]
        assert len(data) == (end - begin) * width
        return data

    def segment(self, run: int, number: int) -> bytes:
        return self.blobs[run, number]

    def sequencer(self, *, may_expire: bool = False) -> Sequencer:
        size = len(self.recorded) // 240
        return Sequencer(SHARD, size, self.covered, self.index, self.book, self, may_expire=may_expire)

    def offer(self, *entries: Entry, may_expire: bool = False) -> list[tuple[Result, int]]:
        """What becomes of a batch, which is committed: the result of each, and its index or 0."""
        rows = as_bytes(from_bytes(b"".join(self.timed(entry) for entry in entries)))
        sequencer, answers = self.sequencer(may_expire=may_expire), []
        keys = self.keys_of(sequencer.keys(rows))
        for begin, end in sequencer.parts(rows, keys):
            part = sequencer.sequence(rows[begin:end], keys[begin:end])
            self.recorded += part.rows.tobytes()
            answers += zip(map(Result, part.results.tolist()), part.indices.tolist(), strict=True)
            self.num_parts += 1
        writes = self.index.prepare(sequencer.size, self.segment)
        self.blobs |= dict(writes.puts)
        self.manifest = writes.manifest or self.manifest
        self.index.applied(writes)
        self.book.commit()
        return answers

    def timed(self, entry: Entry) -> bytes:
        self.time_ns += 1
        return encode(msgspec.structs.replace(entry, time_ns=self.time_ns))

    def take(self, *entries: Entry) -> None:
        """Record entries that are in order, in batches of one, so that each gets its own time in the index."""
        for entry in entries:
            assert self.offer(entry)[0][0] == Result.OK

    def results(self, *entries: Entry, may_expire: bool = False) -> list[Result]:
        return [result for result, _ in self.offer(*entries, may_expire=may_expire)]

    def bury(self) -> None:
        """Record so much more that what was recorded before is in runs, and no longer in the tables."""
        size = len(self.recorded) // 240
        self.take(*(asset(10_000 + size + place) for place in range(4 * SIZES.block_entries)))
        assert self.index.runs.num_entries > size


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture(params=["in the tables", "in runs"])
def settle_down(request: pytest.FixtureRequest) -> Callable[[MemoryLog], None]:
    """Leave what was recorded where it is, or see that it is in runs of the index."""
    return MemoryLog.bury if request.param == "in runs" else lambda log: None


def erasure(number: int, subject: int, flags: Flag = Flag(0)) -> Entry:  # noqa: B008
    return Entry(kind=Kind.ERASURE, id=id_of(number), subject=id_of(subject), flags=flags)


def batch_of(*entries: Entry) -> Entries:
    return from_bytes(b"".join(map(encode, entries)))


PARTS = {
    "ids that are all different": ([asset(1), asset(2), asset(3)], [(0, 3)]),
    "an id again": ([asset(1), asset(2), asset(1), asset(3)], [(0, 2), (2, 4)]),
    "an id thrice": ([asset(1), asset(1), asset(1)], [(0, 1), (1, 2), (2, 3)]),
    "two ids again": ([asset(1), asset(2), asset(1), asset(2)], [(0, 2), (2, 3), (3, 4)]),
    "an id again in a chain": (
        [asset(1), asset(2), asset(3, flags=LINKED), asset(4, flags=LINKED), asset(1), asset(5)],
        [(0, 2), (2, 6)],
    ),
    "an id twice in a chain": ([asset(1, flags=LINKED), asset(2, flags=LINKED), asset(1)], [(0, 3)]),
    "an id twice in a chain behind another": ([asset(3), asset(1, flags=LINKED), asset(1)], [(0, 1), (1, 3)]),
    "an erasure after its asset": ([asset(1), asset(2), erasure(3, 1), asset(4)], [(0, 2), (2, 4)]),
    "an erasure in the chain of its asset": ([asset(1, flags=LINKED), erasure(3, 1)], [(0, 2)]),
    "an erasure in a later chain": (
        [asset(1), asset(2, flags=LINKED), asset(3, flags=LINKED), erasure(4, 1)],
        [(0, 1), (1, 4)],
    ),
    "an erasure of what is elsewhere": ([asset(1), erasure(2, 3), asset(4)], [(0, 3)]),
    "nothing": ([], [(0, 0)]),
}


@pytest.mark.parametrize("what", PARTS)
def test_a_batch_is_taken_in_parts(what: str, log: MemoryLog) -> None:
    entries, parts = PARTS[what]
    rows = as_bytes(batch_of(*entries))
    sequencer = log.sequencer()
    assert sequencer.parts(rows, sequencer.keys(rows)) == parts


def test_what_is_new_gets_the_next_places_and_what_is_refused_gets_none(log: MemoryLog) -> None:
    assert log.offer(asset(1), asset(0), asset(2)) == [
        (Result.OK, 0),
        (Result.ID_MUST_NOT_BE_ZERO, 0),
        (Result.OK, 1),
    ]
    assert log.offer(asset(3)) == [(Result.OK, 2)]
    assert [entry["id"].tobytes() for entry in from_bytes(log.recorded)] == [id_of(1), id_of(2), id_of(3)]


def test_a_repeat_is_told_where_the_first_is(log: MemoryLog, settle_down: Callable[[MemoryLog], None]) -> None:
    log.take(asset(1), asset(2), asset(3))
    settle_down(log)
    size = len(log.recorded) // 240
    assert log.offer(asset(3), asset(9), asset(2), asset(1, tier=1), asset(9)) == [
        (Result.EXISTS, 2),
        (Result.OK, size),
        (Result.EXISTS, 1),
        (Result.EXISTS_WITH_DIFFERENT_TIER, 0),
        (Result.EXISTS, size),
    ]


def test_a_repeat_is_one_though_its_parents_are_unknown_by_now(
    log: MemoryLog, settle_down: Callable[[MemoryLog], None]
) -> None:
    """After a start nothing is known of the other shards; what is recorded is recorded."""
    child = asset(2, parents=((FOREIGN, 5),))
    log.covered[FOREIGN] = 6
    log.take(asset(1), child)
    settle_down(log)
    log.covered[FOREIGN] = 0
    assert log.offer(child)[0] == (Result.EXISTS, 1)
    changed = asset(2, parents=((FOREIGN, 7),))
    assert log.offer(changed)[0] == (Result.EXISTS_WITH_DIFFERENT_PARENTS, 1)
    assert log.results(asset(3, parents=((FOREIGN, 5),))) == [Result.UNKNOWN_PARENT]


def test_what_is_malformed_is_told_so_even_if_its_id_is_recorded(log: MemoryLog) -> None:
    log.take(asset(1))
    assert log.results(asset(1, flags=PENDING)) == [Result.RESERVED_FLAG]


@pytest.mark.parametrize("second", [asset(1), asset(1, tier=1)], ids=["the same", "another"])
def test_an_id_twice_in_a_chain_fails_the_chain(second: Entry, log: MemoryLog) -> None:
    first = asset(1, flags=LINKED)
    between = asset(2, flags=LINKED)
    last = msgspec.structs.replace(second, flags=LINKED)
    assert log.results(first, between, last, asset(3), asset(4)) == [
        Result.LINKED_EVENT_FAILED,
        Result.LINKED_EVENT_FAILED,
        Result.ID_TWICE_IN_CHAIN,
        Result.LINKED_EVENT_FAILED,
        Result.OK,
    ]
    assert log.results(asset(1), asset(2), asset(3)) == [Result.OK] * 3


def test_an_id_of_a_chain_that_failed_is_free(log: MemoryLog) -> None:
    assert log.results(asset(1, flags=LINKED), asset(0), asset(1)) == [
        Result.LINKED_EVENT_FAILED,
        Result.ID_MUST_NOT_BE_ZERO,
        Result.OK,
    ]


def one_key(keys: Keys) -> Keys:
    return np.full(len(keys), 7, np.uint64)


def three_keys(keys: Keys) -> Keys:
    return keys % np.uint64(3)


@pytest.mark.parametrize("keys_of", [one_key, three_keys])
@pytest.mark.parametrize("seed", range(6))
def test_ids_of_one_key_are_told_apart_by_their_bytes(seed: int, keys_of: KeysOf) -> None:
    source = random.Random(seed)
    log, clashing = MemoryLog(), MemoryLog(keys_of)
    for _ in range(12):
        batch = [asset(source.randint(0, 60), tier=source.choice([0, 0, 1])) for _ in range(source.randint(1, 8))]
        batch = [
            msgspec.structs.replace(entry, flags=LINKED if place < len(batch) - 1 and source.random() < 0.2 else 0)
            for place, entry in enumerate(batch)
        ]
        assert clashing.offer(*batch) == log.offer(*batch)
    assert clashing.recorded == log.recorded
    assert clashing.num_parts > log.num_parts


def test_an_erasure_is_of_an_asset_that_is_recorded(log: MemoryLog, settle_down: Callable[[MemoryLog], None]) -> None:
    log.take(asset(1), Entry(kind=Kind.MODEL, id=id_of(2)), Entry(kind=Kind.DERIVATION, id=id_of(3)))
    settle_down(log)
    batch = erasure(11, 1), erasure(12, 2), erasure(13, 3), erasure(14, 4), erasure(15, 0), erasure(16, 16)
    none = Result.ASSET_NOT_FOUND
    assert log.results(*batch) == [Result.OK, none, Result.OK, none, none, none]


def test_an_erasure_sees_the_assets_before_it_in_its_batch_and_none_behind_it(log: MemoryLog) -> None:
    assert log.results(asset(1), erasure(11, 1), erasure(12, 2), asset(2), erasure(13, 2)) == [
        Result.OK,
        Result.OK,
        Result.ASSET_NOT_FOUND,
        Result.OK,
        Result.OK,
    ]


def test_an_erasure_stands_and_falls_with_an_asset_of_its_chain(log: MemoryLog) -> None:
    failed = Result.LINKED_EVENT_FAILED
    assert log.results(asset(1, flags=LINKED), erasure(11, 1, LINKED), asset(0)) == [
        failed,
        failed,
        Result.ID_MUST_NOT_BE_ZERO,
    ]
    assert log.results(erasure(11, 1)) == [Result.ASSET_NOT_FOUND]
    assert log.results(erasure(11, 1, LINKED), asset(1)) == [Result.ASSET_NOT_FOUND, failed]
    assert log.results(asset(1, flags=LINKED), erasure(11, 1)) == [Result.OK, Result.OK]


def test_the_log_knows_whose_an_asset_was_at_first(log: MemoryLog, settle_down: Callable[[MemoryLog], None]) -> None:
    """Assets that never moved are not in the book."""
    log.take(asset(50, owner=id_of(ALICE)), asset(51, owner=id_of(BOB)), Entry(kind=Kind.MODEL, id=id_of(52)))
    settle_down(log)
    batch = ownership(60, 50, BOB, ALICE), ownership(61, 50, ALICE, BOB), ownership(62, 50, BOB, ALICE)
    assert log.results(*batch) == [Result.OWNER_MISMATCH, Result.OK, Result.OK]
    others = ownership(63, 51, BOB, ALICE), ownership(64, 52, ALICE, BOB), ownership(65, 53, ALICE, BOB)
    assert log.results(*others) == [Result.OK, Result.ASSET_NOT_FOUND, Result.ASSET_NOT_FOUND]


def test_the_log_knows_how_a_pending_transfer_ended(log: MemoryLog, settle_down: Callable[[MemoryLog], None]) -> None:
    log.take(account(ALICE), account(BOB), asset(50, owner=id_of(ALICE)))
    log.take(*(money(60 + place, ALICE, BOB, 5, PENDING, num_bytes=1) for place in range(3)))
    log.take(money(63, ALICE, BOB, 5), ownership(64, 50, ALICE, BOB, PENDING))
    log.take(ending(70, 60, POST), ending(71, 61, VOID), ending(72, 64, VOID, Kind.OWNERSHIP))
    assert log.results(ending(73, 62, EXPIRED), may_expire=True) == [Result.PENDING_TRANSFER_NOT_DUE]
    log.time_ns += 2 * 10**9
    assert log.results(ending(73, 62, EXPIRED), may_expire=True) == [Result.OK]
    settle_down(log)
    expected = {
        60: Result.PENDING_TRANSFER_ALREADY_POSTED,
        61: Result.PENDING_TRANSFER_ALREADY_VOIDED,
        62: Result.PENDING_TRANSFER_EXPIRED,
        63: Result.PENDING_TRANSFER_NOT_PENDING,
        64: Result.PENDING_TRANSFER_ALREADY_VOIDED,
        50: Result.PENDING_TRANSFER_NOT_FOUND,  # an asset
        70: Result.PENDING_TRANSFER_NOT_PENDING,  # what ended another
        99: Result.PENDING_TRANSFER_NOT_FOUND,
    }
    for flag in (POST, VOID):
        entries = [ending(80 + place, pending, flag) for place, pending in enumerate(expected)]
        assert log.results(*entries) == list(expected.values())


def step(source: random.Random, number: int) -> Entry:
    """Any entry that may refer to one of a few others, or repeat it."""
    seen = source.randint(max(20, number - 12), number)
    fields = {"tier": source.choice([0, 0, 0, 1])}
    return source.choice(
        [
            asset(seen, owner=id_of(source.randint(1, 3)), **fields),
            asset(number, parents=((SHARD, source.randrange(number)),)),
            erasure(number, seen),
            money(seen, source.randint(1, 3), source.randint(1, 4), 1 + source.randrange(3)),
            money(number, 1, 2, 9, PENDING),
            ownership(number, seen, source.randint(1, 3), source.randint(1, 3), source.choice([Flag(0), PENDING])),
            ending(number, seen, source.choice([POST, VOID]), source.choice([Kind.MONEY, Kind.OWNERSHIP])),
            account(source.randint(1, 4)),
        ]
    )


@pytest.mark.parametrize("seed", range(12))
def test_a_batch_is_answered_as_if_its_entries_had_come_one_by_one(seed: int) -> None:
    source = random.Random(seed)
    together, alone = MemoryLog(), MemoryLog()
    number, results = 20, set()
    for log in (together, alone):
        log.take(account(1), account(2), account(3, Flag.DEBITS_WITHIN_CREDITS))
    for _ in range(40):
        batch = [step(source, number + place) for place in range(source.randint(1, 8))]
        number += len(batch)
        answers = together.offer(*batch)
        assert answers == [alone.offer(entry)[0] for entry in batch], seed
        results |= {result for result, _ in answers}
    assert together.recorded == alone.recorded
    assert together.book.snapshot() == alone.book.snapshot()
    assert len(results) > 8


def test_an_index_that_is_opened_again_knows_what_no_run_covers(log: MemoryLog) -> None:
    log.take(*(asset(number) for number in range(1, 60)))
    size = len(log.recorded) // 240
    log.index = Index.open(log.manifest, log.segment, new_seed=bytes(16), sizes=SIZES)
    assert 0 < log.index.runs.num_entries < size
    assert log.results(asset(59)) == [Result.OK], "before it is refilled"
    log.recorded = log.recorded[: size * 240]
    log.index = Index.open(log.manifest, log.segment, new_seed=bytes(16), sizes=SIZES)
    refill(log.index, as_bytes(from_bytes(log.recorded))[log.index.runs.num_entries :])
    for begin in range(1, 60, 8):
        numbers = range(begin, min(begin + 8, 60))
        assert log.offer(*map(asset, numbers)) == [(Result.EXISTS, number - 1) for number in numbers]
    assert log.offer(asset(60)) == [(Result.OK, size)]
