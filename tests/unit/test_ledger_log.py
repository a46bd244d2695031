"""A log's directory: made once, by whoever comes first, and never taken for another log."""

import multiprocessing
from pathlib import Path

import pytest

from ledger import files
from ledger.errors import KeyInvalid, LogMismatch, ReceiptInvalid
from ledger.files import create_once, make_directory
from ledger.log import LogKeys, begun_path, open_keys, origin, shard_of_origin, shard_path, shard_paths
from ledger.note import parse_verifier_key

NUM_PROCESSES = 4


def open_it(path: Path) -> LogKeys:
    return open_keys(path, "mintage.local", 2)


def report_keys(path: Path, barrier: object, answers: object) -> None:
    """What one of several processes that start at the same moment sees."""
    barrier.wait()  # type: ignore[attr-defined]
    answers.put(open_it(path).verifier_keys)  # type: ignore[attr-defined]


def test_opening_a_log_twice_gives_the_same_keys(tmp_path: Path) -> None:
    first, second = open_it(tmp_path / "log"), open_it(tmp_path / "log")
    assert first.verifier_keys == second.verifier_keys
    assert first.log_name == second.log_name == "mintage.local"


def test_two_logs_have_different_keys(tmp_path: Path) -> None:
    assert open_it(tmp_path / "a").verifier_keys != open_it(tmp_path / "b").verifier_keys


def test_the_key_comes_from_the_given_entropy(tmp_path: Path) -> None:
    logs = [open_keys(tmp_path / name, "mintage.local", 1, entropy=lambda n: b"e" * n) for name in "ab"]
    assert logs[0].verifier_keys == logs[1].verifier_keys


def test_only_the_owner_may_read_the_secret_key(tmp_path: Path) -> None:
    open_it(tmp_path)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(KeyInvalid, match="others may read"):
        open_it(tmp_path)


def test_the_verifier_file_has_one_public_key_a_shard_and_no_secret(tmp_path: Path) -> None:
    keys = open_it(tmp_path)
    lines = (tmp_path / "verifier.keys").read_text().splitlines()
    assert lines == list(keys.verifier_keys)
    parsed = [parse_verifier_key(line) for line in lines]
    assert [key.name for key in parsed] == ["mintage.local/shard-0", "mintage.local/shard-1"]
    assert parsed[0].public_key == parsed[1].public_key and parsed[0].key_id != parsed[1].key_id


@pytest.mark.parametrize(("log_name", "num_shards"), [("mintage.local", 3), ("mintage.local", 1), ("other.local", 2)])
def test_a_log_is_not_opened_as_another(tmp_path: Path, log_name: str, num_shards: int) -> None:
    open_it(tmp_path)
    with pytest.raises(LogMismatch):
        open_keys(tmp_path, log_name, num_shards)


@pytest.mark.parametrize("num_shards", [0, -1, 257])
def test_the_number_of_shards_has_a_limit(tmp_path: Path, num_shards: int) -> None:
    with pytest.raises(LogMismatch):
        open_keys(tmp_path, "mintage.local", num_shards)


def test_a_log_with_shards_that_lost_its_verifier_file_is_refused(tmp_path: Path) -> None:
    open_it(tmp_path)
    shard_path(tmp_path, 0).mkdir()
    (tmp_path / "verifier.keys").unlink()
    with pytest.raises(LogMismatch, match="shards without the file"):
        open_keys(tmp_path, "mintage.local", 1)


def test_a_log_of_which_only_the_key_was_written_is_completed(tmp_path: Path) -> None:
    before = open_it(tmp_path).verifier_keys
    (tmp_path / "verifier.keys").unlink()
    assert open_it(tmp_path).verifier_keys == before


def test_a_log_whose_verifier_file_is_anothers_is_refused(tmp_path: Path) -> None:
    open_it(tmp_path / "a")
    open_it(tmp_path / "b")
    (tmp_path / "a" / "key").write_bytes((tmp_path / "b" / "key").read_bytes())
    with pytest.raises(LogMismatch):
        open_it(tmp_path / "a")


