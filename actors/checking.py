"""`mintage fsck`: the check of a whole ledger, with a bar, and an exit code that says what came of it.

0    everything is as it must be
1    something is not: each problem is on a line of its own, where it is and what
2    not checked: the command, the directory or the file of keys cannot be used, or a shard cannot be opened by this
     user, or not now, and nothing is wrong with the others
3    the check has a defect: its traceback is above, and what it found elsewhere is told
130  Ctrl-C
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors.audit_open import keys_in
from actors.terminal import JsonOption, err, errors_shown, out, plain, print_json
from engine.errors import InvalidRequest
from ledger.fsck import CheckFailed, Report, check
from ledger.fsck_files import given_keys
from ledger.log import VERIFIER_FILE, begun_path, shard_paths
from ledger.store import DATA_FILE

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

    Exit code 0: clean; 1: there are problems, and each is told; 2: it could not be checked; 3: the check itself
    has a defect; 130: interrupted.
    """
    with errors_shown(as_json, NOT_CHECKED):
        require_ledger(path)
        keys = believed_keys(key) if key is not None else None
    try:
        found = checked(path, keys)
    except CheckFailed as error:
        if error.report is not None:
            print_json(error.report) if as_json else show(error.report)
        err.print(f"[bold red]{plain(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(DEFECT) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found)
    else:
        show(found)
    if found.not_checked and not found.problems:
        raise typer.Exit(NOT_CHECKED)
    raise typer.Exit(CLEAN if found.ok else DAMAGED)


def require_ledger(path: Path) -> None:
    """Refuse a directory in which there never was a ledger, as far as can be seen.

    Raises:
        InvalidRequest: it is such a one, or there is none.
    """
    fix = "Name a ledger or one shard of it."
    if not path.is_dir():
        raise InvalidRequest("there is no such directory", where=str(path), fix=fix)
    is_ledger = (path / VERIFIER_FILE).exists() or bool(shard_paths(path))
    if not is_ledger and not (path / DATA_FILE).exists() and not begun_path(path.resolve()).exists():
        raise InvalidRequest(f"there is no shard in it, and no {VERIFIER_FILE}", where=str(path), fix=fix)


def believed_keys(path: Path) -> list[str]:
    """The verifier keys in a file, each of another shard.

    Raises:
        InvalidRequest, KeyInvalid: it cannot be read, or they cannot be used.
    """

    def refuse(_: str, what: str) -> None:
        raise InvalidRequest(what, where=str(path), fix="Give one key for each shard, one a line.")

    keys = [str(key) for key in keys_in(path)]
    if not keys:
        refuse("", "there is no verifier key in it")
    given_keys(keys, refuse)
    return keys


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
    """Each problem on a line, and what was not checked; and the verdict."""
    for problem in found.problems:
        out.print(f"[red]{plain(str(problem))}[/]", soft_wrap=True)
    for problem in found.not_checked:
        out.print(f"[yellow]not checked: {plain(str(problem))}[/]", soft_wrap=True)
    more = " and more" if found.truncated else ""
    verdict = "[green]clean[/]" if found.ok else "no problem in what was checked"
    if found.problems:
        verdict = f"[bold red]{len(found.problems)}{more} problems[/]"
    if found.not_checked:
        verdict += f", {len(found.not_checked)} [yellow]not checked[/]"
    pending = f" and {found.num_pending} in write-ahead logs" if found.num_pending else ""
    of_super = f", {found.num_super} of the super-log" if found.num_super else ""
    out.print(f"{found.num_shards} shards, {found.num_entries} entries{pending}{of_super}: {verdict}")
