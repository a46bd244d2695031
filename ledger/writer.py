"""The only writer of a shard. An append is three stages:

    sequence    check every entry, find repeats, settle money and ownership, give what is new its place and its time
    integrate   hash the new leaves and extend the Merkle tree and the index over them
    publish     sign the checkpoint of the new tree, if it is due

`append` does all three in one durable commit: best for large batches. `sequence` makes a small batch durable in the
write-ahead log (`ledger.wal`) and leaves the others to `integrate`, which does them for all such batches at once, while
the next ones are being sequenced.

What is kept in memory (the tree's edge, the index's tables, the balances) is derived from what is durable
(`ledger.resume`), and is put back if a batch fails.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.book import DUE_MAX, Balance
from ledger.entry import ENTRY_DTYPE, SHARD_MAX, VERSION, Entries, Kind, as_bytes
from ledger.errors import EntryInvalid, LedgerError, NotWritten
from ledger.expiry import expiries
from ledger.group import Answer
from ledger.head import Head
from ledger.index import Writes
from ledger.items import HAS_ERASURES, traits_of
from ledger.note import Checkpoint, Signer
from ledger.payload import BATCH_BYTES_MAX, Payload, check_payloads
from ledger.pending import Growing, Overlay
from ledger.result import Result
from ledger.resume import Memory, Resumed, store_book
from ledger.runs import Family
from ledger.sequence import Sequencer
from ledger.sha256 import leaf_hashes
from ledger.store import Batch, Store
from ledger.tree import Edge
from ledger.wal import WAL_STATE, Payloads, Record, Wal, packed_bytes

SNAPSHOT_ENTRIES_MIN = 1 << 20
"""The balances are stored with the first commit after so many entries; the next start replays the others."""

_RESULTS = {int(result): result for result in Result}
_FIELDS: Any = ENTRY_DTYPE.fields
_VERSION, _SHARD, _TIME = (int(_FIELDS[name][1]) for name in ("version", "shard", "time_ns"))


class Appended(msgspec.Struct, frozen=True):
    """The answers to a batch in columns.

    `results`: uint8[n], a `Result` each. `indices`: uint64[n], where the entry is if it is `OK`, where the first one is
    if its id is there already (`EXISTS...`), else without meaning.
    """

    indices: NDArray[np.uint64]
    results: NDArray[np.uint8]

    def answer(self, place: int) -> Answer:
        """One of them."""
        return Answer(int(self.indices[place]), Result(int(self.results[place])))

    def answers(self) -> list[Answer]:
        """All of them."""
        return [
            Answer(index, _RESULTS[code])
            for index, code in zip(self.indices.tolist(), self.results.tolist(), strict=True)
        ]


class Publishing(msgspec.Struct, frozen=True):
    """A checkpoint is signed with the first commit after so many entries or so many milliseconds, and when the shard is
    closed. By default every commit is signed. What is not yet is a problem to fsck, which cannot tell it from forgery.
    """

    num_entries: int = 1
    interval_ms: int = 0


class Writer:
    """See the top of this module; `ledger.shard.Shard` has the promises and the errors of each call.

    Concurrency: any threads. Who writes into the store holds `_storing`; who sequences, or puts in place what a commit
    leads to, holds `_turn`, and takes it after `_storing`.
    """

    def __init__(
        self,
        store: Store,
        shard: int,
        signer: Signer,
        now_ns: Callable[[], int],
        publishing: Publishing,
        batch_entries_max: int,
        entropy: Callable[[int], bytes],
        resumed: Resumed,
    ) -> None:
        self.memory = resumed.memory
        self._store = store
        self._shard = shard
        self._signer = signer
        self._now_ns = now_ns
        self._publishing = publishing
        self.batch_entries_max = batch_entries_max
        self._covered = np.zeros(SHARD_MAX + 1, np.uint64)
        self._wal = Wal(store.path, entropy)
        self._is_wal_named = resumed.is_wal_named
        self._pending = list(resumed.pending)  # sequenced, durable in the write-ahead log, and not in the store
        self._size = self._pending[-1].end if self._pending else self.memory.head.tree_size
        self._time_ns = _time_of_last(self._pending[-1].rows) if self._pending else self.memory.head.time_ns
        self._is_behind = bool(self._pending)  # whether both files of the write-ahead log hold what is pending
        self._is_in_doubt = False  # whether a commit ended without memory having followed it
        self._is_closed = False
        self._storing = threading.Lock()
        self._turn = threading.Lock()
        self._covering = threading.Lock()

    def close(self) -> None:
        """Integrate what is pending; what cannot be stays in the write-ahead log. What no checkpoint covers is
        signed. Calling it again does nothing.

        Who is in the store or sequences gets done before; who comes later is refused.
        Raises: as `integrate`; closed it is all the same.
        """
        with self._storing, self._turn:
            try:
                if self._pending and not self._is_closed:
                    self._catch_up()
                self._publish_rest()
            finally:
                self._is_closed = True
                self._wal.close()

    @property
    def num_pending(self) -> int:
        """How many entries are sequenced and not integrated."""
        return sum([len(record.rows) for record in tuple(self._pending)])

    def cover(self, shard: int, tree_size: int) -> None:
        """See `Shard.cover`."""
        assert 0 <= shard <= SHARD_MAX
        with self._covering:
            self._covered[shard] = max(int(self._covered[shard]), tree_size)

    def balance(self, account: bytes) -> Balance:
        """See `Shard.balance`."""
        with self._turn:
            return self.memory.book.balance(account)

    def live(self, begin: int, num_max: int, is_timeless: bool) -> list[int]:
        """See `Shard.live`."""
        with self._turn:
            return self.memory.book.live(begin, num_max, is_timeless=is_timeless)

    def append(self, entries: Entries, payloads: Sequence[Payload] | None) -> Appended:
        """All three stages."""
        self._check_batch(entries, payloads)
        rows = as_bytes(entries).copy()
        with self._storing, self._turn:
            return self._appended(rows, payloads)

    def expire(self, num_max: int = DUE_MAX) -> Appended:
        """See `Shard.expire`. Mostly nothing is due, which is seen without waiting for anybody."""
        if not self.memory.book.may_be_due(max(self._now_ns(), self._time_ns + 1)):
            return Appended(np.zeros(0, np.uint64), np.zeros(0, np.uint8))
        num_max = min(num_max, self.batch_entries_max)
        with self._storing, self._turn:
            book = self.memory.book
            now_ns = max(self._now_ns(), self._time_ns + 1)
            due = book.due(now_ns, num_max)
            if not due:
                return Appended(np.zeros(0, np.uint64), np.zeros(0, np.uint8))
            return self._appended(as_bytes(expiries(due, book, now_ns)), None, may_expire=True)

    def sequence(self, entries: Entries, payloads: Sequence[Payload] | None) -> Appended:
        """The first stage; all three for what the write-ahead log has no room for, and for erasures, which change what
        is in the store."""
        self._check_batch(entries, payloads)
        rows = as_bytes(entries).copy()
        num_bytes = sum([payload.num_bytes for payload in payloads]) if payloads else 0
        record_bytes = packed_bytes(len(rows), num_bytes, len(payloads or ()))
        has_erasures = bool(traits_of(rows) & HAS_ERASURES)
        with self._turn:
            num_pending = self._size - self.memory.head.tree_size + len(rows)
            has_room = num_pending <= self.batch_entries_max and self._wal.has_room(record_bytes)
            if has_room and not has_erasures and not self._is_behind:
                with suppress(NotWritten):  # the log's files cannot be made; a commit may do
                    return self._logged(rows, payloads)
        with self._storing, self._turn:
            return self._appended(rows, payloads)

    def integrate(self) -> None:
        """The other stages for what is pending.

        The turn is held only where the index's tables are emptied or the balances stored, once in tens of thousands of
        entries, and where what the commit leads to is put in place. Else others sequence meanwhile.
        """
        with self._storing:
            try:
                with self._turn:
                    if not self._pending:
                        return
                    if self._is_behind or self.memory.index.will_flush(self._size) or self._is_book_due(self._size):
                        self._catch_up()
                        return
                    self._refuse_to_write()
                    pending = tuple(self._pending)
                    self._wal.turn()
                self._integrate(pending, self._turn)
            except BaseException:
                self._is_behind = True  # wherever it came from: the other file must not be turned back to
                raise

    def _check_batch(self, entries: Entries, payloads: Sequence[Payload] | None) -> None:
        """The limits of a batch, and that payloads are what their entries say, and are all there."""
        num_bytes = sum([payload.num_bytes for payload in payloads]) if payloads else 0
        if len(entries) > self.batch_entries_max or num_bytes > BATCH_BYTES_MAX:
            limits = f"{self.batch_entries_max} entries or {BATCH_BYTES_MAX} bytes of payload"
            raise EntryInvalid(
                f"{len(entries)} entries with {num_bytes} bytes are more than {limits}",
                where="batch",
                fix="Append it in parts.",
            )
        check_payloads(as_bytes(entries).reshape(-1).data, payloads)

    def _refuse_to_write(self) -> None:
        """If the writer is closed or in doubt."""
        if self._is_closed:
            raise LedgerError("it is closed", where=self._signer.name, fix="Open the shard again.")
        if self._is_in_doubt:
            raise LedgerError(
                "an append before this one ended without its end being seen",
                where=self._signer.name,
                fix="Close the shard, open it again and repeat the call; repeats are harmless.",
            )

    def _stamp(self, rows: NDArray[np.uint8]) -> int:
        """Fill in version, shard and time; now, in ns."""
        now_ns = self._now_ns()
        halves, words = rows.view(np.uint16), rows.view(np.uint64)
        halves[:, _VERSION // 2], halves[:, _SHARD // 2] = VERSION, self._shard
        words[:, _TIME // 8] = max(now_ns, self._time_ns + 1) + np.arange(len(rows), dtype=np.uint64)
        return now_ns

    def _appended(
        self, rows: NDArray[np.uint8], payloads: Sequence[Payload] | None, *, may_expire: bool = False
    ) -> Appended:
        """All stages; with both locks."""
        self._refuse_to_write()
        if self._pending:
            self._catch_up()
        if traits_of(rows) & HAS_ERASURES:
            self._wal.wipe()
        memory = self.memory
        now_ns = self._stamp(rows)
        try:
            with self._store.write() as batch:
                appended, recorded, sequencer = self._sequenced(batch, rows, may_expire)
                if not len(recorded):
                    return appended
                for index, payload in _recorded_payloads(appended, payloads).items():
                    batch.put_payload(index, payload.content, payload.meta)
                _erase(batch, sequencer, recorded)
                after, writes = self._extended(batch, recorded, now_ns)
                self._is_in_doubt = True
        except BaseException as error:
            memory.index.discard()
            memory.book.discard()
            self._is_in_doubt &= not isinstance(error, NotWritten)
            raise
        self._size, self._time_ns = after.head.tree_size, after.head.time_ns
        self._put_in_place(after, writes, 0)
        memory.book.commit()
        self._is_in_doubt = False
        return appended

    def _logged(self, rows: NDArray[np.uint8], payloads: Sequence[Payload] | None) -> Appended:
        """The first stage, into the write-ahead log, which has room; with the turn."""
        self._refuse_to_write()
        memory = self.memory
        self._stamp(rows)
        try:
            with self._store.read() as snapshot:
                appended, recorded, _ = self._sequenced(Overlay(snapshot, self._pending), rows, False)
            if not len(recorded):
                return appended
            self._name_wal()
            record = Record(self._size, recorded, _recorded_payloads(appended, payloads))
            self._is_in_doubt = True
            self._wal.write(record)
        except BaseException as error:
            memory.index.retract()
            memory.book.discard()
            self._is_in_doubt &= not isinstance(error, NotWritten)
            raise
        memory.index.accept()
        memory.book.commit()
        self._pending.append(record)
        self._size, self._time_ns = record.end, _time_of_last(recorded)
        self._is_in_doubt = False
        return appended

    def _name_wal(self) -> None:
        """Before the first record: make the files, and record in the store that there are some, so that they will be
        missed. Who has the turn is alone in a store that nothing was sequenced in."""
        if self._is_wal_named:
            return
        self._wal.make()
        with self._store.write() as batch:
            batch.put_state(WAL_STATE, b"")
        self._is_wal_named = True

    def _sequenced(
        self, store: Growing, rows: NDArray[np.uint8], may_expire: bool
    ) -> tuple[Appended, NDArray[np.uint8], Sequencer]:
        """Stage 1: the answers, and the rows recorded, which are in the store given."""
        memory = self.memory
        sequencer = Sequencer(
            self._shard, self._size, self._covered, memory.index, memory.book, store, may_expire=may_expire
        )
        results, indices = np.zeros(len(rows), np.uint8), np.zeros(len(rows), np.uint64)
        recorded = []
        keys = sequencer.keys(rows)
        for begin, end in sequencer.parts(rows, keys):
            first = sequencer.size
            part = sequencer.sequence(rows[begin:end], keys[begin:end])
            results[begin:end], indices[begin:end] = part.results, part.indices
            if len(part.rows):
                store.append_entries(first, part.rows)
                recorded.append(part.rows)
        all_recorded = recorded[0] if len(recorded) == 1 else np.concatenate([rows[:0], *recorded])
        return Appended(indices, results), all_recorded, sequencer

    def _catch_up(self) -> None:
        """Integrate all that is pending; with both locks."""
        self._refuse_to_write()
        self._integrate(tuple(self._pending), nullcontext())
        self._wal.turn()
        self._is_behind = False

    def _integrate(self, pending: Sequence[Record], turn: AbstractContextManager[object]) -> None:
        """Stages 2 and 3 of these, in one commit. `turn`: to be taken where memory changes.

        If it fails, all that is pending stays so, in both files of the write-ahead log.
        """
        is_committing = False
        try:
            rows = np.concatenate([record.rows for record in pending])
            with self._store.write() as batch:
                batch.append_entries(pending[0].first, rows)
                for record in pending:
                    for index, payload in record.payloads.items():
                        batch.put_payload(index, payload.content, payload.meta)
                memory, writes = self._extended(batch, rows, self._now_ns())
                is_committing = True
            with turn:
                self._put_in_place(memory, writes, len(pending))
        except BaseException as error:
            with turn:
                self.memory.index.cancel()
                self._is_behind = True
                self._is_in_doubt |= is_committing and not isinstance(error, NotWritten)
            raise

    def _publish_rest(self) -> None:
        """Stage 3 of what was integrated since the newest checkpoint; with both locks."""
        memory = self.memory
        if self._is_closed or self._is_in_doubt or memory.published_size == memory.head.tree_size:
            return
        head = self._head(memory.edge, memory.head.time_ns, True)
        with self._store.write() as batch:
            batch.put_state("head", head.pack())
        self.memory = msgspec.structs.replace(memory, head=head, published_size=head.tree_size)

    def _extended(self, batch: Batch, rows: NDArray[np.uint8], now_ns: int) -> tuple[Memory, Writes]:
        """Stages 2 and 3 of rows that are in the batch: what memory is to be once it is durable."""
        memory = self.memory
        edge, tree_rows = memory.edge.extended(leaf_hashes(rows))
        for row in tree_rows:
            batch.append_hashes(row.level, row.first, row.hashes.data)
        is_due = self._is_due(edge.size, now_ns)
        head = self._head(edge, _time_of_last(rows), is_due)
        for run, number in memory.orphans:
            batch.delete_segment(run, number)
        writes = memory.index.prepare(edge.size, batch.segment)
        for (run, number), data in writes.puts:
            batch.put_segment(run, number, data)
        for run, number in writes.deletes:
            batch.delete_segment(run, number)
        if writes.manifest is not None:
            batch.put_state("index", writes.manifest)
        book_size = memory.book_size
        if self._is_book_due(edge.size):
            book_size = edge.size
            store_book(batch, memory.book, book_size)
        batch.put_state("head", head.pack())
        published = (edge.size, now_ns) if is_due else (memory.published_size, memory.published_ns)
        return Memory(head, edge, memory.index, memory.book, *published, book_size), writes

    def _put_in_place(self, memory: Memory, writes: Writes, num_integrated: int) -> None:
        """What a commit led to; so many of the pending records are in the store."""
        memory.index.applied(writes)
        self.memory = memory
        del self._pending[:num_integrated]

    def _is_due(self, size: int, now_ns: int) -> bool:
        """Whether a checkpoint is to be signed: it also is if the clock went back, so that time cannot be told."""
        since_ns = now_ns - self.memory.published_ns
        is_late = not 0 <= since_ns < self._publishing.interval_ms * 1_000_000
        return is_late or size - self.memory.published_size >= self._publishing.num_entries

    def _head(self, edge: Edge, time_ns: int, is_due: bool) -> Head:
        """Stage 3: the new head, with a new checkpoint if one is due, else with the old one."""
        root = edge.root()
        return Head(edge.size, time_ns, root, self.sign(edge.size, root) if is_due else self.memory.head.checkpoint)

    def _is_book_due(self, size: int) -> bool:
        return size - self.memory.book_size >= SNAPSHOT_ENTRIES_MIN

    def sign(self, size: int, root: bytes) -> str:
        """The checkpoint (a note) of a tree."""
        return self._signer.sign(Checkpoint(self._signer.name, size, root).text())


def _time_of_last(rows: NDArray[np.uint8]) -> int:
    return int(rows[-1].view(np.uint64)[_TIME // 8])


def _recorded_payloads(appended: Appended, payloads: Sequence[Payload] | None) -> Payloads:
    """Those of the entries that were recorded, by index, ascending."""
    if payloads is None:
        return {}
    places = np.flatnonzero(appended.results == Result.OK).tolist()
    found = ((int(appended.indices[place]), payloads[place]) for place in places)
    return {index: payload for index, payload in found if payload.content is not None or payload.meta is not None}


def _erase(batch: Batch, sequencer: Sequencer, rows: NDArray[np.uint8]) -> None:
    """Delete what erasures are about."""
    if not traits_of(rows) & HAS_ERASURES:
        return
    entries = rows.view(ENTRY_DTYPE).reshape(len(rows))
    for subject in entries["subject"][entries["kind"] == Kind.ERASURE].tolist():
        for index, entry in sequencer.entries_with(Family.ID, subject):
            if entry.id == subject:
                batch.erase_payload(index)
