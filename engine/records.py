"""What goes into the ledger for an asset, and what comes back: one shard's keeper, used by both the ledger actor and
embedded mode.

An asset's entry says:

    kind          DERIVATION if it derives from another asset, else ASSET
    tier          the priority of the request's tier
    id            the asset id
    parents       in this order: the model that wrote it, the policy it was judged by, the asset it derives from, if any
    amount        what it was worth, `value_micros`
    owner         the tenant, as `owner_of` writes it
    content_hash  of the text in UTF-8, with its length in `num_bytes`
    meta_hash     of `Meta` as `ledger.payload.canonical_json` writes it: sorted keys, no spaces
    request_hash  of the request's body: alone tells a repeat from a conflict, since a copy that was written again after
                  a restart need not be the same

Model and policy are entries of the same shard, made when they are first seen; their id is the hash of their content.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import ErrorBody, IdempotencyConflict, InvalidRequest, describe, rebuild
from engine.generators.contract import ModelInfo
from engine.request import ASSET_ID_BYTES, Asset, Reason
from engine.tiers import Tier
from ledger.entry import ENTRY_DTYPE, PARENTS_MAX, Entries, Entry, Kind, Parent, encode, from_bytes, owner_of, zeros
from ledger.errors import EntryInvalid, LayoutUnsupported, LedgerCorrupt, LedgerError, UnknownParent
from ledger.group import Answer, Committer
from ledger.head import Head
from ledger.log import VERIFIER_FILE, LogKeys, read_verifier_keys, shard_path
from ledger.note import Checkpoint, parse_verifier_key, read_checkpoint
from ledger.payload import Payload, canonical_json
from ledger.queries import ASSET_KINDS
from ledger.receipt import verify
from ledger.result import Result
from ledger.shard import Shard
from ledger.store import Store
from ledger.superlog import SUPER_DIR, SuperLog, View, stored_newest

META_REASONS_MAX = 8
MAKER = "mintage"
"""The tenant that models and policies belong to."""

SUPER_SHARD = 0
"""The shard whose keeper keeps the super-log as well."""

NO_PARENT: Parent = (0, 0)

_superlogs: dict[Path, SuperLog] = {}
"""Those that this process owns, by the log's directory: LMDB lets nobody here open them once more, to read."""


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


class Meta(msgspec.Struct, frozen=True):
    """The metadata of an asset: how it came to be, for whoever reads the ledger later. `constrained` is 0 or 1,
    `reasons` the JSON of the first `META_REASONS_MAX` of them."""

    tier: Tier
    policy: str
    model: str
    num_attempts: int
    num_tokens: int
    constrained: int
    latency_ms: int
    reasons: str


class Row(msgspec.Struct, frozen=True):
    """A commit, and what the ledger is to record beside the fields that it has."""

    item: Commit
    parents: tuple[Parent, ...]
    content: bytes
    meta: bytes


