"""A reader beside the writer: every look is one consistent state, in this process and in others, and pins no page."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from settling import id_of
from shards import append_assets, bare, columns, open_shard

from ledger.entry import ENTRY_BYTES, Entry
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.index import Sizes
from ledger.log import shard_path
from ledger.reader import PAGE_MAX, Reader
from ledger.result import Result
from ledger.runs import Family
from ledger.shard import Publishing, Shard

ROOT = Path(__file__).parents[2]
SIZES = Sizes(block_entries=64, batch_entries_max=16, segment_items=8, fan_in=3)
"""A run every 48 entries, and merges all the time: what a look needs is deleted soon after it."""

OWNER_FIELD = 1
NUM_LOOKS_MIN = 30

# It looks until its input ends, and says at the end how many sizes it has seen.
LOOKER = """
import select, sys
sys.path.insert(0, "tests")
from pathlib import Path
from settling import id_of
from ledger.merkle import verify_consistency
from ledger.reader import Reader
from ledger.runs import Family

seen = {}
with Reader.open(Path(sys.argv[1])) as reader:
    print("looking", flush=True)
    old, num_looks, is_over = reader.head(), 0, False
    while not is_over or num_looks < int(sys.argv[2]):
        is_over = is_over or bool(select.select([sys.stdin], [], [], 0)[0])
        head = reader.head()
        size = head.tree_size
        assert size >= old.tree_size and head.time_ns >= old.time_ns
        assert reader.tree(size).root == head.root
        if 0 < old.tree_size:
            proof = reader.consistency(old.tree_size, size)
            verify_consistency(old.tree_size, size, old.root, head.root, proof)
        for index in {0, size // 3, size - 1} & set(range(size)):
            assert reader.index_of(id_of(1 + index)) == index
            assert reader.entry(index).id == id_of(1 + index)
        assert reader.index_of(id_of(10**9)) is None
        page = reader.find(Family.OWNER, id_of(1), begin=size // 2, limit=20)
        found = [one.index for one in page.found]
        assert found == list(range(size // 2, size // 2 + len(found))) and len(found) >= min(20, size - size // 2)
        assert size < 3 or [one.index for one in reader.children(0, size // 2).found] == [size // 2 + 1]
        seen[size], old, num_looks = head.root, head, num_looks + 1
print(len(seen), max(seen), seen[max(seen)].hex(), flush=True)
"""


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    with open_shard(tmp_path, sizes=SIZES, publishing=Publishing(50)) as opened:
        yield opened


def child_of_the_one_before(number: int) -> Entry:
    return bare(number, parents=((0, number - 2),) if number > 1 else ())


def pinned(shard: Shard) -> int:
    """How many read transactions are open, in any process."""
    rows = shard._store._environment.readers().splitlines()[1:]
    return sum(row.split()[-1] != "-" for row in rows)


def test_looks_from_another_process_are_consistent_whatever_the_writer_does_meanwhile(
    shard: Shard, tmp_path: Path
) -> None:
    numbers = itertools.count(1)

    def write(num_batches: int) -> None:
        for turn in range(num_batches):
            batch = [child_of_the_one_before(next(numbers)) for _ in range(1 + turn % 16)]
            append = shard.append if turn % 3 else shard.sequence
            assert set(append(columns(*batch)).results.tolist()) == {Result.OK}

    write(3)
    command = [sys.executable, "-c", LOOKER, str(shard_path(tmp_path, 0)), str(NUM_LOOKS_MIN)]
    looker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with looker:
        assert looker.stdin and looker.stdout
        assert looker.stdout.readline() == "looking\n"
        write(150)
        shard.integrate()
        looker.stdin.close()
        num_sizes, size, root = looker.stdout.readline().split()
    assert looker.returncode == 0
    assert int(num_sizes) > 1, "it has seen the shard grow"
    head = shard.reader().head()
    assert (int(size), root) == (head.tree_size, head.root.hex())
    assert max(run.level for run in shard._writer.memory.index.runs.families[Family.ID]) >= 2


def test_no_look_leaves_a_page_pinned_even_if_it_ends_in_an_error(shard: Shard) -> None:
    append_assets(shard, [1, 2, 3])
    reader = shard.reader()
    with shard._store.read():
        assert pinned(shard) == 1
    reader.by_id(id_of(1))
    reader.find(Family.OWNER, id_of(OWNER_FIELD))
    reader.consistency(1, 3)
    for call in (lambda: reader.entry(9), lambda: reader.tree(9), lambda: reader.rows([0, 9])):
        with pytest.raises(EntryNotFound):
            call()
    assert pinned(shard) == 0


def test_what_is_found_page_by_page_pins_nothing_between_the_pages(shard: Shard) -> None:
    for begin in range(1, 2 * PAGE_MAX, 16):
        shard.append(columns(*(bare(number) for number in range(begin, begin + 16))))
    found = shard.reader().find_all(Family.OWNER, id_of(OWNER_FIELD))
    first = list(itertools.islice(found, PAGE_MAX))
    assert pinned(shard) == 0
    shard.append(columns(bare(10**6)))
    assert [one.index for one in (*first, *found)] == list(range(shard.tree_size)), "with what came meanwhile"


def test_a_reader_that_only_waits_keeps_no_page_of_the_writer(shard: Shard, tmp_path: Path) -> None:
    """It was opened and has looked; the writer writes its head over and over, and the file hardly grows by that."""
    append_assets(shard, [1])
    waiting = "import sys\nfrom pathlib import Path\nfrom ledger.reader import Reader\n"
    waiting += "reader = Reader.open(Path(sys.argv[1]))\nassert reader.entry(0)\nprint('waiting', flush=True)\n"
    waiting += "sys.stdin.read()\nprint(reader.tree_size)\n"
    command = [sys.executable, "-c", waiting, str(shard_path(tmp_path, 0))]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with reader:
        assert reader.stdin and reader.stdout
        assert reader.stdout.readline() == "waiting\n"
        assert pinned(shard) == 0
        before = shard._store._environment.info()["last_pgno"]
        for number in range(2, 202):
            append_assets(shard, [number])
        grown = shard._store._environment.info()["last_pgno"] - before
        reader.stdin.close()
        assert int(reader.stdout.readline()) == 201
    assert grown < 100, "200 commits with a pinned page would each take new ones"


def test_a_reader_of_one_moment_does_not_see_the_next(shard: Shard) -> None:
    """What one transaction has shown stays so within a look, though thousands of entries come."""
    append_assets(shard, [1])
    with shard._store.read() as snapshot:
        for begin in range(2, 200, 16):
            shard.append(columns(*(bare(number) for number in range(begin, begin + 16))))
        assert snapshot.entries(0, 1, ENTRY_BYTES) == shard.read_entries(0, 1)
        with pytest.raises(LedgerCorrupt, match="missing"):
            snapshot.entries(0, 2, ENTRY_BYTES)


def test_a_reader_that_is_closed_gives_its_directory_free(tmp_path: Path) -> None:
    with open_shard(tmp_path) as shard:
        append_assets(shard, [1])
    for _ in range(3):
        with Reader.open(shard_path(tmp_path, 0)) as reader:
            assert reader.tree_size == 1
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [2]) == [Result.OK]
