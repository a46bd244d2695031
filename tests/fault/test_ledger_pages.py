"""Whatever is changed in a shard's file, fsck says something is wrong, or nobody would ever have read what was changed.

Here the file is damaged, and not the tables in it: LMDB does not notice, or dies of it, or shows an older state.
"""

import hashlib
import multiprocessing
import os
import random
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb
import msgspec
import numpy as np
import pytest
from fsck_logs import FIRST_ASSET, append, fill, item, open_shard, play_round, store_book

from ledger import fsck_pages
from ledger.fsck import Report, check
from ledger.log import shard_path
from ledger.shard import Publishing
from ledger.store import DATA_FILE, TABLES, Store

NUM_ROUNDS = 8
NUM_FLIPS, FLIPS_SEED = int(os.environ.get("MINTAGE_FLIPS", "80")), 11

# Of LMDB: mdb.c, MDB_meta, MDB_db, MDB_page, MDB_node.
PAGE_BYTES, HEADER_BYTES, NODE_BYTES = 4096, 16, 8
FLAGS, LOWER, BRANCH, LEAF, OVERFLOW = 10, 12, 1, 2, 4
META_FREE, META_MAIN, META_LAST_PAGE, META_COMMIT = 40, 88, 136, 144
DB_ROOT, DB_BYTES = 40, 48


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("sound") / "log"
    fill(log, NUM_ROUNDS)
    store_book(log, 300)
    with open_shard(log, publishing=Publishing()) as shard:
        play_round(shard, NUM_ROUNDS)
    assert check(log).problems == ()
    return log


@pytest.fixture
def file(sound: Path, tmp_path: Path) -> Path:
    """The file of the first shard of a log that is sound."""
    return shard_path(Path(shutil.copytree(sound, tmp_path / "log")), 0) / DATA_FILE


def report_of(file: Path) -> Report:
    return check(file.parent)


def lines(file: Path) -> list[str]:
    return [str(problem).removeprefix("shard-000 ") for problem in report_of(file).problems]


def number_at(data: bytes | bytearray, at: int, num_bytes: int = 8) -> int:
    return int.from_bytes(data[at : at + num_bytes], "little")


def newest_meta(data: bytes | bytearray) -> int:
    """Where the meta page of the newest commit begins."""
    return max((0, PAGE_BYTES), key=lambda page: number_at(data, page + META_COMMIT))


