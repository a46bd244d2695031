"""No room: nothing of the batch is written, what was acknowledged stays, and appends go on once there is room."""

import asyncio
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from settling import account, id_of, money
from shards import append_assets, asset, bare, columns, content_of, keys_of, open_shard, payloads_of

from ledger.entry import encode
from ledger.errors import LedgerError, LedgerFull
from ledger.files import create_once
from ledger.fsck import check_shard
from ledger.group import Committer
from ledger.index import Sizes
from ledger.log import shard_path
from ledger.payload import Payload
from ledger.receipt import verify
from ledger.result import Result
from ledger.runs import Family, run_id
from ledger.shard import Shard
from ledger.store import NEW_FILE, Store
from ledger.wal import FILE_BYTES, FILE_NAMES, missing

ROOT = Path(__file__).parents[2]
APPENDS_MAX = 4000
MAP_BYTES = 512 * 1024
BATCH = 16
RECEIPT_STEP = 17
ALICE, BOB = 1, 2
FIRST = 100
NUM_ORPHANS = 20
READER = """
import sys
from pathlib import Path
from ledger.store import Store
with Store.open_readonly(Path(sys.argv[1])).read() as snapshot:
    assert snapshot.state("head")
    print("looking", flush=True)
    sys.stdin.readline()
"""
SMALL_INDEX = Sizes(block_entries=96, batch_entries_max=64, segment_items=20)


def fill(shard: Shard) -> int:
    """Append batch after batch until there is no room; the number of the first asset that did not go in."""
    for number in range(FIRST, FIRST + APPENDS_MAX, BATCH):
        try:
            results = append_assets(shard, range(number, number + BATCH))
        except LedgerFull:
            return number
        assert set(results) <= {Result.OK, Result.EXISTS}
    raise AssertionError("it never became full")


def run_here(function: str, path: Path) -> subprocess.CompletedProcess[str]:
    """A function of this file, in a process of its own."""
    paths = [str(ROOT / "tests"), str(ROOT / "tests" / "fault")]
    script = f"import sys; sys.path[:0] = {paths}; import test_ledger_full as t; t.{function}(sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def assert_intact(path: Path, shard: Shard, end: int) -> None:
    """Exactly the assets before number `end` are there, each with its content; some receipts verify."""
    keys = keys_of(path).verifier_keys
    assert shard.tree_size == end - FIRST
    assert shard.find(asset(end).id) is None
    for number in range(FIRST, end):
        assert shard.content(number - FIRST) == content_of(number)
    for number in {*range(FIRST, end, RECEIPT_STEP), end - 1}:
        verify(shard.receipt(number - FIRST), keys, content_of(number))


def assert_sound(path: Path) -> None:
    assert check_shard(shard_path(path, 0), keys_of(path).signers[0].key).problems == ()


def test_a_full_map_refuses_the_batch_and_a_larger_one_takes_it(tmp_path: Path) -> None:
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        end = fill(shard)
        for _ in range(3):
            with pytest.raises(LedgerFull, match="map is full"):
                append_assets(shard, range(end, end + BATCH))
        assert_intact(tmp_path, shard, end)
    assert_sound(tmp_path)
    with open_shard(tmp_path, map_bytes=4 * MAP_BYTES) as shard:
        assert append_assets(shard, [end]) == [Result.OK]
        assert_intact(tmp_path, shard, end + 1)
    assert_sound(tmp_path)


def test_a_smaller_batch_may_still_fit_after_one_was_refused(tmp_path: Path) -> None:
    big = Payload(bytes(2 * MAP_BYTES))
    too_big = asset(FIRST, content_hash=hashlib.sha256(big.content or b"").digest(), num_bytes=big.num_bytes)
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        with pytest.raises(LedgerFull):
            shard.append(columns(too_big), [big])
        assert append_assets(shard, [FIRST]) == [Result.OK]
        assert_intact(tmp_path, shard, FIRST + 1)


