"""The ledger shard actor: one shard's keeper behind a handle. What waits for the disk runs in threads."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from actors.hop import answering, encode
from engine.calls import decode_call
from engine.config import Config
from engine.embedded import CALLERS_MAX, GIB
from engine.errors import describe
from engine.records import Commit, Outcome, ShardKeeper
from ledger.errors import LedgerError
from ledger.log import open_keys
from ledger.tiles import serve
from ledger.warm import warm_up

R = TypeVar("R")


class LedgerShard:
    """The one writer of one shard; a second one is refused by the shard's lock."""

    def __init__(self, config: Config, shard: int) -> None:
        warm_up()
        keys = open_keys(config.ledger_path, config.ledger.name, config.ledger.num_shards)
        map_bytes = int(config.ledger.map_gib * GIB)
        self.keeper = ShardKeeper(
            config.ledger_path, keys, shard, map_bytes=map_bytes, now_ns=time.time_ns, entropy=os.urandom
        )
        self.commits = msgspec.msgpack.Decoder(list[Commit])
        self.ids = msgspec.msgpack.Decoder(list[str])
        self.writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self.callers = ThreadPoolExecutor(max_workers=CALLERS_MAX, thread_name_prefix="ledger-call")

    @answering
    async def commit(self, batch: bytes) -> bytes:
        """Encoded commits in, encoded outcomes out, in order. A full disk is an outcome of every item of the batch."""
        items = self.commits.decode(batch)
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self.writer, self.keeper.commit, items)
        except LedgerError as error:
            outcomes = [Outcome(error=describe(error))] * len(items)
        return encode(outcomes)

    @answering
    async def find(self, batch: bytes) -> bytes:
        """Encoded asset ids in, encoded outcomes out, in order."""
        return encode(self.keeper.find(self.ids.decode(batch)))

    @answering
    async def checkpoint(self, _: bytes) -> bytes:
        """The newest signed checkpoint, as an encoded list of one."""
        return encode([self.keeper.shard.checkpoint()])

    @answering
    async def call(self, data: bytes) -> bytes:
        """An encoded `engine.calls.Call` in, what it answers out, encoded."""
        return encode(await decode_call(data).done(self.keeper, self.callers))

    @answering
    async def read(self, path: str) -> bytes:
        """What the shard's log serves under a path (`ledger.tiles.serve`), encoded."""
        return encode(await self.in_thread(serve, path, self.keeper.shard))

    @answering
    async def read_super(self, path: str) -> bytes:
        """The same of the super-log, which is beside one of the shards."""
        return encode(await self.in_thread(serve, path, self.keeper.moments.log))

    async def in_thread(self, work: Callable[..., R], *args: Any) -> R:
        """Off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.callers, work, *args)

    def __del__(self) -> None:
        """Serve's farewell: give the shard back at once, so that a successor need not wait."""
        keeper = getattr(self, "keeper", None)
        if keeper is not None:
            self.writer.shutdown(wait=True)
            self.callers.shutdown(wait=True)
            keeper.close()
