"""Micro-batches: many callers, few calls.

A hop between processes costs about the same whatever it carries, so what arrives while a call is out leaves together
with the next one. No timer: an idle hop sends at once, a busy one fills its batches by being busy.
"""

import asyncio
import contextvars
import copy
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from engine.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Turn `send(list) -> list` into `await batcher(item)`.

    Args:
        send: one result per item, in order; an item's result may be an exception, which only its caller gets. When
            `send` itself raises, every caller of that batch gets the exception.
        batch_size_max: items in one call.
        num_calls_max: calls out at once.
    Concurrency: one event loop.
    """

    def __init__(
        self, send: Callable[[list[T]], Awaitable[list[R]]], *, batch_size_max: int = 256, num_calls_max: int = 2
    ) -> None:
        self.send = send
        self.batch_size_max = batch_size_max
        self.num_calls_max = num_calls_max
        self.waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self.calls: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.waiting.append((item, future))
        self.dispatch()
        return await future

    def dispatch(self) -> None:
        """Start calls while there is something to send and a call is free."""
        while self.waiting and len(self.calls) < self.num_calls_max:
            batch: list[tuple[T, asyncio.Future[R]]] = []
            while self.waiting and len(batch) < self.batch_size_max:
                item, future = self.waiting.popleft()
                if not future.done():  # its caller may have gone
                    batch.append((item, future))
            if batch:
                # A context of its own: in that of the caller who happens to start it, a server that cancels what
                # belongs to a request would cancel the others' calls too.
                task = asyncio.get_running_loop().create_task(self.call(batch), context=contextvars.Context())
                self.calls.add(task)
                task.add_done_callback(self.finished)

    async def call(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        """Send one batch and hand every caller its own result."""
        try:
            results = await self.send([item for item, _ in batch])
            assert len(results) == len(batch), f"{len(results)} results for {len(batch)} items"
        except Exception as error:
            self.reject(batch, error)
        except asyncio.CancelledError:
            self.reject(batch, Unavailable("the call was cancelled", where="hop", fix="Send the request again."))
            raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def reject(self, batch: list[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
        """Every caller of the batch gets a copy of the error: one raised in many places has nobody's traceback."""
        for _, future in batch:
            if not future.done():
                future.set_exception(copy.copy(error))

    def finished(self, task: asyncio.Task[None]) -> None:
        """A call came back: the next batch may go."""
        self.calls.discard(task)
        self.dispatch()
