"""What an entry must be like, whatever the ledger holds: canonical form, known kind, parents that may be named."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import AMOUNT_MAX, ENTRY_DTYPE, PARENTS_MAX, SHARD_MAX, Flag, Kind
from ledger.result import Result

_KIND_MAX = int(max(Kind))
_AMOUNT_MAX = np.uint64(AMOUNT_MAX)
_RESERVED = ((73, 74), (224, 240))


def _row_dtype() -> np.dtype[np.void]:
    """An entry as the kernels read it: the fields that matter here (numba knows none that overlap)."""
    names = ("kind", "flags", "amount", "num_parents", "parent_indices", "parent_shards")
    fields: Any = ENTRY_DTYPE.fields
    formats, offsets = zip(*(fields[name][:2] for name in names), strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": ENTRY_DTYPE.itemsize})


_ROW_DTYPE = _row_dtype()


def _flags_of_kinds(transfer: Flag) -> NDArray[np.uint16]:
    """uint16[256], the flags that an entry may have, by the number of its kind."""
    flags = np.full(256, Flag.LINKED, np.uint16)
    flags[Kind.ACCOUNT] = Flag.LINKED | Flag.DEBITS_WITHIN_CREDITS | Flag.CREDITS_WITHIN_DEBITS
    flags[[Kind.MONEY, Kind.OWNERSHIP]] = Flag.LINKED | transfer
    return flags


_FLAGS = _flags_of_kinds(Flag.PENDING | Flag.POST | Flag.VOID)
_FLAGS_OF_LEDGER = _flags_of_kinds(Flag.PENDING | Flag.POST | Flag.VOID | Flag.EXPIRED)


@njit(nogil=True)
def _is_zero(row: Any, begin: int, end: int) -> bool:
    return not row[begin:end].any()


@njit(nogil=True)
def _form(row: Any, entry: Any, flags: Any) -> int:
    """Of one entry: `OK`, or what is wrong with its form; `flags`: those that it may have, by kind."""
    if entry.flags & ~flags[entry.kind]:
        return Result.RESERVED_FLAG
    if _is_zero(row, 16, 32):
        return Result.ID_MUST_NOT_BE_ZERO
    for begin, end in _RESERVED:
        if not _is_zero(row, begin, end):
            return Result.NOT_CANONICAL
    if entry.kind < 1 or entry.kind > _KIND_MAX or entry.amount > _AMOUNT_MAX or entry.num_parents > PARENTS_MAX:
        return Result.NOT_CANONICAL
    if entry.kind == Kind.DECISION and entry.amount > 1:  # it happens, or it does not
        return Result.NOT_CANONICAL
    for place in range(PARENTS_MAX):
        if place >= entry.num_parents:
            if entry.parent_indices[place] or entry.parent_shards[place]:
                return Result.NOT_CANONICAL
            continue
        for other in range(place):
            same = entry.parent_indices[other] == entry.parent_indices[place]
            if same and entry.parent_shards[other] == entry.parent_shards[place]:
                return Result.NOT_CANONICAL
    return Result.OK


@njit(nogil=True)
def _check(rows: Any, entries: Any, shard: int, size: int, covered: Any, flags: Any, results: Any) -> None:
    for place in range(len(entries)):
        entry = entries[place]
        results[place] = _form(rows[place], entry, flags)
        for parent in range(entry.num_parents if results[place] == Result.OK else 0):
            other, index = entry.parent_shards[parent], entry.parent_indices[parent]
            limit = np.uint64(size + place) if other == shard else covered[other]
            if index >= limit:
                results[place] = Result.UNKNOWN_PARENT


def check(
    rows: NDArray[np.uint8], shard: int, size: int, covered: NDArray[np.uint64], *, may_expire: bool = False
) -> NDArray[np.uint8]:
    """uint8[n], a `Result` for each of uint8[n, 240] entries that are to follow `size` recorded ones.

    Args:
        covered: uint64[65536], of every other shard how many entries its checkpoints are known to cover.
        may_expire: they are the ledger's own, which alone may say that a pending transfer is over.
    A parent in this shard must come before its entry, so the edges can have no cycle. Whether one that lies in the same
    batch does is known only once it is known which entries before it are recorded: see `parent_ends`.
    Cost: about 20 ns an entry.
    """
    assert len(covered) == SHARD_MAX + 1
    results = np.zeros(len(rows), np.uint8)
    flags = _FLAGS_OF_LEDGER if may_expire else _FLAGS
    _check(rows, rows.view(_ROW_DTYPE).reshape(len(rows)), shard, size, covered, flags, results)
    return results


@njit(nogil=True)
def _parent_ends(entries: Any, shard: int, results: Any, ends: Any) -> None:
    for place in range(len(entries)):
        entry = entries[place]
        for parent in range(entry.num_parents if results[place] == Result.OK else 0):
            if entry.parent_shards[parent] == shard:
                ends[place] = max(ends[place], entry.parent_indices[parent] + np.uint64(1))


def parent_ends(rows: NDArray[np.uint8], shard: int, results: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint64[n], of each entry that is `OK` so far the lowest index at which all its parents in this shard come before
    it; 0 where it has none."""
    ends = np.zeros(len(rows), np.uint64)
    _parent_ends(rows.view(_ROW_DTYPE).reshape(len(rows)), shard, results, ends)
    return ends


@njit(nogil=True)
def mark_unknown_parents(ends: Any, size: int, results: Any) -> None:
    """Say of entries whose parents do not come before them that they are unknown; what is `OK` is recorded one after
    another from index `size` on. Only for batches without chains and settlement: see `settlement.apply_batch`."""
    index = np.uint64(size)
    for place in range(len(results)):
        if results[place] == Result.OK:
            if ends[place] > index:
                results[place] = Result.UNKNOWN_PARENT
            else:
                index += np.uint64(1)
