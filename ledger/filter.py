"""Which keys were surely never added: a Bloom filter that grows, one cache line a question.

The filter is a list of slices, each twice as large as the one before. A slice is made of blocks of 64 bytes, a cache
line; a key has one block in each slice and one bit in each of the block's eight words. Keys are hashes already
(`ledger.tail.keys_of`), so their own bits choose the block and the bits.
Source: Putze, Sanders, Singler, Cache-, Hash- and Space-Efficient Bloom Filters, WEA 2007; slices that grow: Almeida
et al., Scalable Bloom Filters, 2007.
Turned down: a filter for each run of the index (dozens of cache misses a question instead of a few), and cuckoo or xor
filters (they take deletions or know all keys beforehand; neither is so here, and inserts are slower).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.tail import Keys

BITS_PER_KEY = 24
"""A full slice is wrong about 8 keys in 100,000, measured; those of 64 million keys about 5 in 10,000."""

SLICE_KEYS_MIN = 1 << 20

_BLOCK_WORDS = 8
_BLOCK_BYTES = 8 * _BLOCK_WORDS
_BLOCK_BITS = 8 * _BLOCK_BYTES


@njit(nogil=True, inline="always")
def _block_of(key: Any, num_blocks: Any) -> Any:
    """From the upper half of the key. Source: Lemire, Fast Random Integer Generation in an Interval, 2019."""
    return np.int64(((key >> np.uint64(32)) * np.uint64(num_blocks)) >> np.uint64(32))


@njit(nogil=True, inline="always")
def _bits_of(key: Any) -> Any:
    """Eight numbers of 6 bits in a word, for the eight words of the block; an odd multiplier spreads the lower half."""
    return (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(16)


@njit(nogil=True, inline="always")
def _place(bits: Any, word: int) -> Any:
    return (bits >> np.uint64(6 * word)) & np.uint64(63)


@njit(nogil=True)
def _add(blocks: Any, keys: Any) -> None:
    for key in keys:
        block = _block_of(key, len(blocks))
        bits = _bits_of(key)
        for word in range(_BLOCK_WORDS):
            blocks[block, word] |= np.uint64(1) << _place(bits, word)


@njit(nogil=True)
def _mark(blocks: Any, keys: Any, out: Any) -> None:
    """Set out where all eight bits of the key are set. Most keys end at the first or second word."""
    for place in range(len(keys)):
        block = _block_of(keys[place], len(blocks))
        bits = _bits_of(keys[place])
        word = 0
        while word < _BLOCK_WORDS and (blocks[block, word] >> _place(bits, word)) & np.uint64(1):
            word += 1
        out[place] |= word == _BLOCK_WORDS


class Filter:
    """Keys go in and never out.

    Args:
        num_keys: how many are known to come; more make it grow.
    Concurrency: one thread at a time.
    Cost: 3 bytes a key of capacity, which is at most twice the number of keys and `SLICE_KEYS_MIN` more.
    """

    def __init__(self, num_keys: int = 0) -> None:
        self._capacity = max(num_keys, SLICE_KEYS_MIN)
        self._slices = [_zero_blocks(self._capacity)]
        self._num_free = self._capacity

    def add(self, keys: Keys) -> None:
        """Add uint64[n]."""
        while len(keys) > self._num_free:
            _add(self._slices[-1], keys[: self._num_free])
            keys = keys[self._num_free :]
            self._capacity *= 2
            self._slices.append(_zero_blocks(self._capacity))
            self._num_free = self._capacity
        _add(self._slices[-1], keys)
        self._num_free -= len(keys)

    def maybe(self, keys: Keys) -> NDArray[np.bool_]:
        """bool[n]: False where a key of uint64[n] was never added; True where it was, and for a few others."""
        out = np.zeros(len(keys), np.bool_)
        for blocks in self._slices:
            _mark(blocks, keys, out)
        return out


def _zero_blocks(num_keys: int) -> NDArray[np.uint64]:
    """uint64[b, 8], zero, each row a cache line. The system gives memory to it as it is touched."""
    num_blocks = -(-num_keys * BITS_PER_KEY // _BLOCK_BITS)
    memory = np.zeros((num_blocks + 1) * _BLOCK_BYTES, np.uint8)
    start = -memory.ctypes.data % _BLOCK_BYTES
    return memory[start : start + num_blocks * _BLOCK_BYTES].view(np.uint64).reshape(num_blocks, _BLOCK_WORDS)
