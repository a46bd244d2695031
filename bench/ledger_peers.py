"""The ledger and others at the same work: LMDB, SQLite, PostgreSQL, RocksDB and pymerkle, all measured by `measure`.

    python -m bench.ledger_peers [--quick] [--entries N] [--transfers N] [--seconds S] [--folder DIR]

Each peer in its turn, the ledger first, in an empty folder of its own and driven by this one process, gets the same
bytes (bench.ledger_peers_work):
    1. append full entries in batches of 4,096, each batch durable before the next one: `appends_per_s`, and after it
       what they take on disk: `bytes_per_entry`
    2. look entries up by id, one after another: `lookups_per_s`; make and verify inclusion proofs: `proof_us`, a mean
    3. 64 callers append an entry each, wait until it is durable, and do it again: `single_append_ms_p50` and `_p99`
    4. transfers in batches of 8,190, each batch durable before the next, in the store that holds all these entries:
       `transfers_per_s`
A figure is null where the peer has nothing of the kind. A peer that cannot run here is in the table, with the reason.

The same holds for all. Time counts while the peer works, not while its next batch is made and put into the form in
which its own interface takes it; in step 3, where only the writer knows the batch, that is in the time. What runs for
the first time is in no figure: 64 entries are appended and looked up before the clock starts, half of the time for
proofs goes into filling caches, the transfers that fund the accounts do not count, and of the single appends the first
tenth is dropped. Each peer has the same time; so the faster one holds more entries when it is asked for some, as
`num_entries` says. Where the work differs the notes say so.

The 64 callers share one writer, which takes all that wait as its next batch. The ledger brings its own
(`ledger.group`), all others have `GroupCommit`: SQLite, LMDB and this way of using RocksDB have one writer by nature,
and PostgreSQL answers sooner so than with a connection for each caller.
"""

import argparse
import asyncio
import importlib.util
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import ledger_peers_postgresql as postgresql
from bench.ledger_peers_ledger import Ledger
from bench.ledger_peers_sqlite import Sqlite
from bench.ledger_peers_stores import IndexedLmdb, PymerkleTree, RawLmdb, RocksDb
from bench.ledger_peers_work import (
    APPEND_BATCH,
    SEED,
    SINGLES_INDEX,
    TRANSFER_BATCH,
    WARM_UP_ENTRIES,
    WARM_UP_INDEX,
    AppendOne,
    CommitsGroups,
    Finds,
    Peer,
    PeerMissing,
    Proves,
    Rows,
    Settles,
    accounts,
    entries,
    entries_of,
    funding,
    ids_of,
    rows_of,
    transfers,
)
from ledger.entry import as_bytes, from_bytes

PEERS: dict[str, Callable[[Path], Peer]] = {
    "ledger": Ledger,
    "lmdb": RawLmdb,
    "lmdb-ids": IndexedLmdb,
    "sqlite": Sqlite,
    "postgresql": postgresql.Postgresql,
    "rocksdict": RocksDb,
    "pymerkle": PymerkleTree,
}
HEADINGS = {  # short ones: the table fits a terminal of 80 columns
    "appends_per_s": "append/s",
    "single_append_ms_p50": "p50 ms",
    "single_append_ms_p99": "p99 ms",
    "lookups_per_s": "find/s",
    "proof_us": "proof us",
    "transfers_per_s": "settle/s",
    "bytes_per_entry": "bytes",
}
SQLITE_MIN = (3, 33, 0)  # the first with UPDATE ... FROM
NUM_CALLERS = 64
SAMPLE_BATCHES, SAMPLE_PER_BATCH = 16, 256  # lookups: so many entries of so many batches
PROOFS_MAX = 1_000
SINGLES_MAX = 65_536
SINGLES_WARM_UP = 0.1
APPEND_SHARE, FIND_SHARE, PROVE_SHARE, SINGLE_SHARE, SETTLE_SHARE = 0.5, 0.075, 0.075, 0.15, 0.2
"""Of a peer's time, for each step; what one leaves over no other gets."""
NUM_FULL, SECONDS_FULL = 1_000_000, 420.0
NUM_QUICK, SECONDS_QUICK = 100_000, 42.0

Clock = Callable[[], float]
"""Seconds, from any start."""


class FullFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer that holds entries did (steps 2 to 4); None where it cannot do it."""

    num_transfers: int | None
    lookups_per_s: float | None
    proof_us: float | None
    single_append_ms_p50: float
    single_append_ms_p99: float
    transfers_per_s: float | None


class PeerFigures(FullFigures, frozen=True, kw_only=True):
    """All that a peer did. `num_entries` and `num_transfers` are what it had the time for."""

    name: str
    version: str
    num_entries: int
    appends_per_s: float
    bytes_per_entry: float
    notes: str


class Stopwatch:
    """Adds up the time inside its `with` blocks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_s = 0.0
        self.total_s = 0.0

    def __enter__(self) -> None:
        self._start_s = self._clock()

    def __exit__(self, *_: object) -> None:
        self.total_s += self._clock() - self._start_s


def available() -> dict[str, str | None]:
    """Every peer's name -> None, or why it cannot run here."""
    sqlite = None if sqlite3.sqlite_version_info >= SQLITE_MIN else f"SQLite {sqlite3.sqlite_version} is too old"
    return {
        "ledger": None,
        "lmdb": None,
        "lmdb-ids": None,
        "sqlite": sqlite,
        "postgresql": postgresql.missing(),
        "rocksdict": package_missing("rocksdict"),
        "pymerkle": package_missing("pymerkle"),
    }


def package_missing(package: str) -> str | None:
    """None if it is there."""
    if importlib.util.find_spec(package) is not None:
        return None
    return f"the Python package {package} is not installed (requirements-bench.txt)"


def measure(
    name: str,
    folder: Path,
    num_entries: int,
    num_transfers: int,
    seconds_max: float,
    clock: Clock = time.perf_counter,
) -> PeerFigures:
    """Start one peer in a new folder inside `folder`, give it the work, and leave nothing of it behind.

    Args:
        num_entries, num_transfers: how much, unless the time is over before; at least one batch of each.
        seconds_max: for everything but to start and to stop. It is looked at between batches.
    Raises:
        PeerMissing: it cannot run here, or does not start.
    """
    if (reason := available()[name]) is not None:
        raise PeerMissing(f"{name}: {reason}")
    with (
        tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as own,
        closing(PEERS[name](Path(own))) as peer,
    ):
        done, appends_per_s = append_batches(peer, num_entries, clock() + APPEND_SHARE * seconds_max, clock)
        bytes_per_entry = peer.bytes_on_disk() / (done + WARM_UP_ENTRIES)
        full = measure_full(peer, done, num_transfers, seconds_max, clock)
        return PeerFigures(
            name=name,
            version=peer.version,
            num_entries=done,
            appends_per_s=appends_per_s,
            bytes_per_entry=bytes_per_entry,
            notes=peer.notes,
            **msgspec.structs.asdict(full),
        )


def measure_full(
    peer: Peer, num_entries: int, num_transfers: int, seconds_max: float, clock: Clock = time.perf_counter
) -> FullFigures:
    """Steps 2 to 4 with a peer that holds the `WARM_UP_ENTRIES` and `num_entries` more, in batches of `APPEND_BATCH`.

    Args:
        seconds_max: for all steps, the first included.
    """

    def end_s(share: float) -> float:
        return clock() + share * seconds_max

    lookups_per_s = look_up(peer, num_entries, end_s(FIND_SHARE), clock) if isinstance(peer, Finds) else None
    proof_us = mean_us(peer.prove, num_entries, end_s(PROVE_SHARE), clock) if isinstance(peer, Proves) else None
    num_held = WARM_UP_ENTRIES + num_entries
    latencies_ms = 1e3 * np.array(asyncio.run(append_singly(peer, num_held, end_s(SINGLE_SHARE), clock)))
    settled, transfers_per_s = (
        settle_batches(peer, num_transfers, end_s(SETTLE_SHARE), clock) if isinstance(peer, Settles) else (None, None)
    )
    return FullFigures(
        num_transfers=settled,
        lookups_per_s=lookups_per_s,
        proof_us=proof_us,
        single_append_ms_p50=float(np.percentile(latencies_ms, 50)),
        single_append_ms_p99=float(np.percentile(latencies_ms, 99)),
        transfers_per_s=transfers_per_s,
    )


