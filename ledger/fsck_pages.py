"""The part of a check that looks at the file itself: LMDB's pages, which LMDB takes on trust.

    meta pages   the two are of two commits in a row, and the newer one has freed what the older one began with: with
                 another number the newest would pass for the older, and its commit be lost
    trees        every page is where its tree leads to, of the right kind, and filled with whole nodes; keys ascend, and
                 each is on its side of the separators above; the counts are those on record
    free list    no page is both free and in use: the next commit would write over it

A table may read well from its first row to its last and yet be damaged: a key that a search misses, the root of
yesterday, a page that the owner overwrites tomorrow. Those are found here, and every other page by its number. One
snapshot is kept until all pages of the trees were seen, since only what one state of the file consists of stays as it
is: about a second for a million of them. Values that fill pages of their own (batches, large contents) are not read.
Pages that are neither in use nor free are left alone: nobody reads them.

Source: mdb.c of LMDB 0.9: MDB_meta, MDB_db, MDB_page, MDB_node; data format 1, little-endian, 64-bit.
"""

import struct
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.fsck_report import PROBLEMS_MAX, Tell
from ledger.store import DATA_FILE, TABLES, Store

LOOKS_MAX, PAUSE_S = 100, 0.01
"""How often a snapshot may not be of the newest meta page. An owner may commit just before the look at it; and while
the disk takes that page, it can be read already, and snapshots are of the commit before."""

_HEADER_BYTES, _NODE_BYTES, _WORD_BYTES = 16, 8, 8
_META = struct.Struct(f"<{_HEADER_BYTES}x4xIQQ48s48sQQ")  # data format, address, map size, two trees, last page, commit
_TREE = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, pages: branch, leaf, overflow; entries, root
_FREE_LIST, _MAIN, _META_PAGES = "the free list", "the list of tables", f"{DATA_FILE} meta pages"
_ORDER_FLAGS, _INTEGER_KEYS = 0x7E, 8  # of a tree: how it is ordered; the free list is by numbers, all else by bytes
_NO_PAGE = 2**64 - 1
_FIRST_PAGE = 2  # after the meta pages
_DEPTH_MAX, _KEY_BYTES_MAX = 32, 511
_SUBTREES_MAX = 2 * len(TABLES)
_TREE_BYTES = _TREE.size

# Of a page: its number (u64), pad (u16), flags (u16), then lower and upper (u16), or of overflow pages a count (u32).
_FLAGS_AT, _LOWER_AT, _UPPER_AT, _COUNT_AT = 10, 12, 14, 12
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
# Of a node: the low and high half of its data's length (u16), flags (u16), length of the key (u16). Of a branch's node
# the first three are the number of the page below.
_BIG, _SUBTREE = 1, 2
_IN_USE, _FREE, _FREED_LAST = 1, 2, 4  # what a page is marked with

_ABSENT, _TWICE, _NUMBER, _KIND, _FILLING, _NODE, _ORDER, _DEPTH, _CHAIN, _LIST, _BOTH = range(1, 12)
_SAYINGS = {
    _ABSENT: "the file has no such page, though one leads to it",
    _TWICE: "more than one page leads to it",
    _NUMBER: "it has the number of another page",
    _KIND: "it is no page of a tree",
    _FILLING: "its nodes do not fill it as it says",
    _NODE: "a node of it is not whole",
    _ORDER: "its keys are not in order, or on the wrong side of a separator",
    _DEPTH: "it is not as deep in its tree as other leaves, or too deep",
    _CHAIN: "a value of it is not where it says",
    _LIST: "what it has of the free list is no list of pages",
    _BOTH: "it is in use, and on the free list",
}
_COUNTS = ("branch pages", "leaf pages", "overflow pages", "rows", "levels")
_NUM_BRANCH, _NUM_LEAF, _NUM_OVERFLOW, _NUM_ROWS, _NUM_LEVELS, _NUM_FAULTS, _NUM_SUBTREES = range(7)
_NUM_COUNTS = 7


class _Tree(msgspec.Struct, frozen=True):
    """What is on record about a tree; `counts` as in `_COUNTS`."""

    flags: int
    counts: tuple[int, ...]
    root: int

    @classmethod
    def of(cls, data: bytes) -> "_Tree":
        _, flags, depth, *counts, root = _TREE.unpack(data)
        return cls(flags, (*counts, depth), root)


class _Meta(msgspec.Struct, frozen=True):
    """What a meta page says: the state of the file after a commit. `is_in_place`: even commits are on the first page,
    odd ones on the second."""

    commit: int
    is_in_place: bool
    page_bytes: int
    num_pages: int
    free_list: _Tree
    main: _Tree


