"""What a ledger needs to have done from time to time, whether or not anybody asks for anything:

    expire    record the end of pending transfers whose time is over; their money is free then
    finish    conclude exchanges past their deadline that somebody began and left
    moment    commit to the checkpoints of all shards at once (`ledger.superlog`)

Each is tried by itself, for each shard and each exchange: what fails is logged and tried again the next time, and holds
up nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from engine.calls import CommitMoment, Expire, MomentSizes, Shards, ViewSince
from engine.errors import MintageError, describe
from engine.records import SUPER_SHARD
from engine.settling import Settlement

TASKS_MAX = 16

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("mintage")


class Upkeep:
    """The upkeep of one engine's ledger. There may be more than one at work: all of it may be done twice.

    Args:
        interval_s: between the end of one round and the beginning of the next; 0: nothing is ever done.
    """

    def __init__(self, shards: Shards, settlement: Settlement, interval_s: float) -> None:
        self.shards = shards
        self.settlement = settlement
        self.interval_s = interval_s

    async def for_ever(self) -> None:
        """Round after round, until cancelled."""
        while self.interval_s:
            await asyncio.sleep(self.interval_s)
            await self.once()

    async def once(self) -> None:
        """One round."""
        for task in (self.expire, self.finish, self.moment):
            await each(lambda task: task(), [task])

    async def expire(self) -> int:
        """Free what is over in every shard; how many transfers."""
        return sum(await each(lambda shard: self.shards.call(shard, Expire()), range(self.shards.num_shards)))

    async def finish(self) -> int:
        """Conclude exchanges past their deadline; how many are over now."""
        found = await each(self.settlement.unfinished, range(self.shards.num_shards))
        exchanges = {exchange.digest: exchange for some in found for exchange in some}
        return sum(await each(self.settlement.finish, exchanges.values()))

    async def moment(self) -> str:
        """Commit to all shards; the super-checkpoint, which is the old one if nothing has grown. A shard that does not
        answer stays as it was in the moment before."""
        sizes = await self.shards.call(SUPER_SHARD, MomentSizes())
        views = await each(
            lambda shard: self.shards.call(shard, ViewSince(sizes.get(shard, 0))), range(self.shards.num_shards)
        )
        return await self.shards.call(SUPER_SHARD, CommitMoment(tuple(views)))


async def each(task: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Do it for each, TASKS_MAX at a time; what came of those that did not fail. Why the others did is logged."""
    room = asyncio.Semaphore(TASKS_MAX)

    async def attempted(item: T) -> list[R]:
        async with room:
            try:
                return [await task(item)]
            except Exception as error:
                body = describe(error)
                if body.code == MintageError.code:
                    log.exception("upkeep failed for a defect")
                else:
                    log.warning("upkeep: %s; it is tried again", body)
                return []

    return [result for some in await asyncio.gather(*map(attempted, items)) for result in some]
