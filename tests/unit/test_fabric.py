"""The fabric from Python: messages get where they should, mistakes get an answer, and nothing is left behind."""

import asyncio
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import mailbox, members, router, segment
from engine.errors import InvalidRequest, MintageError, Overloaded, StartFailed, Unavailable
from engine.fabric import Fabric, Message
from engine.layout import HEADER_WORDS, MAGIC, SizeClass, Sizes

SECOND_NS = 10**9
SIZES = Sizes(
    classes=(SizeClass(64, 8), SizeClass(1024, 2)), mailboxes=("gate",), mailbox_log2=3, pools={"text": SECOND_NS}
)
NAMES = (f"test-{os.getpid()}-{number}" for number in itertools.count())


@pytest.fixture
def name() -> Iterator[str]:
    name = next(NAMES)
    yield name
    assert not segment.folder(name).exists(), "a segment was left behind"


@pytest.fixture
def pair(name: str) -> Iterator[tuple[Fabric, Fabric]]:
    first, second = Fabric(name, SIZES), Fabric(name)
    yield first, second
    second.close()
    first.close()


def taken(message: Message | None, fabric: Fabric) -> bytes:
    """What a message says; it is finished."""
    assert message is not None
    data = bytes(message.view)
    assert fabric.finish(message)
    return data


def submit(fabric: Fabric, data: bytes, *, slack_s: float = 10.0, value: int = 1000, level: int = 0) -> int:
    start_ns = fabric.now_ns() + int(slack_s * SECOND_NS)
    pool = fabric.pool_of("text")
    return fabric.submit(pool, data, start_ns=start_ns, cost_ns=SECOND_NS, value=value, level=level)


# Sending and taking


