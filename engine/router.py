"""The router: of all that waits for a pool, the message that is worth most right now.

What a message is worth at a moment is its *density*, value per second that it is predicted to take, times two factors
that follow from its *slack*, its latest start less now:

    chance   that it ends in time, if it begins now
    loss     of what it would lose by waiting: all if it must begin now, little if it has time, and then the less, the
             more its density is above the *price*

The price is what a second of the pool is worth at the margin, learned from what happens: work above it that comes too
late raises it, work below it that is served lowers it. When nothing is lost the price is nil, whatever is above will
be served in any case, and the order is by slack; when much is lost the order comes near to density alone. This is what
the dual of the linear program says in which all of the future is known (bench/scheduling_bound.py): serve by latest
start whatever is worth more than the price of the seconds that it takes.

The latest start is a time and does not change. So messages wait in a grid, density class (a quarter of an octave) by
latest start: near ones in 32 bins of a *tick* (an eighth of a mean service time) that turn like a wheel, so that slack
is a matter of counting bins; far ones in another wheel of 32 bins of 16 ticks. Each place of the grid is four chains
(`engine.chain`) by *level*: within a class those come first whose tenant has had less (`engine.tiers`). A claim looks
at each bin that has anything, finds its highest class by the first set bit, weighs it, and takes the first message of
the best: a bounded number of steps, whether ten messages wait or a million.

Claimers move what has come near from the far bins to the near ones, and what is late to a chain of its own, where
`take_late` finds it to refuse it: two messages a claim. Whatever has not been moved yet can be claimed where it is.

One claim of 512 goes to the earliest latest start of all, whatever its worth: so nothing that can still be on time
waits for more than 512 claims for each that has to start before it.

A pool lies at one offset of the words:

    +0 tick, ns   +1 store of blocks   +2 mean service time, ns   +8 sleepers   +16 near bins that have something
    +17 far ones   +18 price   +24 late   +32 bits of classes, two words a bin   +160 chains, by bin, class and level

The bits are hints: set after a message came, cleared by who finds nothing, who then looks once more.

Turned down: a heap under a lock (whoever is stopped while he holds it stops all); density alone, earliest deadline
first, strict priority: see the table of bench/scheduling.py; a queue a tier.

Concurrency: any number of submitters and claimers; lock-free. Order: first in, first out within a chain.
Cost: O(1): submit a bit and a push, claim at most 64 bins of two words.
Source: Eiffel (NSDI 2019) for buckets under bitmaps; timing wheels (Varghese and Lauck, SOSP 1987).
"""

import math

import numpy as np
from numpy.typing import NDArray

from engine import chain
from engine.atomics import (
    Words,
    compare_and_swap,
    count_leading_zeros,
    count_trailing_zeros,
    fetch_add,
    fetch_and,
    fetch_or,
    load_acquire,
    store_release,
)
from engine.mailbox import CLASS, COST, NO_ROOM, QUEUE, SLEEPERS, START, claim_ticket, wake_up, waken
from engine.slots import NONE, READY, WRITING, ticket_of, with_state
from ledger.compiled import njit

TICK, STORE, MEAN, PRICE, POOL_SLEEPERS, NEAR, FAR, LATE, BITS, CHAINS = 0, 1, 2, 18, 8, 16, 17, 24, 32, 160
NUM_BINS, NUM_NEAR, NUM_CLASSES, NUM_LEVELS = 64, 32, 128, 4
NUM_CHAINS = NUM_BINS * NUM_CLASSES * NUM_LEVELS
POOL_WORDS = CHAINS + NUM_CHAINS * chain.CHAIN_WORDS

TICKS_PER_MEAN = 8
FAR_TICKS_LOG2 = 4
BACK_TICKS, GUARD_TICKS, AHEAD_TICKS = 8, 4, 20
"""A near bin is for a slack of -8 to 19 ticks; the four before are being emptied."""
FAR_AHEAD_MAX = 30
"""What is later still waits in the farthest bin until that comes near."""
LATE_BIN, NOTHING = -1, -1

CLASSES_PER_OCTAVE = 4
DENSITY_MIN_LOG2 = 4
"""Classes go from 2^4 to 2^36 micro-units a second: an hour for 0.06 units of money to a millisecond for 69."""
DENSITIES = 2.0 ** (np.arange(NUM_CLASSES) / CLASSES_PER_OCTAVE)

