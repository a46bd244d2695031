"""A shard: one append-only log of entries. An append is three stages in one durable commit.

    sequence    give every new entry its place and its time; answer repeats with the first entry
    integrate   extend the Merkle tree over the new leaves
    publish     sign the checkpoint of the new tree

Promises: an index, once answered, never names another entry; an asset id has one entry for ever; a receipt or
checkpoint that was given out stays consistent with every later one. Nothing is kept in memory between calls, so what
is answered is what is stored, and before a checkpoint is signed the stored tree is checked against the last one.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import orjson

from ledger.entry import ASSET_ID_BYTES, Entry, Kind, Parent, decode, encode, owner_of
from ledger.errors import EntryInvalid, EntryNotFound, LedgerCorrupt, LogMismatch, ReceiptInvalid, UnknownParent
from ledger.files import create_once
from ledger.log import begun_path, shard_of_origin
from ledger.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from ledger.note import Checkpoint, Signer, open_checkpoint, parse_checkpoint
from ledger.receipt import Receipt
from ledger.store import MAP_BYTES_DEFAULT, Batch, Head, Snapshot, Store

BATCH_ITEMS_MAX = 4096
BATCH_BYTES_MAX = 64 * 1024 * 1024
META_BYTES_MAX = 16 * 1024
TENANT_CHARS_MAX = 256
LOCK_WAIT_S_DEFAULT = 5.0

Covers = Callable[[int, int], bool]
"""(shard, index) -> whether that entry of another shard is durable. Called inside the commit: answer from memory."""

MetaValue = str | int | float


class NewEntry(msgspec.Struct, frozen=True):
    """What to record. `request_hash` (bytes[32]) is what tells a repeat from a conflict under one `asset_id`."""

    kind: Kind
    asset_id: bytes
    content: bytes
    request_hash: bytes
    tenant: str
    value_micros: int = 0
    tier: int = 0
    parents: tuple[Parent, ...] = ()
    meta: dict[str, MetaValue] = {}


class Appended(msgspec.Struct, frozen=True):
    """The answer for one item. `index` and `entry` are those that hold the asset id.

    `committed`: this item. `exists`: an earlier one of the same request. `conflict`: an earlier one of another
    request; this item was not written.
    """

    index: int
    status: Literal["committed", "exists", "conflict"]
    entry: Entry


class _Draft(msgspec.Struct, frozen=True):
    """An item as it would be written, before it is known whether it is new."""

    entry: Entry
    data: bytes
    content: bytes
    meta: bytes


def covers_nothing(shard: int, index: int) -> bool:
    """Refuse every parent in another shard."""
    return False


class Shard:
    """One shard, owned by this process. Reads may come from any thread; appends take turns."""

    def __init__(self, store: Store, shard: int, signer: Signer, now_ms: Callable[[], int], covers: Covers) -> None:
        self._store = store
        self._shard = shard
        self._signer = signer
        self._now_ms = now_ms
        self._covers = covers

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        shard: int,
        signer: Signer,
        now_ms: Callable[[], int],
        covers: Covers = covers_nothing,
        map_bytes: int = MAP_BYTES_DEFAULT,
        lock_wait_s: float = LOCK_WAIT_S_DEFAULT,
    ) -> "Shard":
        """Own the shard in its directory (`ledger.log.shard_path`), which is made, with an empty log, on first use.

        Args:
            signer: the shard's own, from `ledger.log.open_keys`.
            covers: which entries of other shards may be parents; none by default.
        Raises:
            LedgerLocked, LedgerFull, LedgerCorrupt: see `Store.open`; or the last checkpoint is not the shard's; or
                the shard was begun before and nothing is left of it.
            LogMismatch: the signer is another shard's, or the shard another log's.
        """
        if shard_of_origin(signer.name) != shard:
            raise LogMismatch(
                f"the signer is {signer.name}", where=f"shard {shard}", fix="Open each shard with its own signer."
            )
        store = Store.open(path, map_bytes=map_bytes, lock_wait_s=lock_wait_s)
        opened = cls(store, shard, signer, now_ms, covers)
        try:
            opened._begin_or_resume()
        except BaseException:
            store.close()
            raise
        return opened

    def close(self) -> None:
        """Give the shard back. Calling it again does nothing."""
        self._store.close()

    def __enter__(self) -> "Shard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, items: Sequence[NewEntry]) -> list[Appended]:
        """Record a batch, all of it or nothing; durable when this returns. Answers are in the order of the items.

        A parent in this shard must have a smaller index: one already there, or one given out earlier in the batch.
        Raises:
            EntryInvalid: an item, or the batch, breaks a rule or a limit.
            UnknownParent: a new item names a parent that is not in the ledger.
            LedgerFull: no room. In each of these cases nothing was written and the shard goes on working.
            LedgerCorrupt: what is stored contradicts the last checkpoint; nothing was written or signed.
        Cost: one commit (fdatasync) and one signature a batch; per item about 2 Merkle hashes.
        """
        drafts = self._drafts(items)
        with self._store.write() as batch:
            frontier = self._frontier(batch)
            answers, leaves = self._sequence(batch, frontier.size, drafts)
            if leaves:
                self._integrate(batch, frontier, leaves)
                self._publish(batch, frontier)
        return answers

    def find(self, asset_id: bytes) -> int | None:
        """The index of the one entry with this id, if there is one."""
        if len(asset_id) != ASSET_ID_BYTES:
            raise _invalid("asset_id", f"{len(asset_id)} bytes instead of {ASSET_ID_BYTES}")
        with self._store.read() as snapshot:
            return snapshot.index_of(asset_id)

    def entry(self, index: int) -> Entry:
        """The entry at an index, checked against its leaf hash.

        Raises:
            EntryNotFound: there is none yet.
            LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        with self._store.read() as snapshot:
            return decode(self._entry_bytes(snapshot, index))

    def content(self, index: int) -> bytes:
        """The content of an entry, checked against its hash. Raises as `entry` does."""
        with self._store.read() as snapshot:
            entry = decode(self._entry_bytes(snapshot, index))
            return _checked_blob(snapshot, entry.content_hash, f"content of entry {index}")

    def meta(self, index: int) -> dict[str, MetaValue]:
        """The metadata of an entry, checked against its hash. Raises as `entry` does."""
        with self._store.read() as snapshot:
            entry = decode(self._entry_bytes(snapshot, index))
            values: dict[str, MetaValue] = orjson.loads(
                _checked_blob(snapshot, entry.meta_hash, f"metadata of entry {index}")
            )
            return values

    def size(self) -> int:
        """How many entries there are."""
        with self._store.read() as snapshot:
            return _head(snapshot).tree_size

    def checkpoint(self) -> str:
        """The last signed checkpoint (a note)."""
        with self._store.read() as snapshot:
            return _head(snapshot).checkpoint

    def receipt(self, index: int, tree_size: int | None = None) -> str:
        """The receipt of an entry in the tree of the given size; in the current one by default.

        A receipt that would not verify is never given out.
        Raises:
            EntryNotFound: no such entry, or no such tree with it.
            LedgerCorrupt: the stored nodes do not lead to the last checkpoint.
        """
        with self._store.read() as snapshot:
            head = _head(snapshot)
            size = head.tree_size if tree_size is None else tree_size
            if not 0 <= index < size <= head.tree_size:
                raise _not_found(f"no entry {index} in a tree of {size}; there are {head.tree_size} entries")
            note = head.checkpoint if size == head.tree_size else self._older_checkpoint(snapshot, head, size)
            data = self._entry_bytes(snapshot, index)
            proof = inclusion_proof(index, size, snapshot.node)
            with _corrupt_if_invalid(f"receipt of entry {index}"):
                verify_inclusion(index, size, leaf_hash(data), proof, _checkpoint(note).root)
        return Receipt(data, index, tuple(proof), note).text()

    def consistency(self, old: int, new: int) -> list[bytes]:
        """bytes[32] each: the proof that the tree of `old` entries is a prefix of that of `new`.

        Raises:
            EntryNotFound: not 0 < old <= new <= size.
        """
        with self._store.read() as snapshot:
            size = _head(snapshot).tree_size
            if not 0 < old <= new <= size:
                raise _not_found(f"no proof from {old} to {new} entries; there are {size}")
            return consistency_proof(old, new, snapshot.node)

    def _drafts(self, items: Sequence[NewEntry]) -> list[_Draft]:
        """The items as they would be written, all with the time of the batch; whatever can be checked is."""
        num_bytes = sum(len(item.content) for item in items)
        if len(items) > BATCH_ITEMS_MAX or num_bytes > BATCH_BYTES_MAX:
            limits = f"{BATCH_ITEMS_MAX} items or {BATCH_BYTES_MAX} bytes of content"
            raise _invalid("batch", f"{len(items)} items of {num_bytes} bytes are more than {limits}")
        time_ms = self._now_ms()
        return [self._draft(item, time_ms) for item in items]

    def _draft(self, item: NewEntry, time_ms: int) -> _Draft:
        if not 0 < len(item.tenant) <= TENANT_CHARS_MAX:
            raise _invalid("tenant", f"{len(item.tenant)} characters instead of 1 to {TENANT_CHARS_MAX}")
        try:
            owner = owner_of(item.tenant)
        except UnicodeEncodeError:
            raise _invalid("tenant", "it is not Unicode text") from None
        meta = _canonical_json(item.meta)
        entry = Entry(
            kind=item.kind,
            tier=item.tier,
            shard=self._shard,
            time_ms=time_ms,
            asset_id=item.asset_id,
            content_hash=hashlib.sha256(item.content).digest(),
            request_hash=item.request_hash,
            meta_hash=hashlib.sha256(meta).digest(),
            owner=owner,
            value_micros=item.value_micros,
            content_bytes=len(item.content),
            parents=item.parents,
        )
        return _Draft(entry, encode(entry), item.content, meta)

    def _sequence(self, batch: Batch, size: int, drafts: Sequence[_Draft]) -> tuple[list[Appended], list[bytes]]:
        """Stage 1: a place for every new entry, an answer for every item. Returns the answers and the new leaves."""
        answers: list[Appended] = []
        leaves: list[bytes] = []
        for draft in drafts:
            first = batch.index_of(draft.entry.asset_id)
            if first is not None:
                answers.append(self._repeated(batch, first, draft.entry))
                continue
            index = size + len(leaves)
            self._check_parents(draft.entry, index)
            batch.put_entry(index, draft.entry.asset_id, draft.data)
            batch.put_blob(draft.entry.content_hash, draft.content)
            batch.put_blob(draft.entry.meta_hash, draft.meta)
            answers.append(Appended(index, "committed", draft.entry))
            leaves.append(leaf_hash(draft.data))
        return answers, leaves

    def _integrate(self, batch: Batch, frontier: Frontier, leaves: Sequence[bytes]) -> None:
        """Stage 2: the new leaves and the nodes that they complete."""
        for leaf in leaves:
            for node in frontier.add(leaf):
                batch.put_node(node)

    def _publish(self, batch: Batch, frontier: Frontier) -> None:
        """Stage 3: the new tree, signed."""
        checkpoint = Checkpoint(self._signer.name, frontier.size, frontier.root())
        batch.put_head(Head(frontier.size, self._signer.sign(checkpoint.text())))

    def _repeated(self, batch: Batch, first: int, entry: Entry) -> Appended:
        """The answer for an id that has its entry already, perhaps from earlier in this batch."""
        data = batch.entry(first)
        if data is None:
            raise _corrupt("the id of an entry that is not there", f"ids {entry.asset_id.hex()}")
        holder = decode(data)
        return Appended(first, "exists" if holder.request_hash == entry.request_hash else "conflict", holder)

    def _check_parents(self, entry: Entry, index: int) -> None:
        """Parents in this shard come before the entry, so the edges can have no cycle."""
        for shard, parent in entry.parents:
            known = parent < index if shard == self._shard else self._covers(shard, parent)
            if not known:
                raise UnknownParent(
                    f"entry {parent} of shard {shard} is not in the ledger",
                    where=f"asset {entry.asset_id.hex()}",
                    fix="Append the parent first, and name the index that it was given.",
                )

    def _begin_or_resume(self) -> None:
        """Publish the empty tree in a new shard; in any other, check that the last checkpoint is this signer's.

        The file that says that the shard was begun comes after the empty tree and before anything is given out. Where
        a crash fell between the two, the next open finds an empty tree and writes the file.
        """
        begun = begun_path(self._store.path)
        with self._store.read() as snapshot:
            head = snapshot.head()
            num_rows = snapshot.num_rows("entries")
        if head is not None:
            self._check_head(head, num_rows)
        elif num_rows:
            raise _corrupt("entries without a head", "head")
        elif begun.exists():
            raise LedgerCorrupt(
                "the shard was begun before, and what was in it is gone; a new log would contradict its receipts",
                where=str(begun),
                fix="Restore the shard's directory from a copy.",
            )
        else:
            with self._store.write() as batch:
                self._publish(batch, Frontier(0, {}))
        create_once(begun, f"{self._signer.name}\n".encode(), 0o644)

    def _check_head(self, head: Head, num_rows: int) -> None:
        """The last checkpoint is this signer's, and of as many entries as there are."""
        with _corrupt_if_invalid("head"):
            origin = head.checkpoint.partition("\n")[0]
            if origin != self._signer.name:
                raise LogMismatch(
                    f"the shard there is {origin[:80]!r}", where=self._signer.name, fix="Open it with its own signer."
                )
            checkpoint = open_checkpoint(head.checkpoint, [self._signer.key])
        if checkpoint.tree_size != head.tree_size or num_rows != head.tree_size:
            raise _corrupt("checkpoint, head and entries differ in size", "head")

    def _frontier(self, snapshot: Snapshot) -> Frontier:
        """The stored frontier, once its root is that of the last checkpoint: a wrong tree must never be signed."""
        head = _head(snapshot)
        frontier = Frontier.load(head.tree_size, snapshot.node)
        checkpoint = _checkpoint(head.checkpoint)
        if (checkpoint.tree_size, checkpoint.root) != (frontier.size, frontier.root()):
            raise _corrupt("the stored nodes do not lead to the last checkpoint", "nodes")
        return frontier

    def _older_checkpoint(self, snapshot: Snapshot, head: Head, size: int) -> str:
        """The checkpoint of an earlier size, signed again, once it is proved consistent with the last one."""
        root = Frontier.load(size, snapshot.node).root()
        last = _checkpoint(head.checkpoint)
        with _corrupt_if_invalid(f"tree of {size} entries"):
            proof = consistency_proof(size, last.tree_size, snapshot.node)
            verify_consistency(size, last.tree_size, root, last.root, proof)
        return self._signer.sign(Checkpoint(self._signer.name, size, root).text())

    def _entry_bytes(self, snapshot: Snapshot, index: int) -> bytes:
        size = _head(snapshot).tree_size
        if not 0 <= index < size:
            raise _not_found(f"no entry {index}; there are {size}")
        data = snapshot.entry(index)
        if data is None or leaf_hash(data) != snapshot.node(0, index):
            raise _corrupt("the entry is missing or is not its leaf", f"entry {index}")
        return data


