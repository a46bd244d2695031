"""Checks of shards in processes of their own: as many at a time as there are cores, and the death of one is a finding.

LMDB trusts its file. A page that is no page makes it abort, and a pointer to nowhere kills the process that follows it
(SIGABRT, SIGSEGV, SIGBUS); so does a disk that cannot read. Whoever asks whether a ledger is damaged must be told so
then, and about the other shards. The processes are forked, and inherit the kernels that `_load_kernels` has compiled. A
program that has threads, or owns a shard, is not to be forked, and asks for a check by way of `ledger.fsck_afresh`.
"""

import faulthandler
import resource
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from ledger import fsck_pages
from ledger.entry import Entry, Kind, as_bytes, encode, from_bytes
from ledger.errors import LedgerBusy, LedgerError, LedgerLocked, NotWritten
from ledger.fsck_exchanges import Exchanges
from ledger.fsck_form import Forms
from ledger.fsck_index import Items
from ledger.fsck_report import Findings, Problem, Report, Step
from ledger.fsck_runs import NO_INDEX
from ledger.fsck_settlement import Settlement
from ledger.fsck_shard import Seen, ShardCheck
from ledger.fsck_tree import Trees
from ledger.fsck_wal import check_wal
from ledger.log import shard_of_origin
from ledger.note import VerifierKey, read_checkpoint
from ledger.store import DATA_FILE, Store
from ledger.tail import SEED_BYTES, seed_words

_FORK = get_context("fork")
_DEFECT = "the check ended with a defect of its own; see its traceback"

_Item = TypeVar("_Item")
_Reply = TypeVar("_Reply")


class Job(msgspec.Struct, frozen=True):
    """A shard to be checked. `name`: what it is called in the findings; `keys`: as `ShardCheck` takes them."""

    path: Path
    name: str
    keys: Sequence[VerifierKey] | None


class Checked(msgspec.Struct, frozen=True):
    """What a check of a shard has seen and found."""

    seen: Seen
    findings: Findings


class CheckFailed(RuntimeError):
    """A check ended with a defect of its own, not of the ledger's; its process has written the traceback to stderr.

    `results`: of all shards, what was found until then; `report`: the same, where it was made (`ledger.fsck.check`).
    """

    def __init__(self, what: str, results: Sequence[Checked] = (), report: Report | None = None) -> None:
        super().__init__(what)
        self.results = results
        self.report = report


class _Refusal(msgspec.Struct, frozen=True):
    """Why a shard cannot be looked at, which says nothing about it."""

    where: str
    what: str


_Message = Problem | _Refusal | Seen | str | int
"""A problem; why nothing was checked; what was seen, at the end; what is read next; or so many more entries done."""


class _Process:
    """A forked process that sends messages until its end. It dies with the `with` at the latest."""

    def __init__(self, target: Callable[..., None], *args: object) -> None:
        self.receiver, sender = _FORK.Pipe(duplex=False)
        self._process = _FORK.Process(target=_quietly, args=(target, *args, sender))
        self._process.start()
        sender.close()

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self.receiver.close()

    def died_of(self) -> str | None:
        """After the last message: the signal that killed the process; None if it came to its end.

        Raises:
            CheckFailed: it ended with an exception.
        """
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        if code > 0:
            raise CheckFailed(_DEFECT)
        return signal.Signals(-code).name if code else None


