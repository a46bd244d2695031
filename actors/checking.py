"""`mintage fsck`: the check of a whole ledger, with a bar, and an exit code that says what came of it.

0    everything is as it must be
1    something is not: each problem is on a line of its own, where it is and what
2    nothing was checked: the command, the directory or the file of keys cannot be used
3    the check has a defect: its traceback is above
130  Ctrl-C
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors.terminal import JsonOption, err, errors_shown, out, plain, print_json, read_file
from engine.errors import InvalidRequest
from ledger.fsck import CheckFailed, Report, check

CLEAN, DAMAGED, NOT_CHECKED, DEFECT, INTERRUPTED = 0, 1, 2, 3, 130


def fsck(
    path: Annotated[Path, typer.Argument(help="A ledger directory, or one shard's.")],
    key: Annotated[
        Path | None,
        typer.Option(help="File of verifier keys, got elsewhere: finds a ledger that was replaced with its keys, too."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a ledger, which may be in use: every file, page, entry, hash, root, signature, parent, balance and content.

    Exit code 0: clean; 1: there are problems, and each is told; 2: it could not be checked at all; 3: the check itself
    has a defect; 130: interrupted.
    """
    with errors_shown(as_json, NOT_CHECKED):
        if not path.is_dir():
            raise InvalidRequest("there is no such directory", where=str(path), fix="Name a ledger or one shard of it.")
        keys = read_file(key, "the verifier keys").decode("utf-8", errors="replace") if key is not None else None
    try:
        found = checked(path, keys.splitlines() if keys is not None else None)
    except CheckFailed as error:
        err.print(f"[bold red]{plain(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(DEFECT) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found)
    else:
        show(found)
    raise typer.Exit(CLEAN if found.ok else DAMAGED)


def checked(path: Path, keys: list[str] | None) -> Report:
    """The check, with a bar on stderr if that is a terminal."""
    bar = Progress(
        TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TextColumn("entries"), TimeRemainingColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("checking", total=None)
        return check(path, keys, lambda done, total: bar.update(task, completed=done, total=total))


def show(found: Report) -> None:
    """Each problem on a line, and the verdict."""
    for problem in found.problems:
        out.print(f"[red]{plain(str(problem))}[/]", soft_wrap=True)
    more = " and more" if found.truncated else ""
    verdict = "[green]clean[/]" if found.ok else f"[bold red]{len(found.problems)}{more} problems[/]"
    pending = f" and {found.num_pending} in write-ahead logs" if found.num_pending else ""
    out.print(f"{found.num_shards} shards, {found.num_entries} entries{pending}: {verdict}")
