"""The plain data of the engine: what is asked for, and what came of it. Frozen, and the only thing stages pass on."""

from typing import Annotated, Literal

import msgspec
import xxhash

from engine.errors import ErrorBody
from engine.tiers import Tier

BRIEF_BYTES_MAX = 8 * 1024
VALUE_MICROS_MAX = 10**15
ASSET_ID_BYTES = 16

# `$` alone would let a last line break through.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$(?!\n)")]

AssetId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]


class Brief(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the asset must be.

    `facts` are what the copy must state and may not contradict (`colour`, `material`, `price`, ...); `style` is free
    advice to the writer; `policy` names the brand policy the gate judges by; `model` a pool's model, where it matters;
    `source` the id of an asset that this one derives from.
    """

    facts: dict[str, str]
    kind: Literal["text"] = "text"
    style: str = ""
    policy: Name = "default"
    model: Name | None = None
    source: AssetId | None = None


class AssetRequest(msgspec.Struct, frozen=True):
    """A brief with who wants it, what it is worth and by when. Built by `engine.admission.admit`, which fills defaults.

    `asset_id` is derived from tenant and idempotency key, so a repeat of a request has the same id everywhere.
    `body_hash` is the SHA-256 of what makes two requests the same; `deadline_ms` is Unix time.
    """

    asset_id: str
    tenant: str
    brief: Brief
    tier: Tier
    value_micros: int
    deadline_ms: int
    created_ms: int
    body_hash: bytes


class Reason(msgspec.Struct, frozen=True):
    """Why a draft was rejected: the try, the check that fired, and what it saw."""

    attempt: int
    check: str
    detail: str


class Asset(msgspec.Struct, frozen=True):
    """A released asset. `content_hash` is the SHA-256 (hex) of the UTF-8 content, as in its ledger entry;
    `num_attempts` is how many drafts were made, the released one among them."""

    asset_id: str
    content: str
    content_hash: str
    shard: int
    index: int
    receipt: str
    tier: Tier
    policy: str
    model: str
    num_attempts: int
    num_tokens: int
    constrained: bool
    latency_ms: int
    reasons: tuple[Reason, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """Where a request stands. `released` carries the asset; `refused`, `failed` and `cancelled` carry the error."""

    asset_id: str
    state: Literal["pending", "released", "refused", "failed", "cancelled"]
    asset: Asset | None = None
    error: ErrorBody | None = None
    reasons: tuple[Reason, ...] = ()


def shard_of(asset_id: str, num_shards: int) -> int:
    """The ledger shard of an asset: XXH3 of its id, modulo the number of shards."""
    return xxhash.xxh3_64_intdigest(bytes.fromhex(asset_id)) % num_shards
