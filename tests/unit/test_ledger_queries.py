"""Look-ups: what was acknowledged is found, in pages, by all it is found by, and no reader waits for a writer."""

import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import lmdb
import numpy as np
import pytest
from settling import ALICE, BOB, CAROL, PLAIN, asset, ending, id_of, ownership
from whole_log import LOG, Ledger, plain

from ledger import queries
from ledger.entry import ENTRY_BYTES, Entry, Flag, Kind, encode, from_bytes, owner_of
from ledger.errors import EntryInvalid, EntryNotFound, LedgerCorrupt, LedgerError
from ledger.index import Sizes
from ledger.log import open_keys, shard_path
from ledger.newest import Newest, has_value, parent_value
from ledger.queries import (
    Change,
    assets_of,
    by_content,
    by_owner,
    by_subject,
    by_tenant,
    end_of,
    history,
    owner_at,
    tenants_assets,
)
from ledger.reader import PAGE_MAX, Reader
from ledger.runs import Family
from ledger.shard import Publishing, Shard

PICTURE, SONG, MONEY_MOVED = 50, 51, 70
NUM_MANY = 70_000
BATCH = 4_096


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """More entries than the index keeps in memory: the first are in runs, the last in none; and a child of both."""
    opened = Ledger(tmp_path_factory.mktemp("many"), 1, Publishing(num_entries=BATCH))
    for first in range(0, NUM_MANY, BATCH):
        opened.shards[0].append(plain(min(BATCH, NUM_MANY - first), first))
    late = Entry(kind=Kind.DERIVATION, id=id_of(7), owner=owner_of("late"), parents=((0, 3), (0, NUM_MANY - 1)))
    opened.record(0, late)
    yield opened
    opened.close()


def value(number: int, name: str) -> bytes:
    return plain(1, number)[name][0].tobytes()


# ---- what is found


@pytest.mark.parametrize("number", [0, 1, 65_535, NUM_MANY - 1])
def test_an_entry_is_found_by_id_owner_and_content_wherever_the_index_keeps_it(many: Ledger, number: int) -> None:
    reader = many.readers[0]
    assert reader.by_id(value(number, "id")).index == number
    for page in (by_owner(reader, value(number, "owner")), by_content(reader, value(number, "content_hash"))):
        assert [found.index for found in page.found] == [number]
        assert page.next_begin is None
        assert page.found[0].entry == many.shards[0].entry(number)


def test_the_index_of_that_many_entries_has_runs_and_newer_entries(many: Ledger) -> None:
    covered = many.shards[0].reader()
    covered.by_id(id_of(7))
    assert 0 < covered._known.runs.num_entries < NUM_MANY


@pytest.mark.parametrize("parent", [3, NUM_MANY - 1])
def test_children_are_found_by_a_parent_in_a_run_and_by_one_in_none(many: Ledger, parent: int) -> None:
    page = many.readers[0].children(0, parent)
    assert [found.index for found in page.found] == [NUM_MANY]


def test_what_was_never_recorded_is_not_found(many: Ledger) -> None:
    reader = many.readers[0]
    assert reader.by_id(value(NUM_MANY + 5, "id")) is None
    assert many.shards[0].find(value(NUM_MANY + 5, "id")) is None
    assert reader.children(0, 17).found == ()
    assert reader.children(1, 3).found == (), "the same index in another shard"


def test_many_ids_at_once_are_found_where_each_alone_is(many: Ledger) -> None:
    numbers = [0, NUM_MANY - 1, 40_000, NUM_MANY + 9, 40_000]
    ids = np.frombuffer(b"".join(value(number, "id") for number in numbers), np.uint8).reshape(-1, 16)
    assert many.readers[0].indices_of(ids).tolist() == [0, NUM_MANY - 1, 40_000, -1, 40_000]


def test_ids_that_begin_alike_are_told_apart(ledger: Ledger) -> None:
    ids = [b"same----" + bytes([number]) * 8 for number in range(1, 40)]
    ledger.record(0, *(Entry(kind=Kind.ASSET, id=id_, owner=id_of(ALICE)) for id_ in ids))
    reader = ledger.readers[0]
    assert [reader.by_id(id_).index for id_ in ids] == list(range(len(ids)))
    assert reader.by_id(b"same----" + b"x" * 8) is None
    asked = np.frombuffer(ids[5] + ids[3], np.uint8).reshape(-1, 16)
    assert reader.indices_of(asked).tolist() == [5, 3]


