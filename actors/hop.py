"""Hops between actors: micro-batches of msgpack through Serve handles.

What a hop carries, either way, is encoded here, one message a batch. So are the errors of the actors: an answer is the
result or the actor's own error, as data. How Serve carries a raised error depends on its transport (raw over gRPC, in a
`RayTaskError` by object reference), and it raises errors of its own of many kinds, `RuntimeError` among them. With ours
out of the way, whatever a call raises means one thing: no answer.

Turned down: telling the two apart by the type of what was raised.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar

import msgspec

from engine.batcher import Batcher
from engine.calls import Call
from engine.errors import ErrorBody, MintageError, Unavailable, describe, rebuild
from engine.generators.contract import Draft
from engine.pool import Inbox
from engine.records import SUPER_SHARD, Commit, Outcome, found
from engine.request import shard_of
from gate.verdict import Case, Verdict
from ledger.superlog import SUPER_DIR

BATCH_SIZE_MAX = 256
BATCH_BYTES_MAX = 8 << 20  # an eighth of what Serve takes (actors.environment): an answer may be larger than its batch
CALLS_MAX = 4
HOP_S_MAX = 15.0  # a commit waits for the disk, and a replica may be starting; nothing else takes long
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # after that, every 5 s
LEAVE_S_MAX = 1.0
NOTHING = msgspec.Raw(msgspec.msgpack.encode(None))

P = ParamSpec("P")
R = TypeVar("R")
encode = msgspec.msgpack.encode
log = logging.getLogger("mintage")


class Answer(msgspec.Struct, frozen=True):
    """What an actor answers: its encoded result, or the error in its place."""

    result: msgspec.Raw = NOTHING
    error: ErrorBody | None = None


class NoAnswer(Unavailable):
    """A call brought no answer; nothing is known of its fate."""


answers = msgspec.msgpack.Decoder(Answer)


def answering(method: Callable[P, Awaitable[bytes]]) -> Callable[P, Coroutine[Any, Any, bytes]]:
    """A method for hops: what it returns, or the error it raises, comes back as an encoded `Answer`."""

    @functools.wraps(method)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> bytes:
        try:
            return encode(Answer(msgspec.Raw(await method(*args, **kwargs))))
        except Exception as error:
            body = describe(error)
            if body.code == MintageError.code:
                log.exception("a hop failed for a defect")
            return encode(Answer(error=body))

    return answer


class Handle(Protocol):
    """The part of a Serve handle that we use: `handle.method.remote(...)`, awaited."""

    def __getattr__(self, name: str) -> Any: ...


async def ask(where: str, method: Any, *args: Any) -> msgspec.Raw:
    """Call an `answering` method of a handle; its encoded result.

    Raises:
        NoAnswer: the actor died, cannot be reached, or did not answer in time.
        MintageError: what the actor itself raised.
    """
    try:
        async with asyncio.timeout(HOP_S_MAX):
            data = await method.remote(*args)
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
            raise  # we are; else an actor that is being stopped has cancelled its side, and Serve raises that here
        raise NoAnswer(
            f"no answer: {type(error).__name__}",
            where=where,
            fix="It is started anew; send the request again with its idempotency key.",
        ) from error
    answer = answers.decode(data)
    if answer.error is not None:
        raise rebuild(answer.error)
    return answer.result


def is_being_cancelled() -> bool:
    """Whether somebody has asked the running task to stop."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def caller(method: Any, result_type: Any, where: str) -> Callable[[list[Any]], Awaitable[list[Any]]]:
    """A `Batcher` send over a handle's method; a batch of more than BATCH_BYTES_MAX goes in parts, one after the other.

    Raises:
        NoAnswer, MintageError: see `ask`.
    """
    decoder = msgspec.msgpack.Decoder(list[result_type])

    async def send(batch: list[Any]) -> list[Any]:
        data = encode(batch)
        if len(data) > BATCH_BYTES_MAX and len(batch) > 1:
            middle = len(batch) // 2
            return await send(batch[:middle]) + await send(batch[middle:])
        return decoder.decode(await ask(where, method, data))

    return send