def _head(snapshot: Snapshot) -> Head:
    head = snapshot.head()
    if head is None:
        raise _corrupt("there is no head", "head")
    return head


def _checkpoint(note: str) -> Checkpoint:
    """The checkpoint in a note of our own, whose signature was checked when the shard was opened."""
    with _corrupt_if_invalid("head"):
        return parse_checkpoint(note.partition("\n\n")[0] + "\n")


def _checked_blob(snapshot: Snapshot, digest: bytes, where: str) -> bytes:
    data = snapshot.blob(digest)
    if data is None or hashlib.sha256(data).digest() != digest:
        raise _corrupt("the bytes are missing or do not have their hash", where)
    return data


def _canonical_json(meta: dict[str, MetaValue]) -> bytes:
    """JSON with sorted keys and no spaces, of strings, 64-bit integers and finite floats: one text per value."""
    for key, value in meta.items():
        if type(value) not in (str, int, float) or (type(value) is float and value - value != 0):
            raise _invalid(f"meta.{key}", f"{value!r} is not a string, an integer or a finite float")
    try:
        data = orjson.dumps(meta, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise _invalid("meta", str(error)) from None
    if len(data) > META_BYTES_MAX:
        raise _invalid("meta", f"{len(data)} bytes are more than {META_BYTES_MAX}")
    return data


@contextmanager
def _corrupt_if_invalid(where: str) -> Iterator[None]:
    """A proof of our own that does not verify means that the store is damaged."""
    try:
        yield
    except ReceiptInvalid as error:
        raise _corrupt(error.what, where) from error


def _invalid(field: str, what: str) -> EntryInvalid:
    return EntryInvalid(what, where=field, fix="Correct the item and append the batch again.")


def _not_found(what: str) -> EntryNotFound:
    return EntryNotFound(what, where="ledger", fix="Ask for an index or a size that the shard has reached.")


def _corrupt(what: str, where: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=where, fix="Run fsck on the shard and restore it from a copy.")
