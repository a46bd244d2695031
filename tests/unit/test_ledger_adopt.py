"""Edge shards written offline join the ledger: as a whole, without conflict, and in one history only."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ledger import adopt as adopt_module
from ledger.adopt import ADOPTED_DIR, Adopter, edge_signer
from ledger.entry import Entries, Kind, from_bytes, zeros
from ledger.errors import (
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerLocked,
    LogMismatch,
    NotConsistent,
    ReceiptInvalid,
    SplitView,
    UnknownOrigin,
    UnknownParent,
)
from ledger.files import hold_lock
from ledger.fsck import check
from ledger.fsck_afresh import check_afresh, found_in
from ledger.log import open_keys, shard_path
from ledger.note import Policy, Signer, VerifierKey, add_cosignatures, open_checkpoint_with_policy
from ledger.peer import recorded_peer
from ledger.reader import Reader
from ledger.receipt import verify
from ledger.result import Result
from ledger.shard import Shard
from ledger.stored import StoredLog
from ledger.superlog import SuperLog, View, verify_chain
from ledger.writer import Publishing

NOW_S = 1_700_000_000
LOG_NAME = "example.org/log"
EDGE = 17


def entries_with(ids: Sequence[int], parents: Sequence[tuple[int, int]] = ()) -> Entries:
    """Models with these ids; all with the same parents."""
    entries = zeros(len(ids))
    entries["kind"] = Kind.MODEL
    entries["id"] = np.array([number.to_bytes(16, "big") for number in ids], "V16")
    entries["num_parents"] = len(parents)
    for place, (shard, index) in enumerate(parents):
        entries["parent_shards"][:, place], entries["parent_indices"][:, place] = shard, index
    return entries


@pytest.fixture(autouse=True)
def checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter for each check takes two seconds; that it is asked for, some tests see to."""
    monkeypatch.setattr(adopt_module, "check_afresh", found_in)


class Edge:
    """An engine without a network: a directory, a number and a key of its own."""

    def __init__(self, path: Path, number: int = EDGE) -> None:
        self.path = path
        self.number = number
        self.signer = edge_signer(path, LOG_NAME, number)

    @property
    def shard_path(self) -> Path:
        return shard_path(self.path, self.number)

    def write(self, *batches: Entries, covered: tuple[int, int] = (0, 0)) -> str:
        """Append while offline; a receipt of the first entry, as it was given out then.

        Args:
            covered: a shard, and how many entries of it the edge knew of when it was online.
        """
        with Shard.open(self.shard_path, self.number, self.signer, lambda: NOW_S * 10**9, entropy=os.urandom) as shard:
            shard.cover(*covered)
            for batch in batches:
                assert (shard.append(batch).results == Result.OK).all()
            return shard.receipt(0)

    def crash(self, path: Path, *batches: Entries, publishing: Publishing = Publishing()) -> "Edge":  # noqa: B008
        """Sequence some batches; the edge's directory as a crash leaves it then."""
        now_ns = itertools.count(NOW_S * 10**9 + 1000).__next__
        with Shard.open(
            self.shard_path, self.number, self.signer, now_ns, entropy=os.urandom, publishing=publishing
        ) as shard:
            shard.cover(3, 100)
            for batch in batches:
                assert (shard.sequence(batch).results == Result.OK).all()
            if publishing != Publishing():
                shard.integrate()
            return self.copy(path)

    def copy(self, path: Path) -> "Edge":
        shutil.copytree(self.path, path)
        return Edge(path, self.number)


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path / "edge")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Shard]:
    keys = open_keys(tmp_path / "log", LOG_NAME, 2)
    path = shard_path(tmp_path / "log", 0)
    with Shard.open(path, 0, keys.signers[0], lambda: NOW_S * 10**9, entropy=os.urandom) as shard:
        shard.append(entries_with(range(1, 4)))
        yield shard


@pytest.fixture
def open_adopter(tmp_path: Path, home: Shard, edge: Edge) -> Callable[..., Adopter]:
    def opener(*keys: VerifierKey) -> Adopter:
        given = keys or (edge.signer.key,)
        return Adopter(tmp_path / "log", home, given, lambda: {0: home.tree_size, 1: 0})

    return opener


@pytest.fixture
def adopter(open_adopter: Callable[..., Adopter]) -> Adopter:
    return open_adopter()


# ---- joining


