"""What `mintage verify` checks: a receipt or a chain, against keys or a policy."""

from collections.abc import Sequence
from typing import Any

from ledger.entry import Entry, Flag, Kind
from ledger.errors import KeyInvalid
from ledger.note import Policy, Witnessed, parse_verifier_key, read_checkpoint
from ledger.policy import PolicyFile
from ledger.receipt import Verified, parse, verify, verify_with_policy
from ledger.superlog import is_chain, parse_chain, verify_chain


def verify_text(
    text: str, keys: Sequence[str], believed: PolicyFile | None, content: bytes | None
) -> tuple[Verified, Witnessed | None]:
    """What a receipt or a chain has proved, and the checkpoint that was believed if it is not the shard's own or needed
    witnesses.

    Args:
        keys: verifier keys, of the shards or, for a chain, of the super-log; not looked at if the policy names logs.
        believed: the policy, if there is one.
    Raises:
        ReceiptInvalid: it does not verify. KeyInvalid: a key is malformed; or none is of a chain's super-log.
    """
    if believed is None and not is_chain(text):
        return verify(text, keys, content), None
    log_keys = tuple(parse_verifier_key(key) for key in keys)
    policy = Policy(log_keys) if believed is None else believed.policy(log_keys)
    if not is_chain(text):
        return verify_with_policy(text, policy, content)
    require_super_key(text, policy)
    chain = verify_chain(text, policy, content)
    return chain.entry, chain.super_checkpoint


def require_super_key(text: str, policy: Policy) -> None:
    """Say which key a chain is checked with, if it is not at hand: the keys beside a receipt are those of the shards.

    Raises:
        ReceiptInvalid: it cannot be read. KeyInvalid: no log key of the policy has the name of its super-log.
    """
    origin = read_checkpoint(parse(parse_chain(text).shard).checkpoint).origin
    if all(key.name != origin for key in policy.log_keys):
        raise KeyInvalid(
            f"this is a chain, which is checked with the key of {origin[:80]!r}, and the keys given are of other logs",
            where="verifier keys",
            fix="Give the super-log's key: --key LEDGER/super/verifier.keys, or what /v1/verifier-keys/super answers.",
        )


def entry_facts(entry: Entry) -> dict[str, Any]:
    """What is to be shown of an entry: its kind, and the fields that say something in it."""
    facts: dict[str, Any] = {"kind": entry.kind.name.lower(), "time_ms": entry.time_ns // 1_000_000}
    if entry.kind in (Kind.ASSET, Kind.DERIVATION):
        facts |= {"asset_id": entry.id.hex(), "content_hash": entry.content_hash.hex(), "value_micros": entry.amount}
    else:
        is_transfer = entry.kind in (Kind.MONEY, Kind.OWNERSHIP)
        halves = {"debit": entry.debit, "credit": entry.credit} if is_transfer else {"content_hash": entry.content_hash}
        ids = {"owner": entry.owner, "subject": entry.subject} | halves
        facts |= {"id": entry.id.hex()} | {name: value.hex() for name, value in ids.items() if any(value)}
        numbers = {"currency": entry.currency, "amount": entry.amount, "code": entry.code}
        facts |= {name: value for name, value in numbers.items() if value}
        facts |= {"flags": [str(flag.name).lower() for flag in Flag(entry.flags)]} if entry.flags else {}
    return facts | {"parents": [f"{shard}/{index}" for shard, index in entry.parents]}


def witnessed_facts(verified: Verified, witnessed: Witnessed | None) -> dict[str, Any]:
    """What is to be shown of the checkpoint that was believed."""
    if witnessed is None:
        return {}
    facts: dict[str, Any] = {"cosigned_by": [f"{each.name} at {each.time_s}" for each in witnessed.cosignatures]}
    if witnessed.checkpoint.origin != verified.origin:
        facts["super_origin"] = witnessed.checkpoint.origin
        facts["super_size"] = witnessed.checkpoint.tree_size
    return facts
