"""Settlement as the engine offers it: accounts, transfers, assets for money, whose an asset is and what it was made
from. The rules are the ledger's (`ledger.settlement`, `ledger.decision`); this finds the shards and asks them.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from engine.calls import (
    Append,
    Call,
    Carry,
    ChildrenOf,
    EntryAt,
    OwnerOf,
    PlaceOf,
    Shards,
    StandingOf,
    SuperKey,
    Unfinished,
)
from engine.errors import (
    IdempotencyConflict,
    InvalidRequest,
    MintageError,
    NotFound,
    Overloaded,
    Unavailable,
    describe,
    kind_of,
)
from engine.money import (
    HOLD_S_MAX,
    AccountsBody,
    AccountStatus,
    Entered,
    ExchangeBody,
    Exchanged,
    Lineage,
    Ownership,
    Relative,
    TransfersBody,
    account_entries,
    limit_of,
    shard_of_currency,
    terms_of,
    transfer_entries,
)
from engine.records import SUPER_SHARD, is_recorded
from engine.request import shard_of
from ledger import dag
from ledger.coordinator import Left, conclude
from ledger.decision import Answer, Progress, Request, begin, resume
from ledger.entry import Entries, Entry, Parent, as_bytes
from ledger.errors import LedgerError
from ledger.exchange import Exchange
from ledger.legs import decision_id
from ledger.reader import Page
from ledger.result import Result

ROUNDS_MAX = 2
"""Fruitless rounds after which an exchange is left to its repeat, or to `Settlement.finish`."""

PAUSE_S = 0.2
DEPTH_DEFAULT = 8
NODES_MAX = 256
"""Entries in a lineage over HTTP: a look at a shard each."""

LOOK_S_MAX = 180.0
"""A look at a shard, with all that is tried before it is given up (`actors.hop.retried`)."""

Way = Literal["ancestors", "descendants"]
R = TypeVar("R")
log = logging.getLogger("mintage")


class Settlement:
    """Money and owners of one engine.

    Args:
        shards: of its ledger.
        now_ns: Unix time.
    Concurrency: one event loop. Every call may be made again; what it began then ends as it would have.
    """

    def __init__(self, shards: Shards, now_ns: Callable[[], int]) -> None:
        self.shards = shards
        self.now_ns = now_ns
        self.exchanging: set[asyncio.Task[Progress]] = set()
        self.under_way: dict[bytes, list[bytes]] = {}  # the digest of an exchange's terms, for each call, by its id

    async def open_accounts(self, body: AccountsBody) -> list[Entered]:
        """Open accounts, in one durable step; what became of each, in order."""
        keys = [account.key for account in body.accounts]
        return await self._enter(body.currency, account_entries(body), keys)

    async def transfer(self, body: TransfersBody) -> list[Entered]:
        """Move money, in one durable step; what became of each transfer, in order."""
        keys = [transfer.key for transfer in body.transfers]
        return await self._enter(body.currency, transfer_entries(body), keys)

    async def _enter(self, currency: int, entries: Entries, keys: list[str]) -> list[Entered]:
        shard = shard_of_currency(currency, self.shards.num_shards)
        answered = await self.shards.call(shard, Append(as_bytes(entries).tobytes()))
        ids = [bytes(id_).hex() for id_ in entries["id"].tolist()]
        results = [Result(code) for code in answered.results]
        return [
            Entered(key, id_, result.name.lower(), shard, index if is_recorded(result) else None)
            for key, id_, result, index in zip(keys, ids, results, answered.indices, strict=True)
        ]

    async def account(self, account_id: str) -> AccountStatus:
        """How an account stands.

        Raises:
            NotFound: there is none of this id.
            LedgerError, MintageError: none was found, and a shard could not be asked.
        """
        call, away = StandingOf(bytes.fromhex(account_id)), None
        asked = [asyncio.create_task(self._standing(shard, call)) for shard in range(self.shards.num_shards)]
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    if status := await answer:
                        return status
                except (LedgerError, MintageError) as error:
                    away = error
        finally:
            for task in asked:
                task.cancel()
        if away is not None:
            raise away
        raise NotFound(f"no account has the id {account_id}", where="account_id", fix="Open it first.")

    async def _standing(self, shard: int, call: StandingOf) -> AccountStatus | None:
        standing = await self.shards.call(shard, call)
        if standing is None:
            return None
        balance = standing.balance
        return AccountStatus(
            id=call.account.hex(),
            owner=standing.owner.hex(),
            currency=balance.currency,
            limit=limit_of(balance.flags),
            debits_pending=balance.debits_pending,
            debits_posted=balance.debits_posted,
            credits_pending=balance.credits_pending,
            credits_posted=balance.credits_posted,
            shard=shard,
            index=balance.index,
        )

    async def exchange(self, body: ExchangeBody) -> Exchanged:
        """Give an asset for money: all of it, or nothing. Once begun it goes on, whether or not anybody waits.

        Raises:
            InvalidRequest: its terms contradict themselves, or it would hold money for longer than HOLD_S_MAX.
            IdempotencyConflict: the key stands for other terms.
        """
        exchange = terms_of(body, self.shards.num_shards)
        if exchange.deadline_ns > self.now_ns() + HOLD_S_MAX * 10**9:
            raise InvalidRequest(
                f"the deadline is more than {HOLD_S_MAX} s away", where="deadline_ms", fix="Send an earlier one."
            )
        calls = self.under_way.setdefault(exchange.id, [])
        if exchange.digest not in (calls or [exchange.digest]):
            raise _other_terms(body.asset)  # before it calls off the first, of which nothing may be recorded yet
        calls.append(exchange.digest)
        progress = await self._alone(self._begun(exchange))
        if progress.is_committed is False and not await self._decided_of(exchange):
            raise _other_terms(body.asset)
        state, result = _outcome(progress)
        return Exchanged(exchange.id.hex(), state, result, body.asset, exchange.home)

    async def _decided_of(self, exchange: Exchange) -> bool:
        """Whether the decision under an exchange's id is of its own terms."""
        index = await self.shards.call(exchange.home, PlaceOf(decision_id(exchange.id)))
        assert index is not None, "it was decided"
        return (await self.shards.call(exchange.home, EntryAt(index))).content_hash == exchange.digest

    async def unfinished(self, shard: int, begin: int = 0) -> Left:
        """Exchanges past their deadline that somebody began and left, with a part in a shard: one look, from an index
        on. What is damaged there is logged."""
        left = await self.shards.call(shard, Unfinished(self.now_ns(), begin))
        for place in left.damaged:
            log.error("shard %d: what may be a leg of an exchange cannot be read: %s", shard, place)
        return left

    async def finish(self, exchange: Exchange) -> bool:
        """Conclude what somebody began and left; whether it is over now."""
        return not (await self._concluded(resume(exchange))).waiting

    async def _alone(self, concluding: Coroutine[Any, Any, Progress]) -> Progress:
        """Wait for it in a task and a context of its own: it goes on when whoever waits goes away."""
        task = asyncio.get_running_loop().create_task(concluding, context=contextvars.Context())
        self.exchanging.add(task)
        task.add_done_callback(self.exchanging.discard)
        return await asyncio.shield(task)

    async def _begun(self, exchange: Exchange) -> Progress:
        try:
            return await self._concluded(begin(exchange))
        finally:
            self.under_way[exchange.id].pop()
            if not self.under_way[exchange.id]:
                del self.under_way[exchange.id]

    async def _concluded(self, progress: Progress) -> Progress:
        return await conclude(progress, self._send, self.now_ns, _pause, rounds_max=ROUNDS_MAX)

    async def _send(self, request: Request) -> Answer | None:
        """No answer of a shard that cannot be asked now, or has no room."""
        try:
            return (await self.shards.call(request.shard, Carry((request,))))[0]
        except (LedgerError, MintageError) as error:
            if issubclass(kind_of(describe(error).code), Unavailable | Overloaded):
                return None
            raise

    async def owner(self, asset_id: str) -> Ownership:
        """Whose an asset is.

        Raises:
            NotFound: no asset has this id.
        """
        shard = shard_of(asset_id, self.shards.num_shards)
        owner = await self.shards.call(shard, OwnerOf(bytes.fromhex(asset_id)))
        if owner is None:
            raise _no_asset(asset_id)
        time_ms = owner.time_ns // 10**6
        return Ownership(asset_id, owner.owner.hex(), shard, owner.index, time_ms, owner.receipts)

    async def lineage(self, asset_id: str, way: Way = "ancestors", depth: int = DEPTH_DEFAULT) -> Lineage:
        """What an asset was made from, or what was made from it, over all shards; NODES_MAX entries at most.

        Raises:
            NotFound: no asset has this id.
            InvalidRequest: more than `ledger.dag.DEPTH_MAX` generations.
        """
        if not 0 <= depth <= dag.DEPTH_MAX:
            raise InvalidRequest(f"{depth} generations", where="depth", fix=f"Ask for 0 to {dag.DEPTH_MAX}.")
        shard = shard_of(asset_id, self.shards.num_shards)
        index = await self.shards.call(shard, PlaceOf(bytes.fromhex(asset_id)))
        if index is None:
            raise _no_asset(asset_id)
        loop = asyncio.get_running_loop()
        kin = {number: _Kin(self.shards, number, loop) for number in range(self.shards.num_shards)}
        walk = dag.ancestors if way == "ancestors" else dag.descendants
        told = await asyncio.to_thread(walk, kin, (shard, index), depth_max=depth, nodes_max=NODES_MAX)
        return Lineage(
            entries=tuple(
                Relative(_place(node.place), node.depth, node.entry.kind.name.lower(), node.entry.id.hex())
                for node in told.nodes
            ),
            edges=tuple((_place(child), _place(parent)) for child, parent in told.edges),
            is_truncated=told.is_truncated or bool(told.absent),
        )

    async def super_key(self) -> str:
        """The public key that super-checkpoints are signed with."""
        return await self.shards.call(SUPER_SHARD, SuperKey())


