"""Ring: a bounded queue of 42-bit values in shared memory, for any number of producers and consumers.

A ring lies at one offset of the words:

    +0   log2 of the number of cells        +8   tail        +16   head        +24   cells, one word each

A cell is empty or full in a certain lap: lap (20 bits), full (1 bit), value (42 bits). Place p of the queue is cell p
modulo the size, in lap p divided by the size. A producer fills the cell at the tail by one compare-and-swap from "empty
in my lap" to "full in my lap"; a consumer empties the cell at the head by one to "empty in the next lap". `tail` and
`head` follow: whoever finds one behind moves it on. So a process that is killed between any two instructions leaves
nothing half done, and nobody ever waits for anybody.

Turned down: Vyukov's ring (1024cores), which takes the place first (fetch-add or compare-and-swap on `tail`) and fills
it afterwards. It is as fast, but a producer that dies between the two blocks its place for ever. A word a cell, of
128 bytes apart, costs more memory than it saves time when messages are moved in batches.

Concurrency: any number of producers and consumers; lock-free. Order: first in, first out.
Cost: two compare-and-swaps a value, one and a share of another in batches.
"""

from engine.atomics import Words, compare_and_swap, load_acquire
from ledger.compiled import njit

VALUE_BITS = 42
VALUE_MASK = (1 << VALUE_BITS) - 1
FULL_BIT = 1 << VALUE_BITS
LAP_SHIFT = VALUE_BITS + 1
LAP_MASK = (1 << 20) - 1

SIZE_LOG2, TAIL, HEAD, CELLS = 0, 8, 16, 24
EMPTY = -1


def num_words(size_log2: int) -> int:
    """The words that a ring of 2^size_log2 cells takes."""
    return CELLS + (1 << size_log2)


@njit(nogil=True)
def initialise(words: Words, ring: int, size_log2: int) -> None:
    """An empty ring, where nobody looks yet."""
    words[ring + SIZE_LOG2] = size_log2
    words[ring + TAIL] = 0
    words[ring + HEAD] = 0
    for cell in range(1 << size_log2):
        words[ring + CELLS + cell] = 0


@njit(nogil=True, inline="always")
def empty_cell(place: int, size_log2: int) -> int:
    """What the cell of a place of the queue says before it is filled."""
    return ((place >> size_log2) & LAP_MASK) << LAP_SHIFT


@njit(nogil=True, inline="always")
def cell_at(ring: int, place: int, size_log2: int) -> int:
    return ring + CELLS + (place & ((1 << size_log2) - 1))


@njit(nogil=True)
def push(words: Words, ring: int, value: int) -> bool:
    """Put a value in at the end. False: the ring is full."""
    size_log2 = words[ring + SIZE_LOG2]
    tail = load_acquire(words, ring + TAIL)
    while True:
        at = cell_at(ring, tail, size_log2)
        empty = empty_cell(tail, size_log2)
        cell = load_acquire(words, at)
        if cell == empty:
            if compare_and_swap(words, at, empty, empty | FULL_BIT | value):
                compare_and_swap(words, ring + TAIL, tail, tail + 1)
                return True
        elif cell >> LAP_SHIFT == empty >> LAP_SHIFT or cell == empty_cell(tail + (1 << size_log2), size_log2):
            compare_and_swap(words, ring + TAIL, tail, tail + 1)  # filled, perhaps emptied again: the tail is behind
            tail = load_acquire(words, ring + TAIL)
        else:
            again = load_acquire(words, ring + TAIL)
            if again == tail:
                return False  # still full in the lap before
            tail = again


