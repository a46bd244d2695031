"""Whatever was changed on disk, fsck finds it and says where; and what is not changed it does not suspect.

The shard has every kind of entry, payload and segment; its tables are changed behind its back, row by row.
"""

import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from fsck_logs import FIRST_ASSET, MAP_BYTES, fill, open_shard, play_round, store_book
from settling import id_of

from ledger.entry import ENTRY_BYTES, HASH_BYTES
from ledger.errors import LedgerCorrupt
from ledger.fsck import Report, check
from ledger.head import Head
from ledger.log import shard_path
from ledger.runs import Family, Runs, run_id, segment_blob
from ledger.store import DATA_FILE, TABLES, Store

ROOT = Path(__file__).parents[2]
NUM_ROUNDS = 52
BOOK_SIZE = 2000
NUM_FLIPS, FLIPS_SEED = 18, 7
NUM_CHECKS = 6

OWNER = """
import itertools, sys
sys.path.insert(0, "tests")
from pathlib import Path
from fsck_logs import START_NS, NS_PER_S, entries_of, item, open_shard, play_round
from ledger.shard import Publishing
times = itertools.count(START_NS + 10**6 * NS_PER_S, NS_PER_S)
with open_shard(Path(sys.argv[1]), now_ns=lambda: next(times), publishing=Publishing()) as shard:
    for round_ in itertools.count(int(sys.argv[2])):
        play_round(shard, round_)
        for place in range(20):
            entry, payload = item(10**6 + 20 * round_ + place)
            shard.sequence(entries_of(entry), [payload])
        print(shard.num_pending, flush=True)
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("sound") / "log"
    fill(log, NUM_ROUNDS)
    store_book(log, BOOK_SIZE)
    report = check(log)
    assert (report.problems, report.num_shards) == ((), 2)
    assert report.num_orphans, "a merge is under way, whose segments are to be known for what they are"
    return log


@pytest.fixture
def log(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "log"))


class Tables:
    """The rows of a shard's tables, to be changed in ways that the store does not know."""

    def __init__(self, environment: Any, transaction: Any) -> None:
        self._transaction = transaction
        self._tables = {name: environment.open_db(name.encode(), txn=transaction, create=False) for name in TABLES}

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        return list(self._transaction.cursor(self._tables[table]))

    def get(self, table: str, key: bytes) -> bytes:
        return bytes(self._transaction.get(key, db=self._tables[table]))

    def put(self, table: str, key: bytes, data: bytes) -> None:
        self._transaction.put(key, data, db=self._tables[table])

    def delete(self, table: str, key: bytes) -> None:
        assert self._transaction.delete(key, db=self._tables[table])

    def flip(self, table: str, key: bytes, place: int, bit: int = 1) -> None:
        data = bytearray(self.get(table, key))
        data[place] ^= bit
        self.put(table, key, bytes(data))


@contextmanager
def changing(log: Path) -> Iterator[Tables]:
    environment = lmdb.open(str(shard_path(log, 0)), max_dbs=len(TABLES), map_size=MAP_BYTES)
    with closing(environment), environment.begin(write=True) as transaction:
        yield Tables(environment, transaction)


def lines(log: Path) -> list[str]:
    """What is found in the first shard, which was changed."""
    return [str(problem).removeprefix("shard-000 ") for problem in check(shard_path(log, 0)).problems]


def row_with(tables: Tables, table: str, item: int, width: int, level: int | None = None) -> tuple[bytes, int]:
    """The key of the row that has an item, and where in the row the item begins."""
    prefix = b"" if level is None else bytes([level])
    keys = [key for key, _ in tables.rows(table) if key.startswith(prefix)]
    firsts = [int.from_bytes(key[len(prefix) :], "big") for key in keys]
    place = np.searchsorted(firsts, item, "right") - 1
    return keys[place], (item - firsts[place]) * width


def index_of(log: Path, number: int) -> int:
    with open_shard(log) as shard:
        found = shard.find(id_of(number))
    assert found is not None
    return found


def runs_of(log: Path) -> Runs:
    with closing(Store.open_readonly(shard_path(log, 0))) as store, store.read() as snapshot:
        manifest = snapshot.state("index")
        assert manifest is not None
        return Runs.open(manifest, snapshot.segment)


