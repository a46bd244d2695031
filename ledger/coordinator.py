"""Carrying an exchange through (`ledger.decision`), and finishing what others have left: the thin part with the wires.

A coordinator has no state worth keeping. Any number may work on one exchange at once, and anyone may run `unfinished`
over the shards from time to time and `conclude` what it finds.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec

from ledger.decision import Answer, Progress, Request, after, give_up, requests
from ledger.entry import ENTRY_BYTES, ZERO_HASH, from_bytes
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.exchange import Exchange, decode
from ledger.legs import answers, holds
from ledger.reader import Reader
from ledger.shard import Shard

ROUNDS_MAX = 16
"""Fruitless rounds in a row after which a coordinator leaves an exchange to whoever looks for unfinished ones."""

LOOKS_MAX = 8192
"""Pending transfers that one call of `unfinished` looks at."""

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


class Left(msgspec.Struct, frozen=True):
    """What `unfinished` found: exchanges, the longest held first; what is damaged; and where to go on, if anywhere."""

    exchanges: list[Exchange]
    damaged: list[str]
    next_begin: int | None


def unfinished(shard: Shard, now_ns: int, begin: int = 0, *, looks_max: int = LOOKS_MAX) -> Left:
    """Exchanges past their deadline that have legs held in a shard from index `begin` on: to be resumed. What cannot
    be read hides nothing else.

    Cost: as `Shard.live`, a read of 10 us for each pending transfer without a timeout, of `looks_max` at most, and
    0.1 ms for each that has the terms of an exchange beside it.
    """
    found: dict[bytes, Exchange] = {}
    damaged = []
    reader = shard.reader()
    size = reader.tree_size  # where there is no room to integrate what was sequenced, that cannot be read yet
    indices = shard.live(begin, looks_max, is_timeless=True)
    for index in indices:
        try:
            if index >= size or not _names_terms(reader.read_entries(index, index + 1)):
                continue
            exchange = _exchange_of(shard, reader, index)
        except LedgerCorrupt as error:
            damaged.append(str(error))
            continue
        if exchange is not None and exchange.deadline_ns < now_ns:
            found[exchange.digest] = exchange
    return Left(list(found.values()), damaged, indices[-1] + 1 if len(indices) == looks_max else None)


def _exchange_of(shard: Shard, reader: Reader, index: int) -> Exchange | None:
    """The exchange whose first leg in a shard is this; None if the transfer is no such leg, or its terms were erased.
    By the reader, since the shard would integrate at every question.

    Raises:
        LedgerCorrupt: what is stored is not what was recorded.
    """
    entry, terms = reader.entry(index), reader.meta(index)
    if terms is None:
        with suppress(EntryNotFound):
            shard.meta(index)  # they were not erased: it says so
        return None
    if hashlib.sha256(terms).digest() != entry.meta_hash:
        raise LedgerCorrupt(
            "the bytes do not have their hash",
            where=f"metadata of entry {index}",
            fix="Run fsck on the shard and restore it from a copy.",
        )
    exchange = decode(terms)
    return exchange if exchange is not None and holds(entry, exchange) else None


def _names_terms(data: bytes) -> bool:
    """Whether an entry says that the terms it belongs to lie beside it."""
    assert len(data) == ENTRY_BYTES
    (row,) = from_bytes(data)
    meta_hash = row["meta_hash"].tobytes()
    return meta_hash != ZERO_HASH and meta_hash == row["request_hash"].tobytes()
