"""Bells: how a member who sleeps is woken. One named pipe a member; a byte in it is a ring.

A sender rings only whom he has crossed off the list of sleepers, so nobody rings for a member that is awake, and a
burst of messages rings once. A pipe that nobody reads, or that is full, is not rung: the first is dead and will be
recovered, the second has been rung often enough.

Turned down: a futex (no event loop can wait for it), an eventfd (it has to be handed from process to process), sockets
(a connection for each pair).
"""

import asyncio
import contextlib
import os
import select
from pathlib import Path

DRAIN_BYTES = 4096


class Bells:
    """One member's own bell, and those of the others as it comes to ring them.

    Concurrency: one thread.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.others: dict[int, int] = {}
        name = self.name(number)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(name, 0o600)
        # Opened for writing, too: a pipe without a writer would be readable all the time.
        self.own = os.open(name, os.O_RDWR | os.O_NONBLOCK)
        self.drain()

    def name(self, number: int) -> Path:
        return self.path / f"bell-{number}"

    def ring(self, number: int) -> None:
        """Wake a member. Cost: one system call, some microseconds; two more the first time."""
        handle = self.others.get(number)
        try:
            if handle is None:
                handle = self.others[number] = os.open(self.name(number), os.O_WRONLY | os.O_NONBLOCK)
            os.write(handle, b"\0")
        except BlockingIOError:
            pass
        except OSError:  # nobody reads it (ENXIO, EPIPE), or it is gone
            if (handle := self.others.pop(number, None)) is not None:
                os.close(handle)

    def drain(self) -> None:
        """Forget the rings so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.own, DRAIN_BYTES)

    def wait(self, timeout_s: float) -> None:
        """Block this thread until the bell rings, or so long."""
        select.select([self.own], [], [], timeout_s)
        self.drain()

    async def rung(self) -> None:
        """Wait in an event loop until the bell rings."""
        loop = asyncio.get_running_loop()
        rung = asyncio.Event()
        loop.add_reader(self.own, rung.set)
        try:
            await rung.wait()
        finally:
            loop.remove_reader(self.own)
            self.drain()

    def close(self) -> None:
        for handle in (self.own, *self.others.values()):
            os.close(handle)
        self.others.clear()
