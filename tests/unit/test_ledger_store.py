"""The store: a batch is all there or not at all, a snapshot is one moment, and what is missing is said to be."""

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from ledger import store as store_module
from ledger.entry import ENTRY_BYTES
from ledger.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerFull, LedgerLocked, LedgerReadOnly
from ledger.store import DATA_FILE, NEW_FILE, READERS_FILE, READERS_MAX, TABLES, Batch, Store, has_data, unpack_index

MAP_BYTES = 1 << 24
WIDTH = 4
INDEX_MAX = 2**64 - 1
NUM_ITEMS = 600


def items(begin: int, end: int) -> bytes:
    """Consecutive items of four bytes, each its own number."""
    return b"".join(number.to_bytes(WIDTH, "big") for number in range(begin, end))


def open_store(path: Path, map_bytes: int = MAP_BYTES) -> Store:
    return Store.open(path, map_bytes=map_bytes, lock_wait_s=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(tmp_path / "shard")) as opened:
        yield opened


def append_rows(store: Store, *ends: int) -> None:
    """Rows of entries that end there, each in a batch of its own."""
    for begin, end in zip((0, *ends), ends, strict=False):
        with store.write() as batch:
            batch.append_entries(begin, items(begin, end))


def test_a_batch_is_seen_by_others_once_it_is_whole(store: Store) -> None:
    with store.write() as batch:
        batch.append_entries(0, items(0, 3))
        batch.append_hashes(0, 0, items(0, 3))
        batch.put_payload(1, b"content", b"meta")
        batch.put_segment(7, 0, b"segment")
        batch.put_state("head", b"three")
        with store.read() as snapshot:
            assert [list(snapshot.rows(table)) for table in TABLES] == [[]] * len(TABLES)
        assert (batch.entries(0, 3, WIDTH), batch.content(1), batch.state("head")) == (
            items(0, 3),
            b"content",
            b"three",
        )
    with store.read() as snapshot:
        assert snapshot.entries(0, 3, WIDTH) == snapshot.hashes(0, 0, 3, WIDTH) == items(0, 3)
        assert (snapshot.content(1), snapshot.meta(1), snapshot.state("head")) == (b"content", b"meta", b"three")
        assert bytes(snapshot.segment(7, 0)) == b"segment"


def test_a_batch_that_fails_has_never_been(store: Store) -> None:
    append_rows(store, 2)
    with pytest.raises(KeyError), store.write() as batch:
        batch.append_entries(2, items(2, 4))
        batch.put_state("head", b"four")
        batch.erase_payload(0)
        raise KeyError
    with store.read() as snapshot:
        assert (snapshot.entries(0, 2, WIDTH), snapshot.state("head"), snapshot.commit) == (items(0, 2), None, 2)
        with pytest.raises(LedgerCorrupt):
            snapshot.entries(0, 3, WIDTH)
    with store.write() as batch:
        batch.append_entries(2, items(2, 3))


def test_a_large_batch_is_kept_in_rows_of_a_few_pages(store: Store) -> None:
    data = random.Random(3).randbytes(1_000 * ENTRY_BYTES)
    with store.write() as batch:
        batch.append_entries(0, np.frombuffer(data, np.uint8).reshape(-1, ENTRY_BYTES))
    with store.read() as snapshot:
        assert [unpack_index(bytes(key)) for key, _ in snapshot.rows("entries")] == [0, 409, 818]
        assert snapshot.entries(400, 900, ENTRY_BYTES) == data[400 * ENTRY_BYTES : 900 * ENTRY_BYTES]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells how a file is mapped")
@pytest.mark.parametrize("kb", [128, 8192, None])
@pytest.mark.parametrize("where", ["disk", "partition", "file system"])
def test_where_the_disk_reads_on_far_the_system_is_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, kb: int | None
) -> None:
    system = tmp_path / "sys"
    device = tmp_path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    folder = system / ("class/bdi/" + name if where == "file system" else "devices/sda/queue")
    folder.mkdir(parents=True)
    if where != "file system":
        (system / "dev/block").mkdir(parents=True)
        block = system / ("devices/sda/sda1" if where == "partition" else "devices/sda")
        block.mkdir(exist_ok=True)
        (system / "dev/block" / name).symlink_to(block)
    if kb is not None:
        (folder / "read_ahead_kb").write_text(f"{kb}\n")
    monkeypatch.setattr(store_module, "SYSTEM", system)
    with closing(open_store(tmp_path / "shard")):
        mapped = Path("/proc/self/smaps").read_text().partition(str(tmp_path / "shard" / DATA_FILE))[2]
    flags = next(line for line in mapped.splitlines() if line.startswith("VmFlags"))
    assert ("rr" in flags.split()) == (kb == 8192)


