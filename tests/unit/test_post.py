"""Calls over the fabric: each gets its own answer, and who dies or is late costs nobody else theirs."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator

import pytest

from engine import segment
from engine.errors import InvalidRequest, Overloaded
from engine.fabric import Fabric
from engine.layout import SizeClass, Sizes
from engine.post import NoAnswer, Post

SIZES = Sizes(classes=(SizeClass(64, 16), SizeClass(1024, 4)), mailboxes=("gate", "ledger"), mailbox_log2=4)
NAMES = (f"post-{os.getpid()}-{number}" for number in itertools.count())
WAIT_S = 30.0


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Post, Post]]:
    name = next(NAMES)
    posts = Post(Fabric(name, SIZES)), Post(Fabric(name))
    tasks = [asyncio.create_task(post.run()) for post in posts]
    yield posts
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for post in posts:
        post.fabric.close()
    assert not segment.folder(name).exists()


async def doubled(data: bytes) -> bytes:
    return data * 2


async def test_many_calls_at_once_each_get_their_own_answer(pair: tuple[Post, Post]) -> None:
    here, there = pair

    async def slowly(data: bytes) -> bytes:
        await asyncio.sleep(0.001 * (data[0] % 3))
        return data * 2

    there.serve("gate", slowly)
    for _ in range(5):
        calls = [here.call("gate", bytes([number]), timeout_s=WAIT_S) for number in range(8)]
        assert await asyncio.gather(*calls) == [bytes([number]) * 2 for number in range(8)]


async def test_both_sides_may_serve_and_call(pair: tuple[Post, Post]) -> None:
    here, there = pair

    async def asks_back(data: bytes) -> bytes:
        return b"via " + await there.call("ledger", data, timeout_s=WAIT_S)

    here.serve("ledger", doubled)
    there.serve("gate", asks_back)
    assert await here.call("gate", b"ab", timeout_s=WAIT_S) == b"via abab"


async def test_a_call_that_nobody_answers_ends_and_is_not_begun_later(pair: tuple[Post, Post]) -> None:
    here, there = pair
    with pytest.raises(NoAnswer, match=r"no answer after 0\.05 s"):
        await here.call("gate", b"x", timeout_s=0.05)
    seen = []

    async def note(data: bytes) -> bytes:
        seen.append(data)
        return data

    there.serve("gate", note)
    assert await here.call("gate", b"y", timeout_s=WAIT_S) == b"y"
    assert seen == [b"y"] and not here.waiting


async def test_an_answer_that_comes_too_late_is_dropped_and_its_slot_is_free_again(pair: tuple[Post, Post]) -> None:
    here, there = pair
    go = asyncio.Event()

    async def late(data: bytes) -> bytes:
        await go.wait()
        return data

    there.serve("gate", late)
    for _ in range(3):
        with pytest.raises(NoAnswer):
            await here.call("gate", b"x", timeout_s=0.05)
    go.set()
    for _ in range(40):  # more than there are slots
        assert await here.call("gate", b"y" * 10, timeout_s=WAIT_S) == b"y" * 10


async def test_no_more_calls_are_under_way_than_allowed(pair: tuple[Post, Post]) -> None:
    here, there = pair
    now, most = 0, 0

    async def counting(data: bytes) -> bytes:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1
        return data

    there.serve("gate", counting, num_calls_max=2)
    await asyncio.gather(*(here.call("gate", b"x", timeout_s=WAIT_S) for _ in range(7)))
    assert most == 2


async def test_what_cannot_be_sent_is_told_at_once(pair: tuple[Post, Post]) -> None:
    here, _ = pair
    with pytest.raises(InvalidRequest, match="no mailbox"):
        await here.call("nobody", b"x", timeout_s=WAIT_S)
    with pytest.raises(InvalidRequest, match="at most 1024"):
        await here.call("gate", b"x" * 1025, timeout_s=WAIT_S)
    calls = [asyncio.create_task(here.call("gate", b"x", timeout_s=0.2)) for _ in range(30)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in done} == {Overloaded, NoAnswer}
    assert not here.waiting


async def test_a_handler_that_fails_fails_its_own_call_alone(
    pair: tuple[Post, Post], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair

    async def fails(data: bytes) -> bytes:
        if data == b"bad":
            raise ZeroDivisionError
        return data

    there.serve("gate", fails)
    assert await here.call("gate", b"good", timeout_s=WAIT_S) == b"good"
    bad = asyncio.create_task(here.call("gate", b"bad", timeout_s=1.0))
    assert await here.call("gate", b"good", timeout_s=WAIT_S) == b"good"
    with pytest.raises(NoAnswer):
        await bad
    assert "a call failed for a defect" in caplog.text


CHILD = """
import asyncio, os, sys
from engine.fabric import Fabric
from engine.post import Post

async def dies(data):
    os._exit(1)

async def main():
    post = Post(Fabric(sys.argv[1], only_existing=True))
    post.serve("gate", dies)
    await post.run()

asyncio.run(main())
"""


async def test_a_call_whose_answerer_dies_is_answered_by_another(pair: tuple[Post, Post]) -> None:
    here, there = pair
    name = here.fabric.segment.path.name.removeprefix(f"mintage-{os.getuid()}-")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, name)
    call = asyncio.create_task(here.call("gate", b"x", timeout_s=WAIT_S))
    assert await process.wait() == 1
    there.serve("gate", doubled)
    there.fabric.wake_all()
    assert await call == b"xx"
