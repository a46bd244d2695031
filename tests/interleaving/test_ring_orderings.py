"""The ring in every interleaving of a few threads, with store buffers and kills.

Forbidden: a value lost, taken twice or never put in; a producer's values in another order; a ring that no longer works
after whatever happened; an end without an answer. The code searched is the source that numba compiles.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from exhaustive import Thread, explore

from engine import ring
from engine.atomics import Words

SIZE_LOG2 = 1
FIRST, SECOND = (11, 12), (21, 22)


def puts(words: Words, first: int, second: int) -> int:
    """Two values, one after the other; how many found room."""
    num = 0
    if ring.push(words, 0, first):
        num += 1
        if ring.push(words, 0, second):
            num += 1
    return num


def puts_many(words: Words, values: Words) -> int:
    return ring.push_many(words, 0, values, 2)


def takes(words: Words, num: int) -> list[int]:
    taken: list[int] = []
    for _ in range(num):
        taken += [ring.pop(words, 0)]
    return taken


def takes_many(words: Words, out: Words) -> list[int]:
    num = ring.pop_many(words, 0, out, 2)
    return [out[place] for place in range(num)]


def ring_after(num_passed: int, num_inside: int = 0) -> Words:
    """A ring through which so many values have passed, and which has so many zeros inside."""
    words = np.zeros(ring.num_words(SIZE_LOG2), np.int64)
    ring.initialise(words, 0, SIZE_LOG2)
    for _ in range(num_passed):
        assert ring.push(words, 0, 9) and ring.pop(words, 0) == 9
    for _ in range(num_inside):
        assert ring.push(words, 0, 0)
    return words


def accounted(words: Words, results: list[Any], producers: dict[int, tuple[int, ...]], num_inside: int) -> None:
    """Whatever the threads did, values come out once and in order, and the ring goes on, one by one or many at once."""
    goes_on_many(words.copy())
    left = []
    while (value := int(ring.pop(words, 0))) != ring.EMPTY:
        left.append(value)
    taken = [[value for value in result if value != ring.EMPTY] for result in results if isinstance(result, tuple)]
    everything = [value for part in taken for value in part] + left
    if None not in results:
        expected = [0] * num_inside
        for thread, values in producers.items():
            expected += values[: results[thread]]
        assert sorted(everything) == sorted(expected), f"went in {sorted(expected)}, came out {sorted(everything)}"
    values = [value for value in everything if value]
    assert len(set(values)) == len(values), "a value was taken twice"
    for part in (*taken, left):
        for first, second in producers.values():
            assert not (first in part and second in part) or part.index(first) < part.index(second), "reordered"
    for value in (5, 6):
        assert ring.push(words, 0, value), "the ring has lost room"
    assert not ring.push(words, 0, 7), "the ring has more room than it has"
    assert (ring.pop(words, 0), ring.pop(words, 0), ring.pop(words, 0)) == (5, 6, ring.EMPTY)


def goes_on_many(words: Words) -> None:
    """Emptied, filled and emptied many at once, wherever tail and head were left."""
    out = np.zeros(4, np.int64)
    ring.pop_many(words, 0, out, 4)
    assert ring.push_many(words, 0, np.array([5, 6, 7]), 3) == 2, "the ring has lost room"
    assert ring.pop_many(words, 0, out, 4) == 2 and out[:2].tolist() == [5, 6]
    assert ring.pop_many(words, 0, out, 4) == 0


ONE_BY_ONE: list[Thread] = [partial(puts, first=11, second=12), partial(puts, first=21, second=22)]
MANY: list[Thread] = [partial(puts_many, values=np.array(values)) for values in (FIRST, SECOND)]
OUT = np.zeros(2, np.int64)


@pytest.mark.parametrize("num_passed", [0, 1])
@pytest.mark.parametrize(
    ("threads", "producers", "num_inside"),
    [
        ([*ONE_BY_ONE, partial(takes, num=2)], {0: FIRST, 1: SECOND}, 0),
        ([*MANY, partial(takes_many, out=OUT)], {0: FIRST, 1: SECOND}, 0),
        ([MANY[0], partial(takes, num=2), partial(takes_many, out=OUT)], {0: FIRST}, 2),
        ([ONE_BY_ONE[0], MANY[1], partial(takes, num=1)], {0: FIRST, 1: SECOND}, 2),
    ],
    ids=["one-by-one", "many", "two-consumers", "full-at-first"],
)
def test_values_come_out_once_and_in_order(
    num_passed: int, threads: list[Thread], producers: dict[int, tuple[int, ...]], num_inside: int
) -> None:
    found = explore(
        lambda: ring_after(num_passed, num_inside),
        lambda words, results: accounted(words, results, producers, num_inside),
        threads,
    )
    assert len(found.outcomes) > 2, "the search has seen too little"


@pytest.mark.parametrize("kind", ["one-by-one", "many"])
def test_whoever_is_killed_the_ring_goes_on(kind: str) -> None:
    threads = (
        [ONE_BY_ONE[0], partial(takes, num=2)] if kind == "one-by-one" else [MANY[0], partial(takes_many, out=OUT)]
    )
    found = explore(
        lambda: ring_after(1, 1), lambda words, results: accounted(words, results, {0: FIRST}, 1), threads, kills=2
    )
    assert any(None in outcome for outcome in found.outcomes)