@pytest.mark.parametrize("field", [0, 2, 8, 20, 33, 73, 130, 239])
def test_a_changed_entry_is_found(log: Path, field: int) -> None:
    with changing(log) as tables:
        key, place = row_with(tables, "entries", 1000, ENTRY_BYTES)
        tables.flip("entries", key, place + field, 128)
    found = lines(log)
    assert "hash 0/1000: it is not the one of its entry" in found
    assert "hash 8/3: it is not the one over the hashes below it" in found
    assert any(line.startswith("head: the root is not that of the first") for line in found)
    assert not any(line.startswith(("hash 0/999", "entry 999:", "hash 8/2")) for line in found)


@pytest.mark.parametrize(("level", "item", "what"), [(0, 777, "of its entry"), (8, 5, "over the hashes below it")])
def test_a_changed_hash_is_found_and_nothing_else_is_suspected(log: Path, level: int, item: int, what: str) -> None:
    with changing(log) as tables:
        key, place = row_with(tables, "hashes", item, HASH_BYTES, level)
        tables.flip("hashes", key, place)
    assert lines(log) == [f"hash {level}/{item}: it is not the one {what}"]


def test_the_first_of_many_changed_hashes_is_named(log: Path) -> None:
    with changing(log) as tables:
        for item in (900, 901, 1200):
            key, place = row_with(tables, "hashes", item, HASH_BYTES, 0)
            tables.flip("hashes", key, place)
    (found,) = lines(log)
    assert found.startswith("hash 0/900: it is not the one of its entry, and 2 more of the next ")


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (0, "head: it was written by another release of Mintage: the layout is "),
        (2, "head: it says that there are "),
        (9, "head: it says that there are "),
        (10, "head: its time is not that of the last entry"),
        (15, "head: its time is not that of the last entry"),
        (18, "head: the root is not that of the first "),
        (72, "head: the signature of mintage.local/shard-0 is not of this text"),
        (-10, "head: the signature of mintage.local/shard-0 is not of this text"),
    ],
)  # fmt: skip
def test_a_changed_head_or_checkpoint_is_found(log: Path, field: int, found: str) -> None:
    with changing(log) as tables:
        tables.flip("state", b"head", field)
    assert any(line.startswith(found) for line in lines(log)), lines(log)


def test_a_head_that_is_missing_is_found_and_the_entries_are_checked(log: Path) -> None:
    with changing(log) as tables:
        tables.delete("state", b"head")
        key, place = row_with(tables, "entries", 1000, ENTRY_BYTES)
        tables.flip("entries", key, place + 200)
    found = lines(log)
    assert "head: there is no head" in found
    assert "hash 0/1000: it is not the one of its entry" in found


def test_an_older_head_put_back_is_found(log: Path, sound: Path) -> None:
    """As by restoring one row of two."""
    with changing(sound) as tables:
        older = tables.get("state", b"head")
    with open_shard(log) as shard:
        play_round(shard, NUM_ROUNDS)
        now = shard.tree_size
    with changing(log) as tables:
        tables.put("state", b"head", older)
    was = Head.unpack(older).tree_size
    found = lines(log)
    assert f"head: it says that there are {was} entries, and there are {now}" in found
    assert f"hash 0/{was}: {now} hashes instead of {was}" in found


@pytest.mark.parametrize("place", [0, 3, 20, 31, 40, -1])
def test_a_changed_manifest_of_the_index_is_found(log: Path, place: int) -> None:
    with changing(log) as tables:
        tables.flip("state", b"index", place)
    (found,) = lines(log)
    assert found.startswith("manifest of the index: ") and found.endswith("the index was not checked")


@pytest.mark.parametrize(("family", "place"), [*zip(Family, (0, 9, 13, 17, 30), strict=True), (Family.PARENT, -1)])
def test_a_changed_segment_of_the_index_is_found(log: Path, family: Family, place: int) -> None:
    run = runs_of(log).families[family][0]
    with changing(log) as tables:
        tables.flip("runs", struct.pack(">QI", run.id, 1), place)
    (found,) = lines(log)
    assert found.startswith(f"index run {run.id:#018x}, segment 1: ")
    assert f"this is of {family.name}, entries 0 to " in found


def test_changed_fences_of_the_index_are_found(log: Path) -> None:
    run = runs_of(log).families[Family.OWNER][0]
    with changing(log) as tables:
        tables.flip("runs", struct.pack(">QI", run.id, len(run.fences)), -1)
    (found,) = lines(log)
    assert found.startswith(f"index run {run.id:#018x}, segment {len(run.fences)}: the checksum is wrong")