@pytest.mark.parametrize("log_name", ["", "a b", "a+b", "a\nb", "n" * 300])
def test_a_name_that_cannot_be_a_key_name_is_refused(tmp_path: Path, log_name: str) -> None:
    with pytest.raises(KeyInvalid):
        open_keys(tmp_path, log_name, 1)


def test_processes_that_start_at_once_agree_on_the_keys(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(NUM_PROCESSES), spawn.Queue()
    processes = [
        spawn.Process(target=report_keys, args=(tmp_path / "log", barrier, answers)) for _ in range(NUM_PROCESSES)
    ]
    for process in processes:
        process.start()
    seen = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    assert seen == {open_it(tmp_path / "log").verifier_keys}
    assert {file.name for file in (tmp_path / "log").iterdir()} == {"key", "verifier.keys"}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, set[str]]]:
    """Each directory that is synced, in order, and the names that were in it then."""
    found: list[tuple[Path, set[str]]] = []
    sync = files.sync_directory

    def watched(path: Path) -> None:
        found.append((path, {each.name for each in path.iterdir()}))
        sync(path)

    monkeypatch.setattr(files, "sync_directory", watched)
    return found


def test_every_directory_made_for_a_log_has_a_durable_name_before_anything_is_in_it(
    tmp_path: Path, synced: list[tuple[Path, set[str]]]
) -> None:
    open_it(tmp_path / "data" / "ledger")
    assert synced == [
        (tmp_path, {"data"}),
        (tmp_path / "data", {"ledger"}),
        (tmp_path / "data" / "ledger", {"key"}),
        (tmp_path / "data" / "ledger", {"key", "verifier.keys"}),
    ]


def test_a_directory_that_another_process_makes_meanwhile_is_synced_all_the_same(
    tmp_path: Path, synced: list[tuple[Path, set[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.mkdir

    def made_twice(path: Path, exist_ok: bool) -> None:
        made(path)
        made(path, exist_ok=exist_ok)

    monkeypatch.setattr(Path, "mkdir", made_twice)
    make_directory(tmp_path / "log")
    assert synced == [(tmp_path, {"log"})]


def test_a_file_in_the_place_of_a_logs_directory_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(FileExistsError):
        open_it(tmp_path / "log")


def test_a_file_that_is_there_already_is_made_durable_and_kept(
    tmp_path: Path, synced: list[tuple[Path, set[str]]]
) -> None:
    """Whoever made it may have ended before it was durable."""
    (tmp_path / "file").write_bytes(b"first")
    assert not create_once(tmp_path / "file", b"second", 0o644)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert synced == [(tmp_path, {"file"})]


def test_an_origin_gives_its_shard_back() -> None:
    assert [shard_of_origin(origin("a/shard-9", shard)) for shard in (0, 10, 65535)] == [0, 10, 65535]


@pytest.mark.parametrize("name", ["", "/shard-0", "a", "a/shard-", "a/shard-01", "a/shard-65536", "a/shard-0\n"])
def test_an_origin_that_is_no_shards_is_refused(name: str) -> None:
    with pytest.raises(ReceiptInvalid):
        shard_of_origin(name)


def test_shards_are_listed_in_order_of_their_numbers(tmp_path: Path) -> None:
    expected = [shard_path(tmp_path, shard) for shard in (2, 10, 999, 1000)]
    for path in reversed(expected):
        path.mkdir()
        begun_path(path).touch()
    assert shard_paths(tmp_path) == expected


@pytest.mark.parametrize("name", ["shard-000.old", "shard-0", "shard-00", "shard-0100", "shard-x", "copy-of-shard-000"])
def test_a_directory_under_another_name_is_no_shard(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert shard_paths(tmp_path) == []
