"""Hops between actors: micro-batches of msgpack through Serve handles.

Every hop between our actors takes `bytes` and returns `bytes`: one message a batch, encoded once, nothing to pickle.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import msgspec
from ray.exceptions import RayTaskError

from engine.batcher import Batcher
from engine.errors import Unavailable, describe, rebuild
from engine.generators.contract import Draft
from engine.pool import Inbox
from engine.records import Commit, Outcome
from engine.request import shard_of
from gate.verdict import Case, Verdict

BATCH_SIZE_MAX = 256
CALLS_MAX = 4
HOP_S_MAX = 15.0  # a commit waits for the disk, and a replica may be starting; nothing else takes long
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # after that, every 5 s

encode = msgspec.msgpack.encode
log = logging.getLogger("mintage")


class Handle(Protocol):
    """The part of a Serve handle that we use: `handle.method.remote(...)`, awaited."""

    def __getattr__(self, name: str) -> Any: ...


def caller(method: Any, result_type: Any, where: str) -> Callable[[list[Any]], Awaitable[list[Any]]]:
    """A `Batcher` send over a handle's method.

    Raises:
        Unavailable: the actor died, cannot be reached, or did not answer in time; nothing is known of the batch's fate.
        MintageError: what the actor itself raised.
    """
    decoder = msgspec.msgpack.Decoder(list[result_type])

    async def send(batch: list[Any]) -> list[Any]:
        try:
            async with asyncio.timeout(HOP_S_MAX):
                answer = await method.remote(encode(batch))
        except RayTaskError as error:  # the actor is alive and said no
            raise rebuild(describe(error.cause or error)) from error
        except Exception as error:
            raise Unavailable(
                f"no answer: {type(error).__name__}",
                where=where,
                fix="It is started anew; send the request again with its idempotency key.",
            ) from error
        return decoder.decode(answer)

    return send


class RemoteStages:
    """Gate and ledger behind Serve handles.

    Judging and looking up are safe to repeat, and so is recording (an asset id is committed once), so a call whose
    actor does not answer is sent again, `len(RETRY_S)` times.
    """

    def __init__(self, gatekeeper: Handle, shards: list[Handle]) -> None:
        self.num_shards = len(shards)
        self.checkpointers = [caller(shard.checkpoint, str, f"ledger shard {n}") for n, shard in enumerate(shards)]
        self.judge: Batcher[Case, Verdict] = Batcher(
            caller(gatekeeper.assess, Verdict, "gate"), batch_size_max=BATCH_SIZE_MAX, num_calls_max=CALLS_MAX
        )
        self.committers = [self.batcher(shard.commit, n, num_calls_max=1) for n, shard in enumerate(shards)]
        self.finders = [self.batcher(shard.find, n, num_calls_max=CALLS_MAX) for n, shard in enumerate(shards)]

    def batcher(self, method: Any, num_shard: int, *, num_calls_max: int) -> Batcher[Any, Outcome]:
        """A batcher in front of a shard's method."""
        send = caller(method, Outcome, f"ledger shard {num_shard}")
        return Batcher(send, batch_size_max=BATCH_SIZE_MAX, num_calls_max=num_calls_max)

    async def assess(self, case: Case) -> Verdict:
        return await retried(lambda: self.judge(case))

    async def record(self, commit: Commit) -> Outcome:
        committer = self.committers[shard_of(commit.asset_id, self.num_shards)]
        return await retried(lambda: committer(commit))

    async def find(self, asset_id: str) -> Outcome:
        finder = self.finders[shard_of(asset_id, self.num_shards)]
        return await retried(lambda: finder(asset_id))

    async def checkpoints(self) -> list[str]:
        answers = await asyncio.gather(*(retried(partial(send, [])) for send in self.checkpointers))
        return [note for answer in answers for note in answer]


async def retried(call: Callable[[], Awaitable[Any]]) -> Any:
    """The call's result; a call that gets no answer is made again, with growing pauses, `len(RETRY_S)` times."""
    for pause_s in RETRY_S:
        try:
            return await call()
        except Unavailable as error:
            log.warning("%s; again in %s s", error, pause_s)
            await asyncio.sleep(pause_s)
    return await call()


class RemotePool:
    """The gateway's pool as a generator sees it. While the gateway is away it waits for it to come back."""

    def __init__(self, gateway: Handle) -> None:
        self.gateway = gateway
        self.decoder = msgspec.msgpack.Decoder(Inbox)
        self.num_pulls = 0

    async def pull(self, worker_id: str, capacity: int, wait_s: float) -> Inbox:
        self.num_pulls += 1
        return self.decoder.decode(await self.patiently("pull", worker_id, capacity, wait_s, self.num_pulls))

    async def complete(self, worker_id: str, drafts: list[Draft]) -> None:
        await self.patiently("complete", worker_id, encode(drafts))

    async def patiently(self, method: str, *args: Any) -> Any:
        """Call until the gateway answers. One that was started anew knows nothing of old claims and drops their drafts.

        Raises:
            RayTaskError: the gateway answered with an error; a defect, which ends the worker.
        """
        num_failures = 0
        while True:
            try:
                return await getattr(self.gateway, method).remote(*args)
            except RayTaskError:
                raise
            except Exception as error:
                pause_s = RETRY_S[min(num_failures, len(RETRY_S) - 1)]
                num_failures += 1
                log.warning("the gateway does not answer (%s); again in %s s", type(error).__name__, pause_s)
                await asyncio.sleep(pause_s)
