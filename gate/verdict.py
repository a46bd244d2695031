"""The plain data of the gate: what is judged and what came of it. Frozen, and crosses processes as msgpack."""

from typing import Literal

import msgspec


class Case(msgspec.Struct, frozen=True):
    """One draft to judge.

    `facts` are what the copy may not contradict and, as the policy says, must state; `prompt` is what the writer was
    told besides them (instructions, worked examples), so that a copy that repeats it is recognised; `policy` names the
    brand policy.
    """

    facts: dict[str, str]
    prompt: str
    text: str
    finish_reason: Literal["stop", "length", "error"]
    policy: str


class Finding(msgspec.Struct, frozen=True):
    """One fault: the check that fired, and what it saw."""

    check: str
    detail: str


class Verdict(msgspec.Struct, frozen=True):
    """The answer to a draft.

    `accepted` holds exactly when there are no findings. `score` is the share of checks that found nothing, 0 to 1.
    `policy_hash` is the SHA-256 (hex) of the policy as it was read, so a verdict names the rules it was given under.
    """

    accepted: bool
    findings: tuple[Finding, ...]
    score: float
    policy: str
    policy_hash: str
