"""Processes that append, side by side: shards of the ledger, and py-lmdb alone for comparison.

Each process makes a slice of its entries first and holds it in memory, in the form that the store takes; then all begin
at once, and the time is the wall clock's from there to the last of them. So the making of the entries does not count,
and what the processes take from each other (cores, the disk) does.
"""

import multiprocessing
import time
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from bench.ledger_peers_ledger import LOG_NAME, NUM_SHARDS, Ledger
from bench.ledger_peers_stores import RawLmdb
from bench.ledger_peers_work import APPEND_BATCH, WARM_UP_ENTRIES, WARM_UP_INDEX, Peer, entries
from ledger.log import open_keys
from ledger.warm import warm_up

WAIT_S_MAX = 600.0
SHARD_STRIDE = 1 << 40
"""Entries are made from an index; each shard has its own range of them. Shard 0 has that of a peer that is alone."""


class _Order(NamedTuple):
    """What each process is to append, and into what, one after the other."""

    num_entries: int
    names: tuple[str, ...]


class Writers:
    """`NUM_SHARDS` processes, each with a shard of the ledger and an LMDB environment of its own in `folder`.

    Raises:
        RuntimeError: one of them failed; its own words are on the standard error stream.
    """

    def __init__(self, folder: Path) -> None:
        warm_up()  # once here, so that on a new machine not every process compiles
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(NUM_SHARDS)
        open_keys(folder / "ledger", LOG_NAME, NUM_SHARDS)
        self._processes, self._pipes = [], []
        for number in range(NUM_SHARDS):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_work, args=(folder, number, theirs, barrier), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(pipe)
        self._answers()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(WAIT_S_MAX)
            process.kill()

    def append(self, num_entries: int, names: tuple[str, ...] = ("ledger",)) -> dict[str, float]:
        """All together append so many entries to each that is named (`ledger`, `lmdb`), one after the other.

        Returns:
            Seconds, by name.
        """
        for pipe in self._pipes:
            pipe.send(_Order(num_entries // NUM_SHARDS, names))
        spans = self._answers()
        return {name: max(span[name][1] for span in spans) - min(span[name][0] for span in spans) for name in names}

    def _answers(self) -> list[dict[str, tuple[float, float]]]:
        answers = []
        for pipe in self._pipes:
            try:
                if not pipe.poll(WAIT_S_MAX):
                    raise RuntimeError("a process that appends does not answer")
                answers.append(pipe.recv())
            except EOFError as error:
                raise RuntimeError("a process that appends has ended") from error
        return answers


def _work(folder: Path, number: int, pipe: Connection, barrier: Barrier) -> None:
    """One process: make a slice, wait for the others, append it, tell when that began and ended; until the pipe is
    closed."""
    raw_folder = folder / f"lmdb-{number}"
    raw_folder.mkdir()
    with closing(Ledger(folder / "ledger", number)) as ledger, closing(RawLmdb(raw_folder)) as raw:
        stores: dict[str, Peer] = {"ledger": ledger, "lmdb": raw}
        sizes = dict.fromkeys(stores, WARM_UP_ENTRIES)
        for store in stores.values():
            store.append(store.prepare(0, entries(WARM_UP_INDEX + number * SHARD_STRIDE, WARM_UP_ENTRIES)))
        done = number * SHARD_STRIDE
        pipe.send({})
        while (order := _received(pipe)) is not None:
            begins = range(0, order.num_entries, APPEND_BATCH)
            batches = [entries(done + begin, min(APPEND_BATCH, order.num_entries - begin)) for begin in begins]
            prepared = {
                name: [
                    stores[name].prepare(sizes[name] + begin, batch)
                    for begin, batch in zip(begins, batches, strict=True)
                ]
                for name in order.names
            }
            done += order.num_entries
            spans = {}
            for name in order.names:
                barrier.wait(WAIT_S_MAX)
                start_s = time.monotonic()
                for batch in prepared[name]:
                    stores[name].append(batch)
                spans[name] = (start_s, time.monotonic())
                sizes[name] += order.num_entries
            pipe.send(spans)


def _received(pipe: Connection) -> _Order | None:
    """The next order; None once there will be none."""
    try:
        order: _Order = pipe.recv()
    except EOFError:
        return None
    return order
