"""Mailboxes in every interleaving of a few threads, with store buffers and kills.

Forbidden: a message lost, taken twice, torn or out of its sender's order; one that is both cancelled and taken; a
reader who sleeps while a message waits and nobody rings; a slot that is never free again; something a dead member held
that is not given to others exactly once. The code searched is the source that numba compiles.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from exhaustive import Thread, explore, killed

from engine import mailbox, recovery, slots
from engine.atomics import Words
from engine.layout import Layout, SizeClass, Sizes
from engine.slots import NONE

NUM_SLOTS = 2
LAYOUT = Layout(Sizes(classes=(SizeClass(8, NUM_SLOTS),), mailboxes=("box",), mailbox_log2=1, pools={}), num_blocks=1)
BOX, AREA = LAYOUT.mailbox_offsets["box"], LAYOUT.area(0)
BLOCKS_HAND = 2
SLEPT, FULL = -7, -3


def fabric() -> Words:
    words = np.zeros(LAYOUT.num_words, np.int64)
    LAYOUT.initialise(words)
    return words


def hand() -> Words:
    return np.zeros(4, np.int64)


def sends(words: Words, call: int, owner: int, hand: Words) -> int:
    """One message, whose two words say the same; who is woken, or FULL."""
    slot = slots.claim(words, AREA, owner, hand, 0)
    if slot == NONE:
        return FULL
    words[slot + mailbox.CALL] = call
    words[slot + mailbox.LENGTH] = call
    woken = mailbox.send(words, BOX, slot, owner)
    if woken == mailbox.NO_ROOM:
        mailbox.discard(words, AREA, slot, owner)
        return FULL
    return woken


def sends_two(words: Words, call: int, owner: int, hand: Words) -> list[int]:
    first = sends(words, call, owner, hand)
    return [first, sends(words, call + 1, owner, hand)]


def takes(words: Words, num: int, owner: int) -> list[int]:
    """The calls of the messages that it dealt with; a torn one counts as -call."""
    taken: list[int] = []
    for _ in range(num):
        slot = mailbox.take(words, BOX, owner)
        if slot != NONE:
            call = words[slot + mailbox.CALL]
            if words[slot + mailbox.LENGTH] != call:
                call = -call
            if mailbox.finish(words, AREA, slot, owner):
                taken += [call]
    return taken


def sender(call: int, owner: int) -> Thread:
    return partial(sends, call=call, owner=owner, hand=hand())


def left_in(words: Words) -> list[int]:
    """What is still in the mailbox, dealt with now."""
    left = []
    while (slot := mailbox.take(words, BOX, 9)) != NONE:
        assert words[slot + mailbox.CALL] == words[slot + mailbox.LENGTH], "a message was torn"
        left.append(int(words[slot + mailbox.CALL]))
        assert mailbox.finish(words, AREA, slot, 9)
    return left


def recover_dead(words: Words, results: list[Any], first_owner: int = 2) -> None:
    """Thread n is member n + 2."""
    for number, result in enumerate(results):
        if result is None:
            assert recovery.recover(words, number + first_owner, 9, 0, hand(), BLOCKS_HAND)


def all_free(words: Words) -> None:
    states = words[LAYOUT.records[0] :: mailbox.MESSAGE_WORDS][:NUM_SLOTS] & slots.STATE_MASK
    assert states.tolist() == [slots.FREE] * NUM_SLOTS, "a slot is lost"
    own = hand()
    for _ in range(NUM_SLOTS):
        slot = slots.claim(words, AREA, 9, own, 0)
        assert slot != NONE, "a slot cannot be claimed any more"
        words[slot + mailbox.CALL] = words[slot + mailbox.LENGTH] = 1
        assert mailbox.send(words, BOX, slot, 9) != mailbox.NO_ROOM, "the mailbox has lost room"
    assert left_in(words) == [1] * NUM_SLOTS


def once(words: Words, results: list[Any], sent: list[int], takers: list[int]) -> None:
    """Every message that was sent is taken once, or is left."""
    recover_dead(words, results)
    taken = [call for thread in takers for call in results[thread] or ()]
    everything = taken + left_in(words)
    assert all(call > 0 for call in everything), f"torn: {everything}"
    if None not in results:
        assert sorted(everything) == sorted(sent), f"sent {sent}, taken {everything}"
    else:
        assert len(set(everything)) == len(everything), f"taken twice: {everything}"
    all_free(words)


def test_two_senders_and_two_takers_deal_with_every_message_once() -> None:
    threads = [sender(11, 2), sender(21, 3), partial(takes, num=1, owner=4), partial(takes, num=1, owner=5)]
    found = explore(fabric, partial(once, sent=[11, 21], takers=[2, 3]), threads)
    assert {(0, 0, (11,), (21,)), (0, 0, (21,), (11,)), (0, 0, (), ())} <= found.outcomes


def test_the_messages_of_one_sender_come_in_his_order() -> None:
    def check(words: Words, results: list[Any]) -> None:
        assert [*results[1], *left_in(words)] == [11, 12], "reordered or lost"

    explore(fabric, check, [partial(sends_two, call=11, owner=2, hand=hand()), partial(takes, num=2, owner=3)])


def test_a_full_mailbox_says_so_and_loses_nothing() -> None:
    def setup() -> Words:
        words = fabric()
        assert sends(words, 1, 8, hand()) == 0
        return words

    def check(words: Words, results: list[Any]) -> None:
        num_sent = 1 + sum(result != FULL for result in results[:2])
        assert len(results[2]) + len(left_in(words)) == num_sent
        all_free(words)

    found = explore(setup, check, [sender(11, 2), sender(21, 3), partial(takes, num=1, owner=5)])
    assert {FULL in outcome for outcome in found.outcomes} == {False, True}


@pytest.mark.parametrize("kills", [1, 2])
def test_whoever_is_killed_no_message_is_lost_or_dealt_with_twice(kills: int) -> None:
    threads = [sender(11, 2), partial(takes, num=1, owner=3), partial(takes, num=1, owner=4)]
    found = explore(fabric, partial(once, sent=[11], takers=[1, 2]), threads, kills=kills)
    assert any(None in outcome for outcome in found.outcomes)


def test_a_message_whose_taker_is_killed_is_taken_by_another_and_counts_the_death() -> None:
    seen = set()

    def setup() -> Words:
        words = fabric()
        assert sends(words, 11, 8, hand()) == 0
        return words

    def check(words: Words, results: list[Any]) -> None:
        recover_dead(words, results)
        slot = mailbox.take(words, BOX, 9)
        seen.add(None if slot == NONE else int(slots.deaths_of(int(words[slot]))))

    explore(setup, check, [partial(takes, num=1, owner=2)], kills=1)
    assert seen == {None, 0, 1}


# Recovery beside those who go on


def recovers(words: Words, thread: int, dead: int, owner: int, hand: Words) -> int:
    if killed(words, thread):
        recovery.settle_messages(words, dead, owner, 0, hand, BLOCKS_HAND)
        return 1
    return 0


def recoverer(dead: int, owner: int) -> Thread:
    return partial(recovers, thread=0, dead=dead, owner=owner, hand=hand())


@pytest.mark.parametrize("first", ["sender", "taker"])
def test_recovery_beside_a_taker_gives_each_message_to_one(first: str) -> None:
    def setup() -> Words:
        words = fabric()
        if first == "taker":
            assert sends(words, 11, 8, hand()) == 0
        return words

    def check(words: Words, results: list[Any]) -> None:
        if results[0] is None:
            assert recovery.recover(words, 2, 9, 0, hand(), BLOCKS_HAND)
        taken = [*(results[2] or ()), *left_in(words), *((results[0] or ()) if first == "taker" else ())]
        assert taken in ([], [11]), f"taken {taken}"
        assert taken or (first == "sender" and results[0] is None) or results[0] is None
        all_free(words)

    dies = sender(11, 2) if first == "sender" else partial(takes, num=1, owner=2)
    found = explore(setup, check, [dies, recoverer(2, 3), partial(takes, num=1, owner=4)], kills=1, killable=[0])
    assert any(outcome[0] is None and outcome[1] == 1 for outcome in found.outcomes), "recovery never met a dead one"


def test_a_recoverer_that_is_killed_is_recovered_in_turn() -> None:
    def setup() -> Words:
        words = fabric()
        assert sends(words, 11, 8, hand()) == 0
        return words

    def check(words: Words, results: list[Any]) -> None:
        for dead in (3, 2):
            assert recovery.recover(words, dead, 9, 0, hand(), BLOCKS_HAND)
        done = [*(results[0] or ()), *(results[2] or ()), *left_in(words)]
        assert done == [11] or (results[0] is None and done == []), f"dealt with {done}"
        assert len(done) <= 1
        all_free(words)

    threads = [partial(takes, num=1, owner=2), recoverer(2, 3), partial(takes, num=1, owner=4)]
    explore(setup, check, threads, kills=2, killable=[0, 1])


# Cancelling


def cancels(words: Words, ticket: int) -> int:
    return mailbox.cancel(words, AREA, ticket)


def test_a_message_is_cancelled_or_taken_never_both() -> None:
    tickets: list[int] = []

    def setup() -> Words:
        words = fabric()
        assert sends(words, 11, 8, hand()) == 0
        slot = LAYOUT.records[0]
        tickets[:] = [int(slots.ticket_of(slot, int(words[slot])))]
        return words

    setup()

    def check(words: Words, results: list[Any]) -> None:
        taken = [*results[1], *results[2]]
        assert (results[0] == mailbox.CANCELLED) == (11 not in taken), f"cancel says {results[0]}, taken {taken}"
        assert [call for call in taken if call != 12] in ([], [11])
        all_left = left_in(words)
        assert sorted([*taken, *all_left]).count(12) == 1
        all_free(words)

    threads = [partial(cancels, ticket=tickets[0]), partial(takes, num=1, owner=3), partial(takes, num=1, owner=4)]
    found = explore(setup_with_another(setup), check, threads)
    assert {outcome[0] for outcome in found.outcomes} >= {mailbox.CANCELLED, mailbox.GONE, 3, 4}


def setup_with_another(setup: Any) -> Any:
    def both() -> Words:
        words = setup()
        assert sends(words, 12, 8, hand()) == 0
        return words

    return both


# Sleeping


def sleeps_or_takes(words: Words, owner: int) -> list[int]:
    """What a reader does before it waits for its bell."""
    taken = takes(words, 1, owner)
    if len(taken) == 0 and mailbox.fall_asleep(words, BOX, owner):
        return [SLEPT]
    return taken


@pytest.mark.parametrize("num_senders", [1, 2])
def test_nobody_sleeps_on_while_a_message_waits(num_senders: int) -> None:
    def check(words: Words, results: list[Any]) -> None:
        asleep, woken = results[0] == (SLEPT,), 4 in results[1:]
        waits = mailbox.take(words, BOX, 9) != NONE
        assert not (asleep and waits) or woken, "a message waits, its reader sleeps, and nobody has rung"

    senders = [sender(11 + 10 * number, 5 + number) for number in range(num_senders)]
    found = explore(fabric, check, [partial(sleeps_or_takes, owner=4), *senders])
    assert any(outcome[0] == (SLEPT,) and 4 in outcome[1:] for outcome in found.outcomes)
    assert any(outcome[0] == (11,) for outcome in found.outcomes)