@njit(nogil=True)
def front(words: Words, ring: int) -> tuple[int, int]:
    """The place at the head and what its cell says, to be given to `drop`; the latter EMPTY if there is nothing."""
    size_log2 = words[ring + SIZE_LOG2]
    while True:
        head = load_acquire(words, ring + HEAD)
        empty = empty_cell(head, size_log2)
        cell = load_acquire(words, cell_at(ring, head, size_log2))
        if cell == empty:
            return head, EMPTY
        if cell >> LAP_SHIFT == empty >> LAP_SHIFT:
            return head, cell
        compare_and_swap(words, ring + HEAD, head, head + 1)  # emptied already: the head is behind


@njit(nogil=True)
def drop(words: Words, ring: int, head: int, cell: int) -> bool:
    """Empty the cell that `front` gave. False: another has."""
    size_log2 = words[ring + SIZE_LOG2]
    done = compare_and_swap(words, cell_at(ring, head, size_log2), cell, empty_cell(head + (1 << size_log2), size_log2))
    compare_and_swap(words, ring + HEAD, head, head + 1)
    return done


@njit(nogil=True)
def pop(words: Words, ring: int) -> int:
    """Take the value at the front; EMPTY if there is none."""
    while True:
        head, cell = front(words, ring)
        if cell == EMPTY:
            return EMPTY
        if drop(words, ring, head, cell):
            return cell & VALUE_MASK


@njit(nogil=True)
def push_many(words: Words, ring: int, values: Words, num_values: int) -> int:
    """Put values in at the end, in their order, others' perhaps between them; how many found room.

    The tail is moved once for all, or once for half the ring: whoever needs it sooner moves it. Were it left behind by
    a whole lap, a cell of the next lap could not be told from a full ring.
    """
    size_log2 = words[ring + SIZE_LOG2]
    ahead_max = (1 << size_log2) >> 1
    tail = first = load_acquire(words, ring + TAIL)
    num_pushed = 0
    while num_pushed < num_values:
        if tail - first >= ahead_max:
            move_on(words, ring + TAIL, first, tail)
            first = tail
        at = cell_at(ring, tail, size_log2)
        empty = empty_cell(tail, size_log2)
        cell = load_acquire(words, at)
        if cell == empty:
            if compare_and_swap(words, at, empty, empty | FULL_BIT | values[num_pushed]):
                num_pushed += 1
                tail += 1
        elif cell >> LAP_SHIFT == empty >> LAP_SHIFT or cell == empty_cell(tail + (1 << size_log2), size_log2):
            tail += 1  # another filled it
        else:
            again = load_acquire(words, ring + TAIL)
            if again <= tail:
                break
            tail = first = again
    move_on(words, ring + TAIL, first, tail)
    return num_pushed


@njit(nogil=True)
def pop_many(words: Words, ring: int, out: Words, num_max: int) -> int:
    """Take values from the front into `out`; how many."""
    size_log2 = words[ring + SIZE_LOG2]
    ahead_max = (1 << size_log2) >> 1
    head = first = load_acquire(words, ring + HEAD)
    num_popped = 0
    while num_popped < num_max:
        if head - first >= ahead_max:
            move_on(words, ring + HEAD, first, head)
            first = head
        at = cell_at(ring, head, size_log2)
        empty = empty_cell(head, size_log2)
        cell = load_acquire(words, at)
        if cell == empty:
            break
        if cell >> LAP_SHIFT != empty >> LAP_SHIFT:
            head += 1  # another emptied it, at least once
            if cell != empty_cell(head - 1 + (1 << size_log2), size_log2):
                head = first = max(head, load_acquire(words, ring + HEAD))
            continue
        if compare_and_swap(words, at, cell, empty_cell(head + (1 << size_log2), size_log2)):
            out[num_popped] = cell & VALUE_MASK
            num_popped += 1
            head += 1
    move_on(words, ring + HEAD, first, head)
    return num_popped


@njit(nogil=True, inline="always")
def move_on(words: Words, at: int, seen: int, place: int) -> None:
    """Bring a tail or head to a place that everything before has passed, unless it is further already."""
    while seen < place and not compare_and_swap(words, at, seen, place):
        seen = load_acquire(words, at)
