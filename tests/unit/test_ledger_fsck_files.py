"""fsck on what lies beside the shards, byte for byte; on an edge's own directory; on a log that has adopted shards."""

import itertools
import shutil
from pathlib import Path

import pytest
from fsck_logs import append, item, keys_of_log, open_shard

from ledger import adopt as adopt_module
from ledger.adopt import Adopter, edge_signer
from ledger.fsck import Report, check, check_shard
from ledger.fsck_afresh import found_in
from ledger.fsck_files import check_begun, check_key_file, own_keys
from ledger.fsck_report import Findings
from ledger.log import ADOPTED_DIR, begun_path, shard_path
from ledger.note import Signer
from ledger.shard import Shard
from ledger.store import DATA_FILE

NOW_S = 1_700_000_000
EDGE = 17


@pytest.fixture(autouse=True)
def checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter for each adoption takes two seconds."""
    monkeypatch.setattr(adopt_module, "check_afresh", found_in)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two shards with three entries each."""
    path = tmp_path / "log"
    for number in range(2):
        with open_shard(path, number) as shard:
            append(shard, *(item(10 * number + place) for place in range(1, 4)))
    assert check(path) == Report(2, 6, ())
    return path


@pytest.fixture
def edge(tmp_path: Path) -> tuple[Path, Signer]:
    """An edge with three entries."""
    path = tmp_path / "edge"
    signer = edge_signer(path, "mintage.local", EDGE, entropy=bytes)
    fill_edge(path, signer, 1)
    return path, signer


def fill_edge(path: Path, signer: Signer, first: int) -> None:
    with Shard.open(shard_path(path, EDGE), EDGE, signer, lambda: 10**18, entropy=bytes) as shard:
        append(shard, *(item(first + place) for place in range(3)))


def adopt(log: Path, edge: Path, signer: Signer) -> None:
    with open_shard(log, 0) as home:
        Adopter(log, home, [signer.key], lambda: {0: home.tree_size, 1: 3}, entropy=bytes).adopt(
            shard_path(edge, EDGE), NOW_S
        )


def put_in_place(log: Path, edge: Path) -> None:
    """Replace an adopted copy by an edge's file, past its adopter."""
    shutil.copy(shard_path(edge, EDGE) / DATA_FILE, shard_path(log / ADOPTED_DIR, EDGE) / DATA_FILE)


def lines(report: Report) -> list[str]:
    return [str(problem) for problem in report.problems]


def look_at(log: Path, name: str) -> list[str]:
    """The names of the files that something is wrong with, after a look at one of them alone."""
    findings = Findings()
    keys = {number: signer.key for number, signer in enumerate(keys_of_log(log.with_name("same")).signers)}
    if name == "verifier.keys":
        own_keys(log, findings.add)
    elif name == "key":
        check_key_file(log, keys, findings.add)
    else:
        number = int(name[6:9])
        check_begun(shard_path(log, number), keys[number], 3, findings.add)
    return [Path(problem.where).name for problem in findings.problems]


