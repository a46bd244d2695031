"""Post: calls between actors of one machine, over the fabric, in an event loop.

    post.serve(mailbox, handler)      answer what comes, as many at once as allowed
    await post.call(mailbox, data)    ask, and wait for the answer

A call is a message with a reply address; its answer is a message to the caller's own mailbox, under the call's number.
The message stays claimed until it is answered. So if the answerer dies, the call goes to another who serves the same
mailbox, or waits for one: a handler may see a call twice and must not mind.

Concurrency: one event loop and its fabric; `run` is the one task that takes messages.
Cost: two messages a call; while messages come, no system call.
"""

import asyncio
import contextvars
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from engine.errors import MintageError, Overloaded, Unavailable
from engine.fabric import Fabric, Message

Handler = Callable[[bytes], Awaitable[bytes]]

TICK_S = 0.5
ROOM_S = 0.002
ROOM_TRIES_MAX = 2_000  # some seconds: so long an answer waits for room, and then its caller has to ask again
CALLS_MAX = 1 << 62
TAKEN_AT_ONCE = 64  # then others of the loop have their turn

log = logging.getLogger("mintage")


class Served(NamedTuple):
    """A mailbox that is answered here, and how many calls of it may be under way."""

    handler: Handler
    num_calls_max: int
    under_way: set["asyncio.Task[None]"]


class NoAnswer(Unavailable):
    """A call brought no answer in time; nothing is known of its fate, but that nobody begins it any more."""


class Post:
    """Calls of one process.

    Args:
        fabric: used by this loop alone from here on.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.served: dict[int, Served] = {}
        # Numbers differ from those of a former user of this mailbox, whose answers may still come.
        self.numbers = itertools.count(random.getrandbits(61))
        self.ticked_s = 0.0

    def serve(self, mailbox: str, handler: Handler, *, num_calls_max: int = 1024) -> None:
        """Answer the calls that come to a named mailbox from now on. An exception of the handler is logged and not
        answered: a handler answers its errors as data."""
        self.served[self.fabric.mailbox_of(mailbox)] = Served(handler, num_calls_max, set())

    async def call(self, mailbox: str, data: bytes, *, timeout_s: float) -> bytes:
        """Ask whoever serves a mailbox; its answer.

        Raises:
            NoAnswer: none came in time.
            Overloaded: there is no room for the call; it was not made.
            InvalidRequest: it is too large, or there is no such mailbox.
        """
        number = next(self.numbers) % CALLS_MAX
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        ticket = None
        try:
            queue = self.fabric.mailbox_of(mailbox)
            ticket = self.fabric.send(queue, data, reply=self.fabric.address, call=number)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise NoAnswer(
                f"no answer after {timeout_s:g} s", where=mailbox, fix="Send the request again with its key."
            ) from None
        finally:
            del self.waiting[number]
            if ticket is not None and (answer.cancelled() or not answer.done()):
                self.fabric.cancel(ticket)

    async def run(self) -> None:
        """Take messages and deal with them, until cancelled."""
        own = self.fabric.mailbox
        while True:
            self.tick()
            num_taken = sum(self.take(queue) for queue in (own, *self.served))
            if num_taken:
                await asyncio.sleep(0)
            else:
                await self.fabric.rest([own, *self.open()], timeout_s=TICK_S)

    def tick(self) -> None:
        """Look after the dead, now and then."""
        now_s = time.monotonic()
        if now_s - self.ticked_s > TICK_S:
            self.ticked_s = now_s
            self.fabric.tick()

    def open(self) -> list[int]:
        """The mailboxes of which more calls may be begun."""
        return [queue for queue, served in self.served.items() if len(served.under_way) < served.num_calls_max]

    def take(self, queue: int) -> int:
        """Deal with what is in a mailbox, up to a limit; how many messages."""
        served = self.served.get(queue)
        for number in range(TAKEN_AT_ONCE):
            if served is not None and len(served.under_way) >= served.num_calls_max:
                return number
            message = self.fabric.take(queue)
            if message is None:
                return number
            if served is None:
                self.receive(message)
            else:
                self.begin(served, message)
        return TAKEN_AT_ONCE

    def receive(self, message: Message) -> None:
        """An answer: for who waits for it, if anybody still does."""
        answer = self.waiting.get(message.call)
        if answer is not None and not answer.done():
            answer.set_result(bytes(message.view))
        self.fabric.finish(message)

    def begin(self, served: Served, message: Message) -> None:
        """A call: handled in a task of its own."""
        # A context of its own, too: what comes here belongs to no request of this process.
        coroutine = self.answer(served, message)
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
        served.under_way.add(task)
        task.add_done_callback(served.under_way.discard)

    async def answer(self, served: Served, message: Message) -> None:
        """Handle a call and send the answer. Only then is the call finished; if this is cancelled, it waits anew."""
        try:
            data = await served.handler(bytes(message.view))
        except Exception:
            log.exception("a call failed for a defect")
            self.fabric.finish(message)
            return
        for _ in range(ROOM_TRIES_MAX):
            reply = self.fabric.mailbox_at(message.reply)
            try:
                if reply:
                    self.fabric.send(reply, data, call=message.call)
                break
            except Overloaded:
                await asyncio.sleep(ROOM_S)
            except MintageError:
                log.exception("an answer cannot be sent")
                break
        self.fabric.finish(message)