def test_what_was_refused_for_want_of_room_has_moved_no_money(tmp_path: Path) -> None:
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        shard.append(columns(account(ALICE), account(BOB), money(3, ALICE, BOB, 7)))
        before = shard.book.snapshot()
        number = 10
        with pytest.raises(LedgerFull):
            for number in range(10, 10 + APPENDS_MAX, BATCH):
                shard.append(columns(*(money(number + place, BOB, ALICE, 1) for place in range(BATCH))))
        num_moved = number - 10
        assert num_moved and shard.book.snapshot() != before
        assert shard.book.balance(id_of(BOB)).debits_posted == num_moved
    with open_shard(tmp_path, map_bytes=2 * MAP_BYTES) as shard:
        assert shard.book.balance(id_of(BOB)).debits_posted == num_moved
        repeated = shard.append(columns(money(number, BOB, ALICE, 1)))
        assert repeated.results.tolist() == [Result.OK]
    assert_sound(tmp_path)


@pytest.mark.parametrize("map_bytes", [700 * 1024, 800 * 1024, 900 * 1024])
def test_a_shard_that_is_full_while_its_index_is_merged_goes_on(tmp_path: Path, map_bytes: int) -> None:
    with open_shard(tmp_path, map_bytes=map_bytes, sizes=SMALL_INDEX) as shard:
        end = fill(shard)
    with open_shard(tmp_path, map_bytes=4 * map_bytes, sizes=SMALL_INDEX) as shard:
        assert_intact(tmp_path, shard, end)
        for number in range(end, end + 1000, BATCH):
            assert set(append_assets(shard, range(number, number + BATCH))) == {Result.OK}
    assert_sound(tmp_path)


def test_a_shard_too_full_to_be_cleaned_up_opens_and_is_cleaned_up_with_the_next_batch(
    tmp_path: Path, reader_elsewhere: Callable[[Path], None]
) -> None:
    """Segments of a merge that did not get done are deleted before it is made again; to delete takes room, too."""
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        append_assets(shard, [FIRST])
    reader_elsewhere(tmp_path)  # so that nothing freed from now on is used again
    with closing(Store.open(shard_path(tmp_path, 0), map_bytes=MAP_BYTES, lock_wait_s=0)) as store:
        with store.write() as batch:
            for number in range(NUM_ORPHANS):
                batch.put_segment(run_id(Family.ID, 1, 0), number, bytes(1000))
        write_head_until_full(store)
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        assert_intact(tmp_path, shard, FIRST + 1)
        with pytest.raises(LedgerFull):
            append_assets(shard, [FIRST + 1])
    with open_shard(tmp_path, map_bytes=2 * MAP_BYTES) as shard:
        assert append_assets(shard, [FIRST + 1]) == [Result.OK]
        assert_intact(tmp_path, shard, FIRST + 2)
    with closing(Store.open_readonly(shard_path(tmp_path, 0))) as store, store.read() as snapshot:
        assert list(snapshot.segments()) == []
    assert_sound(tmp_path)


def write_head_until_full(store: Store) -> None:
    """Write the same again and again."""
    for _ in range(APPENDS_MAX):
        try:
            with store.write() as batch:
                batch.put_state("head", batch.state("head") or b"")
        except LedgerFull:
            return
    raise AssertionError("it never became full")


@pytest.fixture
def reader_elsewhere() -> Iterator[Callable[[Path], None]]:
    """Have another process look at the shard of a log until the end of the test."""
    with ExitStack() as processes:

        def look(path: Path) -> None:
            command = [sys.executable, "-c", READER, str(shard_path(path, 0))]
            process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=-1, stdout=-1)
            processes.callback(process.communicate)
            assert process.stdout is not None and process.stdout.readline() == "looking\n"

        yield look