def test_an_edges_log_is_adopted_as_a_whole_and_its_receipts_stay_valid(
    edge: Edge, home: Shard, adopter: Adopter, tmp_path: Path
) -> None:
    receipt = edge.write(entries_with(range(1, 9)), entries_with(range(9, 14)))
    adoption = adopter.adopt(edge.shard_path, NOW_S)
    assert (adoption.checkpoint.origin, adoption.checkpoint.tree_size) == (f"{LOG_NAME}/shard-{EDGE}", 13)
    assert adopter.adopted() == {EDGE: 13}
    with StoredLog(shard_path(tmp_path / "log" / ADOPTED_DIR, EDGE)) as copy, StoredLog(edge.shard_path) as log:
        assert copy.read_entries(0, 13) == log.read_entries(0, 13)
        assert copy.checkpoint() == log.checkpoint()
    assert verify(receipt, [str(edge.signer.key)]).index == 0


def test_the_home_records_the_checkpoint_and_cosigns_it_for_the_edge(edge: Edge, home: Shard, adopter: Adopter) -> None:
    edge.write(entries_with(range(1, 9)))
    adoption = adopter.adopt(edge.shard_path, NOW_S)
    entry = home.entry(adoption.peer_index)
    peer = recorded_peer(entry, home.meta(adoption.peer_index))
    assert (entry.kind, entry.code, entry.amount, peer.checkpoint) == (Kind.PEER, EDGE, 8, adoption.checkpoint)
    note = add_cosignatures(peer.note, adoption.cosignature, [adopter.witness_key])
    witnessed = open_checkpoint_with_policy(note, Policy((edge.signer.key,), (adopter.witness_key,), 1))
    assert [each.time_s for each in witnessed.cosignatures] == [NOW_S]


def test_the_same_ids_in_home_and_edge_are_no_conflict(edge: Edge, home: Shard, adopter: Adopter) -> None:
    """An id names an entry within its shard; the number in front of it was handed out once."""
    edge.write(entries_with(range(1, 9)))
    adopter.adopt(edge.shard_path, NOW_S)
    assert home.find((2).to_bytes(16, "big")) == 1
    assert home.append(entries_with(range(4, 9))).results.tolist() == [Result.OK] * 5


def test_entries_of_the_edge_may_be_parents_once_they_are_adopted(edge: Edge, home: Shard, adopter: Adopter) -> None:
    edge.write(entries_with(range(1, 9)))
    child = entries_with([100], [(EDGE, 7), (0, 0)])
    assert home.append(child).results.tolist() == [Result.UNKNOWN_PARENT]
    adopter.adopt(edge.shard_path, NOW_S)
    assert home.append(child).results.tolist() == [Result.OK]
    assert home.append(entries_with([101], [(EDGE, 8)])).results.tolist() == [Result.UNKNOWN_PARENT]


def test_an_edge_comes_back_and_goes_on_where_it_was(edge: Edge, home: Shard, adopter: Adopter) -> None:
    adoptions = []
    for new in (range(1, 6), range(6, 11), range(0), range(11, 16)):
        edge.write(entries_with(new))
        adoptions.append(adopter.adopt(edge.shard_path, NOW_S))
    assert [adoption.checkpoint.tree_size for adoption in adoptions] == [5, 10, 10, 15]
    assert [adoption.peer_index for adoption in adoptions] == [3, 4, 4, 5], "what did not grow is not recorded again"
    assert adopter.adopted() == {EDGE: 15}


def test_adoptions_are_remembered(edge: Edge, home: Shard, open_adopter: Callable[..., Adopter]) -> None:
    edge.write(entries_with(range(1, 9)))
    open_adopter().adopt(edge.shard_path, NOW_S)
    home._writer._covered[:] = 0  # as after a start
    assert open_adopter().adopted() == {EDGE: 8}
    assert home.append(entries_with([100], [(EDGE, 7)])).results.tolist() == [Result.OK]


def test_several_edges_join_one_after_another(
    edge: Edge, home: Shard, open_adopter: Callable[..., Adopter], tmp_path: Path
) -> None:
    other = Edge(tmp_path / "other", 40)
    adopter = open_adopter(edge.signer.key, other.signer.key)
    edge.write(entries_with(range(1, 9)))
    other.write(entries_with(range(1, 4), [(EDGE, 7)]), covered=(EDGE, 8))
    with pytest.raises(UnknownParent, match=f"{EDGE}/7, and 0 of its"):
        adopter.adopt(other.shard_path, NOW_S)
    adopter.adopt(edge.shard_path, NOW_S)
    adopter.adopt(other.shard_path, NOW_S)
    assert adopter.adopted() == {EDGE: 8, 40: 3}


