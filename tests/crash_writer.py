"""A process that lets writers live and kills them: `python crash_writer.py`, one line on stdin for each life.

Everything is imported and compiled before the first; a life is a fork, which opens the shard and writes until it is
killed. What it has done it says through a pipe, in records that are written as they come and that outlive it.
"""

import asyncio
import itertools
import os
import select
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crash_load import BATCHES, NAME, NS_PER_S, NUM_CALLERS, SETUP, SIZES, START_NS, Name, call_of, make_small

from ledger.entry import as_bytes
from ledger.group import Committer
from ledger.log import open_keys, shard_path
from ledger.note import read_checkpoint
from ledger.result import Result
from ledger.shard import Publishing, Shard

OPENED, BEGUN, DONE, HEAD, FAILED = range(1, 6)
_RECORD = struct.Struct("<BHIIQ32s")


class Record(NamedTuple):
    """What a writer says."""

    kind: int
    stream: int = 0  # of a call that was begun, or is done and durable: its name
    number: int = 0
    num_entries: int = 0
    first: int = 0  # of a call, the index of its first entry; of a checkpoint that was given out, its size
    root: bytes = b""  # of a checkpoint; of a failure, its name


def read_records(data: bytes) -> list[Record]:
    """All that were written, each in one piece."""
    return list(map(Record._make, _RECORD.iter_unpack(data)))


LIFE_S_MAX = 60.0
"""A writer that was to open the shard by then hangs."""

_BATCHES_WARM = 80
_BATCHES_PER_EXPIRY = 4
_CALLS_PER_HEAD = 8

Tell = Callable[[Record], None]


def main() -> None:
    """Read lines "path, life, kill_s, from", separated by tabs, and answer each with "open_s, records in hex".

    The writer is killed so many seconds after it was begun (from "begin") or had opened the shard ("opened").
    """
    make_small()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), 1, lambda _: None, num_batches=_BATCHES_WARM)
    print("ready", flush=True)
    for line in sys.stdin:
        path, life, kill_s, begin = line.rstrip("\n").split("\t")
        open_s, records = lived(Path(path), int(life), float(kill_s), from_begin=begin == "begin")
        print(f"{open_s}\t{records.hex()}", flush=True)


def lived(path: Path, life: int, kill_s: float, *, from_begin: bool) -> tuple[float, bytes]:
    """One life: how long it took to open the shard (0: it never had), and what it said until its end."""
    receiver, sender = os.pipe()
    begin_s = time.monotonic()
    writer = os.fork()
    if writer == 0:
        os.close(receiver)
        _live(path, life, sender)
    os.close(sender)
    records, open_s, end_s = b"", 0.0, begin_s + (kill_s if from_begin else LIFE_S_MAX)
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([receiver], [], [], left_s)[0]:
            if not (data := os.read(receiver, 1 << 16)):
                break
            records += data
            if not open_s and len(records) >= _RECORD.size:
                open_s = time.monotonic() - begin_s
                end_s = end_s if from_begin else time.monotonic() + kill_s
    os.kill(writer, signal.SIGKILL)
    while data := os.read(receiver, 1 << 16):
        records += data
    os.close(receiver)
    os.waitpid(writer, 0)
    return open_s, records


def _live(path: Path, life: int, sender: int) -> None:
    """The writer. It never returns."""

    def tell(record: Record) -> None:
        os.write(sender, _RECORD.pack(*record))

    try:
        write(path, life, tell)
    except BaseException as error:
        _tell_failure(error, tell)
    finally:
        signal.pause()  # killed it is to be, whatever happens


def write(path: Path, life: int, tell: Tell, num_batches: int = sys.maxsize) -> None:
    """Batches from one thread, small calls from eight callers, and what expires: all at the same time."""
    ticks = itertools.count(START_NS + life * NS_PER_S, 10**6)
    keys = open_keys(path, NAME, 1)
    publishing = Publishing(num_entries=20, interval_ms=5)
    with Shard.open(
        shard_path(path, 0),
        0,
        keys.signers[0],
        lambda: next(ticks),
        entropy=os.urandom,
        publishing=publishing,
        sizes=SIZES,
    ) as shard:
        tell(Record(OPENED))
        setup = call_of(Name(0, SETUP, 0))
        assert set(shard.append(setup.entries).results.tolist()) <= {Result.OK, Result.EXISTS}
        committer, is_over = Committer(shard), threading.Event()
        batches = threading.Thread(target=_write_batches, args=(shard, life, tell, num_batches, is_over))
        batches.start()
        asyncio.run(_write_calls(shard, committer, life, tell, is_over))
        batches.join()
        committer.close()


def _write_batches(shard: Shard, life: int, tell: Tell, num_batches: int, is_over: threading.Event) -> None:
    try:
        for number in range(num_batches):
            call = call_of(Name(life, BATCHES, number))
            tell(Record(BEGUN, BATCHES, number))
            record = shard.append if number % 2 else shard.sequence
            appended = record(call.entries)
            assert not appended.results.any(), appended.results
            tell(Record(DONE, BATCHES, number, len(call.entries), int(appended.indices[0])))
            if number % _BATCHES_PER_EXPIRY == 0:
                _tell_head(shard, tell)
                assert not shard.expire().results.any()
    except BaseException as error:
        _tell_failure(error, tell)
    finally:
        is_over.set()


async def _write_calls(shard: Shard, committer: Committer, life: int, tell: Tell, is_over: threading.Event) -> None:
    async def call_on(stream: int) -> None:
        for number in itertools.count():
            call = call_of(Name(life, stream, number))
            tell(Record(BEGUN, stream, number))
            answers = await committer.append_together(as_bytes(call.entries).tobytes(), call.payloads)
            assert all(answer.result == Result.OK for answer in answers), answers
            tell(Record(DONE, stream, number, len(answers), answers[0].index))
            if stream == 1 and number % _CALLS_PER_HEAD == 0:  # a checkpoint integrates what was sequenced
                _tell_head(shard, tell)
            if is_over.is_set():
                return

    await asyncio.gather(*(call_on(stream) for stream in range(1, NUM_CALLERS + 1)))


def _tell_head(shard: Shard, tell: Tell) -> None:
    """A checkpoint that was given out."""
    checkpoint = read_checkpoint(shard.checkpoint())
    tell(Record(HEAD, first=checkpoint.tree_size, root=checkpoint.root))


def _tell_failure(error: BaseException, tell: Tell) -> None:
    traceback.print_exception(error)
    tell(Record(FAILED, root=type(error).__name__.encode()))


if __name__ == "__main__":
    main()
