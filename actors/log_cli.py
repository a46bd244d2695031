"""`mintage export`, `receipt`, `super`: what a ledger's directory gives to the public, beside its engine or without."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from actors.terminal import JsonOption, errors_shown, out, plain, print_json, read_file, writing
from engine.errors import InvalidRequest
from ledger.errors import LedgerLocked
from ledger.log import VERIFIER_FILE, shard_path, shard_paths
from ledger.note import VerifierKey, open_checkpoint, parse_verifier_key
from ledger.prove import receipt_under
from ledger.replace import replace_file
from ledger.stored import StoredLog
from ledger.superlog import SuperLog, View, stored_chain
from ledger.tiles import export as export_tiles

PLACE = re.compile(r"(0|[1-9][0-9]{0,4})/(0|[1-9][0-9]{0,18})")

LedgerArgument = Annotated[Path, typer.Argument(help="A ledger directory; its super-log is one, too.")]


def export(
    ledger: LedgerArgument,
    folder: Annotated[Path, typer.Argument(help="Where the static files go, a folder a shard.")],
    as_json: JsonOption = False,
) -> None:
    """Bring static files of every shard (C2SP tlog-tiles) up to its newest checkpoint. The ledger may be in use.

    Any file server can then serve them, and anyone can check them; what is there already is not written again.
    """
    with errors_shown(as_json):
        keys = read_file(ledger / VERIFIER_FILE, "the verifier keys").decode("utf-8", errors="replace").splitlines()
        shards = shard_paths(ledger)
        if not shards:
            raise InvalidRequest("no shard is there", where=str(ledger), fix="Name a ledger's directory.")
        exported = [export_shard(path, keys, folder / path.name) for path in shards]
        with writing(folder / VERIFIER_FILE):
            replace_file(folder / VERIFIER_FILE, "".join(f"{key}\n" for key in keys).encode())
    if as_json:
        print_json({"shards": exported})
        return
    for shard in exported:
        out.print(f"{plain(str(shard['origin']))}  {shard['tree_size']} entries: {plain(str(shard['folder']))}")


def export_shard(path: Path, keys: list[str], folder: Path) -> dict[str, str | int]:
    """One shard, after its checkpoint's signature was checked."""
    with StoredLog(path) as log:
        check_signature(log, [parse_verifier_key(key) for key in keys])
        with writing(folder):
            checkpoint = export_tiles(folder, log)
    return {"origin": checkpoint.origin, "tree_size": checkpoint.tree_size, "folder": str(folder)}


def receipt(
    ledger: LedgerArgument,
    place: Annotated[str, typer.Argument(help="Shard and index of an entry, say 0/17.")],
    under: Annotated[Path | None, typer.Option(help="A checkpoint, say one that `witness cosign` wrote.")] = None,
    chain: Annotated[bool, typer.Option("--chain", help="Up to the newest super-checkpoint.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the receipt of an entry under the newest stored checkpoint, or under one of your choice.

    With --chain also that of its shard's checkpoint in the super-log: both are verified with the super-log's key.
    """
    with errors_shown(as_json):
        match = PLACE.fullmatch(place)
        if match is None:
            raise InvalidRequest(f"{place[:40]!r} is no place", where="PLACE", fix="Give shard and index, say 0/17.")
        if chain and under is not None:
            raise InvalidRequest(
                "a chain is under the checkpoint that the super-log has recorded, not under another one",
                where="--chain, --under",
                fix="Give one of the two.",
            )
        with StoredLog(shard_path(ledger, int(match[1]))) as log:
            if chain:
                text = stored_chain(ledger, log, int(match[2])).text()
            else:
                note = log.checkpoint()
                if under is not None:
                    note = read_file(under, "the checkpoint").decode("utf-8", errors="replace")
                text = receipt_under(log, int(match[2]), note)
    if as_json:
        print_json({"receipt": text})
    else:
        typer.echo(text, nl=False)


def super_checkpoint(ledger: LedgerArgument, as_json: JsonOption = False) -> None:
    """Record the newest stored checkpoints of all shards as one moment, and print the super-checkpoint.

    An engine that runs does this by itself (ledger.upkeep_s), and owns the super-log meanwhile. Its public key is
    LEDGER/super/verifier.keys. Adopted shards are covered by the home shard, which has recorded their checkpoints.
    """
    with errors_shown(as_json):
        paths = shard_paths(ledger)
        with open_super(ledger) as superlog:
            note = superlog.commit(
                [view_of(path, superlog.sizes().get(number, 0)) for number, path in enumerate(paths)]
            )
            sizes = superlog.sizes()
    if as_json:
        print_json({"super_checkpoint": note, "sizes": [f"{number}: {size}" for number, size in sizes.items()]})
    else:
        typer.echo(note, nl=False)


@contextmanager
def open_super(ledger: Path) -> Iterator[SuperLog]:
    """The super-log of a ledger's own shards."""
    lines = read_file(ledger / VERIFIER_FILE, "the verifier keys").decode("utf-8", errors="replace").splitlines()
    keys = [parse_verifier_key(line) for line in lines]
    if not keys:
        raise InvalidRequest("no key is there", where=str(ledger / VERIFIER_FILE), fix="Name a ledger's directory.")
    log_name = keys[0].name.rpartition("/")[0]
    try:
        superlog = SuperLog.open(ledger, log_name, keys, time.time_ns, entropy=os.urandom)
    except LedgerLocked as error:
        raise LedgerLocked(
            error.what,
            where=error.where,
            fix="An engine that runs commits by itself: see /log/super/checkpoint there, or stop it.",
        ) from error
    try:
        yield superlog
    finally:
        superlog.close()


def view_of(path: Path, known_size: int) -> View:
    """What a shard shows the super-log, which knows it with so many entries. Where it has fewer by now nothing can be
    proved; the super-log says so."""
    with StoredLog(path) as log:
        proof = log.consistency(known_size) if known_size <= log.tree_size else []
        return View(log.checkpoint(), tuple(proof))


def check_signature(log: StoredLog, keys: list[VerifierKey]) -> None:
    """That the shard's own key has signed what is stored.

    Raises:
        ReceiptInvalid: it has not.
    """
    open_checkpoint(log.checkpoint(), [key for key in keys if key.name == log.claim().origin])
