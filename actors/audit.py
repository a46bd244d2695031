"""`mintage audit`: an auditor's questions to a ledger's directory, which may be in use. Answers only what can be shown.

The questions are answered by `ledger.audit`, `ledger.queries`, `ledger.payments` and `ledger.dag`; this prints them,
as tables or, with --json, as one object. The exit codes are in the help.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from actors import audit_proofs
from actors.audit_open import (
    KeyOption,
    LedgerArgument,
    ShardOption,
    Shards,
    WhereOption,
    as_plain,
    checkpoint_of,
    parse_id,
    place_of,
    policy_of,
    show_table,
)
from actors.terminal import JsonOption, err, errors_shown, print_json, show_facts
from engine.errors import InvalidRequest
from ledger import audit, dag
from ledger.book import Balance
from ledger.entry import Kind, owner_of
from ledger.payments import Transfer, paid_for
from ledger.queries import Owned, assets_of, history, owner_at
from ledger.tail import SEED_BYTES

HELP = """An auditor's questions to a ledger, which may be in use.

Exit code 0: answered, and what was to be proved is proved; 1: it is not, and the error says why; 2: no such command."""

audit_app = typer.Typer(name="audit", help=HELP, no_args_is_help=True)
audit_app.command()(audit_proofs.existed)
audit_app.command()(audit_proofs.kept)
audit_app.command("check-existed")(audit_proofs.check_existed)
audit_app.command("check-kept")(audit_proofs.check_kept)
audit_app.command("check-lineage")(audit_proofs.check_lineage)

OWNED_COLUMNS = ("asset", "since", "time_ns")
AtOption = Annotated[
    str | None, typer.Option("--at", help="A checkpoint's file or a tree size; by default the newest.")
]
OldArgument = Annotated[str, typer.Argument(help="The earlier checkpoint: its file, or a tree size.")]
NewArgument = Annotated[str, typer.Argument(help="The later one.")]


@audit_app.command()
def balance(
    ledger: LedgerArgument,
    shard: ShardOption = None,
    at: AtOption = None,
    accounts: Annotated[int, typer.Option(min=0, max=audit.ACCOUNTS_MAX, help="List so many accounts.")] = 0,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trial balance at a checkpoint, computed from its entries alone."""
    with errors_shown(as_json), Shards(ledger) as shards:
        reader = shards.one(shard)
        checkpoint, note = checkpoint_of(at, reader, policy_of(key, None, ledger), "--at")
        with progress_shown("replaying") as told:
            seed = os.urandom(SEED_BYTES)
            found = audit.trial_balance(reader, checkpoint, seed, accounts_max=accounts, progress=told)
    is_signed = note is not None
    answer = as_plain(found) | {"is_signed": is_signed, "is_balanced": found.is_balanced}
    if as_json:
        print_json(answer)
    else:
        show_checkpoint(answer["checkpoint"], is_signed)
        rows = [(int(currency), *totals.values()) for currency, totals in answer["currencies"].items()]
        show_table(("currency", "debits", "credits", "debits pending", "credits pending"), rows)
        show_table(("account", *Balance.__struct_fields__), account_rows(answer))
        show_facts({"accounts": found.num_accounts, "balanced": found.is_balanced}, False)
    raise typer.Exit(0 if found.is_balanced else 1)


def account_rows(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(id_, *told.values()) for id_, told in answer["accounts"]]


