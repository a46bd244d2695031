"""The batcher: what arrives while a call is out leaves together, and nobody's fault is another's."""

import asyncio
import contextvars
from typing import Any

import pytest
import virtual_time
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import settle

from engine.batcher import Batcher
from engine.errors import Unavailable


class Sender:
    """A send that is answered when the test says so."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.answers: list[asyncio.Future[list[Any]]] = []

    async def __call__(self, batch: list[str]) -> list[Any]:
        self.batches.append(batch)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def answer(self, number: int = -1) -> None:
        """Every item of a call in capitals."""
        self.answers[number].set_result([item.upper() for item in self.batches[number]])


def call(batcher: Batcher[str, str], items: str) -> list["asyncio.Task[str]"]:
    """One caller for each letter."""
    return [asyncio.ensure_future(batcher(item)) for item in items]


async def test_an_idle_batcher_sends_at_once_and_a_busy_one_sends_what_arrived_meanwhile_together() -> None:
    send = Sender()
    batcher: Batcher[str, str] = Batcher(send, num_calls_max=1)
    first = call(batcher, "a")
    await settle()
    rest = call(batcher, "bcd")
    await settle()
    assert send.batches == [["a"]]
    send.answer()
    await settle()
    assert send.batches == [["a"], ["b", "c", "d"]]
    send.answer()
    assert await asyncio.gather(*first, *rest) == ["A", "B", "C", "D"]


async def test_a_batch_holds_no_more_than_its_limit_and_keeps_the_order() -> None:
    send = Sender()
    batcher: Batcher[str, str] = Batcher(send, batch_size_max=2, num_calls_max=2)
    call(batcher, "abcdefg")
    await settle()
    assert send.batches == [["a"], ["b"]]
    send.answer(0)
    await settle()
    assert send.batches == [["a"], ["b"], ["c", "d"]]


async def test_an_exception_of_one_item_reaches_only_its_caller() -> None:
    send = Sender()
    batcher: Batcher[str, str] = Batcher(send, num_calls_max=1)
    blocker = call(batcher, "x")
    await settle()
    callers = call(batcher, "abc")
    send.answer()
    await settle()
    send.answers[-1].set_result(["A", ValueError("b is no good"), "C"])
    results = await asyncio.gather(*blocker, *callers, return_exceptions=True)
    assert [results[0], results[1], results[3]] == ["X", "A", "C"]
    assert isinstance(results[2], ValueError)


async def test_a_send_that_fails_reaches_all_of_its_batch_and_the_next_batch_still_goes() -> None:
    send = Sender()
    batcher: Batcher[str, str] = Batcher(send, batch_size_max=2, num_calls_max=1)
    blocker = call(batcher, "x")
    await settle()
    callers = call(batcher, "abc")
    send.answer()
    await settle()
    send.answers[-1].set_exception(Unavailable("it died", where="gate", fix="Wait."))
    await settle()
    send.answer()
    results = await asyncio.gather(*blocker, *callers, return_exceptions=True)
    assert send.batches == [["x"], ["a", "b"], ["c"]]
    assert [type(result) for result in results] == [str, Unavailable, Unavailable, str]


async def test_an_answer_with_too_few_results_is_an_error_for_every_caller() -> None:
    async def forgetful(batch: list[str]) -> list[str]:
        return batch[1:]

    batcher: Batcher[str, str] = Batcher(forgetful)
    with pytest.raises(AssertionError, match="0 results for 1 items"):
        await batcher("a")


async def test_a_caller_who_left_before_the_call_is_not_sent() -> None:
    send = Sender()
    batcher: Batcher[str, str] = Batcher(send, num_calls_max=1)
    call(batcher, "x")
    await settle()
    gone, stays = call(batcher, "ab")
    await settle()
    gone.cancel()
    send.answer()
    await settle()
    assert send.batches == [["x"], ["b"]]
    send.answer()
    assert await stays == "B"


async def test_a_caller_who_leaves_during_the_call_does_not_disturb_the_others() -> None:
    send = Sender()
    batcher: Batcher[str, str] = Batcher(send, num_calls_max=1)
    call(batcher, "x")
    await settle()
    gone, stays = call(batcher, "ab")
    send.answer()
    await settle()
    gone.cancel()
    await settle()
    send.answer()
    assert await stays == "B"
    assert gone.cancelled()


async def test_when_all_who_waited_left_nothing_is_sent_and_the_batcher_works_on() -> None:
    send = Sender()
    batcher: Batcher[str, str] = Batcher(send, num_calls_max=1)
    call(batcher, "x")
    await settle()
    for caller in call(batcher, "abc"):
        await settle()
        caller.cancel()
    await settle()
    send.answer()
    await settle()
    assert send.batches == [["x"]]
    (late,) = call(batcher, "d")
    await settle()
    send.answer()
    assert await late == "D"


arrivals = st.lists(st.integers(0, 20), min_size=1, max_size=40)
durations = st.lists(st.integers(0, 30), min_size=1, max_size=10)


@given(arrivals, durations, st.integers(1, 5), st.integers(1, 3), st.sets(st.integers(0, 39)))
def test_whatever_the_timing_limits_hold_and_everybody_gets_his_own_result(
    gaps: list[int], lasting: list[int], size_max: int, calls_max: int, leaving: set[int]
) -> None:
    sent: list[int] = []
    out = 0

    async def send(batch: list[int]) -> list[str]:
        nonlocal out
        out += 1
        assert 1 <= len(batch) <= size_max
        assert out <= calls_max
        sent.extend(batch)
        await asyncio.sleep(lasting[len(sent) % len(lasting)])
        out -= 1
        return [f"result {item}" for item in batch]

    async def scenario() -> None:
        batcher: Batcher[int, str] = Batcher(send, batch_size_max=size_max, num_calls_max=calls_max)
        callers = []
        for number, gap in enumerate(gaps):
            await asyncio.sleep(gap)
            callers.append(asyncio.ensure_future(batcher(number)))
            if number in leaving:
                asyncio.get_running_loop().call_later(5, callers[-1].cancel)
        results = await asyncio.gather(*callers, return_exceptions=True)
        for number, result in enumerate(results):
            left = isinstance(result, asyncio.CancelledError) and number in leaving
            assert left or result == f"result {number}"
        await asyncio.sleep(max(lasting) + 1)  # a call whose callers all left
        assert not batcher.waiting
        assert not batcher.calls

    virtual_time.run(scenario())
    assert sent == sorted(set(sent)), "in the order of arrival, each once"


def test_a_call_that_is_cancelled_from_outside_leaves_nobody_waiting() -> None:
    async def send(batch: list[int]) -> list[int]:
        raise asyncio.CancelledError  # a server cancels what belongs to a request whose client has gone

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(send)
        results = await asyncio.gather(*(batcher(number) for number in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        assert len({id(result) for result in results}) == 3, "everybody gets an error of his own"

    virtual_time.run(scenario())


def test_a_call_does_not_carry_the_context_of_the_caller_who_began_it() -> None:
    seen = []
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="nobody's")

    async def send(batch: list[int]) -> list[int]:
        seen.append(request_id.get())
        return batch

    async def scenario() -> None:
        request_id.set("the first caller's")
        await Batcher(send)(1)

    virtual_time.run(scenario())
    assert seen == ["nobody's"]
