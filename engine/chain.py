"""Chains: queues of tickets without a limit of their own, which share one store of blocks.

A chain is two words, HEAD and TAIL, each a reference to a block (0: none yet). A block is a slot (`engine.slots`) of
32 words:

    +0 word   +1 next   +2 the block before   +3 the chain   +4 where to fill   +5 where to take   +6 .. +31 cells

Cells are filled from the first to the last and taken in the same order, each by one compare-and-swap, so that a kill
leaves no cell half done. Every cell, `next` and both hints carry the generation of the block in which they were
written; what carries an older one is empty, and what carries a newer one says that the reader's reference is old. So a
block is used again as it is, and who comes late with an old reference changes nothing.

A block is HELD by who wants to link it, LINKED when somebody has seen it linked, RETIRING by who takes it out, and then
FREE. Each step can be done or ended by anyone who comes along, so the death of whoever began it holds up nobody, and
`settle_block` tells from the words alone how far a dead member had got.

Turned down: linked nodes a message (Michael and Scott, PODC 1996): a cache miss each, and nodes that leak when a
process dies between taking one out and giving it back; a ring a bucket: memory for as many messages as all have
together.

Concurrency: any number of producers and consumers; lock-free. Order: first in, first out.
Cost: O(1); one compare-and-swap to fill a cell, one to empty it; a block lasts 26 cells.
Source: Michael and Scott for head, tail and helping; LCRQ (Morrison and Afek, PPoPP 2013) for linked arrays of cells.
"""

from engine.atomics import Words, compare_and_swap, load_acquire, store_release
from engine.slots import (
    AREA_STRIDE,
    GENERATION_BITS,
    GENERATION_MASK,
    HELD,
    LINKED,
    NONE,
    RETIRING,
    claim,
    give_back,
    is_of,
    slot_of,
    state_of,
    ticket_of,
    with_state,
)
from ledger.compiled import njit

HEAD, TAIL, CHAIN_WORDS = 0, 1, 2
NEXT, BEFORE, CHAIN, FILL, TAKE, CELLS = 1, 2, 3, 4, 5, 6
BLOCK_WORDS = 32
NUM_CELLS = BLOCK_WORDS - CELLS

TICKET_BITS = 42
TICKET_MASK = (1 << TICKET_BITS) - 1
FULL_BIT = 1 << TICKET_BITS
TAG_SHIFT = TICKET_BITS + 1
AGE_NEWER = 1 << GENERATION_BITS - 1
"""An age of so much or more is that of a generation that is yet to come."""

PUSHED, AGAIN, NO_ROOM = 0, 1, 2


@njit(nogil=True, inline="always")
def tagged(generation: int, value: int) -> int:
    return (generation << TAG_SHIFT) | value


@njit(nogil=True, inline="always")
def age_of(tagged_word: int, generation: int) -> int:
    """0: written in this generation; less than AGE_NEWER: in an earlier one; else in a later one."""
    return (generation - (tagged_word >> TAG_SHIFT)) & GENERATION_MASK


@njit(nogil=True, inline="always")
def hint_at(words: Words, at: int, generation: int) -> int:
    """Which cell to begin with: no cell before it is worth a look."""
    hint = load_acquire(words, at)
    if age_of(hint, generation) == 0:
        return hint & TICKET_MASK
    return 0


@njit(nogil=True)
def push(words: Words, store: int, chain: int, ticket: int, owner: int, hand: Words, at: int) -> bool:
    """Put a ticket in at the end. False: the store has no block left.

    Args:
        store: offset of the area of blocks.
        hand: the thread's own; its words at `at` are the store's.
    """
    while True:
        tail = load_acquire(words, chain + TAIL)
        if tail == 0:
            if not begin(words, store, chain, owner, hand, at):
                return False
            continue
        done = push_into(words, store, chain, tail, ticket, owner, hand, at)
        if done == PUSHED:
            return True
        if done == NO_ROOM:
            return False


@njit(nogil=True)
def begin(words: Words, store: int, chain: int, owner: int, hand: Words, at: int) -> bool:
    """See that a chain has a first block, and a tail."""
    head = load_acquire(words, chain + HEAD)
    if head == 0:
        block = hold(words, store, chain, 0, owner, hand, at)
        if block == NONE:
            return False
        word = load_acquire(words, block)
        head = ticket_of(block, word)
        if compare_and_swap(words, chain + HEAD, 0, head):
            compare_and_swap(words, block, word, with_state(word, LINKED, 0))
        else:
            give_back(words, store, block, word)
            return True
    # Nothing is linked behind a block before the tail is set, so this head is the first, or the tail is set.
    compare_and_swap(words, chain + TAIL, 0, head)
    return True


@njit(nogil=True)
def hold(words: Words, store: int, chain: int, before: int, owner: int, hand: Words, at: int) -> int:
    """A block to be linked behind another, or as the first of its chain; NONE if there is none."""
    block = claim(words, store, owner, hand, at)
    if block != NONE:
        store_release(words, block + BEFORE, before)
        store_release(words, block + CHAIN, chain)
    return block


