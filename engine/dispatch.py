"""One compiled call for each thing that Python asks of the fabric: crossing from Python costs more than the thing.

What Python has to give is passed as numbers; what it gets of a message is written into `out`, int64[OUT_WORDS]: slot,
ticket, length, reply, call, latest start, cost, class and level, deaths.
"""

from engine import mailbox, router, slots
from engine.atomics import Words, load_acquire
from engine.mailbox import CALL, CLASS, COST, LENGTH, REPLY, START
from engine.router import Weights
from engine.slots import NONE
from ledger.compiled import njit

OUT_SLOT, OUT_TICKET, OUT_LENGTH, OUT_REPLY, OUT_CALL, OUT_START, OUT_COST, OUT_CLASS, OUT_DEATHS = range(9)
OUT_WORDS = 9


@njit(nogil=True)
def send(
    words: Words, queue: int, slot: int, length: int, reply: int, call: int,
    area: int, spare: bool, owner: int, hand: Words, at: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Hand over the written slot: who is to be woken or NO_ROOM, its ticket, and a fresh slot of its class if a `spare`
    is wanted."""
    words[slot + LENGTH] = length
    words[slot + REPLY] = reply
    words[slot + CALL] = call
    ticket = slots.ticket_of(slot, load_acquire(words, slot))
    woken = mailbox.send(words, queue, slot, owner)
    return woken, ticket, slots.claim(words, area, owner, hand, at) if spare else NONE


@njit(nogil=True)
def submit(
    words: Words, pool: int, slot: int, length: int, reply: int, call: int, start_ns: int, cost_ns: int,
    value: int, level: int, now_ns: int, area: int, spare: bool, owner: int, hand: Words, at: int, blocks_hand: int,
) -> tuple[int, int, int]:  # fmt: skip
    """As `send`, into a pool."""
    words[slot + LENGTH] = length
    words[slot + REPLY] = reply
    words[slot + CALL] = call
    words[slot + START] = start_ns
    words[slot + COST] = cost_ns
    words[slot + CLASS] = router.class_of(value, cost_ns) | level << 8
    ticket = slots.ticket_of(slot, load_acquire(words, slot))
    woken = router.submit(words, pool, slot, owner, now_ns, hand, blocks_hand)
    return woken, ticket, slots.claim(words, area, owner, hand, at) if spare else NONE


@njit(nogil=True)
def take(words: Words, queue: int, owner: int, out: Words) -> bool:
    """Claim the first message of a mailbox."""
    return describe(words, mailbox.take(words, queue, owner), out)


@njit(nogil=True)
def claim(
    words: Words, pool: int, owner: int, now_ns: int, weights: Weights, earliest: bool, hand: Words, at: int, out: Words
) -> bool:
    """Claim the message of a pool that is worth most now."""
    return describe(words, router.claim(words, pool, owner, now_ns, weights, hand, at, earliest), out)


@njit(nogil=True)
def take_late(words: Words, pool: int, owner: int, now_ns: int, hand: Words, at: int, out: Words) -> bool:
    """Claim a message of a pool that cannot be on time any more."""
    router.move_due(words, pool, owner, now_ns, hand, at, router.MOVES_PER_CLAIM)
    return describe(words, router.take_late(words, pool, owner), out)


@njit(nogil=True)
def describe(words: Words, slot: int, out: Words) -> bool:
    """Tell of a message that the member has claimed. False: it has claimed none."""
    if slot == NONE:
        return False
    word = load_acquire(words, slot)
    out[OUT_SLOT] = slot
    out[OUT_TICKET] = slots.ticket_of(slot, word)
    out[OUT_LENGTH] = words[slot + LENGTH]
    out[OUT_REPLY] = words[slot + REPLY]
    out[OUT_CALL] = words[slot + CALL]
    out[OUT_START] = words[slot + START]
    out[OUT_COST] = words[slot + COST]
    out[OUT_CLASS] = words[slot + CLASS]
    out[OUT_DEATHS] = slots.deaths_of(word)
    return True
