"""What recorded entries are to be found by: the index's items, made by kernels straight from the entries' bytes.

An entry is 30 words of 8 bytes here. It gives an item to each family whose field it has: its id always; subject, owner
and content unless they are zero (content only where it is one, not the two accounts of a transfer); and each parent.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import KINDS_WITH_CONTENT, PARENTS_MAX, Kind
from ledger.runs import Family
from ledger.tail import Keys, Tail, insert_many, key_of, seed_words

Rows = NDArray[np.uint8]
"""uint8[n, 240], an entry a row."""

NO_PLACE = -1
HAS_ERASURES, HAS_PARENTS, SETTLES = 1, 2, 4

_ID, _PARENT_INDICES, _PARENT_SHARDS, _NUM_PARENTS, _OWNER, _SUBJECT, _CONTENT = 2, 4, 8, 9, 12, 14, 16
_SHARD_BITS = 16
_PARENTS_MAX: Any = np.uint64(PARENTS_MAX)
_ERASURE, _ACCOUNT = np.uint64(Kind.ERASURE), np.uint64(Kind.ACCOUNT)
_MONEY, _OWNERSHIP = np.uint64(Kind.MONEY), np.uint64(Kind.OWNERSHIP)
_BY_ID, _BY_SUBJECT, _BY_CONTENT = int(Family.ID), int(Family.SUBJECT), int(Family.CONTENT)
_BY_OWNER, _BY_PARENT = int(Family.OWNER), int(Family.PARENT)
_WITH_CONTENT = np.isin(np.arange(256), sorted(KINDS_WITH_CONTENT))  # by number of the kind


def words_of(rows: Rows) -> NDArray[np.uint64]:
    """uint64[n, 30], the same memory."""
    return rows.view(np.uint64)


@njit(nogil=True)
def _traits(words: Any) -> int:
    traits = 0
    for row in range(len(words)):
        first = words[row, 0]
        kind = (first >> np.uint64(16)) & np.uint64(0xFF)
        if kind == _ERASURE:
            traits |= HAS_ERASURES
        if kind in (_ACCOUNT, _MONEY, _OWNERSHIP) or (first >> np.uint64(32)) & np.uint64(0xFFFF):
            traits |= SETTLES
        if words[row, _NUM_PARENTS] & np.uint64(0xFF):
            traits |= HAS_PARENTS
    return traits


def traits_of(rows: Rows) -> int:
    """What is among the entries: a sum of `HAS_ERASURES`, `HAS_PARENTS`, and `SETTLES`, which is that one moves money
    or an asset, or has a flag. Most batches have none, and need not be looked at any closer."""
    traits: int = _traits(words_of(rows))
    return traits


@njit(nogil=True)
def _keys_at(words: Any, column: int, seed: Any) -> Any:
    out = np.empty(len(words), np.uint64)
    for row in range(len(words)):
        out[row] = key_of((words[row, column], words[row, column + 1]), seed)
    return out


def id_keys(rows: Rows, seed: bytes) -> Keys:
    """uint64[n], the key of every entry's id."""
    keys: Keys = _keys_at(words_of(rows), _ID, seed_words(seed))
    return keys


def subject_keys(rows: Rows, seed: bytes) -> Keys:
    """uint64[n], the key of every entry's subject."""
    keys: Keys = _keys_at(words_of(rows), _SUBJECT, seed_words(seed))
    return keys


@njit(nogil=True)
def _of_two_words(words: Any, column: int, first_index: int, seed: Any) -> Any:
    """Of a value of two words, unless it is zero: uint64[m] keys and uint64[m] indices."""
    keys, indices = np.empty(len(words), np.uint64), np.empty(len(words), np.uint64)
    num_items = 0
    for row in range(len(words)):
        first, second = words[row, column], words[row, column + 1]
        if first | second:
            keys[num_items], indices[num_items] = key_of((first, second), seed), np.uint64(first_index + row)
            num_items += 1
    return keys[:num_items], indices[:num_items]


@njit(nogil=True)
def _of_contents(words: Any, first_index: int, seed: Any, with_content: Any) -> Any:
    keys, indices = np.empty(len(words), np.uint64), np.empty(len(words), np.uint64)
    num_items = 0
    for row in range(len(words)):
        first, second = words[row, _CONTENT], words[row, _CONTENT + 1]
        third, fourth = words[row, _CONTENT + 2], words[row, _CONTENT + 3]
        kind = np.int64((words[row, 0] >> np.uint64(16)) & np.uint64(0xFF))
        if with_content[kind] and first | second | third | fourth:
            keys[num_items] = key_of((first, second, third, fourth), seed)
            indices[num_items] = np.uint64(first_index + row)
            num_items += 1
    return keys[:num_items], indices[:num_items]


@njit(nogil=True)
def _of_parents(words: Any, first_index: int, seed: Any) -> Any:
    """Of (index, shard) of each parent."""
    keys, indices = np.empty(PARENTS_MAX * len(words), np.uint64), np.empty(PARENTS_MAX * len(words), np.uint64)
    num_items = 0
    for row in range(len(words)):
        num_parents = words[row, _NUM_PARENTS] & np.uint64(0xFF)
        for parent in range(np.int64(min(num_parents, _PARENTS_MAX))):  # more are there if the disk is damaged
            shard = (words[row, _PARENT_SHARDS] >> np.uint64(_SHARD_BITS * parent)) & np.uint64(0xFFFF)
            keys[num_items] = key_of((words[row, _PARENT_INDICES + parent], shard), seed)
            indices[num_items] = np.uint64(first_index + row)
            num_items += 1
    return keys[:num_items], indices[:num_items]


@njit(nogil=True)
def _insert_items(words: Any, keys: Any, first_index: int, seed: Any, with_content: Any, tails: Any) -> None:
    indices = np.empty(len(words), np.uint64)
    for row in range(len(words)):
        indices[row] = np.uint64(first_index + row)
    insert_many(tails[_BY_ID], keys, indices)
    keys, indices = _of_two_words(words, _SUBJECT, first_index, seed)
    insert_many(tails[_BY_SUBJECT], keys, indices)
    keys, indices = _of_contents(words, first_index, seed, with_content)
    insert_many(tails[_BY_CONTENT], keys, indices)
    keys, indices = _of_two_words(words, _OWNER, first_index, seed)
    insert_many(tails[_BY_OWNER], keys, indices)
    keys, indices = _of_parents(words, first_index, seed)
    insert_many(tails[_BY_PARENT], keys, indices)


def insert_items(rows: Rows, keys: Keys, first_index: int, seed: bytes, tails: tuple[Tail, ...]) -> None:
    """Put the items of entries, recorded from `first_index` on, into the index's tables; `keys`: those of their ids.

    Cost: about 0.1 us an entry with an id, an owner and a content.
    """
    _insert_items(words_of(rows), keys, first_index, seed_words(seed), _WITH_CONTENT, tails)


@njit(nogil=True)
def previous_with_key(keys: Any) -> Any:
    """int64[n], for each of uint64[n] keys the place of the last one before it that is equal, or `NO_PLACE`."""
    num_buckets = 16
    while num_buckets < 4 * len(keys):
        num_buckets *= 2
    newest = np.full(num_buckets, NO_PLACE, np.int32)
    out = np.full(len(keys), NO_PLACE, np.int64)
    for place in range(len(keys)):
        bucket = np.int64(keys[place] & np.uint64(num_buckets - 1))
        while newest[bucket] != NO_PLACE and keys[newest[bucket]] != keys[place]:
            bucket = (bucket + 1) & (num_buckets - 1)
        out[place] = newest[bucket]
        newest[bucket] = place
    return out