def check_pages(store: Store, tell: Tell) -> None:
    """Look at every page that the tables of a shard and the free list consist of.

    Cost: reads the pages of the trees, about 1 us each; a byte of memory for each page of the file.
    """
    file = store.path / DATA_FILE
    for _ in range(LOOKS_MAX):
        with store.read() as snapshot:
            older, newest = sorted(_metas(file), key=lambda meta: meta.commit)
            if newest.commit == snapshot.commit == older.commit + 1 and newest.is_in_place and older.is_in_place:
                _State(file, older, newest, tell).check()
                return
        time.sleep(PAUSE_S)
    commits = f"{older.commit} and {newest.commit}"
    tell(_META_PAGES, f"they are of the commits {commits}, which are not two in a row, each in its place")


def _metas(file: Path) -> list[_Meta]:
    """Both meta pages. LMDB has opened the file, so they are there."""
    with file.open("rb") as opened:
        first = _meta(opened.read(_META.size), 0)
        opened.seek(first.page_bytes)
        return [first, _meta(opened.read(_META.size), 1)]


def _meta(data: bytes, place: int) -> _Meta:
    _, _, _, free_list, main, last_page, commit = _META.unpack(data)
    page_bytes: int = _TREE.unpack(free_list)[0]
    return _Meta(commit, commit % 2 == place, page_bytes, last_page + 1, _Tree.of(free_list), _Tree.of(main))


def load_kernels() -> None:
    """Have what numba compiled for this loaded, with a look for a page that is not there."""
    nothing, counts, faults = np.frombuffer(b"", np.uint8), np.zeros(_NUM_COUNTS, np.int64), np.zeros((1, 2), np.int64)
    _walk(nothing, 1, 0, 0, np.zeros(0, np.uint8), counts, faults, np.zeros((0, 3), np.int64))


