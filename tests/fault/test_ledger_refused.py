"""What is no shard of ours, or not to be written: refused by name, left as it was, and taken once the cause is gone."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import lmdb
import pytest
from settling import account, id_of, money
from shards import NOW_NS, append_assets, asset, columns, keys_of, open_shard, payloads_of, some_bytes

from ledger.entry import Flag
from ledger.errors import LayoutUnsupported, LedgerCorrupt, LedgerError, LedgerReadOnly, LogMismatch
from ledger.fsck import check_shard
from ledger.head import Head
from ledger.log import begun_path, shard_path
from ledger.note import Signer, read_checkpoint
from ledger.reader import Reader
from ledger.result import Result
from ledger.shard import Publishing, Shard
from ledger.store import DATA_FILE, TABLES, Store

HOUR_NS = 3600 * 10**9
PENDING_S = 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with three assets in its first shard."""
    with open_shard(tmp_path / "log") as shard:
        append_assets(shard, range(1, 4))
    return tmp_path / "log"


def assert_goes_on(log: Path) -> None:
    """All three are there, and a fourth is recorded."""
    with open_shard(log) as shard:
        assert shard.tree_size == 3
        assert append_assets(shard, range(1, 5)) == [Result.EXISTS] * 3 + [Result.OK]
    assert check_shard(shard_path(log, 0), keys_of(log).signers[0].key).problems == ()


def assert_refused(log: Path, kind: type[LedgerError], what: str) -> None:
    """Twice, by name, with what to do; and neither try has changed anything."""
    before = {path: path.read_bytes() for path in shard_path(log, 0).glob(DATA_FILE) if path.is_file()}
    for _ in range(2):
        with pytest.raises(kind, match=what) as caught:
            open_shard(log)
        assert type(caught.value) is kind
        assert caught.value.where and caught.value.fix.endswith(".")
    assert before == {path: path.read_bytes() for path in before}


def open_as(log: Path, signer: Signer, shard: int = 0) -> Shard:
    return Shard.open(shard_path(log, 0), shard, signer, lambda: NOW_NS, entropy=some_bytes, lock_wait_s=0)


def test_another_key_of_the_same_name_is_refused(log: Path) -> None:
    stranger = Signer(keys_of(log).signers[0].name, b"another key" + bytes(21))
    with pytest.raises(LogMismatch, match="of another key than"):
        open_as(log, stranger)
    assert_goes_on(log)


def test_the_key_of_another_shard_is_refused(log: Path) -> None:
    other = keys_of(log).signers[1]
    with pytest.raises(LogMismatch, match=r"the signer is mintage\.local/shard-1"):
        open_as(log, other)
    with pytest.raises(LogMismatch, match=r"the shard there is 'mintage\.local/shard-0'"):
        open_as(log, other, shard=1)
    assert_goes_on(log)


def test_the_key_of_another_log_is_refused(log: Path) -> None:
    with pytest.raises(LogMismatch, match=r"the shard there is 'mintage\.local/shard-0'"):
        open_as(log, keys_of(log).signers[0].renamed("example.org/shard-0"))
    assert_goes_on(log)


def zeros(file: Path) -> None:
    file.write_bytes(bytes(8192))


def text(file: Path) -> None:
    file.write_text("this is no ledger\n" * 1000)


def one_page(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:4096])


def another_version(file: Path) -> None:
    """Of LMDB's file format: the 32-bit word after its magic number, in both meta pages."""
    data = bytearray(file.read_bytes())
    for page in (0, 4096):
        data[page + 20 : page + 24] = (999).to_bytes(4, "little")
    file.write_bytes(data)


def other_tables(file: Path) -> None:
    """As the ledger's layout before this one had them."""
    file.unlink()
    with closing(lmdb.open(str(file.parent), max_dbs=4)) as environment:
        for table in (b"entries", b"nodes", b"ids", b"blobs"):
            environment.open_db(table)


def more_tables(file: Path) -> None:
    """Ours and another one, as a later release may have them."""
    with closing(lmdb.open(str(file.parent), max_dbs=len(TABLES) + 1)) as environment:
        environment.open_db(b"filters")


def no_tables(file: Path) -> None:
    file.unlink()
    with closing(lmdb.open(str(file.parent))) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")


