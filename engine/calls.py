"""What is asked of a shard beside minting: money, owners, lineage, and what a ledger needs to have done.

A call is plain data that knows how it is done where the shard is (`done`) and what comes back (`answers`), so that it
is the same for a shard of this process and for one behind a handle. All may be made again if their answer was lost: ids
make repeats harmless. What records goes through the shard's committer, where all who are there at a time share a flush;
what reads goes into a thread, and finds what was recorded before: it is integrated first. Where there is no room for
that (NotWritten), a look that would tell an older state is refused.
"""

import asyncio
from concurrent.futures import Executor
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from engine.records import ShardKeeper
from ledger import legs
from ledger.book import Balance
from ledger.coordinator import Left, unfinished
from ledger.decision import Answer, Request
from ledger.entry import Entry, as_bytes
from ledger.errors import EntryNotFound
from ledger.queries import owner_at
from ledger.reader import Page
from ledger.superlog import View

R = TypeVar("R")


class Call(msgspec.Struct, Generic[R], frozen=True, tag=True):
    """The root of them; R is what comes back."""

    answers: ClassVar[Any]

    async def done(self, keeper: ShardKeeper, threads: Executor) -> R:
        """Do it, in one of these threads if it has to wait. Raises LedgerError."""
        return await asyncio.get_running_loop().run_in_executor(threads, self.run, keeper)

    def run(self, keeper: ShardKeeper) -> R:
        """Do it, in a thread. Raises LedgerError."""
        raise NotImplementedError


class Shards(Protocol):
    """The shards of an engine, wherever they are.

    Raises (`call`):
        LedgerError, MintageError: what the shard said; Unavailable: nothing, for some time.
    """

    num_shards: int

    async def call(self, shard: int, call: Call[R]) -> R: ...


class Results(msgspec.Struct, frozen=True):
    """The answers to some entries: a `ledger.result.Result` each, and the index that goes with it."""

    results: bytes
    indices: list[int]


class Append(Call[Results], frozen=True):
    """Record entries (240 bytes each) that have no payloads, after the end of every transfer whose time is over."""

    entries: bytes
    answers = Results

    async def done(self, keeper: ShardKeeper, threads: Executor) -> Results:
        recorded = await keeper.committer.append_together(self.entries)
        return Results(bytes([answer.result for answer in recorded]), [answer.index for answer in recorded])


class Carry(Call[list[Answer]], frozen=True):
    """A shard's part in a stage of an exchange; an answer for each request."""

    requests: tuple[Request, ...]
    answers = list[Answer]

    async def done(self, keeper: ShardKeeper, threads: Executor) -> list[Answer]:
        entries, payloads = legs.batch(self.requests)
        recorded = await keeper.committer.append_together(as_bytes(entries).tobytes(), payloads)
        return legs.told(self.requests, [answer.result for answer in recorded])


class Unfinished(Call[Left], frozen=True):
    """Exchanges past their deadline that a shard holds legs of (`ledger.coordinator.unfinished`)."""

    now_ns: int
    begin: int
    answers = Left

    def run(self, keeper: ShardKeeper) -> Left:
        return unfinished(keeper.shard, self.now_ns, self.begin)


class Expire(Call[int], frozen=True):
    """Record the end of transfers whose time is over; how many."""

    answers = int

    def run(self, keeper: ShardKeeper) -> int:
        return keeper.shard.expire_all()


class Standing(msgspec.Struct, frozen=True):
    """An account as it stands, and whose it is (bytes[16])."""

    balance: Balance
    owner: bytes


class StandingOf(Call[Standing | None], frozen=True):
    """How an account stands; None if the shard has none of this id."""

    account: bytes
    answers = Standing | None

    def run(self, keeper: ShardKeeper) -> Standing | None:
        try:
            balance = keeper.shard.balance(self.account)
        except EntryNotFound:
            return None
        return Standing(balance, EntryAt(balance.index).run(keeper).owner)


class Owner(msgspec.Struct, frozen=True):
    """Whose an asset is (bytes[16]), since which entry, and the receipts that show it: of the entry that names the
    owner, and of the one that posted it if that is another one."""

    owner: bytes
    index: int
    time_ns: int
    receipts: tuple[str, ...]


class OwnerOf(Call[Owner | None], frozen=True):
    """Whose an asset is; None if the shard has none of this id."""

    asset: bytes
    answers = Owner | None

    def run(self, keeper: ShardKeeper) -> Owner | None:
        keeper.shard.integrate()
        reader = keeper.shard.reader()
        try:
            change = owner_at(reader, self.asset, reader.tree_size - 1)
        except EntryNotFound:
            return None
        receipts = tuple(keeper.shard.receipt(index) for index in sorted({change.named_by, change.index}))
        return Owner(change.owner, change.index, change.time_ns, receipts)


class PlaceOf(Call[int | None], frozen=True):
    """The index of the entry with an id; None if the shard has none."""

    id: bytes
    answers = int | None

    def run(self, keeper: ShardKeeper) -> int | None:
        index = keeper.shard.find(self.id)
        if index is None:
            keeper.shard.integrate()
            index = keeper.shard.find(self.id)
        return index


class EntryAt(Call[Entry], frozen=True):
    """The entry at an index, checked against its leaf."""

    index: int
    answers = Entry

    def run(self, keeper: ShardKeeper) -> Entry:
        try:
            return keeper.shard.entry(self.index)
        except EntryNotFound:
            keeper.shard.integrate()
            return keeper.shard.entry(self.index)


class ChildrenOf(Call[Page], frozen=True):
    """The shard's entries that name (parent_shard, parent_index) as a parent: a page of them."""

    parent_shard: int
    parent_index: int
    begin: int
    limit: int
    answers = Page

    def run(self, keeper: ShardKeeper) -> Page:
        keeper.shard.integrate()
        reader = keeper.shard.reader()
        return reader.children(self.parent_shard, self.parent_index, begin=self.begin, limit=self.limit)


class ViewSince(Call[View], frozen=True):
    """The newest checkpoint, with the proof that it grew out of the first `tree_size` entries."""

    tree_size: int
    answers = View

    def run(self, keeper: ShardKeeper) -> View:
        return keeper.view(self.tree_size)


class MomentSizes(Call[dict[int, int]], frozen=True):
    """How many entries of each shard the newest moment covers (`SuperLog.sizes`); of `records.SUPER_SHARD` only."""

    answers = dict[int, int]

    def run(self, keeper: ShardKeeper) -> dict[int, int]:
        return dict(keeper.moments.sizes())


class CommitMoment(Call[str], frozen=True):
    """Record a moment; its super-checkpoint (`SuperLog.commit`). Of `records.SUPER_SHARD` only."""

    views: tuple[View, ...]
    answers = str

    def run(self, keeper: ShardKeeper) -> str:
        return keeper.moments.commit(self.views)


class SuperKey(Call[str], frozen=True):
    """The public key that super-checkpoints are signed with. Of `records.SUPER_SHARD` only."""

    answers = str

    def run(self, keeper: ShardKeeper) -> str:
        return keeper.super_key


AnyCall = (
    Append | Carry | Unfinished | Expire | StandingOf | OwnerOf | PlaceOf | EntryAt | ChildrenOf | ViewSince
    | MomentSizes | CommitMoment | SuperKey
)  # fmt: skip

decode_call = msgspec.msgpack.Decoder(AnyCall).decode
