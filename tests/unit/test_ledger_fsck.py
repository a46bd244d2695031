"""fsck on ledgers that are whole, absent, or signed by somebody else. Damage is in tests/fault."""

from pathlib import Path

import pytest

from ledger import fsck
from ledger.entry import Kind
from ledger.fsck import check
from ledger.log import LogKeys, open_keys, shard_path
from ledger.shard import NewEntry, Shard


def item(number: int, parents: tuple[tuple[int, int], ...] = ()) -> NewEntry:
    return NewEntry(Kind.ASSET, number.to_bytes(16, "big"), b"content %d" % number, b"r" * 32, "acme", parents=parents)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two shards: 7 and 3 entries; one of the second has a parent in the first."""
    path = tmp_path / "log"
    keys = open_keys(path, "mintage.local", 2)
    fill(path, keys, 0, [item(0), *(item(number, ((0, number - 1),)) for number in range(1, 7))])
    fill(path, keys, 1, [item(10), item(11, ((0, 6),)), item(12)])
    return path


def fill(path: Path, keys: LogKeys, shard: int, items: list[NewEntry]) -> None:
    with Shard.open(
        shard_path(path, shard), shard=shard, signer=keys.signers[shard], now_ms=lambda: 1, covers=lambda *_: True
    ) as opened:
        opened.append(items)


def lines(report: fsck.Report) -> list[str]:
    return [str(problem) for problem in report.problems]


def test_a_whole_log_has_no_problems(log: Path) -> None:
    report = check(log)
    assert (report.ok, report.num_shards, report.num_entries, lines(report)) == (True, 2, 10, [])


def test_one_shard_can_be_checked_alone(log: Path) -> None:
    report = check(shard_path(log, 1))
    assert (report.ok, report.num_shards, report.num_entries) == (True, 1, 3)


def test_an_empty_shard_has_no_problems(tmp_path: Path) -> None:
    keys = open_keys(tmp_path, "mintage.local", 1)
    fill(tmp_path, keys, 0, [])
    assert check(tmp_path) == fsck.Report(1, 0, ())


def test_the_callers_keys_are_believed_and_not_the_directorys(log: Path, tmp_path: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    others = open_keys(tmp_path / "other", "mintage.local", 2).verifier_keys
    assert check(log, own).ok
    assert lines(check(log, others)) == [
        "shard-000 head: no known key has signed the note",
        "shard-001 head: no known key has signed the note",
    ]


def test_a_log_without_its_verifier_file_is_a_problem_unless_keys_are_given(log: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    (log / "verifier.keys").unlink()
    assert check(log, own).ok
    assert lines(check(log))[0].endswith("verifier.keys: no verifier keys: No such file or directory")


def test_an_empty_directory_is_a_problem(tmp_path: Path) -> None:
    assert f"{tmp_path}: no shard is here" in lines(check(tmp_path))


def test_a_parent_in_a_shard_that_lost_it_is_a_problem(log: Path) -> None:
    for file in shard_path(log, 0).iterdir():
        file.unlink()
    fill(log, open_keys(log, "mintage.local", 2), 0, [item(0)])
    assert lines(check(log)) == ["shard-000: entry 6 is missing, but is an entry's parent elsewhere"]
    assert check(shard_path(log, 1)).ok


def test_a_checkpoint_from_before_the_last_entries_is_a_problem(log: Path) -> None:
    """An older head put back, as by restoring one file of two."""
    keys = open_keys(log, "mintage.local", 2)
    path = shard_path(log, 0) / "data.mdb"
    with Shard.open(path.parent, shard=0, signer=keys.signers[0], now_ms=lambda: 1) as shard:
        new, older = shard.checkpoint(), shard.receipt(0, 6).partition("\n\n")[2]
    path.write_bytes(path.read_bytes().replace(new.encode(), older.encode()))
    assert lines(check(log)) == [
        "shard-000 head: size 7, but its checkpoint is of 6 entries",
        "shard-000 head: signed for 6 entries, but there are 7",
    ]


def test_the_list_of_problems_has_a_limit(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck, "PROBLEMS_MAX", 1)
    report = check(log, [])
    assert len(report.problems) == 1
    assert report.truncated
