"""What a ledger needs to have done from time to time, whether or not anybody asks for anything:

    expire    record the end of pending transfers whose time is over; their money is free then
    finish    conclude exchanges past their deadline that somebody began and left
    moment    commit to the checkpoints of all shards at once (`ledger.superlog`)

Each is tried by itself, for each shard and each exchange: what fails, as by a shard that does not answer in time, is
logged and tried again the next time, and holds up nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from engine.calls import Call, CommitMoment, Expire, MomentSizes, Shards, ViewSince
from engine.errors import MintageError, Unavailable, describe
from engine.records import SUPER_SHARD
from engine.settling import Settlement
from ledger.errors import LedgerError
from ledger.exchange import Exchange

TASKS_MAX = 16
ANSWER_S_MAX = 20.0
"""For a shard, each time it is asked. Others wait no longer for it, and the next round asks again."""

LOOKS_MAX = 16
"""Looks for exchanges in a shard in one round, which go through 131,072 transfers that are held. The next round goes on
from there."""

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("mintage")


class Upkeep:
    """The upkeep of one engine's ledger. There may be more than one at work: all of it may be done twice.

    Args:
        interval_s: between the end of one round and the beginning of the next; 0: nothing is ever done.
    """

    def __init__(self, shards: Shards, settlement: Settlement, interval_s: float) -> None:
        self.shards = Answering(shards)
        self.settlement = Settlement(self.shards, settlement.now_ns)
        self.interval_s = interval_s
        self.begins: dict[int, int] = {}  # where the next look for exchanges begins, by shard

    async def for_ever(self) -> None:
        """Round after round of each, until cancelled."""
        if self.interval_s:
            await asyncio.gather(*map(self._again, self._tasks()))

    async def once(self) -> None:
        """One round of each, one after the other."""
        for task in self._tasks():
            await _logged(task)

    def _tasks(self) -> tuple[Callable[[], Awaitable[int | str]], ...]:
        return self.expire, self.finish, self.moment

    async def _again(self, task: Callable[[], Awaitable[int | str]]) -> None:
        while True:
            await asyncio.sleep(self.interval_s)
            await _logged(task)

    async def expire(self) -> int:
        """Free what is over in every shard; how many transfers."""
        return sum((await each(lambda shard: self.shards.call(shard, Expire()), self._shards())).values())

    async def finish(self) -> int:
        """Conclude exchanges past their deadline; how many are over now. Those with a part in a shard that has just
        not answered wait until it does."""
        found = await each(self._left_in, self._shards())
        exchanges = {exchange for some in found.values() for exchange in some if found.keys() >= set(exchange.shards)}
        return sum((await each(self.settlement.finish, exchanges)).values())

    async def _left_in(self, shard: int) -> list[Exchange]:
        """What was left in a shard, `LOOKS_MAX` looks on from where the last round got to. Of a shard that does not
        answer any more, what it told before."""
        exchanges: list[Exchange] = []
        for number in range(LOOKS_MAX):
            try:
                left = await self.settlement.unfinished(shard, self.begins.get(shard, 0))
            except (LedgerError, MintageError):
                if not number:
                    raise
                break
            exchanges += left.exchanges
            self.begins[shard] = left.next_begin or 0
            if left.next_begin is None:
                break
        return exchanges

    async def moment(self) -> str:
        """Commit to all shards; the super-checkpoint, which is the old one if nothing has grown. A shard that does not
        answer stays as it was in the moment before."""
        sizes = await self.shards.call(SUPER_SHARD, MomentSizes())
        views = await each(lambda shard: self.shards.call(shard, ViewSince(sizes.get(shard, 0))), self._shards())
        return await self.shards.call(SUPER_SHARD, CommitMoment(tuple(views.values())))

    def _shards(self) -> range:
        return range(self.shards.num_shards)


class Answering:
    """Shards that answer within `ANSWER_S_MAX`, or are unavailable."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.num_shards = shards.num_shards

    async def call(self, shard: int, call: Call[R]) -> R:
        """Raises what the shard does, and Unavailable where nothing comes of it in time."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await self.shards.call(shard, call)
        except TimeoutError as error:
            raise Unavailable(
                f"no answer to {type(call).__name__} within {ANSWER_S_MAX} s",
                where=f"ledger shard {shard}",
                fix="See to the shard; it is asked again before long.",
            ) from error


async def each(task: Callable[[T], Awaitable[R]], items: Iterable[T]) -> dict[T, R]:
    """Do it for each, TASKS_MAX at a time; what came of those that did not fail, in order. Why the others did is
    logged."""
    room, results = asyncio.Semaphore(TASKS_MAX), dict[T, R]()

    async def attempted(item: T) -> None:
        async with room:
            results[item] = await task(item)

    chosen = list(items)
    await asyncio.gather(*(_logged(partial(attempted, item)) for item in chosen))
    return {item: results[item] for item in chosen if item in results}


async def _logged(task: Callable[[], Awaitable[object]]) -> None:
    """Do it, or log why not."""
    try:
        await task()
    except Exception as error:
        body = describe(error)
        if body.code == MintageError.code:
            log.exception("upkeep failed for a defect")
        else:
            log.warning("upkeep: %s; it is tried again", body)