def test_zeros_are_found_by_nothing(ledger: Ledger) -> None:
    ledger.record(0, Entry(kind=Kind.KEY, id=id_of(1)), Entry(kind=Kind.KEY, id=id_of(2)))
    reader = ledger.readers[0]
    for page in (by_owner(reader, bytes(16)), by_subject(reader, bytes(16)), by_content(reader, bytes(32))):
        assert page.found == ()
    assert reader.children(0, 0).found == (), "entries without parents are nobody's children"


def test_two_accounts_are_no_content(ledger: Ledger) -> None:
    accounts = [Entry(kind=Kind.ACCOUNT, id=id_of(number), currency=1) for number in (ALICE, BOB)]
    halves = id_of(ALICE) + id_of(BOB)
    paid = Entry(kind=Kind.MONEY, id=id_of(MONEY_MOVED), currency=1, amount=5, content_hash=halves)
    made = Entry(kind=Kind.ASSET, id=id_of(PICTURE), owner=id_of(ALICE), content_hash=halves)
    ledger.record(0, *accounts, paid, made)
    assert [found.index for found in by_content(ledger.readers[0], halves).found] == [3]


def test_a_tenants_entries_are_found_by_its_name(ledger: Ledger) -> None:
    ledger.record(0, Entry(kind=Kind.ASSET, id=id_of(PICTURE), owner=owner_of("shop")), asset(SONG, ALICE))
    assert [found.entry.id for found in by_tenant(ledger.readers[0], "shop").found] == [id_of(PICTURE)]
    assert [owned.asset for owned in tenants_assets(ledger.readers[0], "shop").owned] == [id_of(PICTURE)]


# ---- pages


def test_pages_one_after_another_are_everything_once_and_in_order(ledger: Ledger) -> None:
    for first in range(0, 60, 10):
        ledger.record(0, *(asset(100 + first + number, ALICE if number % 2 else BOB) for number in range(10)))
    reader = ledger.readers[0]
    for limit in (1, 7, 29, 30, 31):
        begin, seen = 0, []
        while begin is not None:
            page = by_owner(reader, id_of(ALICE), begin=begin, limit=limit)
            assert len(page.found) <= limit
            seen += [found.index for found in page.found]
            begin = page.next_begin
        assert seen == list(range(1, 60, 2)), limit


def test_a_page_begins_where_it_is_asked_to(many: Ledger) -> None:
    reader, owner = many.readers[0], value(40_000, "owner")
    assert by_owner(reader, owner, begin=40_000).found != ()
    assert by_owner(reader, owner, begin=40_001).found == ()


@pytest.mark.parametrize("limit", [0, -1, PAGE_MAX + 1])
def test_a_page_of_no_or_too_many_entries_is_refused(ledger: Ledger, limit: int) -> None:
    with pytest.raises(EntryInvalid, match="a page of") as refused:
        by_owner(ledger.readers[0], id_of(ALICE), limit=limit)
    assert refused.value.where == "limit"


def test_half_a_hash_is_refused_and_said_to_be_half(ledger: Ledger) -> None:
    with pytest.raises(EntryInvalid, match="16 bytes instead of 32"):
        by_content(ledger.readers[0], bytes(16))


