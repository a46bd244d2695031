"""The command line without Ray: what goes to stdout and what to stderr, exit codes, and the second Ctrl-C."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from briefs import TRUE_COPY, open_keepers
from click.testing import Result
from settling import ALICE, BOB, PICTURE, account, asset, id_of, money
from shards import columns, open_shard
from typer.testing import CliRunner

from actors import cli
from actors.minting import Minted
from engine.config import CONFIGS
from engine.errors import InvalidRequest, Overloaded, Refused
from engine.request import Asset
from engine.tiers import Tier
from ledger.entry import Flag
from ledger.log import open_keys

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:8000"
CHECKPOINT = "mintage.local/0\n7\nroot=\n\nsignature\n"
PATIENCE_S = 60
ASSET = Asset("ab" * 16, TRUE_COPY, "cd" * 32, 0, 1, "a receipt", Tier.FLEX, "default", "fake", 1, 20, False, 900)
RELEASED = Minted("1", Tier.FLEX, 0.5, asset=ASSET, verified=True)
UNVERIFIED = Minted("1", Tier.FLEX, 0.5, asset=ASSET)
REFUSED = Minted("1", Tier.FLEX, 0.5, error=Refused("red", where="draft", fix="Mend it.").body)
FAILED = Minted("1", Tier.FLEX, 0.5, error=Overloaded("the queue is full", where="pool", fix="Come back.").body)


class Application(ModuleType):
    """Stands in for `actors.app`, which imports Ray."""

    def __init__(self) -> None:
        super().__init__("actors.app")
        self.num_stops = 0

    def start(self, config: Any) -> str:
        return URL

    def stop(self) -> None:
        self.num_stops += 1


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """An engine that starts at once; signals are as before afterwards."""
    fake = Application()
    monkeypatch.setitem(sys.modules, "actors.app", fake)
    monkeypatch.setattr(cli, "prepare_model", lambda _: None)
    monkeypatch.setattr(cli, "ask", lambda url, question: [CHECKPOINT])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield fake
    for number, handler in before.items():
        signal.signal(number, handler)


def let_mint(monkeypatch: pytest.MonkeyPatch, *rows: Minted) -> None:
    """Whatever is minted, this comes of it."""

    async def mint_products(*_: Any, **__: Any) -> AsyncIterator[Minted]:
        for row in rows:
            yield row

    monkeypatch.setattr(cli, "mint_products", mint_products)


def mintage(*args: str) -> Result:
    return CliRunner().invoke(cli.app, args)


def test_run_prints_one_json_object_to_stdout_and_its_prose_to_stderr(application: Application) -> None:
    ran = mintage("run", "--once", "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout) == {"url": URL, "checkpoints": [CHECKPOINT]}
    assert "Serving after" in ran.stderr
    assert f"{URL}/docs" in ran.stderr
    assert application.num_stops == 1


def test_run_with_a_demo_prints_its_summary_as_the_one_json_object(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_mint(monkeypatch, RELEASED, REFUSED)
    ran = mintage("run", "--once", "--json", "--demo", "2")
    assert ran.exit_code == 0, ran.output
    summary = json.loads(ran.stdout)
    assert (summary["num_released"], summary["num_refused"]) == (1, 1)
    assert "checkpoint" in ran.stderr


def test_run_without_json_speaks_on_stdout(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    let_mint(monkeypatch, RELEASED)
    ran = mintage("run", "--once", "--demo", "1")
    assert ran.exit_code == 0, ran.output
    for said in ("Serving after", "1 released", "mintage.local/0  7 entries", f"{URL}/docs", "Stopping"):
        assert said in ran.stdout


def test_a_start_that_fails_is_one_json_error_and_is_stopped(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: Any) -> str:
        raise Overloaded("no room", where="here", fix="Go.")

    monkeypatch.setattr(application, "start", start)
    ran = mintage("run", "--once", "--json")
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["error"]["what"] == "no room"
    assert application.num_stops == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((RELEASED, FAILED), "requests that failed: 1; the first: overloaded at pool: the queue is full"),
        ((REFUSED,), "nothing was released"),
        ((RELEASED, UNVERIFIED), "receipts that do not verify: 1"),
    ],
)
@pytest.mark.parametrize("options", [["run", "--once", "--demo", "2"], ["mint", str(CONFIGS / "catalogue.csv")]])
@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_no_success_is_exit_code_1_and_says_why(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rows: tuple[Minted, ...],
    said: str,
    options: list[str],
    as_json: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    let_mint(monkeypatch, *rows)
    ran = mintage(*options, *(["--json"] if as_json else []))
    assert ran.exit_code == 1, ran.output
    assert said in ran.stderr.replace("\n", " ")
    if as_json:
        assert json.loads(ran.stdout)["num_products"] > 0


def test_receipts_of_two_engines_never_share_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "verifier.keys"
    for _ in range(2):
        cli.write_keys(file, ["log/shard-0+aa+bb"])
    with pytest.raises(InvalidRequest, match="another engine"):
        cli.write_keys(file, ["log/shard-0+cc+dd"])
    assert file.read_text() == "log/shard-0+aa+bb\n"


def test_keys_that_are_not_text_are_a_named_error(tmp_path: Path) -> None:
    receipt, keys = tmp_path / "a.receipt", tmp_path / "keys"
    receipt.write_text("c2sp.org/tlog-proof@v1\n")
    keys.write_bytes(b"\xff\xfe\x00")
    result = CliRunner().invoke(cli.app, ["verify", str(receipt), "--key", str(keys), "--json"])
    assert result.exit_code == 1
    assert set(json.loads(result.stdout)["error"]) == {"code", "what", "where", "fix"}


def test_a_verified_receipt_shows_the_kind_of_its_entry_and_the_fields_that_the_kind_has(tmp_path: Path) -> None:
    bob, deposit = account(BOB, Flag.DEBITS_WITHIN_CREDITS), money(80, ALICE, BOB, 100, Flag.PENDING)
    with open_shard(tmp_path) as shard:
        assert not shard.append(columns(account(ALICE), bob, deposit, asset(PICTURE, BOB))).results.any()
        receipts = [shard.receipt(index) for index in (1, 2, 3)]
    shown = []
    for index, text in enumerate(receipts):
        (tmp_path / f"{index}.receipt").write_text(text)
        ran = mintage("verify", str(tmp_path / f"{index}.receipt"), "--json")
        assert ran.exit_code == 0, ran.output
        shown.append(json.loads(ran.stdout))
    opened, moved, made = shown
    assert (opened["kind"], opened["id"], opened["currency"]) == ("account", id_of(BOB).hex(), 1)
    assert opened["flags"] == ["debits_within_credits"]
    assert (moved["kind"], moved["amount"], moved["flags"]) == ("money", 100, ["pending"])
    assert (moved["debit"], moved["credit"]) == (id_of(ALICE).hex(), id_of(BOB).hex())
    assert (made["kind"], made["asset_id"]) == ("asset", id_of(PICTURE).hex())
    for each in (opened, moved):
        assert {"asset_id", "value_micros"}.isdisjoint(each)


def test_a_folder_that_cannot_be_written_to_ends_mint_with_a_named_error(
    application: Application, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    let_mint(monkeypatch, RELEASED)
    (tmp_path / "1.txt").mkdir()
    ran = mintage("mint", str(CONFIGS / "catalogue.csv"), "--out", str(tmp_path), "--json")
    assert ran.exit_code == 1
    error = json.loads(ran.stdout)["error"]
    assert (error["code"], error["where"]) == ("unavailable", str(tmp_path / "1.txt"))


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger of two empty shards."""
    _, keepers = open_keepers(tmp_path / "ledger")
    for keeper in keepers:
        keeper.close()
    return tmp_path / "ledger"


