"""The check of one shard, from its bytes up: the parts in their order, each in a module of its own.

    index, stored    `fsck_runs`        every run is read; a few segments in each snapshot
    head             here               how many entries there are to check, and what is signed
    entries          `fsck_walk`, then block by block
                     `fsck_form`        each entry alone
                     `fsck_tree`        the hashes of every level, and the roots
                     `fsck_index`       the items that the index should have
                     `fsck_settlement`  money and ownership, replayed
                     `fsck_exchanges`   what was decided about exchanges, and what became of their legs
                     `fsck_payload`     contents and metadata
                     `fsck_peers`       the checkpoints of other logs that are recorded
    once more        `fsck_settlement`, `fsck_repeats`: only if there are claims to prove or ids to tell apart
    end              here               nothing is stored beyond what the newest head covers

No snapshot is kept for longer than a block takes, although the owner may append all the while:
- Entries and hashes are never changed, so blocks of them from many snapshots are those of one.
- Head and stored balances are taken from one snapshot, that in which the last row of entries was counted. They fix
  the sizes at which roots and balances are compared.
- The index is replaced run by run, and read before the head: see `fsck_runs`.
- Contents are only ever deleted, by an entry: what is missing is held against the newest entries, too.
What was appended after the look at the head is left for the next check.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES, from_bytes
from ledger.errors import LedgerCorrupt, ReceiptInvalid
from ledger.fsck_exchanges import Exchanges, Records, check_ends
from ledger.fsck_form import Forms
from ledger.fsck_index import Items
from ledger.fsck_payload import Payloads
from ledger.fsck_peers import check_peers
from ledger.fsck_repeats import Repeats
from ledger.fsck_report import At, Step, Tell
from ledger.fsck_runs import NO_INDEX, StoredIndex, read_index
from ledger.fsck_settlement import Settlement, StoredBook, stored_book
from ledger.fsck_tree import Trees
from ledger.fsck_walk import Walk
from ledger.head import Head
from ledger.log import shard_of_origin
from ledger.note import Checkpoint, VerifierKey, open_checkpoint, read_checkpoint
from ledger.store import Snapshot, Store
from ledger.tail import SEED_BYTES, seed_words
from ledger.wal import WAL_STATE

BLOCK_ENTRIES = 65_536
"""Entries that are checked at a time: 16 MB."""

ROWS_A_LOOK = 65_536
"""Rows of entries that are counted in one snapshot, about 50 ms."""

_STATES = frozenset({b"head", b"index", b"book", WAL_STATE.encode()})
_T = TypeVar("_T")


class _Look(msgspec.Struct, frozen=True):
    """What one snapshot says that there is; None for what it does not have, or what cannot be believed.

    `size`: how many entries can be read. `is_whole`: whether those are all there should be.
    """

    size: int
    is_whole: bool
    shard: int
    head: Head | None
    checkpoint: Checkpoint | None
    book: StoredBook | None


class Seen(msgspec.Struct):
    """What the check of a shard has seen so far.

    `furthest`: of every other shard in which an entry has a parent, the largest index named. `note`: the checkpoint
    that is stored, empty if none can be believed. `exchanges`: what the entries say of them; None if they were not
    read to the end.
    """

    num_entries: int = 0
    num_pending: int = 0
    num_orphans: int = 0
    furthest: dict[int, int] = {}
    note: str = ""
    exchanges: Records | None = None


class ShardCheck:
    """One check of one shard.

    Args:
        keys: whose signature under the checkpoint is believed; None to take it unsigned, for whoever knows it
            otherwise (`Seen.note`).
        step, at: are called for every block.
        entropy: random bytes, for the seeds of sums and tables. Nothing that is found depends on them.
        seen: is filled in as the check goes on, so that a check that breaks off leaves what it saw.
    """

    def __init__(
        self,
        store: Store,
        keys: Sequence[VerifierKey] | None,
        tell: Tell,
        step: Step,
        at: At,
        entropy: Callable[[int], bytes],
        seen: Seen,
    ) -> None:
        self._seen = seen
        self._store = store
        self._keys = keys
        self._tell = tell
        self._step = step
        self._at = at
        self._sum_seed = seed_words(entropy(SEED_BYTES))
        self._book_seed = entropy(SEED_BYTES)

    def run(self) -> None:
        """All of it, as far as the damage lets it be read.

        Raises:
            LedgerError: the store cannot be read on. What was found until then was told.
        Cost: about 0.5 us an entry that moves no money, and 8 bytes of memory.
        """
        self._at("its index")
        stored = self._stored_index()
        self._seen.num_orphans = stored.num_orphans
        self._at("its rows of entries")
        look = self._look()
        self._forms = Forms(look.shard, self._tell)
        self._trees = Trees(self._tell)
        self._items = Items(stored, self._sum_seed)
        self._settlement = Settlement(self._book_seed, self._tell)
        self._exchanges = Exchanges()
        self._payloads = Payloads(self._store, self._tell)
        self._repeats = Repeats(look.size, stored.seed)
        self._check_entries(look)
        others = np.flatnonzero(self._forms.furthest).tolist()
        self._seen.furthest = {other: int(self._forms.furthest[other]) - 1 for other in others if other != look.shard}
        self._seen.exchanges = self._exchanges.records()
        self._check_all(look)

    def _stored_index(self) -> StoredIndex:
        try:
            return read_index(self._store, self._sum_seed, self._tell)
        except LedgerCorrupt as error:
            self._tell(error.where, f"{error.what}; the index was not checked")
            return NO_INDEX

    def _look(self) -> _Look:
        """How many entries there are to check, and what one snapshot, the last one, says of them."""
        walk, has_no_gap = Walk("entries", None, ENTRY_BYTES), True
        while True:
            with self._store.read() as snapshot:
                try:
                    is_last = walk.skip(snapshot, ROWS_A_LOOK)
                except LedgerCorrupt as error:
                    self._tell(error.where, error.what)
                    has_no_gap, is_last = False, True
                if is_last:
                    return self._look_at(snapshot, walk.num_items, has_no_gap)

    def _look_at(self, snapshot: Snapshot, size: int, has_no_gap: bool) -> _Look:
        """Head, checkpoint and stored balances. `size`: how many entries can be read."""
        head = self._told(lambda: Head.of(snapshot))
        book = self._told(lambda: stored_book(snapshot))
        checkpoint = self._checkpoint(head) if head else None
        if has_no_gap and head and head.tree_size != size:
            self._tell("head", f"it says that there are {head.tree_size} entries, and there are {size}")
        shard = 0
        if checkpoint:
            shard = shard_of_origin(checkpoint.origin)
        elif size:
            shard = int(from_bytes(snapshot.entries(0, 1, ENTRY_BYTES))["shard"][0])
        is_whole = has_no_gap and (head is None or head.tree_size <= size)
        if is_whole and book and book.size > size:
            self._tell("book", f"the stored balances are of {book.size} entries, and there are {size}")
        return _Look(size, is_whole, shard, head, checkpoint, book)

    def _checkpoint(self, head: Head) -> Checkpoint | None:
        """The stored checkpoint, if it can be believed. Whatever it does not cover anybody may have written."""
        if self._keys is not None and not self._keys:
            self._tell("head", "no verifier key is for a shard of this name")
            return None
        try:
            if self._keys is None:
                checkpoint = read_checkpoint(head.checkpoint)
            else:
                checkpoint = open_checkpoint(head.checkpoint, self._keys)
            shard_of_origin(checkpoint.origin)
        except ReceiptInvalid as error:
            claimed = head.checkpoint.partition("\n")[0]
            self._tell("head", f"{error.what}; it says that it is of {claimed[:80]!r}")
            return None
        if checkpoint.tree_size > head.tree_size:
            self._tell("head", f"signed for {checkpoint.tree_size} entries, but it says {head.tree_size}")
        elif checkpoint.tree_size < head.tree_size:
            num_unsigned = head.tree_size - checkpoint.tree_size
            what = f"nobody has signed the last {num_unsigned} of {head.tree_size} entries"
            self._tell("head", f"{what}; an owner that signs seldom does so when it closes the shard")
        self._seen.note = head.checkpoint
        return checkpoint

    def _check_entries(self, look: _Look) -> None:
        """Every entry, block by block, and the roots and balances on the way."""
        walk = Walk("entries", None, ENTRY_BYTES)
        self._check_roots(look)
        with ThreadPoolExecutor(1) as hashing:
            for begin, end in _blocks(look):
                self._at(f"its entries {begin} to {end - 1} with their contents")
                with self._store.read() as snapshot:
                    rows = walk.take(snapshot, end - begin)
                    hashes = self._trees.read(snapshot, end)
                growing = hashing.submit(self._trees.grow, rows)
                self._check_block(rows, begin)
                self._trees.check(growing.result(), hashes)
                self._check_roots(look)
                if look.book and look.book.size == end:
                    self._settlement.compare(look.book)
                self._seen.num_entries = end
                self._step(end - begin)

    def _check_block(self, rows: NDArray[np.uint8], begin: int) -> None:
        """All but the hashing, which takes as long as this, on another core."""
        self._forms.check(rows, begin)
        self._items.add(rows, begin, self._repeats.keys[begin : begin + len(rows)])
        self._settlement.replay(rows, begin)
        self._exchanges.collect(rows, begin)
        self._payloads.check(rows, begin)
        check_peers(self._store, rows, begin, self._tell)

    def _check_roots(self, look: _Look) -> None:
        """The root over the entries so far, where it is stored or signed."""
        edge = self._trees.edge
        for name, claim in (("root", look.head), ("signed root", look.checkpoint)):
            if claim and claim.tree_size == edge.size and claim.root != edge.root():
                self._tell("head", f"the {name} is not that of the first {edge.size} entries")

    def _check_all(self, look: _Look) -> None:
        """What can only be said once all entries were seen."""
        self._at("its entries once more, or what comes after them")
        self._settlement.finish()
        exchanges = self._exchanges.records()
        if len(exchanges) and (held := self._settlement.held()) is not None:
            check_ends(exchanges, held, self._tell)
        self._items.finish(self._read, look.size, BLOCK_ENTRIES, self._tell)
        claims, has_repeats = self._settlement.claims(), self._repeats.finish()
        if claims.num_claims or has_repeats:
            for begin in range(0, look.size, BLOCK_ENTRIES):
                rows = self._read(begin, min(begin + BLOCK_ENTRIES, look.size))
                claims.look(rows, begin)
                if has_repeats:
                    self._repeats.look(rows, begin, self._tell)
        erased = claims.finish()
        newest_size = self._check_end(look)
        if look.is_whole:
            self._check_last(look)
            self._payloads.finish(erased, look.size, newest_size)

    def _check_last(self, look: _Look) -> None:
        """No chain is left open, and the head's time is that of the last entry."""
        self._forms.finish(look.size)
        if look.head and look.head.time_ns != self._forms.last_ns:
            self._tell("head", "its time is not that of the last entry")

    def _check_end(self, look: _Look) -> int:
        """Nothing is stored beyond what the newest head covers; how many entries that is."""
        with self._store.read() as snapshot:
            for key, _ in snapshot.rows("state"):
                if bytes(key) not in _STATES:
                    self._tell(f"state {bytes(key[:32])!r}", "no state has this name")
            if look.head is None:
                return look.size
            size = Head.of(snapshot).tree_size
            self._trees.finish(snapshot, size)
            for table in ("contents", "metas"):
                for key, _ in snapshot.rows(table, size.to_bytes(8, "big")):
                    self._tell(f"{table} row {bytes(key[:32]).hex()}", "there is no entry that it belongs to")
        return size

    def _read(self, begin: int, end: int) -> NDArray[np.uint8]:
        """uint8[n, 240], entries that were read before."""
        with self._store.read() as snapshot:
            data = snapshot.entries(begin, end, ENTRY_BYTES)
        return np.frombuffer(data, np.uint8).reshape(-1, ENTRY_BYTES)

    def _told(self, read: Callable[[], _T]) -> _T | None:
        """What can be read; None, and the problem told, if it cannot."""
        try:
            return read()
        except LedgerCorrupt as error:
            self._tell(error.where, error.what)
            return None


def _blocks(look: _Look) -> Iterator[tuple[int, int]]:
    """Ranges of entries, which end also where a root or the balances are to be compared."""
    cuts = {look.size, *range(0, look.size, BLOCK_ENTRIES)}
    cuts |= {claim.tree_size for claim in (look.head, look.checkpoint) if claim}
    cuts |= {look.book.size} if look.book else set()
    begin = 0
    for end in sorted(cut for cut in cuts if 0 < cut <= look.size):
        yield begin, end
        begin = end