def test_messages_arrive_in_order_whole_and_with_the_address_to_answer(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    box = here.mailbox_of("gate")
    for number, data in enumerate((b"", b"a" * 64, b"b" * 1000)):
        here.send(box, data, reply=here.address, call=number)
    for number, data in enumerate((b"", b"a" * 64, b"b" * 1000)):
        message = there.take(box)
        assert message is not None
        assert (bytes(message.view), message.call, message.num_deaths) == (data, number, 0)
        there.send(there.mailbox_at(message.reply), b"answer", call=message.call)
        assert there.finish(message) and not there.finish(message)
    assert there.take(box) is None
    assert [taken(here.take(here.mailbox), here) for _ in range(3)] == [b"answer"] * 3


def test_a_pool_gives_out_the_most_valuable_first_and_of_equals_the_first(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    for data, value in ((b"low", 10), (b"high", 100_000), (b"first", 1000), (b"second", 1000)):
        submit(here, data, value=value)
    pool = there.pool_of("text")
    assert [taken(there.claim(pool), there) for _ in range(4)] == [b"high", b"first", b"second", b"low"]
    assert there.claim(pool) is None


def test_of_equal_worth_a_lower_level_goes_first(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    for level in (3, 1, 0, 2):
        submit(here, b"%d" % level, level=level)
    assert [taken(there.claim(there.pool_of("text")), there) for _ in range(4)] == [b"0", b"1", b"2", b"3"]


def test_what_cannot_be_on_time_is_not_claimed_but_found_by_who_refuses_it(
    pair: tuple[Fabric, Fabric],
) -> None:
    here, there = pair
    submit(here, b"late", slack_s=-5, value=100_000)
    submit(here, b"in time")
    pool = there.pool_of("text")
    assert taken(there.claim(pool), there) == b"in time"
    assert there.claim(pool) is None
    assert taken(there.take_late(pool), there) == b"late"


def test_a_message_given_back_is_claimed_by_another(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    submit(here, b"work")
    pool = here.pool_of("text")
    message = here.claim(pool)
    assert message is not None and here.holds(message) and here.give_back(pool, message)
    assert not here.finish(message) and not here.holds(message)
    assert taken(there.claim(pool), there) == b"work"


# Cancelling


def test_a_message_is_cancelled_while_it_waits_and_says_who_has_it_afterwards(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    pool = here.pool_of("text")
    first, second = submit(here, b"first"), submit(here, b"second")
    assert here.cancel(first) == mailbox.CANCELLED
    message = there.claim(pool)
    assert message is not None and bytes(message.view) == b"second"
    assert here.cancel(second) == there.number
    assert there.finish(message)
    assert here.cancel(second) == here.cancel(first) == mailbox.GONE
    assert there.claim(pool) is None


# Mistakes


def test_a_message_that_is_too_large_and_a_name_that_is_not_there_are_told(pair: tuple[Fabric, Fabric]) -> None:
    here, _ = pair
    with pytest.raises(InvalidRequest, match="at most 1024 fit"):
        here.send(here.mailbox, b"x" * 1025)
    with pytest.raises(InvalidRequest, match="no mailbox 'ledger'; there are gate"):
        here.mailbox_of("ledger")
    with pytest.raises(InvalidRequest, match="no pool 'image'; there are text"):
        here.pool_of("image")


def test_who_finds_no_room_is_told_and_nothing_is_lost(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    box = here.mailbox_of("gate")
    for _ in range(8):
        here.send(box, b"x")
    with pytest.raises(Overloaded, match="mailbox is full"):
        here.send(box, b"x")
    for _ in range(2):
        here.send(here.mailbox, b"y" * 65)
    with pytest.raises(Overloaded, match="no slot"):
        here.send(here.mailbox, b"y" * 65)
    assert [taken(there.take(box), there) for _ in range(8)] == [b"x"] * 8
    assert [taken(here.take(here.mailbox), here) for _ in range(2)] == [b"y" * 65] * 2
    assert here.take(here.mailbox) is None


def test_an_answer_to_a_member_that_is_gone_has_no_address(name: str) -> None:
    here, there = Fabric(name, SIZES), Fabric(name)
    address = there.address
    assert here.mailbox_at(address) == there.mailbox
    there.close()
    assert here.mailbox_at(address) == 0
    again = Fabric(name)
    assert again.number == there.number and here.mailbox_at(address) == 0 and here.mailbox_at(0) == 0
    again.close()
    here.close()


# Sleeping and waking


def test_a_thread_that_waits_is_woken(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    box, waited_s = there.mailbox_of("gate"), []

    def wait() -> None:
        begun_s = time.monotonic()
        there.wait([box], [there.pool_of("text")], timeout_s=30)
        waited_s.append(time.monotonic() - begun_s)

    for send in (lambda: here.send(box, b"x"), lambda: submit(here, b"x")):
        thread = threading.Thread(target=wait)
        thread.start()
        while not here.words[box] and thread.is_alive():
            time.sleep(0.001)
        send()
        thread.join()
    assert max(waited_s) < 20
    assert taken(there.take(box), there) == taken(there.claim(there.pool_of("text")), there) == b"x"
    assert not here.words[box], "an announcement was left"


async def test_an_event_loop_that_rests_is_woken_and_one_with_work_does_not_rest(pair: tuple[Fabric, Fabric]) -> None:
    here, there = pair
    box = there.mailbox_of("gate")
    resting = asyncio.create_task(there.rest([box], timeout_s=30))
    await asyncio.sleep(0.01)
    here.send(box, b"x")
    async with asyncio.timeout(20):
        await resting
        await there.rest([box], timeout_s=30)
    assert taken(there.take(box), there) == b"x"
    await there.rest([box], timeout_s=0.01)
    assert not here.words[box]


# Life and death


def test_a_segment_is_for_its_user_alone_and_goes_with_its_last_member(name: str) -> None:
    first, second = Fabric(name, SIZES), Fabric(name)
    path = first.segment.path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()}
    assert modes == {"segment": 0o600, f"bell-{first.number}": 0o600, f"bell-{second.number}": 0o600}
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_what_a_leaver_had_claimed_goes_to_the_others_and_counts_no_death(name: str) -> None:
    first, second = Fabric(name, SIZES), Fabric(name)
    box = first.mailbox_of("gate")
    first.send(box, b"letter")
    submit(first, b"work")
    assert second.take(box) is not None and second.claim(second.pool_of("text")) is not None
    second.close()
    for message in (first.take(box), first.claim(first.pool_of("text"))):
        assert message is not None and message.num_deaths == 0
        first.finish(message)
    first.close()


CHILD = """
import sys, time
from engine.fabric import Fabric
fabric = Fabric(sys.argv[1], only_existing=True)
box = fabric.mailbox_of("gate")
held = [fabric.take(box), fabric.claim(fabric.pool_of("text"))]
fabric.send(fabric.mailbox, b"to myself")
print("ready", fabric.number, flush=True)
time.sleep(600)
"""


def child(name: str) -> "subprocess.Popen[str]":
    """A process that has taken a letter and work, and then does nothing."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as told:
        assert told.readline().startswith("ready")
    return process


def test_what_a_killed_process_held_is_taken_by_others_once_and_what_a_stopped_one_holds_is_not(name: str) -> None:
    here = Fabric(name, SIZES)
    box, pool = here.mailbox_of("gate"), here.pool_of("text")
    here.send(box, b"letter")
    submit(here, b"work", slack_s=600)
    process = child(name)
    os.kill(process.pid, signal.SIGSTOP)
    assert here.tick() == [] and here.take(box) is None and here.claim(pool) is None
    process.kill()
    process.wait()
    assert here.tick() == [2]
    for message, data in ((here.take(box), b"letter"), (here.claim(pool), b"work")):
        assert message is not None and (bytes(message.view), message.num_deaths) == (data, 1)
        assert here.finish(message)
    assert here.take(box) is None and here.claim(pool) is None and here.tick() == []
    states = here.words[here.layout.records[0] :: 8][:8] & 7
    assert np.count_nonzero(states) <= 1, "the dead one's letter to himself keeps a slot"  # one is this member's spare
    here.close()


def test_a_segment_whose_members_are_all_dead_is_replaced(name: str) -> None:
    here = Fabric(name, SIZES)
    process = child(name) if here.send(here.mailbox_of("gate"), b"x") else None
    assert process is not None
    here.close()
    process.kill()
    process.wait()
    assert segment.folder(name).exists()
    with pytest.raises(Unavailable, match="no engine runs here"):
        Fabric(name, only_existing=True)
    again = Fabric(name, SIZES)
    assert again.number == 1 and again.take(again.mailbox_of("gate")) is None
    again.close()


def test_a_file_that_is_no_segment_is_replaced(name: str) -> None:
    for content in (b"", b"x" * 100, bytes(HEADER_WORDS * 8)):
        segment.folder(name).mkdir(mode=0o700, exist_ok=True)
        (segment.folder(name) / segment.FILE).write_bytes(content)
        fabric = Fabric(name, SIZES)
        assert fabric.words[MAGIC] != 0
        fabric.close()


def test_without_an_engine_a_client_is_told(name: str) -> None:
    with pytest.raises(Unavailable, match="no engine runs here"):
        Fabric(name, only_existing=True)


def test_when_all_numbers_are_taken_one_more_is_told(name: str) -> None:
    fabrics = [Fabric(name, SIZES) for _ in range(members.NUM_MEMBERS)]
    with pytest.raises(Unavailable, match="62 processes"):
        Fabric(name)
    for fabric in fabrics:
        fabric.close()


def test_no_room_in_shared_memory_is_told_and_not_by_a_crash(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StartFailed, match=r"no room for .* MiB of shared memory"):
        Fabric(name, SIZES)
    assert list(segment.folder(name).iterdir()) == []
    segment.folder(name).rmdir()


def test_a_folder_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(segment, "folder", lambda _: tmp_path / "file")
    with pytest.raises(MintageError, match="cannot make or open the folder"):
        Fabric("any", SIZES)


# The router's arithmetic


@pytest.mark.parametrize(
    ("value", "cost_s", "klass"), [(0, 1, 0), (16, 1, 0), (32, 1, 4), (32_000, 1000, 4), (10**9, 1, 103)]
)
def test_the_class_of_a_density_goes_up_four_an_octave(value: int, cost_s: float, klass: int) -> None:
    assert router.class_of(value, int(cost_s * SECOND_NS)) == klass


def test_the_class_of_a_density_has_ends() -> None:
    assert router.class_of(1, 10**15) == 0 and router.class_of(10**18, 1) == router.NUM_CLASSES - 1
    assert router.class_of(5, 0) > 0


def test_who_has_time_waits_and_the_more_so_the_more_it_is_above_the_price() -> None:
    weights = router.weights_of(8 * SECOND_NS, SECOND_NS)
    chance = weights[router.CHANCE : router.PATIENCE]
    patience = weights[router.PATIENCE : router.HASTE]
    haste = weights[router.HASTE :]
    near = slice(0, router.NUM_NEAR)
    assert np.all(np.diff(chance[near]) >= 0) and np.all(np.diff(patience[near]) >= 0) and np.all(np.diff(haste) <= 0)
    assert chance[0] < 0.05 and chance[-1] > 0.99 and patience[0] == 0 and patience[-1] == 1
    assert haste[router.NUM_CLASSES] == 0.5