def append_batches(peer: Peer, num_entries: int, end_s: float, clock: Clock) -> tuple[int, float]:
    """(how many entries, how many per second), after the `WARM_UP_ENTRIES`."""
    peer.append(peer.prepare(0, entries(WARM_UP_INDEX, WARM_UP_ENTRIES)))
    done, busy = 0, Stopwatch(clock)
    while done < num_entries and (done == 0 or clock() < end_s):
        rows = entries(done, min(APPEND_BATCH, num_entries - done))
        batch = peer.prepare(WARM_UP_ENTRIES + done, rows)
        with busy:
            peer.append(batch)
        done += len(rows)
    return done, done / busy.total_s


def look_up(peer: Finds, num_entries: int, end_s: float, clock: Clock) -> float:
    """Lookups by id per second, after those of the `WARM_UP_ENTRIES`. Every answer is compared with what was stored."""
    for entry_id in ids_of(entries(WARM_UP_INDEX, WARM_UP_ENTRIES)):
        peer.find(entry_id)
    done, busy = 0, Stopwatch(clock)
    for rows in sample(num_entries, end_s, clock):
        ids = ids_of(rows)
        with busy:
            found = [peer.find(entry_id) for entry_id in ids]
        assert are_those(found, rows), "a peer gave back another entry than it was given"
        done += len(rows)
    return done / busy.total_s


def are_those(found: Sequence[bytes | None], rows: Rows) -> bool:
    """Whether what was found is what was stored, but for the time of recording, which the ledger fills in itself."""
    answers = from_bytes(b"".join(entry or b"" for entry in found)).copy()
    if len(answers) != len(rows):
        return False
    answers["time_ns"] = from_bytes(rows.tobytes())["time_ns"]
    return np.array_equal(as_bytes(answers), rows)


def mean_us(work: Callable[[int], None], num_entries: int, end_s: float, clock: Clock = time.perf_counter) -> float:
    """Microseconds that work on an entry takes, once half of the time has gone into filling caches."""
    random = np.random.default_rng(SEED)
    done, busy = 0, Stopwatch(clock)
    for index in random_indices(random, num_entries, (clock() + end_s) / 2, clock):
        work(index)
    for index in random_indices(random, num_entries, end_s, clock):
        with busy:
            work(index)
        done += 1
    return 1e6 * busy.total_s / done


def random_indices(random: np.random.Generator, num_entries: int, end_s: float, clock: Clock) -> Iterator[int]:
    """`PROOFS_MAX` of them, or until the time is over; at least one."""
    for index in random.integers(0, num_entries, PROOFS_MAX).tolist():
        yield index
        if clock() >= end_s:
            return


def sample(num_entries: int, end_s: float, clock: Clock) -> Iterator[Rows]:
    """Some stored entries of batches from all over the store, until the time is over; at least one batch's."""
    firsts = np.arange(0, num_entries, APPEND_BATCH)
    random = np.random.default_rng(SEED)
    for first in random.choice(firsts, min(SAMPLE_BATCHES, len(firsts)), replace=False).tolist():
        rows = entries(first, min(APPEND_BATCH, num_entries - first))
        yield random.choice(rows, min(SAMPLE_PER_BATCH, len(rows)), replace=False)
        if clock() >= end_s:
            return


class GroupCommit:
    """Callers hand in an entry each; one thread appends all that wait as one batch, durable for all of them at once."""

    def __init__(self, peer: Peer, num_held: int) -> None:
        self._peer = peer
        self._size = num_held
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._handed_in = asyncio.Event()

    async def append(self, entry: bytes) -> None:
        """Append an entry; it is durable when this returns."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        self._handed_in.set()
        await future

    async def run(self) -> None:
        """Write until cancelled."""
        with ThreadPoolExecutor(1) as thread:
            while True:
                await self._handed_in.wait()
                self._handed_in.clear()
                batch, self._waiting = self._waiting, []
                waiting = [entry for entry, _ in batch]
                await asyncio.get_running_loop().run_in_executor(thread, self._write, waiting)
                for _, future in batch:
                    future.set_result(None)

    def _write(self, batch: list[bytes]) -> None:
        self._peer.append(self._peer.prepare(self._size, rows_of(b"".join(batch))))
        self._size += len(batch)


@asynccontextmanager
async def committing(peer: Peer, num_held: int) -> AsyncIterator[AppendOne]:
    """The peer's own group commit, or ours on top of it."""
    if isinstance(peer, CommitsGroups):
        with peer.committing() as append:
            yield append
        return
    writer = GroupCommit(peer, num_held)
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(writer.run())
        yield writer.append
        writing.cancel()


