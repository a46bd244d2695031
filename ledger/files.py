"""Files that must hold: made durably, created once and never replaced, locked by one owner, with room really there.

`link` and `flock` are the two primitives: both are decided by the kernel, so there is no moment at which two processes
both believe that they came first, and a lock dies with its owner.
Turned down: a file with the owner's process id. It outlives a crash, and the id may by then be somebody else's.
"""

import errno
import fcntl
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from ledger.errors import LedgerError, LedgerFull, LedgerLocked, LedgerReadOnly

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room on the device, in the quota, or under the process's file size limit."""

READ_ONLY_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""The directory, or what it is mounted on, is not to be written by this user."""

LOCK_POLL_S = 0.02


def make_directory(path: Path) -> None:
    """Make a directory, and its parents where they are missing; the name of each one made is durable.

    Raises:
        LedgerFull, LedgerReadOnly: no room for it, or no right to make it.
        OSError: it cannot be made otherwise, or a file has the name.
    Concurrency: any number of processes; each syncs what it found missing, whoever was first to make it.
    """
    missing = list(takewhile(lambda directory: not directory.is_dir(), (path, *path.parents)))
    with refusal_is_named(path):
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)


def create_once(path: Path, data: bytes, mode: int) -> bool:
    """Create a file with all of `data` unless the name is taken; False when it is. Either way the file is durable.

    Raises:
        LedgerFull, LedgerReadOnly: no room for it, or no right to make it; nothing was created.
        OSError: it cannot be created otherwise.
    Concurrency: of any number of processes exactly one gets True, and none ever sees half a file.
    """
    with refusal_is_named(path):
        is_new = not path.exists() and _link_new(path, data, mode)  # what exists needs no room: a full disk can be read
        sync_directory(path.parent)  # of a taken name, too: whoever made it may not have got so far
    return is_new


def _link_new(path: Path, data: bytes, mode: int) -> bool:
    """Write a file whose data is durable and then give it its name; False when somebody else was first."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def reserve(path: Path, num_bytes: int) -> None:
    """Make a file, if there is none, with blocks on disk for its first `num_bytes`; what is in it stays.

    A page of a mapped file that has no block yet kills the process (SIGBUS) when it is written on a full disk.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    finally:
        os.close(descriptor)


@contextmanager
def refusal_is_named(path: Path) -> Iterator[None]:
    """Name the operating system's refusal to write, for want of room or of the right to; other errors pass."""
    try:
        yield
    except OSError as error:
        if (named := named_refusal(error.errno or 0, path)) is None:
            raise
        raise named from error


def named_refusal(code: int, path: Path) -> LedgerError | None:
    """The error of an errno that says that a file cannot be written; None of any other."""
    if code in FULL_ERRNOS:
        return LedgerFull(os.strerror(code), where=str(path), fix="Free some space and try again.")
    if code in READ_ONLY_ERRNOS:
        return LedgerReadOnly(os.strerror(code), where=str(path), fix="Let this user write there and try again.")
    return None


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold_lock(path: Path, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> int:
    """Become the owner of a lock file; the file descriptor that holds the lock until it is closed.

    A process that is forked meanwhile inherits the descriptor, and with it the lock: open after the fork.
    Raises:
        LedgerLocked: it still had another owner after about `wait_s` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for poll in range(1 + math.ceil(wait_s / LOCK_POLL_S)):
        if poll:
            sleep(LOCK_POLL_S)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            continue
    os.close(descriptor)
    raise LedgerLocked(
        f"another owner kept it for {wait_s} s", where=str(path), fix="Close the other owner, or wait longer for it."
    )
