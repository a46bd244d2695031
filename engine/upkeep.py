"""What a ledger needs to have done from time to time, whether or not anybody asks for anything:

    expire    record the end of pending transfers whose time is over; their money is free then
    finish    conclude exchanges past their deadline that somebody began and left
    moment    commit to the checkpoints of all shards at once (`ledger.superlog`)

Each is tried by itself: what fails is logged and tried again the next time, and holds up nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from engine.calls import CommitMoment, Expire, MomentSizes, Shards, ViewSince
from engine.errors import MintageError, describe
from engine.records import SUPER_SHARD
from engine.settling import Settlement

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
        for task in (self.expire, self.settlement.finish, self.moment):
            await attempted(task)

    async def expire(self) -> int:
        """Free what is over in every shard; how many transfers."""
        return sum([await self.shards.call(shard, Expire()) for shard in range(self.shards.num_shards)])

    async def moment(self) -> str:
        """Commit to all shards; the super-checkpoint, which is the old one if nothing has grown."""
        sizes = await self.shards.call(SUPER_SHARD, MomentSizes())
        numbers = range(self.shards.num_shards)
        views = await asyncio.gather(*(self.shards.call(n, ViewSince(sizes.get(n, 0))) for n in numbers))
        return await self.shards.call(SUPER_SHARD, CommitMoment(tuple(views)))


async def attempted(task: Callable[[], Awaitable[object]]) -> None:
    """Do it; what it fails with goes into the log."""
    try:
        await task()
    except Exception as error:
        body = describe(error)
        if body.code == MintageError.code:
            log.exception("upkeep failed for a defect")
        else:
            log.warning("upkeep: %s; it is tried again", body)