def nodes(data: bytes | bytearray, page: int) -> Iterator[int]:
    """Where the nodes of a page begin."""
    base = page * PAGE_BYTES
    for place in range((number_at(data, base + LOWER, 2) - HEADER_BYTES) // 2):
        yield base + number_at(data, base + HEADER_BYTES + 2 * place, 2)


def record_of(data: bytes | bytearray, table: str) -> int:
    """Where the record of a table begins."""
    main = number_at(data, newest_meta(data) + META_MAIN + DB_ROOT)
    for node in nodes(data, main):
        key = bytes(data[node + NODE_BYTES : node + NODE_BYTES + number_at(data, node + 6, 2)])
        if key == table.encode():
            return node + NODE_BYTES + len(key)
    raise AssertionError(table)


def pages_of(data: bytes | bytearray, root: int) -> list[int]:
    """The branches and leaves of a tree, the root first."""
    if number_at(data, root * PAGE_BYTES + FLAGS, 2) == LEAF:
        return [root]
    below = [pages_of(data, number_at(data, node, 6)) for node in nodes(data, root)]
    return [root, *(page for pages in below for page in pages)]


def pages_of_table(data: bytes | bytearray, table: str) -> list[int]:
    return pages_of(data, number_at(data, record_of(data, table) + DB_ROOT))


def put(data: bytearray, at: int, number: int, num_bytes: int = 8) -> None:
    data[at : at + num_bytes] = number.to_bytes(num_bytes, "little")


def dump(path: Path, sender: Connection) -> None:
    digest = hashlib.sha256()
    try:
        environment = lmdb.open(str(path), readonly=True, max_dbs=len(TABLES), map_size=1 << 40, lock=False)
        with environment, environment.begin() as transaction:
            for table in TABLES:
                rows = transaction.cursor(environment.open_db(table.encode(), txn=transaction, create=False))
                for key, value in rows:
                    digest.update(struct.pack("<QQ", len(key), len(value)) + key + value)
        sender.send(digest.hexdigest())
    except lmdb.Error as error:
        sender.send(str(error))


def dumped(file: Path) -> str:
    """What somebody reads who reads all of it, or what comes of trying."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=dump, args=(file.parent, sender))
    process.start()
    sender.close()
    try:
        return str(receiver.recv())
    except EOFError:
        return "died"
    finally:
        process.join()
        receiver.close()


def test_any_bit_that_somebody_reads_is_found(file: Path) -> None:
    """Half of the flips go anywhere, half into the pages that lead to others, where there is most to be misled."""
    chance = random.Random(FLIPS_SEED)
    whole = file.read_bytes()
    content = dumped(file)
    trees = [
        page
        for page in range(2, len(whole) // PAGE_BYTES)
        if number_at(whole, page * PAGE_BYTES, 8) == page and whole[page * PAGE_BYTES + FLAGS] in (BRANCH, LEAF)
    ]
    num_read = 0
    for number in range(NUM_FLIPS):
        page = chance.choice([0, 1, *trees]) if number % 2 else chance.randrange(len(whole) // PAGE_BYTES)
        place = page * PAGE_BYTES + chance.randrange(200 if page < 2 else PAGE_BYTES)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        file.write_bytes(flipped)
        if dumped(file) != content:
            num_read += 1
            assert lines(file), f"flip {number}: byte {place} of the file"
    assert num_read > NUM_FLIPS // 3, "so many flips were of bytes that somebody reads"


@pytest.mark.parametrize("table", TABLES)
def test_a_page_of_any_table_with_a_wrong_number_is_named(file: Path, table: str) -> None:
    """Nobody reads it, and the owner frees the page of that number with its next commit."""
    data = bytearray(file.read_bytes())
    page = pages_of_table(data, table)[-1]
    content = dumped(file)
    data[page * PAGE_BYTES] ^= 1
    file.write_bytes(data)
    assert dumped(file) == content
    assert lines(file) == [f"data.mdb page {page}: it has the number of another page; this is of table {table}"]


@pytest.mark.parametrize("less", [1, 2, 4, 2**20])
def test_a_newest_commit_that_passes_for_an_old_one_is_found(file: Path, less: int) -> None:
    """What LMDB shows then is the commit before, sound in all its parts."""
    data = bytearray(file.read_bytes())
    newest = newest_meta(data)
    put(data, newest + META_COMMIT, max(number_at(data, newest + META_COMMIT) - less, 0))
    before = report_of(file).num_entries
    file.write_bytes(data)
    report = report_of(file)
    assert report.num_entries < before or less == 1
    assert [problem.where for problem in report.problems] == ["shard-000 data.mdb meta pages"]


def test_an_older_commit_that_passes_for_the_newest_is_found(file: Path) -> None:
    data = bytearray(file.read_bytes())
    older = PAGE_BYTES - newest_meta(data)
    put(data, older + META_COMMIT, number_at(data, older + META_COMMIT) + 2)
    before = report_of(file).num_entries
    file.write_bytes(data)
    report = report_of(file)
    assert report.num_entries < before
    assert [problem.where for problem in report.problems] == ["shard-000 data.mdb meta pages"]


def test_the_tables_of_yesterday_under_the_commit_of_today_are_found(file: Path) -> None:
    data = bytearray(file.read_bytes())
    newest = newest_meta(data)
    tree = PAGE_BYTES - newest + META_MAIN
    data[newest + META_MAIN : newest + META_MAIN + DB_BYTES] = data[tree : tree + DB_BYTES]
    before = report_of(file).num_entries
    file.write_bytes(data)
    report = report_of(file)
    assert report.num_entries < before
    assert {problem.where.partition(" page")[0] for problem in report.problems} == {"shard-000 data.mdb"}
    assert all("it is in use, and on the free list" in problem.what for problem in report.problems)


def test_a_page_that_is_in_use_and_free_is_found_before_the_owner_writes_over_it(file: Path) -> None:
    data = bytearray(file.read_bytes())
    leaf = pages_of(data, number_at(data, newest_meta(data) + META_FREE + DB_ROOT))[-1]
    victim = pages_of_table(data, "state")[0]
    for node in nodes(data, leaf):
        value = node + NODE_BYTES + number_at(data, node + 6, 2)
        if number_at(data, value) == 0:
            continue
        put(data, value + 8, victim)  # the first of the list, which is the largest page
        put(data, value, 1)
        break
    content = dumped(file)
    file.write_bytes(data)
    assert dumped(file) == content
    assert lines(file) == [f"data.mdb page {victim}: it is in use, and on the free list; this is of table state"]


@pytest.mark.parametrize("number", [0, 1, 10**9, 2**63, 2**64 - 1])
def test_a_free_list_with_a_page_that_cannot_be_is_found(file: Path, number: int) -> None:
    data = bytearray(file.read_bytes())
    leaf = pages_of(data, number_at(data, newest_meta(data) + META_FREE + DB_ROOT))[-1]
    node = next(nodes(data, leaf))
    put(data, node + NODE_BYTES + number_at(data, node + 6, 2) + 8, number)
    file.write_bytes(data)
    assert lines(file) == [
        f"data.mdb page {leaf}: what it has of the free list is no list of pages; this is of the free list"
    ]


def test_a_separator_that_misleads_searches_is_found(file: Path) -> None:
    """Who reads the table from its first row to its last never looks at it."""
    data = bytearray(file.read_bytes())
    branch = next(page for page in pages_of_table(data, "contents") if data[page * PAGE_BYTES + FLAGS] == BRANCH)
    node = list(nodes(data, branch))[1]
    key = node + NODE_BYTES + number_at(data, node + 6, 2) - 1
    data[key] += 1
    content = dumped(file)
    file.write_bytes(data)
    assert dumped(file) == content
    (found,) = lines(file)
    assert found.endswith("its keys are not in order, or on the wrong side of a separator; this is of table contents")


def test_two_ways_to_one_page_are_found(file: Path) -> None:
    data = bytearray(file.read_bytes())
    branch = next(page for page in pages_of_table(data, "metas") if data[page * PAGE_BYTES + FLAGS] == BRANCH)
    first, second = list(nodes(data, branch))[:2]
    data[second : second + 6] = data[first : first + 6]
    file.write_bytes(data)
    page = number_at(data, first, 6)
    assert f"data.mdb page {page}: more than one page leads to it; this is of table metas" in lines(file)


def test_a_tree_that_leads_back_to_its_root_ends(file: Path) -> None:
    data = bytearray(file.read_bytes())
    root, *_ = pages_of_table(data, "metas")
    node = list(nodes(data, root))[-1]
    put(data, node, root, 6)
    file.write_bytes(data)
    assert f"data.mdb page {root}: more than one page leads to it; this is of table metas" in lines(file)


@pytest.mark.parametrize("target", [0, 1, 10**6, 2**48 - 1])
def test_a_branch_that_leads_out_of_the_file_is_found(file: Path, target: int) -> None:
    data = bytearray(file.read_bytes())
    root, *_ = pages_of_table(data, "contents")
    put(data, list(nodes(data, root))[-1], target, 6)
    file.write_bytes(data)
    assert any("the file has no such page, though one leads to it" in line for line in lines(file))


@pytest.mark.parametrize(("field", "what"), [(8, "branch pages"), (16, "leaf pages"), (24, "overflow pages"),
                                             (32, "rows"), (6, "levels")])  # fmt: skip
def test_a_count_on_record_that_is_wrong_is_found(file: Path, field: int, what: str) -> None:
    data = bytearray(file.read_bytes())
    data[record_of(data, "hashes") + field] ^= 8
    file.write_bytes(data)
    (found,) = lines(file)
    assert found.startswith("data.mdb table hashes: it has ") and f" {what}, and its record says " in found


def test_a_table_in_another_order_is_found(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[record_of(data, "entries") + 4] ^= 2
    file.write_bytes(data)
    assert any(line.startswith("data.mdb table entries: it says that it is in another order") for line in lines(file))


def test_a_large_value_that_is_not_where_it_says_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open_shard(log, num_shards=1) as shard:
        for batch in range(4):
            append(shard, *(item(1 + 50 * batch + place) for place in range(50)))  # 12 KB of entries each
    file = shard_path(log, 0) / DATA_FILE
    data = bytearray(file.read_bytes())
    page = next(
        page
        for page in range(2, len(data) // PAGE_BYTES)
        if number_at(data, page * PAGE_BYTES) == page and data[page * PAGE_BYTES + FLAGS] == OVERFLOW
    )
    data[page * PAGE_BYTES + FLAGS] = LEAF
    file.write_bytes(data)
    assert any("a value of it is not where it says" in line for line in lines(file))


def test_a_page_that_kills_its_reader_is_found_and_where_the_reader_was(file: Path) -> None:
    """LMDB aborts when it comes from one leaf to the next and finds no leaf. The other shard is checked, too."""
    data = bytearray(file.read_bytes())
    known = b'{"number":%d}' % (FIRST_ASSET + 50 * NUM_ROUNDS // 2)
    page = next(
        page for page in pages_of_table(data, "metas")
        if data[page * PAGE_BYTES + FLAGS] == LEAF and known in data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    )  # fmt: skip
    data[page * PAGE_BYTES + FLAGS] = BRANCH
    file.write_bytes(data)
    report = check(file.parent.parent)
    first, second = (str(problem) for problem in report.problems)
    assert first.startswith(f"shard-000 data.mdb page {page}: ")
    assert second.startswith("shard-000 data.mdb: its pages are damaged: who reads its entries ")
    assert second.endswith(" with their contents dies of SIGABRT")
    assert report.num_shards == 2


@pytest.mark.parametrize("place", [0, 8, 40, 200])
def test_a_list_of_tables_that_kills_whoever_opens_the_file_kills_no_checker(file: Path, place: int) -> None:
    """Not the process that only asks how many entries there are, either."""
    data = bytearray(file.read_bytes())
    main, content = number_at(data, newest_meta(data) + META_MAIN + DB_ROOT) * PAGE_BYTES, dumped(file)
    data[main + place : main + place + 64] = np.random.default_rng(place).bytes(64)
    file.write_bytes(data)
    report = check(file.parent.parent)
    assert report.num_shards == 2
    assert report.problems or dumped(file) == content


@pytest.mark.parametrize("num_bytes", [1, PAGE_BYTES, 10 * PAGE_BYTES])
def test_a_file_that_was_cut_off_is_found(file: Path, num_bytes: int) -> None:
    os.truncate(file, file.stat().st_size - num_bytes)
    (found,) = lines(file)
    assert "before its last page" in found


def test_a_commit_that_the_disk_is_still_taking_is_no_damage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its meta page can be read before any snapshot is of it."""
    metas, taken_s = fsck_pages._metas, time.monotonic() + 0.2

    def ahead(path: Path) -> list[fsck_pages._Meta]:
        _, newest = sorted(metas(path), key=lambda meta: meta.commit)
        if time.monotonic() > taken_s:
            return metas(path)
        return [newest, msgspec.structs.replace(newest, commit=newest.commit + 1)]

    monkeypatch.setattr(fsck_pages, "_metas", ahead)
    told: list[tuple[str, str]] = []
    with closing(Store.open_readonly(file.parent)) as store:
        fsck_pages.check_pages(store, lambda where, what: told.append((where, what)))
    assert told == []
