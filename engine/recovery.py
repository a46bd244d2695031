"""Recovery: what a dead member held goes back to where others find it, exactly once; what it had half done is ended.

Every slot whose word names the dead member is settled by a compare-and-swap on that word, so nothing is settled twice:

    WRITING   free again: nobody has been told of it
    READY     put into its queue, perhaps a second time: the first ticket of the two decides, the other is dropped
    CLAIMED   READY again, with one more death to its name, and put into its queue
    blocks    see `engine.chain.settle_block`

While it is put in, the slot is the recoverer's, whose own death is recovered in the same way.

Cost: a look at every slot, and at every chain of every pool; deaths are rare.
"""

from engine import chain, mailbox, router, slots
from engine.atomics import Words, compare_and_swap, fetch_and, load_acquire
from engine.layout import (
    BLOCKS,
    NUM_CLASSES,
    NUM_MAILBOXES,
    NUM_POOLS,
    POOLS,
    area_at,
    mailbox_at,
    pool_at,
)
from engine.slots import CLAIMED, FREE, NONE, READY, WRITING, owner_of, state_of, with_state
from ledger.compiled import njit


@njit(nogil=True)
def recover(words: Words, dead: int, owner: int, now_ns: int, hand: Words, blocks_hand: int) -> bool:
    """Settle all that a dead member had; the caller has begun its recovery. False: a queue is full, try again later.

    Args:
        owner: the recoverer; the member itself if it leaves in good order, which is no death.
        hand: the recoverer's; its words at `blocks_hand` are those of the store of blocks.
    """
    if not settle_messages(words, dead, owner, now_ns, hand, blocks_hand):
        return False
    settle_blocks(words, dead, owner)
    for number in range(words[NUM_MAILBOXES]):
        fetch_and(words, mailbox_at(words, number) + mailbox.SLEEPERS, ~(1 << dead))
    for number in range(words[NUM_POOLS]):
        pool = pool_at(words, number)
        fetch_and(words, pool + router.POOL_SLEEPERS, ~(1 << dead))
        router.mark_all(words, pool, owner)
    return True


@njit(nogil=True)
def settle_messages(words: Words, dead: int, owner: int, now_ns: int, hand: Words, blocks_hand: int) -> bool:
    """Messages that the dead member was writing, was sending or had claimed."""
    settled = True
    for number in range(words[NUM_CLASSES]):
        area = area_at(words, number)
        slot = words[area + slots.AREA_FIRST]
        for _ in range(words[area + slots.AREA_NUM]):
            word = load_acquire(words, slot)
            if owner_of(word) == dead and state_of(word) != FREE:
                settled &= settle_message(words, area, slot, word, dead, owner, now_ns, hand, blocks_hand)
            slot += words[area + slots.AREA_STRIDE]
    return settled


@njit(nogil=True)
def settle_message(
    words: Words, area: int, slot: int, word: int, dead: int, owner: int, now_ns: int, hand: Words, blocks_hand: int
) -> bool:
    """One message. False: its queue is full, and it is still the dead member's."""
    if state_of(word) == WRITING:
        slots.give_back(words, area, slot, word)
        return True
    died = state_of(word) == CLAIMED and dead != owner
    if died and slots.deaths_of(word) < slots.DEATHS_MASK:
        mine = with_state(word + (1 << slots.DEATHS_SHIFT), READY, owner)
    else:
        mine = with_state(word, READY, owner)
    if not compare_and_swap(words, slot, word, mine):
        return True  # taken or cancelled meanwhile, as a message may be that is READY
    if requeue(words, slot, mine, owner, now_ns, hand, blocks_hand):
        return True
    compare_and_swap(words, slot, mine, with_state(mine, READY, dead))
    return False


@njit(nogil=True)
def requeue(words: Words, slot: int, word: int, owner: int, now_ns: int, hand: Words, blocks_hand: int) -> bool:
    """Put a message that is READY and the owner's into the queue that it names. False: that is full."""
    queue = words[slot + mailbox.QUEUE]
    if queue >= words[POOLS]:
        pool = queue - router.POOL_SLEEPERS
        return router.put(words, pool, slot, word, owner, now_ns, hand, blocks_hand)
    return mailbox.put(words, queue, slot, word)


@njit(nogil=True)
def settle_blocks(words: Words, dead: int, owner: int) -> None:
    """Blocks that the dead member was linking or taking out."""
    area = words[BLOCKS]
    block = words[area + slots.AREA_FIRST]
    for _ in range(words[area + slots.AREA_NUM]):
        word = load_acquire(words, block)
        if owner_of(word) == dead and state_of(word) != FREE:
            chain.settle_block(words, area, block, word, owner)
        block += words[area + slots.AREA_STRIDE]


@njit(nogil=True)
def empty(words: Words, number: int, owner: int) -> int:
    """Throw away what is in a mailbox whose only reader is dead; how many messages."""
    num_dropped = 0
    while True:
        slot = mailbox.take(words, mailbox_at(words, number), owner)
        if slot == NONE:
            return num_dropped
        mailbox.finish(words, area_of(words, slot), slot, owner)
        num_dropped += 1


@njit(nogil=True)
def area_of(words: Words, slot: int) -> int:
    """The area that a slot of a message lies in."""
    for number in range(words[NUM_CLASSES]):
        area = area_at(words, number)
        place = slot - words[area + slots.AREA_FIRST]
        if 0 <= place < words[area + slots.AREA_NUM] * words[area + slots.AREA_STRIDE]:
            return area
    return NONE
