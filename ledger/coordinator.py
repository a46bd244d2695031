"""Carrying an exchange through (`ledger.decision`), and finishing what others have left: the thin part with the wires.

A coordinator has no state worth keeping. Any number may work on one exchange at once, and anyone may run `unfinished`
over the shards from time to time and `conclude` what it finds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ledger.decision import Answer, Progress, Request, after, give_up, requests
from ledger.entry import ZERO_HASH
from ledger.errors import EntryNotFound
from ledger.exchange import Exchange, decode
from ledger.legs import answers, holds
from ledger.shard import Shard

ROUNDS_MAX = 16
"""Fruitless rounds in a row after which a coordinator leaves an exchange to whoever looks for unfinished ones."""

UNFINISHED_MAX = 1024
"""Exchanges told by one call of `unfinished`."""

Send = Callable[[Request], Awaitable[Answer | None]]
"""Brings a request to its shard and its answer back; None if none came, whatever has become of the request."""


async def conclude(
    progress: Progress,
    send: Send,
    now_ns: Callable[[], int],
    pause: Callable[[int], Awaitable[None]],
    *,
    rounds_max: int = ROUNDS_MAX,
) -> Progress:
    """Go on with an exchange until it is over.

    Args:
        progress: from `begin`, or from `resume` for what somebody else has left.
        pause: waits before a stage is asked for again, given how often it was in vain.
    Returns:
        The last progress. If it still waits for shards, they did not answer `rounds_max` times; what was done so far
        is safe, and `unfinished` will find the rest.
    Raises:
        LedgerCorrupt: see `ledger.decision.after`.
    """
    num_vain = 0
    while progress.waiting and num_vain < rounds_max:
        if now_ns() > progress.exchange.deadline_ns:
            progress = give_up(progress)
        before = progress
        for answer in await asyncio.gather(*(send(request) for request in requests(progress))):
            progress = after(progress, answer) if answer is not None else progress
        if progress == before:
            num_vain += 1
            await pause(num_vain)
        else:
            num_vain = 0
    return progress


def to_shards(shards: Mapping[int, Shard]) -> Send:
    """Send to shards that this process owns. It commits within the call, so an event loop waits for the disk."""

    async def send(request: Request) -> Answer:
        return answers(shards[request.shard], [request])[0]

    return send


def unfinished(shard: Shard, now_ns: int, *, num_max: int = UNFINISHED_MAX) -> list[Exchange]:
    """Exchanges past their deadline that have legs held in a shard, the longest held first: to be resumed.

    Cost: as `Shard.live`, and a read of two rows for each live pending transfer up to the last one told.
    """
    found: dict[bytes, Exchange] = {}
    begin = 0
    while indices := shard.live(begin):
        for index in indices:
            exchange = _exchange_of(shard, index)
            if exchange is not None and exchange.deadline_ns < now_ns:
                found[exchange.digest] = exchange
            if len(found) == num_max:
                return list(found.values())
        begin = indices[-1] + 1
    return list(found.values())


def _exchange_of(shard: Shard, index: int) -> Exchange | None:
    """The exchange whose first leg in a shard is this; None if the transfer is no such leg, or there is no room to
    integrate what was sequenced, so that it cannot be read yet."""
    try:
        entry = shard.entry(index)
        exchange = decode(shard.meta(index)) if entry.meta_hash != ZERO_HASH else None
    except EntryNotFound:
        return None
    return exchange if exchange is not None and holds(entry, exchange) else None
