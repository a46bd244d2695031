"""What moves messages between processes elsewhere, at the same work: two producers, two consumers, integers.

    multiprocessing.Queue   a pipe, a lock and a thread a producer
    queue.PriorityQueue     a heap under a lock, in one process: two threads put, two get
    faster-fifo             a shared-memory ring under one lock, in C++; many messages a call
    redis                   lists on loopback; many messages a call (LPUSH of many, LPOP with a count)

Each returns messages per second from the first put to the last get.
"""

import contextlib
import importlib
import multiprocessing
import multiprocessing.context
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BATCH = 64
NUM_EACH = 2
START_S_MAX = 10.0
FORK = multiprocessing.get_context("fork")


class PeerMissing(Exception):
    """It is not installed; the text says how to."""


def timed(produce: Callable[[int], None], consume: Callable[[int], None], num_messages: int, thread: Any) -> float:
    """Messages per second of two producers and two consumers, each `num_messages / 2`."""
    each = num_messages // NUM_EACH
    workers = [thread(target=produce, args=(each,)) for _ in range(NUM_EACH)]
    workers += [thread(target=consume, args=(each,)) for _ in range(NUM_EACH)]
    begun_s = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun_s
    failed = [worker for worker in workers if getattr(worker, "exitcode", 0) != 0]
    assert not failed, f"{len(failed)} workers failed"
    return NUM_EACH * each / seconds


def multiprocessing_queue(num_messages: int) -> float:
    messages = FORK.Queue()

    def produce(num: int) -> None:
        for number in range(num):
            messages.put(number)

    def consume(num: int) -> None:
        for _ in range(num):
            messages.get()

    return timed(produce, consume, num_messages, FORK.Process)


def priority_queue(num_messages: int) -> float:
    messages: queue.PriorityQueue[int] = queue.PriorityQueue()

    def produce(num: int) -> None:
        for number in range(num):
            messages.put(number)

    def consume(num: int) -> None:
        for _ in range(num):
            messages.get()

    return timed(produce, consume, num_messages, threading.Thread)


def faster_fifo(num_messages: int) -> float:
    messages = imported("faster_fifo").Queue(max_size_bytes=1 << 22)

    def produce(num: int) -> None:
        left = num
        while left:
            with contextlib.suppress(queue.Full):
                messages.put_many(list(range(min(BATCH, left))), block=True, timeout=1.0)
                left -= min(BATCH, left)

    def consume(num: int) -> None:
        left = num
        while left:
            with contextlib.suppress(queue.Empty):
                left -= len(messages.get_many(max_messages_to_get=min(BATCH, left), timeout=1.0))

    return timed(produce, consume, num_messages, FORK.Process)


def redis_lists(num_messages: int) -> float:
    redis = imported("redis")
    with redis_server() as port:

        def produce(num: int) -> None:
            client = redis.Redis(port=port)
            for first in range(0, num, BATCH):
                client.lpush("messages", *range(first, min(first + BATCH, num)))

        def consume(num: int) -> None:
            client = redis.Redis(port=port)
            left = num
            while left:
                left -= len(client.rpop("messages", min(BATCH, left)) or ())

        return timed(produce, consume, num_messages, FORK.Process)


PEERS: dict[str, tuple[Callable[[int], float], int]] = {
    "multiprocessing.Queue": (multiprocessing_queue, 200_000),
    "queue.PriorityQueue": (priority_queue, 400_000),
    "faster-fifo": (faster_fifo, 1_000_000),
    "redis": (redis_lists, 400_000),
}
"""How each is run, and with how many messages in a full run."""


def imported(name: str) -> Any:
    """A peer's module.

    Raises:
        PeerMissing: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PeerMissing(f"no module {name} (make bench-peers)") from error


@contextmanager
def redis_server() -> Iterator[int]:
    """A Redis server on loopback, without persistence; its port.

    Raises:
        PeerMissing: there is no redis-server.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise PeerMissing("no redis-server in PATH (Debian: redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + START_S_MAX
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            assert time.monotonic() < until_s, "redis-server does not come up"
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()