class _Running:
    """A check of a shard under way."""

    def __init__(self, job: Job, entropy: Callable[[int], bytes]) -> None:
        self.process = _Process(_check, job, entropy)
        self.seen = Seen()
        self.findings = Findings()
        self.has_failed = False
        self._name = job.name
        self._tell = self.findings.of(job.name)
        self._reading = "its head"

    def take(self, message: _Message, step: Step) -> None:
        if isinstance(message, Problem):
            self._tell(message.where, message.what)
        elif isinstance(message, _Refusal):
            self.findings.not_checked.append(Problem(f"{self._name} {message.where}", message.what))
        elif isinstance(message, Seen):
            self.seen = message
        elif isinstance(message, str):
            self._reading = message
        else:
            self.seen.num_entries += message
            step(message)

    def end(self) -> Checked:
        try:
            killer = self.process.died_of()
        except CheckFailed as error:
            self.has_failed = True
            self._tell(self._reading, f"not checked to the end: {error}")
            return Checked(self.seen, self.findings)
        if killer:
            self._tell(DATA_FILE, f"its pages are damaged: who reads {self._reading} dies of {killer}")
        return Checked(self.seen, self.findings)


def check_apart(jobs: Sequence[Job], num_at_once: int, step: Step, entropy: Callable[[int], bytes]) -> list[Checked]:
    """Check each shard: see `ShardCheck`. What cannot be read is told, whatever happens.

    Raises:
        CheckFailed: a check has a defect; the others have come to their ends.
    Cost: that of the checks, and some 20 ms for each.
    """
    _load_kernels()
    waiting = deque(enumerate(jobs))
    running: dict[Connection, tuple[int, _Running]] = {}
    done: dict[int, Checked] = {}
    has_failed = False
    try:
        while waiting or running:
            while waiting and len(running) < num_at_once:
                place, job = waiting.popleft()
                started = _Running(job, entropy)
                running[started.process.receiver] = place, started
            for receiver in list(wait(list(running))):
                assert isinstance(receiver, Connection)
                place, check = running[receiver]
                try:
                    check.take(receiver.recv(), step)
                except EOFError:
                    done[place] = check.end()
                    has_failed |= check.has_failed
                    del running[receiver]
                    check.process.__exit__()
    finally:
        for _, check in running.values():
            check.process.__exit__()
    results = [done[place] for place in range(len(jobs))]
    if has_failed:
        raise CheckFailed(_DEFECT, results)
    return results


def ask_apart(question: Callable[[_Item], _Reply], items: Sequence[_Item], otherwise: _Reply) -> list[_Reply]:
    """The answer to a question about each item, asked in another process; `otherwise` where it raises one of our
    errors, or dies of it.

    Cost: some 20 ms, and as much again for each death.
    """
    replies: list[_Reply] = []
    while len(replies) < len(items):
        with _Process(_answer, question, items[len(replies) :], otherwise) as process:
            try:
                while True:
                    replies.append(process.receiver.recv())
            except EOFError:
                if process.died_of():
                    replies.append(otherwise)
    return replies


def _quietly(target: Callable[..., None], *args: object) -> None:
    """Ctrl-C is for the parent to see, and a death is told by the parent, without a core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    target(*args)


def _check(job: Job, entropy: Callable[[int], bytes], sender: Connection) -> None:
    """The process of one check."""
    seen = Seen()

    def tell(where: str, what: str) -> None:
        sender.send(Problem(where, what))

    try:
        with closing(Store.open_readonly(job.path, in_order=True)) as store:
            sender.send("its pages")
            fsck_pages.check_pages(store, tell)
            ShardCheck(store, job.keys, tell, sender.send, sender.send, entropy, seen).run()
            if seen.note:
                seen.num_pending = check_wal(store, shard_of_origin(read_checkpoint(seen.note).origin), tell)
    except (NotWritten, LedgerBusy, LedgerLocked) as error:  # this user may not, or not now
        sender.send(_Refusal(error.where, f"{error.what}. {error.fix}"))
    except LedgerError as error:
        tell(error.where, error.what)
    sender.send(seen)


def _answer(question: Callable[[_Item], _Reply], items: Sequence[_Item], otherwise: _Reply, sender: Connection) -> None:
    """The process of `ask_apart`."""
    for item in items:
        try:
            reply = question(item)
        except LedgerError:
            reply = otherwise
        sender.send(reply)


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
    Exchanges().collect(rows, 0)
    fsck_pages.load_kernels()
