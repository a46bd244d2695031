"""The generator actor: a generator, and the coroutine that keeps it fed from the gateway's pool."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from actors.hop import Handle, RemotePool
from engine.config import Config
from engine.embedded import open_text_generator
from engine.generators.contract import Generator
from engine.worker import work

FAREWELL_S_MAX = 2.0  # the worker's own (actors.hop.LEAVE_S_MAX) and some; Serve kills after actors.app.DRAIN_S


class GeneratorActor:
    """Loads the model, then works until it dies. A failed step makes it unhealthy, and Serve starts it anew.

    Args:
        config: the engine's configuration.
        gateway: called once the model is loaded; gives the gateway's handle.
        open_generator: how the generator is made.
    Raises:
        StartFailed: the model cannot be loaded.
    """

    def __init__(
        self,
        config: Config,
        gateway: Callable[[], Handle],
        open_generator: Callable[[Config], Generator] = open_text_generator,
    ) -> None:
        self.generator = open_generator(config)
        self.worker_id = f"{self.generator.info.name}-{uuid.uuid4().hex[:8]}"
        self.step_s_max = config.text.step_s_max
        self.gateway = gateway
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to pull; called by the first health check, which Serve makes inside the replica's event loop."""
        if self.task is None:
            port = RemotePool(self.gateway())
            working = work(self.generator, port, self.worker_id, step_s_max=self.step_s_max)
            self.task = asyncio.get_running_loop().create_task(working)

    async def check_health(self) -> None:
        """Serve's health check.

        Raises:
            Exception: the worker ended, with its cause.
        """
        await self.start()
        assert self.task is not None
        if self.task.done():
            self.task.result()
            raise RuntimeError("the generator's worker ended")

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve's farewell: it awaits what this returns, if anything still runs."""
        task = getattr(self, "task", None)
        return None if task is None or task.done() else farewell(task)


async def farewell(worker: "asyncio.Task[None]") -> None:
    """Let the worker tell the gateway that it goes, so that what it holds is given to others at once."""
    worker.cancel()
    await asyncio.wait({worker}, timeout=FAREWELL_S_MAX)
