"""fsck on ledgers that are whole, absent, or signed by somebody else. Damage is in tests/fault."""

import shutil
from pathlib import Path

import pytest

from ledger import fsck
from ledger.entry import Kind
from ledger.fsck import check
from ledger.log import LogKeys, begun_path, open_keys, shard_path
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
        "shard-000 head: no known key has signed the note; it says that it is of 'mintage.local/shard-0'",
        "shard-001 head: no known key has signed the note; it says that it is of 'mintage.local/shard-1'",
    ]


def test_a_log_replaced_with_its_keys_is_whole_by_its_own_keys_only(log: Path, tmp_path: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    other = tmp_path / "other"
    keys = open_keys(other, "mintage.local", 2)
    for shard in range(2):
        fill(other, keys, shard, [item(0)])
    assert check(other).ok
    assert len(lines(check(other, own))) == 2


def test_a_shard_that_is_missing_is_a_problem(log: Path) -> None:
    shutil.rmtree(shard_path(log, 1))
    report = check(log)
    assert lines(report) == ["shard-001: missing, though mintage.local/shard-1 is in the verifier keys"]
    assert (report.num_shards, report.num_entries) == (1, 7)


def test_shards_that_are_all_missing_are_each_a_problem(tmp_path: Path) -> None:
    open_keys(tmp_path, "mintage.local", 2)
    assert [str(problem.where) for problem in check(tmp_path).problems] == ["shard-000", "shard-001"]


def test_a_copy_of_a_shard_in_anothers_place_is_a_problem(log: Path) -> None:
    shutil.rmtree(shard_path(log, 1))
    shutil.copytree(shard_path(log, 0), shard_path(log, 1))
    expected = "shard-001 head: no known key has signed the note; it says that it is of 'mintage.local/shard-0'"
    assert lines(check(log)) == [expected]
    assert lines(check(shard_path(log, 1))) == [expected]


def test_shards_in_each_others_place_are_problems(log: Path, tmp_path: Path) -> None:
    shard_path(log, 0).rename(tmp_path / "aside")
    shard_path(log, 1).rename(shard_path(log, 0))
    (tmp_path / "aside").rename(shard_path(log, 1))
    found = check(log)
    assert [problem.where for problem in found.problems] == ["shard-000 head", "shard-001 head", "shard-000"]
    assert "'mintage.local/shard-1'" in found.problems[0].what
    assert "entry 6 is missing" in found.problems[2].what


@pytest.mark.parametrize("name", ["shard-002", "shard-0000", "shard-000.old"])
def test_a_shard_that_no_key_is_for_is_a_problem(log: Path, name: str) -> None:
    shutil.copytree(shard_path(log, 0), log / name)
    assert lines(check(log)) == [f"{name} head: no verifier key is for a shard of this name"]


def test_a_copy_of_a_shard_under_another_name_can_be_checked_alone(log: Path, tmp_path: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    shutil.copytree(shard_path(log, 1), tmp_path / "copy")
    report = check(tmp_path / "copy", own)
    assert (lines(report), report.num_entries) == ([], 3)


def test_verifier_keys_in_another_order_are_not_believed(log: Path) -> None:
    first, second = (log / "verifier.keys").read_text().splitlines()
    (log / "verifier.keys").write_text(f"{second}\n{first}\n")
    assert lines(check(log)) == [
        f"{log / 'verifier.keys'}: no verifier keys: mintage.local/shard-1 is not on the line of its shard",
        "shard-000 head: no verifier key is for a shard of this name",
        "shard-001 head: no verifier key is for a shard of this name",
    ]


def test_a_line_that_is_no_key_makes_the_given_keys_useless(log: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    found = lines(check(log, [own[0], "no key"]))
    assert found[0].startswith("the given keys: no verifier keys: ")
    assert len(found) == 3


def test_a_log_without_its_verifier_file_is_a_problem_unless_keys_are_given(log: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    (log / "verifier.keys").unlink()
    assert check(log, own).ok
    assert lines(check(log))[0].endswith("verifier.keys: no verifier keys: No such file or directory")


def test_an_empty_directory_is_a_problem(tmp_path: Path) -> None:
    assert f"{tmp_path}: no shard is here" in lines(check(tmp_path))


def test_a_parent_in_a_shard_that_lost_it_is_a_problem(log: Path) -> None:
    """Begun anew by somebody who did away with what forbids it."""
    shutil.rmtree(shard_path(log, 0))
    begun_path(shard_path(log, 0)).unlink()
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
