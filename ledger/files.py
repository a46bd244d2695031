"""Files that must hold: created once and never replaced, locked by one owner, with room that is really there.

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
from pathlib import Path

from ledger.errors import LedgerFull, LedgerLocked

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room on the device, in the quota, or under the process's file size limit."""

LOCK_POLL_S = 0.02


def create_once(path: Path, data: bytes, mode: int) -> bool:
    """Create a file with all of `data`, durably, unless the name is taken; False when it is.

    Raises:
        LedgerFull: no room for it; nothing was created.
        OSError: the directory cannot be written.
    Concurrency: of any number of processes exactly one gets True, and none ever sees half a file.
    """
    if path.exists():  # needs no room, so what exists can be opened on a full disk
        return False
    with full_is_named(path):
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
        sync_directory(path.parent)
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
def full_is_named(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal for want of room into `LedgerFull`; other refusals pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_ERRNOS:
            raise
        raise LedgerFull(os.strerror(error.errno), where=str(path), fix="Free some space and try again.") from error


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
