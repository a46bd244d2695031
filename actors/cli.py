"""The command line: `mintage run`, `mint`, `verify`, `show`, `fsck`. Each takes --json; errors end with exit code 1.

It lives here and not in engine, because `run` starts Ray, and engine may not know Ray.
"""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import msgspec
import psutil
import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from actors import log_cli
from actors.audit import audit_app
from actors.checking import fsck
from actors.minting import Minted, Tally, mint_products, progress_bar, write_asset, write_file
from actors.terminal import JsonOption, err, errors_shown, out, plain, print_json, read_file, show_facts
from actors.verifying import entry_facts, verify_text, witnessed_facts
from actors.witness_cli import witness_app
from engine.catalogue import Product
from engine.catalogue import load as load_catalogue
from engine.client import HttpBackend, read_keys, released
from engine.config import CONFIGS, Config
from engine.config import load as load_config
from engine.errors import InvalidRequest
from engine.models.registry import resolve
from engine.tiers import Tier
from ledger.log import VERIFIER_FILE
from ledger.policy import parse_policy

URL_DEFAULT = "http://127.0.0.1:8000"
DEMO_DEADLINE_S = 900.0  # whatever the tier: a slow machine should show assets, not deadlines
INTERRUPTED = 130  # the shell's code for Ctrl-C before there was a result
NAP_S = 1.0  # signal.pause would sleep through a signal that comes just before it
AGAIN_S_MIN = 1.0  # a wrapper may pass on the signal that the terminal gave us already (GNU timeout does)
R = TypeVar("R")