EARLIEST_EVERY = 512
MOVES_PER_CLAIM = 2

START_QUANTILE = 0.85
"""A latest start is the deadline less this quantile of what the service is predicted to take (who submits sees to it).
This and the next constants were found by simulation of five seeds on a production trace (bench/scheduling.py): best or
equal at every load of 0.7 to 1.8, and flat around these values."""
SPREAD, MARGIN, HORIZON = 0.4, 0.24, 12.0
"""In mean service times: how far a service time strays; how late a start has an even chance; how much slack is as good
as any."""
STEEPNESS, CURVE = 1.5, 0.3

PRICE_SHIFT = 16
PRICE_STEP = 1 << 12
"""The price is a class in 2^16ths; a mean service time of work moves it by a sixteenth of a class."""

NUM_SLACKS = NUM_BINS
"""Slacks that are told apart: those of the near bins, from -12 ticks on, then those of the far ones from the oldest."""

Weights = NDArray[np.float64]
CHANCE, PATIENCE, HASTE = 0, NUM_SLACKS, 2 * NUM_SLACKS
NUM_WEIGHTS = 2 * NUM_SLACKS + 2 * NUM_CLASSES


@njit(nogil=True)
def class_of(value: int, cost_ns: int) -> int:
    """The density class of a value (micro-units) at a predicted cost."""
    if value <= 0:
        return 0
    octaves = math.log2(value * 1e9 / max(cost_ns, 1)) - DENSITY_MIN_LOG2
    return min(max(int(octaves * CLASSES_PER_OCTAVE), 0), NUM_CLASSES - 1)


def weights_of(mean_ns: int, tick_ns: int) -> Weights:
    """float64[NUM_WEIGHTS]: by slack, the chance to be on time; by slack, how well it can wait, from 0 to 1; by class
    less price, from -128 on, how much of it is lost by waiting, however well it can."""
    near = (np.arange(NUM_NEAR) - (BACK_TICKS + GUARD_TICKS) + 0.5) * tick_ns / mean_ns
    far = (np.arange(NUM_BINS - NUM_NEAR) - 1.0) * (1 << FAR_TICKS_LOG2) * tick_ns / mean_ns
    slacks = np.concatenate([near, far])
    chance = [0.5 * math.erfc(-(slack + MARGIN) / SPREAD / math.sqrt(2.0)) for slack in slacks]
    octaves = (np.arange(2 * NUM_CLASSES) - NUM_CLASSES) / CLASSES_PER_OCTAVE
    patience = np.clip(slacks / HORIZON, 0.0, 1.0) ** CURVE
    return np.concatenate([chance, patience, 1.0 / (1.0 + 2.0 ** (STEEPNESS * octaves))])


