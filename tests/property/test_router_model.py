"""The router against a plain model: whatever is submitted, claimed, given back, cancelled and left by the dead, in any
order and over any time, each message comes out once, never late, in the order that was promised.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine import dispatch, mailbox, recovery, router, slots
from engine.layout import Layout, SizeClass, Sizes
from engine.slots import NONE

MEAN_NS = 8_000
TICK_NS = MEAN_NS // router.TICKS_PER_MEAN
NUM_SLOTS = 48
LAYOUT = Layout(Sizes(classes=(SizeClass(8, NUM_SLOTS),), pools={"pool": MEAN_NS}))
POOL, AREA = LAYOUT.pool_offsets["pool"], LAYOUT.area(0)
ME, OTHER = 1, 2
WEIGHTS = router.weights_of(MEAN_NS, TICK_NS)
SLACK_TICKS = st.one_of(st.integers(-20, 40), st.integers(-5, 2_000))
CLASSES = st.one_of(st.integers(0, router.NUM_CLASSES - 1), st.sampled_from([40, 41]))


class Waiting:
    """What the model knows of a message."""

    def __init__(self, start_ns: int, klass: int, level: int, now_ns: int, order: int) -> None:
        self.start_tick = start_ns // TICK_NS
        self.klass, self.level, self.order = klass, level, order
        self.was_near = -router.BACK_TICKS <= self.start_tick - now_ns // TICK_NS < router.AHEAD_TICKS
        self.ticket = 0


class RouterMachine(RuleBasedStateMachine):
    """Two members, one clock."""

    def __init__(self) -> None:
        super().__init__()
        self.words = np.zeros(LAYOUT.num_words, np.int64)
        self.hands = {member: np.zeros(4, np.int64) for member in (ME, OTHER)}
        self.out = np.zeros(dispatch.OUT_WORDS, np.int64)
        self.now_ns = 10**9
        self.waiting: dict[int, Waiting] = {}
        self.held: dict[int, dict[int, int]] = {ME: {}, OTHER: {}}
        self.num = 0

    @initialize()
    def make(self) -> None:
        LAYOUT.initialise(self.words)

    @rule(ticks=st.one_of(st.integers(0, 12), st.integers(0, 600)))
    def time_passes(self, ticks: int) -> None:
        self.now_ns += ticks * TICK_NS

    @rule(member=st.sampled_from([ME, OTHER]), slack=SLACK_TICKS, klass=CLASSES, level=st.integers(0, 3))
    def submit(self, member: int, slack: int, klass: int, level: int) -> None:
        slot = slots.claim(self.words, AREA, member, self.hands[member], 0)
        num_used = len(self.waiting) + sum(map(len, self.held.values()))
        assert (slot == NONE) == (num_used == NUM_SLOTS), f"{num_used} of {NUM_SLOTS} slots are used"
        if slot == NONE:
            return
        start_ns = self.now_ns + slack * TICK_NS
        message = Waiting(start_ns, klass, level, self.now_ns, self.num)
        self.words[slot + mailbox.CALL] = self.num
        self.words[slot + mailbox.START] = start_ns
        self.words[slot + mailbox.COST] = MEAN_NS
        self.words[slot + mailbox.CLASS] = klass | level << 8
        assert router.submit(self.words, POOL, slot, member, self.now_ns, self.hands[member], 2) == 0
        message.ticket = int(slots.ticket_of(slot, int(self.words[slot])))
        self.waiting[self.num] = message
        self.num += 1

    @rule(member=st.sampled_from([ME, OTHER]), earliest=st.sampled_from([False, False, True]))
    def claim(self, member: int, earliest: bool) -> None:
        hand = self.hands[member]
        found = dispatch.claim(self.words, POOL, member, self.now_ns, WEIGHTS, earliest, hand, 2, self.out)
        in_time = {number for number, message in self.waiting.items() if not self.is_late(message)}
        if not found:
            assert not in_time, f"{in_time} wait and none was claimed"
            return
        number = int(self.out[dispatch.OUT_CALL])
        assert number in in_time, f"{number} is late, or does not wait"
        self.in_promised_order(number)
        del self.waiting[number]
        self.held[member][number] = int(self.out[dispatch.OUT_SLOT])

    def in_promised_order(self, number: int) -> None:
        """Of those that begin in the same tick and came when that was near, it has the highest class, of this the
        lowest level, and of these it was first."""
        claimed = self.waiting[number]
        alike = [
            (-message.klass, message.level, message.order)
            for message in self.waiting.values()
            if message.start_tick == claimed.start_tick and message.was_near
        ]
        if claimed.was_near:
            assert min(alike) == (-claimed.klass, claimed.level, claimed.order)

    def is_late(self, message: Waiting) -> bool:
        return message.start_tick - self.now_ns // TICK_NS < -router.BACK_TICKS

    @rule(member=st.sampled_from([ME, OTHER]))
    def take_late(self, member: int) -> None:
        hand = self.hands[member]
        while dispatch.take_late(self.words, POOL, member, self.now_ns, hand, 2, self.out):
            number = int(self.out[dispatch.OUT_CALL])
            assert self.is_late(self.waiting.pop(number)), f"{number} is in time"
            assert mailbox.finish(self.words, AREA, int(self.out[dispatch.OUT_SLOT]), member)

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data())
    def finish_or_give_back(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from([member for member, held in self.held.items() if held]))
        number = data.draw(st.sampled_from(sorted(self.held[member])))
        slot = self.held[member].pop(number)
        if data.draw(st.booleans()):
            assert mailbox.finish(self.words, AREA, slot, member)
            return
        start_ns, klass = int(self.words[slot + mailbox.START]), int(self.words[slot + mailbox.CLASS])
        message = Waiting(start_ns, klass & 0xFF, klass >> 8, self.now_ns, self.num)
        self.num += 1
        message.ticket = int(slots.ticket_of(slot, int(self.words[slot])))
        assert router.put_back(self.words, POOL, slot, member, self.now_ns, self.hands[member], 2)
        self.waiting[number] = message

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        assert mailbox.cancel(self.words, AREA, self.waiting.pop(number).ticket) == mailbox.CANCELLED

    @rule()
    def other_dies(self) -> None:
        """What it held waits again, at the end of its place."""
        assert recovery.recover(self.words, OTHER, ME, self.now_ns, self.hands[ME], 2)
        self.hands[OTHER][:] = 0
        for number, slot in sorted(self.held[OTHER].items(), key=lambda held: held[1]):
            start_ns, klass = int(self.words[slot + mailbox.START]), int(self.words[slot + mailbox.CLASS])
            message = Waiting(start_ns, klass & 0xFF, klass >> 8, self.now_ns, self.num)
            message.ticket = int(slots.ticket_of(slot, int(self.words[slot])))
            self.num += 1
            self.waiting[number] = message
        self.held[OTHER].clear()

    @invariant()
    def slots_are_of_whom_they_should_be(self) -> None:
        states = self.words[LAYOUT.records[0] :: mailbox.MESSAGE_WORDS][:NUM_SLOTS] & slots.STATE_MASK
        counts = np.bincount(states, minlength=4)
        assert counts[slots.READY] == len(self.waiting)
        assert counts[slots.CLAIMED] == sum(map(len, self.held.values()))

    def teardown(self) -> None:
        """All that waits comes out."""
        while self.waiting:
            num = len(self.waiting)
            self.claim(ME, False)
            if len(self.waiting) == num:
                self.take_late(ME)
            assert len(self.waiting) < num, f"{sorted(self.waiting)} never come out"


TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
