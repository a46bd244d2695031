"""Mailboxes: messages in slots, handed from process to process by their number.

A mailbox is a ring of tickets and a word with a bit for each member who sleeps until something comes. A message lies in
a slot of eight words and its bytes in the slab of that slot; it is written there once, and read there:

    +0 word   +1 queue   +2 length   +3 reply to   +4 call   +5 latest start, ns   +6 cost, ns   +7 class and level

Taking is by the slot's word, not by the ring: a consumer claims the slot that the first ticket names, and then drops
the ticket. If he dies in between, the slot says that it is his and others drop the ticket, so the message is neither
lost nor taken twice. A ticket whose slot is not READY in that generation, or is of another queue, is dropped as well.

Sleeping: announce it (a read-modify-write), look once more, then wait for the bell. Sending: put in (a
read-modify-write), then look who sleeps. One of the two sees the other.

Concurrency: any number of senders and takers; lock-free. Order: first in, first out; what a dead member held comes
last.
Cost: four compare-and-swaps a message from claim to take, and one for its end.
"""

from engine import ring
from engine.atomics import (
    Words,
    compare_and_swap,
    count_trailing_zeros,
    fetch_and,
    fetch_or,
    load_acquire,
    store_release,
)
from engine.slots import (
    CLAIMED,
    NONE,
    READY,
    WRITING,
    give_back,
    is_of,
    owner_of,
    slot_of,
    state_of,
    ticket_of,
    with_state,
)
from ledger.compiled import njit

SLEEPERS, RING = 0, 8
QUEUE, LENGTH, REPLY, CALL, START, COST, CLASS = 1, 2, 3, 4, 5, 6, 7
MESSAGE_WORDS = 8

NO_ROOM = -1
GONE, CANCELLED = -2, -1


def num_words(size_log2: int) -> int:
    """The words that a mailbox of 2^size_log2 messages takes."""
    return RING + ring.num_words(size_log2)


def initialise(words: Words, mailbox: int, size_log2: int) -> None:
    """An empty mailbox, where nobody looks yet."""
    words[mailbox + SLEEPERS] = 0
    ring.initialise(words, mailbox + RING, size_log2)


@njit(nogil=True)
def send(words: Words, mailbox: int, slot: int, owner: int) -> int:
    """Hand over a message that is written. Who is to be woken (0: nobody), or NO_ROOM: it is still the writer's.

    Args:
        slot: in WRITING, its words from `LENGTH` on and its bytes written.
    """
    words[slot + QUEUE] = mailbox
    word = with_state(load_acquire(words, slot), READY, owner)
    store_release(words, slot, word)
    if not put(words, mailbox, slot, word):
        compare_and_swap(words, slot, word, with_state(word, WRITING, owner))
        return NO_ROOM
    return waken(words, mailbox)


@njit(nogil=True)
def put(words: Words, mailbox: int, slot: int, word: int) -> bool:
    """Put a slot that is READY, with an owner, at the end; then it is nobody's. False: there is no room."""
    if not ring.push(words, mailbox + RING, ticket_of(slot, word)):
        return False
    compare_and_swap(words, slot, word, with_state(word, READY, 0))
    return True


@njit(nogil=True)
def waken(words: Words, queue: int) -> int:
    """Choose one who sleeps, and cross him off; 0 if nobody does."""
    while True:
        sleepers = load_acquire(words, queue + SLEEPERS)
        if sleepers == 0:
            return 0
        bit = sleepers & -sleepers
        if fetch_and(words, queue + SLEEPERS, ~bit) & bit != 0:
            return count_trailing_zeros(bit)


@njit(nogil=True, inline="always")
def claim_ticket(words: Words, queue: int, ticket: int, owner: int) -> int:
    """Make the slot ours that a ticket of a queue names; NONE if it is not to be had."""
    slot = slot_of(ticket)
    while True:  # again when its sender has said meanwhile that it is in the queue
        word = load_acquire(words, slot)
        if state_of(word) != READY or not is_of(ticket, word) or words[slot + QUEUE] != queue:
            return NONE
        if compare_and_swap(words, slot, word, with_state(word, CLAIMED, owner)):
            return slot


@njit(nogil=True)
def take(words: Words, mailbox: int, owner: int) -> int:
    """Claim the first message; NONE if there is none (never blocks)."""
    while True:
        head, cell = ring.front(words, mailbox + RING)
        if cell == ring.EMPTY:
            return NONE
        slot = claim_ticket(words, mailbox, cell & ring.VALUE_MASK, owner)
        ring.drop(words, mailbox + RING, head, cell)
        if slot != NONE:
            return slot


@njit(nogil=True)
def fall_asleep(words: Words, mailbox: int, owner: int) -> bool:
    """Announce that the member waits for its bell. False: there is something, and nothing is announced."""
    fetch_or(words, mailbox + SLEEPERS, 1 << owner)
    _, cell = ring.front(words, mailbox + RING)
    if cell == ring.EMPTY:
        return True
    wake_up(words, mailbox, owner)
    return False


@njit(nogil=True)
def wake_up(words: Words, queue: int, owner: int) -> None:
    """Take the announcement back."""
    fetch_and(words, queue + SLEEPERS, ~(1 << owner))


@njit(nogil=True)
def finish(words: Words, area: int, slot: int, owner: int) -> bool:
    """The message that the member claimed is dealt with; its slot is free. False: it is not his any more."""
    word = load_acquire(words, slot)
    return state_of(word) == CLAIMED and owner_of(word) == owner and give_back(words, area, slot, word)


@njit(nogil=True)
def discard(words: Words, area: int, slot: int, owner: int) -> bool:
    """The message that the member was writing is not to be sent."""
    word = load_acquire(words, slot)
    return state_of(word) == WRITING and owner_of(word) == owner and give_back(words, area, slot, word)


@njit(nogil=True)
def cancel(words: Words, area: int, ticket: int) -> int:
    """Take back a message that nobody has claimed: CANCELLED. Else who has claimed it, or GONE: it was dealt with.

    Its ticket stays in the queue until its turn, and is then dropped.
    """
    slot = slot_of(ticket)
    while True:
        word = load_acquire(words, slot)
        if not is_of(ticket, word):
            return GONE
        if state_of(word) == CLAIMED:
            return owner_of(word)
        if state_of(word) != READY:
            return GONE
        if give_back(words, area, slot, word):
            return CANCELLED
