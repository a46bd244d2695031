"""Segments: the shared memory of a fabric, as a file that every process of the machine's user maps.

A segment is a folder in the system's memory (/dev/shm), for its user alone (0700): `segment`, which is mapped (0600),
and a named pipe for each member who sleeps (`engine.bells`). It belongs to nobody: it exists as long as one member
lives, so no process is special, and any may die or be replaced. Who opens it first makes it; the last member to leave
removes it; one whose members are all dead is recognised by that and replaced.

Opening and leaving are serialised by a lock on the folder, which the system gives back when its holder dies.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine import members
from engine.atomics import WORD_BYTES, Words
from engine.errors import StartFailed, Unavailable
from engine.layout import MAGIC, MAGIC_WORD, MEMBERS, PAGE_WORDS, Layout, Sizes, read_sizes
from engine.members import member_at

SHARED_MEMORY = Path("/dev/shm")
FILE = "segment"
PRIVATE_DIR, PRIVATE_FILE = 0o700, 0o600


class Segment:
    """A mapped segment and this member's number in it.

    Args:
        path: its folder.
        file: the mapped memory.
        layout: where things lie in it.
    """

    def __init__(self, path: Path, memory: mmap.mmap, layout: Layout) -> None:
        self.path = path
        self.memory = memory
        self.layout = layout
        self.words: Words = np.frombuffer(memory, np.int64)
        self.bytes = memoryview(memory)


def folder(name: str) -> Path:
    """Where the segment of that name lies: in memory if the system has a place for that."""
    root = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return root / f"mintage-{os.getuid()}-{name}"


def started_at(pid: int) -> int:
    """When a process started, in the system's ticks since boot; 0 if there is none of that pid (or a dead one)."""
    if not sys.platform.startswith("linux"):
        return 1 if _exists(pid) else 0
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may contain anything
    return 0 if fields[0] in b"ZX" else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_alive(words: Words, member: int) -> bool:
    """Whether a member's process still runs, as far as its number is in use."""
    word = int(words[member])
    pid, started = members.pid_of.py_func(word), int(words[member + members.STARTED])
    running = started_at(pid)
    return running != 0 and (members.state_of.py_func(word) == members.JOINING or started == running)


def living(words: Words) -> list[int]:
    """The numbers of the members that are alive."""
    first = int(words[MEMBERS])
    in_use = (members.ALIVE, members.JOINING)
    places = [(number, member_at.py_func(first, number)) for number in range(1, members.NUM_MEMBERS + 1)]
    return [n for n, at in places if members.state_of.py_func(int(words[at])) in in_use and is_alive(words, at)]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else opens or leaves the segment meanwhile; its folder exists.

    Raises:
        StartFailed: the folder is another user's, or cannot be made.
    """
    while True:
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=PRIVATE_DIR)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # removed between the two
        except OSError as error:
            raise StartFailed(
                f"cannot make or open the folder of the shared memory: {error.strerror}",
                where=str(path),
                fix="Give the user write access to its parent, or remove what lies there.",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):
                if os.fstat(handle).st_uid != os.getuid():
                    raise StartFailed("the folder is another user's", where=str(path), fix="Have its owner remove it.")
                yield
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def join(name: str, sizes: Sizes, *, only_existing: bool = False) -> tuple[Segment, int]:
    """Open the segment of that name, or make it if no living process has it; and become a member of it.

    Args:
        only_existing: do not make one.
    Raises:
        StartFailed: no room in the shared memory, no right to it, or a living segment that is not ours to read.
        Unavailable: all member numbers are taken; or there is none, and none is to be made.
    """
    path = folder(name)
    if only_existing and not (path / FILE).exists():
        raise _nobody(path)
    with locked(path):
        segment = _opened(path)
        if segment is None:
            if only_existing:
                raise _nobody(path)
            segment = _made(path, sizes)
        pid = os.getpid()
        number = members.join(segment.words, segment.layout.members, pid, started_at(pid))
        if number < 0:
            raise Unavailable(
                f"{members.NUM_MEMBERS} processes use the shared memory already",
                where=str(path),
                fix="Stop some, or wait until dead ones have been recovered.",
            )
        return segment, number


def _nobody(path: Path) -> Unavailable:
    return Unavailable("no engine runs here under that name", where=str(path), fix="Start it (mintage run).")


def _opened(path: Path) -> Segment | None:
    """The segment that lies there, if a member of it is alive."""
    try:
        with (path / FILE).open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
    except (FileNotFoundError, ValueError):  # the latter: it is empty
        return None
    if len(memory) % (PAGE_WORDS * WORD_BYTES) == 0:
        words: Words = np.frombuffer(memory, np.int64)
        if words[MAGIC] == MAGIC_WORD and living(words):
            return Segment(path, memory, Layout(read_sizes(words)))
    return None


def _made(path: Path, sizes: Sizes) -> Segment:
    """A new, empty segment in the place of whatever lies there."""
    for entry in path.iterdir():
        entry.unlink()
    layout = Layout(sizes)
    num_bytes = layout.num_words * WORD_BYTES
    handle = os.open(path / FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        os.posix_fallocate(handle, 0, num_bytes)  # now or never: a page that is missing later kills who touches it
        memory = mmap.mmap(handle, num_bytes)
    except OSError as error:
        (path / FILE).unlink()
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise StartFailed(
            f"no room for {num_bytes >> 20} MiB of shared memory",
            where=str(path.parent),
            fix="Make it larger (docker run --shm-size), free some, or lower the sizes of the fabric.",
        ) from error
    finally:
        os.close(handle)
    segment = Segment(path, memory, layout)
    layout.initialise(segment.words)
    segment.words[MAGIC] = MAGIC_WORD
    return segment


def leave(segment: Segment, number: int) -> None:
    """Give the member's number back; it has nothing left. The last one to leave removes the segment."""
    with locked(segment.path):
        members.free(segment.words, segment.layout.members, number)
        if not living(segment.words):
            shutil.rmtree(segment.path, ignore_errors=True)