@pytest.mark.parametrize("family", Family)
def test_an_item_of_the_index_that_was_forged_with_its_checksum_is_traced_to_its_segment(
    log: Path, family: Family
) -> None:
    run = runs_of(log).families[family][0]
    number = len(run.fences) // 2
    with changing(log) as tables:
        key = struct.pack(">QI", run.id, number)
        segment = tables.get("runs", key)
        keys, offsets = run.arrays(number, lambda *_: segment)
        # An item may take another's place in the order where the key or the index after it leaves room.
        has_room = (keys[:-1] < keys[1:]) | (offsets[:-1] + 1 < offsets[1:])
        forged = offsets.copy()
        forged[np.flatnonzero(has_room)[-1]] += 1
        tables.put("runs", key, segment_blob(run.id, number, keys, forged))
    found = lines(log)
    assert [line.partition(": ")[0] for line in found] == [f"index run {run.id:#018x}, segment {number}"]


def test_a_segment_that_is_missing_is_found(log: Path) -> None:
    run = runs_of(log).families[Family.ID][0]
    with changing(log) as tables:
        tables.delete("runs", struct.pack(">QI", run.id, 3))
    (found,) = lines(log)
    assert found.startswith(f"index run {run.id:#018x}, segment 3: a segment of the index is missing")


@pytest.mark.parametrize("run", [run_id(Family.ID, 0, 10**6), run_id(Family.ID, 3, 0), 9 << 56])
def test_a_segment_that_belongs_to_no_run_is_found(log: Path, run: int) -> None:
    with changing(log) as tables:
        tables.put("runs", struct.pack(">QI", run, 9000), b"what is this")
    assert lines(log) == [
        f"index run {run:#018x}, segment 9000: it belongs to no run, nor to one being made or replaced"
    ]


def test_a_changed_segment_that_belongs_to_no_run_any_more_is_found(log: Path) -> None:
    known = {run.id for family in runs_of(log).families for run in family}
    with changing(log) as tables:
        key = next(key for key, _ in tables.rows("runs") if struct.unpack(">QI", key)[0] not in known)
        tables.flip("runs", key, -1)
    (found,) = lines(log)
    assert found.startswith("index run {:#018x}, segment {}: the checksum".format(*struct.unpack(">QI", key)))


@pytest.mark.parametrize("place", [1, 8, 30, 100, -1])
def test_changed_balances_are_found(log: Path, place: int) -> None:
    with changing(log) as tables:
        tables.flip("state", b"book", place)
    (found,) = lines(log)
    assert found.startswith("book: the stored balances are not those after the first ")
    with pytest.raises(LedgerCorrupt):
        open_shard(log)


def test_balances_of_more_entries_than_there_are_are_found(log: Path) -> None:
    with changing(log) as tables:
        tables.flip("state", b"book", 6)
    (found,) = lines(log)
    assert found.startswith(f"book: the stored balances are of {BOOK_SIZE + 2**48} entries, and there are ")


@pytest.mark.parametrize(("table", "name"), [("contents", "content"), ("metas", "metadata")])
def test_a_changed_payload_is_found(log: Path, table: str, name: str) -> None:
    index = index_of(log, FIRST_ASSET + 60)
    with changing(log) as tables:
        tables.flip(table, index.to_bytes(8, "big"), 5)
    assert lines(log) == [f"entry {index}: its {name} does not have the hash that it names"]
    with open_shard(log) as shard, pytest.raises(LedgerCorrupt):
        (shard.content if table == "contents" else shard.meta)(index)


@pytest.mark.parametrize(("table", "name"), [("contents", "content"), ("metas", "metadata")])
def test_a_payload_that_is_missing_is_found(log: Path, table: str, name: str) -> None:
    index = index_of(log, FIRST_ASSET + 60)
    with changing(log) as tables:
        tables.delete(table, index.to_bytes(8, "big"))
    assert lines(log) == [f"entry {index}: its {name} is missing, and no entry erases it"]


def test_an_erased_content_that_came_back_is_found(log: Path, sound: Path) -> None:
    index = index_of(log, FIRST_ASSET + 53)
    with changing(log) as tables:
        tables.put(
            "contents", index.to_bytes(8, "big"), b"content of %d " % (FIRST_ASSET + 53) * ((FIRST_ASSET + 53) % 7 + 1)
        )
    assert lines(log) == [f"entry {index}: it was erased, and its content or metadata is still here"]


@pytest.mark.parametrize("table", ["entries", "hashes"])
def test_a_missing_row_is_found_where_it_was(log: Path, table: str) -> None:
    with changing(log) as tables:
        key, _ = row_with(tables, table, 1000, 1, None if table == "entries" else 0)
        tables.delete(table, key)
    first = int.from_bytes(key[-8:], "big")
    where = f"entry {first}" if table == "entries" else f"hash 0/{first}"
    assert lines(log)[0].startswith(f"{where}: its row should come next")


