"""`mintage fsck`: what it prints, and an exit code for each thing that can come of it."""

import json
import os
import shutil
from io import StringIO
from pathlib import Path

import pytest
from click.testing import Result
from fsck_logs import append, item, open_shard
from rich.console import Console
from typer.testing import CliRunner

from actors import checking
from actors.cli import app
from ledger import fsck_report
from ledger.fsck import CheckFailed, Problem, Report
from ledger.log import begun_path, shard_path
from ledger.note import Signer
from ledger.store import DATA_FILE


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of one shard with three entries."""
    path = tmp_path / "log"
    with open_shard(path, 0, num_shards=1) as shard:
        append(shard, *(item(place) for place in range(1, 4)))
    return path


def fsck(*args: object) -> Result:
    return CliRunner().invoke(app, ["fsck", *map(str, args)])


def instead(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the check end with an error."""

    def failing(*_: object) -> Report:
        raise error

    monkeypatch.setattr(checking, "check", failing)


def test_a_clean_ledger_is_exit_code_0(log: Path) -> None:
    ran = fsck(log)
    assert (ran.exit_code, ran.stdout) == (0, "1 shards, 3 entries: clean\n")


def test_a_damaged_ledger_is_exit_code_1_and_each_problem_has_a_line(log: Path) -> None:
    file = shard_path(log, 0) / DATA_FILE
    file.write_bytes(file.read_bytes().replace(b"content of 2", b"content of X"))
    begun_path(shard_path(log, 0)).unlink()
    ran = fsck(log)
    assert ran.exit_code == 1
    assert ran.stdout.splitlines() == [
        "shard-000 entry 1: its content does not have the hash that it names",
        "shard-000.begun: missing, so that the shard might be begun anew, under the same key",
        "1 shards, 3 entries: 2 problems",
    ]


def test_a_report_as_json_has_the_problems_and_the_same_exit_code(log: Path) -> None:
    begun_path(shard_path(log, 0)).unlink()
    ran = fsck(log, "--json")
    assert ran.exit_code == 1
    report = json.loads(ran.stdout)
    assert (report["num_shards"], report["num_entries"], report["truncated"]) == (1, 3, False)
    assert [problem["where"] for problem in report["problems"]] == ["shard-000.begun"]


@pytest.mark.parametrize("args", [("nowhere",), (), ("--what",)])
def test_a_command_that_cannot_be_followed_is_exit_code_2(args: tuple[str, ...]) -> None:
    assert fsck(*args).exit_code == 2


def test_a_key_file_that_cannot_be_read_is_exit_code_2(log: Path) -> None:
    assert fsck(log, "--key", log / "nowhere").exit_code == 2


KEY = f"{Signer('mintage.test/shard-0', b'k' * 32).key}\n".encode()
NO_SHARD = f"{Signer('witness.example', b'w' * 32).key}\n".encode()


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"", ""), (b"\xff no key\n", ", line 1"), (KEY + b"no key\n", ", line 2"), (KEY + KEY, ""), (NO_SHARD, "")],
    ids=["empty", "no text", "a line that is none", "two of one shard", "of no shard"],
)
def test_a_file_of_keys_that_cannot_be_used_is_exit_code_2_and_no_verdict(
    log: Path, tmp_path: Path, data: bytes, line: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(data)
    ran = fsck(log, "--key", keys, "--json")
    assert ran.exit_code == 2
    assert json.loads(ran.stdout)["error"]["where"] == f"{keys}{line}"


def test_a_directory_that_is_no_ledger_is_exit_code_2_and_no_verdict(log: Path, tmp_path: Path) -> None:
    for options in ((), ("--key", log / "verifier.keys")):
        ran = fsck(tmp_path, *options, "--json")
        assert ran.exit_code == 2
        assert json.loads(ran.stdout)["error"]["where"] == str(tmp_path)


def test_a_ledger_or_a_shard_that_lost_its_data_is_damaged_and_not_taken_for_another_directory(log: Path) -> None:
    (shard_path(log, 0) / DATA_FILE).unlink()
    assert fsck(shard_path(log, 0)).exit_code == 1
    shutil.rmtree(shard_path(log, 0))
    assert fsck(log).exit_code == 1


def test_a_defect_of_the_check_is_exit_code_3_and_no_verdict(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, CheckFailed("a defect of its own"))
    ran = fsck(log)
    assert (ran.exit_code, ran.stdout) == (3, "")


def test_a_defect_of_one_check_is_exit_code_3_and_what_the_others_found_is_shown(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Report(2, 3, (Problem("shard-001 entry 1", "it is damaged"),))
    instead(monkeypatch, CheckFailed("a defect of its own", report=found))
    ran = fsck(log)
    assert (ran.exit_code, ran.stdout.splitlines()[0]) == (3, "shard-001 entry 1: it is damaged")
    assert json.loads(fsck(log, "--json").stdout)["problems"] == [
        {"where": "shard-001 entry 1", "what": "it is damaged"}
    ]


def test_a_ledger_that_may_not_be_opened_is_exit_code_2_and_damage_elsewhere_exit_code_1(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: mode == os.R_OK)
    with open_shard(log, 0, num_shards=1):
        ran = fsck(log)
        assert ran.exit_code == 2
        assert ran.stdout.splitlines()[0].startswith("not checked: shard-000 ")
        assert ran.stdout.splitlines()[1] == "1 shards, 0 entries: no problem in what was checked, 1 not checked"
        report = json.loads(fsck(log, "--json").stdout)
        assert [row["where"].split()[0] for row in report["not_checked"]] == ["shard-000"]
        begun_path(shard_path(log, 0)).write_text("another\n")
        assert fsck(log).exit_code == 1


def test_the_entries_of_the_super_log_are_counted_apart(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "check", lambda *_: Report(1, 3, (), num_super=4))
    assert fsck(log).stdout == "1 shards, 3 entries, 4 of the super-log: clean\n"


def test_an_interrupted_check_is_exit_code_130_and_no_verdict(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, KeyboardInterrupt())
    ran = fsck(log)
    assert (ran.exit_code, ran.stdout) == (130, "")


def test_the_bar_is_on_a_terminal_only_and_says_how_many_entries(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(*, is_terminal: bool) -> str:
        screen = StringIO()
        monkeypatch.setattr(checking, "err", Console(file=screen, force_terminal=is_terminal, width=100))
        assert fsck(log).exit_code == 0
        return screen.getvalue()

    assert shown(is_terminal=False) == ""
    assert "3/3" in shown(is_terminal=True)


def test_the_verdict_says_that_there_are_more_problems_than_are_listed(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsck_report, "PROBLEMS_MAX", 1)
    begun_path(shard_path(log, 0)).unlink()
    (log / "key").chmod(0o644)
    assert fsck(log).stdout.splitlines()[1:] == ["1 shards, 3 entries: 1 and more problems"]
