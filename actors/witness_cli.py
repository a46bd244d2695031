"""`mintage witness init`, `serve`, `cosign`: be a witness of somebody's log, or have one's own log witnessed."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer
import uvicorn

from actors.answers import ErrorAnswer
from actors.log_cli import check_signature
from actors.terminal import JsonOption, err, errors_shown, out, plain, print_json, read_file, writing
from actors.witness_api import ADD_CHECKPOINT, build_witness_api
from engine.errors import InvalidRequest, StartFailed, Unavailable
from ledger.cosign import Ask
from ledger.cosign import cosign as cosign_with
from ledger.errors import CheckpointRefused, LedgerError, SizeConflict
from ledger.files import make_directory
from ledger.log import VERIFIER_FILE, shard_paths
from ledger.note import (
    Policy,
    VerifierKey,
    open_checkpoint_with_policy,
    parse_decimal,
    parse_verifier_key,
)
from ledger.policy import WitnessLine, parse_policy
from ledger.replace import replace_file
from ledger.stored import StoredLog
from ledger.witness_dir import make_witness, open_witness

PORT_DEFAULT = 8100
TIMEOUT_S = 10.0
ANSWER_CHARS_MAX = 64 * 1024
REFUSALS = frozenset({400, 403, 404, 409, 422})  # those of tlog-witness; whatever else comes may pass

witness_app = typer.Typer(name="witness", help="Cosign logs, or have a log cosigned.", no_args_is_help=True)
DirArgument = Annotated[Path, typer.Argument(help="The witness's directory.")]


class Cosigned(msgspec.Struct, frozen=True):
    """What became of one shard: which witnesses have cosigned, and why others have not, or why nothing was written."""

    origin: str
    tree_size: int
    file: str
    cosigned_by: list[str]
    problems: list[str]
    is_enough: bool
    ok: bool


@witness_app.command()
def init(
    directory: DirArgument,
    name: Annotated[str, typer.Option(help="The witness's name, say witness.example/w1.")],
    logs: Annotated[Path, typer.Option(help="Verifier keys of the logs to watch, one a line.")],
    as_json: JsonOption = False,
) -> None:
    """Make a witness: its key and its empty memory."""
    with errors_shown(as_json):
        log_keys = read_keys(logs)
        with writing(directory):
            key = make_witness(directory, name, log_keys, os.urandom)
    if as_json:
        print_json({"witness_key": str(key)})
    else:
        out.print(plain(str(key)), soft_wrap=True, highlight=False)


@witness_app.command()
def serve(
    directory: DirArgument,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = PORT_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Answer POST /add-checkpoint (C2SP tlog-witness) until Ctrl-C."""
    with errors_shown(as_json):
        witness, key = open_witness(directory)
        listener = listen(host, port)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if as_json:
        print_json({"url": url, "witness_key": str(key)})
    else:
        out.print(f"{plain(str(key))} listens at {url}{ADD_CHECKPOINT}", soft_wrap=True, highlight=False)
    api = build_witness_api(witness, lambda: int(time.time()))
    with suppress(KeyboardInterrupt):  # uvicorn has stopped by then
        uvicorn.Server(uvicorn.Config(api, log_level="warning")).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket whose callers wait until they are served.

    Raises:
        StartFailed: the address cannot be taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise StartFailed(
            f"port {port} cannot be taken: {error.strerror}",
            where=f"{host}:{port}",
            fix="Stop what listens there, or choose another --port or --host.",
        ) from error


@witness_app.command()
def cosign(
    ledger: Annotated[Path, typer.Argument(help="A ledger directory; its super-log is one, too.")],
    policy: Annotated[Path, typer.Option(help="Policy file (C2SP tlog-policy) with the witnesses' URLs.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the cosigned checkpoints go.")] = Path("cosigned"),
    as_json: JsonOption = False,
) -> None:
    """Have every shard's newest checkpoint cosigned by a policy's witnesses.

    The ledger may be in use. A shard's file is written only if the policy is satisfied; exit code 1 if one is not.
    """
    with errors_shown(as_json), httpx.Client(timeout=TIMEOUT_S) as http:
        parsed = parse_policy(read_file(policy, "the policy"))
        with writing(folder):
            make_directory(folder)
        keys = read_keys(ledger / VERIFIER_FILE)
        shards = shard_paths(ledger)
        if not shards or not parsed.witnesses:
            raise InvalidRequest(
                "no shard is there, or no witness is in the quorum", where=str(ledger), fix="Name others (see --help)."
            )
        done = [cosign_shard(path, keys, parsed.witnesses, parsed.threshold, folder, http) for path in shards]
    if as_json:
        print_json({"shards": done})
    else:
        report(done)
    raise typer.Exit(0 if all(shard.ok for shard in done) else 1)