def test_an_adopted_shard_is_part_of_super_checkpoints(
    edge: Edge, home: Shard, adopter: Adopter, tmp_path: Path
) -> None:
    edge.write(entries_with(range(1, 9)))
    adopter.adopt(edge.shard_path, NOW_S)
    keys = [*(signer.key for signer in open_keys(tmp_path / "log", LOG_NAME, 2).signers[:1]), edge.signer.key]
    superlog = SuperLog.open(tmp_path / "log", LOG_NAME, keys, lambda: NOW_S * 10**9, entropy=os.urandom)
    with StoredLog(shard_path(tmp_path / "log" / ADOPTED_DIR, EDGE)) as copy:
        superlog.commit([View(home.checkpoint()), View(copy.checkpoint())])
        chain = superlog.chain(copy, 5)
    superlog.close()
    policy = Policy((open_keys(tmp_path / "log/super", f"{LOG_NAME}/super", 1).signers[0].key,))
    assert verify_chain(chain.text(), policy).entry.entry.id == (6).to_bytes(16, "big")


# ---- refusals


@pytest.fixture
def forked(edge: Edge, adopter: Adopter, tmp_path: Path) -> Edge:
    """A copy of the edge before 8 entries were adopted, which has then written another 8, and more."""
    edge.write(entries_with(range(1, 5)))
    fork = edge.copy(tmp_path / "fork")
    edge.write(entries_with(range(5, 9)))
    adopter.adopt(edge.shard_path, NOW_S)
    fork.write(entries_with(range(50, 54)))
    return fork


def test_one_size_in_two_histories_is_a_split_view(forked: Edge, adopter: Adopter) -> None:
    with pytest.raises(SplitView, match="two trees of 8"):
        adopter.adopt(forked.shard_path, NOW_S)


def test_another_history_is_refused_however_long_it_grows(forked: Edge, adopter: Adopter, edge: Edge) -> None:
    forked.write(entries_with(range(60, 80)))
    with pytest.raises(NotConsistent):
        adopter.adopt(forked.shard_path, NOW_S)
    assert adopter.adopted() == {EDGE: 8}
    edge.write(entries_with(range(9, 12)))
    adopter.adopt(edge.shard_path, NOW_S)
    assert adopter.adopted() == {EDGE: 11}


def test_an_edge_that_was_set_back_is_refused(edge: Edge, adopter: Adopter, tmp_path: Path) -> None:
    edge.write(entries_with(range(1, 5)))
    backup = edge.copy(tmp_path / "backup")
    edge.write(entries_with(range(5, 9)))
    adopter.adopt(edge.shard_path, NOW_S)
    with pytest.raises(NotConsistent, match="went back from 8 to 4"):
        adopter.adopt(backup.shard_path, NOW_S)


def test_a_refused_edge_changes_nothing(forked: Edge, adopter: Adopter, home: Shard, tmp_path: Path) -> None:
    def state() -> tuple[dict[str, bytes], int]:
        files = (path for path in (tmp_path / "log" / ADOPTED_DIR).rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files if path.name != "lock.mdb"}, home.tree_size

    before = state()
    with pytest.raises(LedgerError):
        adopter.adopt(forked.shard_path, NOW_S)
    after = state()
    assert after[0].keys() - before[0].keys() == set()
    assert after == before


def test_nobody_joins_without_a_number(adopter: Adopter, tmp_path: Path) -> None:
    stranger = Edge(tmp_path / "stranger", 18)
    stranger.write(entries_with([1]))
    with pytest.raises(UnknownOrigin, match="shard-18"):
        adopter.adopt(stranger.shard_path, NOW_S)


def test_a_number_belongs_to_one_key(adopter: Adopter, tmp_path: Path) -> None:
    thief = Edge(tmp_path / "thief", EDGE)
    thief.write(entries_with([1]))
    with pytest.raises(ReceiptInvalid):
        adopter.adopt(thief.shard_path, NOW_S)
    assert adopter.adopted() == {}


def test_numbers_are_handed_out_once_and_never_one_of_the_logs_own(
    edge: Edge, open_adopter: Callable[..., Adopter], tmp_path: Path
) -> None:
    for key in (Signer(f"{LOG_NAME}/shard-{EDGE}", b"x" * 32).key, Signer(f"{LOG_NAME}/shard-1", b"x" * 32).key):
        with pytest.raises(LogMismatch, match="handed out"):
            open_adopter(edge.signer.key, key)