def test_commits_are_numbered_one_after_another(store: Store) -> None:
    numbers = []
    for number in range(3):
        with store.write() as batch:
            batch.put_state("head", b"%d" % number)
        with store.read() as snapshot:
            numbers.append(snapshot.commit)
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


def test_a_snapshot_stays_what_it_was_while_batches_are_written(store: Store) -> None:
    append_rows(store, 5)
    with store.read() as snapshot:
        with store.write() as batch:
            batch.append_entries(5, items(5, 900))
            batch.put_state("head", b"new")
        assert (snapshot.entries(0, 5, WIDTH), snapshot.state("head")) == (items(0, 5), None)
        with pytest.raises(LedgerCorrupt):
            snapshot.entries(5, 6, WIDTH)


def test_what_was_read_outlives_the_snapshot(store: Store) -> None:
    with store.write() as batch:
        batch.append_entries(0, items(0, 100))
        batch.put_payload(0, b"c" * 5000, None)
        batch.put_state("head", b"h")
    with store.read() as snapshot:
        read = snapshot.entries(3, 50, WIDTH), snapshot.content(0), snapshot.state("head")
    for number in range(20):
        with store.write() as batch:
            batch.put_state("head", b"%d" % number)
    assert read == (items(3, 50), b"c" * 5000, b"h")