def cosign_shard(
    path: Path,
    keys: list[VerifierKey],
    witnesses: tuple[WitnessLine, ...],
    threshold: int,
    folder: Path,
    http: httpx.Client,
) -> Cosigned:
    """Ask all witnesses about one shard, and write its checkpoint if enough have cosigned."""
    problems, cosigned_by = [], []
    with StoredLog(path) as log:
        own = [key for key in keys if key.name == log.claim().origin]
        check_signature(log, keys)
        note = log.checkpoint()
        for witness in witnesses:
            try:
                added = cosign_with(log, log.checkpoint(), witness.key, asker(http, witness))
            except (LedgerError, Unavailable) as error:
                problems.append(f"{witness.name}: {error}")
            else:
                note += added.removeprefix(log.checkpoint())
                cosigned_by.append(witness.name)
    file = folder / f"{path.name}.checkpoint"
    is_enough = is_written = len(cosigned_by) >= threshold
    if is_enough:
        open_checkpoint_with_policy(note, Policy(tuple(own), tuple(each.key for each in witnesses), threshold))
        try:
            with writing(file):
                replace_file(file, note.encode())
        except (InvalidRequest, LedgerError) as error:  # the other shards are cosigned all the same
            problems.append(str(error))
            is_written = False
    claim = log.claim()
    written = str(file) if is_written else ""
    return Cosigned(claim.origin, claim.tree_size, written, cosigned_by, problems, is_enough, is_written)


def asker(http: httpx.Client, witness: WitnessLine) -> Ask:
    """How to ask a witness over HTTP.

    Raises, when asked:
        SizeConflict, CheckpointRefused: its refusals. Unavailable: it gives no answer, or one that nobody understands.
    """

    def ask(request: str) -> str:
        if not witness.url:
            raise Unavailable(
                "the policy has no URL of it",
                where=witness.name,
                fix="Add the URL to the witness's line of the policy.",
            )
        url = witness.url.rstrip("/") + ADD_CHECKPOINT
        try:
            response = http.post(url, content=request.encode())
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"no answer: {type(error).__name__}: {error}", where=url, fix="Check that the witness runs there."
            ) from error
        text = response.text[:ANSWER_CHARS_MAX]
        if response.status_code == httpx.codes.OK:
            return text
        if response.headers.get("Content-Type", "").partition(";")[0] == "text/x.tlog.size":
            raise size_conflict(text, url)
        raise refusal(response.status_code, text, url)

    return ask


def size_conflict(text: str, url: str) -> SizeConflict:
    """The refusal that says how far the witness has got.

    Raises:
        ReceiptInvalid: it says no number.
    """
    size = parse_decimal(text.removesuffix("\n"))
    return SizeConflict(f"it has cosigned {size} entries", where=url, fix="Prove growth from there.", size=size)


def refusal(status_code: int, text: str, url: str) -> LedgerError | Unavailable:
    """Any other answer: what a witness of ours says, or the status alone."""
    try:
        said = msgspec.json.decode(text, type=ErrorAnswer).error.what
    except msgspec.MsgspecError:
        said = "no reason given"
    if status_code in REFUSALS:
        return CheckpointRefused(f"HTTP {status_code}: {said}", where=url, fix="Ask who runs the witness.")
    return Unavailable(f"HTTP {status_code}: {said}", where=url, fix="Try again later.")


def report(done: list[Cosigned]) -> None:
    """One line a shard, and the reasons why a witness has not cosigned."""
    for shard in done:
        fault = "not written" if shard.is_enough else "not enough witnesses"
        verdict = f"[green]{plain(shard.file)}[/]" if shard.ok else f"[bold red]{fault}[/]"
        names = plain(", ".join(shard.cosigned_by) or "nobody")
        out.print(
            f"{plain(shard.origin)}  {shard.tree_size} entries, cosigned by {names}: {verdict}",
            highlight=False,
            soft_wrap=True,
        )
        for problem in shard.problems:
            err.print(f"  {plain(problem)}", highlight=False, soft_wrap=True)


def read_keys(path: Path) -> list[VerifierKey]:
    """The verifier keys in a file, one a line."""
    lines = read_file(path, "the verifier keys").decode("utf-8", errors="replace").splitlines()
    return [parse_verifier_key(line) for line in lines if line]