class _State:
    """One state of a file, which a snapshot keeps from being changed."""

    def __init__(self, file: Path, older: _Meta, meta: _Meta, tell: Tell) -> None:
        self._data = np.asarray(np.memmap(file, np.uint8, "r"))
        self._older = older
        self._meta = meta
        self._tell = tell
        self._num_pages = min(meta.num_pages, len(self._data) // meta.page_bytes)
        self._marks = np.zeros(self._num_pages, np.uint8)
        self._faults = np.zeros((PROBLEMS_MAX + 1, 2), np.int64)

    def check(self) -> None:
        """The free list first, so that whatever is in use after it is held against it."""
        self._walk(_FREE_LIST, self._meta.free_list, _INTEGER_KEYS)
        began_with = self._older.main.root
        if began_with != _NO_PAGE and not (began_with < self._num_pages and self._marks[began_with] & _FREED_LAST):
            self._tell(_META_PAGES, f"the commit {self._older.commit} is not what {self._meta.commit} has replaced")
        subtrees = self._walk(_MAIN, self._meta.main, 0)
        for place in subtrees.tolist():
            name_end, end = place[0] + place[1], place[2] + _TREE.size
            name = bytes(self._data[place[0] : name_end]).decode(errors="replace")
            self._walk(f"table {name}", _Tree.of(bytes(self._data[place[2] : end])), 0)

    def _walk(self, name: str, tree: _Tree, flags: int) -> NDArray[np.int64]:
        """Look at the pages of a tree; int64[n, 3], where in the file each subtree's name begins, its length, and where
        its record is."""
        subtrees = np.zeros((_SUBTREES_MAX, 3), np.int64)
        counts = np.zeros(_NUM_COUNTS, np.int64)
        if tree.root != _NO_PAGE:
            root = min(tree.root, self._num_pages)
            newest = self._meta.commit if flags == _INTEGER_KEYS else 0
            _walk(self._data, self._meta.page_bytes, root, newest, self._marks, counts, self._faults, subtrees)
        for page, fault in self._faults[: counts[_NUM_FAULTS]].tolist():
            self._tell(f"{DATA_FILE} page {page}", f"{_SAYINGS[fault]}; this is of {name}")
        if not counts[_NUM_FAULTS]:
            self._compare(name, tree, flags, counts)
        return subtrees[: counts[_NUM_SUBTREES]]

    def _compare(self, name: str, tree: _Tree, flags: int, counts: NDArray[np.int64]) -> None:
        """What is on record about a tree is what was found."""
        if tree.flags & _ORDER_FLAGS != flags:
            self._tell(f"{DATA_FILE} {name}", f"it says that it is in another order: {tree.flags:#x}, not {flags:#x}")
        for what, recorded, found in zip(_COUNTS, tree.counts, counts.tolist(), strict=False):
            if recorded != found:
                self._tell(f"{DATA_FILE} {name}", f"it has {found} {what}, and its record says {recorded}")


@njit(nogil=True)
def _number(data: Any, at: int, num_bytes: int) -> Any:
    """int64, from so many bytes, little-endian. What begins with a bit of 64 set, which no place has, is negative."""
    number = np.int64(0)
    for place in range(num_bytes - 1, -1, -1):
        number = (number << 8) | np.int64(data[at + place])
    return number


@njit(nogil=True)
def _fault(counts: Any, faults: Any, page: int, fault: int) -> None:
    if counts[_NUM_FAULTS] < len(faults):
        faults[counts[_NUM_FAULTS], 0], faults[counts[_NUM_FAULTS], 1] = page, fault
        counts[_NUM_FAULTS] += 1


@njit(nogil=True)
def _walk(
    data: Any, page_bytes: int, root: int, newest: int, marks: Any, counts: Any, faults: Any, subtrees: Any
) -> None:
    """Look at the pages of a tree, from left to right; `marks`, `counts`, `faults` and `subtrees` are filled in.

    `newest`: of the free list, the commit whose pages are marked as freed last; 0 of any other tree.
    """
    pages, places = np.zeros(_DEPTH_MAX, np.int64), np.zeros(_DEPTH_MAX, np.int64)
    before = np.array([-1, 0, 0], np.int64)  # the key before: where it begins, its length, whether it is a separator
    pages[0], depth = root, 1
    while depth:
        page, place = pages[depth - 1], places[depth - 1]
        if place == 0:
            fault = _fault_of_page(data, page_bytes, page, marks)
            if fault:
                _fault(counts, faults, page, fault)
            if page < len(marks):
                marks[page] |= _IN_USE
            if fault and fault != _BOTH:
                depth -= 1
                continue
        base = page * page_bytes
        if _number(data, base + _FLAGS_AT, 2) == _LEAF:
            counts[_NUM_LEAF] += 1
            if counts[_NUM_LEVELS] not in (0, depth):
                _fault(counts, faults, page, _DEPTH)
            counts[_NUM_LEVELS] = depth
            _look_at_leaf(data, page_bytes, page, newest, before, marks, counts, faults, subtrees)
            depth -= 1
            continue
        counts[_NUM_BRANCH] += place == 0
        if place == _num_nodes(data, base):
            depth -= 1
            continue
        at = _node(data, base, place)
        if place and not _follows(data, at + _NODE_BYTES, _number(data, at + 6, 2), True, newest > 0, before):
            _fault(counts, faults, page, _ORDER)
        places[depth - 1] += 1
        if depth == _DEPTH_MAX:
            _fault(counts, faults, page, _DEPTH)
            continue
        pages[depth], places[depth] = _number(data, at, 6), 0
        depth += 1


@njit(nogil=True)
def _num_nodes(data: Any, base: int) -> int:
    return (_number(data, base + _LOWER_AT, 2) - _HEADER_BYTES) // 2


@njit(nogil=True)
def _node(data: Any, base: int, place: int) -> int:
    """Where a node begins."""
    return base + _number(data, base + _HEADER_BYTES + 2 * place, 2)


@njit(nogil=True)
def _fault_of_page(data: Any, page_bytes: int, page: int, marks: Any) -> int:
    """What is wrong with a page of a tree, as far as it can be seen on it alone; 0 if nothing is."""
    if page < _FIRST_PAGE or page >= len(marks):
        return _ABSENT
    if marks[page] & _IN_USE:
        return _TWICE
    base = page * page_bytes
    if _number(data, base, _WORD_BYTES) != page:
        return _NUMBER
    flags = _number(data, base + _FLAGS_AT, 2)
    if flags not in (_BRANCH, _LEAF):
        return _KIND
    lower, upper = _number(data, base + _LOWER_AT, 2), _number(data, base + _UPPER_AT, 2)
    if lower % 2 or not _HEADER_BYTES < lower <= upper <= page_bytes:
        return _FILLING
    num_bytes = 0
    for place in range(_num_nodes(data, base)):
        begin = _node(data, base, place) - base
        if begin < upper or begin + _NODE_BYTES > page_bytes:
            return _NODE
        size = _node_bytes(data, base + begin, flags == _LEAF)
        if size == 0 or begin + size > page_bytes:
            return _NODE
        num_bytes += size + size % 2
    if num_bytes != page_bytes - upper:
        return _FILLING
    return _BOTH if marks[page] & _FREE else 0


@njit(nogil=True)
def _node_bytes(data: Any, at: int, is_leaf: bool) -> int:
    """How long a node is; 0 if it cannot be one."""
    key_bytes, flags = _number(data, at + 6, 2), _number(data, at + 4, 2)
    if not is_leaf:
        return _NODE_BYTES + key_bytes if key_bytes <= _KEY_BYTES_MAX else 0
    if not 0 < key_bytes <= _KEY_BYTES_MAX or flags not in (0, _BIG, _SUBTREE):
        return 0
    num_bytes = _number(data, at, 4)
    if flags == _SUBTREE and num_bytes != _TREE_BYTES:
        return 0
    return _NODE_BYTES + key_bytes + (_WORD_BYTES if flags == _BIG else num_bytes)


@njit(nogil=True)
def _follows(data: Any, at: int, num_bytes: int, is_separator: bool, is_number: bool, before: Any) -> bool:
    """Whether a key comes after the one before, which it replaces. The first key after a separator may equal it."""
    is_after = before[0] < 0
    if not is_after:
        order = _compared(data, before[0], before[1], at, num_bytes, is_number)
        is_after = order < 0 or (order == 0 and before[2] == 1 and not is_separator)
    before[0], before[1], before[2] = at, num_bytes, is_separator
    return is_after


@njit(nogil=True)
def _compared(data: Any, at: int, num_bytes: int, other_at: int, other_bytes: int, is_number: bool) -> Any:
    """Negative, 0 or positive: one key is before, the same as, or after another."""
    if is_number:
        one, other = _number(data, at, _WORD_BYTES), _number(data, other_at, _WORD_BYTES)
        return -1 if one < other else int(one > other)
    for place in range(min(num_bytes, other_bytes)):
        if data[at + place] != data[other_at + place]:
            return np.int64(data[at + place]) - np.int64(data[other_at + place])
    return num_bytes - other_bytes


@njit(nogil=True)
def _look_at_leaf(
    data: Any,
    page_bytes: int,
    page: int,
    newest: int,
    before: Any,
    marks: Any,
    counts: Any,
    faults: Any,
    subtrees: Any,
) -> None:
    """The keys of a leaf, and what its values are: in it, on other pages, the record of a tree, or free pages."""
    base = page * page_bytes
    for place in range(_num_nodes(data, base)):
        counts[_NUM_ROWS] += 1
        at = _node(data, base, place)
        num_bytes, key_bytes = _number(data, at, 4), _number(data, at + 6, 2)
        value_at = at + _NODE_BYTES + key_bytes
        if newest and key_bytes != _WORD_BYTES:
            _fault(counts, faults, page, _LIST)
            continue
        if not _follows(data, at + _NODE_BYTES, key_bytes, False, newest > 0, before):
            _fault(counts, faults, page, _ORDER)
        flags = _number(data, at + 4, 2)
        if flags == _SUBTREE and counts[_NUM_SUBTREES] < len(subtrees):
            subtrees[counts[_NUM_SUBTREES], :] = np.array([at + _NODE_BYTES, key_bytes, value_at])
            counts[_NUM_SUBTREES] += 1
        if flags == _BIG:
            first = _number(data, value_at, _WORD_BYTES)
            num_pages = _take_overflow(data, page_bytes, first, num_bytes, marks, counts, faults)
            if num_pages == 0:
                _fault(counts, faults, page, _CHAIN)
                continue
            counts[_NUM_OVERFLOW] += num_pages
            value_at = first * page_bytes + _HEADER_BYTES
        if newest == 0:
            continue
        mark = _FREE | _FREED_LAST if _number(data, at + _NODE_BYTES, _WORD_BYTES) == newest else _FREE
        if not _take_free(data, value_at, num_bytes, mark, marks, counts, faults):
            _fault(counts, faults, page, _LIST)


@njit(nogil=True)
def _take_overflow(data: Any, page_bytes: int, first: int, num_bytes: int, marks: Any, counts: Any, faults: Any) -> int:
    """Mark the pages of a value, which must belong to nothing else; how many, 0 if they are not there."""
    if first < _FIRST_PAGE or first >= len(marks):
        return 0
    base = first * page_bytes
    num_pages = _number(data, base + _COUNT_AT, 4)
    is_right = _number(data, base, _WORD_BYTES) == first and _number(data, base + _FLAGS_AT, 2) == _OVERFLOW
    if not is_right or num_pages * page_bytes < _HEADER_BYTES + num_bytes or first + num_pages > len(marks):
        return 0
    for page in range(first, first + num_pages):
        if marks[page]:
            _fault(counts, faults, page, _TWICE if marks[page] & _IN_USE else _BOTH)
        marks[page] |= _IN_USE
    return num_pages


@njit(nogil=True)
def _take_free(data: Any, at: int, num_bytes: int, mark: int, marks: Any, counts: Any, faults: Any) -> bool:
    """Mark the pages of a part of the free list: their number, then theirs, the largest first. False if it is none."""
    num_pages = _number(data, at, _WORD_BYTES) if num_bytes >= _WORD_BYTES else -1
    if not 0 <= num_pages <= num_bytes // _WORD_BYTES - 1:
        return False
    last = len(marks)
    for place in range(1, num_pages + 1):
        page = _number(data, at + place * _WORD_BYTES, _WORD_BYTES)
        if not _FIRST_PAGE <= page < last:
            return False
        if marks[page]:
            _fault(counts, faults, page, _BOTH)
        marks[page] |= mark
        last = page
    return True