@pytest.mark.parametrize("name", ["verifier.keys", "key", "shard-000.begun", "shard-001.begun"])
def test_any_bit_of_a_file_beside_the_shards_is_found_where_it_is(log: Path, name: str) -> None:
    """A bit of each byte, and all of a line's end: among those are such that make another end of it."""
    file = log / name
    whole = file.read_bytes()
    assert look_at(log, name) == []
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for place, bit in [*((place, place % 8) for place in range(len(whole))), *itertools.product(ends, range(8))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        file.write_bytes(flipped)
        assert look_at(log, name)[:1] == [name], f"byte {place}, bit {bit}"
    assert name in {Path(problem.where).name for problem in check(log).problems}


def test_a_secret_key_that_others_may_read_is_found(log: Path) -> None:
    (log / "key").chmod(0o644)
    assert lines(check(log)) == ["key: others may read the secret key"]


def test_the_secret_key_of_another_log_is_found(log: Path, tmp_path: Path) -> None:
    edge_signer(tmp_path / "other", "mintage.local", 0)
    (log / "key").unlink()
    shutil.copy(tmp_path / "other" / "key", log / "key")
    assert lines(check(log)) == [f"key: it is not the key of mintage.local/shard-{number}" for number in range(2)]


def test_a_copy_without_the_secret_key_is_whole(log: Path) -> None:
    (log / "key").unlink()
    assert check(log).ok


def test_a_shard_that_could_be_begun_anew_is_found(log: Path) -> None:
    begun_path(shard_path(log, 1)).unlink()
    assert lines(check(log)) == ["shard-001.begun: missing, so that the shard might be begun anew, under the same key"]


def test_a_shard_that_a_crash_left_before_it_was_begun_is_whole(tmp_path: Path) -> None:
    open_shard(tmp_path, 0, num_shards=1).close()
    begun_path(shard_path(tmp_path, 0)).unlink()
    assert check(tmp_path).ok


def test_a_shard_that_was_begun_and_that_there_is_no_key_for_is_found(log: Path) -> None:
    (log / "shard-002.begun").write_text("mintage.local/shard-2\n")
    assert lines(check(log)) == ["shard-002.begun: no verifier key is for a shard of this name"]


def test_an_edges_own_directory_is_checked_with_the_key_in_it(edge: tuple[Path, Signer]) -> None:
    path, signer = edge
    assert check(path) == check(shard_path(path, EDGE)) == check_shard(shard_path(path, EDGE), signer.key)
    assert check(path) == Report(1, 3, ())


def test_an_edge_is_not_believed_with_another_edges_key(edge: tuple[Path, Signer], tmp_path: Path) -> None:
    path, _ = edge
    other = edge_signer(tmp_path / "other", "mintage.local", EDGE, entropy=lambda size: b"o" * size)
    (problem,) = check_shard(shard_path(path, EDGE), other.key).problems
    assert problem.where == "shard-017 head"
    assert not check(path, [str(other.key)]).ok


def test_adopted_shards_are_checked_with_the_log_and_need_no_key(log: Path, edge: tuple[Path, Signer]) -> None:
    """What the log has recorded of them stands for the key."""
    path, signer = edge
    adopt(log, path, signer)
    fill_edge(path, signer, 4)
    adopt(log, path, signer)
    own = [str(key) for key in keys_of_log(log).verifier_keys]
    for keys in (None, own, [*own, str(signer.key)]):
        report = check(log, keys)
        assert lines(report) == []
        assert (report.num_shards, report.num_entries) == (3, 14)


def test_a_parent_in_an_adopted_shard_is_looked_up_there(log: Path, edge: tuple[Path, Signer]) -> None:
    path, signer = edge
    adopt(log, path, signer)
    with open_shard(log, 1) as shard:
        shard.cover(EDGE, 100)
        append(shard, item(20, parents=((EDGE, 2),)))
    assert check(log).ok
    with open_shard(log, 1) as shard:
        shard.cover(EDGE, 100)
        append(shard, item(21, parents=((EDGE, 3),)))
    assert lines(check(log)) == ["adopted/shard-017: entry 3 is missing, but is an entry's parent elsewhere"]


def test_damage_in_an_adopted_shard_is_found(log: Path, edge: tuple[Path, Signer]) -> None:
    path, signer = edge
    adopt(log, path, signer)
    file = shard_path(log / ADOPTED_DIR, EDGE) / DATA_FILE
    data = file.read_bytes()
    file.write_bytes(data.replace(b"content of 2 ", b"content of X "))
    assert lines(check(log)) == ["adopted/shard-017 entry 1: its content does not have the hash that it names"]


def test_an_adopted_shard_in_anothers_place_is_found(log: Path, edge: tuple[Path, Signer]) -> None:
    path, signer = edge
    adopt(log, path, signer)
    shard_path(log / ADOPTED_DIR, EDGE).rename(shard_path(log / ADOPTED_DIR, EDGE + 1))
    assert lines(check(log)) == [
        "adopted/shard-017: it does not have the 3 entries that the log has recorded; adopt it again",
        "adopted/shard-018: it is the shard of 'mintage.local/shard-17'",
    ]


def test_another_history_in_the_place_of_what_was_adopted_is_found(
    log: Path, edge: tuple[Path, Signer], tmp_path: Path
) -> None:
    """Its edge has signed both."""
    path, signer = edge
    adopt(log, path, signer)
    fill_edge(tmp_path / "again", signer, 7)
    fill_edge(tmp_path / "again", signer, 20)
    put_in_place(log, tmp_path / "again")
    expected = "adopted/shard-017: it does not have the 3 entries that the log has recorded; adopt it again"
    assert lines(check(log)) == [expected]
    assert lines(check(log, [*keys_of_log(log).verifier_keys, str(signer.key)])) == [expected]


def test_an_adopted_shard_that_was_put_back_or_deleted_is_found(
    log: Path, edge: tuple[Path, Signer], tmp_path: Path
) -> None:
    path, signer = edge
    adopt(log, path, signer)
    shutil.copytree(path, tmp_path / "before")
    fill_edge(path, signer, 4)
    adopt(log, path, signer)
    expected = "adopted/shard-017: it does not have the 6 entries that the log has recorded; adopt it again"
    put_in_place(log, tmp_path / "before")
    assert lines(check(log)) == [expected]
    shutil.rmtree(shard_path(log / ADOPTED_DIR, EDGE))
    assert lines(check(log)) == [expected]
    shutil.rmtree(log / ADOPTED_DIR)
    assert lines(check(log)) == [expected]


def test_an_adopted_shard_that_goes_on_beyond_what_was_recorded_is_found(log: Path, edge: tuple[Path, Signer]) -> None:
    path, signer = edge
    adopt(log, path, signer)
    fill_edge(path, signer, 4)
    put_in_place(log, path)
    assert lines(check(log)) == [
        "adopted/shard-017: no shard of the log has recorded its checkpoint; adopt it again if that was cut short"
    ]


def test_shards_are_checked_at_once_and_reported_in_their_order(log: Path) -> None:
    for number in range(2):
        file = shard_path(log, number) / DATA_FILE
        file.write_bytes(file.read_bytes().replace(b"content of ", b"content_of_"))
    reports = [check(log, num_at_once=num_at_once) for num_at_once in (1, 2, 8)]
    assert reports[0] == reports[1] == reports[2]
    assert [problem.where for problem in reports[0].problems] == [
        f"shard-{number:03d} entry {index}" for number in range(2) for index in range(3)
    ]