async def append_singly(peer: Peer, num_held: int, end_s: float, clock: Clock) -> list[float]:
    """Seconds that each of many single appends took, from call to answer, by `NUM_CALLERS` callers at a time; those of
    the first tenth are not among them."""
    todo = iter(entries_of(entries(SINGLES_INDEX, SINGLES_MAX)))
    latencies_s: list[float] = []

    async def call(append: AppendOne) -> None:
        for entry in todo:
            start_s = clock()
            await append(entry)
            latencies_s.append(clock() - start_s)
            if clock() >= end_s:
                return

    async with committing(peer, num_held) as append:
        await asyncio.gather(*(call(append) for _ in range(NUM_CALLERS)))
    return latencies_s[int(SINGLES_WARM_UP * len(latencies_s)) :]


def settle_batches(peer: Settles, num_transfers: int, end_s: float, clock: Clock) -> tuple[int, float]:
    """(how many transfers, how many per second). In the end no money may be lost."""
    opened = accounts()
    peer.open_accounts(opened)
    paid_in = funding(opened)
    for begin in range(0, len(paid_in), TRANSFER_BATCH):
        peer.settle(peer.prepare_transfers(paid_in[begin : begin + TRANSFER_BATCH]))
    moved, done, busy = int(paid_in["amount"].sum()), 0, Stopwatch(clock)
    while done < num_transfers and (done == 0 or clock() < end_s):
        batch = transfers(opened, done // TRANSFER_BATCH, min(TRANSFER_BATCH, num_transfers - done))
        prepared = peer.prepare_transfers(batch)
        with busy:
            peer.settle(prepared)
        moved += int(batch["amount"].sum())
        done += len(batch)
    debits, credits = (sum(side) for side in zip(*peer.balances().values(), strict=True))
    assert debits == credits == moved, "a peer lost money"
    return done, done / busy.total_s


def main() -> None:
    options = parse_options()
    missing = {name: reason for name, reason in available().items() if reason is not None}
    measured: list[PeerFigures] = []
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.folder) as folder:
        Path(folder).chmod(0o711)  # so that PostgreSQL's user can get to its own folder in it
        for name in [name for name in PEERS if name not in missing]:
            try:
                measured.append(
                    measure(name, Path(folder), options.entries, options.transfers, options.seconds / len(PEERS))
                )
            except PeerMissing as error:
                missing[name] = str(error)
    print_table(measured, missing)
    result = {
        "entries": options.entries,
        "transfers": options.transfers,
        "seconds": options.seconds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        "peers": measured,
        "missing": missing,
    }
    print(msgspec.json.encode(result).decode())


def parse_options() -> argparse.Namespace:
    """Sizes, time and place."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, done in under a minute")
    parser.add_argument("--entries", type=int, help="how many entries each peer gets")
    parser.add_argument("--transfers", type=int, help="how many transfers each peer gets")
    parser.add_argument("--seconds", type=float, help="how long all peers together may take")
    parser.add_argument(
        "--folder", type=Path, help="where to write: the disk to measure; the temporary folder if unsaid"
    )
    options = parser.parse_args()
    num, seconds = (NUM_QUICK, SECONDS_QUICK) if options.quick else (NUM_FULL, SECONDS_FULL)
    options.entries = options.entries or num
    options.transfers = options.transfers or num
    options.seconds = options.seconds or seconds
    return options


def print_table(measured: list[PeerFigures], missing: dict[str, str]) -> None:
    """A row for each peer that was measured; below it who they are, and who is missing, and why."""
    table = Table("peer", *HEADINGS.values(), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for peer in measured:
        table.add_row(peer.name, *(shown(getattr(peer, figure)) for figure in HEADINGS))
    console = Console()
    console.print(table)
    for peer in measured:
        work = f"{peer.num_entries:,} entries" + (f", {peer.num_transfers:,} transfers" if peer.num_transfers else "")
        console.print(f"{peer.name}: {peer.version}; {work}; {peer.notes}")
    for name, reason in missing.items():
        console.print(f"{name}: missing: {reason}")


def shown(value: Any) -> str:
    """Three digits or whole numbers; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
