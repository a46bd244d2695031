"""A witness as people run it: made once, asked over HTTP, never fooled into cosigning two histories."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import typer
import uvicorn
from memory_log import SIGNER, MemoryLog, some_entries
from typer.testing import CliRunner, Result

from actors import log_cli
from actors.verifying import verify_text, witnessed_facts
from actors.witness_api import BODY_BYTES_MAX, build_witness_api
from actors.witness_cli import witness_app
from engine.errors import ErrorBody
from ledger.cosign import cosign
from ledger.entry import Kind, zeros
from ledger.errors import KeyInvalid, LedgerFull, NotConsistent, ReceiptInvalid, SizeConflict
from ledger.files import hold_lock
from ledger.log import LogKeys, open_keys, shard_path
from ledger.merkle import consistency_proof
from ledger.note import Policy, Signer, add_cosignatures, open_checkpoint_with_policy, parse_witness_key
from ledger.policy import parse_policy
from ledger.shard import Shard
from ledger.stored import StoredLog
from ledger.tile_client import VerifiedTiles, fetch_from
from ledger.witness import Witness, build_request
from ledger.witness_dir import open_witness

ROOT = Path(__file__).parents[2]
START_S_MAX = 30.0
NOW_S = 1_700_000_000
WITNESS = Signer("witness.example/w1", b"w" * 32)
LOG = MemoryLog(some_entries(40))
FORKED = MemoryLog(some_entries(8) + some_entries(32, first=100))
"""The same log up to 8 entries, then another one, signed with the same key."""

app = typer.Typer()
app.add_typer(witness_app)
app.command()(log_cli.export)
app.command()(log_cli.receipt)
app.command("super")(log_cli.super_checkpoint)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answered(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    decoded: dict[str, object] = msgspec.json.decode(result.stdout)
    return decoded


def refused(result: Result) -> ErrorBody:
    assert result.exit_code == 1, result.output
    return msgspec.convert(msgspec.json.decode(result.stdout)["error"], ErrorBody)


# ---- the endpoint


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    (tmp_path / "memory").mkdir()
    return Witness(tmp_path / "memory", WITNESS, [SIGNER.key], lock_wait_s=0.1)


@pytest.fixture
async def http(witness: Witness) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_witness_api(witness, lambda: NOW_S), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://witness.test") as client:
        yield client


def request(old: int, new: int, log: MemoryLog = LOG) -> str:
    return build_request(old, consistency_proof(old, new, log.read_node) if 0 < old < new else [], log.note(new))


def error_of(response: httpx.Response) -> ErrorBody:
    return msgspec.convert(response.json()["error"], ErrorBody, strict=True)


async def test_a_growing_log_is_cosigned(http: httpx.AsyncClient) -> None:
    for old, new in [(0, 8), (8, 8), (8, 13), (13, 40)]:
        response = await http.post("/add-checkpoint", content=request(old, new))
        assert response.status_code == 200
        note = add_cosignatures(LOG.note(new), response.text, [WITNESS.witness_key])
        witnessed = open_checkpoint_with_policy(note, Policy((SIGNER.key,), (WITNESS.witness_key,), 1))
        assert [each.time_s for each in witnessed.cosignatures] == [NOW_S]


REFUSALS: list[tuple[str, Callable[[], str | bytes], int, str]] = [
    ("no request", lambda: "hello", 400, "checkpoint_refused"),
    ("an old size above the new one", lambda: request(20, 13), 400, "checkpoint_refused"),
    ("not UTF-8", lambda: b"\xff", 400, "invalid_request"),
    ("too much", lambda: b"x" * (BODY_BYTES_MAX + 1), 400, "invalid_request"),
    (
        "another key",
        lambda: request(13, 20, MemoryLog(LOG.entries, Signer(SIGNER.name, b"x" * 32))),
        403,
        "unknown_signer",
    ),
    ("another log", lambda: request(13, 20, MemoryLog(LOG.entries, WITNESS)), 404, "unknown_origin"),
    ("one size, two trees", lambda: request(13, 13, FORKED), 409, "split_view"),
    ("a fork", lambda: request(13, 20, FORKED), 422, "not_consistent"),
    ("no proof", lambda: build_request(13, [], LOG.note(20)), 422, "not_consistent"),
]


@pytest.mark.parametrize(("make", "status", "code"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
async def test_a_refusal_has_the_status_of_the_specification(
    http: httpx.AsyncClient, witness: Witness, make: Callable[[], str | bytes], status: int, code: str
) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    response = await http.post("/add-checkpoint", content=make())
    assert (response.status_code, error_of(response).code) == (status, code)
    assert witness.latest(SIGNER.name).tree_size == 13


@pytest.mark.parametrize("old", [0, 8, 14])
async def test_a_log_that_believes_another_size_is_told_ours(
    http: httpx.AsyncClient, witness: Witness, old: int
) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    response = await http.post("/add-checkpoint", content=request(old, 20))
    assert (response.status_code, response.text) == (409, "13\n")
    assert response.headers["content-type"].partition(";")[0] == "text/x.tlog.size"


async def test_other_paths_and_methods_are_refused_in_the_one_form(http: httpx.AsyncClient) -> None:
    assert error_of(await http.post("/")).code == "not_found"
    response = await http.get("/add-checkpoint")
    assert (response.status_code, error_of(response).code) == (405, "invalid_request")


async def test_while_another_process_holds_the_log_the_witness_asks_to_come_back(
    http: httpx.AsyncClient, witness: Witness, tmp_path: Path
) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    lock = hold_lock(next((tmp_path / "memory").glob("*.lock")), 0)
    response = await http.post("/add-checkpoint", content=request(13, 20))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    os.close(lock)
    assert (await http.post("/add-checkpoint", content=request(13, 20))).status_code == 200


async def test_what_could_not_be_stored_is_not_answered(
    http: httpx.AsyncClient, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise LedgerFull("no room", where=str(path), fix="Make room.")

    with monkeypatch.context() as no_room:
        no_room.setattr("ledger.witness.replace_file", full)
        response = await http.post("/add-checkpoint", content=request(0, 13))
        assert (response.status_code, error_of(response).code) == (503, "ledger_full")
    assert witness.latest(SIGNER.name).tree_size == 0


async def test_of_two_histories_asked_for_at_once_one_is_cosigned(http: httpx.AsyncClient, witness: Witness) -> None:
    witness.add_checkpoint(request(0, 8), NOW_S)
    asked = [http.post("/add-checkpoint", content=request(8, 13, log)) for log in [LOG, FORKED] * 8]
    answers = await asyncio.gather(*asked)
    cosigned = {place % 2 for place, answer in enumerate(answers) if answer.status_code == 200}
    assert len(cosigned) == 1
    winner = [LOG, FORKED][cosigned.pop()]
    assert witness.latest(SIGNER.name).root == winner.root(13)
    assert {answer.status_code for answer in answers} <= {200, 409, 503}


# ---- the log's side


class Proving(MemoryLog):
    """A log that counts how often it had to prove something."""

    num_proofs = 0

    def consistency(self, old: int) -> list[bytes]:
        self.num_proofs += 1
        return consistency_proof(old, self.num_entries, self.read_node) if old else []


def test_a_log_need_not_know_how_far_the_witness_is(witness: Witness) -> None:
    witness.add_checkpoint(request(0, 8), NOW_S)
    log = Proving(LOG.entries)
    note = cosign(log, log.note(40), WITNESS.witness_key, lambda text: witness.add_checkpoint(text, NOW_S))
    assert open_checkpoint_with_policy(note, Policy((SIGNER.key,), (WITNESS.witness_key,), 1))
    assert log.num_proofs == 2
    again = cosign(log, log.note(40), WITNESS.witness_key, lambda text: witness.add_checkpoint(text, NOW_S))
    assert again == note


def test_a_log_that_lost_entries_is_told_that_the_witness_saw_more(witness: Witness) -> None:
    witness.add_checkpoint(request(0, 40), NOW_S)
    log = Proving(some_entries(20))
    with pytest.raises(NotConsistent, match="has seen 40 entries, and here are 20"):
        cosign(log, log.note(20), WITNESS.witness_key, lambda text: witness.add_checkpoint(text, NOW_S))


def test_a_witness_that_always_names_another_size_is_given_up() -> None:
    sizes = iter([3, 5, 8, 13])

    def ask(text: str) -> str:
        raise SizeConflict("moved on", where="old size", fix="Try again.", size=next(sizes))

    with pytest.raises(SizeConflict):
        cosign(Proving(LOG.entries), LOG.note(40), WITNESS.witness_key, ask)
    assert next(sizes) == 13, "three tries"


def test_an_answer_that_is_no_cosignature_is_not_added(witness: Witness) -> None:
    stranger = Signer("witness.example/w2", b"2" * 32)
    for line in ("", "thanks\n", stranger.cosign(LOG.note(40).split("\n\n")[0] + "\n", NOW_S)):
        with pytest.raises(ReceiptInvalid):
            cosign(Proving(LOG.entries), LOG.note(40), WITNESS.witness_key, lambda _, line=line: line)  # type: ignore[misc]


# ---- the commands

NUM_ENTRIES = 20


@pytest.fixture
def ledger(tmp_path: Path) -> LogKeys:
    """A ledger of two shards in `ledger`, closed."""
    keys = open_keys(tmp_path / "ledger", "example.org/log", 2)
    for number in range(2):
        grow(tmp_path, keys, number, NUM_ENTRIES)
    return keys


def grow(folder: Path, keys: LogKeys, number: int, num_entries: int, history: str = "ledger") -> None:
    """Append entries to a shard of the ledger, or of another one with its keys."""
    path = shard_path(folder / history, number)
    with Shard.open(path, number, keys.signers[number], lambda: NOW_S * 10**9, entropy=os.urandom) as shard:
        entries = zeros(num_entries)
        entries["kind"], first = Kind.MODEL, shard.tree_size + (1000 if history != "ledger" else 0)
        entries["id"] = np.array([(first + place).to_bytes(16, "big") for place in range(1, num_entries + 1)], "V16")
        shard.append(entries)


@pytest.fixture
def serve_witness() -> Iterator[Callable[[Path], str]]:
    """Serve a witness's directory as `mintage witness serve` does, in a thread; the URL."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(directory: Path) -> str:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        api = build_witness_api(open_witness(directory)[0], lambda: NOW_S)
        server = uvicorn.Server(uvicorn.Config(api, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        servers.append((server, thread))
        until_s = time.monotonic() + START_S_MAX
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until_s, "the witness does not start"
            time.sleep(0.005)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)


def make_witnesses(folder: Path, num_witnesses: int) -> list[str]:
    """`mintage witness init` for several; their public keys."""
    logs = folder / "ledger/verifier.keys"
    made = [
        run("witness", "init", folder / f"w{n}", "--name", f"w{n}.example", "--logs", logs, "--json")
        for n in range(num_witnesses)
    ]
    return [str(answered(result)["witness_key"]) for result in made]


def write_policy(folder: Path, keys: list[str], urls: list[str], threshold: int) -> Path:
    lines = [f"witness w{place} {key} {url}" for place, (key, url) in enumerate(zip(keys, urls, strict=True))]
    names = " ".join(f"w{place}" for place in range(len(keys)))
    file = folder / "policy"
    file.write_text("\n".join([*lines, f"group all-of-them {threshold} {names}", "quorum all-of-them", ""]))
    return file


def test_a_witness_is_made_once(tmp_path: Path, ledger: LogKeys) -> None:
    (key,) = make_witnesses(tmp_path, 1)
    assert parse_witness_key(key).name == "w0.example"
    secret = tmp_path / "w0/key"
    before = secret.read_bytes()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (tmp_path / "w0/witness.key").read_text() == f"{key}\n"
    again = run(
        "witness", "init", tmp_path / "w0", "--name", "other", "--logs", tmp_path / "ledger/verifier.keys", "--json"
    )
    assert refused(again).what == "there is a witness already"
    assert secret.read_bytes() == before


def test_what_is_no_witness_is_not_served(tmp_path: Path, ledger: LogKeys) -> None:
    assert refused(run("witness", "serve", tmp_path / "nothing", "--json")).code == "log_mismatch"
    make_witnesses(tmp_path, 1)
    (tmp_path / "w0/memory").rmdir()
    assert "no such directory" in refused(run("witness", "serve", tmp_path / "w0", "--json")).what
    (tmp_path / "w0/key").chmod(0o644)
    assert refused(run("witness", "serve", tmp_path / "w0", "--json")).code == "key_invalid"


def test_a_ledger_is_cosigned_by_enough_witnesses_and_a_receipt_shows_it(
    tmp_path: Path, ledger: LogKeys, serve_witness: Callable[[Path], str]
) -> None:
    keys = make_witnesses(tmp_path, 3)
    urls = [serve_witness(tmp_path / "w0"), serve_witness(tmp_path / "w1"), "http://127.0.0.1:1"]  # one does not run
    policy = write_policy(tmp_path, keys, urls, 2)
    for _ in range(2):
        result = run("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", tmp_path / "out", "--json")
        shards = answered(result)["shards"]
        assert isinstance(shards, list)
        assert [(shard["tree_size"], shard["cosigned_by"]) for shard in shards] == [(NUM_ENTRIES, ["w0", "w1"])] * 2
        assert all("no answer" in shard["problems"][0] for shard in shards)
    under = tmp_path / "out/shard-001.checkpoint"
    text = str(answered(run("receipt", tmp_path / "ledger", "1/7", "--under", under, "--json"))["receipt"])
    believed = parse_policy(policy.read_bytes())
    verified, witnessed = verify_text(text, ledger.verifier_keys, believed, None)
    assert (verified.origin, verified.index) == ("example.org/log/shard-1", 7)
    assert witnessed_facts(verified, witnessed) == {"cosigned_by": [f"w0.example at {NOW_S}", f"w1.example at {NOW_S}"]}
    plain = run("receipt", tmp_path / "ledger", "1/7")
    assert verify_text(plain.stdout, ledger.verifier_keys, None, None)[0].index == 7
    with pytest.raises(ReceiptInvalid, match="0 of the 2 witnesses"):
        verify_text(plain.stdout, ledger.verifier_keys, believed, None)


def test_without_enough_witnesses_nothing_is_written_and_the_exit_code_says_so(
    tmp_path: Path, ledger: LogKeys, serve_witness: Callable[[Path], str]
) -> None:
    keys = make_witnesses(tmp_path, 2)
    policy = write_policy(tmp_path, keys, [serve_witness(tmp_path / "w0"), ""], 2)
    result = run("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "not enough witnesses" in result.stdout
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_other_shards_are_cosigned(
    tmp_path: Path, ledger: LogKeys, serve_witness: Callable[[Path], str]
) -> None:
    keys = make_witnesses(tmp_path, 1)
    policy = write_policy(tmp_path, keys, [serve_witness(tmp_path / "w0")], 1)
    taken = tmp_path / "out/shard-000.checkpoint"
    taken.mkdir(parents=True)
    result = run("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1, result.output
    first, second = msgspec.json.decode(result.stdout)["shards"]
    assert (first["ok"], first["is_enough"], first["file"], second["ok"]) == (False, True, "", True)
    assert f"at {taken}: cannot write there: Is a directory" in first["problems"][0]
    shown = run("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", tmp_path / "out")
    assert "cosigned by w0: not written" in shown.stdout


@pytest.mark.parametrize("below", ["", "sub"])
def test_a_file_in_the_place_of_a_folder_is_one_error_that_names_it(
    tmp_path: Path, ledger: LogKeys, below: str
) -> None:
    (tmp_path / "file").write_text("")
    keys = make_witnesses(tmp_path, 1)
    policy = write_policy(tmp_path, keys, ["http://127.0.0.1:1"], 1)
    folder, logs = tmp_path / "file" / below, tmp_path / "ledger/verifier.keys"
    for command in (
        ("export", tmp_path / "ledger", folder),
        ("witness", "init", folder, "--name", "w.example", "--logs", logs),
        ("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", folder),
    ):
        error = refused(run(*command, "--json"))
        assert error.code == "invalid_request"
        assert error.where.startswith(str(folder))
        assert error.what.startswith("cannot write there: ")


def test_a_port_that_is_taken_is_one_error_and_no_url(tmp_path: Path, ledger: LogKeys) -> None:
    make_witnesses(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refused(run("witness", "serve", tmp_path / "w0", "--port", port, "--json"))
    assert (error.code, error.where) == ("start_failed", f"127.0.0.1:{port}")
    assert "Address already in use" in error.what


def test_the_address_that_a_witness_says_answers_at_once_until_ctrl_c(tmp_path: Path, ledger: LogKeys) -> None:
    make_witnesses(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = "from actors.witness_cli import witness_app; witness_app()"
    command = [sys.executable, "-c", program, "serve", str(tmp_path / "w0"), "--port", str(port), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            url = msgspec.json.decode(process.stdout.readline())["url"]
            with StoredLog(shard_path(tmp_path / "ledger", 0)) as log:
                request = build_request(0, [], log.checkpoint())
            assert httpx.post(f"{url}/add-checkpoint", content=request).status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(START_S_MAX) == 0
        finally:
            process.kill()


def test_a_chain_under_a_checkpoint_of_ones_own_is_refused(tmp_path: Path, ledger: LogKeys) -> None:
    answered(run("super", tmp_path / "ledger", "--json"))
    under = tmp_path / "checkpoint"
    with StoredLog(shard_path(tmp_path / "ledger", 1)) as log:
        under.write_text(log.checkpoint())
    error = refused(run("receipt", tmp_path / "ledger", "0/2", "--chain", "--under", under, "--json"))
    assert (error.code, error.where) == ("invalid_request", "--chain, --under")


def test_a_ledger_that_is_shown_in_two_versions_is_refused_by_the_witness(
    tmp_path: Path, ledger: LogKeys, serve_witness: Callable[[Path], str]
) -> None:
    """The operator keeps two histories under one key; the second finds no witness that saw the first."""
    keys = make_witnesses(tmp_path, 1)
    policy = write_policy(tmp_path, keys, [serve_witness(tmp_path / "w0")], 1)
    answered(run("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", tmp_path / "out", "--json"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/verifier.keys").write_bytes((tmp_path / "ledger/verifier.keys").read_bytes())
    for num_entries, code in [(NUM_ENTRIES, "split_view"), (5, "not_consistent")]:
        for number in range(2):
            grow(tmp_path, ledger, number, num_entries, history="other")
        result = run("witness", "cosign", tmp_path / "other", "--policy", policy, "--out", tmp_path / "bad", "--json")
        assert result.exit_code == 1
        shards = msgspec.json.decode(result.stdout)["shards"]
        status = {"split_view": "HTTP 409", "not_consistent": "HTTP 422"}[code]
        assert all(status in shard["problems"][0] for shard in shards)
    assert list((tmp_path / "bad").iterdir()) == []
    for number in range(2):
        grow(tmp_path, ledger, number, 7)
    answered(run("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", tmp_path / "out", "--json"))


def test_a_ledger_is_exported_as_static_files_and_brought_up_to_date(tmp_path: Path, ledger: LogKeys) -> None:
    for num_entries in (NUM_ENTRIES, NUM_ENTRIES + 300):
        shards = answered(run("export", tmp_path / "ledger", tmp_path / "static", "--json"))["shards"]
        assert isinstance(shards, list)
        assert shards[0]["tree_size"] == num_entries
        tiles = VerifiedTiles(fetch_from(tmp_path / "static/shard-000"), Policy((ledger.signers[0].key,)))
        assert (tiles.tree_size, len(tiles.read_entries(0, num_entries))) == (num_entries, num_entries * 240)
        grow(tmp_path, ledger, 0, 300)
    assert (tmp_path / "static/verifier.keys").read_text().splitlines() == list(ledger.verifier_keys)


def test_one_key_checks_entries_of_all_shards_through_the_super_checkpoint(tmp_path: Path, ledger: LogKeys) -> None:
    first = answered(run("super", tmp_path / "ledger", "--json"))
    assert first["sizes"] == ["0: 20", "1: 20"]
    assert answered(run("super", tmp_path / "ledger", "--json")) == first, "nothing has grown"
    grow(tmp_path, ledger, 1, 5)
    assert answered(run("super", tmp_path / "ledger", "--json"))["sizes"] == ["0: 20", "1: 25"]
    super_keys = (tmp_path / "ledger/super/verifier.keys").read_text().splitlines()
    assert len(super_keys) == 1
    for place in ("0/0", "1/24"):
        text = str(answered(run("receipt", tmp_path / "ledger", place, "--chain", "--json"))["receipt"])
        verified, witnessed = verify_text(text, super_keys, None, None)
        assert f"{verified.entry.shard}/{verified.index}" == place
        facts = witnessed_facts(verified, witnessed)
        assert (facts["super_origin"], facts["super_size"]) == ("example.org/log/super/shard-0", 4)
        with pytest.raises(KeyInvalid, match=r"this is a chain, .* 'example\.org/log/super/shard-0'") as caught:
            verify_text(text, ledger.verifier_keys, None, None)
        assert "--key LEDGER/super/verifier.keys" in caught.value.fix
        stranger = str(Signer("example.org/log/super/shard-0", b"x" * 32).key)
        with pytest.raises(ReceiptInvalid):
            verify_text(text, [stranger], None, None)
    assert answered(run("export", tmp_path / "ledger/super", tmp_path / "static", "--json")), (
        "it is a log like any other"
    )


def test_beside_an_engine_that_makes_super_checkpoints_itself_super_says_where_they_are(
    tmp_path: Path, ledger: LogKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Shard.open.__func__.__kwdefaults__, "lock_wait_s", 0)  # type: ignore[attr-defined]
    with log_cli.open_super(tmp_path / "ledger"):
        error = refused(run("super", tmp_path / "ledger", "--json"))
    assert (error.code, "/log/super/checkpoint" in error.fix) == ("ledger_locked", True)
    assert answered(run("super", tmp_path / "ledger", "--json"))["sizes"] == ["0: 20", "1: 20"]


def test_a_shard_that_was_set_back_gets_no_super_checkpoint(tmp_path: Path, ledger: LogKeys) -> None:
    shutil.copytree(shard_path(tmp_path / "ledger", 1), tmp_path / "backup")
    grow(tmp_path, ledger, 1, 5)
    before = answered(run("super", tmp_path / "ledger", "--json"))
    shutil.rmtree(shard_path(tmp_path / "ledger", 1))
    shutil.copytree(tmp_path / "backup", shard_path(tmp_path / "ledger", 1))
    error = refused(run("super", tmp_path / "ledger", "--json"))
    assert (error.code, "went back from 25 to 20" in error.what) == ("not_consistent", True)
    grow(tmp_path, ledger, 1, 5)
    grow(tmp_path, ledger, 1, 5)
    assert answered(run("super", tmp_path / "ledger", "--json")) != before, (
        "the same entries again are the same history"
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["receipt", "ledger", "7"], "invalid_request"),
        (["receipt", "ledger", "0/07"], "invalid_request"),
        (["receipt", "ledger", "0/20"], "not_found"),
        (["receipt", "ledger", "0/1", "--under", "nothing"], "invalid_request"),
        (["receipt", "ledger", "0/1", "--chain"], "not_found"),
        (["export", "nothing", "static"], "invalid_request"),
        (["super", "nothing"], "invalid_request"),
        (["witness", "cosign", "ledger", "--policy", "nothing"], "invalid_request"),
        (["witness", "cosign", "ledger", "--policy", "ledger/verifier.keys"], "key_invalid"),
    ],
)
def test_bad_input_is_said_in_the_one_form(
    tmp_path: Path, ledger: LogKeys, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(run(*arguments, "--json")).code == code


def test_a_shard_that_its_key_has_not_signed_is_neither_exported_nor_cosigned(tmp_path: Path, ledger: LogKeys) -> None:
    strangers = open_keys(tmp_path / "stranger", "example.org/log", 2)
    keys = tmp_path / "ledger/verifier.keys"
    keys.unlink()
    keys.write_text("".join(f"{key}\n" for key in strangers.verifier_keys))
    assert refused(run("export", tmp_path / "ledger", tmp_path / "static", "--json")).code == "receipt_invalid"
    assert not (tmp_path / "static").exists()
    policy = write_policy(tmp_path, [str(WITNESS.witness_key)], ["http://127.0.0.1:1"], 1)
    result = run("witness", "cosign", tmp_path / "ledger", "--policy", policy, "--out", tmp_path / "out", "--json")
    assert refused(result).code == "receipt_invalid"