class _Kin:
    """A shard as `ledger.dag` asks it, from a thread beside the event loop."""

    def __init__(self, shards: Shards, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.shards = shards
        self.number = number
        self.loop = loop

    def entry(self, index: int) -> Entry:
        return self._asked(EntryAt(index))

    def children(self, shard: int, index: int, *, begin: int, limit: int) -> Page:
        return self._asked(ChildrenOf(shard, index, begin, limit))

    def _asked(self, call: Call[R]) -> R:
        return asyncio.run_coroutine_threadsafe(self.shards.call(self.number, call), self.loop).result(LOOK_S_MAX)


async def _pause(num_vain: int) -> None:
    await asyncio.sleep(PAUSE_S * num_vain)


def _outcome(progress: Progress) -> tuple[Literal["settled", "refused", "pending"], str]:
    """State and result of an exchange."""
    if progress.is_committed:
        return ("settled" if not progress.waiting else "pending"), Result.OK.name.lower()
    if progress.is_committed is None:
        return "pending", "undecided"
    if progress.refusal is None:
        return "refused", "deadline_exceeded"
    if progress.refusal in (Result.EXISTS, Result.EXISTS_WITH_DIFFERENT_AMOUNT):
        return "refused", "refused_before"
    return "refused", progress.refusal.name.lower()


def _other_terms(asset_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"the key stands for another exchange of the asset {asset_id}",
        where="key",
        fix="Use a new key for new terms, or send the first ones again.",
    )


def _no_asset(asset_id: str) -> NotFound:
    return NotFound(
        f"no released asset has the id {asset_id}", where="asset_id", fix="Use the id of an asset that was released."
    )


def _place(place: Parent) -> str:
    return f"{place[0]}/{place[1]}"
