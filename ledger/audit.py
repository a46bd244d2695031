"""An auditor's questions about one shard, each a function that returns plain data.

    trial balance at a checkpoint            `trial_balance`
    what changed between two checkpoints     `changes`
    nothing was removed                      `kept`, and `verify_kept` for a third party
    X existed before time T                  `prove_existence`, and `verify_existence` for a third party
    who owned X at index i                   `ledger.queries.owner_at`
    what paid for this transfer              `ledger.payments.paid_for`

Those that read a range of the log hash what they read up to the root of the checkpoint, and prove what they need from
before it, so their answers are about the entries that were signed and not about what happens to be stored. A
checkpoint is given as it was believed: its signature is verified by whoever calls (`ledger.note.open_checkpoint`);
`Reader.tree` gives one that nobody signed.

All of it reads beside the owner, in short looks.
"""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.book import Balance, Book
from ledger.entry import ID_BYTES, Entries, Entry, Flag, Kind, as_bytes, from_bytes
from ledger.errors import EntryNotFound, LedgerCorrupt, LogMismatch, ReceiptInvalid
from ledger.growth import check_growth
from ledger.merkle import inclusion_proof, leaf_hash, verify_inclusion
from ledger.note import Checkpoint, Cosignature, Policy, open_checkpoint_with_policy
from ledger.prove import receipt_under
from ledger.queries import ENDS
from ledger.reader import PAGE_MAX, Reader
from ledger.receipt import verify_with_policy
from ledger.sha256 import leaf_hashes
from ledger.tree import Edge, Nodes
from ledger.witness import build_request, parse_request

BLOCK_ENTRIES = 65_536
"""Entries read in one look: 16 MB, about 10 ms."""

ACCOUNTS_MAX = 10_000
"""Accounts told one by one in a trial balance."""

MOVES_MAX = 1_000
"""Changes of owner told one by one between two checkpoints."""

NS_PER_S = 10**9

Progress = Callable[[int, int], None]
"""(entries done, entries in all), called after each block."""


class Totals(msgspec.Struct, frozen=True):
    """Of all accounts of a currency, in micro-units. Debits are credits, pending and posted, or the book is wrong."""

    debits_posted: int
    credits_posted: int
    debits_pending: int
    credits_pending: int

    @property
    def is_balanced(self) -> bool:
        return self.debits_posted == self.credits_posted and self.debits_pending == self.credits_pending


class TrialBalance(msgspec.Struct, frozen=True):
    """The balances that the entries under a checkpoint give.

    `currencies`: by number. `accounts`: (id, balance) in the order in which they were opened, the first of them;
    `num_accounts`: how many there are.
    """

    checkpoint: Checkpoint
    currencies: dict[int, Totals]
    accounts: tuple[tuple[bytes, Balance], ...]
    num_accounts: int

    @property
    def is_balanced(self) -> bool:
        return all(totals.is_balanced for totals in self.currencies.values())


class Moved(msgspec.Struct, frozen=True):
    """Money of one currency between two checkpoints, in micro-units: transferred for good; newly held; and of what was
    held released by a void or an expiry. What is posted counts as transferred, whenever it was held."""

    transferred: int
    held: int
    released: int


class OwnerChange(msgspec.Struct, frozen=True):
    """With entry `index` an asset went from one owner to another."""

    index: int
    asset: bytes
    old: bytes
    new: bytes


class Changes(msgspec.Struct, frozen=True):
    """What the entries from one checkpoint to another say.

    `num_entries`: by kind. `money`: by currency. `owners`: the first changes of owner; `num_owner_changes`: how many
    there are. `proof`: bytes[32] each, that the old tree is a prefix of the new one; none if it is empty or the same.
    """

    old: Checkpoint
    new: Checkpoint
    num_entries: dict[Kind, int]
    money: dict[int, Moved]
    owners: tuple[OwnerChange, ...]
    num_owner_changes: int
    proof: tuple[bytes, ...]


class Kept(msgspec.Struct, frozen=True):
    """Every entry under the old checkpoint is under the new one, at its place; `proof` (bytes[32] each) shows it."""

    old: Checkpoint
    new: Checkpoint
    proof: tuple[bytes, ...]


class Existence(msgspec.Struct, frozen=True):
    """An entry existed by a time.

    `recorded_ns`: when the log says it was sequenced. `witnessed_s`: by when as many witnesses as the policy asks for
    had seen a tree with it; None if it asks for none, and then there is only the log's word.
    """

    entry: Entry
    origin: str
    index: int
    tree_size: int
    recorded_ns: int
    witnessed_s: int | None
    cosignatures: tuple[Cosignature, ...]