def test_fsck_of_a_whole_ledger_is_exit_code_0_by_its_own_keys_and_by_the_same_from_elsewhere(
    ledger: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "keys"
    elsewhere.write_bytes((ledger / "verifier.keys").read_bytes())
    for options in ([], ["--key", str(elsewhere)]):
        ran = mintage("fsck", str(ledger), *options)
        assert (ran.exit_code, ran.stdout) == (0, "2 shards, 0 entries: clean\n")


def test_fsck_finds_a_ledger_that_was_replaced_with_its_keys_by_keys_from_elsewhere(
    ledger: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "keys"
    elsewhere.write_text("\n".join(open_keys(tmp_path / "real", "mintage.test", 2).verifier_keys))
    assert mintage("fsck", str(ledger)).exit_code == 0
    ran = mintage("fsck", str(ledger), "--key", str(elsewhere), "--json")
    assert ran.exit_code == 1
    assert [problem["where"] for problem in json.loads(ran.stdout)["problems"]] == ["shard-000 head", "shard-001 head"]


def test_fsck_finds_a_shard_that_is_missing(ledger: Path) -> None:
    shutil.rmtree(ledger / "shard-001")
    ran = mintage("fsck", str(ledger))
    assert ran.exit_code == 1
    assert "shard-001: missing" in ran.stdout
    assert "1 shards, 0 entries: 1 problems" in ran.stdout


def test_fsck_with_keys_that_are_not_there_is_a_named_error(ledger: Path, tmp_path: Path) -> None:
    ran = mintage("fsck", str(ledger), "--key", str(tmp_path / "none"), "--json")
    assert ran.exit_code == 2
    error = json.loads(ran.stdout)["error"]
    assert (error["code"], error["where"]) == ("invalid_request", str(tmp_path / "none"))


# `mintage run` with an engine that is one process deaf to signals, and whose stop takes for ever (in short sleeps: a
# signal that comes just before a long one would wait for its end).
STUCK = """
import signal, subprocess, sys, time, types

def start(config):
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    print("child", child.pid, flush=True)
    return "http://127.0.0.1:8000"

application = types.ModuleType("actors.app")
application.start = start
application.stop = lambda: [time.sleep(0.1) for _ in range(6000)]
sys.modules["actors.app"] = application
from actors import cli
cli.prepare_model = lambda config: None
cli.ask = lambda url, question: []
cli.AGAIN_S_MIN = float(sys.argv.pop(1))
cli.main()
"""


class StuckRun:
    """`mintage run`, serving, in a process of its own. `again_s_min` is its AGAIN_S_MIN."""

    def __init__(self, again_s_min: float) -> None:
        command = [sys.executable, "-u", "-c", STUCK, str(again_s_min), "run"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.child = psutil.Process(int(self.read_until("child").split()[1]))
        self.read_until("Serving until")

    def read_until(self, start: str) -> str:
        """The next line that starts so."""
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if line.startswith(start))

    def close(self) -> None:
        for process in (self.child, self.process):
            if isinstance(process, subprocess.Popen) or process.is_running():
                process.kill()
        self.process.communicate()


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[StuckRun]:
    stuck = StuckRun(request.param)
    yield stuck
    stuck.close()


@pytest.mark.parametrize("run", [0.0], indirect=True)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_kills_what_still_runs_and_is_exit_code_130(run: StuckRun, second: signal.Signals) -> None:
    run.process.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in run.read_until("Stopping")
    run.process.send_signal(second)
    assert run.process.wait(PATIENCE_S) == 130
    psutil.wait_procs([run.child], PATIENCE_S)
    assert not run.child.is_running() or run.child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("run", [600.0], indirect=True)
def test_a_ctrl_c_that_comes_twice_at_once_is_one(run: StuckRun) -> None:
    run.process.send_signal(signal.SIGINT)
    run.read_until("Stopping")
    run.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(0.5)
    assert run.child.is_running()
