"""Tiles: one spelling for every path, contents as the specification says, and a client that believes nothing."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import SIGNER, MemoryLog, some_entries
from shards import naive_root

from ledger import tile_client, tiles
from ledger.entry import ENTRY_BYTES
from ledger.errors import EntryNotFound, LedgerLocked, LogMismatch, ReceiptInvalid
from ledger.files import hold_lock
from ledger.merkle import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion
from ledger.note import Policy, Signer
from ledger.tile_client import VerifiedTiles, fetch_from
from ledger.tiles import Fetch, Tile, bundle, export, parse_path, partial_tiles, serve, tiles_of, unbundle

POLICY = Policy((SIGNER.key,))
BIG = MemoryLog(some_entries(70_000))
SMALL = MemoryLog(some_entries(700))
SIZES = [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000]

TILES = st.builds(Tile, st.none() | st.integers(0, 63), st.integers(0, 10**15), st.integers(1, 256))


def serving(log: MemoryLog) -> Fetch:
    return lambda path: serve(path, log)


def at(log: MemoryLog, size: int) -> MemoryLog:
    """The same log when it had `size` entries."""
    return MemoryLog(log.read_entries(0, size), log.signer)


def files_in(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file() and path.name != tiles.EXPORT_LOCK)
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


# ---- paths


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(1, 999, 17), "tile/1/999.p/17"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(7, 1234067), "tile/7/x001/x234/067"),
        (Tile(63, 1234067, 255), "tile/63/x001/x234/067.p/255"),
        (Tile(None, 273, 112), "tile/entries/273.p/112"),
        (Tile(None, 1234067), "tile/entries/x001/x234/067"),
    ],
)
def test_a_tile_has_the_path_of_the_specification(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_path(path) == tile


@given(TILES)
def test_a_path_leads_back_to_its_tile(tile: Tile) -> None:
    assert parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/data/000",
        "tile/Entries/000",
        "tile/0/x000/000",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/X001/000",
        "tile/0/x001/x000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/-1",
        "tile/8/0/000",
        "tile/0/../0/000",
        "tile/0/٠٠٠",
        "tile/0/" + "x001/" * 7 + "000",
    ],
)
def test_a_path_in_any_other_spelling_is_no_tile(path: str) -> None:
    with pytest.raises(EntryNotFound, match=r"path|canonical"):
        parse_path(path)


# ---- which tiles there are, and what is in them


def test_a_tree_of_70000_has_the_tiles_that_the_specification_counts() -> None:
    found = list(tiles_of(70_000))
    counted = Counter((tile.level, tile.width) for tile in found)
    bundles = [((None, 256), 273), ((None, 112), 1)]
    assert counted == dict([*bundles, ((0, 256), 273), ((0, 112), 1), ((1, 256), 1), ((1, 17), 1), ((2, 1), 1)])
    assert [tile.path for tile in found if tile.level] == ["tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]
    assert list(tiles_of(256)) == [Tile(None, 0), Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_the_tiles_since_a_size_are_those_that_it_had_not(first: int, second: int) -> None:
    old, new = sorted((first, second))
    before = set(tiles_of(old))
    assert list(tiles_of(new, old)) == [tile for tile in tiles_of(new) if tile not in before]
    assert list(partial_tiles(new)) == [tile for tile in tiles_of(new) if tile.width < 256]


@pytest.mark.parametrize(("level", "index", "place"), [(0, 273, 111), (1, 0, 3), (1, 1, 16), (2, 0, 0)])
def test_a_hash_of_a_tile_is_the_root_over_the_leaves_below_it(level: int, index: int, place: int) -> None:
    tile = next(tile for tile in tiles_of(70_000) if (tile.level, tile.index) == (level, index))
    span = 256**level
    leaves = BIG.leaves[(256 * index + place) * span : (256 * index + place + 1) * span]
    assert serve(tile.path, BIG)[32 * place : 32 * place + 32] == naive_root(leaves)


def test_a_bundle_holds_each_entry_behind_its_length_in_two_bytes() -> None:
    data = serve("tile/entries/002.p/188", SMALL)
    entries = SMALL.read_entries(512, 700)
    assert data[:2] == b"\x00\xf0"
    assert data == b"".join(
        b"\x00\xf0" + entries[place : place + ENTRY_BYTES] for place in range(0, len(entries), ENTRY_BYTES)
    )
    assert unbundle(data) == entries
    assert bundle(b"") == unbundle(b"") == b""


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"\0\xef" + data[2:]]
)
def test_a_bundle_of_other_lengths_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ReceiptInvalid, match="240-byte"):
        unbundle(change(bundle(some_entries(3))))


def test_every_tile_of_a_tree_is_served_and_none_beyond_it() -> None:
    for tile in tiles_of(700):
        item_bytes = 242 if tile.level is None else 32
        assert len(serve(tile.path, SMALL)) == tile.width * item_bytes
    for path in ["tile/0/002.p/189", "tile/0/002", "tile/0/003.p/1", "tile/1/000.p/3", "tile/2/000.p/1", "tile/63/000"]:
        with pytest.raises(EntryNotFound, match="beyond the 700"):
            serve(path, SMALL)
    for path in ["tile/entries/002.p/189", "tile/entries/x999/999"]:
        with pytest.raises(EntryNotFound, match="beyond the 700"):
            serve(path, SMALL)


def test_the_partial_tile_of_a_smaller_tree_is_still_served() -> None:
    assert serve("tile/0/001.p/44", SMALL) == serve("tile/0/001.p/44", at(SMALL, 300))
    assert serve("tile/entries/001.p/44", SMALL) == serve("tile/entries/001.p/44", at(SMALL, 300))


# ---- the client


@pytest.mark.parametrize("size", SIZES)
def test_proofs_from_tiles_are_those_of_the_tree(size: int) -> None:
    log = at(BIG, size)
    client = VerifiedTiles(serving(log), POLICY)
    root = log.root(size)
    for index in {0, 1 % size, size // 3, size // 2, size - 1}:
        proof = client.inclusion_proof(index)
        assert proof == inclusion_proof(index, size, log.read_node)
        verify_inclusion(index, size, log.leaves[index], proof, root)
    for old in {1, max(1, size // 3), max(1, size - 1), size}:
        proof = client.consistency_proof(old)
        assert proof == consistency_proof(old, size, log.read_node)
        assert client.root(old) == log.root(old)
        verify_consistency(old, size, client.root(old), root, proof)


def test_a_client_reads_entries_and_hashes_across_tiles() -> None:
    client = VerifiedTiles(serving(SMALL), POLICY)
    assert client.tree_size == 700
    for begin, end in [(0, 700), (0, 0), (255, 257), (300, 301), (512, 700), (700, 700)]:
        assert client.read_entries(begin, end) == SMALL.read_entries(begin, end)
        assert client.read_hashes(0, begin, end) == SMALL.read_hashes(0, begin, end)


def test_an_inclusion_proof_fetches_at_most_one_tile_a_level() -> None:
    fetched: list[str] = []

    def fetch(path: str) -> bytes:
        fetched.append(path)
        return serve(path, BIG)

    client = VerifiedTiles(fetch, POLICY)
    assert fetched == ["checkpoint", "tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
    fetched.clear()
    client.inclusion_proof(1000)
    assert sorted(fetched) == ["tile/0/003", "tile/1/000"]
    fetched.clear()
    client.inclusion_proof(1001)
    assert fetched == []


def test_a_client_forgets_the_oldest_tiles_and_fetches_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_client, "TILES_KEPT_MAX", 1)
    client = VerifiedTiles(serving(SMALL), POLICY)
    for index in [0, 300, 699, 0]:
        assert client.inclusion_proof(index) == inclusion_proof(index, 700, SMALL.read_node)


@pytest.mark.parametrize("question", ["inclusion", "consistency", "root", "entries"])
def test_a_question_beyond_the_tree_is_not_found(question: str) -> None:
    client = VerifiedTiles(serving(SMALL), POLICY)
    ask: dict[str, Callable[[], object]] = {
        "inclusion": lambda: client.inclusion_proof(700),
        "consistency": lambda: client.consistency_proof(701),
        "root": lambda: client.root(701),
        "entries": lambda: client.read_entries(699, 701),
    }
    with pytest.raises(EntryNotFound, match="in a tree of 700"):
        ask[question]()


def test_an_empty_log_is_its_checkpoint_alone() -> None:
    client = VerifiedTiles(serving(MemoryLog(b"")), POLICY)
    assert client.tree_size == 0
    assert client.read_entries(0, 0) == b""


def read_all(fetch: Fetch) -> None:
    client = VerifiedTiles(fetch, POLICY)
    client.read_entries(0, client.tree_size)


@pytest.mark.parametrize("path", ["checkpoint", *(tile.path for tile in tiles_of(700))])
def test_a_flipped_bit_of_anything_served_is_refused(path: str) -> None:
    length = len(serve(path, SMALL))
    for place in {0, 1, length // 3, length // 2, length - 1}:

        def lie(asked: str, place: int = place) -> bytes:
            data = bytearray(serve(asked, SMALL))
            if asked == path:
                data[place] ^= 1
            return bytes(data)

        with pytest.raises(ReceiptInvalid):
            read_all(lie)


@pytest.mark.parametrize("path", [tile.path for tile in tiles_of(700)])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + data[:32], lambda data: b""])
def test_a_tile_of_another_length_is_refused_and_named(path: str, change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ReceiptInvalid, match=path):
        read_all(lambda asked: change(serve(asked, SMALL)) if asked == path else serve(asked, SMALL))


def test_the_tiles_of_another_log_are_refused() -> None:
    other = MemoryLog(some_entries(700, first=1))
    with pytest.raises(ReceiptInvalid, match="root that was signed"):
        VerifiedTiles(lambda path: serve(path, SMALL if path == "checkpoint" else other), POLICY)
    # With the right edge of the true log, the rest of the other one does not fit either.
    edge = {tile.path for tile in partial_tiles(700)} | {"checkpoint"}
    client = VerifiedTiles(lambda path: serve(path, SMALL if path in edge else other), POLICY)
    with pytest.raises(ReceiptInvalid, match="tile/0/000"):
        client.inclusion_proof(0)


def test_a_checkpoint_that_the_policy_does_not_know_is_refused() -> None:
    with pytest.raises(ReceiptInvalid, match="no known key"):
        VerifiedTiles(serving(SMALL), Policy((Signer("example.org/other", b"o" * 32).key,)))


def test_a_partial_tile_that_is_gone_is_cut_from_the_full_one() -> None:
    old = at(SMALL, 300)
    gone = {tile.path for tile in partial_tiles(300) if tile.index == 1}

    def fetch(path: str) -> bytes:
        if path in gone:
            raise EntryNotFound("removed", where=path, fix="Ask for the full tile.")
        return serve(path, old if path == "checkpoint" else SMALL)

    client = VerifiedTiles(fetch, POLICY)
    assert client.read_entries(0, 300) == old.read_entries(0, 300)
    with pytest.raises(EntryNotFound):
        VerifiedTiles(lambda path: serve(path, old) if path == "checkpoint" else fetch("tile/0/009"), POLICY)


# ---- static files


def test_an_export_is_the_whole_log_as_files(tmp_path: Path) -> None:
    assert export(tmp_path, SMALL).tree_size == 700
    paths = ["checkpoint", *(tile.path for tile in tiles_of(700))]
    assert files_in(tmp_path) == {path: serve(path, SMALL) for path in paths}
    client = VerifiedTiles(fetch_from(tmp_path), POLICY)
    assert client.read_entries(0, 700) == SMALL.entries


def test_a_second_export_writes_only_what_is_new(tmp_path: Path) -> None:
    export(tmp_path, at(SMALL, 300))
    old = {path: (tmp_path / path).stat().st_ino for path in files_in(tmp_path)}
    export(tmp_path, SMALL)
    new = {path: (tmp_path / path).stat().st_ino for path in files_in(tmp_path)}
    gone, changed = old.keys() - new.keys(), {path for path in old.keys() & new.keys() if old[path] != new[path]}
    assert gone == {"tile/0/001.p/44", "tile/entries/001.p/44"}  # full now
    assert changed == {"checkpoint"}
    assert new.keys() - old.keys() == {
        *("tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/001", "tile/entries/002.p/188")
    }
    export(tmp_path, SMALL)
    assert {path: (tmp_path / path).stat().st_ino for path in new if path != "checkpoint"} == {
        path: inode for path, inode in new.items() if path != "checkpoint"
    }


def test_a_partial_tile_stays_until_its_full_one_is_there(tmp_path: Path) -> None:
    for size in (600, 650, 700):
        export(tmp_path, at(SMALL, size))
    kept = [path for path in files_in(tmp_path) if path.startswith("tile/0/002")]
    assert sorted(kept) == ["tile/0/002.p/138", "tile/0/002.p/188", "tile/0/002.p/88"]
    export(tmp_path, at(BIG, 1000))
    assert [path for path in files_in(tmp_path) if path.startswith("tile/0/002")] == ["tile/0/002"]


def test_a_mirror_of_a_mirror_is_the_same_directory(tmp_path: Path) -> None:
    export(tmp_path / "first", SMALL)
    export(tmp_path / "second", VerifiedTiles(fetch_from(tmp_path / "first"), POLICY))
    assert files_in(tmp_path / "second") == files_in(tmp_path / "first")


@pytest.mark.parametrize("num_files", [0, 1, 4])
def test_an_interrupted_export_leaves_the_old_log_and_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_files: int
) -> None:
    export(tmp_path, at(SMALL, 300))
    left = iter(range(num_files))

    def until_the_crash(file: Path, data: bytes, mode: int, create: Callable[..., bool] = tiles.create_once) -> bool:
        if next(left, None) is None:
            raise OSError("the machine stops here")
        return create(file, data, mode)

    with monkeypatch.context() as crashing:
        crashing.setattr(tiles, "create_once", until_the_crash)
        with pytest.raises(OSError, match="stops here"):
            export(tmp_path, SMALL)
    client = VerifiedTiles(fetch_from(tmp_path), POLICY)
    assert client.read_entries(0, 300) == SMALL.read_entries(0, 300)
    export(tmp_path, SMALL)
    read_all(fetch_from(tmp_path))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (MemoryLog(some_entries(800), Signer("example.org/other", b"o" * 32)), "entries of example.org/log"),
        (MemoryLog(some_entries(300)), "of 700 entries"),
        (MemoryLog(some_entries(800, first=1)), "another tree of 700"),
    ],
    ids=["another log", "a smaller tree", "another tree"],
)
def test_a_directory_takes_only_the_log_that_it_holds(tmp_path: Path, other: MemoryLog, why: str) -> None:
    export(tmp_path, SMALL)
    before = files_in(tmp_path)
    with pytest.raises(LogMismatch, match=why):
        export(tmp_path, other)
    assert files_in(tmp_path) == before


def test_what_another_interrupted_export_left_is_not_taken_for_ours(tmp_path: Path) -> None:
    file = tmp_path / "tile/0/000"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(8192))
    with pytest.raises(LogMismatch, match="another log's tile"):
        export(tmp_path, SMALL)
    assert not (tmp_path / "checkpoint").exists()


def test_two_exports_into_one_directory_do_not_run_at_once(tmp_path: Path) -> None:
    lock = hold_lock(tmp_path / tiles.EXPORT_LOCK, 0)
    with pytest.raises(LedgerLocked):
        export(tmp_path, SMALL)
    os.close(lock)
    export(tmp_path, SMALL)