@pytest.mark.parametrize(("key", "where"), [(b"", ""), (b"\x08", "hash 8/")])
def test_the_last_row_missing_is_found(log: Path, key: bytes, where: str) -> None:
    table = "hashes" if key else "entries"
    with changing(log) as tables:
        last = max(row for row, _ in tables.rows(table) if row.startswith(key))
        tables.delete(table, last)
    first = int.from_bytes(last[-8:], "big")
    found = lines(log)
    assert any(line.startswith(f"{where}{first}: " if where else "head: it says that there are ") for line in found), (
        found
    )


@pytest.mark.parametrize(
    ("table", "key", "data", "found"),
    [
        ("entries", (10**6).to_bytes(8, "big"), bytes(ENTRY_BYTES), "its row should come next"),
        ("entries", b"short", bytes(ENTRY_BYTES), "its row should come next"),
        ("entries", (5).to_bytes(8, "big") + b"x", bytes(ENTRY_BYTES), "its row should come next"),
        ("hashes", b"\x00" + (10**6).to_bytes(8, "big"), bytes(32), "its row should come next"),
        ("hashes", b"\x10" + bytes(8), bytes(32), "hash 16/0: 1 hashes instead of 0"),
        ("hashes", b"\x03" + bytes(8), bytes(32), "hash row 030000000000000000: no hashes of this level are stored"),
        ("hashes", b"\xff", bytes(32), "hash row ff: no hashes of this level are stored"),
        ("contents", (10**6).to_bytes(8, "big"), b"x", "there is no entry that it belongs to"),
        ("metas", b"key", b"x", "metas row 6b6579: "),
        ("runs", b"key", b"x", "index row 6b6579: it is not named as a segment is"),
        ("state", b"heap", b"x", "state b'heap': no state has this name"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_belong_there_is_found(log: Path, table: str, key: bytes, data: bytes, found: str) -> None:
    with changing(log) as tables:
        tables.put(table, key, data)
    assert any(found in line for line in lines(log)), lines(log)


@pytest.mark.parametrize("table", ["entries", "hashes", "contents", "metas", "runs", "state"])
def test_rows_in_each_others_place_are_found(log: Path, table: str) -> None:
    with changing(log) as tables:
        rows = [row for row in tables.rows(table) if len(row[1]) > 1]
        (key, data), (other_key, other) = rows[0], rows[len(rows) // 2]
        assert data != other
        tables.put(table, key, other)
        tables.put(table, other_key, data)
    assert lines(log)


def test_any_bit_of_any_row_is_found(sound: Path, tmp_path: Path) -> None:
    """Keys and values, at random; in tables with many rows as often as in those with few."""
    chance = random.Random(FLIPS_SEED)
    for number in range(NUM_FLIPS):
        log = Path(shutil.copytree(sound, tmp_path / str(number)))
        with changing(log) as tables:
            table = TABLES[number % len(TABLES)]
            key, data = chance.choice([row for row in tables.rows(table) if row[1]])
            changed = bytearray(key + data)
            place = chance.randrange(len(changed))
            changed[place] ^= 1 << chance.randrange(8)
            tables.delete(table, key)
            tables.put(table, bytes(changed[: len(key)]), bytes(changed[len(key) :]))
        assert lines(log), f"flip {number}: {table} {key.hex()} {place}"
        shutil.rmtree(log)


@pytest.mark.parametrize("content", [b"", b"no database " * 1000])
def test_a_file_that_is_no_database_is_found(log: Path, content: bytes) -> None:
    (shard_path(log, 0) / DATA_FILE).write_bytes(content)
    (found,) = check(log).problems
    assert found.where.startswith("shard-000 ")


def test_a_busy_owner_is_no_damage(sound: Path, tmp_path: Path) -> None:
    """It sequences, appends, merges, erases and deletes all the while; what was not there at the beginning is not
    missed, and what was only begun is no damage."""
    log = Path(shutil.copytree(sound, tmp_path / "log"))
    reports: list[Report] = []
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(log), str(NUM_ROUNDS)], cwd=ROOT, text=True, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline()
        reports += (check(log) for _ in range(NUM_CHECKS))
        assert owner.poll() is None
        owner.kill()
    assert [report.problems for report in reports] == [()] * NUM_CHECKS
    assert reports[0].num_entries < reports[-1].num_entries