def test_an_edge_in_which_a_byte_differs_is_not_adopted(edge: Edge, adopter: Adopter, home: Shard) -> None:
    edge.write(entries_with([1, 2, 0xABCDEF0123456789]))
    file = edge.shard_path / "data.mdb"
    data = file.read_bytes()
    assert (0xABCDEF0123456789).to_bytes(16, "big") in data
    file.write_bytes(data.replace((0xABCDEF0123456789).to_bytes(16, "big"), (5).to_bytes(16, "big")))
    with pytest.raises(LedgerCorrupt, match="problems in all"):
        adopter.adopt(edge.shard_path, NOW_S)
    assert (adopter.adopted(), home.tree_size) == ({}, 3)


def test_an_edge_is_checked_in_a_process_that_is_not_forked(
    edge: Edge, adopter: Adopter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopt_module, "check_afresh", check_afresh)
    monkeypatch.setattr(os, "fork", None)
    edge.write(entries_with(range(1, 9)))
    assert adopter.adopt(edge.shard_path, NOW_S).checkpoint.tree_size == 8


def test_an_edge_that_crashed_is_adopted_once_its_last_entries_are_in_its_store(
    edge: Edge, adopter: Adopter, tmp_path: Path
) -> None:
    edge.write(entries_with(range(1, 5)))
    crashed = edge.crash(tmp_path / "crashed", entries_with(range(5, 8)))
    with pytest.raises(LedgerCorrupt, match="3 entries are in its write-ahead log only"):
        adopter.adopt(crashed.shard_path, NOW_S)
    assert adopter.adopted() == {}
    crashed.write()
    adopter.adopt(crashed.shard_path, NOW_S)
    assert adopter.adopted() == {EDGE: 7}


def test_what_is_kept_of_an_edge_with_a_write_ahead_log_is_whole(
    edge: Edge, home: Shard, adopter: Adopter, tmp_path: Path
) -> None:
    for first in (1, 5):
        edge.crash(tmp_path / str(first), entries_with(range(first, first + 4)))
        edge.write()
        adopter.adopt(edge.shard_path, NOW_S)
    kept = shard_path(tmp_path / "log" / ADOPTED_DIR, EDGE)
    assert found_in(kept, edge.signer.key).problems == ()
    home.close()
    report = check(tmp_path / "log", [*open_keys(tmp_path / "log", LOG_NAME, 2).verifier_keys[:1]])
    assert (report.problems, report.num_entries) == ((), 3 + 2 + 8)


def test_an_edge_with_more_than_its_checkpoint_covers_is_refused(edge: Edge, adopter: Adopter, tmp_path: Path) -> None:
    """Nobody would look at those entries, but readers of the adopted copy would see them."""
    edge.write(entries_with(range(1, 5)))
    lazy = Publishing(1000, 10**9)
    unsigned = edge.crash(tmp_path / "unsigned", entries_with(range(5, 9), [(3, 50)]), publishing=lazy)
    with Reader.open(unsigned.shard_path) as reader:
        assert (reader.tree_size, reader.checkpoint().splitlines()[1]) == (8, "4")
    with pytest.raises(LedgerCorrupt, match="leaves out 4 entries"):
        adopter.adopt(unsigned.shard_path, NOW_S)
    assert adopter.adopted() == {}
    assert not shard_path(tmp_path / "log" / ADOPTED_DIR, EDGE).exists()


@pytest.mark.parametrize("parent", [(0, 3), (1, 0), (99, 0)])
def test_a_parent_that_the_home_does_not_have_is_refused(
    edge: Edge, home: Shard, adopter: Adopter, parent: tuple[int, int]
) -> None:
    edge.write(entries_with([1], [parent]), covered=(parent[0], 10))
    with pytest.raises(UnknownParent, match=f"{parent[0]}/{parent[1]}"):
        adopter.adopt(edge.shard_path, NOW_S)
    assert adopter.adopted() == {}


def test_parents_in_the_home_and_in_the_edge_itself_are_fine(edge: Edge, home: Shard, adopter: Adopter) -> None:
    edge.write(entries_with([1]), entries_with([2], [(0, 2), (EDGE, 0)]), covered=(0, 3))
    with StoredLog(edge.shard_path) as log:
        assert from_bytes(log.read_entries(1, 2))["shard"][0] == EDGE
    adopter.adopt(edge.shard_path, NOW_S)
    assert adopter.adopted() == {EDGE: 2}


def test_what_is_no_shard_is_refused(adopter: Adopter, tmp_path: Path) -> None:
    with pytest.raises(LogMismatch, match="no shard is there"):
        adopter.adopt(tmp_path / "nothing", NOW_S)


def test_one_adoption_at_a_time(edge: Edge, adopter: Adopter, tmp_path: Path) -> None:
    edge.write(entries_with([1]))
    lock = hold_lock(tmp_path / "log" / ADOPTED_DIR / "adopt.lock", 0)
    with pytest.raises(LedgerLocked):
        adopter.adopt(edge.shard_path, NOW_S)
    os.close(lock)
    adopter.adopt(edge.shard_path, NOW_S)