@pytest.mark.parametrize("seed", range(5))
def test_any_range_is_read_whatever_the_rows_it_lies_in(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    ends = sorted(chance.sample(range(1, 400), 30))
    append_rows(store, *ends)
    with store.read() as snapshot:
        for _ in range(200):
            begin, end = sorted(chance.choices(range(ends[-1] + 1), k=2))
            assert snapshot.entries(begin, end, WIDTH) == items(begin, end)


@pytest.mark.parametrize(("begin", "end"), [(9, 11), (10, 11), (0, 11), (INDEX_MAX, INDEX_MAX + 1)])
def test_items_beyond_the_last_row_are_said_to_be_missing(store: Store, begin: int, end: int) -> None:
    append_rows(store, 4, 10)
    with store.read() as snapshot, pytest.raises(LedgerCorrupt, match="missing") as caught:
        snapshot.entries(begin, end, WIDTH)
    assert caught.value.where == f"entries {max(begin, 10)}"


def test_a_row_that_is_missing_between_others_is_found_missing(store: Store) -> None:
    append_rows(store, 4, 8, 12)
    with store.write() as batch:
        batch._transaction.delete((4).to_bytes(8, "big"), db=batch._tables["entries"])
    with store.read() as snapshot:
        assert snapshot.entries(0, 4, WIDTH) + snapshot.entries(8, 12, WIDTH) == items(0, 4) + items(8, 12)
        for begin, end in ((4, 5), (3, 9), (7, 8)):
            with pytest.raises(LedgerCorrupt, match="missing"):
                snapshot.entries(begin, end, WIDTH)


def test_no_items_are_read_from_nothing(store: Store) -> None:
    with store.read() as snapshot:
        assert snapshot.entries(0, 0, WIDTH) == snapshot.entries(5, 5, WIDTH) == snapshot.hashes(8, 0, 0, WIDTH) == b""
        with pytest.raises(LedgerCorrupt):
            snapshot.entries(0, 1, WIDTH)


def test_levels_of_hashes_do_not_run_into_each_other(store: Store) -> None:
    with store.write() as batch:
        for level in (0, 8, 16):
            batch.append_hashes(level, 0, items(100 * level, 100 * level + 3))
    with store.write() as batch:
        batch.append_hashes(0, 3, items(3, 5))
    with store.read() as snapshot:
        assert snapshot.hashes(0, 0, 5, WIDTH) == items(0, 5)
        assert snapshot.hashes(8, 1, 3, WIDTH) == items(801, 803)
        for level, begin, end in ((0, 4, 6), (8, 2, 4), (16, 3, 4), (7, 0, 1), (24, 0, 1)):
            with pytest.raises(LedgerCorrupt, match="missing"):
                snapshot.hashes(level, begin, end, WIDTH)


def test_rows_only_go_to_the_end_and_none_is_written_twice(store: Store) -> None:
    append_rows(store, 4, 8)
    with store.write() as batch:
        batch.append_hashes(0, 0, items(0, 4))
        batch.put_segment(1, 0, b"one")
        batch.put_payload(5, b"five", None)

    def refused(write: Callable[[Batch], None]) -> None:
        with pytest.raises(LedgerCorrupt, match="already exists"), store.write() as batch:
            write(batch)

    refused(lambda batch: batch.append_entries(4, items(4, 8)))
    refused(lambda batch: batch.append_entries(2, items(2, 3)))
    refused(lambda batch: batch.append_hashes(0, 0, items(0, 4)))
    refused(lambda batch: batch.put_segment(1, 0, b"another"))
    refused(lambda batch: batch.put_payload(5, b"another", None))
    refused(lambda batch: batch.put_payload(4, b"late", None))
    with store.read() as snapshot:
        assert (snapshot.entries(0, 8, WIDTH), snapshot.content(5), bytes(snapshot.segment(1, 0))) == (
            items(0, 8),
            b"five",
            b"one",
        )


def test_a_payload_is_there_in_part_as_a_whole_or_not_at_all(store: Store) -> None:
    with store.write() as batch:
        batch.put_payload(0, b"", b"meta")
        batch.put_payload(1, b"content", None)
        batch.put_payload(2, None, None)
        batch.put_payload(3, b"both", b"of them")
    with store.write() as batch:
        batch.erase_payload(3)
        batch.erase_payload(99)
    with store.read() as snapshot:
        assert [(snapshot.content(index), snapshot.meta(index)) for index in range(4)] == [
            (b"", b"meta"),
            (b"content", None),
            (None, None),
            (None, None),
        ]


def test_segments_are_listed_and_one_that_is_gone_is_named(store: Store) -> None:
    names = [(1, 0), (1, 1), (2**63, 5), (INDEX_MAX, 2**32 - 1)]
    with store.write() as batch:
        for name in reversed(names):
            batch.put_segment(*name, b"%d" % name[1])
    with store.write() as batch:
        batch.delete_segment(1, 1)
        batch.delete_segment(9, 9)
    with store.read() as snapshot:
        assert list(snapshot.segments()) == [names[0], *names[2:]]
        assert bytes(snapshot.segment(*names[3])) == b"%d" % (2**32 - 1)
        with pytest.raises(LedgerCorrupt, match="segment") as caught:
            snapshot.segment(1, 1)
    assert caught.value.where == "index run 0x0000000000000001, segment 1"


def test_rows_are_told_in_the_order_of_their_numbers_from_any_on(store: Store) -> None:
    begins = [0, 1, 255, 256, 65_536, 2**32, 2**63]
    with store.write() as batch:
        for begin in begins:
            batch.put_payload(begin, b"%d" % begin, None)
    with store.read() as snapshot:
        assert [unpack_index(key) for key, _ in snapshot.rows("contents")] == begins
        assert [bytes(data) for _, data in snapshot.rows("contents", (256).to_bytes(8, "big"))] == [
            b"%d" % begin for begin in begins[3:]
        ]
        assert list(snapshot.rows("contents", b"\xff" * 8)) == list(snapshot.rows("metas")) == []


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(9)])
def test_a_key_that_is_no_index_is_named(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="eight bytes"):
        unpack_index(data)


def test_as_many_snapshots_as_there_are_places_can_be_open_at_once(store: Store) -> None:
    append_rows(store, 3)
    with ExitStack() as opened:
        for _ in range(READERS_MAX):
            snapshot = opened.enter_context(store.read())
        assert snapshot.entries(0, 3, WIDTH) == items(0, 3)
        with pytest.raises(LedgerBusy, match="126 readers"), store.read():
            pass
        with store.write() as batch:  # whoever writes needs no place
            batch.append_entries(3, items(3, 4))
    with store.read() as snapshot:
        assert snapshot.entries(0, 4, WIDTH) == items(0, 4)