def test_what_has_the_key_of_a_value_but_not_the_value_is_passed_over(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.record(0, *(asset(100 + number, ALICE if number in (0, 4, 5, 9) else BOB) for number in range(12)))
    monkeypatch.setattr(Newest, "find", lambda self, family, value, begin, end: list(range(begin, end)))
    first = by_owner(ledger.readers[0], id_of(ALICE), limit=2)
    assert ([found.index for found in first.found], first.next_begin) == ([0, 4], 5)
    second = by_owner(ledger.readers[0], id_of(ALICE), begin=5)
    assert ([found.index for found in second.found], second.next_begin) == ([5, 9], None)


# ---- reading beside the writer


def test_a_reader_does_not_wait_for_an_append_that_is_under_way(tmp_path: Path) -> None:
    signer = open_keys(tmp_path, LOG, 1).signers[0]
    may_go_on, is_inside = threading.Event(), threading.Event()
    may_go_on.set()

    def now_ns() -> int:
        is_inside.set()
        assert may_go_on.wait(60)
        return 1_000

    with Shard.open(shard_path(tmp_path, 0), 0, signer, now_ns, entropy=lambda size: b"e" * size) as shard:
        shard.append(plain(3, 0))
        may_go_on.clear()
        is_inside.clear()
        writer = threading.Thread(target=shard.append, args=(plain(3, 3),))
        writer.start()
        assert is_inside.wait(60)
        assert shard.find(value(2, "id")) == 2, "while the writer holds its turn"
        assert shard.find(value(4, "id")) is None
        may_go_on.set()
        writer.join()
        assert shard.find(value(4, "id")) == 4


def test_threads_that_read_while_one_appends_find_all_that_was_acknowledged(tmp_path: Path) -> None:
    opened = Ledger(tmp_path, 1, Publishing(num_entries=10**6))
    reader, is_over = opened.readers[0], threading.Event()
    faults: list[object] = []
    num_acknowledged = [0]

    def read() -> None:
        rng = np.random.default_rng(threading.get_ident())
        while not is_over.is_set():
            number = int(rng.integers(num_acknowledged[0])) if num_acknowledged[0] else None
            try:
                if number is not None and reader.index_of(value(number, "id")) != number:
                    faults.append(number)
            except LedgerError as error:
                faults.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for first in range(0, 40 * BATCH, BATCH):  # the tables are flushed twice, so manifests change under the readers
        opened.shards[0].append(plain(BATCH, first))
        num_acknowledged[0] = first + BATCH
    is_over.set()
    for thread in threads:
        thread.join()
    opened.close()
    assert faults == []


def test_another_look_at_the_directory_finds_the_same_as_the_owner(tmp_path: Path) -> None:
    copy = Ledger(tmp_path, 1)
    copy.shards[0].append(plain(100, 0))
    asked = [value(number, "id") for number in (0, 99, 100)]
    owners = [copy.readers[0].by_id(id_) for id_ in asked]
    copy.close()
    with Reader.open(shard_path(tmp_path, 0)) as reader:
        assert [reader.by_id(id_) for id_ in asked] == owners
        assert reader.tree_size == 100
        assert reader.origin == f"{LOG}/shard-0"


def test_a_directory_that_is_no_shard_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EntryNotFound, match="no such directory"):
        Reader.open(tmp_path / "shard-000")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LedgerError):
        Reader.open(tmp_path / "empty")


def test_a_found_entry_that_is_not_its_leaf_is_not_given_out(tmp_path: Path) -> None:
    opened = Ledger(tmp_path, 1)
    opened.record(0, asset(PICTURE, ALICE), asset(SONG, BOB))
    opened.close()
    forged = encode(asset(PICTURE, CAROL))
    environment = lmdb.open(str(shard_path(tmp_path, 0)), max_dbs=6)
    with environment.begin(write=True) as transaction:
        entries = environment.open_db(b"entries", txn=transaction)
        row = bytearray(transaction.get(bytes(8), db=entries))
        row[:ENTRY_BYTES] = forged
        transaction.put(bytes(8), bytes(row), db=entries)
    environment.close()
    with Reader.open(shard_path(tmp_path, 0)) as reader:
        with pytest.raises(LedgerCorrupt, match="not its leaf") as found:
            reader.by_id(id_of(PICTURE))
        assert found.value.where == "entry 0"
        assert reader.by_id(id_of(SONG)).index == 1


# ---- whose an asset is


@pytest.fixture
def traded(ledger: Ledger) -> Ledger:
    """A picture: Alice's, at 1 sold to Bob, at 2 promised to Carol, at 4 hers. A song stays Alice's: a promise expires,
    one is voided, and one is open."""
    ledger.record(0, asset(PICTURE, ALICE))
    ledger.record(0, ownership(60, PICTURE, ALICE, BOB))
    ledger.record(0, ownership(61, PICTURE, BOB, CAROL, Flag.PENDING))
    ledger.record(0, asset(SONG, ALICE))
    ledger.record(0, ending(62, 61, Flag.POST, Kind.OWNERSHIP))
    ledger.record(0, ownership(63, SONG, ALICE, BOB, Flag.PENDING, num_bytes=1))
    ledger.now_ns += 2 * 10**9
    assert not ledger.shards[0].expire().results.any()
    ledger.record(0, ownership(64, SONG, ALICE, BOB, Flag.PENDING), ending(65, 64, Flag.VOID, Kind.OWNERSHIP))
    ledger.record(0, ownership(66, SONG, ALICE, BOB, Flag.PENDING))
    return ledger


