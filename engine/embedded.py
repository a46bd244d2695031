"""Embedded mode: the whole engine in this process, on a thread of its own, without Ray. Same pipeline, same ledger.

One event loop runs the service; the generator steps in its own thread; ledger commits run in a third, one at a time.
"""

import asyncio
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.batcher import Batcher
from engine.calls import Call
from engine.config import Config, load
from engine.errors import StartFailed, describe
from engine.generators.contract import Draft, Generator
from engine.generators.runtime import text_environment
from engine.models.registry import resolve
from engine.pool import Inbox, Pool
from engine.records import SUPER_SHARD, Commit, Outcome, ShardKeeper, found
from engine.request import shard_of
from engine.service import Service
from engine.settling import Settlement
from engine.upkeep import Upkeep
from engine.worker import work
from gate.assess import Gate
from gate.policy import load_policies
from gate.verdict import Case, Verdict
from ledger.log import open_keys
from ledger.superlog import SUPER_DIR
from ledger.tiles import Source
from ledger.warm import warm_up

GIB = 1 << 30
CALLERS_MAX = 4  # threads of each shard for what is asked beside minting: one that hangs takes none of the others'
R = TypeVar("R")


class LoopThread:
    """An event loop in a thread, for callers that have none or must not block theirs."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.serve, name=name, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """The thread's work."""
        self.loop.run_forever()
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, R], timeout_s: float | None = None) -> R:
        """Run it there and wait for it here; an interrupted wait cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


class LocalStages:
    """Gate and ledger as objects of this process."""

    def __init__(self, gate: Gate, keepers: list[ShardKeeper]) -> None:
        self.gate = gate
        self.keepers = keepers
        self.num_shards = len(keepers)
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self.callers = [ThreadPoolExecutor(CALLERS_MAX, f"ledger-call-{keeper.number}") for keeper in keepers]
        self.committers = [Batcher(self.sender(keeper), num_calls_max=1) for keeper in keepers]

    def sender(self, keeper: ShardKeeper) -> Callable[[list[Commit]], Coroutine[Any, Any, list[Outcome]]]:
        """How a batch reaches a keeper."""

        async def send(batch: list[Commit]) -> list[Outcome]:
            return await self.in_executor(keeper.commit, batch)

        return send

    async def in_executor(self, call: Callable[..., R], *args: Any) -> R:
        """Off the event loop: these calls wait for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, call, *args)

    @property
    def logs(self) -> dict[str, Source]:
        """The logs that can be served as static resources, by name."""
        logs: dict[str, Source] = {str(keeper.number): keeper.shard for keeper in self.keepers}
        return logs | {SUPER_DIR: self.keepers[SUPER_SHARD].moments.log}

    async def assess(self, case: Case) -> Verdict:
        return self.gate.assess_batch([case])[0]

    async def record(self, commit: Commit) -> Outcome:
        return await self.committers[shard_of(commit.asset_id, len(self.keepers))](commit)

    async def find(self, asset_id: str) -> Outcome:
        keeper = self.keepers[shard_of(asset_id, len(self.keepers))]
        return found(await self.in_executor(keeper.find_one, asset_id))

    async def checkpoints(self) -> list[str]:
        return [keeper.shard.checkpoint() for keeper in self.keepers]

    async def call(self, shard: int, call: Call[R]) -> R:
        return await call.done(self.keepers[shard], self.callers[shard])

    def close(self) -> None:
        """Finish what is being written and give the shards back."""
        self.executor.shutdown(wait=True)
        for callers in self.callers:
            callers.shutdown(wait=True)
        for keeper in self.keepers:
            keeper.close()