def trial_balance(
    reader: Reader,
    checkpoint: Checkpoint,
    seed: bytes,
    *,
    accounts_max: int = 0,
    progress: Progress | None = None,
) -> TrialBalance:
    """All balances at a checkpoint, computed from the entries under it and nothing else, by the rules of settlement.

    That debits are credits follows from those rules; a difference would be a defect of the computation. What is not
    checked is that no id was given twice and that chains are whole: fsck does.

    The owner of an asset before its first transfer is taken from that transfer, as it was checked when it was recorded;
    it moves no money. fsck, which believes nothing, compares it with the asset's own entry.

    Args:
        seed: random bytes, so that nobody can choose ids that make it slow; the answer does not depend on them.
        accounts_max: how many accounts to tell one by one, `ACCOUNTS_MAX` at most.
    Raises:
        EntryNotFound: the shard has fewer entries. LogMismatch: the checkpoint is another log's.
        LedgerCorrupt: the entries do not lead to the checkpoint's root, or one breaks a rule of settlement.
    Cost: reads, hashes and replays every entry.
    """
    book, opened = Book(seed), [np.zeros((0, ID_BYTES), np.uint8)]
    for first, entries in _proved_blocks(reader, Checkpoint(checkpoint.origin, 0, b""), checkpoint, progress):
        book.replay(entries, first)
        opened.append(_field(entries[entries["kind"] == Kind.ACCOUNT], "id"))
    ids = np.concatenate(opened)
    told = [ids[place].tobytes() for place in range(min(len(ids), accounts_max, ACCOUNTS_MAX))]
    return TrialBalance(
        checkpoint,
        {currency: Totals(*sums) for currency, sums in book.trial_balance().items()},
        tuple((id_, book.balance(id_)) for id_ in told),
        len(ids),
    )


def changes(
    reader: Reader,
    old: Checkpoint,
    new: Checkpoint,
    *,
    moves_max: int = MOVES_MAX,
    progress: Progress | None = None,
) -> Changes:
    """What was recorded between two checkpoints, and the proof that nothing else changed.

    Raises:
        EntryNotFound, LogMismatch, LedgerCorrupt: see `trial_balance`.
        NotConsistent, SplitView: see `kept`.
    Cost: reads and hashes the entries between the two; a look-up for each end of what was held, and a proof for each
        of those that were held before the old checkpoint, about 0.2 ms.
    """
    kept_ = kept(reader, old, new)
    counts = np.zeros(256, np.int64)
    money: dict[int, list[int]] = {}
    owners: list[OwnerChange] = []
    num_owner_changes = 0
    for first, entries in _proved_blocks(reader, old, new, progress):
        counts += np.bincount(entries["kind"], minlength=len(counts))
        begun = _begun(reader, entries, first, old)
        _add_money(money, entries, begun)
        places = _owner_changes(entries)
        num_owner_changes += len(places)
        for place in places[: max(min(moves_max, MOVES_MAX) - len(owners), 0)].tolist():
            transfer = begun[place]
            asset, debit, owner = (transfer[name].tobytes() for name in ("subject", "debit", "owner"))
            owners.append(OwnerChange(first + place, asset, debit, owner))
    return Changes(
        old,
        new,
        {Kind(kind): int(counts[kind]) for kind in np.flatnonzero(counts).tolist()},
        {currency: Moved(*amounts) for currency, amounts in sorted(money.items())},
        tuple(owners),
        num_owner_changes,
        kept_.proof,
    )


def kept(reader: Reader, old: Checkpoint, new: Checkpoint) -> Kept:
    """The proof, verified, that nothing under an old checkpoint was removed or changed under a new one.

    Raises:
        EntryNotFound: the shard has fewer entries than a checkpoint. LogMismatch: one is another log's.
        NotConsistent, SplitView: what is stored does not prove it: the log has two histories. Keep both checkpoints.
    """
    for checkpoint in (old, new):
        _check_origin(reader, checkpoint)
    if old.tree_size > new.tree_size:
        raise LogMismatch(
            f"the old checkpoint has {old.tree_size} entries, the new one {new.tree_size}",
            where="checkpoints",
            fix="Give the smaller one first.",
        )
    proof = reader.consistency(old.tree_size, new.tree_size)
    check_growth(old, new, proof)
    return Kept(old, new, tuple(proof))


