"""The newest items of the index: hash tables in memory, filled by kernels, and what they are filled with, keys.

An item is (key, index): the index of an entry under the key of one of its fields. Keys are SipHash-1-3 under a secret
seed, so that nobody can choose values that collide. They are never identity: whoever finds an index by key compares
the bytes of the entry.

A table keeps its items in the order they came and chains those of a bucket, the newest first. So equal keys cost
nothing (one owner may have every item of the table), undoing the last items is exact, and a stable sort by key leaves
equal keys in order of their indices.
Source: Aumasson and Bernstein, SipHash, Indocrypt 2012; the variant with one and three rounds is the one of CPython
and Rust hash tables.
Turned down: a multiply-and-shift mixer (some differences cancel under every seed), and open addressing (equal keys make
one cluster of it, quadratic in their number).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit

Keys = NDArray[np.uint64]
Indices = NDArray[np.uint64]
Offsets = NDArray[np.uint32]

SEED_BYTES = 16
NO_ITEM = -1

_WORD_BYTES = 8
_RADIX_BITS = 11
_RADIX_PASSES = 6  # 6 x 11 bits cover 64


class Tail(NamedTuple):
    """The table of one family, as kernels take it: c items at most."""

    keys: NDArray[np.uint64]  # [c], in the order they came
    indices: NDArray[np.uint64]  # [c]
    chain: NDArray[np.int32]  # [c], the next older item of the same bucket, or `NO_ITEM`
    heads: NDArray[np.int32]  # [power of two >= 2c], the newest item of every bucket, or `NO_ITEM`
    num_items: NDArray[np.int64]  # [1], how many there are


def new_tail(num_items_max: int) -> Tail:
    """An empty table for so many items; 20 bytes an item and 8 to 16 for buckets."""
    num_heads = 1 << (2 * num_items_max - 1).bit_length()
    return Tail(
        keys=np.zeros(num_items_max, np.uint64),
        indices=np.zeros(num_items_max, np.uint64),
        chain=np.full(num_items_max, NO_ITEM, np.int32),
        heads=np.full(num_heads, NO_ITEM, np.int32),
        num_items=np.zeros(1, np.int64),
    )


@njit(nogil=True)
def insert(tail: Tail, key: Any, index: Any) -> None:
    """Add an item. Indices must come in ascending order, and there must be room."""
    item = tail.num_items[0]
    assert item < len(tail.keys)
    bucket = np.int64(np.uint64(key) & np.uint64(len(tail.heads) - 1))
    tail.keys[item] = key
    tail.indices[item] = index
    tail.chain[item] = tail.heads[bucket]
    tail.heads[bucket] = item
    tail.num_items[0] = item + 1


@njit(nogil=True)
def insert_many(tail: Tail, keys: Any, indices: Any) -> None:
    """`insert` uint64[n] keys with their uint64[n] indices."""
    for place in range(len(keys)):
        insert(tail, keys[place], indices[place])


@njit(nogil=True)
def newest(tail: Tail, key: Any) -> int:
    """The item of that key that came last, or `NO_ITEM`."""
    bucket = np.int64(np.uint64(key) & np.uint64(len(tail.heads) - 1))
    item = tail.heads[bucket]
    while item != NO_ITEM and tail.keys[item] != key:
        item = tail.chain[item]
    return item


@njit(nogil=True)
def next_older(tail: Tail, item: int) -> int:
    """The item of the same key that came before, or `NO_ITEM`."""
    key = tail.keys[item]
    item = tail.chain[item]
    while item != NO_ITEM and tail.keys[item] != key:
        item = tail.chain[item]
    return item


@njit(nogil=True)
def truncate(tail: Tail, count: int) -> None:
    """Forget all but the first `count` items: as if the others had never come."""
    for item in range(tail.num_items[0] - 1, count - 1, -1):
        bucket = np.int64(tail.keys[item] & np.uint64(len(tail.heads) - 1))
        tail.heads[bucket] = tail.chain[item]
    tail.num_items[0] = min(count, tail.num_items[0])


@njit(nogil=True)
def _num_found(tail: Tail, key: Any) -> int:
    num_found = 0
    item = newest(tail, key)
    while item != NO_ITEM:
        num_found += 1
        item = next_older(tail, item)
    return num_found


@njit(nogil=True)
def found_many(tail: Tail, keys: Any) -> Any:
    """All indices under each of uint64[n] keys.

    Returns:
        int64[m] places in `keys` and the uint64[m] indices found for them, ordered by place, then index.
    """
    num_found = 0
    for key in keys:
        num_found += _num_found(tail, key)
    places, indices = np.empty(num_found, np.int64), np.empty(num_found, np.uint64)
    done = 0
    for place in range(len(keys)):
        end = done + _num_found(tail, keys[place])
        item = newest(tail, keys[place])
        for row in range(end - 1, done - 1, -1):
            places[row], indices[row] = place, tail.indices[item]
            item = next_older(tail, item)
        done = end
    return places, indices


def found(tail: Tail, key: int) -> Indices:
    """uint64[m], the indices under a key, ascending."""
    indices: Indices = found_many(tail, np.array([key], np.uint64))[1]
    return indices


@njit(nogil=True)
def _radix_sort(keys: Any, indices: Any, first_index: Any) -> Any:
    """Stable, by the least significant digit first. Cost: 6 passes, about 15 ns an item."""
    num_items, num_digits = len(keys), 1 << _RADIX_BITS
    counts = np.zeros((_RADIX_PASSES, num_digits), np.int64)
    low = np.uint64(num_digits - 1)
    for key in keys:
        for turn in range(_RADIX_PASSES):
            counts[turn, np.int64((key >> np.uint64(_RADIX_BITS * turn)) & low)] += 1
    from_keys, to_keys = keys.copy(), np.empty(num_items, np.uint64)
    from_offsets, to_offsets = np.empty(num_items, np.uint32), np.empty(num_items, np.uint32)
    for item in range(num_items):
        from_offsets[item] = np.uint32(indices[item] - np.uint64(first_index))
    for turn in range(_RADIX_PASSES):
        places = np.cumsum(counts[turn]) - counts[turn]
        shift = np.uint64(_RADIX_BITS * turn)
        for item in range(num_items):
            key = from_keys[item]
            digit = np.int64((key >> shift) & low)
            place = places[digit]
            places[digit] = place + 1
            to_keys[place] = key
            to_offsets[place] = from_offsets[item]
        from_keys, to_keys = to_keys, from_keys
        from_offsets, to_offsets = to_offsets, from_offsets
    return from_keys, from_offsets


def sorted_items(tail: Tail, first_index: int) -> tuple[Keys, Offsets]:
    """uint64[n] keys ascending, and the uint32[n] distances of their indices from `first_index`; equal keys ascending.

    Cost: about 1 ms for 65,536 items. Releases the interpreter lock.
    """
    count = int(tail.num_items[0])
    keys, offsets = _radix_sort(tail.keys[:count], tail.indices[:count], np.uint64(first_index))
    return keys, offsets


@njit(nogil=True, inline="always")
def _rotated(word: Any, places: int) -> Any:
    return (word << np.uint64(places)) | (word >> np.uint64(64 - places))


@njit(nogil=True, inline="always")
def _sip_round(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    v0 += v1
    v2 += v3
    v1 = _rotated(v1, 13) ^ v0
    v3 = _rotated(v3, 16) ^ v2
    v0 = _rotated(v0, 32)
    v2 += v1
    v0 += v3
    v1 = _rotated(v1, 17) ^ v2
    v3 = _rotated(v3, 21) ^ v0
    v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@njit(nogil=True)
def key_of(words: Any, seed: Any) -> Any:
    """SipHash-1-3 of uint64[w] under uint64[2]: the key of a value of 8w bytes."""
    v0 = seed[0] ^ np.uint64(0x736F6D6570736575)
    v1 = seed[1] ^ np.uint64(0x646F72616E646F6D)
    v2 = seed[0] ^ np.uint64(0x6C7967656E657261)
    v3 = seed[1] ^ np.uint64(0x7465646279746573)
    for word in words:
        v3 ^= word
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
        v0 ^= word
    length = np.uint64(_WORD_BYTES * len(words)) << np.uint64(56)
    v3 ^= length
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0 ^= length
    v2 ^= np.uint64(0xFF)
    for _ in range(3):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@njit(nogil=True)
def _keys_of(words: Any, seed: Any) -> Any:
    out = np.empty(len(words), np.uint64)
    for row in range(len(words)):
        out[row] = key_of(words[row], seed)
    return out


def keys_of(values: NDArray[np.uint8], seed: bytes) -> Keys:
    """uint8[n, w] -> uint64[n], the key of every row; w is a multiple of 8.

    Kernels that have the values as words call `key_of` with `seed_words(seed)`.
    """
    assert values.ndim == 2 and values.shape[1] % _WORD_BYTES == 0
    words = np.ascontiguousarray(values).view(np.uint64)
    out: Keys = _keys_of(words, seed_words(seed))
    return out


def seed_words(seed: bytes) -> NDArray[np.uint64]:
    """uint64[2], a seed of `SEED_BYTES` as kernels take it."""
    assert len(seed) == SEED_BYTES
    return np.frombuffer(seed, np.uint64).copy()
