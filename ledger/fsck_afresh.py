"""The check of one shard, asked for by a process that must not be forked: one that has threads, or that owns a shard.

A forked process inherits the locks of its parent: that of a shard, which outlives the parent with it, and those that
other threads happen to hold, which nobody ever opens again. So the check runs in an interpreter of its own, which has
neither; there `ledger.fsck_process` may fork.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from ledger.fsck_process import CheckFailed, Job, check_apart
from ledger.fsck_report import Problem
from ledger.note import VerifierKey, parse_verifier_key

_COMMAND = "from ledger.fsck_afresh import answer; answer()"


class Found(msgspec.Struct, frozen=True):
    """What the check of a shard has seen and found, and why it could not: see `Seen` and `Report`."""

    problems: tuple[Problem, ...]
    num_pending: int
    furthest: dict[int, int]


def check_afresh(path: Path, key: VerifierKey) -> Found:
    """Check a shard's directory, whatever its name, with the key that it has to be signed with.

    Raises:
        CheckFailed: the check has a defect; its traceback is on stderr.
    Cost: that of the check, and some 2 s.
    """
    command = [sys.executable, "-c", _COMMAND, str(path), str(key)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if process.returncode:
        raise CheckFailed(f"the check of {path} ended with {process.returncode}; see its traceback")
    return msgspec.msgpack.decode(process.stdout, type=Found)


def answer() -> None:
    """The other interpreter."""
    path, key = sys.argv[1:]
    sys.stdout.buffer.write(msgspec.msgpack.encode(found_in(Path(path), parse_verifier_key(key))))


def found_in(path: Path, key: VerifierKey) -> Found:
    """As `check_afresh`, for a process that may be forked."""
    (checked,) = check_apart([Job(path, path.name, [key])], 1, lambda num_entries: None, os.urandom)
    findings = checked.findings
    return Found((*findings.problems, *findings.not_checked), checked.seen.num_pending, checked.seen.furthest)
