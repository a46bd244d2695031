"""The fabric: messages between the processes of one machine, through memory that they share.

    send(mailbox, bytes)   ->  take(mailbox)  ->  finish        first in, first out
    submit(pool, bytes)    ->  claim(pool)    ->  finish        the most valuable first (engine.router)

A message is written once, into a slot of the smallest class that it fits, and read where it lies. What a member has
taken is his until he finishes it, gives it back, leaves or dies; then it goes to the others. Each call does what it
can at once and says so when there is nothing or no room: nobody waits for anybody, and nothing here blocks but `wait`.

A `Fabric` is one member: one thread's. Others of the same process open it again for themselves.

Cost: about 2 us a call from Python; a message of some KB is copied in once and can be read without a copy.
"""

import asyncio
import bisect
import contextlib
import time
from collections.abc import Callable, Iterable

import msgspec
import numpy as np

from engine import dispatch, mailbox, members, recovery, router, segment, slots
from engine.atomics import WORD_BYTES
from engine.bells import Bells
from engine.errors import InvalidRequest, Overloaded, Unavailable
from engine.layout import Sizes
from engine.slots import NONE

EPOCH_SHIFT = 8
"""A reply address: the member's number, and above it the epoch in which the number is his."""

SPARES_FROM = 4096

Buffer = bytes | bytearray | memoryview

WAIT_S_MAX = 0.5
"""A sleeper looks around at least so often, for what no bell told him (its ringer may have died)."""


class Message(msgspec.Struct):
    """A message that the member has taken, and must finish or give back.

    Args:
        slot, ticket: where it lies, and what names it to others.
        view: its bytes, in place; not to be used once it is finished.
        reply: the address of who waits for an answer (`Fabric.address`), 0 if nobody does.
        call: the number under which they wait.
        start_ns, cost_ns, klass: as given to `submit`.
        num_deaths: how many members died while they had it.
    """

    slot: int
    ticket: int
    view: memoryview
    reply: int
    call: int
    start_ns: int
    cost_ns: int
    klass: int
    num_deaths: int