@pytest.mark.parametrize(
    ("index", "owner", "since", "named_by"),
    [(0, ALICE, 0, 0), (1, BOB, 1, 1), (2, BOB, 1, 1), (3, BOB, 1, 1), (4, CAROL, 4, 2), (9, CAROL, 4, 2)],
)
def test_an_asset_belongs_to_whom_the_last_transfer_that_happened_gave_it(
    traded: Ledger, index: int, owner: int, since: int, named_by: int
) -> None:
    time_ns = traded.shards[0].entry(since).time_ns
    assert owner_at(traded.readers[0], id_of(PICTURE), index) == Change(since, time_ns, id_of(owner), named_by)


def test_what_expired_was_voided_or_is_open_has_not_happened(traded: Ledger) -> None:
    reader = traded.readers[0]
    assert [change.owner for change in history(reader, id_of(SONG))] == [id_of(ALICE)]
    flags = [end.entry.flags if (end := end_of(reader, id_of(number))) else None for number in (63, 64, 66)]
    assert flags == [Flag.EXPIRED, Flag.VOID, None]


def test_the_owner_that_is_derived_is_the_one_in_the_book(traded: Ledger) -> None:
    size = traded.shards[0].tree_size
    for number in (PICTURE, SONG):
        derived = owner_at(traded.readers[0], id_of(number), size - 1).owner
        assert traded.shards[0].book.owner(id_of(number)) == derived


@pytest.mark.parametrize(
    ("owner", "at", "expected"),
    [
        (ALICE, None, [SONG]),
        (ALICE, 0, [PICTURE]),
        (ALICE, 2, []),
        (BOB, None, []),
        (BOB, 3, [PICTURE]),
        (CAROL, 3, []),
        (CAROL, None, [PICTURE]),
    ],
)
def test_an_owner_has_the_assets_that_belonged_to_it_then(
    traded: Ledger, owner: int, at: int | None, expected: list[int]
) -> None:
    page = assets_of(traded.readers[0], id_of(owner), at=at)
    assert [owned.asset for owned in page.owned] == [id_of(number) for number in expected]


def test_an_asset_that_came_back_is_listed_once(ledger: Ledger) -> None:
    ledger.record(0, asset(PICTURE, ALICE))
    ledger.record(0, ownership(60, PICTURE, ALICE, BOB))
    ledger.record(0, ownership(61, PICTURE, BOB, ALICE))
    pages, begin = [], 0
    while begin is not None:
        page = assets_of(ledger.readers[0], id_of(ALICE), begin=begin, limit=1)
        pages += page.owned
        begin = page.next_begin
    assert [(owned.asset, owned.change.index) for owned in pages] == [(id_of(PICTURE), 2)]


