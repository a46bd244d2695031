"""Lock-free code as the search runs it does what its source says, and what cannot be rewritten is refused."""

import types
from functools import partial
from typing import Any

import numpy as np
import pytest
from exhaustive import Forbidden, Thread, Unsupported, explore
from numba import njit

from engine import atomics
from engine.atomics import (
    Words,
    count_leading_zeros,
    count_trailing_zeros,
    exchange,
    fetch_add,
    fetch_and,
    load_acquire,
    store_release,
)

NUM_WORDS = 16
DATA, FLAG, OTHER = 0, 1, 2


def zeros() -> Words:
    return np.zeros(NUM_WORDS, np.int64)


def anything(words: Words, results: list[Any]) -> None:
    """Every end is acceptable."""


def outcomes(*threads: Thread, tso: bool = True, kills: int = 0) -> set[tuple[Any, ...]]:
    return explore(zeros, anything, threads, tso=tso, kills=kills).outcomes


@njit
def push(words: Words, value: int) -> bool:
    store_release(words, DATA, value)
    return True


@njit
def pop(words: Words) -> int:
    return exchange(words, DATA, 0)


elsewhere = types.SimpleNamespace(push=push, pop=pop, atomics=atomics)
LIMIT = 3


@njit
def is_small(value: int, limit: int = LIMIT) -> bool:
    return value < limit


@njit
def noted(words: Words, value: int, *, at: int = OTHER) -> int:
    """Say that it was called, in the order of the calls."""
    words[at] = words[at] * 10 + value
    return value


def test_calls_are_followed_through_modules_and_defaults() -> None:
    def calls(words: Words) -> tuple[bool, int, bool, bool, int]:
        pushed = elsewhere.push(words, 6)
        taken = elsewhere.pop(words)
        elsewhere.atomics.fetch_or(words, NUM_WORDS - 1, 8)
        return pushed, taken, is_small(2), is_small(value=4, limit=5), words[NUM_WORDS - 1]

    assert outcomes(calls) == {((True, 6, True, True, 8),)}
    assert len(explore(zeros, anything, [calls, calls]).outcomes) > 1, "the accesses within are steps"


def test_short_circuits_and_chains_evaluate_no_more_than_they_need() -> None:
    def looks(words: Words) -> tuple[bool, ...]:
        first = noted(words, 0, at=3) and noted(words, 1)
        second = noted(words, 2) or noted(words, 3)
        third = noted(words, 4) > noted(words, 5) > noted(words, 6)
        fourth = noted(words, 7) if not first else noted(words, 8)
        return first, second, third, fourth

    ends: list[int] = []
    explore(zeros, lambda words, _: ends.append(words[OTHER]), [looks], tso=False)
    assert ends == [2457]


def test_operands_are_evaluated_from_left_to_right() -> None:
    def adds(words: Words) -> int:
        private = [1, 2]
        before = private[0] + noted(words, 1) * (noted(words, 2) - noted(words, 3))
        private[noted(words, 1)] += noted(words, 4)
        words[noted(words, 5)] = noted(words, 6)
        return before * 100 + private[1]

    ends: list[int] = []
    found = explore(zeros, lambda words, _: ends.append(words[OTHER]), [adds], tso=False)
    assert found.outcomes == {(6,)}
    assert ends == [1231465], "the value first, then where it goes"


def test_loops_end_and_go_on_as_written() -> None:
    def loops(words: Words) -> tuple[int, int]:
        num = last = 0
        for first, second in ((1, 2), (3, 4), (5, 6), (7, 8)):
            if fetch_add(words, DATA, 1) == 1:
                continue
            if first == 7:
                break
            num += first * second
        while words[DATA] < 6 and num > 0:
            last = words[DATA]
            words[DATA] += 1
        return num, last

    assert outcomes(loops) == {((32, 5),)}


def test_arithmetic_is_that_of_64_bits() -> None:
    def computes(words: Words) -> tuple[int, ...]:
        words[DATA] = 1 << 63
        lowest = words[DATA]
        fetch_and(words, FLAG, ~(1 << 63))
        return lowest, lowest - 1, -lowest, fetch_add(words, DATA, -1), words[DATA], count_trailing_zeros(lowest)

    def counts_bits(words: Words) -> tuple[int, ...]:
        return words[DATA], count_leading_zeros(1), count_leading_zeros(-1), count_trailing_zeros(0)

    low, high = -(1 << 63), (1 << 63) - 1
    assert outcomes(computes) == {((low, high, low, low, high, 63),)}
    assert outcomes(counts_bits) == {((0, 63, 0, 64),)}


def shifts_too_far(words: Words) -> int:
    return 1 << (load_acquire(words, DATA) + 64)


def test_a_shift_that_compiled_code_leaves_open_is_found() -> None:
    with pytest.raises(Forbidden, match="a shift by 64 is undefined"):
        explore(zeros, anything, [shifts_too_far])


def hands_on(words: Words) -> int:
    return len(words)


def slices(words: Words) -> int:
    return words[0:2]


def renamed(memory: Words) -> int:
    return memory[DATA]


def renames(words: Words) -> int:
    return renamed(words)


def catches(words: Words) -> int:
    try:
        return words[DATA]
    finally:
        words[FLAG] = 1


COMMON = [0]


def writes_what_is_common(words: Words) -> None:
    COMMON[0] = words[DATA]


@pytest.mark.parametrize("thread", [hands_on, slices, renames, catches, writes_what_is_common])
def test_what_cannot_be_rewritten_is_refused(thread: Thread) -> None:
    with pytest.raises(Unsupported, match=f"test_exhaustive_source.py:[0-9]+: {thread.__name__}: "):
        explore(zeros, anything, [thread])


def test_shared_memory_may_have_other_names() -> None:
    assert explore(zeros, anything, [renames], shared=["words", "memory"]).outcomes == {(0,)}


def test_private_arrays_are_each_runs_own() -> None:
    def collects(words: Words, out: Words) -> list[int]:
        out[out[0] + 1] = fetch_add(words, DATA, 1)
        out[0] += 1
        out[out[0] + 1] = fetch_add(words, DATA, 1)
        return [out[1], out[2]]

    thread = partial(collects, out=np.zeros(3, np.int64))
    found = outcomes(thread, thread)
    assert found == {((a, b), (c, d)) for a, b, c, d in ORDERS}


ORDERS = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1)]
