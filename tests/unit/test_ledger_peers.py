"""The ledger and its peers do the work they are credited with, measured in the same way, and leave nothing behind."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from shards import root_of

from bench import ledger_peers
from bench.ledger_peers import (
    NUM_CALLERS,
    PEERS,
    SINGLES_WARM_UP,
    PeerFigures,
    append_batches,
    append_singly,
    are_those,
    available,
    look_up,
    mean_us,
    measure,
    package_missing,
    settle_batches,
)
from bench.ledger_peers_ledger import Ledger, money_entries
from bench.ledger_peers_postgresql import reachable
from bench.ledger_peers_work import (
    APPEND_BATCH,
    FUNDS,
    TRANSFER_BATCH,
    TRANSFER_DTYPE,
    WARM_UP_ENTRIES,
    WARM_UP_INDEX,
    Accounts,
    AppendOne,
    BatchRefused,
    Finds,
    Peer,
    PeerMissing,
    Prepared,
    Rows,
    Settles,
    Transfers,
    accounts,
    entries,
    entries_of,
    funding,
    ids_of,
    transfers,
)
from ledger.entry import Kind, decode, encode
from ledger.errors import ReceiptInvalid

FINDING = ("ledger", "lmdb-ids", "sqlite", "postgresql", "rocksdict")
WHOLE_BATCHES = FINDING[1:]  # that refuse all of a batch; the ledger answers for each entry
SETTLING = ("ledger", "sqlite", "postgresql")
PROVING = ("ledger", "pymerkle")
BANK, ALICE, BOB, NOBODY = (bytes([number]) * 16 for number in range(1, 5))


def start(name: str, folder: Path) -> Peer:
    if (reason := available()[name]) is not None:
        pytest.skip(f"{name}: {reason}")
    return PEERS[name](folder)


@pytest.fixture(scope="module", params=FINDING)
def finder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finds]:
    """One peer for all tests of this module: a server takes seconds to start. Each test has entries of its own."""
    with closing(start(request.param, tmp_path_factory.mktemp(request.param))) as peer:
        yield peer


@pytest.fixture(scope="module", params=SETTLING)
def bookkeeper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settles]:
    """A bank that may owe, and Alice and Bob, who may not and have 100 each. Each test compares before and after."""
    with closing(start(request.param, tmp_path_factory.mktemp(request.param))) as peer:
        ids = np.frombuffer(BANK + ALICE + BOB, "V16")
        peer.open_accounts(Accounts(ids=ids, limited=np.array([False, True, True])))
        settle(peer, (1, BANK, ALICE, 100), (2, BANK, BOB, 100))
        yield peer


def append(peer: Peer, place: int, rows: Rows) -> None:
    """Store entries from an index on."""
    peer.append(peer.prepare(place, rows))


def settle(peer: Settles, *rows: tuple[int, bytes, bytes, int]) -> None:
    """Apply transfers of (number, debit, credit, amount)."""
    peer.settle(peer.prepare_transfers(batch(*rows)))


def batch(*rows: tuple[int, bytes, bytes, int]) -> Transfers:
    """Transfers of (number, debit, credit, amount)."""
    return np.array(
        [(number.to_bytes(16), debit, credit, amount) for number, debit, credit, amount in rows], TRANSFER_DTYPE
    )


class Counting:
    """A peer that only counts. A batch takes a second of its own clock, and a hundred to be prepared."""

    version, notes = "none", "none"

    def __init__(self) -> None:
        self.now_s = 0.0
        self.batches: list[int] = []

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        assert first_index == sum(self.batches)
        self.now_s += 100
        return rows

    def append(self, batch: Prepared) -> None:
        self.batches.append(len(batch))
        self.now_s += 1

    def clock(self) -> float:
        return self.now_s


class Failing(Counting):
    def append(self, batch: Prepared) -> None:
        raise BatchRefused("always")


class Slowing(Counting):
    """One whose own group commit takes a second more for every entry."""

    @contextmanager
    def committing(self) -> Iterator[AppendOne]:
        async def append(entry: bytes) -> None:
            self.batches.append(1)
            self.now_s += len(self.batches)

        yield append


class Bookkeeper(Counting):
    """One that adds up, with transfers that take a hundred seconds to be prepared."""

    def open_accounts(self, accounts: Accounts) -> None:
        self.moved = 0

    def prepare_transfers(self, transfers: Transfers) -> Prepared:
        self.now_s += 100
        return transfers

    def settle(self, batch: Prepared) -> None:
        self.append(batch)
        self.moved += int(batch["amount"].sum())

    def balances(self) -> dict[bytes, tuple[int, int]]:
        return {BANK: (self.moved, 0), ALICE: (0, self.moved)}


class Finder:
    """One that finds the first entries in a hundred seconds each, and all others in one."""

    def __init__(self, rows: Rows) -> None:
        self.entries = dict(zip(ids_of(rows), entries_of(rows), strict=True))
        self.now_s = 0.0
        self.num_found = 0

    def find(self, entry_id: bytes) -> bytes | None:
        self.now_s += 100 if self.num_found < WARM_UP_ENTRIES else 1
        self.num_found += 1
        return self.entries.get(entry_id)

    def clock(self) -> float:
        return self.now_s


def test_the_work_is_the_same_every_time_and_no_id_comes_twice() -> None:
    assert (entries(0, 100) == entries(0, 100)).all()
    ids = [*ids_of(entries(0, 4096)), *ids_of(entries(4096, 4096))]
    assert len(set(ids)) == len(ids)
    assert (transfers(accounts(), 1, 9) == transfers(accounts(), 1, 9)).all()


def test_the_entries_are_those_that_the_ledger_writes() -> None:
    for row in entries_of(entries(0, 20)):
        assert decode(row).kind is Kind.ASSET


def test_the_transfers_are_between_two_accounts_and_within_what_the_bank_gave() -> None:
    opened = accounts()
    paid_in, moved = funding(opened), transfers(opened, 0, TRANSFER_BATCH)
    assert (moved["debit"] != moved["credit"]).all()
    assert opened.limited.tolist() == [False] + [True] * (len(opened.ids) - 1)
    assert set(paid_in["amount"].tolist()) == {FUNDS}
    assert sorted(paid_in["credit"].tolist()) == sorted(opened.ids[1:].tolist())


def test_entries_are_found_by_their_ids_as_they_were_stored(finder: Finds) -> None:
    rows = entries(0, 50)
    append(finder, 0, rows)
    assert are_those([finder.find(entry_id) for entry_id in ids_of(rows)], rows)
    assert finder.find(bytes(16)) is None


@pytest.mark.parametrize("finder", WHOLE_BATCHES, indirect=True)
def test_a_batch_with_an_id_that_is_there_is_refused_and_nothing_of_it_is_kept(finder: Finds) -> None:
    first, second = entries(100, 50), entries(200, 50)
    append(finder, 100, first)
    with pytest.raises(BatchRefused):
        append(finder, 200, np.concatenate([second, first[:1]]))
    assert [finder.find(entry_id) for entry_id in ids_of(second)] == [None] * 50
    append(finder, 200, second)
    assert [finder.find(entry_id) for entry_id in ids_of(second)] == entries_of(second)


@pytest.mark.parametrize("finder", WHOLE_BATCHES, indirect=True)
def test_a_batch_with_one_id_twice_is_refused(finder: Finds) -> None:
    rows = entries(300, 50)
    with pytest.raises(BatchRefused):
        append(finder, 300, np.concatenate([rows, rows[:1]]))
    assert finder.find(ids_of(rows)[0]) is None


def test_an_entry_that_the_ledger_refuses_is_told_and_the_others_of_its_batch_are_kept(tmp_path: Path) -> None:
    rows = entries(0, 50)
    with closing(Ledger(tmp_path)) as peer:
        append(peer, 0, rows[:20])
        with pytest.raises(BatchRefused, match="EXISTS"):
            append(peer, 20, rows)
        assert peer.tree_size == 50
        with pytest.raises(BatchRefused, match="EXISTS"):
            asyncio.run(append_one(peer, entries_of(rows)[0]))


async def append_one(peer: Ledger, entry: bytes) -> None:
    with peer.committing() as append:
        await append(entry)


def test_the_bytes_on_disk_hold_at_least_the_entries(finder: Finds) -> None:
    rows = entries(400, 4096)
    before = finder.bytes_on_disk()
    append(finder, 400, rows)
    incompressible = 4096 * (3 * 32 + 2 * 16)
    assert finder.bytes_on_disk() - before >= incompressible


def test_what_was_found_is_compared_in_all_but_the_time_of_recording() -> None:
    rows = entries(0, 2)
    first, second = entries_of(rows)
    later = encode(msgspec.structs.replace(decode(first), time_ns=1))
    dearer = encode(msgspec.structs.replace(decode(first), amount=decode(first).amount + 1))
    assert are_those([later, second], rows)
    for found in ([dearer, second], [second, first], [first, None], [first]):
        assert not are_those(found, rows)


def test_a_transfer_moves_its_amount_and_no_money_is_made_or_lost(bookkeeper: Settles) -> None:
    before = bookkeeper.balances()
    settle(bookkeeper, (10, ALICE, BOB, 7), (11, BOB, ALICE, 3), (12, ALICE, BOB, 1))
    after = bookkeeper.balances()
    assert after[ALICE] == (before[ALICE][0] + 8, before[ALICE][1] + 3)
    assert after[BOB] == (before[BOB][0] + 3, before[BOB][1] + 8)
    assert after[BANK] == before[BANK]
    assert sum(debits - credits for debits, credits in after.values()) == 0


BAD_TRANSFERS = {
    "an overdraft": (30, ALICE, BOB, 1_000_000),
    "an id that is there": (1, ALICE, BOB, 1),
    "an unknown creditor": (32, ALICE, NOBODY, 1),
    "an unknown debtor": (33, NOBODY, BOB, 1),
    "no amount": (34, ALICE, BOB, 0),
}


@pytest.mark.parametrize("bookkeeper", SETTLING[1:], indirect=True)
@pytest.mark.parametrize(("good", "bad"), list(enumerate(BAD_TRANSFERS.values(), 20)), ids=BAD_TRANSFERS)
def test_a_bad_transfer_takes_its_whole_batch_with_it(
    bookkeeper: Settles, good: int, bad: tuple[int, bytes, bytes, int]
) -> None:
    before = bookkeeper.balances()
    with pytest.raises(BatchRefused):
        settle(bookkeeper, (good, BANK, BOB, 5), bad)
    assert bookkeeper.balances() == before
    settle(bookkeeper, (good, BANK, BOB, 5))  # its id was not kept either
    assert bookkeeper.balances()[BOB] == (before[BOB][0], before[BOB][1] + 5)


@pytest.mark.parametrize("bookkeeper", SETTLING[:1], indirect=True)
@pytest.mark.parametrize(("good", "bad"), list(enumerate(BAD_TRANSFERS.values(), 20)), ids=BAD_TRANSFERS)
def test_a_bad_transfer_moves_nothing_in_the_ledger_and_is_told(
    bookkeeper: Settles, good: int, bad: tuple[int, bytes, bytes, int]
) -> None:
    before = bookkeeper.balances()
    with pytest.raises(BatchRefused):
        settle(bookkeeper, (good, BANK, BOB, 5), bad)
    assert bookkeeper.balances() == before | {
        BANK: (before[BANK][0] + 5, before[BANK][1]),
        BOB: (before[BOB][0], before[BOB][1] + 5),
    }


def test_an_account_may_spend_all_it_has_and_not_one_more(bookkeeper: Settles) -> None:
    debits, credits = bookkeeper.balances()[ALICE]
    with pytest.raises(BatchRefused):
        settle(bookkeeper, (40, ALICE, BANK, credits - debits + 1))
    settle(bookkeeper, (41, ALICE, BANK, credits - debits))
    assert bookkeeper.balances()[ALICE] == (credits, credits)


def test_transfers_become_entries_of_the_same_sides_and_amounts() -> None:
    paid_in = funding(accounts())[:5]
    rows = money_entries(paid_in)
    for name in ("id", "debit", "credit"):
        assert rows[name].tolist() == paid_in[name].tolist()
    assert np.array_equal(rows["amount"], paid_in["amount"])


def test_the_raw_store_keeps_the_bytes_in_the_order_of_their_index(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    rows = entries(0, 300)
    with closing(PEERS["lmdb"](tmp_path)) as peer:
        append(peer, 0, rows[:200])
        append(peer, 200, rows[200:])
    with lmdb.open(str(tmp_path)) as env, env.begin() as txn:
        stored = list(txn.cursor())
    assert [value for _, value in stored] == entries_of(rows)
    assert [int.from_bytes(key) for key, _ in stored] == list(range(300))


def test_the_tree_of_pymerkle_has_the_root_that_ours_has(tmp_path: Path) -> None:
    rows = entries(0, 1000)
    with closing(start("pymerkle", tmp_path)) as peer:
        append(peer, 0, rows[:600])
        append(peer, 600, rows[600:])
        assert peer.root() == root_of(entries_of(rows))
        peer.prove(0)
        peer.prove(999)


def test_a_commit_of_sqlite_waits_for_the_disk(tmp_path: Path) -> None:
    with closing(start("sqlite", tmp_path)) as peer:
        assert peer._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert peer._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_commit_of_postgresql_waits_for_the_disk_and_nothing_of_it_stays_behind(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with closing(start("postgresql", tmp_path)) as peer:
        settings = [peer._db.execute(f"SHOW {name}").fetchone()[0] for name in ("fsync", "synchronous_commit")]
        folder = Path(peer._db.info.host)
        assert settings == ["on", "on"]
        assert folder.is_dir()
        (server,) = set(psutil.Process().children()) - before
        assert server.name() == "postgres"
    assert not folder.exists()
    assert not server.is_running()


def test_a_proof_of_the_ledger_is_of_the_tree_with_all_that_it_holds(tmp_path: Path) -> None:
    rows = entries(0, 1000)
    with closing(Ledger(tmp_path)) as peer:
        append(peer, 0, rows[:600])
        peer.prove(599)
        append(peer, 600, rows[600:])
        peer.prove(0)
        peer.prove(999)
        peer.check_receipt(999)
        assert peer.root() == root_of(peer.find(entry_id) for entry_id in ids_of(rows))
        peer._checkpoint = msgspec.structs.replace(peer._checkpoint, root=bytes(32))
        with pytest.raises(ReceiptInvalid, match="does not lead to the root"):
            peer.prove(0)


def test_the_rate_is_over_the_appends_alone_and_ends_with_the_work() -> None:
    peer = Counting()
    assert append_batches(peer, 2 * APPEND_BATCH + 4, 1e9, peer.clock) == (
        2 * APPEND_BATCH + 4,
        (2 * APPEND_BATCH + 4) / 3,
    )
    assert peer.batches == [WARM_UP_ENTRIES, APPEND_BATCH, APPEND_BATCH, 4]


def test_appending_ends_with_the_time_but_does_one_batch_at_least() -> None:
    peer = Counting()
    assert append_batches(peer, 10**9, 300.0, peer.clock) == (2 * APPEND_BATCH, APPEND_BATCH)
    late = Counting()
    assert append_batches(late, 10**9, 0.0, late.clock) == (APPEND_BATCH, APPEND_BATCH)


def test_the_rate_of_settlement_is_over_the_batches_alone_without_the_funds() -> None:
    peer = Bookkeeper()
    assert settle_batches(peer, 2 * TRANSFER_BATCH, 1e9, peer.clock) == (2 * TRANSFER_BATCH, TRANSFER_BATCH)
    assert max(peer.batches) == TRANSFER_BATCH
    assert sum(peer.batches) == len(funding(accounts())) + 2 * TRANSFER_BATCH


def test_lookups_are_counted_once_the_first_entries_have_been_looked_up() -> None:
    peer = Finder(np.concatenate([entries(WARM_UP_INDEX, WARM_UP_ENTRIES), entries(0, APPEND_BATCH)]))
    assert look_up(peer, APPEND_BATCH, 1e9, peer.clock) == 1.0
    assert peer.num_found > WARM_UP_ENTRIES


def test_another_entry_than_the_one_looked_up_stops_the_run() -> None:
    peer = Finder(entries(0, APPEND_BATCH))
    peer.entries = dict.fromkeys(peer.entries, entries_of(entries(0, 1))[0])
    with pytest.raises(AssertionError, match="another entry"):
        look_up(peer, APPEND_BATCH, 1e9, peer.clock)


def test_the_time_of_a_proof_is_a_mean_over_the_second_half_of_the_time() -> None:
    now_s, spans_s = 0.0, iter([60.0, *[1.0] * 30, 70.0])

    def work(index: int) -> None:
        nonlocal now_s
        now_s += next(spans_s)

    assert mean_us(work, 10, 120.0, lambda: now_s) == pytest.approx(1e6 * 100 / 31)


def test_concurrent_callers_share_batches_and_each_waits_for_its_own() -> None:
    peer = Counting()
    latencies_s = asyncio.run(append_singly(peer, 0, 500.0, peer.clock))
    num_done = sum(peer.batches)
    assert len(latencies_s) == num_done - int(SINGLES_WARM_UP * num_done)
    assert max(peer.batches) == NUM_CALLERS
    assert min(latencies_s) >= 101.0  # the batch is not known before, so to prepare it is part of the wait


def test_the_first_tenth_of_the_single_appends_counts_for_nobody_whoever_commits_them() -> None:
    peer = Slowing()
    latencies_s = asyncio.run(append_singly(peer, 0, 10_000.0, peer.clock))
    num_done = len(peer.batches)
    assert num_done > NUM_CALLERS
    assert latencies_s == [float(number + 1) for number in range(int(SINGLES_WARM_UP * num_done), num_done)]


def test_a_peer_that_fails_under_concurrent_callers_fails_the_measurement_instead_of_hanging() -> None:
    peer = Failing()
    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(append_singly(peer, 0, 5.0, peer.clock))
    assert raised.group_contains(BatchRefused)


@pytest.mark.parametrize("name", PEERS)
def test_a_measurement_with_no_time_does_a_batch_of_everything_and_leaves_nothing_behind(
    name: str, tmp_path: Path
) -> None:
    if (reason := available()[name]) is not None:
        pytest.skip(f"{name}: {reason}")
    figures = measure(name, tmp_path, 10**9, 10**9, 0.0)
    assert figures.num_entries == APPEND_BATCH
    assert figures.num_transfers == (TRANSFER_BATCH if name in SETTLING else None)
    assert (figures.transfers_per_s is not None) == (name in SETTLING)
    assert (figures.lookups_per_s is not None) == (name in FINDING)
    assert (figures.proof_us is not None) == (name in PROVING)
    assert 0 < figures.single_append_ms_p50 <= figures.single_append_ms_p99
    assert list(tmp_path.iterdir()) == []


def test_a_missing_peer_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "no_such_package is not installed" in (package_missing("no_such_package") or "")
    monkeypatch.setattr(ledger_peers, "available", lambda: {"sqlite": "it is not there"})
    with pytest.raises(PeerMissing, match="it is not there"):
        measure("sqlite", tmp_path, 1, 1, 1.0)


def test_the_command_prints_missing_peers_too_and_one_json_object_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(ledger_peers, "available", lambda: dict.fromkeys(PEERS, "not today") | {"lmdb": None})
    monkeypatch.setattr(sys, "argv", ["peers", "--entries", "5000", "--seconds", "3", "--folder", str(tmp_path)])
    ledger_peers.main()
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    (measured,) = result["peers"]
    assert set(measured) == set(PeerFigures.__struct_fields__)
    assert (measured["name"], measured["num_entries"]) == ("lmdb", 5000)
    assert result["missing"] == dict.fromkeys(PEERS.keys() - {"lmdb"}, "not today")
    assert "pymerkle: missing: not today" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.stat(tempfile.gettempdir()).st_mode & 1 == 0, reason="the temporary folder is not for everybody")
def test_the_server_of_another_user_goes_where_that_user_can_enter() -> None:
    with tempfile.TemporaryDirectory() as outer:
        open_to_all = Path(outer)
        open_to_all.chmod(0o711)
        inside = open_to_all / "closed" / "inside"
        inside.mkdir(parents=True)
        inside.parent.chmod(0o700)
        assert reachable(inside) == open_to_all.resolve()
        assert reachable(open_to_all) == open_to_all.resolve()