def test_an_asset_that_an_owner_had_often_is_looked_up_once_a_page(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.record(0, asset(PICTURE, ALICE), asset(SONG, ALICE))
    for number in range(0, 20, 2):
        ledger.record(0, ownership(60 + number, PICTURE, ALICE, BOB))
        ledger.record(0, ownership(61 + number, PICTURE, BOB, ALICE))
    asked: list[bytes] = []

    def counted(reader: Reader, asset_id: bytes, index: int) -> Change:
        asked.append(asset_id)
        return owner_at(reader, asset_id, index)

    monkeypatch.setattr(queries, "owner_at", counted)
    page = assets_of(ledger.readers[0], id_of(ALICE))
    assert [(owned.asset, owned.change.index) for owned in page.owned] == [(id_of(SONG), 1), (id_of(PICTURE), 21)]
    assert asked == [id_of(PICTURE)], "and the song, which nothing is about, not at all"


def test_the_assets_of_an_index_that_was_not_reached_are_refused_whoever_asks(traded: Ledger) -> None:
    for at in (-1, 99):
        with pytest.raises(EntryNotFound, match=f"no entry {at}"):
            assets_of(traded.readers[0], id_of(99), at=at)


@pytest.mark.parametrize("seed", range(3))
def test_every_owner_has_at_every_index_what_a_plain_replay_says(tmp_path: Path, seed: int) -> None:
    """Over an index of many small runs, so that transfers are found in all of them."""
    random = Random(seed)
    signer = open_keys(tmp_path, LOG, 1).signers[0]
    sizes = Sizes(block_entries=32, batch_entries_max=8, segment_items=4, fan_in=2)
    shard = Shard.open(shard_path(tmp_path, 0), 0, signer, lambda: 1_000, entropy=lambda size: b"e" * size, sizes=sizes)
    now: dict[int, int] = {}
    then: list[dict[int, int]] = []
    held: dict[int, tuple[int, int]] = {}  # by asset: the pending transfer, and to whom
    for number in range(1_000, 1_000 + 200):
        entry, now, held = some_trade(random, number, dict(now), dict(held))
        assert not shard.append(from_bytes(encode(entry))).results.any()
        then.append(now)
    reader = shard.reader()
    for at in [*random.sample(range(200), 12), 199]:
        for owner in (ALICE, BOB, CAROL):
            owned, begin = [], 0
            while begin is not None:
                page = assets_of(reader, id_of(owner), at=at, begin=begin, limit=7)
                owned += [each.asset for each in page.owned]
                begin = page.next_begin
            expected = [id_of(number) for number, whose in then[at].items() if whose == owner]
            assert sorted(owned) == sorted(expected), (at, owner)
    assert reader._known.runs.num_entries > 100
    shard.close()


def some_trade(
    random: Random, number: int, now: dict[int, int], held: dict[int, tuple[int, int]]
) -> tuple[Entry, dict[int, int], dict[int, tuple[int, int]]]:
    """An entry that is in order: a new asset, or one that changes hands, is promised, or whose promise ends."""
    free = sorted(now.keys() - held.keys())
    what = random.random()
    if held and what < 0.3:
        asset_, (pending, to) = random.choice(sorted(held.items()))
        del held[asset_]
        flag = random.choice([Flag.POST, Flag.VOID])
        if flag == Flag.POST:
            now[asset_] = to
        return ending(number, pending, flag, Kind.OWNERSHIP), now, held
    if free and what < 0.8:
        asset_ = random.choice(free)
        old = now[asset_]
        to = random.choice([owner for owner in (ALICE, BOB, CAROL) if owner != old])
        if random.random() < 0.5:
            held[asset_] = (number, to)
            return ownership(number, asset_, old, to, Flag.PENDING), now, held
        now[asset_] = to
        return ownership(number, asset_, old, to), now, held
    now[number] = random.choice([ALICE, BOB, CAROL])
    return asset(number, now[number]), now, held


def test_an_owner_before_the_asset_or_after_the_log_is_refused(traded: Ledger) -> None:
    reader = traded.readers[0]
    with pytest.raises(EntryNotFound, match="no such asset yet"):
        owner_at(reader, id_of(SONG), 2)
    with pytest.raises(EntryNotFound, match="no entry 99"):
        owner_at(reader, id_of(SONG), 99)
    with pytest.raises(EntryNotFound, match="no asset has this id"):
        owner_at(reader, id_of(999), 2)
    with pytest.raises(EntryNotFound, match="of the kind OWNERSHIP"):
        owner_at(reader, id_of(60), 2)


def test_a_value_is_read_from_the_field_of_its_family() -> None:
    data = encode(Entry(kind=Kind.ASSET, id=id_of(1), subject=id_of(2), owner=id_of(3), parents=((0, 0), (7, 9))))
    assert from_bytes(data)["flags"][0] == PLAIN
    fields = ((Family.ID, id_of(1)), (Family.SUBJECT, id_of(2)), (Family.OWNER, id_of(3)))
    assert all(has_value(data, family, wanted) for family, wanted in fields)
    assert not any(has_value(data, family, id_of(4)) for family, _ in fields)
    named = [has_value(data, Family.PARENT, parent_value(place)) for place in ((0, 0), (7, 9), (9, 7), (0, 9))]
    assert named == [True, True, False, False]
