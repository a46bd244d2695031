"""Bytes that changed on disk are found: by a read of what they belong to, and by fsck wherever they are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.entry import Kind, encode
from ledger.errors import LedgerCorrupt
from ledger.fsck import check
from ledger.log import open_keys, shard_path
from ledger.merkle import leaf_hash, node_hash
from ledger.shard import NewEntry, Shard

NUM_ENTRIES = 6
ITEMS = [
    NewEntry(Kind.ASSET, bytes([65 + n]) * 16, b"content %d" % n, b"r" * 32, "acme", meta={"note": f"metadata {n}"})
    for n in range(NUM_ENTRIES)
]


def open_shard(path: Path) -> Shard:
    keys = open_keys(path, "mintage.local", 1)
    return Shard.open(shard_path(path, 0), shard=0, signer=keys.signers[0], now_ms=lambda: 1, lock_wait_s=0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with open_shard(tmp_path) as shard:
        shard.append(ITEMS)
    assert check(tmp_path).ok
    return tmp_path


def leaves(path: Path) -> list[bytes]:
    with open_shard(path) as shard:
        return [leaf_hash(encode(shard.entry(index))) for index in range(NUM_ENTRIES)]


def flip(path: Path, known: bytes, place: int = 0) -> None:
    """Change one bit of some known bytes, wherever LMDB has them, old copies too."""
    file = shard_path(path, 0) / "data.mdb"
    data = file.read_bytes()
    assert known in data
    changed = known[:place] + bytes([known[place] ^ 1]) + known[place + 1 :]
    file.write_bytes(data.replace(known, changed))


def problems(path: Path) -> list[str]:
    return [str(problem) for problem in check(path).problems]


def assert_corrupt(path: Path, read: Callable[[Shard], object]) -> None:
    with open_shard(path) as shard, pytest.raises(LedgerCorrupt):
        read(shard)


def test_a_changed_content_is_found(log: Path) -> None:
    flip(log, b"content 2")
    assert_corrupt(log, lambda shard: shard.content(2))
    assert len(problems(log)) == 1 and "its bytes do not have its hash" in problems(log)[0]
    with open_shard(log) as shard:
        assert shard.content(3) == b"content 3"


def test_changed_metadata_is_found(log: Path) -> None:
    flip(log, b"metadata 2")
    assert_corrupt(log, lambda shard: shard.meta(2))
    assert len(problems(log)) == 1 and "its bytes do not have its hash" in problems(log)[0]


@pytest.mark.parametrize("place", [0, 8, 20, 100, 144, 239])
def test_a_changed_entry_is_found(log: Path, place: int) -> None:
    with open_shard(log) as shard:
        data = encode(shard.entry(2))
    flip(log, data, place)
    for read in (Shard.entry, Shard.content, Shard.meta, Shard.receipt):
        assert_corrupt(log, lambda shard, read=read: read(shard, 2))  # type: ignore[misc]
    assert "shard-000 node 0/2: it is not the hash of what is below it" in problems(log)
    assert "shard-000 head: the signed root is not the root of the entries" in problems(log)


def test_a_changed_leaf_hash_is_found(log: Path) -> None:
    flip(log, leaves(log)[2])
    assert_corrupt(log, lambda shard: shard.entry(2))
    assert_corrupt(log, lambda shard: shard.receipt(3))
    assert_corrupt(log, lambda shard: shard.receipt(0, 3))  # a tree of 3 of its own, which must not be signed
    assert problems(log) == ["shard-000 node 0/2: it is not the hash of what is below it"]


def test_a_changed_inner_node_is_found(log: Path) -> None:
    hashes = leaves(log)
    flip(log, node_hash(hashes[0], hashes[1]))
    assert_corrupt(log, lambda shard: shard.receipt(3))
    assert_corrupt(log, lambda shard: shard.receipt(0, 2))
    assert problems(log) == ["shard-000 node 1/0: it is not the hash of what is below it"]


def test_nothing_is_signed_over_a_changed_frontier(log: Path) -> None:
    hashes = leaves(log)
    flip(log, node_hash(hashes[4], hashes[5]))
    new = NewEntry(Kind.ASSET, b"n" * 16, b"new", b"r" * 32, "acme")
    with open_shard(log) as shard:
        before = shard.checkpoint()
        with pytest.raises(LedgerCorrupt, match="do not lead to the last checkpoint"):
            shard.append([new])
        assert shard.checkpoint() == before
        assert shard.find(new.asset_id) is None


def test_an_id_that_leads_to_another_entry_is_found(log: Path) -> None:
    row = ITEMS[2].asset_id + (2).to_bytes(8, "big")
    flip(log, row, len(row) - 1)
    assert problems(log) == ["shard-000 entry 2: its asset id leads to 3"]


def test_an_id_that_leads_beyond_the_entries_is_found(log: Path) -> None:
    row = ITEMS[2].asset_id + (2).to_bytes(8, "big")
    flip(log, row, len(row) - 2)
    assert_corrupt(log, lambda shard: shard.append([ITEMS[2]]))
    assert problems(log) == ["shard-000 entry 2: its asset id leads to 258"]


def test_a_changed_checkpoint_is_found(log: Path) -> None:
    with open_shard(log) as shard:
        note = shard.checkpoint().encode()
    flip(log, note, note.index(b"\n6\n") + 4)
    with pytest.raises(LedgerCorrupt):
        open_shard(log)
    assert problems(log)[0].startswith("shard-000 head: ")


def test_a_changed_size_in_the_head_is_found(log: Path) -> None:
    flip(log, (6).to_bytes(8, "big") + b"mintage.local/shard-0\n6\n", 7)
    with pytest.raises(LedgerCorrupt):
        open_shard(log)
    assert problems(log) == ["shard-000 head: size 7, but its checkpoint is of 6 entries"]


def test_a_head_of_another_layout_is_not_read(log: Path) -> None:
    flip(log, (1).to_bytes(2, "big") + (6).to_bytes(8, "big") + b"mintage.local/shard-0\n", 1)
    with pytest.raises(LedgerCorrupt, match="not of this layout"):
        open_shard(log)
    assert problems(log) == ["shard-000 head: the head is not of this layout"]


@pytest.mark.parametrize("content", [b"", b"no database " * 1000])
def test_a_file_that_is_no_database_is_found(log: Path, content: bytes) -> None:
    (shard_path(log, 0) / "data.mdb").write_bytes(content)
    assert len(problems(log)) == 1 and problems(log)[0].startswith("shard-000 ")


def test_a_shard_over_a_file_that_is_no_database_does_not_open(log: Path) -> None:
    (shard_path(log, 0) / "data.mdb").write_bytes(b"no database " * 1000)
    with pytest.raises(LedgerCorrupt):
        open_shard(log)
