"""What all commands share: errors as four fields, JSON on one line, and files that the user named."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from engine.errors import InvalidRequest, MintageError, describe
from gate.errors import PolicyError
from ledger.errors import LedgerError

out = Console()
err = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and all else to stderr.")]


@contextmanager
def errors_shown(as_json: bool, exit_code: int = 1) -> Iterator[None]:
    """Our errors as four fields and an exit code; anything else is a defect and keeps its traceback."""
    try:
        yield
    except (MintageError, LedgerError, PolicyError) as error:
        body = describe(error)
        if as_json:
            print_json({"error": body})
        else:
            err.print(f"[bold red]{body.code}[/]  {plain(body.what)}")
            err.print(f"  where  {plain(body.where)}\n  fix    {plain(body.fix)}")
        raise typer.Exit(exit_code) from error


def plain(text: str) -> str:
    """Text that rich must not read as markup."""
    return text.replace("[", r"\[")


def print_json(data: Any) -> None:
    """One JSON object on a line, at once: whoever reads it need not wait for our end."""
    sys.stdout.write(msgspec.json.encode(data).decode() + "\n")
    sys.stdout.flush()


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Name and value, a line each."""
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        out.print(f"  {name:<15} {plain(str(value))}", highlight=False, soft_wrap=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name what the operating system says against writing where the user told us to."""
    try:
        yield
    except OSError as error:
        raise InvalidRequest(
            f"cannot write there: {error.strerror}", where=str(path), fix="Name another place (see --help)."
        ) from error


def read_file(path: Path, what: str) -> bytes:
    """A file that the user named."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {what}: {error.strerror}", where=str(path), fix="Name an existing file (see --help)."
        ) from error
