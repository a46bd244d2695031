"""The audit's answers that a third party can check: `mintage audit existed`, `kept`, and `check-...` without a ledger.

A proof is a text in a form that is not ours alone: receipts are C2SP tlog-proofs, a lineage is receipts one after
another, and that nothing was removed is an add-checkpoint request of C2SP tlog-witness.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.audit_open import (
    KeyOption,
    LedgerArgument,
    PolicyOption,
    ShardOption,
    Shards,
    UnderOption,
    WhereOption,
    as_plain,
    checkpoint_of,
    parse_id,
    parse_time_ns,
    place_of,
    policy_of,
    read_text,
    show_table,
)
from actors.terminal import JsonOption, errors_shown, print_json, read_file, show_facts, writing
from engine.errors import InvalidRequest
from ledger import audit
from ledger.dag import Node, Way, verify_lineage
from ledger.log import shard_of_origin
from ledger.note import open_checkpoint
from ledger.replace import replace_file

BeforeOption = Annotated[str, typer.Option("--before", help="Unix seconds, or say 2026-11-23T12:00:00Z.")]
ProofArgument = Annotated[Path, typer.Argument(help="The proof's file.")]
OutOption = Annotated[Path | None, typer.Option("--proof", help="Write the proof into this file.")]
TrustOption = Annotated[
    Path | None,
    typer.Option("--key", help="File of verifier keys, got by a way that you trust; or let the policy name them."),
]


def existed(
    ledger: LedgerArgument,
    entry: Annotated[str, typer.Argument(help="The id of an asset, or of any entry.")],
    before: BeforeOption,
    under: UnderOption = None,
    policy: PolicyOption = None,
    key: KeyOption = None,
    proof: OutOption = None,
    shard: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that an entry existed before a time: by the log's word, or with a policy by that of witnesses."""
    with errors_shown(as_json), Shards(ledger) as shards:
        before_ns, believed = parse_time_ns(before, "--before"), policy_of(key, policy, ledger)
        number, _ = shards.with_id(parse_id(entry, "ENTRY"), shard)
        note = read_text(under, "the checkpoint") if under is not None else None
        text = audit.prove_existence(shards[number], bytes.fromhex(entry), note)
        shown = audit.verify_existence(text, believed, before_ns)
        if proof is not None:
            write_proof(proof, text)
    show_existence(shown, as_json)


def check_existed(
    receipt: ProofArgument,
    before: BeforeOption,
    content: Annotated[
        Path | None, typer.Option(help="A file, to be the very content that the entry is about.")
    ] = None,
    key: TrustOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check offline that the entry of a receipt existed before a time; with --content that a file did."""
    with errors_shown(as_json):
        believed = policy_of(key, policy)
        before_ns = parse_time_ns(before, "--before")
        data = read_file(content, "the content") if content is not None else None
        shown = audit.verify_existence(read_text(receipt, "the receipt"), believed, before_ns, data)
    show_existence(shown, as_json, content)


def show_existence(shown: audit.Existence, as_json: bool, content: Path | None = None) -> None:
    """`content`: the file that was found to be the entry's content."""
    facts: dict[str, Any] = {
        "existed": True,
        "id": shown.entry.id.hex(),
        "at": place_of((shard_of_origin(shown.origin), shown.index)),
        "tree_size": shown.tree_size,
        "recorded_ns": shown.recorded_ns,
        "witnessed_s": shown.witnessed_s,
        "cosigned_by": [f"{each.name} at {each.time_s}" for each in shown.cosignatures],
    }
    if not as_json and shown.witnessed_s is None:
        facts["witnessed_s"] = "by nobody: the time is the log's own word"
    if content is not None:
        facts["content"] = str(content)
    show_facts(facts, as_json)


def kept(
    ledger: LedgerArgument,
    old: Annotated[str, typer.Argument(help="The earlier checkpoint: its file, or a tree size.")],
    new: Annotated[str | None, typer.Argument(help="The later one; by default the newest stored one.")] = None,
    shard: ShardOption = None,
    key: KeyOption = None,
    proof: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that nothing was removed or changed between two checkpoints."""
    with errors_shown(as_json), Shards(ledger) as shards:
        reader, policy = shards.one(shard), policy_of(key, None, ledger)
        first, old_note = checkpoint_of(old, reader, policy, "OLD")
        last, new_note = checkpoint_of(new, reader, policy, "NEW")
        shown = audit.kept(reader, first, last)
        if proof is not None:
            if new_note is None:
                raise InvalidRequest(
                    "nobody else believes a tree that is not signed",
                    where="NEW",
                    fix="Give a checkpoint's file, or nothing for the newest.",
                )
            write_proof(proof, audit.kept_text(shown, new_note))
    show_kept(shown, as_json, {"old_signed": old_note is not None, "new_signed": new_note is not None})


def check_kept(
    proof: ProofArgument,
    old: Annotated[Path, typer.Argument(help="The file of the earlier checkpoint, that you have kept.")],
    key: TrustOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check offline, with a checkpoint of one's own, that nothing was removed since."""
    with errors_shown(as_json):
        believed = policy_of(key, policy)
        first = open_checkpoint(read_text(old, "the checkpoint"), believed.log_keys)
        shown = audit.verify_kept(read_text(proof, "the proof"), first, believed)
    show_kept(shown, as_json, {"old_signed": True, "new_signed": True})


def show_kept(shown: audit.Kept, as_json: bool, signed: dict[str, bool]) -> None:
    if as_json:
        print_json({"kept": True} | as_plain(shown) | signed)
        return
    facts: dict[str, Any] = {"kept": True, "origin": shown.new.origin}
    facts |= {"from": f"{shown.old.tree_size} entries", "to": f"{shown.new.tree_size} entries"}
    show_facts(facts | {"proof": f"{len(shown.proof)} hashes"} | signed, False)


def check_lineage(
    proof: ProofArgument,
    down: Annotated[bool, typer.Option("--down", help="It is to prove descendants.")] = False,
    key: TrustOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a lineage offline: every entry of it, and that they follow from each other."""
    with errors_shown(as_json):
        believed = policy_of(key, policy)
        way = Way.DOWN if down else Way.UP
        shown = verify_lineage(read_text(proof, "the proof"), way, believed)
    if as_json:
        print_json({"verified": True} | as_plain(shown))
        return
    show_table(("depth", "at", "kind", "id"), node_rows(shown.nodes))
    others = ", ".join(map(place_of, shown.others)) or "none"
    show_facts({"verified": True, "other parents": others}, False)


def node_rows(nodes: Sequence[Node]) -> list[tuple[Any, ...]]:
    return [(node.depth, place_of(node.place), node.entry.kind.name.lower(), node.entry.id.hex()) for node in nodes]


def write_proof(path: Path, text: str) -> None:
    """Write a proof's file, in one step.

    Raises:
        InvalidRequest: it cannot be written there.
    """
    with writing(path):
        replace_file(path, text.encode())