def kept_text(kept_: Kept, note: str) -> str:
    """The proof as a text for others: an add-checkpoint request of C2SP tlog-witness, from the old size to `note`."""
    return build_request(kept_.old.tree_size, kept_.proof, note)


def verify_kept(text: str, old: Checkpoint, policy: Policy) -> Kept:
    """Check `kept_text` offline, knowing the old checkpoint and trusting nothing but the policy.

    Raises:
        CheckpointRefused: malformed. ReceiptInvalid: the policy does not believe the new checkpoint.
        LogMismatch: it is of another log, or proves growth from another size.
        NotConsistent, SplitView: the new tree did not grow out of the old one.
    """
    request = parse_request(text)
    new = open_checkpoint_with_policy(request.note, policy).checkpoint
    if (new.origin, request.old_size) != (old.origin, old.tree_size):
        raise LogMismatch(
            f"a proof from {request.old_size} entries of {new.origin[:80]!r}",
            where=f"{old.tree_size} entries of {old.origin}",
            fix="Give the old checkpoint that the proof starts from.",
        )
    check_growth(old, new, request.proof)
    return Kept(old, new, request.proof)


def prove_existence(reader: Reader, id_: bytes, note: str | None = None) -> str:
    """The receipt of the entry with an id, under a signed checkpoint; under one that witnesses have cosigned it is
    proof of a time that the log did not choose.

    Raises:
        EntryNotFound: no such entry, or the checkpoint (the newest stored one, by default) does not cover it.
        ReceiptInvalid, LedgerCorrupt: see `ledger.prove.receipt_under`.
    """
    found = reader.by_id(id_)
    if found is None:
        raise EntryNotFound("no entry has this id", where=id_.hex(), fix="Give the id, and the shard that it is in.")
    return receipt_under(reader, found.index, note or reader.checkpoint())


def verify_existence(text: str, policy: Policy, before_ns: int, content: bytes | None = None) -> Existence:
    """Check offline that the entry of a receipt existed before a time (Unix time in nanoseconds).

    A cosignature says that its witness had seen the tree when it signed. So with a policy of k witnesses the k-th
    earliest of the witnesses tells: whoever would lie about it must have k of them. Its second has to be over before
    the time. With a policy of none it is the log's own word, the time in the entry.

    Raises:
        ReceiptInvalid: the receipt does not verify, or proves no time before this one; `where` names the step.
    """
    verified, witnessed = verify_with_policy(text, policy, content)
    earliest_s: dict[str, int] = {}  # one for each witness, however often it has cosigned
    for each in witnessed.cosignatures:
        earliest_s[each.name] = min(each.time_s, earliest_s.get(each.name, each.time_s))
    witnessed_s = sorted(earliest_s.values())[policy.threshold - 1] if policy.threshold else None
    by_ns = verified.entry.time_ns + 1 if witnessed_s is None else (witnessed_s + 1) * NS_PER_S
    if by_ns > before_ns:
        whose = "the log says" if witnessed_s is None else f"{policy.threshold} witnesses say"
        raise ReceiptInvalid(
            f"{whose} that it existed by {by_ns} ns, which is not before {before_ns} ns",
            where="step 8 time",
            fix="Ask for a later time, or for a receipt under an earlier cosigned checkpoint.",
        )
    entry, index, tree_size = verified.entry, verified.index, verified.tree_size
    return Existence(entry, verified.origin, index, tree_size, entry.time_ns, witnessed_s, witnessed.cosignatures)


def _check_origin(reader: Reader, checkpoint: Checkpoint) -> None:
    if checkpoint.origin != reader.origin:
        raise LogMismatch(
            f"a checkpoint of {checkpoint.origin[:80]!r}",
            where=reader.origin,
            fix="Give one of this shard, or ask the shard that signed it.",
        )


def _proved_blocks(
    reader: Reader, old: Checkpoint, new: Checkpoint, progress: Progress | None
) -> Iterator[tuple[int, Entries]]:
    """(first index, entries) for all between two sizes; after the last, that they lead to the new root is certain.

    Raises:
        LedgerCorrupt: they do not. Nothing that was made of the blocks may be used then.
    """
    _check_origin(reader, new)
    if new.tree_size > reader.tree_size:
        raise EntryNotFound(
            f"a checkpoint of {new.tree_size} entries; there are {reader.tree_size}",
            where=reader.origin,
            fix="Ask the shard itself, or a newer copy of it.",
        )
    edge = Edge.load(old.tree_size, reader.read_hashes)
    for begin in range(old.tree_size, new.tree_size, BLOCK_ENTRIES):
        end = min(begin + BLOCK_ENTRIES, new.tree_size)
        entries = from_bytes(reader.read_entries(begin, end))
        edge = edge.extended(leaf_hashes(as_bytes(entries)))[0]
        yield begin, entries
        if progress is not None:
            progress(end - old.tree_size, new.tree_size - old.tree_size)
    if edge.root() != new.root:
        raise LedgerCorrupt(
            f"the first {new.tree_size} entries do not lead to the root of the checkpoint",
            where=reader.origin,
            fix="Run fsck on the shard; keep the checkpoint: if the log has signed it, it proves what is wrong.",
        )


