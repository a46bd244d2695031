"""What goes into the ledger for an asset, and what comes back: one shard's keeper, used by both the ledger actor and
embedded mode.

An asset entry's parents are, in this order, the model that wrote it, the policy it was judged by, and the asset it
derives from, if any. Model and policy are entries of the same shard, made when they are first seen.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from engine.errors import ErrorBody, IdempotencyConflict, InvalidRequest, describe, rebuild
from engine.generators.contract import ModelInfo
from engine.request import ASSET_ID_BYTES, Asset, Reason
from engine.tiers import Tier
from ledger.entry import Kind, Parent
from ledger.errors import EntryInvalid, LedgerError, UnknownParent
from ledger.log import LogKeys, shard_path
from ledger.receipt import verify
from ledger.shard import Appended, MetaValue, NewEntry, Shard

META_REASONS_MAX = 8


class Commit(msgspec.Struct, frozen=True):
    """An accepted draft on its way into the ledger. `policy` is the policy's canonical JSON; `source` the receipt of
    the asset it derives from, or empty."""

    asset_id: str
    content: str
    request_hash: bytes
    tenant: str
    value_micros: int
    tier: Tier
    priority: int
    model: ModelInfo
    policy_name: str
    policy: bytes
    num_attempts: int
    num_tokens: int
    constrained: bool
    latency_ms: int
    reasons: tuple[Reason, ...]
    source: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """An asset as the ledger has it, and the hash of the request that it answers."""

    asset: Asset
    request_hash: bytes


class Outcome(msgspec.Struct, frozen=True):
    """One of the two, or neither where nothing was found."""

    recorded: Recorded | None = None
    error: ErrorBody | None = None


class ShardKeeper:
    """The one writer of one ledger shard.

    Args:
        root: the log's directory.
        keys: the log's keys.
        shard: which shard.
    Raises:
        LedgerError: another process owns the shard, or it is damaged.
    Concurrency: `commit` from one thread at a time; reads from any.
    """

    def __init__(self, root: Path, keys: LogKeys, shard: int, *, map_bytes: int, now_ms: Callable[[], int]) -> None:
        self.number = shard
        self.keys = keys
        self.covered: dict[int, int] = {}
        self.sources: dict[bytes, int] = {}
        self.lock = threading.Lock()
        self.shard = Shard.open(
            shard_path(root, shard),
            shard=shard,
            signer=keys.signers[shard],
            now_ms=now_ms,
            covers=self.covers,
            map_bytes=map_bytes,
        )

    def covers(self, shard: int, index: int) -> bool:
        """Whether a checkpoint of another shard that we have verified holds the entry."""
        return index < self.covered.get(shard, 0)

    def commit(self, batch: Sequence[Commit]) -> list[Outcome]:
        """Record a batch; each item gets its asset with receipt, or its own error.

        An asset id that is there already answers with the asset that is there, or, if it was made for another request,
        with IdempotencyConflict.
        Raises:
            LedgerFull: no room; nothing was written.
        Cost: one durable commit, plus one the first time a model or policy is seen.
        """
        with self.lock:
            outcomes: list[Outcome | None] = [None] * len(batch)
            places: list[int] = []
            items: list[NewEntry] = []
            for place, item in enumerate(batch):
                try:
                    items.append(self.new_entry(item))
                    places.append(place)
                except LedgerError as error:
                    outcomes[place] = Outcome(error=describe(error))
            for place, answer in zip(places, self.append(items), strict=True):
                outcomes[place] = self.outcome(batch[place], answer)
            return [outcome or Outcome() for outcome in outcomes]

    def append(self, items: list[NewEntry]) -> list[Appended | LedgerError]:
        """The ledger's answers. It refuses a batch as a whole for one bad item; the others are then sent one by one."""
        try:
            return list(self.shard.append(items))
        except (EntryInvalid, UnknownParent) as error:
            if len(items) == 1:
                return [error]
            return [answer for item in items for answer in self.append([item])]

    def new_entry(self, item: Commit) -> NewEntry:
        """The ledger's form of a commit; its parents are there when this returns."""
        parents: list[Parent] = [
            (self.number, self.ensure(Kind.MODEL, msgspec.json.encode(item.model))),
            (self.number, self.ensure(Kind.POLICY, item.policy)),
        ]
        if item.source:
            parents.append(self.foreign(item.source))
        return NewEntry(
            kind=Kind.ASSET,
            asset_id=bytes.fromhex(item.asset_id),
            content=item.content.encode(),
            request_hash=item.request_hash,
            tenant=item.tenant,
            value_micros=item.value_micros,
            tier=item.priority,
            parents=tuple(parents),
            meta=meta_of(item),
        )

    def ensure(self, kind: Kind, content: bytes) -> int:
        """The index of the entry of a model or policy; its id is the hash of its content, so it is made once."""
        digest = hashlib.sha256(content).digest()
        index = self.sources.get(digest)
        if index is None:
            entry = NewEntry(
                kind=kind, asset_id=digest[:ASSET_ID_BYTES], content=content, request_hash=digest, tenant="mintage"
            )
            index = self.sources[digest] = self.shard.append([entry])[0].index
        return index

    def foreign(self, receipt: str) -> Parent:
        """The place of a source asset, proved by its receipt."""
        verified = verify(receipt, self.keys.verifier_keys)
        shard = verified.entry.shard
        self.covered[shard] = max(self.covered.get(shard, 0), verified.tree_size)
        return shard, verified.index

    def outcome(self, item: Commit, answer: Appended | LedgerError) -> Outcome:
        """What the caller gets: the asset that holds the id now, or the conflict, or the ledger's error. The batch is
        durable by now: an entry that cannot be read back fails its own item only."""
        if isinstance(answer, LedgerError):
            return Outcome(error=describe(answer))
        if answer.status == "conflict":
            return Outcome(error=conflict(item.asset_id).body)
        try:
            return Outcome(recorded=self.recorded(answer.index))
        except LedgerError as error:
            return Outcome(error=describe(error))

    def find(self, asset_ids: Sequence[str]) -> list[Outcome]:
        """The assets with these ids; an empty outcome for one that is not there, an error for one that is damaged."""
        return [self.find_one(asset_id) for asset_id in asset_ids]

    def find_one(self, asset_id: str) -> Outcome:
        """The asset with this id, if it was committed."""
        try:
            index = self.shard.find(bytes.fromhex(asset_id))
            if index is None or self.shard.entry(index).kind != Kind.ASSET:
                return Outcome()
            return Outcome(recorded=self.recorded(index))
        except LedgerError as error:
            return Outcome(error=describe(error))

    def recorded(self, index: int) -> Recorded:
        """An asset out of the ledger, with a fresh receipt."""
        entry = self.shard.entry(index)
        meta = self.shard.meta(index)
        asset = Asset(
            asset_id=entry.asset_id.hex(),
            content=self.shard.content(index).decode(),
            content_hash=entry.content_hash.hex(),
            shard=self.number,
            index=index,
            receipt=self.shard.receipt(index),
            tier=Tier(str(meta["tier"])),
            policy=str(meta["policy"]),
            model=str(meta["model"]),
            num_attempts=int(meta["num_attempts"]),
            num_tokens=int(meta["num_tokens"]),
            constrained=bool(meta["constrained"]),
            latency_ms=int(meta["latency_ms"]),
            reasons=msgspec.json.decode(str(meta["reasons"]), type=tuple[Reason, ...]),
        )
        return Recorded(asset, entry.request_hash)

    def close(self) -> None:
        """Give the shard back."""
        self.shard.close()


