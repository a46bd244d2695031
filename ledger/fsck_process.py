"""The check of a shard in a process of its own, whose death is a finding like any other.

LMDB trusts its file. A page that is no page makes it abort, and a pointer to nowhere kills the process that follows it
(SIGABRT, SIGSEGV, SIGBUS). Whoever asks whether a ledger is damaged must be told so then, and about the other shards.
The process is forked, so that this works in any program, and inherits the kernels that `_load_kernels` has compiled.
Turned down: to look through the pages of the file ourselves first (LMDB's format, written down a second time).
"""

import faulthandler
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from ledger.entry import Entry, Kind, as_bytes, encode, from_bytes
from ledger.errors import LedgerError
from ledger.fsck_form import Forms
from ledger.fsck_index import Items
from ledger.fsck_report import Problem, Step, Tell
from ledger.fsck_runs import NO_INDEX
from ledger.fsck_settlement import Settlement
from ledger.fsck_shard import Seen, ShardCheck
from ledger.fsck_tree import Trees
from ledger.note import VerifierKey
from ledger.store import DATA_FILE, Store
from ledger.tail import SEED_BYTES, seed_words

_FORK = get_context("fork")

_Message = Problem | Seen | int
"""A problem; what was seen, at the end; or so many more entries done."""


def check_shard_apart(
    path: Path, keys: Sequence[VerifierKey], tell: Tell, step: Step, entropy: Callable[[int], bytes]
) -> Seen:
    """Check the shard in a directory: see `ShardCheck`. What cannot be read is told, whatever happens.

    Raises:
        RuntimeError: the check has a defect; the process has written its traceback to stderr.
    Cost: that of the check, and some 20 ms.
    """
    _load_kernels()
    seen = Seen()
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_run, args=(path, keys, entropy, sender))
    process.start()
    sender.close()
    try:
        for message in _messages(receiver):
            if isinstance(message, Problem):
                tell(message.where, message.what)
            elif isinstance(message, Seen):
                seen = message
            else:
                seen.num_entries += message
                step(message)
        process.join()
    finally:
        process.kill()
        process.join()
        receiver.close()
    assert process.exitcode is not None
    if process.exitcode < 0:
        tell(DATA_FILE, f"its pages are damaged: who reads them dies of {signal.Signals(-process.exitcode).name}")
    elif process.exitcode:
        raise RuntimeError(f"the check of {path} ended with a defect of its own; see its traceback")
    return seen


def _messages(receiver: Connection) -> Iterator[_Message]:
    """What the process says until its end."""
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            return


def _run(path: Path, keys: Sequence[VerifierKey], entropy: Callable[[int], bytes], sender: Connection) -> None:
    """The process. Ctrl-C is for the parent to see, and its own death is told by the parent, without a core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seen = Seen()

    def tell(where: str, what: str) -> None:
        sender.send(Problem(where, what))

    try:
        with closing(Store.open_readonly(path)) as store:
            ShardCheck(store, keys, tell, sender.send, entropy, seen).run()
    except LedgerError as error:
        tell(error.where, error.what)
    sender.send(seen)


@cache
def _load_kernels() -> None:
    """Have what numba compiled loaded here, once, and not in every process (half a second, or half a minute if it must
    compile first)."""

    def ignore(where: str, what: str) -> None:
        pass

    entry = encode(Entry(kind=Kind.ACCOUNT, id=b"kernels " * 2, time_ns=1, currency=1))
    rows = as_bytes(from_bytes(entry)).copy()  # writable, which is another type to numba
    Forms(0, ignore).check(rows, 0)
    Trees(ignore).grow(rows)
    Items(NO_INDEX, seed_words(bytes(SEED_BYTES))).add(rows, 0, np.empty(1, np.uint64))
    Settlement(b"", ignore).replay(rows, 0)
