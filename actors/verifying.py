"""What `mintage verify` checks: a receipt or a chain, against keys or a policy."""

from collections.abc import Sequence
from typing import Any

from ledger.note import Policy, Witnessed, parse_verifier_key
from ledger.policy import PolicyFile
from ledger.receipt import Verified, verify, verify_with_policy
from ledger.superlog import is_chain, verify_chain


def verify_text(
    text: str, keys: Sequence[str], believed: PolicyFile | None, content: bytes | None
) -> tuple[Verified, Witnessed | None]:
    """What a receipt or a chain has proved, and the checkpoint that was believed if it is not the shard's own or needed
    witnesses.

    Args:
        keys: verifier keys, of the shards or, for a chain, of the super-log; not looked at if the policy names logs.
        believed: the policy, if there is one.
    Raises:
        ReceiptInvalid, KeyInvalid: it does not verify.
    """
    if believed is None and not is_chain(text):
        return verify(text, keys, content), None
    log_keys = tuple(parse_verifier_key(key) for key in keys)
    policy = Policy(log_keys) if believed is None else believed.policy(log_keys)
    if not is_chain(text):
        return verify_with_policy(text, policy, content)
    chain = verify_chain(text, policy, content)
    return chain.entry, chain.super_checkpoint


def witnessed_facts(verified: Verified, witnessed: Witnessed | None) -> dict[str, Any]:
    """What is to be shown of the checkpoint that was believed."""
    if witnessed is None:
        return {}
    facts: dict[str, Any] = {"cosigned_by": [f"{each.name} at {each.time_s}" for each in witnessed.cosignatures]}
    if witnessed.checkpoint.origin != verified.origin:
        facts["super_origin"] = witnessed.checkpoint.origin
        facts["super_size"] = witnessed.checkpoint.tree_size
    return facts
