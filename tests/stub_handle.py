"""Serve handles of actors in this process."""

import pickle
from collections.abc import Awaitable, Callable
from typing import Any


class Method:
    """A method of an actor behind a handle: arguments and results are pickled, and calls may get lost on the way."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.method = method
        self.losses: list[BaseException] = []
        self.answer_losses: list[BaseException] = []
        self.num_calls = 0

    async def remote(self, *args: Any) -> Any:
        self.num_calls += 1
        if self.losses:
            raise self.losses.pop(0)
        answer = pickle.loads(pickle.dumps(await self.method(*pickle.loads(pickle.dumps(args)))))
        if self.answer_losses:
            raise self.answer_losses.pop(0)
        return answer


class StubHandle:
    """A Serve handle of an actor in this process."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.methods: dict[str, Method] = {}

    def __getattr__(self, name: str) -> Method:
        return self.methods.setdefault(name, Method(getattr(self.actor, name)))
