"""fsck and the super-log: it is checked as one more log, and the shards are held against what it has recorded."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fsck_logs import append, item, keys_of_log, open_shard

from ledger.fsck import Report, check
from ledger.fsck_report import Problem
from ledger.log import KEY_FILE, begun_path, shard_path
from ledger.note import Checkpoint, Signer, VerifierKey
from ledger.peer import open_peer, peer_entries
from ledger.store import DATA_FILE
from ledger.stored import StoredLog
from ledger.superlog import SuperLog, View

NAME = "mintage.local"
NO_ENTRIES = "it does not have the {} entries that the super-log has recorded"


def keys_of(log: Path) -> list[VerifierKey]:
    return [signer.key for signer in keys_of_log(log).signers]


def commit_moment(log: Path) -> None:
    """Record what both shards are."""
    with closing(SuperLog.open(log, NAME, keys_of(log), lambda: 10**18, entropy=os.urandom)) as superlog:
        views = []
        for number, size in ((number, superlog.sizes().get(number, 0)) for number in range(2)):
            with StoredLog(shard_path(log, number)) as stored:
                views.append(View(stored.checkpoint(), tuple(stored.consistency(size))))
        superlog.commit(views)


def grow(log: Path, shard: int, *numbers: int) -> None:
    with open_shard(log, shard) as opened:
        append(opened, *(item(number) for number in numbers))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two shards, with three entries and one, in a moment; and with five and one in the newest one. The first
    one lies as it was at first in `before`."""
    path = tmp_path / "log"
    grow(path, 0, 1, 2, 3)
    grow(path, 1, 11)
    commit_moment(path)
    shutil.copytree(shard_path(path, 0), tmp_path / "before")
    grow(path, 0, 4, 5)
    commit_moment(path)
    return path


def lines(report: Report) -> list[str]:
    return [str(problem) for problem in report.problems]


def put_in_place(log: Path, copy: Path) -> None:
    """A copy of the first shard becomes the log's."""
    shutil.rmtree(shard_path(log, 0))
    shutil.copytree(copy, shard_path(log, 0))


def test_a_super_log_is_checked_with_its_log_and_is_none_of_its_shards(log: Path) -> None:
    assert check(log) == check(log, keys_of_log(log).verifier_keys) == Report(2, 6, (), num_super=4)
    grow(log, 0, 6)
    assert check(log).ok, "a shard may have more than the newest moment"


def test_a_shard_that_was_put_back_is_found_by_what_the_super_log_has_recorded(log: Path, tmp_path: Path) -> None:
    put_in_place(log, tmp_path / "before")
    assert lines(check(log)) == [f"shard-000: {NO_ENTRIES.format(5)}"]


def test_a_shard_with_another_history_is_found_by_what_the_super_log_has_recorded(log: Path, tmp_path: Path) -> None:
    put_in_place(log, tmp_path / "before")
    grow(log, 0, 7, 8, 9)
    assert lines(check(log)) == [f"shard-000: {NO_ENTRIES.format(5)}"]


@pytest.mark.parametrize("data", [b"", bytes(65_536)], ids=["empty", "zeros"])
def test_a_super_log_whose_data_is_gone_is_found(log: Path, data: bytes) -> None:
    (shard_path(log / "super", 0) / DATA_FILE).write_bytes(data)
    told = check(log).problems
    assert {problem.where.split()[0] for problem in told} >= {"super/shard-000"}
    assert any("was not held against the shards" in problem.what for problem in told)


def test_a_super_log_that_is_gone_is_found(log: Path) -> None:
    shutil.rmtree(log / "super")
    assert lines(check(log)) == ["super/shard-000: missing, though super.begun says that it was begun"]


DAMAGES: dict[str, tuple[Callable[[Path], object], Problem]] = {
    "no word that it was begun": (
        lambda log: begun_path(log / "super").unlink(),
        Problem("super.begun", "missing, so that the super-log might be begun anew, under another key"),
    ),
    "begun with another key": (
        lambda log: begun_path(log / "super").write_text("another\n"),
        Problem("super.begun", "it is not the super-log's key, and nothing else"),
    ),
    "no word that its shard was begun": (
        lambda log: begun_path(shard_path(log / "super", 0)).unlink(),
        Problem("super/shard-000.begun", "missing, so that the shard might be begun anew, under the same key"),
    ),
    "the key of another": (
        lambda log: (log / "super" / KEY_FILE).write_text(f"{Signer(f'{NAME}/super', b'o' * 32).secret()}\n"),
        Problem("super/key", f"it is not the key of {NAME}/super/shard-0"),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_small_files_of_a_super_log_are_checked_byte_for_byte(log: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    damage(log)
    assert check(log).problems == (expected,)


def test_a_moment_that_the_shard_has_not_signed_is_found(log: Path) -> None:
    """The directory's own keys may have been replaced; whoever brings the shard's real one finds it."""
    real = Signer(f"{NAME}/shard-0", b"r" * 32).key
    told = check(log, [str(real), str(keys_of(log)[1])]).problems
    unsigned = "its newest moment has shard 0, and that shard has not signed it: no known key has signed the note"
    assert Problem("super/shard-000", unsigned) in told


def test_a_record_of_a_checkpoint_that_is_not_that_of_its_note_is_found(tmp_path: Path) -> None:
    signer = keys_of_log(tmp_path / "peer").signers[1]
    note = signer.sign(Checkpoint(signer.name, 7, bytes(32)).text())
    entries, payloads = peer_entries([open_peer(note, signer.key)], b"adopted")
    entries["amount"] = 8
    with open_shard(tmp_path / "log", num_shards=1) as shard:
        assert not shard.append(entries, payloads).results.any()
    assert lines(check(tmp_path / "log")) == [
        "shard-000 entry 0: it is no record of a checkpoint: the metadata holds another checkpoint than the entry"
    ]
