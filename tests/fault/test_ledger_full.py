"""No room: nothing of the batch is written, what was acknowledged stays, and appends go on once there is room."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.entry import Kind
from ledger.errors import LedgerError, LedgerFull
from ledger.files import create_once
from ledger.fsck import check
from ledger.log import open_keys, shard_path
from ledger.receipt import verify
from ledger.shard import NewEntry, Shard
from ledger.store import MAP_BYTES_DEFAULT, Store

ROOT = Path(__file__).parents[2]
APPENDS_MAX = 2000
MAP_BYTES = 512 * 1024


def item(number: int, content_bytes: int = 4000) -> NewEntry:
    content = (b"%d " % number).ljust(content_bytes, b"x")
    return NewEntry(Kind.ASSET, number.to_bytes(16, "big"), content, b"r" * 32, "acme")


def open_shard(path: Path, map_bytes: int = MAP_BYTES_DEFAULT) -> Shard:
    keys = open_keys(path, "mintage.local", 1)
    return Shard.open(
        shard_path(path, 0), shard=0, signer=keys.signers[0], now_ms=lambda: 1, map_bytes=map_bytes, lock_wait_s=0
    )


def fill(shard: Shard) -> int:
    """Append one by one until there is no room; how many went in."""
    for number in range(shard.size(), APPENDS_MAX):
        try:
            shard.append([item(number)])
        except LedgerFull:
            return number
    raise AssertionError("it never became full")


def run_here(function: str, path: Path) -> subprocess.CompletedProcess[str]:
    """A function of this file, in a process of its own."""
    script = f"import sys; sys.path.insert(0, 'tests/fault'); import test_ledger_full as t; t.{function}(sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def assert_intact(path: Path, shard: Shard, num_entries: int) -> None:
    """Exactly the acknowledged entries are there, and every one verifies."""
    verifier_keys = open_keys(path, "mintage.local", 1).verifier_keys
    assert shard.size() == num_entries
    assert shard.find(item(num_entries).asset_id) is None
    for number in range(num_entries):
        verify(shard.receipt(number), verifier_keys, item(number).content)


def test_a_full_map_refuses_the_batch_and_a_larger_one_takes_it(tmp_path: Path) -> None:
    with open_shard(tmp_path, MAP_BYTES) as shard:
        num_entries = fill(shard)
        for _ in range(3):
            with pytest.raises(LedgerFull, match="map is full"):
                shard.append([item(number) for number in range(num_entries, num_entries + 20)])
        assert_intact(tmp_path, shard, num_entries)
    assert check(tmp_path).problems == ()
    with open_shard(tmp_path, 4 * MAP_BYTES) as shard:
        assert shard.append([item(num_entries)])[0].status == "committed"
        assert_intact(tmp_path, shard, num_entries + 1)
    assert check(tmp_path).problems == ()


def test_a_smaller_batch_may_still_fit_after_one_was_refused(tmp_path: Path) -> None:
    with open_shard(tmp_path, MAP_BYTES) as shard:
        with pytest.raises(LedgerFull):
            shard.append([item(0), item(1, content_bytes=2 * MAP_BYTES)])
        assert shard.append([item(0)])[0].index == 0
        assert_intact(tmp_path, shard, 1)


def test_a_snapshot_survives_a_write_that_failed(tmp_path: Path) -> None:
    with open_shard(tmp_path, MAP_BYTES) as shard:
        shard.append([item(0)])
        head = shard.checkpoint()
    store = Store.open(shard_path(tmp_path, 0), map_bytes=MAP_BYTES, lock_wait_s=0)
    with store.read() as snapshot:
        with pytest.raises(LedgerFull), store.write() as batch:
            batch.put_blob(b"k" * 32, bytes(2 * MAP_BYTES))
        found = snapshot.head()
        assert found is not None and found.checkpoint == head
        assert snapshot.blob(b"k" * 32) is None
    store.close()


def test_a_full_disk_that_may_have_cut_the_last_page_is_not_called_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB refuses every transaction once the page that publishes a commit could not be written; here it is made to."""

    def refuse() -> None:
        raise LedgerError("MDB_PANIC", where="shard", fix="Open it again.")

    store = Store.open(tmp_path / "shard", map_bytes=MAP_BYTES, lock_wait_s=0)
    monkeypatch.setattr(store, "read", refuse)
    with pytest.raises(LedgerError, match="MDB_PANIC") as caught, store.write() as batch:
        batch.put_blob(b"k" * 32, bytes(2 * MAP_BYTES))
    assert not isinstance(caught.value, LedgerFull)
    store.close()


def test_a_process_at_its_file_size_limit_goes_on_once_the_limit_is_raised(tmp_path: Path) -> None:
    """The kernel cuts writes short at the limit, as a full disk does."""
    result = run_here("run_at_limit", tmp_path)
    assert result.returncode == 0, result.stderr
    report = check(tmp_path)
    assert report.problems == ()
    assert report.num_entries == int(result.stdout)


def run_at_limit(directory: str) -> None:
    """In a process of its own: fill up to the limit, check, raise the limit, go on; prints the number of entries."""
    path = Path(directory)
    with open_shard(path) as shard:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAP_BYTES, resource.RLIM_INFINITY))
        num_entries = fill(shard)
        assert_intact(path, shard, num_entries)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert shard.append([item(num_entries)])[0].status == "committed"
        assert_intact(path, shard, num_entries + 1)
        print(shard.size())


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
        num_entries = fill(shard)
        with pytest.raises(LedgerFull, match="No space left"):
            shard.append([item(number) for number in range(num_entries, num_entries + 40)])
        assert_intact(tiny_disk, shard, num_entries)
        ballast.unlink()
        assert shard.append([item(num_entries)])[0].status == "committed"
        assert_intact(tiny_disk, shard, num_entries + 1)
    assert check(tiny_disk).problems == ()


def test_a_shard_on_a_full_disk_can_be_opened_and_read(tiny_disk: Path) -> None:
    with open_shard(tiny_disk) as shard:
        num_entries = fill(shard)
    with open_shard(tiny_disk) as shard:
        assert_intact(tiny_disk, shard, num_entries)
    assert check(tiny_disk).problems == ()


def test_a_new_shard_on_a_full_disk_is_refused_and_made_once_there_is_room(tiny_disk: Path) -> None:
    """In a process of its own: LMDB's mapped table of readers, without room, would end it with SIGBUS."""
    open_keys(tiny_disk, "mintage.local", 1)
    ballast = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2_000_000))
    result = run_here("open_on_full_disk", tiny_disk)
    assert (result.returncode, result.stdout) == (0, "ledger_full\n"), result.stderr
    ballast.unlink()
    with open_shard(tiny_disk) as shard:
        shard.append([item(0)])
        assert_intact(tiny_disk, shard, 1)


def open_on_full_disk(directory: str) -> None:
    """In a process of its own: prints the code of the error."""
    try:
        open_shard(Path(directory))
    except LedgerFull as error:
        print(error.code)


def test_a_full_disk_leaves_no_half_written_file(tiny_disk: Path) -> None:
    with pytest.raises(LedgerFull):
        create_once(tiny_disk / "file", bytes(2_000_000), 0o644)
    assert list(tiny_disk.iterdir()) == []
