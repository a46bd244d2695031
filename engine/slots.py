"""Slots: numbered places of a message or of a block of a queue, each under one word that says whose it is.

The word is the truth: state (3 bits), owner (8 bits, a member's number, 0 for nobody), deaths (5 bits, of owners while
they worked on it) and generation (47 bits, one more at every use). It changes by compare-and-swap alone, or by the one
whose it is. A process that dies leaves words that name it; `engine.recovery` ends or undoes what they tell of.

    FREE --claim--> WRITING --publish--> READY --take--> CLAIMED --finish--> FREE
                                          READY --cancel--> FREE    CLAIMED --owner dies--> READY

READY with an owner: he has published it and not yet said that it is in a queue. It can be taken all the same. For a
block of a queue (`engine.chain`), WRITING is called HELD, READY is LINKED, and CLAIMED is RETIRING.

An area of slots is described by words at its own offset:

    +0 offset of the first slot   +1 words from slot to slot   +2 how many   +3 offset of the hints   +4 hints at once

Which slots are free is told by hints, a bit a slot. A bit is set after its slot became free and taken, some at once,
by who looks for one, into his own *hand*. A hint that is wrong costs a look; hints that were lost with a process are
made again from the words when nothing else is left.

Concurrency: lock-free; a hand belongs to one thread.
"""

from engine.atomics import Words, compare_and_swap, count_trailing_zeros, fetch_and, fetch_or, load_acquire
from ledger.compiled import njit

FREE, WRITING, READY, CLAIMED = 0, 1, 2, 3
HELD, LINKED, RETIRING = WRITING, READY, CLAIMED

STATE_MASK = (1 << 3) - 1
OWNER_SHIFT, OWNER_MASK = 3, (1 << 8) - 1
DEATHS_SHIFT, DEATHS_MASK = 11, (1 << 5) - 1
GENERATION_SHIFT = 16
GENERATION_BITS = 20
GENERATION_MASK = (1 << GENERATION_BITS) - 1
"""Tickets and references tell generations apart modulo 2^20: who is stopped within an operation for exactly so many
uses of one slot, or a multiple, could be deceived."""

PLACE_SHIFT = 3
"""Slots lie at multiples of eight words, so an offset without these bits fits into 22."""
PLACE_BITS = 22
PLACE_MASK = (1 << PLACE_BITS) - 1

AREA_FIRST, AREA_STRIDE, AREA_NUM, AREA_HINTS, AREA_AT_ONCE, AREA_WORDS = 0, 1, 2, 3, 4, 8
HAND_WORD, HAND_BITS, HAND_WORDS = 0, 1, 2
NONE = -1


@njit(nogil=True, inline="always")
def state_of(word: int) -> int:
    return word & STATE_MASK


@njit(nogil=True, inline="always")
def owner_of(word: int) -> int:
    return (word >> OWNER_SHIFT) & OWNER_MASK


@njit(nogil=True, inline="always")
def deaths_of(word: int) -> int:
    return (word >> DEATHS_SHIFT) & DEATHS_MASK


@njit(nogil=True, inline="always")
def generation_of(word: int) -> int:
    """Modulo 2^20, as tickets have it."""
    return (word >> GENERATION_SHIFT) & GENERATION_MASK


@njit(nogil=True, inline="always")
def with_state(word: int, state: int, owner: int) -> int:
    """The same generation and deaths in another state."""
    return (word >> DEATHS_SHIFT << DEATHS_SHIFT) | (owner << OWNER_SHIFT) | state


@njit(nogil=True, inline="always")
def ticket_of(slot: int, word: int) -> int:
    """42 bits: the slot's place (22) and its generation (20)."""
    return ((slot >> PLACE_SHIFT) << GENERATION_BITS) | generation_of(word)


@njit(nogil=True, inline="always")
def slot_of(ticket: int) -> int:
    return ((ticket >> GENERATION_BITS) & PLACE_MASK) << PLACE_SHIFT


@njit(nogil=True, inline="always")
def is_of(ticket: int, word: int) -> bool:
    """Whether a ticket speaks of the use that a word is in."""
    return (ticket & GENERATION_MASK) == generation_of(word)


@njit(nogil=True)
def claim(words: Words, area: int, owner: int, hand: Words, at: int) -> int:
    """A free slot, in WRITING; NONE if there is none.

    Args:
        hand: int64[...], the thread's own; its two words at `at` are this area's.
    Cost: one compare-and-swap, and one more for some slots; a look at all of the words if none seems to be free.
    """
    while True:
        while hand[at + HAND_BITS] != 0:
            bits = hand[at + HAND_BITS]
            hand[at + HAND_BITS] = bits & (bits - 1)
            number = (hand[at + HAND_WORD] << 6) + count_trailing_zeros(bits)
            slot = words[area + AREA_FIRST] + number * words[area + AREA_STRIDE]
            word = load_acquire(words, slot)
            if state_of(word) == FREE:
                desired = ((word >> GENERATION_SHIFT) + 1 << GENERATION_SHIFT) | (owner << OWNER_SHIFT) | WRITING
                if compare_and_swap(words, slot, word, desired):
                    return slot
        if not refill(words, area, hand, at) and not make_hints(words, area):
            return NONE


@njit(nogil=True)
def refill(words: Words, area: int, hand: Words, at: int) -> bool:
    """Take hints into an empty hand; False if there are none."""
    num_words = (words[area + AREA_NUM] + 63) >> 6
    for step in range(num_words):
        number = hand[at + HAND_WORD] + step
        if number >= num_words:
            number -= num_words
        place = words[area + AREA_HINTS] + number
        seen = load_acquire(words, place)
        while seen != 0:
            wanted = seen
            if words[area + AREA_AT_ONCE] == 1:
                wanted = seen & -seen
            taken = fetch_and(words, place, ~wanted) & wanted
            if taken != 0:
                hand[at + HAND_WORD] = number
                hand[at + HAND_BITS] = taken
                return True
            seen = load_acquire(words, place)
    return False


@njit(nogil=True)
def make_hints(words: Words, area: int) -> bool:
    """Set the hint of every free slot; False if there are none."""
    found = False
    for number in range(words[area + AREA_NUM]):
        slot = words[area + AREA_FIRST] + number * words[area + AREA_STRIDE]
        if state_of(load_acquire(words, slot)) == FREE:
            fetch_or(words, words[area + AREA_HINTS] + (number >> 6), 1 << (number & 63))
            found = True
    return found


@njit(nogil=True)
def give_back(words: Words, area: int, slot: int, word: int) -> bool:
    """Make a slot free that is in the state of `word`. False: it is in another by now."""
    if not compare_and_swap(words, slot, word, with_state(word, FREE, 0)):
        return False
    number = (slot - words[area + AREA_FIRST]) // words[area + AREA_STRIDE]
    fetch_or(words, words[area + AREA_HINTS] + (number >> 6), 1 << (number & 63))
    return True


def initialise(words: Words, area: int, first: int, stride: int, num: int, hints: int) -> None:
    """An area of free slots, where nobody looks yet; the words of the slots are zeros.

    Many slots are handed out by the word of hints; of few, nobody may have some in his hand that another needs.
    """
    assert first % (1 << PLACE_SHIFT) == stride % (1 << PLACE_SHIFT) == 0
    assert (first + num * stride) >> PLACE_SHIFT <= PLACE_MASK
    words[area : area + 5] = first, stride, num, hints, 64 if num >= 64 * 64 else 1
    for number in range(num):
        words[hints + number // 64] |= -(1 << 63) if number % 64 == 63 else 1 << number % 64