@audit_app.command()
def owner(
    ledger: LedgerArgument,
    asset: Annotated[str, typer.Argument(help="The asset's id.")],
    at: Annotated[
        int | None, typer.Option(help="After the entry with this index of its shard; by default now.")
    ] = None,
    shard: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Who owned an asset at an index, and everybody who has owned it until then."""
    with errors_shown(as_json), Shards(ledger) as shards:
        number, _ = shards.with_id(parse_id(asset, "ASSET"), shard)
        reader = shards[number]
        index = reader.tree_size - 1 if at is None else at
        change = owner_at(reader, bytes.fromhex(asset), index)
        earlier = [each for each in history(reader, bytes.fromhex(asset)) if each.index <= change.index]
    answer = {"asset": asset, "shard": number, "at": index} | as_plain(change) | {"history": as_plain(earlier)}
    if as_json:
        print_json(answer)
        return
    show_facts({"asset": asset, "at": place_of((number, index)), "owner": change.owner.hex()}, False)
    rows = [(place_of((number, each.index)), each.time_ns, each.owner.hex()) for each in earlier]
    show_table(("since", "time_ns", "owner"), rows)


@audit_app.command()
def owned(
    ledger: LedgerArgument,
    tenant: Annotated[str | None, typer.Option(help="A tenant's name.")] = None,
    owner: Annotated[str | None, typer.Option(help="Or an owner, as entries have it.")] = None,
    shard: ShardOption = None,
    at: Annotated[int | None, typer.Option(help="After this index of the shard; by default now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The assets that belong, or belonged at an index, to an owner."""
    with errors_shown(as_json), Shards(ledger) as shards:
        if (tenant is None) == (owner is None):
            raise InvalidRequest("whose assets is not said", where="--tenant, --owner", fix="Give one of the two.")
        whose = owner_of(tenant) if tenant is not None else parse_id(owner or "", "--owner")
        if at is not None:
            shards.one(shard)
        rows: list[tuple[Any, ...]] = []
        for number in shards if shard is None else [shard]:
            begin: int | None = 0
            while begin is not None:
                page = assets_of(shards.one(number), whose, at=at, begin=begin)
                rows += [owned_row(number, each) for each in page.owned]
                begin = page.next_begin
    if as_json:
        print_json({"owner": whose.hex(), "assets": [dict(zip(OWNED_COLUMNS, row, strict=True)) for row in rows]})
        return
    show_table(OWNED_COLUMNS, rows)
    show_facts({"owner": whose.hex(), "assets": len(rows)}, False)


def owned_row(shard: int, owned: Owned) -> tuple[Any, ...]:
    return owned.asset.hex(), place_of((shard, owned.change.index)), owned.change.time_ns


@audit_app.command()
def paid(
    ledger: LedgerArgument,
    transfer: Annotated[str, typer.Argument(help="The id of a transfer, of an asset or of money.")],
    shard: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """What paid for a transfer: everything it stood or fell with."""
    with errors_shown(as_json), Shards(ledger) as shards:
        number, _ = shards.with_id(parse_id(transfer, "TRANSFER"), shard)
        found = paid_for(shards, number, bytes.fromhex(transfer))
    if as_json:
        print_json(as_plain(found))
        return
    show_table(
        ("at", "state", "from", "to", "what", "ended"),
        [transfer_row(each) for each in (found.transfer, *found.others)],
    )
    if found.exchange is not None:
        decided = "no decision is at hand" if found.decision is None else place_of(found.decision.place)
        happens = found.decision is not None and found.decision.is_commit
        show_facts({"exchange": found.exchange.hex(), "decision": decided, "committed": happens}, False)
    if found.absent:
        show_facts({"not at hand": f"shards {', '.join(map(str, found.absent))}"}, False)


def transfer_row(transfer: Transfer) -> tuple[Any, ...]:
    sides = transfer.debit.hex(), transfer.credit.hex()
    what = f"{transfer.amount} of {transfer.currency}" if transfer.asset is None else f"asset {transfer.asset.hex()}"
    return place_of(transfer.place), transfer.state.value, *sides, what, place_of(transfer.ended_by)


@audit_app.command()
def changed(
    ledger: LedgerArgument,
    old: OldArgument,
    new: NewArgument,
    shard: ShardOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What changed between two checkpoints, and the proof that nothing else did."""
    with errors_shown(as_json), Shards(ledger) as shards:
        reader, policy = shards.one(shard), policy_of(key, None, ledger)
        first = checkpoint_of(old, reader, policy, "OLD").checkpoint
        last = checkpoint_of(new, reader, policy, "NEW").checkpoint
        with progress_shown("reading") as told:
            found = audit.changes(reader, first, last, progress=told)
    answer = as_plain(found)
    if as_json:
        print_json(answer)
        return
    show_facts({"from": f"{first.tree_size} entries", "to": f"{last.tree_size} entries"}, False)
    show_table(("kind", "entries"), [(Kind(kind).name.lower(), num) for kind, num in found.num_entries.items()])
    rows = [(int(currency), *moved.values()) for currency, moved in answer["money"].items()]
    show_table(("currency", "transferred", "newly held", "released"), rows)
    show_table(("at", "asset", "from", "to"), [tuple(change.values()) for change in answer["owners"]])
    show_facts({"new owners": found.num_owner_changes, "consistent": f"proved by {len(found.proof)} hashes"}, False)


@audit_app.command()
def lineage(
    ledger: LedgerArgument,
    entry: Annotated[str, typer.Argument(help="An id.")],
    down: Annotated[
        bool, typer.Option("--down", help="What was made from it, instead of what it was made from.")
    ] = False,
    depth: Annotated[int, typer.Option(min=0, max=dag.DEPTH_MAX, help="Generations at most.")] = dag.DEPTH_MAX,
    num: Annotated[int, typer.Option(min=1, max=dag.NODES_MAX, help="Entries at most.")] = dag.NODES_MAX,
    proof: Annotated[Path | None, typer.Option(help="Write receipts of the whole path into this file.")] = None,
    shard: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """What an entry was made from, over all shards; with --proof as receipts that anybody can check offline."""
    with errors_shown(as_json), Shards(ledger) as shards:
        number, found = shards.with_id(parse_id(entry, "ENTRY"), shard)
        walk = dag.descendants if down else dag.ancestors
        told = walk(shards, (number, found.index), depth_max=depth, nodes_max=num)
        if proof is not None:
            audit_proofs.write_proof(proof, dag.prove_lineage(told, shards))
    show_lineage(told, as_json)


def show_lineage(told: dag.Lineage, as_json: bool) -> None:
    if as_json:
        print_json(as_plain(told))
        return
    show_table(("depth", "at", "kind", "id"), audit_proofs.node_rows(told.nodes))
    if told.absent:
        show_facts({"not at hand": ", ".join(map(place_of, told.absent))}, False)
    if told.is_truncated:
        show_facts({"cut off": "there is more than was asked for"}, False)


@contextmanager
def progress_shown(name: str) -> Iterator[audit.Progress]:
    """A progress bar on stderr, if that is a terminal, to be told how many entries are done, and of how many."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda num_done, num_all: bar.update(task, completed=num_done, total=num_all)


def show_checkpoint(checkpoint: dict[str, Any], is_signed: bool) -> None:
    show_facts(
        {
            "origin": checkpoint["origin"],
            "tree size": checkpoint["tree_size"],
            "root": checkpoint["root"],
            "signed": is_signed,
        },
        False,
    )