@njit(nogil=True)
def push_into(words: Words, store: int, chain: int, tail: int, ticket: int, owner: int, hand: Words, at: int) -> int:
    """Fill a cell of the block that the tail refers to, or see that the tail moves on."""
    block, generation = slot_of(tail), tail & GENERATION_MASK
    place = hint_at(words, block + FILL, generation)
    while place < words[store + AREA_STRIDE] - CELLS:
        cell = load_acquire(words, block + CELLS + place)
        age = age_of(cell, generation)
        if age >= AGE_NEWER:
            return AGAIN
        if age > 0 and compare_and_swap(words, block + CELLS + place, cell, tagged(generation, FULL_BIT | ticket)):
            store_release(words, block + FILL, tagged(generation, place + 1))
            return PUSHED
        if age == 0:
            place += 1
    return extend(words, store, chain, tail, owner, hand, at)


@njit(nogil=True)
def extend(words: Words, store: int, chain: int, tail: int, owner: int, hand: Words, at: int) -> int:
    """Link a block behind the tail, whose cells are all filled, and move the tail on."""
    block, generation = slot_of(tail), tail & GENERATION_MASK
    following = load_acquire(words, block + NEXT)
    age = age_of(following, generation)
    if age >= AGE_NEWER:
        return AGAIN
    if age > 0:
        fresh = hold(words, store, chain, tail, owner, hand, at)
        if fresh == NONE:
            return NO_ROOM
        word = load_acquire(words, fresh)
        linked = tagged(generation, ticket_of(fresh, word))
        if not compare_and_swap(words, block + NEXT, following, linked):
            give_back(words, store, fresh, word)
            return AGAIN
        following = linked
    confirm(words, following & TICKET_MASK)
    compare_and_swap(words, chain + TAIL, tail, following & TICKET_MASK)
    return AGAIN


@njit(nogil=True)
def confirm(words: Words, reference: int) -> None:
    """The block was seen linked: it is nobody's any more."""
    block = slot_of(reference)
    word = load_acquire(words, block)
    if state_of(word) == HELD and is_of(reference, word):
        compare_and_swap(words, block, word, with_state(word, LINKED, 0))


@njit(nogil=True)
def front(words: Words, store: int, chain: int, owner: int) -> tuple[int, int, int]:
    """The offset of the first full cell, what it says, and the head; the first is NONE if there is none.

    Blocks whose cells are all taken are taken out on the way, and given back.
    """
    while True:
        head = load_acquire(words, chain + HEAD)
        if head == 0:
            return NONE, 0, 0
        block, generation = slot_of(head), head & GENERATION_MASK
        place = hint_at(words, block + TAKE, generation)
        num_cells = words[store + AREA_STRIDE] - CELLS
        age = 0
        cell = 0
        while place < num_cells:
            cell = load_acquire(words, block + CELLS + place)
            age = age_of(cell, generation)
            if age != 0 or cell & FULL_BIT != 0:
                break
            place += 1
        if place == num_cells:
            if not advance(words, store, chain, head, owner):
                return NONE, 0, 0
        elif age == 0:
            return block + CELLS + place, cell, head
        elif age < AGE_NEWER:
            return NONE, 0, 0


@njit(nogil=True)
def drop(words: Words, at: int, cell: int, head: int) -> bool:
    """Empty the cell that `front` gave. False: another has."""
    block, generation = slot_of(head), head & GENERATION_MASK
    done = compare_and_swap(words, at, cell, tagged(generation, 0))
    if done:
        store_release(words, block + TAKE, tagged(generation, at - block - CELLS + 1))
    return done


@njit(nogil=True)
def advance(words: Words, store: int, chain: int, head: int, owner: int) -> bool:
    """Take out the block at the head, whose cells are all taken. False: it is the last one, and the chain empty."""
    block, generation = slot_of(head), head & GENERATION_MASK
    following = load_acquire(words, block + NEXT)
    age = age_of(following, generation)
    if age >= AGE_NEWER:
        return True
    if age > 0:
        return False
    reference = following & TICKET_MASK
    confirm(words, reference)
    compare_and_swap(words, chain + TAIL, head, reference)  # the head never passes the tail
    confirm(words, head)
    word = load_acquire(words, block)
    mine = with_state(word, RETIRING, owner)
    retires = state_of(word) == LINKED and is_of(head, word) and compare_and_swap(words, block, word, mine)
    compare_and_swap(words, chain + HEAD, head, reference)
    if retires:
        give_back(words, store, block, mine)
    return True


@njit(nogil=True)
def settle_block(words: Words, store: int, block: int, word: int, owner: int) -> None:
    """End what a dead member had begun with a block that it held or took out, in the state `word`.

    Nobody but a dead member's recoverer calls this, and one at a time.
    """
    chain = load_acquire(words, block + CHAIN)
    reference = ticket_of(block, word)
    if state_of(word) == RETIRING:
        following = load_acquire(words, block + NEXT)
        compare_and_swap(words, chain + HEAD, reference, following & TICKET_MASK)
        give_back(words, store, block, word)
    elif is_linked(words, block, chain, reference):
        compare_and_swap(words, block, word, with_state(word, LINKED, 0))
    else:
        give_back(words, store, block, word)  # fails if somebody has confirmed it meanwhile


@njit(nogil=True)
def is_linked(words: Words, block: int, chain: int, reference: int) -> bool:
    """Whether a block that is HELD is part of its chain. The head passes no block that is HELD, so what is before it
    is there still, or it was never linked."""
    before = load_acquire(words, block + BEFORE)
    if before == 0:
        return load_acquire(words, chain + HEAD) == reference
    following = load_acquire(words, slot_of(before) + NEXT)
    return following == tagged(before & GENERATION_MASK, reference)
