"""An event loop whose clock is a number: it jumps to the next timer instead of sleeping until it.

So timeouts of minutes are tested in microseconds, in the same order on every run. A loop that has nothing left to do
while somebody still waits is stuck for ever; that raises `Stalled`, which is how lost work shows.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class Stalled(Exception):
    """Everybody waits, and no timer is left that could wake them."""


class JumpingSelector(selectors.DefaultSelector):
    """Adds the time it should have waited to `now_s`, and returns at once."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stalled("nothing is scheduled, and a coroutine still waits")
            self.now_s += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on a virtual clock that starts at 0. No threads: what they do takes no virtual time."""

    def __init__(self) -> None:
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now_s


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """`asyncio.run` on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def now_s() -> float:
    """The clock of the running loop, seconds."""
    return asyncio.get_running_loop().time()


async def settle(num_turns: int = 20) -> None:
    """Let everything that can run now run; no time passes."""
    for _ in range(num_turns):
        await asyncio.sleep(0)