class ShardKeeper:
    """The one writer of one ledger shard, and of the super-log if it is SUPER_SHARD's.

    Assets are recorded in batches of their own, since their receipts are wanted at once; all else that is recorded goes
    through the `committer`.

    Args:
        root: the log's directory.
        keys: the log's keys.
        shard: which shard.
        entropy: see `Shard.open`.
    Raises:
        LedgerError: another process owns the shard, it is damaged or an old copy, or another release of Mintage wrote
            it.
    Concurrency: `commit` from one thread at a time; reads from any.
    """

    def __init__(
        self,
        root: Path,
        keys: LogKeys,
        shard: int,
        *,
        map_bytes: int,
        now_ns: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.root = root
        self.number = shard
        self.keys = keys
        self.sources: dict[bytes, int] = {}
        self.superlog: SuperLog | None = None
        self.shard = Shard.open(
            shard_path(root, shard), shard, keys.signers[shard], now_ns, entropy=entropy, map_bytes=map_bytes
        )
        self.committer = Committer(self.shard)
        try:
            if shard == SUPER_SHARD:
                watched = [parse_verifier_key(key) for key in keys.verifier_keys]
                self.superlog = SuperLog.open(
                    root, keys.log_name, watched, now_ns, entropy=entropy, map_bytes=map_bytes
                )
                _superlogs[root.resolve()] = self.superlog
            superlog = _superlogs.get(root.resolve())
            refuse_old_copy(self.shard, (superlog.newest() if superlog else stored_newest(root)).get(shard))
        except BaseException:
            self.close()
            raise

    @property
    def moments(self) -> SuperLog:
        """The super-log."""
        assert self.superlog is not None, f"the super-log is kept beside shard {SUPER_SHARD}"
        return self.superlog

    @property
    def super_key(self) -> str:
        """The public key that super-checkpoints are signed with."""
        (key,) = read_verifier_keys(self.root / SUPER_DIR / VERIFIER_FILE)
        return key

    def view(self, tree_size: int) -> View:
        """The shard as the super-log is shown it: its checkpoint, proved to have grown out of so many entries."""
        note = self.shard.checkpoint()
        size = read_checkpoint(note).tree_size
        return View(note, tuple(self.shard.consistency(tree_size, size)) if 0 < tree_size < size else ())

    def commit(self, batch: Sequence[Commit]) -> list[Outcome]:
        """Record a batch; each item gets its asset with receipt, or its own error.

        An asset id that is there already answers with the asset that is there, or, if it was made for another request,
        with IdempotencyConflict.
        Raises:
            LedgerFull, LedgerError: as `Shard.append`; sent again, the batch gets the answers it would have got.
        Cost: one durable commit, plus one the first time a model or policy is seen.
        """
        outcomes: list[Outcome | None] = [None] * len(batch)
        places: list[int] = []
        rows: list[Row] = []
        for place, item in enumerate(batch):
            try:
                rows.append(self.row(item))
                places.append(place)
            except LedgerError as error:
                outcomes[place] = Outcome(error=describe(error))
        for place, answer in zip(places, self.append(rows), strict=True):
            outcomes[place] = self.outcome(batch[place], answer)
        return [outcome or Outcome() for outcome in outcomes]

    def append(self, rows: Sequence[Row]) -> list[Answer | LedgerError]:
        """The ledger's answers. What is too much for one batch goes in halves."""
        if not rows:
            return []
        try:
            appended = self.shard.append(entries_of(rows), [Payload(row.content, row.meta) for row in rows])
        except EntryInvalid as error:
            if len(rows) == 1:
                return [error]
            middle = len(rows) // 2
            return self.append(rows[:middle]) + self.append(rows[middle:])
        return [appended.answer(place) for place in range(len(rows))]

    def row(self, item: Commit) -> Row:
        """What the ledger is to record of a commit; its parents are there when this returns.

        Raises:
            ReceiptInvalid, EntryInvalid: the source is not proved, or is no asset; the metadata is too long.
            LedgerError: a model or policy that is new could not be recorded.
        """
        parents: list[Parent] = [
            (self.number, self.ensure(Kind.MODEL, msgspec.json.encode(item.model))),
            (self.number, self.ensure(Kind.POLICY, item.policy)),
        ]
        if item.source:
            parents.append(self.proved(item.source))
        return Row(item, tuple(parents), item.content.encode(), canonical_json(msgspec.to_builtins(meta_of(item))))

    def ensure(self, kind: Kind, content: bytes) -> int:
        """The index of the entry of a model or policy; its id is the hash of its content, so it is made once."""
        digest = hashlib.sha256(content).digest()
        index = self.sources.get(digest)
        if index is None:
            entry = Entry(
                kind=kind,
                id=digest[:ASSET_ID_BYTES],
                num_bytes=len(content),
                owner=owner_of(MAKER),
                content_hash=digest,
                request_hash=digest,
            )
            answer = self.shard.append(from_bytes(encode(entry)), [Payload(content)]).answer(0)
            if answer.result not in (Result.OK, Result.EXISTS):
                raise refusal(answer.result, f"{kind.name.lower()} {entry.id.hex()}")
            index = self.sources[digest] = answer.index
        return index

    def proved(self, receipt: str) -> Parent:
        """The place of a source asset, proved by its receipt; its shard's entries may be parents as far as the
        receipt's checkpoint covers them."""
        verified = verify(receipt, self.keys.verifier_keys)
        entry = verified.entry
        if entry.kind not in ASSET_KINDS:
            raise EntryInvalid(
                f"it is a {entry.kind.name.lower()}", where="source", fix="Name an asset to derive another one from."
            )
        if entry.shard != self.number:
            self.shard.cover(entry.shard, verified.tree_size)
        return entry.shard, verified.index

    def outcome(self, item: Commit, answer: Answer | LedgerError) -> Outcome:
        """What the caller gets: the asset that holds the id now, or the conflict, or the ledger's error. The batch is
        durable by now: an entry that cannot be read back fails its own item only."""
        if isinstance(answer, LedgerError):
            return Outcome(error=describe(answer))
        if not is_recorded(answer.result):
            return Outcome(error=describe(refusal(answer.result, f"asset {item.asset_id}")))
        try:
            entry = self.shard.entry(answer.index)
            if entry.kind not in ASSET_KINDS or entry.request_hash != item.request_hash:
                return Outcome(error=conflict(item.asset_id).body)
            return Outcome(recorded=self.recorded(answer.index, entry))
        except LedgerError as error:
            return Outcome(error=describe(error))

    def find(self, asset_ids: Sequence[str]) -> list[Outcome]:
        """The assets with these ids; an empty outcome for one that is not there, an error for one that is damaged."""
        return [self.find_one(asset_id) for asset_id in asset_ids]

    def find_one(self, asset_id: str) -> Outcome:
        """The asset with this id, if it was committed."""
        try:
            index = self.shard.find(bytes.fromhex(asset_id))
            if index is None:
                return Outcome()
            entry = self.shard.entry(index)
            return Outcome(recorded=self.recorded(index, entry)) if entry.kind in ASSET_KINDS else Outcome()
        except LedgerError as error:
            return Outcome(error=describe(error))

    def recorded(self, index: int, entry: Entry) -> Recorded:
        """An asset out of the ledger, with a fresh receipt. Content and metadata have the hashes that the entry says.

        Raises:
            EntryNotFound: its content was erased.
            LedgerCorrupt: what is stored is not what was recorded.
        """
        meta = msgspec.json.decode(self.shard.meta(index), type=Meta)
        asset = Asset(
            asset_id=entry.id.hex(),
            content=self.shard.content(index).decode(),
            content_hash=entry.content_hash.hex(),
            shard=self.number,
            index=index,
            receipt=self.shard.receipt(index),
            tier=meta.tier,
            policy=meta.policy,
            model=meta.model,
            num_attempts=meta.num_attempts,
            num_tokens=meta.num_tokens,
            constrained=bool(meta.constrained),
            latency_ms=meta.latency_ms,
            reasons=msgspec.json.decode(meta.reasons, type=tuple[Reason, ...]),
        )
        return Recorded(asset, entry.request_hash)

    def close(self) -> None:
        """Give the shard back."""
        try:
            if self.superlog is not None:
                _superlogs.pop(self.root.resolve(), None)
                self.superlog.close()
        finally:
            self.committer.close()
            self.shard.close()


def refuse_other_layouts(root: Path, num_shards: int) -> None:
    """Refuse a log that another release wrote, before anything is started on it. Whatever else is wrong with a shard is
    for its keeper to say.

    Raises:
        LayoutUnsupported: it is one. Not to be called by a process that has a shard of it open.
    """
    for path in (shard_path(root, shard) for shard in range(num_shards)):
        try:
            with closing(Store.open_readonly(path)) as store, store.read() as snapshot:
                Head.of(snapshot)
        except LayoutUnsupported:
            raise
        except LedgerError:
            continue


def refuse_old_copy(shard: Shard, newest: Checkpoint | None) -> None:
    """Refuse a shard that is not what the newest super-checkpoint has recorded of it (None: nothing), before it gives
    places that are taken already to other entries.

    Raises:
        LedgerCorrupt: it has fewer entries, or others.
    """
    if newest is None:
        return
    size = shard.tree_size
    if size < newest.tree_size or shard.reader().tree(newest.tree_size).root != newest.root:
        raise LedgerCorrupt(
            f"the super-log has recorded {newest.tree_size} entries of it, and those are not among the {size} there",
            where=newest.origin,
            fix="Restore the shard from its newest copy: older ones would contradict receipts that were given out.",
        )


def entries_of(rows: Sequence[Row]) -> Entries:
    """The entries of assets, in columns; at least one."""
    items = [row.item for row in rows]
    padded = [row.parents + (NO_PARENT,) * (PARENTS_MAX - len(row.parents)) for row in rows]
    parents = np.array(padded, np.uint64)  # [n, 4, 2]: shard and index
    entries = zeros(len(rows))
    entries["kind"] = [Kind.DERIVATION if item.source else Kind.ASSET for item in items]
    entries["tier"] = [item.priority for item in items]
    entries["id"] = column("id", (bytes.fromhex(item.asset_id) for item in items))
    entries["parent_shards"], entries["parent_indices"] = parents[..., 0], parents[..., 1]
    entries["num_parents"] = [len(row.parents) for row in rows]
    entries["amount"] = [item.value_micros for item in items]
    entries["num_bytes"] = [len(row.content) for row in rows]
    entries["owner"] = column("owner", (owner_of(item.tenant) for item in items))
    entries["content_hash"] = column("content_hash", (hashlib.sha256(row.content).digest() for row in rows))
    entries["meta_hash"] = column("meta_hash", (hashlib.sha256(row.meta).digest() for row in rows))
    entries["request_hash"] = column("request_hash", (item.request_hash for item in items))
    return entries


def column(name: str, values: Iterable[bytes]) -> NDArray[np.void]:
    """A bytes field of entries."""
    return np.frombuffer(b"".join(values), ENTRY_DTYPE[name])


def meta_of(item: Commit) -> Meta:
    """The metadata of an asset's entry."""
    return Meta(
        tier=item.tier,
        policy=item.policy_name,
        model=item.model.name,
        num_attempts=item.num_attempts,
        num_tokens=item.num_tokens,
        constrained=int(item.constrained),
        latency_ms=item.latency_ms,
        reasons=msgspec.json.encode(item.reasons[:META_REASONS_MAX]).decode(),
    )


def is_recorded(result: Result) -> bool:
    """Whether the id is in the ledger now, with this entry or with another one."""
    return result is Result.OK or Result.EXISTS_WITH_DIFFERENT_KIND <= result <= Result.EXISTS


def refusal(result: Result, where: str) -> LedgerError:
    """The error of an entry that is not recorded."""
    error = UnknownParent if result is Result.UNKNOWN_PARENT else EntryInvalid
    return error(
        f"the ledger does not record it: {result.name.lower()}",
        where=where,
        fix="See ledger/result.py for the reason; what else was sent with it is recorded.",
    )


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