def test_threads_read_while_one_writes_and_see_whole_batches(store: Store) -> None:
    """Each batch adds a row of entries, and says under a name how many there are now."""
    with store.write() as batch:
        batch.put_state("size", b"0")

    is_over = threading.Event()

    def look() -> list[int]:
        sizes: list[int] = []
        is_last = False
        while not is_last:
            is_last = is_over.is_set()
            with store.read() as snapshot:
                sizes.append(int(snapshot.state("size") or b""))
                assert snapshot.entries(0, sizes[-1], WIDTH) == items(0, sizes[-1])
        return sizes

    with ThreadPoolExecutor(3) as pool:
        looks = [pool.submit(look) for _ in range(3)]
        try:
            for size in range(0, NUM_ITEMS, 3):
                with store.write() as batch:
                    batch.append_entries(size, items(size, size + 3))
                    batch.put_state("size", b"%d" % (size + 3))
        finally:
            is_over.set()
        for seen in (each.result() for each in looks):
            assert seen == sorted(seen) and seen[-1] == NUM_ITEMS


def test_a_full_map_refuses_the_batch_and_goes_on_reading_and_writing(tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "shard", map_bytes=1 << 18)) as store:
        append_rows(store, 3)
        with pytest.raises(LedgerFull, match="map"), store.write() as batch:
            batch.put_payload(0, bytes(1 << 18), None)
        with store.write() as batch:
            batch.append_entries(3, items(3, 4))
        with store.read() as snapshot:
            assert (snapshot.entries(0, 4, WIDTH), snapshot.content(0)) == (items(0, 4), None)
    with closing(open_store(tmp_path / "shard")) as store, store.write() as batch:
        batch.put_payload(0, bytes(1 << 18), None)


def test_who_only_reads_cannot_write(store: Store) -> None:
    append_rows(store, 3)
    path = store.path
    store.close()
    with closing(Store.open_readonly(path)) as reading:
        with reading.read() as snapshot:
            assert snapshot.entries(0, 3, WIDTH) == items(0, 3)
        with pytest.raises(LedgerError), reading.write():
            pass


def test_who_may_not_write_keeps_owners_out_while_it_looks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    append_rows(store, 3)
    path = store.path
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(LedgerReadOnly, match="an owner has it open") as caught:
        Store.open_readonly(path)
    assert caught.value.where == str(path / READERS_FILE)
    store.close()
    (path / READERS_FILE).unlink()
    for _ in range(2):
        with closing(Store.open_readonly(path)) as reading, reading.read() as snapshot:
            assert snapshot.entries(0, 3, WIDTH) == items(0, 3)
            with pytest.raises(LedgerLocked):
                open_store(path)
    assert not (path / READERS_FILE).exists()
    open_store(path).close()


def test_a_file_without_an_owner_is_read_without_a_trace(store: Store, tmp_path: Path) -> None:
    append_rows(store, 3)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(store.path / DATA_FILE, copy)
    with closing(Store.open_readonly(copy)) as reading, reading.read() as snapshot:
        assert snapshot.entries(0, 3, WIDTH) == items(0, 3)
    assert [file.name for file in copy.iterdir()] == [DATA_FILE]


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(LedgerError, match="closed"), store.read():
        pass
    with pytest.raises(LedgerError, match="closed"), store.write():
        pass


def test_a_store_that_could_not_be_made_whole_is_made_anew(tmp_path: Path) -> None:
    """A process that dies while it makes the file leaves one under another name."""
    path = tmp_path / "shard"
    path.mkdir()
    (path / NEW_FILE).write_bytes(b"half of it")
    assert not has_data(path)
    with closing(open_store(path)) as store:
        append_rows(store, 1)
    assert has_data(path)
    assert not (path / NEW_FILE).exists()


def test_an_empty_file_is_no_store_to_who_only_reads(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.mkdir()
    (path / DATA_FILE).touch()
    with pytest.raises(LedgerCorrupt, match=DATA_FILE):
        Store.open_readonly(path)
    assert [each.name for each in path.iterdir()] == [DATA_FILE], "it has made nothing"


@pytest.mark.parametrize("num_looks", [1, 3, 1000])
def test_a_file_that_ends_too_early_is_one_that_was_cut_off_only_if_it_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_looks: int
) -> None:
    """Right after a commit, before the owner has let it reach to its last page, it may end earlier."""
    with closing(Store.open(tmp_path, map_bytes=1 << 24, lock_wait_s=0)) as store:
        append_rows(store, 3)
    missing = iter([4096] * num_looks + [0])
    monkeypatch.setattr("ledger.store._missing_bytes", lambda *_: next(missing))
    if num_looks < 10:
        with closing(Store.open_readonly(tmp_path)) as store, store.read() as snapshot:
            assert snapshot.entries(0, 3, WIDTH) == items(0, 3)
    else:
        with pytest.raises(LedgerCorrupt, match="ends 4096 bytes before its last page"):
            Store.open_readonly(tmp_path)