app = typer.Typer(
    name="mintage", help="An engine for generated assets: judged, recorded, verifiable.", no_args_is_help=True,
    pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(audit_app)
app.add_typer(witness_app)
app.command()(fsck)
app.command()(log_cli.export)
app.command()(log_cli.receipt)
app.command("super")(log_cli.super_checkpoint)
UrlOption = Annotated[str, typer.Option("--url", help="Where the engine listens.")]


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="Configuration file; configs/local.yaml by default.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port, instead of the configuration's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data directory, instead of the configuration's.")] = None,
    demo: Annotated[int, typer.Option(help="Mint this many products of the sample catalogue first.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="End after the demo instead of serving on.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the engine on this machine and serve until Ctrl-C."""
    with errors_shown(as_json):
        settings = with_options(load_config(config), port, data)
        products = load_catalogue(CONFIGS / "catalogue.csv")[:demo]
        exit_code = serve(settings, products, once=once, as_json=as_json)
    raise typer.Exit(exit_code)


def serve(config: Config, products: list[Product], *, once: bool, as_json: bool) -> int:
    """Start the engine, mint the products, serve until a signal unless `once`, and stop; the exit code."""
    say = err if as_json else out
    start_s = time.monotonic()
    prepare_model(config)
    # Ray takes seconds to import, and only this command needs it.
    from actors import app as application

    take_signals()
    exit_code = INTERRUPTED
    say.print("Starting Ray, Serve and vLLM ...")
    try:
        url = application.start(config)
        take_signals()  # Ray has put a handler of its own for SIGTERM, which kills without a word
        say.print(f"Serving after {time.monotonic() - start_s:.1f} s.")
        exit_code = show_off(url, products, as_json) if products else 0
        checkpoints = ask(url, HttpBackend.checkpoints)
        if as_json and not products:
            print_json({"url": url, "checkpoints": checkpoints})
        print_addresses(say, url, checkpoints, config)
        if not once:
            say.print("Serving until Ctrl-C.")
            while True:
                time.sleep(NAP_S)
    except KeyboardInterrupt:
        pass
    finally:
        let_abandon(time.monotonic())
        say.print("Stopping ... (Ctrl-C again: kill what still runs)")
        application.stop()
    return exit_code


def take_signals() -> None:
    """SIGTERM ends us as Ctrl-C does; and so does SIGINT where a shell started us in the background, deaf to it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


def let_abandon(stop_s: float) -> None:
    """From now on a signal means that the stop, begun at `stop_s`, takes too long: kill every process that we started,
    and go. What was acknowledged is durable."""

    def abandon(*_: object) -> None:
        if time.monotonic() - stop_s < AGAIN_S_MIN:
            return
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, abandon)
    signal.signal(signal.SIGTERM, abandon)


def with_options(config: Config, port: int | None, data: Path | None) -> Config:
    """The configuration with the command line's options."""
    if port is not None:
        if not 1 <= port <= 65535:
            raise InvalidRequest(f"{port} is no port", where="--port", fix="Use a number from 1 to 65535.")
        config = msgspec.structs.replace(config, http=msgspec.structs.replace(config.http, port=port))
    return msgspec.structs.replace(config, data_dir=str(data)) if data is not None else config


def prepare_model(config: Config) -> None:
    """Convert the reference model if need be, with a bar; a wrong model directory is said before anything starts."""
    bar = Progress(TextColumn("model: {task.description}"), BarColumn(), console=err, transient=True)
    task = bar.add_task("checking", total=1.0)
    with bar:
        resolve(
            config.text.model,
            config.cache_path,
            progress=lambda stage, done: bar.update(task, description=plain(stage), completed=done),
        )


def show_off(url: str, products: list[Product], as_json: bool) -> int:
    """Mint the products with a live table; the exit code."""
    tiers = list(itertools.islice(itertools.cycle(Tier), len(products)))
    tally = asyncio.run(mint_live(url, products, tiers, deadline_s=DEMO_DEADLINE_S))
    summary = tally.summary()
    if as_json:
        print_json(summary)
    else:
        out.print(
            f"{summary['num_released']} released ({summary['num_first_try']} at the first try, "
            f"{summary['num_constrained']} only within the grammar), {summary['num_refused']} refused, "
            f"{summary['num_failed']} failed; {summary['num_receipts_verified']} receipts verified offline."
        )
    return exit_code_of(tally)


def exit_code_of(tally: Tally) -> int:
    """0, or 1 after saying why."""
    for fault in tally.faults:
        err.print(f"[bold red]{plain(fault)}[/]", soft_wrap=True)
    return 1 if tally.faults else 0


async def mint_live(
    url: str, products: list[Product], tiers: list[Tier], *, policy: str = "default", key_prefix: str | None = None,
    folder: Path | None = None, deadline_s: float | None = None,
) -> Tally:  # fmt: skip
    """Mint with a live table; each asset is written to `folder` as soon as it is there."""
    tally = Tally(len(products))
    bar, task = progress_bar(len(products))
    with Live(tally.render(bar), console=err, refresh_per_second=4) as live:
        async for row in mint_products(
            url, products, tiers, policy=policy, key_prefix=key_prefix, deadline_s=deadline_s
        ):
            tally.minted.append(row)
            if folder is not None:
                write_asset(folder, row)
            bar.update(task, completed=len(tally.minted), speed=f"{tally.tokens_per_s:.0f} tokens/s")
            live.update(tally.render(bar))
    err.print()  # the live view ends without a line break
    return tally


def print_addresses(say: Console, url: str, checkpoints: list[str], config: Config) -> None:
    """Where to look."""
    for note in checkpoints:
        origin, size, root = note.splitlines()[:3]
        say.print(f"  checkpoint   {plain(origin)}  {size} entries  root {root}", highlight=False, soft_wrap=True)
    for name, address in (
        ("API", f"{url}/docs"),
        ("health", f"{url}/healthz"),
        ("checkpoints", f"{url}/v1/checkpoint"),
        ("public keys", f"{url}/v1/verifier-keys"),
        ("ledger", f"{config.ledger_path}  (mintage fsck checks it, now or later)"),
    ):
        say.print(f"  {name:<12} {plain(address)}", highlight=False, soft_wrap=True)
    body = '{"brief": {"facts": {"article": "Scarf", "colour": "Teal"}}, "tier": "priority"}'
    say.print(f"  try          curl -s {url}/v1/assets -d '{plain(body)}'", highlight=False, soft_wrap=True)


@app.command()
def mint(
    catalogue: Annotated[Path, typer.Argument(help="CSV of products; see configs/catalogue.csv.")],
    num: Annotated[int, typer.Option(min=1, help="How many products, from the first.")] = 10,
    tier: Annotated[Tier, typer.Option(help="The value tier.")] = Tier.STANDARD,
    folder: Annotated[Path, typer.Option("--out", help="Where texts and receipts go.")] = Path("out"),
    policy: Annotated[str, typer.Option(help="The brand policy.")] = "default",
    key: Annotated[str | None, typer.Option(help="With one, a repeat gives the same assets again.")] = None,
    url: UrlOption = URL_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Mint one text per product of a catalogue, with receipts."""
    with errors_shown(as_json):
        products = load_catalogue(catalogue)[:num]
        make_folder(folder)
        keys = ask(url, HttpBackend.verifier_keys)
        write_keys(folder / VERIFIER_FILE, keys)
        tally = asyncio.run(
            mint_live(url, products, [tier] * len(products), policy=policy, key_prefix=key, folder=folder)
        )
    if as_json:
        print_json(tally.summary())
    else:
        report(tally.minted, folder)
    raise typer.Exit(exit_code_of(tally))


def ask(url: str, question: Callable[[HttpBackend], Awaitable[R]]) -> R:
    """One question to a running engine."""

    async def asked() -> R:
        backend = HttpBackend(url)
        try:
            return await question(backend)
        finally:
            await backend.close()

    return asyncio.run(asked())


def make_folder(folder: Path) -> None:
    """The output folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"cannot make the folder: {error.strerror}", where=str(folder), fix="Choose another with --out."
        ) from error


def write_keys(path: Path, keys: list[str]) -> None:
    """The keys that the folder's receipts are checked with: one engine's only."""
    if path.exists() and read_keys(path) != keys:
        raise InvalidRequest(
            "the folder has receipts of another engine, which would no longer verify",
            where=str(path),
            fix="Choose another folder with --out.",
        )
    write_file(path, "".join(f"{line}\n" for line in keys).encode())


def report(rows: list[Minted], folder: Path) -> None:
    """What was not released, and where the rest is."""
    for row in rows:
        if row.error is not None:
            out.print(f"{plain(row.sku)}: {plain(row.error.what)}", soft_wrap=True)
    num_released = sum(row.asset is not None for row in rows)
    out.print(
        f"{num_released} of {len(rows)} released into {plain(str(folder))}; check one with: mintage verify RECEIPT"
    )


@app.command()
def verify(
    receipt: Annotated[Path, typer.Argument(help="A receipt file, as `mintage mint` or /receipt gave it.")],
    key: Annotated[Path | None, typer.Option(help="File of verifier keys; by default the one beside it.")] = None,
    content: Annotated[Path | None, typer.Option(help="The content; by default the .txt beside it.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file (C2SP tlog-policy): which witnesses, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a receipt offline: the entry, its place in the tree, the signature, and the content's hash.

    With a policy also that enough witnesses have cosigned. A chain (a receipt, and that of its checkpoint in the
    super-log) is checked against the super-log's key.
    """
    with errors_shown(as_json):
        believed = parse_policy(read_file(policy, "the policy")) if policy is not None else None
        key = key or receipt.parent / VERIFIER_FILE
        beside = receipt.with_suffix(".txt")
        content = content or (beside if beside != receipt and beside.exists() else None)
        data = read_file(content, "the content") if content is not None else None
        text = read_file(receipt, "the receipt").decode("utf-8", errors="replace")
        keys = []
        if believed is None or not believed.log_keys:
            read_file(key, "the verifier keys")
            keys = read_keys(key)
        verified, witnessed = verify_text(text, keys, believed, data)
    facts = {
        "verified": True,
        "origin": verified.origin,
        "index": verified.index,
        "tree_size": verified.tree_size,
        "content_checked": data is not None,
    }
    show_facts(facts | entry_facts(verified.entry) | witnessed_facts(verified, witnessed), as_json)


@app.command()
def show(
    asset_id: Annotated[str, typer.Argument(help="The id that a request returned.")],
    url: UrlOption = URL_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Show an asset, or how its request stands."""
    with errors_shown(as_json):
        status = ask(url, lambda backend: backend.status(asset_id))
        if as_json:
            print_json(status)
            return
        if status.state == "pending":
            show_facts({"asset_id": asset_id, "state": status.state}, as_json)
            return
        asset = released(status)
    show_facts(msgspec.structs.asdict(asset) | {"reasons": "", "receipt": f"mintage verify, or {url}/v1/assets/{asset_id}/receipt"}, as_json)  # fmt: skip # noqa: E501
    for reason in asset.reasons:
        out.print(f"  rejected try {reason.attempt}: {reason.check}: {plain(reason.detail)}", soft_wrap=True)


def main() -> NoReturn:
    """The console script."""
    app()
    raise AssertionError("typer ends the process")


if __name__ == "__main__":
    main()
