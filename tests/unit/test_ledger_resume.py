"""Opening a shard: what is stored is believed only if it agrees with itself, and closing gives the shard back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from settling import account, id_of, money
from shards import NOW_NS, append_assets, bare, columns, keys_of, open_shard, some_bytes

from ledger import resume as resume_module
from ledger.book import Book
from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE
from ledger.errors import LedgerCorrupt, LedgerError, LedgerLocked, LogMismatch
from ledger.head import Head
from ledger.index import Sizes
from ledger.log import shard_path
from ledger.note import Checkpoint
from ledger.result import Result
from ledger.runs import Family, Run, Runs
from ledger.shard import Publishing, Shard
from ledger.store import Batch, Store

SMALL = Sizes(block_entries=32, batch_entries_max=8, segment_items=8, fan_in=3)
MAP_BYTES = 1 << 28
NUM_ENTRIES = 5


class CrashedError(BaseException):
    """Nothing of ours catches it: a stand-in for a process that ends there."""


def crash(*_: object, **__: object) -> None:
    raise CrashedError


def head_of(shard: Shard) -> Head:
    with shard._store.read() as snapshot:
        return Head.of(snapshot)


@contextmanager
def opened_store(path: Path) -> Iterator[Batch]:
    """A write into a shard that nobody owns, past all that a shard would check."""
    store = Store.open(shard_path(path, 0), map_bytes=MAP_BYTES, lock_wait_s=0)
    try:
        with store.write() as batch:
            yield batch
    finally:
        store.close()


# ---- going on


@pytest.mark.parametrize("num_entries", [0, 1, 31, 32, 33, 100])
def test_opening_writes_nothing_and_goes_on_where_it_was(tmp_path: Path, num_entries: int) -> None:
    with open_shard(tmp_path, sizes=SMALL, publishing=Publishing(7)) as shard:
        for number in range(1, 1 + num_entries):
            append_assets(shard, [number])
        before, note = head_of(shard), shard.checkpoint()
        with shard._store.read() as snapshot:
            commit = snapshot.commit
    with open_shard(tmp_path, sizes=SMALL, publishing=Publishing(7)) as shard:
        with shard._store.read() as snapshot:
            assert snapshot.commit == commit
        assert (head_of(shard), shard.checkpoint()) == (before, note)
        assert shard.append(columns(bare(1 + num_entries))).indices.tolist() == [num_entries]


def test_balances_are_replayed_from_the_entries_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_module, "REPLAY_ENTRIES", 3)
    with open_shard(tmp_path) as shard:
        shard.append(columns(account(1), account(2)))
        shard.append(columns(*(money(10 + number, 1, 2, number) for number in range(1, 12))))
        before = shard.book.snapshot()
    with open_shard(tmp_path) as shard:
        assert shard.book.snapshot() == before
        assert shard.append(columns(money(12, 1, 2, 2), money(13, 1, 2, 9))).results.tolist() == [
            Result.EXISTS,
            Result.EXISTS_WITH_DIFFERENT_AMOUNT,
        ]


def test_a_shard_is_opened_with_its_own_signer_only(tmp_path: Path) -> None:
    signers = keys_of(tmp_path).signers
    with pytest.raises(LogMismatch, match="the signer is"):
        Shard.open(shard_path(tmp_path, 0), 0, signers[1], lambda: NOW_NS, entropy=bytes)
    assert not shard_path(tmp_path, 0).exists(), "it is refused before anything is made"


# ---- what contradicts itself


def rewritten(change: Callable[[Head], Head]) -> Callable[[Batch], None]:
    return lambda batch: batch.put_state("head", change(Head.of(batch)).pack())


def signed(path: Path, size: int, root: bytes) -> str:
    signer = keys_of(path).signers[0]
    return signer.sign(Checkpoint(signer.name, size, root).text())


def flip(table: str, place: int) -> Callable[[Batch], None]:
    """Change a bit in the last row of a table."""

    def change(batch: Batch) -> None:
        key, data = [(bytes(key), bytearray(data)) for key, data in batch.rows(table)][-1]
        data[place] ^= 1
        batch._transaction.put(key, bytes(data), db=batch._tables[table])

    return change


CONTRADICTIONS: dict[str, tuple[Callable[[Path], Callable[[Batch], None]], str]] = {
    "a root": (lambda _: rewritten(lambda head: replaced(head, root=bytes(32))), "root of 5 entries"),
    "a size": (lambda _: rewritten(lambda head: replaced(head, tree_size=4)), "root of 4 entries|of more entries"),
    "a size beyond": (lambda _: rewritten(lambda head: replaced(head, tree_size=6)), "missing"),
    "a time": (lambda _: rewritten(lambda head: replaced(head, time_ns=head.time_ns ^ 1)), "not that of the last"),
    "a signature": (
        lambda _: rewritten(lambda head: replaced(head, checkpoint=head.checkpoint.replace("\n5\n", "\n4\n"))),
        "signature",
    ),
    "a checkpoint beyond": (
        lambda path: rewritten(lambda head: replaced(head, checkpoint=signed(path, 6, head.root))),
        "more entries than there are",
    ),
    "a checkpoint of another tree": (
        lambda path: rewritten(lambda head: replaced(head, checkpoint=signed(path, 5, bytes(32)))),
        "root of 5 entries",
    ),
    "a checkpoint of no tree there was": (
        lambda path: rewritten(lambda head: replaced(head, checkpoint=signed(path, 4, bytes(32)))),
        "root of 4 entries",
    ),
    "half a head": (lambda _: lambda batch: batch.put_state("head", Head.of(batch).pack()[:40]), "cut off"),
    "no text": (lambda _: lambda batch: batch.put_state("head", Head.of(batch).pack() + b"\xff"), "UTF-8"),
    "a hash": (lambda _: flip("hashes", 3), "root of 5 entries"),
    "an index": (lambda _: lambda batch: batch.put_state("index", b"no manifest"), "number of runs"),
    "an index of more": (lambda _: lambda batch: batch.put_state("index", manifest_of(9)), "covers 9 of 5 entries"),
    "balances": (lambda _: lambda batch: batch.put_state("book", b"no balances"), "balances|snapshot"),
    "balances of more": (lambda _: lambda batch: batch.put_state("book", Book(b"").snapshot(9)), "of 9 entries"),
}


def replaced(head: Head, **fields: object) -> Head:
    return msgspec.structs.replace(head, **fields)


def manifest_of(num_entries: int) -> bytes:
    """Of an index whose runs cover so many entries, which have nothing that they could be found by."""
    rows = tuple((Run.of(family, 0, 0, num_entries, 0, 8, np.zeros(0, np.uint64)),) for family in Family)
    return Runs(some_bytes(16), 8, rows).manifest()


@pytest.mark.parametrize("index", [0, 3, NUM_ENTRIES - 1])
@pytest.mark.parametrize("field", ["id", "amount", "time_ns"])
def test_an_entry_that_is_not_what_was_recorded_is_named_before_anything_is_derived_from_it(
    tmp_path: Path, index: int, field: str
) -> None:
    """Else its id would be free again, or its money another amount."""
    with open_shard(tmp_path) as shard:
        append_assets(shard, range(1, 1 + NUM_ENTRIES))
    with opened_store(tmp_path) as batch:
        data = bytearray(batch.entries(0, NUM_ENTRIES, ENTRY_BYTES))
        data[index * ENTRY_BYTES + ENTRY_DTYPE.fields[field][1]] ^= 1  # type: ignore[index]
        (key, _), *_ = batch.rows("entries")
        batch._transaction.put(bytes(key), bytes(data), db=batch._tables["entries"])
    with pytest.raises(LedgerCorrupt, match="not its leaf") as caught:
        open_shard(tmp_path)
    assert caught.value.where == f"entry {index}"


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_shard_that_contradicts_itself_is_refused_and_given_back(tmp_path: Path, what: str) -> None:
    change, told = CONTRADICTIONS[what]
    with open_shard(tmp_path) as shard:
        append_assets(shard, range(1, 1 + NUM_ENTRIES))
    data = shard_path(tmp_path, 0) / "data.mdb"
    sound = data.read_bytes()
    with opened_store(tmp_path) as batch:
        change(tmp_path)(batch)
    for _ in range(2):
        with pytest.raises(LedgerCorrupt, match=told) as caught:
            open_shard(tmp_path)
        assert caught.value.fix.startswith("Run fsck on the shard and restore it")
    data.write_bytes(sound)
    with open_shard(tmp_path) as shard:
        assert append_assets(shard, [1]) == [Result.EXISTS]


# ---- an end that nobody saw


@contextmanager
def commit_without_an_end(shard: Shard, is_stored: bool) -> Iterator[Batch]:
    """A write that ends with an error that does not say whether it is on disk."""
    with type(shard._store).write(shard._store) as batch:
        yield batch
        if not is_stored:
            raise LedgerError("the disk said nothing", where="here", fix="None.")
    raise LedgerError("the disk said nothing", where="here", fix="None.")


@pytest.mark.parametrize("is_stored", [True, False])
def test_after_a_commit_whose_end_was_not_seen_nothing_is_appended_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    with open_shard(tmp_path) as shard:
        shard.append(columns(account(1), account(2)))
        with monkeypatch.context() as patch:
            patch.setattr(shard._store, "write", lambda: commit_without_an_end(shard, is_stored))
            with pytest.raises(LedgerError, match="said nothing"):
                shard.append(columns(money(3, 1, 2, 7)))
        for append in (shard.append, shard.sequence):
            with pytest.raises(LedgerError, match="without its end being seen"):
                append(columns(money(4, 1, 2, 7)))
        assert shard.entry(1).id == id_of(2), "what was recorded before can be read"
    with open_shard(tmp_path) as shard:
        repeated = shard.append(columns(money(3, 1, 2, 7)))
        assert repeated.results.tolist() == [Result.EXISTS if is_stored else Result.OK]
        assert (repeated.indices.tolist(), shard.tree_size) == ([2], 3)
        assert shard.book.balance(id_of(1)).debits_posted == 7


# ---- closing


def test_closing_twice_is_harmless_and_gives_the_shard_back(tmp_path: Path) -> None:
    shard = open_shard(tmp_path)
    with pytest.raises(LedgerLocked):
        open_shard(tmp_path)
    shard.close()
    shard.close()
    open_shard(tmp_path).close()


def test_a_closed_shard_says_so_whatever_is_asked_of_it(tmp_path: Path) -> None:
    shard = open_shard(tmp_path)
    shard.sequence(columns(bare(1)))
    shard.close()
    calls = {
        "append": lambda: shard.append(columns(bare(2))),
        "sequence": lambda: shard.sequence(columns(bare(2))),
        "find": lambda: shard.find(id_of(1)),
        "entry": lambda: shard.entry(0),
        "receipt": lambda: shard.receipt(0),
        "reader": lambda: shard.reader().by_id(id_of(1)),
    }
    for call in calls.values():
        with pytest.raises(LedgerError):
            call()
    with open_shard(tmp_path) as shard:
        assert (shard.tree_size, shard.find(id_of(1)), shard.find(id_of(2))) == (1, 0, None)


def test_a_shard_that_fails_inside_its_with_is_given_back(tmp_path: Path) -> None:
    with pytest.raises(CrashedError), open_shard(tmp_path) as shard:
        append_assets(shard, [1])
        crash()
    with open_shard(tmp_path) as shard:
        assert shard.tree_size == 1