class Fabric:
    """A member's view of the fabric.

    Args:
        name: of the engine on this machine; who gives the same name meets.
        sizes: what to make room for, if nobody has made it yet.
        now_ns: the clock that latest starts are told by; the same in all processes.
    Raises:
        StartFailed, Unavailable: see `engine.segment.join`.
    Concurrency: one thread.
    """

    def __init__(
        self,
        name: str,
        sizes: Sizes | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        only_existing: bool = False,
    ) -> None:
        self.now_ns = now_ns
        self.segment, self.number = segment.join(name, sizes or Sizes(), only_existing=only_existing)
        self.words, self.layout = self.segment.words, self.segment.layout
        self.classes = self.layout.sizes.classes
        self.class_bytes = [klass.num_bytes for klass in self.classes]
        self.areas = [self.layout.area(number) for number in range(len(self.classes))]
        # Of a class with many slots one is always ready to be written; of few, it might be the one that another needs.
        self.spared = [klass.num_slots >= SPARES_FROM for klass in self.classes]
        self.spares = [NONE for _ in self.classes]
        self.out = np.zeros(dispatch.OUT_WORDS, np.int64)
        self.hand = np.zeros((len(self.classes) + 1) * slots.HAND_WORDS, np.int64)
        self.blocks_hand = len(self.classes) * slots.HAND_WORDS
        self.bells = Bells(self.segment.path, self.number)
        self.mailbox = int(self.layout.mailboxes + self.number * self.layout.mailbox_words)
        self.address = self.number | (self.epoch_of(self.number) << EPOCH_SHIFT)
        self.weights: dict[int, router.Weights] = {}
        self.num_claims = 0
        self.recovering: set[int] = set()
        recovery.empty(self.words, self.number, self.number)  # what came for a former user of the number
        self.tick()

    # Where things are

    def mailbox_of(self, name: str) -> int:
        """The queue of a named mailbox.

        Raises:
            InvalidRequest: the fabric was made without it.
        """
        return self._named(self.layout.mailbox_offsets, name, "mailbox")

    def pool_of(self, name: str) -> int:
        """The queue of a pool.

        Raises:
            InvalidRequest: the fabric was made without it.
        """
        return self._named(self.layout.pool_offsets, name, "pool")

    def _named(self, offsets: dict[str, int], name: str, kind: str) -> int:
        if name not in offsets:
            raise InvalidRequest(
                f"there is no {kind} {name!r}; there are {', '.join(offsets) or 'none'}",
                where=str(self.segment.path),
                fix="Use one of these names, or stop the engine and start it with a configuration that has it.",
            )
        return offsets[name]

    def epoch_of(self, number: int) -> int:
        """How often a member's number has been used."""
        return int(self.words[members.member_at.py_func(self.layout.members, number)]) >> members.EPOCH_SHIFT

    def mailbox_at(self, address: int) -> int:
        """The mailbox of a reply address; 0 if that member is gone."""
        number = address & ((1 << EPOCH_SHIFT) - 1)
        if not 0 < number <= members.NUM_MEMBERS:
            return 0
        word = int(self.words[members.member_at.py_func(self.layout.members, number)])
        if word & members.STATE_MASK != members.ALIVE or word >> members.EPOCH_SHIFT != address >> EPOCH_SHIFT:
            return 0
        return self.layout.mailboxes + number * self.layout.mailbox_words

    # Sending

    def _slot_for(self, num_bytes: int) -> tuple[int, int]:
        """A free slot for so many bytes, of the smallest class that has one: the class, and the slot, in WRITING.

        Raises:
            InvalidRequest: more than the largest class has.
            Overloaded: no slot is free.
        """
        for number in range(bisect.bisect_left(self.class_bytes, num_bytes), len(self.classes)):
            slot, self.spares[number] = self.spares[number], NONE
            if slot == NONE:
                area = self.layout.area(number)
                slot = slots.claim(self.words, area, self.number, self.hand, number * slots.HAND_WORDS)
            if slot != NONE:
                return number, slot
        if num_bytes <= self.class_bytes[-1]:
            raise Overloaded("no slot is free for a message", where=self._where, fix="Try again shortly.")
        raise InvalidRequest(
            f"a message of {num_bytes} bytes, at most {self.class_bytes[-1]} fit",
            where=self._where,
            fix="Send less at once, or give the fabric a larger class.",
        )

    def _bytes_at(self, number: int, slot: int) -> int:
        """Where the bytes of a slot of that class begin."""
        place = (slot - self.layout.records[number]) // mailbox.MESSAGE_WORDS
        return self.layout.slabs[number] * WORD_BYTES + place * self.class_bytes[number]

    @property
    def _where(self) -> str:
        return str(self.segment.path)

    def _write(self, data: Buffer, num_bytes: int) -> tuple[int, int]:
        """Copy a message into a slot; its class, and the slot."""
        number, slot = self._slot_for(num_bytes)
        begin = self._bytes_at(number, slot)
        self.segment.bytes[begin : begin + num_bytes] = data
        return number, slot

    def send(self, queue: int, data: Buffer, *, reply: int = 0, call: int = 0) -> int:
        """Put a message into a mailbox; its ticket.

        Raises:
            InvalidRequest: it is too large.
            Overloaded: no slot, or no room in the mailbox; nothing was sent.
        """
        num_bytes = len(data)
        number, slot = self._write(data, num_bytes)
        woken, ticket, self.spares[number] = dispatch.send(
            self.words, queue, slot, num_bytes, reply, call,
            self.areas[number], self.spared[number], self.number, self.hand, number * slots.HAND_WORDS,
        )  # fmt: skip
        if woken != 0:
            self._sent(woken, slot, "mailbox")
        return ticket

    def submit(
        self,
        pool: int,
        data: Buffer,
        *,
        start_ns: int,
        cost_ns: int,
        value: int,
        level: int = 0,
        reply: int = 0,
        call: int = 0,
    ) -> int:
        """Put a message into a pool; its ticket.

        Args:
            start_ns: when it must begin at the latest to be on time as predicted.
            cost_ns: what it is predicted to take of one place of the pool.
            value: micro-units, if it is on time.
            level: 0 to 3; of equal worth, the lower goes first.
        Raises:
            InvalidRequest: it is too large.
            Overloaded: no slot, or no room in the grid; nothing was submitted.
        """
        num_bytes = len(data)
        number, slot = self._write(data, num_bytes)
        woken, ticket, self.spares[number] = dispatch.submit(
            self.words, pool, slot, num_bytes, reply, call, start_ns, cost_ns, value, level, self.now_ns(),
            self.areas[number], self.spared[number], self.number,
            self.hand, number * slots.HAND_WORDS, self.blocks_hand,
        )  # fmt: skip
        if woken != 0:
            self._sent(woken, slot, "pool")
        return ticket

    def _sent(self, woken: int, slot: int, where: str) -> None:
        """Ring for who is to be woken, or take back what found no room."""
        if woken > 0:
            self.bells.ring(woken)
        else:
            mailbox.discard(self.words, self._area_of(slot), slot, self.number)
            raise Overloaded(f"the {where} is full", where=self._where, fix="Try again shortly.")

    def cancel(self, ticket: int) -> int:
        """Take a message back: `mailbox.CANCELLED`, `mailbox.GONE`, or the number of the member who has claimed it."""
        area = self._area_of(slots.slot_of.py_func(ticket))
        return int(mailbox.cancel(self.words, area, ticket))

    def _class_of(self, slot: int) -> int:
        """The class that a slot is of."""
        return bisect.bisect_right(self.layout.records, slot) - 1

    def _area_of(self, slot: int) -> int:
        return self.layout.area(self._class_of(slot))

    # Taking

    def take(self, queue: int) -> Message | None:
        """Claim the first message of a mailbox; None if there is none."""
        return self._message() if dispatch.take(self.words, queue, self.number, self.out) else None

    def claim(self, pool: int) -> Message | None:
        """Claim the message of a pool that is worth most now; None if nothing waits."""
        weights = self.weights.get(pool)
        if weights is None:
            mean_ns, tick_ns = int(self.words[pool + router.MEAN]), int(self.words[pool + router.TICK])
            weights = self.weights[pool] = router.weights_of(mean_ns, tick_ns)
        self.num_claims += 1
        earliest = self.num_claims % router.EARLIEST_EVERY == 0
        found = dispatch.claim(
            self.words, pool, self.number, self.now_ns(), weights, earliest, self.hand, self.blocks_hand, self.out
        )
        return self._message() if found else None

    def take_late(self, pool: int) -> Message | None:
        """Claim a message of a pool that cannot be on time any more; None if there is none."""
        hand, at = self.hand, self.blocks_hand
        found = dispatch.take_late(self.words, pool, self.number, self.now_ns(), hand, at, self.out)
        return self._message() if found else None

    def _message(self) -> Message:
        slot, ticket, length, reply, call, start_ns, cost_ns, klass, num_deaths = self.out.tolist()
        begin = self._bytes_at(self._class_of(slot), slot)
        view = self.segment.bytes[begin : begin + length]
        return Message(slot, ticket, view, reply, call, start_ns, cost_ns, klass & 0xFF, num_deaths)

    def holds(self, message: Message) -> bool:
        """Whether the message is still this member's."""
        word = int(self.words[message.slot])
        return bool(slots.is_of(message.ticket, word)) and slots.owner_of(word) == self.number

    def finish(self, message: Message) -> bool:
        """The message is dealt with. False: it was not this member's any more."""
        message.view.release()
        return bool(mailbox.finish(self.words, self._area_of(message.slot), message.slot, self.number))

    def give_back(self, pool: int, message: Message) -> bool:
        """Return a message of a pool to its place. False: there is no room; it is still the member's."""
        hand, at = self.hand, self.blocks_hand
        if not router.put_back(self.words, pool, message.slot, self.number, self.now_ns(), hand, at):
            return False
        message.view.release()
        self._ring_one(pool + router.POOL_SLEEPERS)
        return True

    # Sleeping and waking

    def _ring_one(self, queue: int) -> None:
        woken = int(mailbox.waken(self.words, queue))
        if woken > 0:
            self.bells.ring(woken)

    def fall_asleep(self, mailboxes: Iterable[int], pools: Iterable[int] = ()) -> bool:
        """Announce that this member will wait for its bell. False: something is there, and nothing is announced."""
        awake = not all(mailbox.fall_asleep(self.words, queue, self.number) for queue in mailboxes)
        awake = awake or not all(router.fall_asleep(self.words, pool, self.number) for pool in pools)
        if awake:
            self.wake_up(mailboxes, pools)
        return not awake

    def wake_up(self, mailboxes: Iterable[int], pools: Iterable[int] = ()) -> None:
        """Take the announcement back."""
        for queue in mailboxes:
            mailbox.wake_up(self.words, queue, self.number)
        for pool in pools:
            mailbox.wake_up(self.words, pool + router.POOL_SLEEPERS, self.number)

    def wait(self, mailboxes: Iterable[int], pools: Iterable[int] = (), timeout_s: float = WAIT_S_MAX) -> None:
        """Block this thread until something comes, or for so long."""
        if self.fall_asleep(mailboxes, pools):
            self.bells.wait(timeout_s)
            self.wake_up(mailboxes, pools)

    async def rest(self, mailboxes: Iterable[int], pools: Iterable[int] = (), timeout_s: float = WAIT_S_MAX) -> None:
        """Wait in an event loop until something comes, or for so long."""
        if self.fall_asleep(mailboxes, pools):
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await self.bells.rung()
            finally:
                self.wake_up(mailboxes, pools)

    # Life and death

    def tick(self) -> list[int]:
        """Say that this member lives, and recover those that died; their numbers. To be called about once a second.

        Cost: some 10 us a member; some ms for each that died.
        """
        words, first = self.words, self.layout.members
        words[members.member_at.py_func(first, self.number) + members.SEEN] = self.now_ns()
        for number in range(1, members.NUM_MEMBERS + 1):
            at = members.member_at.py_func(first, number)
            seen = int(words[at])
            in_use = seen & members.STATE_MASK in (members.ALIVE, members.JOINING)
            gone = in_use and number != self.number and not segment.is_alive(words, at)
            if gone and members.begin_recovery(words, first, number, seen, self.number):
                self.recovering.add(number)
        return [number for number in sorted(self.recovering) if self._recover(number)]

    def _recover(self, dead: int) -> bool:
        """Recover a member, and whom it was recovering; False if some of it has to wait for room in a queue."""
        words, first = self.words, self.layout.members
        while (other := int(members.next_recovered_by(words, first, dead))) != NONE:
            at = members.member_at.py_func(first, other)
            if members.begin_recovery(words, first, other, int(words[at]), self.number):
                self.recovering.add(other)
        if not recovery.recover(words, dead, self.number, self.now_ns(), self.hand, self.blocks_hand):
            return False
        recovery.empty(words, dead, self.number)
        self.wake_all()
        members.free(words, first, dead)
        self.recovering.discard(dead)
        return True

    def wake_all(self) -> None:
        """Ring for everybody who sleeps: a ringer may have died before he rang."""
        queues = [self.layout.mailboxes + n * self.layout.mailbox_words for n in range(self.layout.num_mailboxes)]
        queues += [pool + router.POOL_SLEEPERS for pool in self.layout.pool_offsets.values()]
        for queue in queues:
            while (woken := int(mailbox.waken(self.words, queue))) > 0:
                self.bells.ring(woken)

    def close(self) -> None:
        """Leave: what this member holds goes back to the others. Nothing may be called afterwards."""
        words = self.words
        for other in sorted(self.recovering):
            self._recover(other)
        if not recovery.recover(words, self.number, self.number, self.now_ns(), self.hand, self.blocks_hand):
            raise Unavailable("a queue is full", where=self._where, fix="The others take over when this process ends.")
        recovery.empty(words, self.number, self.number)
        self.wake_all()
        self.bells.close()
        segment.leave(self.segment, self.number)