def meta_of(item: Commit) -> dict[str, MetaValue]:
    """The metadata of an asset's entry: how it came to be, for whoever reads the ledger later."""
    return {
        "tier": item.tier.value,
        "policy": item.policy_name,
        "model": item.model.name,
        "num_attempts": item.num_attempts,
        "num_tokens": item.num_tokens,
        "constrained": int(item.constrained),
        "latency_ms": item.latency_ms,
        "reasons": msgspec.json.encode(item.reasons[:META_REASONS_MAX]).decode(),
    }


def conflict(asset_id: str) -> IdempotencyConflict:
    """The idempotency key stands for another request."""
    return IdempotencyConflict(
        f"the idempotency key was used before for another request (asset {asset_id})",
        where="idempotency_key",
        fix="Use a new key for a new request, or send the first request's body again.",
    )


def found(outcome: Outcome) -> Outcome:
    """The outcome of a look-up, if it is none of an error.

    Raises:
        MintageError: what the ledger said, as when it is damaged there.
    """
    if outcome.error is not None:
        raise rebuild(outcome.error)
    return outcome


def source_of(outcome: Outcome, asset_id: str) -> Recorded:
    """The source asset that a brief names.

    Raises:
        InvalidRequest: there is no such asset.
    """
    if outcome.recorded is None:
        raise InvalidRequest(
            f"no asset has the id {asset_id}", where="brief.source", fix="Name an asset that was released, or leave it."
        )
    return outcome.recorded