def another_layout(file: Path) -> None:
    """Our tables, but a head that says that it is of the layout after this one."""
    with closing(Store.open(file.parent, map_bytes=1 << 30, lock_wait_s=0)) as store, store.write() as batch:
        batch.put_state("head", (3).to_bytes(2, "little") + Head.of(batch).pack()[2:])


def half_a_head(file: Path) -> None:
    with closing(Store.open(file.parent, map_bytes=1 << 30, lock_wait_s=0)) as store, store.write() as batch:
        batch.put_state("head", Head.of(batch).pack()[:40])


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        (zeros, LedgerCorrupt, "not an LMDB file"),
        (text, LedgerCorrupt, "not an LMDB file"),
        (one_page, LedgerCorrupt, "not an LMDB file"),
        (another_version, LedgerError, "data format v999"),
        (other_tables, LayoutUnsupported, "written by another release of Mintage: it has other tables"),
        (more_tables, LayoutUnsupported, "written by another release of Mintage: it has other tables"),
        (another_layout, LayoutUnsupported, "another release of Mintage: the layout is 3, and this release has 2"),
        (no_tables, LedgerCorrupt, "there are no tables of a ledger"),
        (half_a_head, LedgerCorrupt, "the head was cut off"),
        (directory, LedgerError, "Is a directory"),
    ],
)
def test_a_file_of_another_format_is_refused_and_ours_is_taken_when_it_is_back(
    log: Path, tmp_path: Path, change: Callable[[Path], None], kind: type[LedgerError], what: str
) -> None:
    kept = shutil.copytree(shard_path(log, 0), tmp_path / "kept")
    change(shard_path(log, 0) / DATA_FILE)
    assert_refused(log, kind, what)
    with pytest.raises(kind, match=what):
        Reader.open(shard_path(log, 0))
    shutil.rmtree(shard_path(log, 0))
    shutil.copytree(kept, shard_path(log, 0))
    assert_goes_on(log)


@pytest.mark.parametrize("change", [other_tables, another_layout])
def test_a_shard_of_another_release_says_which_setting_takes_a_new_directory(
    log: Path, change: Callable[[Path], None]
) -> None:
    change(shard_path(log, 0) / DATA_FILE)
    with pytest.raises(LayoutUnsupported) as caught:
        open_shard(log)
    assert caught.value.code == "layout_unsupported"
    assert "data_dir, mintage run --data" in caught.value.fix
    (problem,) = check_shard(shard_path(log, 0), keys_of(log).signers[0].key).problems
    assert "another release of Mintage" in problem.what


def test_a_shard_whose_directory_is_gone_is_not_begun_again(log: Path, tmp_path: Path) -> None:
    """A disk that was not mounted, say; and nothing is made in its place."""
    kept = shard_path(log, 0).rename(tmp_path / "kept")
    assert_refused(log, LedgerCorrupt, "the shard was begun before, and what was in it is gone")
    assert not shard_path(log, 0).exists()
    kept.rename(shard_path(log, 0))
    assert_goes_on(log)


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_shard_whose_data_is_gone_is_not_begun_again(log: Path, tmp_path: Path, is_missing: bool) -> None:
    with open_shard(log) as shard:
        shard.sequence(columns(asset(1)), payloads_of([1]))  # so that there is a write-ahead log
    file = shard_path(log, 0) / DATA_FILE
    kept = file.rename(tmp_path / "kept.mdb")
    if not is_missing:
        file.touch()
    with pytest.raises(LedgerCorrupt, match=f"there is no {DATA_FILE}, or nothing in it"):
        Reader.open(shard_path(log, 0))
    assert_refused(log, LedgerCorrupt, "the shard was begun before, and what was in it is gone")
    shutil.copy(kept, file)
    assert_goes_on(log)


def test_a_directory_of_other_things_is_not_made_a_shard(tmp_path: Path) -> None:
    keys_of(tmp_path)
    shard_path(tmp_path, 0).mkdir()
    stranger = shard_path(tmp_path, 0) / "holiday.jpg"
    stranger.write_bytes(b"picture")
    assert_refused(tmp_path, LogMismatch, "there is no shard, but 'holiday.jpg'")
    assert not begun_path(shard_path(tmp_path, 0)).exists()
    stranger.unlink()
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [1]) == [Result.OK]