def _field(entries: Entries, name: str) -> NDArray[np.uint8]:
    """uint8[n, w], a field of bytes."""
    column = np.ascontiguousarray(entries[name])
    return column.view(np.uint8).reshape(len(entries), column.itemsize)


def _begun(reader: Reader, entries: Entries, first: int, old: Checkpoint) -> Entries:
    """The entries from index `first` on, and in place of each that ends a pending transfer that transfer, which comes
    before it: between the two checkpoints, or proved to be under the old one.

    Raises:
        LedgerCorrupt: an entry ends a transfer that is not there before it, or is not under the old checkpoint.
    """
    begun = entries.copy()
    is_end = np.isin(entries["kind"], (Kind.MONEY, Kind.OWNERSHIP)) & (entries["flags"] & int(ENDS) != 0)
    ends = np.flatnonzero(is_end)
    for start in range(0, len(ends), PAGE_MAX):
        places = ends[start : start + PAGE_MAX]
        indices = reader.indices_of(_field(entries[places], "subject"))
        is_lost = (indices < 0) | (indices >= first + places)
        found = reader.rows(np.where(is_lost, 0, indices).tolist())
        is_lost |= (found["kind"] != entries["kind"][places]) | (found["flags"] & int(Flag.PENDING) == 0)
        if is_lost.any():
            place = places[int(np.argmax(is_lost))]
            raise LedgerCorrupt(
                f"it ends the transfer {entries['subject'][place].tobytes().hex()}, which is not pending before it",
                where=f"entry {first + place}",
                fix="Run fsck on the shard and restore it from a copy.",
            )
        is_before = indices < old.tree_size
        _check_included(reader, old, indices[is_before].tolist(), as_bytes(found)[is_before])
        begun[places] = found
    return begun


def _check_included(reader: Reader, checkpoint: Checkpoint, indices: list[int], rows: NDArray[np.uint8]) -> None:
    """Check that the entries at some indices, uint8[n, 240], are under a checkpoint."""
    nodes = Nodes(checkpoint.tree_size, reader.read_hashes)
    for index, row in zip(indices, rows, strict=True):
        proof = inclusion_proof(index, checkpoint.tree_size, nodes)
        try:
            verify_inclusion(index, checkpoint.tree_size, leaf_hash(row.tobytes()), proof, checkpoint.root)
        except ReceiptInvalid as error:
            raise LedgerCorrupt(
                f"entry {index} is not under the checkpoint of {checkpoint.tree_size} entries: {error.what}",
                where=checkpoint.origin,
                fix="Run fsck on the shard and restore it from a copy.",
            ) from error


def _add_money(money: dict[int, list[int]], entries: Entries, begun: Entries) -> None:
    """Add what a block transferred, held and released, by currency."""
    is_money, flags = entries["kind"] == Kind.MONEY, entries["flags"]
    is_held, is_posted = flags & int(Flag.PENDING) != 0, flags & int(Flag.POST) != 0
    is_released = flags & int(Flag.VOID | Flag.EXPIRED) != 0
    amounts = np.where(is_posted & (entries["amount"] != 0), entries["amount"], begun["amount"])
    for currency in np.unique(begun["currency"][is_money]).tolist():
        chosen = is_money & (begun["currency"] == currency)
        sums = money.setdefault(currency, [0, 0, 0])
        for place, which in enumerate((~is_held & ~is_released, is_held, is_released)):
            sums[place] += sum(amounts[chosen & which].tolist())  # of Python's integers: it may exceed 64 bits


def _owner_changes(entries: Entries) -> NDArray[np.int64]:
    """The places at which an asset changes owner: transfers that are not pending, and posts."""
    flags = entries["flags"]
    happens = flags & int(Flag.PENDING | Flag.VOID | Flag.EXPIRED) == 0
    return np.flatnonzero((entries["kind"] == Kind.OWNERSHIP) & happens)
