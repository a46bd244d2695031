"""Where the row of an id is: an open-addressing hash table beside an array of rows, for use inside numba kernels.

A table is uint32[2**k] of row numbers plus one, 0 for an empty place. The ids stay in the rows: uint64[n, words], any
array whose rows begin with the two words of an id. Collisions go to the next place; removal closes the gap, so there
are no tombstones and a table never gets slower with age. Half the places stay empty.

Ids come from outside, and whoever knows the hash function could choose ids that all collide. So it is multilinear
hashing under secret keys: the upper half of a sum of products, strongly universal (Lemire and Kaser, "Strongly
universal string hashing is fast", 2013). The keys decide where a row is found, never what is found.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit

Table = NDArray[np.uint32]
NUM_KEYS = 5
WORD_BYTES = 8

_LOW_HALF = np.uint64(2**32 - 1)
_HALF_BITS = np.uint64(32)


def make_keys(seed: bytes) -> NDArray[np.uint64]:
    """uint64[5], the keys of the hash function, from a secret."""
    return np.frombuffer(hashlib.blake2b(seed, digest_size=WORD_BYTES * NUM_KEYS).digest(), "<u8").copy()


def places_for(num_rows: int) -> int:
    """How many places a table of that many rows needs: a power of two, at least twice as many."""
    return 1 << max(2 * num_rows - 1, 1).bit_length()


@njit(nogil=True)
def home_place(table: Any, keys: Any, lo: Any, hi: Any) -> Any:
    """The place at which the search for an id begins."""
    total = keys[0] + keys[1] * (lo & _LOW_HALF) + keys[2] * (lo >> _HALF_BITS)
    total += keys[3] * (hi & _LOW_HALF) + keys[4] * (hi >> _HALF_BITS)
    return np.int64(total >> _HALF_BITS) & (len(table) - 1)


@njit(nogil=True)
def find(table: Any, rows: Any, keys: Any, lo: Any, hi: Any) -> Any:
    """The number of the row with an id, or -1."""
    place = home_place(table, keys, lo, hi)
    while table[place]:
        row = np.int64(table[place]) - 1
        if rows[row, 0] == lo and rows[row, 1] == hi:
            return row
        place = (place + 1) & (len(table) - 1)
    return -1


@njit(nogil=True)
def insert(table: Any, rows: Any, keys: Any, row: int) -> None:
    """Make a row findable. The table must have an empty place; of several rows with one id `find` gives any."""
    place = home_place(table, keys, rows[row, 0], rows[row, 1])
    while table[place]:
        place = (place + 1) & (len(table) - 1)
    table[place] = row + 1


@njit(nogil=True)
def remove(table: Any, rows: Any, keys: Any, row: int) -> None:
    """Make a row unfindable; it must be in the table, its id unchanged."""
    last = len(table) - 1
    gap = home_place(table, keys, rows[row, 0], rows[row, 1])
    while table[gap] != row + 1:
        gap = (gap + 1) & last
    place = (gap + 1) & last
    while table[place]:
        other = np.int64(table[place]) - 1
        home = home_place(table, keys, rows[other, 0], rows[other, 1])
        # A row may move back into the gap unless its search begins after the gap.
        if (place - home) & last >= (place - gap) & last:
            table[gap] = table[place]
            gap = place
        place = (place + 1) & last
    table[gap] = 0


@njit(nogil=True)
def insert_all(table: Any, rows: Any, keys: Any, numbers: Any) -> None:
    """Make the rows of int64[n] findable."""
    for row in numbers:
        insert(table, rows, keys, row)