def test_what_callers_were_told_is_recorded_is_there_though_the_map_is_full(tmp_path: Path) -> None:
    """What is only in the write-ahead log stays there until the shard is opened with a larger map."""
    recorded: dict[int, int] = {}
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        committer = Committer(shard)

        async def call(number: int) -> None:
            (payload,) = payloads_of([number])
            recorded[number] = (await committer.append(encode(asset(number)), payload)).index

        async def calls() -> None:
            for number in range(FIRST, FIRST + APPENDS_MAX, BATCH):
                await asyncio.gather(*map(call, range(number, number + BATCH)))

        with pytest.raises(LedgerFull, match="map is full"):
            asyncio.run(calls())
            shard.integrate()  # they were told nothing yet if the write-ahead log took it all
        committer.close()
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        assert shard.tree_size <= len(recorded) + BATCH
    with open_shard(tmp_path, map_bytes=16 * MAP_BYTES) as shard:
        for number, index in recorded.items():
            assert shard.find(asset(number).id) == index
            assert shard.content(index) == content_of(number)
        assert append_assets(shard, [FIRST + APPENDS_MAX]) == [Result.OK]
    assert_sound(tmp_path)


def test_callers_who_found_no_room_get_in_once_there_is(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    with open_shard(tiny_disk) as shard:
        end = fill(shard)
        committer = Committer(shard)

        async def call(number: int) -> Result:
            (payload,) = payloads_of([number])
            return (await committer.append(encode(asset(number)), payload)).result

        async def calls() -> list[object]:
            return await asyncio.gather(*map(call, range(end, end + 8 * BATCH)), return_exceptions=True)

        refused = asyncio.run(calls())
        assert any(isinstance(answer, LedgerFull) for answer in refused)
        ballast.unlink()
        assert set(asyncio.run(calls())) <= {Result.OK, Result.EXISTS}
        committer.close()
        assert shard.tree_size == end - FIRST + 8 * BATCH
    assert_sound(tiny_disk)


def test_a_snapshot_survives_a_write_that_failed(tmp_path: Path) -> None:
    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        append_assets(shard, [FIRST])
    store = Store.open(shard_path(tmp_path, 0), map_bytes=MAP_BYTES, lock_wait_s=0)
    with store.read() as snapshot:
        head = snapshot.state("head")
        with pytest.raises(LedgerFull), store.write() as batch:
            batch.put_payload(7, bytes(2 * MAP_BYTES), None)
        assert head is not None and snapshot.state("head") == head
        assert snapshot.content(7) is None and snapshot.content(0) == content_of(FIRST)
    store.close()


def test_a_full_disk_that_may_have_cut_the_last_page_is_not_called_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB refuses every transaction once the page that publishes a commit could not be written; here it is made to."""

    def refuse() -> None:
        raise LedgerError("MDB_PANIC", where="shard", fix="Open it again.")

    with open_shard(tmp_path, map_bytes=MAP_BYTES) as shard:
        monkeypatch.setattr(Store, "read", lambda _: refuse())
        with pytest.raises(LedgerError, match="MDB_PANIC") as caught:
            fill(shard)
        assert not isinstance(caught.value, LedgerFull)
        with pytest.raises(LedgerError, match="without its end being seen"):
            append_assets(shard, [FIRST])
        monkeypatch.undo()
    with open_shard(tmp_path, map_bytes=2 * MAP_BYTES) as shard:
        assert set(append_assets(shard, range(FIRST, FIRST + 8))) == {Result.EXISTS}
    assert_sound(tmp_path)


def test_a_process_at_its_file_size_limit_goes_on_once_the_limit_is_raised(tmp_path: Path) -> None:
    """The kernel cuts writes short at the limit, as a full disk does."""
    result = run_here("run_at_limit", tmp_path)
    assert result.returncode == 0, result.stderr
    assert_sound(tmp_path)
    with open_shard(tmp_path) as shard:
        assert_intact(tmp_path, shard, int(result.stdout))


def run_at_limit(directory: str) -> None:
    """In a process of its own: fill up to the limit, check, raise the limit, go on; prints the end of the numbers."""
    path = Path(directory)
    with open_shard(path) as shard:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAP_BYTES, resource.RLIM_INFINITY))
        end = fill(shard)
        assert_intact(path, shard, end)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert append_assets(shard, [end]) == [Result.OK]
        print(end + 1)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_refuses_the_batch_and_takes_it_once_there_is_room(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    with open_shard(tiny_disk) as shard:
        end = fill(shard)
        with pytest.raises(LedgerFull, match="No space left"):
            append_assets(shard, range(end, end + 8 * BATCH))
        assert_intact(tiny_disk, shard, end)
        ballast.unlink()
        assert append_assets(shard, [end]) == [Result.OK]
        assert_intact(tiny_disk, shard, end + 1)
    assert_sound(tiny_disk)


def test_a_shard_on_a_full_disk_can_be_opened_and_read(tiny_disk: Path) -> None:
    with open_shard(tiny_disk, sizes=SMALL_INDEX) as shard:
        end = fill(shard)
    with open_shard(tiny_disk, sizes=SMALL_INDEX) as shard:
        assert_intact(tiny_disk, shard, end)
    assert_sound(tiny_disk)


def test_a_new_shard_on_a_full_disk_is_refused_and_made_once_there_is_room(tiny_disk: Path) -> None:
    """In a process of its own: LMDB's mapped table of readers, without room, would end it with SIGBUS."""
    keys_of(tiny_disk)
    ballast = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2_000_000))
    result = run_here("open_on_full_disk", tiny_disk)
    assert (result.returncode, result.stdout) == (0, "ledger_full\n"), result.stderr
    assert not (shard_path(tiny_disk, 0) / NEW_FILE).exists()
    ballast.unlink()
    with open_shard(tiny_disk) as shard:
        append_assets(shard, [FIRST])
        assert_intact(tiny_disk, shard, FIRST + 1)