class LocalPort:
    """The pool as a worker sees it, in one process."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def pull(self, worker_id: str, capacity: int, wait_s: float) -> Inbox:
        return await self.pool.pull(worker_id, capacity, wait_s)

    async def complete(self, worker_id: str, drafts: list[Draft]) -> None:
        self.pool.complete(worker_id, drafts)

    async def leave(self, worker_id: str) -> None:
        self.pool.leave(worker_id)


class Engine:
    """An engine in this process. `Engine.open(path)`, then `service` from its loop, or `engine.connect(engine)`.

    Args:
        config: the configuration.
        open_generator: called once all else is open, because it may take half a minute. A start that fails closes what
            it opened, the generator too.
    """

    def __init__(self, config: Config, open_generator: Callable[[Config], Generator]) -> None:
        self.config = config
        with contextlib.ExitStack() as opened:
            policies = load_policies(config.policies_path)
            warm_up()
            keys = open_keys(config.ledger_path, config.ledger.name, config.ledger.num_shards)
            map_bytes = int(config.ledger.map_gib * GIB)
            keepers = []
            for shard in range(config.ledger.num_shards):
                keeper = ShardKeeper(
                    config.ledger_path, keys, shard, map_bytes=map_bytes, now_ns=time.time_ns, entropy=os.urandom
                )
                opened.callback(keeper.close)
                keepers.append(keeper)
            generator = open_generator(config)
            opened.callback(generator.close)
            self.stages = LocalStages(Gate(policies), keepers)
            self.service = Service(config, policies, self.stages, keys.verifier_keys)
            self.settlement = Settlement(self.stages, time.time_ns)
            self.upkeep = Upkeep(self.stages, self.settlement, config.ledger.upkeep_s)
            self.thread = LoopThread("mintage")
            opened.pop_all()  # from here on `close` does it
        self.worker = asyncio.run_coroutine_threadsafe(self.generate(generator), self.thread.loop)
        self.keeping = asyncio.run_coroutine_threadsafe(self.upkeep.for_ever(), self.thread.loop)

    @classmethod
    def open(cls, path: Path | str, config: Config | None = None, *, generator: Generator | None = None) -> "Engine":
        """Start an engine with its ledger in a directory.

        Args:
            path: the data directory, made on first use.
            config: configs/local.yaml by default.
            generator: for tests; by default vLLM with the configured model, which takes about half a minute. It is
                the engine's, to be closed, once the ledger is open.
        Raises:
            StartFailed: the model cannot be loaded.
            LedgerError, PolicyError: the directory is in use or damaged; a policy file is wrong.
        """
        config = msgspec.structs.replace(config or load(None), data_dir=str(path))
        return cls(config, open_text_generator if generator is None else lambda _: generator)

    async def generate(self, generator: Generator) -> None:
        """Work until closed. A generator that fails has no successor here: requests then get its error."""
        try:
            worker_id = f"local-{uuid.uuid4().hex[:8]}"
            port = LocalPort(self.service.pool)
            await work(generator, port, worker_id, step_s_max=self.config.text.step_s_max)
        except Exception as error:
            self.service.pool.fail(describe(error))
            raise

    def close(self) -> None:
        """Stop open requests and the generator, and give the ledger back."""
        try:
            self.thread.run(self.service.close())
            self.worker.cancel()
            self.keeping.cancel()
            self.thread.run(self.drain())
        finally:
            self.thread.close()
            self.stages.close()

    async def drain(self) -> None:
        """Wait until the worker has closed its generator."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_text_generator(config: Config) -> Generator:
    """The configured text generator. vLLM is imported here, after its environment is set, because it reads it then."""
    for name, value in text_environment(config.text.threads).items():
        if name != "LD_PRELOAD":  # only a process that is still to start can preload
            os.environ.setdefault(name, value)
    source = resolve(config.text.model, config.cache_path)
    try:
        from engine.generators.text import TextGenerator
    except ImportError as error:
        raise StartFailed(
            f"vLLM cannot be imported: {error}",
            where="text generator",
            fix="Install the project's locked requirements (make setup), or the extra `cpu` or `gpu`.",
        ) from error
    return TextGenerator(source, config.text)
