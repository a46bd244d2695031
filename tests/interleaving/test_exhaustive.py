"""The search of all interleavings finds what it should: each kind of mistake, and none in the code without it."""

import random
from functools import partial
from typing import Any

import exhaustive
import numpy as np
import pytest
from exhaustive import Explored, Forbidden, State, Thread, explore, killed
from exhaustive_machine import Machine
from numba import njit

from engine.atomics import (
    Words,
    compare_and_swap,
    exchange,
    fetch_add,
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


# Two that count


def counts(words: Words) -> None:
    words[DATA] += 1


def counts_at_once(words: Words) -> int:
    return fetch_add(words, DATA, 1)


def both_counted(words: Words, results: list[Any]) -> None:
    assert words[DATA] == 2, "an increment was lost"


@pytest.mark.parametrize("tso", [False, True])
def test_a_lost_update_is_found(tso: bool) -> None:
    with pytest.raises(Forbidden, match="an increment was lost"):
        explore(zeros, both_counted, [counts, counts], tso=tso)


def test_fetch_add_loses_nothing_and_both_orders_are_seen() -> None:
    found = explore(zeros, both_counted, [counts_at_once, counts_at_once])
    assert found.outcomes == {(0, 1), (1, 0)}
    assert found.runs == 2


# Store buffering: each announces itself, then looks at the other


def announces(words: Words, mine: int, other: int) -> int:
    store_release(words, mine, 1)
    return load_acquire(words, other)


def announces_by_exchange(words: Words, mine: int, other: int) -> int:
    exchange(words, mine, 1)
    return load_acquire(words, other)


def announces_plainly(words: Words, mine: int, other: int) -> int:
    words[mine] = 1
    return words[other]


def pair(announce: Thread) -> list[Thread]:
    return [partial(announce, mine=DATA, other=FLAG), partial(announce, mine=FLAG, other=DATA)]


@pytest.mark.parametrize("announce", [announces, announces_plainly])
def test_two_stores_may_both_be_overtaken_by_the_loads_behind_them(announce: Thread) -> None:
    assert outcomes(*pair(announce)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_without_store_buffers_one_of_two_sees_the_other() -> None:
    assert outcomes(*pair(announces), tso=False) == {(0, 1), (1, 0), (1, 1)}


def test_an_exchange_is_not_overtaken() -> None:
    assert outcomes(*pair(announces_by_exchange)) == {(0, 1), (1, 0), (1, 1)}


def sees_its_own(words: Words, mine: int, other: int) -> tuple[int, int]:
    store_release(words, mine, 7)
    return load_acquire(words, mine), load_acquire(words, other)


def test_a_thread_sees_its_own_store_before_others_do() -> None:
    found = outcomes(*pair(sees_its_own))
    assert ((7, 0), (7, 0)) in found
    assert all(first[0] == second[0] == 7 for first, second in found)


def stores_and_loads(words: Words, value: int) -> int:
    store_release(words, DATA, value)
    return load_acquire(words, DATA)


def test_a_load_of_its_own_store_may_wait_until_the_other_has_stored() -> None:
    threads = [partial(stores_and_loads, value=value) for value in (1, 2)]
    assert outcomes(*threads) == {(1, 2), (1, 1), (2, 2)}


def stores_twice(words: Words) -> None:
    store_release(words, DATA, 1)
    store_release(words, FLAG, 1)


def loads_backwards(words: Words) -> tuple[int, int]:
    flag = load_acquire(words, FLAG)
    return flag, load_acquire(words, DATA)


def test_a_message_is_there_when_its_flag_is_seen() -> None:
    assert outcomes(stores_twice, loads_backwards) == {(None, (0, 0)), (None, (0, 1)), (None, (1, 1))}


# Kills


def moves_one(words: Words) -> None:
    store_release(words, DATA, 1)
    store_release(words, OTHER, -1)


def sums_to_nothing(words: Words, results: list[Any]) -> None:
    assert words[DATA] + words[OTHER] == 0, "half of it was moved"


@pytest.mark.parametrize("tso", [False, True])
def test_a_kill_between_two_stores_is_found(tso: bool) -> None:
    with pytest.raises(Forbidden, match="half of it was moved") as failure:
        explore(zeros, sums_to_nothing, [moves_one], kills=1, tso=tso)
    assert "0 moves_one  killed" in str(failure.value)
    assert explore(zeros, sums_to_nothing, [moves_one], tso=tso).outcomes == {(None,)}


def test_the_stores_of_a_killed_thread_reach_memory_in_their_order() -> None:
    ends: set[tuple[int, int]] = set()
    explore(zeros, lambda words, _: ends.add((words[DATA], words[OTHER])), [moves_one], kills=1)
    assert ends == {(0, 0), (1, 0), (1, -1)}


def test_as_many_threads_are_killed_as_may_be() -> None:
    one = outcomes(counts_at_once, counts_at_once, kills=1)
    assert one == {(0, 1), (1, 0), (None, 0), (None, 1), (0, None), (1, None)}
    assert outcomes(counts_at_once, counts_at_once, kills=2) == one | {(None, None)}
    second = explore(zeros, anything, [counts_at_once, counts_at_once], kills=1, killable=[1])
    assert second.outcomes == {(0, 1), (1, 0), (0, None), (1, None)}


def looks_after(words: Words) -> tuple[bool, int, int]:
    gone = killed(words, 0)
    return gone, load_acquire(words, DATA), load_acquire(words, OTHER)


def test_who_sees_a_thread_killed_sees_all_its_stores() -> None:
    found = {results[1] for results in outcomes(moves_one, looks_after, kills=1)} - {None}
    settled = {(data, other) for gone, data, other in found if gone}
    assert settled == {(0, 0), (1, 0), (1, -1)}
    assert (False, 1, -1) in found, "it was looked for before it was killed"


def stores_one(words: Words) -> int:
    store_release(words, DATA, 1)
    return 9


def looks(words: Words) -> bool:
    return killed(words, 0)


@pytest.mark.parametrize("tso", [False, True])
def test_a_thread_may_be_killed_between_a_look_at_it_and_its_next_store(tso: bool) -> None:
    found: set[tuple[Any, ...]] = set()

    def note(words: Words, results: list[Any]) -> None:
        found.add((words[DATA], *results))

    explore(zeros, note, [stores_one, looks], kills=1, killable=[0], tso=tso)
    killed_first = {(0, None, True), (1, None, True)}
    assert found == killed_first | {(0, None, False), (1, None, False), (1, 9, False)}


# Loops


def waits(words: Words) -> None:
    while load_acquire(words, FLAG) == 0:
        pass


def retries(words: Words) -> int:
    while True:
        seen = load_acquire(words, DATA)
        if compare_and_swap(words, DATA, seen, seen + 1):
            return seen


def takes_turns(words: Words, mine: int) -> None:
    while not compare_and_swap(words, DATA, mine, 1 - mine):
        pass


def grows(words: Words) -> None:
    while fetch_add(words, DATA, 1) >= 0:
        pass


def turns_in_place(words: Words) -> int:
    num = 0
    while num >= 0:
        num = 1 - num
    return words[DATA]


def test_a_wait_for_another_thread_is_an_endless_loop() -> None:
    with pytest.raises(Forbidden, match="an endless loop: the last 1 steps"):
        explore(zeros, anything, [waits, stores_twice])


def test_two_that_wait_for_each_other_are_an_endless_loop() -> None:
    with pytest.raises(Forbidden, match="an endless loop"):
        explore(zeros, anything, [partial(takes_turns, mine=0), partial(takes_turns, mine=1)])


def test_a_loop_that_never_comes_to_the_same_state_is_too_long() -> None:
    with pytest.raises(Forbidden, match="more than 50 steps in a run"):
        explore(zeros, anything, [grows], steps_max=50)


def test_a_loop_that_touches_nothing_is_endless() -> None:
    with pytest.raises(Forbidden, match="an endless loop without any access"):
        explore(zeros, anything, [turns_in_place])


def test_a_scenario_with_too_many_states_is_given_up() -> None:
    with pytest.raises(Forbidden, match="more than 10 states"):
        explore(zeros, anything, [retries, retries, retries], states_max=10)


def test_a_retry_that_another_thread_forced_is_not_endless() -> None:
    found = explore(zeros, anything, [retries, retries, retries])
    assert {tuple(sorted(results)) for results in found.outcomes} == {(0, 1, 2)}
    assert len(found.outcomes) == 6


# What a failure tells


def test_a_failure_tells_each_step_with_thread_operation_and_line() -> None:
    with pytest.raises(Forbidden) as failure:
        explore(zeros, both_counted, [counts, counts])
    lines = str(failure.value).splitlines()
    assert lines[0] == "an increment was lost"
    steps = [line.split(maxsplit=3) for line in lines if line[:5].strip().isdigit()]
    assert [(thread, name) for _, thread, name, _ in steps] == [(thread, "counts") for thread in "0110"]
    line = counts.__code__.co_firstlineno + 1
    where = f"counts test_exhaustive.py:{line}: words[DATA] += 1"
    assert all(rest.endswith(where) for *_, rest in steps)
    assert [rest.removesuffix(where).strip() for *_, rest in steps] == [
        "load(0) -> 0",
        "load(0) -> 0",
        "store(0, 1)",
        "store(0, 1)",
    ]
    assert lines[-1] == "words that have changed: [0] 1"


def test_a_failure_tells_when_a_store_reaches_memory() -> None:
    def one_saw_the_other(words: Words, results: list[Any]) -> None:
        assert results != [0, 0], "neither saw the other"

    with pytest.raises(Forbidden, match="neither saw the other") as failure:
        explore(zeros, one_saw_the_other, pair(announces))
    text = str(failure.value)
    assert "store_release(0, 1), into its buffer" in text
    assert "memory: words[0] = 1" in text
    assert "load_acquire(0) -> 0" in text


def strays(words: Words) -> int:
    return load_acquire(words, load_acquire(words, DATA) - 1)


def asserts(words: Words) -> None:
    seen = load_acquire(words, DATA)
    assert seen == 0, "somebody was faster"


def test_an_index_outside_of_the_memory_is_found() -> None:
    with pytest.raises(Forbidden, match="index -1 is not within 0 to 15"):
        explore(zeros, anything, [strays])


def test_an_assertion_in_a_thread_fails_where_it_can() -> None:
    with pytest.raises(Forbidden, match=r"somebody was faster(.|\n)*fetch_add\(0, 1\) -> 0"):
        explore(zeros, anything, [asserts, counts_at_once])


# A ring of two cells for one producer and one consumer

HEAD, TAIL, CELLS, SIZE = 0, 1, 2, 2


@njit
def push(words: Words, value: int) -> bool:
    tail = words[TAIL]
    if tail - load_acquire(words, HEAD) == SIZE:
        return False
    words[CELLS + tail % SIZE] = value
    store_release(words, TAIL, tail + 1)
    return True


@njit
def push_too_early(words: Words, value: int) -> bool:
    tail = words[TAIL]
    if tail - load_acquire(words, HEAD) == SIZE:
        return False
    store_release(words, TAIL, tail + 1)
    words[CELLS + tail % SIZE] = value
    return True


@njit
def pop(words: Words) -> int:
    head = words[HEAD]
    if load_acquire(words, TAIL) == head:
        return 0
    value = words[CELLS + head % SIZE]
    store_release(words, HEAD, head + 1)
    return value


def produces(words: Words) -> int:
    num_pushed = 0
    for value in range(5, 8):
        num_pushed += push(words, value)
    return num_pushed


def produces_too_early(words: Words) -> int:
    num_pushed = 0
    for value in range(5, 8):
        num_pushed += push_too_early(words, value)
    return num_pushed


def consumes(words: Words) -> list[int]:
    taken = []
    for _ in range(3):
        value = pop(words)
        if value != 0:
            taken.append(value)
    return taken


def in_order(words: Words, results: list[Any]) -> None:
    num_pushed, taken = results
    if num_pushed is not None and taken is not None:
        rest = [words[CELLS + place % SIZE] for place in range(words[HEAD], words[TAIL])]
        pushed = [5, 6, 7] if num_pushed == 3 else [5, 6]
        assert [*taken, *rest] == pushed, f"taken {taken}, and {rest} is left"


def test_a_ring_keeps_its_order_through_all_interleavings_and_kills() -> None:
    found = explore(zeros, in_order, [produces, consumes], kills=2)
    whole = {results for results in found.outcomes if None not in results}
    assert {(2, ()), (2, (5,)), (2, (5, 6)), (3, (5,)), (3, (5, 6)), (3, (5, 6, 7))} <= whole
    assert {(None, None), (None, (5, 6)), (2, None)} <= found.outcomes


def test_a_ring_that_tells_of_a_cell_before_it_is_written_is_caught() -> None:
    with pytest.raises(Forbidden, match="is left") as failure:
        explore(zeros, in_order, [produces_too_early, consumes])
    assert "push_too_early" in str(failure.value)


# What is left out


def works_alone(words: Words, at: int) -> int:
    for _ in range(20):
        words[at] += 1
    return words[at] + fetch_add(words, DATA, 1)


def test_steps_that_no_other_thread_can_notice_multiply_nothing() -> None:
    found: Explored = explore(zeros, anything, [partial(works_alone, at=at) for at in (4, 5, 6)])
    assert {tuple(sorted(results)) for results in found.outcomes} == {(20, 21, 22)}
    assert found.states < 1000


class Unreduced(Machine):
    """Takes every step everywhere, kills included."""

    def moves(self, state: State) -> tuple[list[State], bool]:
        states = self.every_move(state)
        if states:
            threads = range(len(self.places))
            states += [self.kill(state, number) for number in threads if self.may_kill(state, number)]
        return states, False


def obeys(words: Words, program: tuple[tuple[int, int, int], ...]) -> int:
    """What a program says: operation, word, operand; a step may depend on what one before it got."""
    seen = 0
    for operation, at, value in program:
        if operation == 0:
            seen = load_acquire(words, at)
        elif operation == 1:
            store_release(words, at, value + seen)
        elif operation == 2:
            words[at] = value
        elif operation == 3:
            seen = fetch_add(words, at, value)
        elif operation == 4:
            seen = compare_and_swap(words, at, seen, value) + 2
        elif operation == 5:
            seen = exchange(words, seen & 1, value)
        elif killed(words, 0):
            seen = 5
    return seen


def ends(threads: list[Thread], kills: int) -> set[tuple[Any, ...]]:
    found: set[tuple[Any, ...]] = set()
    explore(zeros, lambda words, results: found.add((*words.tolist(), *results)), threads, kills=kills)
    return found


@pytest.mark.parametrize("seed", range(120))
def test_what_is_left_out_leads_to_no_other_end(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    kills, num_threads = chance.choice([0, 1, 2]), chance.choice([2, 2, 3])
    threads: list[Thread] = []
    for _ in range(num_threads):
        length = chance.randrange(1, 6 - num_threads + 1)
        program = tuple((chance.randrange(7), chance.randrange(3), chance.randrange(1, 4)) for _ in range(length))
        threads.append(partial(obeys, program=program))
    reduced = ends(threads, kills)
    monkeypatch.setattr(exhaustive, "Machine", Unreduced)
    assert ends(threads, kills) == reduced, f"seed {seed}"