class RemoteStages:
    """Gate and ledger behind Serve handles.

    Judging and looking up are safe to repeat, and so is recording (an asset id is committed once), so a call whose
    actor does not answer is sent again, `len(RETRY_S)` times. `logs`: the logs as static resources, by name.
    """

    def __init__(self, gatekeeper: Handle, shards: list[Handle]) -> None:
        self.shards = shards
        self.num_shards = len(shards)
        self.checkpointers = [caller(shard.checkpoint, str, f"ledger shard {n}") for n, shard in enumerate(shards)]
        self.judge: Batcher[Case, Verdict] = Batcher(
            caller(gatekeeper.assess, Verdict, "gate"), batch_size_max=BATCH_SIZE_MAX, num_calls_max=CALLS_MAX
        )
        self.committers = [self.batcher(shard.commit, n, num_calls_max=1) for n, shard in enumerate(shards)]
        self.logs = {str(n): reader(shard.read, f"ledger shard {n}") for n, shard in enumerate(shards)}
        self.logs[SUPER_DIR] = reader(shards[SUPER_SHARD].read_super, "super-log")
        self.finders = [self.batcher(shard.find, n, num_calls_max=CALLS_MAX) for n, shard in enumerate(shards)]

    def batcher(self, method: Any, shard: int, *, num_calls_max: int) -> Batcher[Any, Outcome]:
        """A batcher in front of a shard's method."""
        send = caller(method, Outcome, f"ledger shard {shard}")
        return Batcher(send, batch_size_max=BATCH_SIZE_MAX, num_calls_max=num_calls_max)

    async def assess(self, case: Case) -> Verdict:
        return await retried(lambda: self.judge(case))

    async def record(self, commit: Commit) -> Outcome:
        committer = self.committers[shard_of(commit.asset_id, self.num_shards)]
        return await retried(lambda: committer(commit))

    async def find(self, asset_id: str) -> Outcome:
        finder = self.finders[shard_of(asset_id, self.num_shards)]
        return found(await retried(lambda: finder(asset_id)))

    async def checkpoints(self) -> list[str]:
        batches = await asyncio.gather(*(retried(functools.partial(send, [])) for send in self.checkpointers))
        return [note for batch in batches for note in batch]

    async def call(self, shard: int, call: Call[R]) -> R:
        data, method = encode(call), self.shards[shard].call
        answer = await retried(lambda: ask(f"ledger shard {shard}", method, data))
        result: R = msgspec.msgpack.decode(answer, type=call.answers)
        return result


def reader(method: Any, where: str) -> Callable[[str], Coroutine[Any, Any, bytes]]:
    """A log behind a shard's handle: a path -> what is served there (`ledger.tiles.serve`)."""
    decoder = msgspec.msgpack.Decoder(bytes)

    async def read(path: str) -> bytes:
        return decoder.decode(await retried(lambda: ask(where, method, path)))

    return read


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
        return self.decoder.decode(await patiently(self.gateway.pull, worker_id, capacity, wait_s, self.num_pulls))

    async def complete(self, worker_id: str, drafts: list[Draft]) -> None:
        await patiently(self.gateway.complete, worker_id, encode(drafts))

    async def leave(self, worker_id: str) -> None:
        """Once, and not for long: where it fails, the lease ends what the worker held."""
        with contextlib.suppress(MintageError, TimeoutError):
            async with asyncio.timeout(LEAVE_S_MAX):
                await ask("gateway", self.gateway.leave, worker_id)


async def patiently(method: Any, *args: Any) -> msgspec.Raw:
    """Call until the gateway answers. One that was started anew knows nothing of old claims and drops their drafts.

    Raises:
        MintageError: the gateway answered with an error; a defect, which ends the worker.
    """
    num_failures = 0
    while True:
        try:
            return await ask("gateway", method, *args)
        except NoAnswer as error:
            pause_s = RETRY_S[min(num_failures, len(RETRY_S) - 1)]
            num_failures += 1
            log.warning("%s; again in %s s", error.body.what, pause_s)
            await asyncio.sleep(pause_s)
