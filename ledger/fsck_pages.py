"""The part of a check that looks at the file itself: LMDB's pages, which LMDB takes on trust.

    meta pages   the two are of two commits in a row, so that none hides the newest; the file is as long as they say
    trees        every page is where its tree leads to, of the right kind, and filled with whole nodes; keys ascend, and
                 each is on the side of its separators; counts and depth are those on record
    free list    no page is both free and in use: the next commit would write over it

A table can read well from its first row to its last and still be damaged: a key that a search misses, a root of
yesterday, a page that the owner will write over tomorrow. Those are found here, and all others by their page. What one
state of the file consists of does not change while a snapshot of it is kept, so one is, until all pages of trees have
been seen (contents that fill pages of their own are not read): about 1 s for a million of them.

Source: mdb.c of LMDB 0.9 (struct MDB_meta, MDB_db, MDB_page, MDB_node); data format 1, little-endian, pointers of 8
bytes. Pages that are neither free nor in use are left alone: they do no harm.
"""

import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from ledger.errors import LedgerCorrupt
from ledger.fsck_report import PROBLEMS_MAX, Tell
from ledger.store import DATA_FILE, TABLES, Store

LOOKS_MAX = 100
"""How often a busy owner may commit twice between a look's snapshot and its meta pages."""

_META_PAGE_BYTES_MAX = 1 << 15  # MAX_PAGESIZE
_MAGIC, _DATA_FORMAT = 0xBEEFC0DE, 1
_PAGE_HEADER = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper; the last two are one count on overflow pages
_META = struct.Struct("<IIQQ")  # magic, data format, address, map size; then two trees
_META_END = struct.Struct("<QQ")  # last page, number of the commit
_TREE = struct.Struct("<IHH5Q")  # pad, flags, depth; pages: branch, leaf, overflow; entries, root

_META_FLAG, _BRANCH, _LEAF, _OVERFLOW = 8, 1, 2, 4  # of a page
_BIG, _SUBTREE = 1, 2  # of a node: its data is on overflow pages; its data is a tree's record
_INTEGER_KEYS = 8  # of a tree, the free list
_NO_PAGE = 2**64 - 1
_FIRST_PAGE = 2  # after the meta pages
_HEADER_BYTES, _NODE_BYTES, _KEY_BYTES_MAX, _DEPTH_MAX = 16, 8, 511, 32
_WORD_BYTES, _PAGE_FLAGS_AT, _LOWER_AT, _UPPER_AT, _COUNT_AT = 8, 10, 12, 14, 12
_IN_USE, _FREE = 1, 2  # marks

_ABSENT, _TWICE, _NUMBER, _KIND, _FILLED, _NODES, _ORDER, _DEPTH, _CHAIN, _LIST, _BOTH = range(1, 12)
_SAYINGS = {
    _ABSENT: "it is led to, and not one of the file",
    _TWICE: "more than one place leads to it",
    _NUMBER: "it has the number of another page",
    _KIND: "it is no page of the kind that belongs here",
    _FILLED: "its nodes do not fill it as it says",
    _NODES: "a node of it is not whole",
    _ORDER: "its keys are not in order",
    _DEPTH: "it is not as deep in its tree as others",
    _CHAIN: "it does not begin the overflow pages that it should",
    _LIST: "what it has of the free list is no list of pages",
    _BOTH: "it is in use, and on the free list",
}
_COUNTS = ("branch pages", "leaf pages", "overflow pages", "entries", "levels")
_NUM_BRANCH, _NUM_LEAF, _NUM_OVERFLOW, _NUM_ENTRIES, _NUM_LEVELS, _NUM_FAULTS, _NUM_SUBTREES = range(7)


class _Tree(msgspec.Struct, frozen=True):
    """The record of a tree. `counts`: as `_COUNTS`."""

    flags: int
    counts: tuple[int, ...]
    root: int

    @classmethod
    def of(cls, data: bytes) -> "_Tree":
        _, flags, depth, *pages, num_entries, root = _TREE.unpack(data)
        return cls(flags, (*pages, num_entries, depth), root)


class _Meta(msgspec.Struct, frozen=True):
    """A meta page."""

    commit: int
    page_bytes: int
    num_pages: int
    free: _Tree
    main: _Tree


def check_pages(store: Store, tell: Tell) -> None:
    """Look at all pages of one state of a shard's file, which may be in use.

    Raises:
        LedgerCorrupt: there are no meta pages.
    Cost: reads the pages of the trees, about 1 us each, and 1 byte of memory for each page of the file.
    """
    file = store.path / DATA_FILE
    for _ in range(LOOKS_MAX):
        with store.read() as snapshot:
            metas = _metas(file)
            newest = max(metas, key=lambda meta: meta.commit)
            if newest.commit == snapshot.commit and _follow(metas):
                Pages(file, newest, tell).check()
                return
            meta = metas[snapshot.commit % 2]
            if meta.commit == snapshot.commit and newest.commit == snapshot.commit + 1:
                Pages(file, meta, tell).check()
                return
    tell(f"{DATA_FILE} meta pages", f"they are of the commits {metas[0].commit} and {metas[1].commit}, not of two in a row")