def initialise(words: Words, pool: int, store: int, mean_ns: int) -> None:
    """An empty pool, where nobody looks yet; its words are zeros."""
    words[pool + TICK] = max(mean_ns // TICKS_PER_MEAN, 1)
    words[pool + STORE] = store
    words[pool + MEAN] = mean_ns


@njit(nogil=True, inline="always")
def chain_at(pool: int, number: int, klass: int, level: int) -> int:
    return pool + CHAINS + ((number * NUM_CLASSES + klass) * NUM_LEVELS + level) * chain.CHAIN_WORDS


@njit(nogil=True, inline="always")
def bin_of(start_tick: int, now_tick: int) -> int:
    """The bin for a latest start, LATE_BIN for one that is no use to try any more."""
    slack = start_tick - now_tick
    if slack < -BACK_TICKS:
        return LATE_BIN
    if slack < AHEAD_TICKS:
        return start_tick & NUM_NEAR - 1
    now_far = now_tick >> FAR_TICKS_LOG2
    ahead = min((start_tick >> FAR_TICKS_LOG2) - now_far, FAR_AHEAD_MAX)
    return NUM_NEAR + (now_far + ahead & NUM_BINS - NUM_NEAR - 1)


@njit(nogil=True)
def submit(words: Words, pool: int, slot: int, owner: int, now_ns: int, hand: Words, at: int) -> int:
    """Hand over a message that is written. Who is to be woken (0: nobody), or NO_ROOM: it is still the writer's.

    Args:
        slot: in WRITING, its words `LENGTH` to `CLASS` and its bytes written.
        hand: the thread's own; its words at `at` are those of the store of blocks.
    """
    words[slot + QUEUE] = pool + POOL_SLEEPERS
    word = with_state(load_acquire(words, slot), READY, owner)
    store_release(words, slot, word)
    if not put(words, pool, slot, word, owner, now_ns, hand, at):
        compare_and_swap(words, slot, word, with_state(word, WRITING, owner))
        return NO_ROOM
    return waken(words, pool + POOL_SLEEPERS)


@njit(nogil=True)
def put(words: Words, pool: int, slot: int, word: int, owner: int, now_ns: int, hand: Words, at: int) -> bool:
    """Put a slot that is READY and the owner's into its place of the grid; then it is nobody's."""
    tick_ns = words[pool + TICK]
    number = bin_of(words[slot + START] // tick_ns, now_ns // tick_ns)
    klass, level = words[slot + CLASS] & 0xFF, words[slot + CLASS] >> 8
    ticket = ticket_of(slot, word)
    if number == LATE_BIN:
        if not chain.push(words, words[pool + STORE], pool + LATE, ticket, owner, hand, at):
            return False
    else:
        place = chain_at(pool, number, klass, level)
        if not chain.push(words, words[pool + STORE], place, ticket, owner, hand, at):
            return False
        mark(words, pool, number, klass)
    compare_and_swap(words, slot, word, with_state(word, READY, 0))
    return True


@njit(nogil=True)
def mark(words: Words, pool: int, number: int, klass: int) -> None:
    """Say that a class of a bin has something: first of the bin, then of the wheel, as they are read the other way."""
    place, bit = pool + BITS + 2 * number + (klass >> 6), 1 << (klass & 63)
    if load_acquire(words, place) & bit == 0:
        fetch_or(words, place, bit)
    wheel, bit = pool + NEAR + (number >> 5), 1 << (number & 31)
    if load_acquire(words, wheel) & bit == 0:
        fetch_or(words, wheel, bit)


@njit(nogil=True)
def unmark(words: Words, pool: int, number: int, klass: int, owner: int) -> None:
    """Nothing was found in a class of a bin: say so, and look once more."""
    place = pool + BITS + 2 * number + (klass >> 6)
    fetch_and(words, place, ~(1 << (klass & 63)))
    for level in range(NUM_LEVELS):
        found, _, _ = chain.front(words, words[pool + STORE], chain_at(pool, number, klass, level), owner)
        if found != NONE:
            mark(words, pool, number, klass)
            return
    if top_class(words, pool, number) == NOTHING:
        fetch_and(words, pool + NEAR + (number >> 5), ~(1 << (number & 31)))
        highest = top_class(words, pool, number)
        if highest != NOTHING:
            mark(words, pool, number, highest)


@njit(nogil=True, inline="always")
def top_class(words: Words, pool: int, number: int) -> int:
    """The highest class of a bin that seems to have something; NOTHING if none does."""
    high = load_acquire(words, pool + BITS + 2 * number + 1)
    if high != 0:
        return 127 - count_leading_zeros(high)
    low = load_acquire(words, pool + BITS + 2 * number)
    if low != 0:
        return 63 - count_leading_zeros(low)
    return NOTHING


@njit(nogil=True)
def claim(
    words: Words, pool: int, owner: int, now_ns: int, weights: Weights, hand: Words, at: int, earliest: bool
) -> int:
    """Claim the message that is worth most now; NONE if nothing waits (never blocks).

    Args:
        weights: `weights_of` the pool.
        earliest: take the earliest latest start instead that has an even chance or better.
    """
    tick_ns = words[pool + TICK]
    now_tick = now_ns // tick_ns
    move_due(words, pool, owner, now_ns, hand, at, MOVES_PER_CLAIM)
    while True:
        number, klass = choose(words, pool, now_tick, weights, earliest)
        if number == NOTHING:
            return NONE
        slot = take_from(words, pool, number, klass, owner)
        if slot == NONE:
            unmark(words, pool, number, klass, owner)
        elif words[slot + START] // tick_ns - now_tick >= -BACK_TICKS:
            served(words, pool, slot)
            return slot
        elif not put_back(words, pool, slot, owner, now_ns, hand, at):
            return slot  # late, and no room to say so: its claimer will find out


@njit(nogil=True)
def choose(words: Words, pool: int, now_tick: int, weights: Weights, earliest: bool) -> tuple[int, int]:
    """The bin and class of the best that seems to wait; NOTHING, NOTHING if nothing does."""
    best, best_number, best_class = -1.0, NOTHING, NOTHING
    haste = HASTE + NUM_CLASSES - price_class(words, pool)
    wheels = load_acquire(words, pool + NEAR), load_acquire(words, pool + FAR)
    oldest = now_tick - BACK_TICKS - GUARD_TICKS, (now_tick >> FAR_TICKS_LOG2) - 1
    for wheel in range(2):
        turned = rotated(wheels[wheel], oldest[wheel] & NUM_NEAR - 1)
        while turned != 0:
            ahead = count_trailing_zeros(turned)
            turned &= turned - 1
            number = wheel * NUM_NEAR + (oldest[wheel] + ahead & NUM_NEAR - 1)
            klass = top_class(words, pool, number)
            if klass != NOTHING:
                slack = wheel * NUM_NEAR + ahead
                if earliest and weights[CHANCE + slack] >= 0.5:
                    return number, klass
                loss = 1.0 - weights[PATIENCE + slack] * (1.0 - weights[haste + klass])
                worth = DENSITIES[klass] * weights[CHANCE + slack] * loss
                if worth > best:
                    best, best_number, best_class = worth, number, klass
    if best_number == NOTHING and wheels[0] | wheels[1] != 0:
        return swept(words, pool, wheels[0], wheels[1])
    return best_number, best_class


@njit(nogil=True, inline="always")
def rotated(bits: int, first: int) -> int:
    """32 bits, turned so that bit `first` is the lowest."""
    return ((bits >> first) | (bits << NUM_NEAR - first)) & (1 << NUM_NEAR) - 1


@njit(nogil=True)
def swept(words: Words, pool: int, near: int, far: int) -> tuple[int, int]:
    """The wheels say that there is something, and no bin has it: put the wheels right. What came meanwhile, if any."""
    bits = near | far << NUM_NEAR
    while bits != 0:
        number = count_trailing_zeros(bits)
        bits &= bits - 1
        fetch_and(words, pool + NEAR + (number >> 5), ~(1 << (number & 31)))
        klass = top_class(words, pool, number)
        if klass != NOTHING:
            mark(words, pool, number, klass)
            return number, klass
    return NOTHING, NOTHING


@njit(nogil=True)
def take_from(words: Words, pool: int, number: int, klass: int, owner: int) -> int:
    """Claim the first message of a class of a bin, the lowest level first; NONE if there is none."""
    for level in range(NUM_LEVELS):
        slot = take(words, pool, chain_at(pool, number, klass, level), owner)
        if slot != NONE:
            return slot
    return NONE


@njit(nogil=True)
def take(words: Words, pool: int, place: int, owner: int) -> int:
    """Claim the first message of a chain; NONE if there is none."""
    while True:
        at, cell, head = chain.front(words, words[pool + STORE], place, owner)
        if at == NONE:
            return NONE
        slot = claim_ticket(words, pool + POOL_SLEEPERS, cell & chain.TICKET_MASK, owner)
        chain.drop(words, at, cell, head)
        if slot != NONE:
            return slot


@njit(nogil=True)
def take_late(words: Words, pool: int, owner: int) -> int:
    """Claim a message that cannot be on time any more; NONE if there is none."""
    return take(words, pool, pool + LATE, owner)


@njit(nogil=True, inline="always")
def price_class(words: Words, pool: int) -> int:
    """The class that the price is in. The word may stray a little beyond the classes: many change it at once."""
    return min(max(load_acquire(words, pool + PRICE) >> PRICE_SHIFT, 0), NUM_CLASSES - 1)


@njit(nogil=True, inline="always")
def price_step(words: Words, pool: int, slot: int) -> int:
    """How far the price moves for a message: by its cost, at most a class."""
    return min(PRICE_STEP * words[slot + COST] // words[pool + MEAN], 1 << PRICE_SHIFT)


@njit(nogil=True)
def served(words: Words, pool: int, slot: int) -> None:
    """Work below the price was served: the price is too high."""
    if words[slot + CLASS] & 0xFF < price_class(words, pool):
        fetch_add(words, pool + PRICE, -price_step(words, pool, slot))


@njit(nogil=True)
def lost(words: Words, pool: int, slot: int) -> None:
    """Work at the price or above came too late: the price is too low."""
    price = price_class(words, pool)
    if words[slot + CLASS] & 0xFF >= price and price < NUM_CLASSES - 1:
        fetch_add(words, pool + PRICE, price_step(words, pool, slot))


@njit(nogil=True)
def put_back(words: Words, pool: int, slot: int, owner: int, now_ns: int, hand: Words, at: int) -> bool:
    """Return a message that the member has claimed to its place of now. False: there is no room; it is still his."""
    tick_ns = words[pool + TICK]
    if words[slot + START] // tick_ns - now_ns // tick_ns < -BACK_TICKS:
        lost(words, pool, slot)
    claimed = load_acquire(words, slot)
    word = with_state(claimed, READY, owner)
    store_release(words, slot, word)
    if put(words, pool, slot, word, owner, now_ns, hand, at):
        return True
    compare_and_swap(words, slot, word, claimed)
    return False


@njit(nogil=True)
def move_due(words: Words, pool: int, owner: int, now_ns: int, hand: Words, at: int, num_max: int) -> int:
    """Move what has come near out of far bins, and what is late out of near ones; how many."""
    now_tick = now_ns // words[pool + TICK]
    num_moved = 0
    late = rotated(load_acquire(words, pool + NEAR), (now_tick - BACK_TICKS - GUARD_TICKS) & NUM_NEAR - 1)
    late &= (1 << GUARD_TICKS) - 1
    while late != 0 and num_moved < num_max:
        number = now_tick - BACK_TICKS - GUARD_TICKS + count_trailing_zeros(late) & NUM_NEAR - 1
        num_moved += move_bin(words, pool, number, owner, now_ns, hand, at, num_max - num_moved)
        late &= late - 1
    now_far = now_tick >> FAR_TICKS_LOG2
    near_end = now_tick + AHEAD_TICKS >> FAR_TICKS_LOG2  # the first far bin that is not all near
    come = rotated(load_acquire(words, pool + FAR), (now_far - 1) & NUM_NEAR - 1) & (1 << near_end - now_far + 1) - 1
    while come != 0 and num_moved < num_max:
        number = NUM_NEAR + (now_far - 1 + count_trailing_zeros(come) & NUM_NEAR - 1)
        num_moved += move_bin(words, pool, number, owner, now_ns, hand, at, num_max - num_moved)
        come &= come - 1
    return num_moved


@njit(nogil=True)
def move_bin(words: Words, pool: int, number: int, owner: int, now_ns: int, hand: Words, at: int, num_max: int) -> int:
    """Put up to `num_max` messages of a bin to where they belong now; how many."""
    num_moved = 0
    while num_moved < num_max:
        klass = top_class(words, pool, number)
        if klass == NOTHING:
            fetch_and(words, pool + NEAR + (number >> 5), ~(1 << (number & 31)))
            klass = top_class(words, pool, number)
            if klass == NOTHING:
                break
            mark(words, pool, number, klass)
        slot = take_from(words, pool, number, klass, owner)
        if slot == NONE:
            unmark(words, pool, number, klass, owner)
        elif put_back(words, pool, slot, owner, now_ns, hand, at):
            num_moved += 1
        else:
            break
    return num_moved


@njit(nogil=True)
def has_work(words: Words, pool: int) -> bool:
    """Whether something seems to wait. True at times when nothing does, never the other way."""
    return load_acquire(words, pool + NEAR) != 0 or load_acquire(words, pool + FAR) != 0


@njit(nogil=True)
def fall_asleep(words: Words, pool: int, owner: int) -> bool:
    """Announce that the member waits for its bell. False: something waits, and nothing is announced."""
    fetch_or(words, pool + POOL_SLEEPERS + SLEEPERS, 1 << owner)
    if not has_work(words, pool):
        return True
    wake_up(words, pool + POOL_SLEEPERS, owner)
    return False


@njit(nogil=True)
def mark_all(words: Words, pool: int, owner: int) -> None:
    """Say of each class of each bin what is true of it, as a process may have died before it said so."""
    for number in range(NUM_BINS):
        for klass in range(NUM_CLASSES):
            for level in range(NUM_LEVELS):
                found, _, _ = chain.front(words, words[pool + STORE], chain_at(pool, number, klass, level), owner)
                if found != NONE:
                    mark(words, pool, number, klass)