def test_a_file_in_the_place_of_a_shard_is_named(tmp_path: Path) -> None:
    keys_of(tmp_path)
    shard_path(tmp_path, 0).write_bytes(b"file")
    assert_refused(tmp_path, LogMismatch, "there is a file and no directory")
    shard_path(tmp_path, 0).unlink()
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [1]) == [Result.OK]


@pytest.fixture
def set_read_only(log: Path) -> Iterator[Callable[[bool], None]]:
    """Have nobody write to the log, not even the superuser, whom permissions do not bind; or let everybody again."""
    mounted = subprocess.run(["mount", "--bind", str(log), str(log)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")

    def set_to(read_only: bool) -> None:
        mode = "ro" if read_only else "rw"
        subprocess.run(["mount", "-o", f"remount,bind,{mode}", str(log)], check=True)

    yield set_to
    subprocess.run(["umount", str(log)], check=True)


def test_a_directory_that_may_not_be_written_is_named_and_can_be_read(
    log: Path, set_read_only: Callable[[bool], None]
) -> None:
    keys = keys_of(log)
    set_read_only(True)
    for _ in range(2):
        with pytest.raises(LedgerReadOnly, match="Read-only file system"):
            open_as(log, keys.signers[0])
    with Reader.open(shard_path(log, 0)) as reader:
        assert reader.tree_size == 3 and reader.entry(2).id == id_of(3)
    assert check_shard(shard_path(log, 0), keys.signers[0].key).problems == ()
    set_read_only(False)
    assert_goes_on(log)


def test_a_new_shard_where_nothing_may_be_written_is_named_and_made_later(
    log: Path, set_read_only: Callable[[bool], None]
) -> None:
    keys = keys_of(log)
    shutil.rmtree(shard_path(log, 0))
    begun_path(shard_path(log, 0)).unlink()
    set_read_only(True)
    with pytest.raises(LedgerReadOnly):
        open_as(log, keys.signers[0])
    set_read_only(False)
    with open_shard(log) as shard:
        assert append_assets(shard, [1]) == [Result.OK]


class Clock:
    """Goes wherever it is set."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


def times_of(shard: Shard) -> list[int]:
    return [shard.entry(index).time_ns for index in range(shard.tree_size)]


@pytest.mark.parametrize("reopened", [False, True])
def test_time_goes_on_in_the_log_while_the_clock_goes_back(tmp_path: Path, reopened: bool) -> None:
    clock = Clock()
    with open_shard(tmp_path, clock) as shard:
        append_assets(shard, range(1, 4))
        clock.now_ns -= HOUR_NS
        if reopened:
            shard.close()
            shard = open_shard(tmp_path, clock)
        for number in range(4, 8):
            assert append_assets(shard, [number]) == [Result.OK]
        clock.now_ns += 2 * HOUR_NS
        append_assets(shard, [8])
        times = times_of(shard)
        assert all(earlier < later for earlier, later in pairwise(times))
        assert times[6] == NOW_NS + 6 and times[7] == NOW_NS + HOUR_NS
        shard.close()
    assert check_shard(shard_path(tmp_path, 0), keys_of(tmp_path).signers[0].key).problems == ()


def test_nothing_pending_is_released_early_however_the_clock_goes(tmp_path: Path) -> None:
    clock = Clock()
    with open_shard(tmp_path, clock) as shard:
        shard.append(columns(account(1), account(2), money(3, 1, 2, 5, Flag.PENDING, num_bytes=PENDING_S)))
        for step_ns in (-HOUR_NS, HOUR_NS // 2, HOUR_NS // 2, (PENDING_S - 1) * 10**9):
            clock.now_ns += step_ns
            assert len(shard.expire().results) == 0
            assert shard.book.pending(id_of(3))
        clock.now_ns += 2 * 10**9
        assert shard.expire().results.tolist() == [Result.OK]
        assert shard.book.pending(id_of(3)) is None


def test_checkpoints_are_published_on_time_after_the_clock_went_back(tmp_path: Path) -> None:
    """Else what was appended would not be covered by a stored checkpoint until the clock was where it had been."""
    clock = Clock()
    with open_shard(tmp_path, clock, publishing=Publishing(10**6, 1000)) as shard:
        append_assets(shard, [1])
        clock.now_ns -= HOUR_NS
        for number in range(2, 6):
            clock.now_ns += 10**9
            append_assets(shard, [number])
            assert read_checkpoint(shard.reader().checkpoint()).tree_size == number