def test_an_edge_directory_has_one_number_for_ever(edge: Edge, tmp_path: Path) -> None:
    assert edge_signer(edge.path, LOG_NAME, EDGE).key == edge.signer.key
    with pytest.raises(LogMismatch):
        edge_signer(edge.path, LOG_NAME, EDGE + 1)


# ---- crashes


def cut_off(edge: Edge, adopter: Adopter, home: Shard, step: str) -> None:
    """Adopt 4 entries, and 8 up to a step, as a crash cuts it off; `home` then is as after a start."""

    def cut(*_: object) -> None:
        raise LedgerFull("no room", where="here", fix="Make room.")

    edge.write(entries_with(range(1, 5)))
    adopter.adopt(edge.shard_path, NOW_S)
    edge.write(entries_with(range(5, 9)))
    with pytest.MonkeyPatch.context() as broken:
        owner = {"_keep": adopt_module, "add_checkpoint": adopt_module.Witness, "append": Shard}[step]
        broken.setattr(owner, step, cut)
        with pytest.raises(LedgerFull):
            adopter.adopt(edge.shard_path, NOW_S)
    assert adopter.adopted() == {EDGE: 4}
    home._writer._covered[:] = 0


@pytest.mark.parametrize(("step", "tree_size"), [("_keep", 4), ("add_checkpoint", 8), ("append", 8)])
def test_an_adoption_that_was_cut_off_once_its_copy_was_kept_is_finished_at_the_next_start(
    edge: Edge, home: Shard, open_adopter: Callable[..., Adopter], tmp_path: Path, step: str, tree_size: int
) -> None:
    cut_off(edge, open_adopter(), home, step)
    adopter = open_adopter()
    assert adopter.adopted() == {EDGE: tree_size}
    assert home.append(entries_with([100], [(EDGE, tree_size - 1)])).results.tolist() == [Result.OK]
    assert home.append(entries_with([101], [(EDGE, tree_size)])).results.tolist() == [Result.UNKNOWN_PARENT]
    num_records = home.tree_size
    assert open_adopter().adopted() == {EDGE: tree_size}
    assert home.tree_size == num_records
    home.close()
    assert check(tmp_path / "log", open_keys(tmp_path / "log", LOG_NAME, 2).verifier_keys[:1]).problems == ()


@pytest.mark.parametrize("step", ["_keep", "add_checkpoint", "append"])
def test_an_adoption_that_was_cut_off_is_finished_by_the_next(
    edge: Edge, home: Shard, open_adopter: Callable[..., Adopter], step: str
) -> None:
    adopter = open_adopter()
    cut_off(edge, adopter, home, step)
    adoption = adopter.adopt(edge.shard_path, NOW_S)
    assert (adoption.checkpoint.tree_size, adopter.adopted()) == (8, {EDGE: 8})
    assert home.append(entries_with([100], [(EDGE, 7)])).results.tolist() == [Result.OK]


def test_what_was_adopted_before_is_known_when_what_was_cut_off_cannot_be_finished(
    edge: Edge, home: Shard, open_adopter: Callable[..., Adopter], tmp_path: Path
) -> None:
    cut_off(edge, open_adopter(), home, "append")
    (shard_path(tmp_path / "log" / ADOPTED_DIR, EDGE) / "data.mdb").unlink()
    assert open_adopter().adopted() == {EDGE: 4}
    assert home.append(entries_with([100], [(EDGE, 3)])).results.tolist() == [Result.OK]
    assert home.append(entries_with([101], [(EDGE, 4)])).results.tolist() == [Result.UNKNOWN_PARENT]


def test_an_adopter_that_lost_its_memory_does_not_start(
    edge: Edge, open_adopter: Callable[..., Adopter], tmp_path: Path
) -> None:
    edge.write(entries_with(range(1, 5)))
    open_adopter().adopt(edge.shard_path, NOW_S)
    shutil.rmtree(tmp_path / "log" / ADOPTED_DIR / "memory")
    with pytest.raises(LogMismatch, match="no such directory"):
        open_adopter()


def test_a_shard_that_has_nothing_is_adopted_as_nothing(edge: Edge, adopter: Adopter) -> None:
    Shard.open(edge.shard_path, EDGE, edge.signer, lambda: NOW_S * 10**9, entropy=os.urandom).close()
    adopter.adopt(edge.shard_path, NOW_S)
    assert adopter.adopted() == {EDGE: 0}