@pytest.mark.parametrize("num_pages", range(1, 16, 2))
def test_a_disk_that_fills_up_while_a_shard_is_made_is_named(tiny_disk: Path, num_pages: int) -> None:
    """Wherever it stops, it is made once there is room."""
    keys_of(tiny_disk)
    shard_path(tiny_disk, 0).mkdir()
    ballast = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2_000_000))
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - num_pages * resource.getpagesize())
    result = run_here("open_on_full_disk", tiny_disk)
    assert result.returncode == 0 and result.stdout in ("ledger_full\n", ""), result.stderr
    ballast.unlink()
    with open_shard(tiny_disk) as shard:
        append_assets(shard, [FIRST])
        assert_intact(tiny_disk, shard, FIRST + 1)


def open_on_full_disk(directory: str) -> None:
    """In a process of its own: prints the code of the error, if there is one."""
    try:
        open_shard(Path(directory)).close()
    except LedgerFull as error:
        print(error.code)


def test_a_full_disk_leaves_no_half_written_file(tiny_disk: Path) -> None:
    with pytest.raises(LedgerFull):
        create_once(tiny_disk / "file", bytes(2_000_000), 0o644)
    assert list(tiny_disk.iterdir()) == []


def test_the_last_room_is_not_taken_by_a_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches are commits until there is as much room again as its two files take, and then make both."""
    free = [4 * FILE_BYTES - 1]
    disk = os.statvfs(tmp_path)
    monkeypatch.setattr(
        "ledger.wal.os.statvfs", lambda _: SimpleNamespace(f_bavail=free[0], f_frsize=1, f_bsize=disk.f_bsize)
    )
    with open_shard(tmp_path) as shard:
        folder = shard_path(tmp_path, 0)
        assert shard.sequence(columns(bare(1))).results.tolist() == [Result.OK]
        assert missing(folder) == list(FILE_NAMES)
        assert shard.num_pending == 0
        free[0] += 1
        assert shard.sequence(columns(bare(2))).results.tolist() == [Result.OK]
        assert missing(folder) == []
        assert shard.num_pending == 1
