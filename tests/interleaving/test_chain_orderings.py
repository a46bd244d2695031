"""Chains in every interleaving of a few threads, with store buffers and kills. Blocks have two cells here.

Forbidden: a ticket lost, taken twice or out of its producer's order; a block lost or in two places; a chain that no
longer works after whatever happened. The code searched is the source that numba compiles.

MINTAGE_ORDERINGS=all adds the searches that take minutes.
"""

import os
from functools import partial
from typing import Any

import numpy as np
import pytest
from exhaustive import Thread, explore

from engine import chain, slots
from engine.atomics import Words, compare_and_swap
from engine.slots import NONE

CHAIN, STORE, HINTS, BLOCKS = 0, 8, 16, 24
BLOCK_WORDS = chain.CELLS + 2
NUM_BLOCKS = 4
NO_ROOM = -2
ALL = os.environ.get("MINTAGE_ORDERINGS") == "all"


def chain_after(num_passed: int, num_blocks: int = NUM_BLOCKS) -> Words:
    """A chain through which so many tickets have passed."""
    words = np.zeros(BLOCKS + num_blocks * BLOCK_WORDS, np.int64)
    slots.initialise(words, STORE, BLOCKS, BLOCK_WORDS, num_blocks, HINTS)
    for _ in range(num_passed):
        assert chain.push(words, STORE, CHAIN, 9, 1, np.zeros(2, np.int64), 0)
        assert take(words, 1) == 9
    return words


def take(words: Words, owner: int) -> int:
    """The first ticket; NONE if there is none."""
    while True:
        at, cell, head = chain.front(words, STORE, CHAIN, owner)
        if at == NONE:
            return NONE
        if chain.drop(words, at, cell, head):
            return cell & chain.TICKET_MASK


def puts(words: Words, first: int, num: int, owner: int, hand: Words) -> int:
    """`num` tickets from `first` on; how many found room."""
    for number in range(num):
        if not chain.push(words, STORE, CHAIN, first + number, owner, hand, 0):
            return number
    return num


def takes(words: Words, num: int, owner: int) -> list[int]:
    taken: list[int] = []
    for _ in range(num):
        ticket = take(words, owner)
        if ticket != NONE:
            taken += [ticket]
    return taken


def producer(first: int, num: int, owner: int) -> Thread:
    return partial(puts, first=first, num=num, owner=owner, hand=np.zeros(2, np.int64))


def settle(words: Words, dead: int) -> None:
    """As recovery does."""
    for number in range(words[STORE + slots.AREA_NUM]):
        block = BLOCKS + number * BLOCK_WORDS
        word = words[block]
        if slots.owner_of(word) == dead and slots.state_of(word) != slots.FREE:
            chain.settle_block(words, STORE, block, word, 7)


def blocks_in_chain(words: Words, at: int = CHAIN) -> list[int]:
    """From the head on."""
    found, reference = [], int(words[at + chain.HEAD])
    while reference:
        block = int(slots.slot_of(reference))
        assert block not in found, "the chain is a circle"
        found.append(block)
        following = int(words[block + chain.NEXT])
        is_linked = int(chain.age_of(following, reference & slots.GENERATION_MASK)) == 0
        reference = following & chain.TICKET_MASK if is_linked else 0
    return found


def in_order(words: Words, results: list[Any], producers: dict[int, range]) -> None:
    """Tickets come out once and in order; blocks are in the chain or free; the chain goes on."""
    settle_all(words, results)
    in_chain = blocks_in_chain(words)
    in_use = [
        block for block in range(BLOCKS, len(words), BLOCK_WORDS) if words[block] & slots.STATE_MASK != slots.FREE
    ]
    assert sorted(in_chain) == in_use, f"blocks in the chain {in_chain}, in use {in_use}"
    assert all(words[block] & slots.STATE_MASK == slots.LINKED for block in in_use), "a block is held for ever"
    left = []
    while (ticket := take(words, 1)) != NONE:
        left.append(int(ticket))
    taken = [list(result) for result in results if isinstance(result, tuple)]
    everything = [ticket for part in taken for ticket in part] + left
    assert len(set(everything)) == len(everything), f"taken twice: {everything}"
    if None not in results:
        expected = [ticket for thread, tickets in producers.items() for ticket in tickets[: results[thread]]]
        assert sorted(everything) == sorted(expected), f"went in {expected}, came out {everything}"
    for part in (*taken, left):
        for tickets in producers.values():
            own = [ticket for ticket in part if ticket in tickets]
            assert own == sorted(own), f"reordered: {own}"
    hand = np.zeros(2, np.int64)
    for ticket in range(5):
        assert chain.push(words, STORE, CHAIN, 50 + ticket, 1, hand, 0), "the chain has lost blocks"
    assert [take(words, 1) for _ in range(6)] == [50, 51, 52, 53, 54, NONE]


def settle_all(words: Words, results: list[Any]) -> None:
    """Recover the threads that were killed; thread n is member n + 2."""
    for number, result in enumerate(results):
        if result is None:
            settle(words, number + 2)


@pytest.mark.parametrize("num_passed", [0, 1, 2, 3])
def test_two_producers_and_a_consumer_lose_nothing_and_keep_each_ones_order(num_passed: int) -> None:
    threads = [producer(11, 2, 2), producer(21, 1, 3), partial(takes, num=2, owner=4)]
    producers = {0: range(11, 13), 1: range(21, 22)}
    found = explore(lambda: chain_after(num_passed), partial(in_order, producers=producers), threads)
    assert len(found.outcomes) > 3, "the search has seen too little"


@pytest.mark.parametrize("num_passed", [1, 2])
def test_two_consumers_take_out_a_block_once(num_passed: int) -> None:
    def setup() -> Words:
        words = chain_after(num_passed)
        for ticket in (31, 32):
            assert chain.push(words, STORE, CHAIN, ticket, 1, np.zeros(2, np.int64), 0)
        return words

    def check(words: Words, results: list[Any]) -> None:
        in_order(words, [*results, 2], {0: range(11, 12), 3: range(31, 33)})

    threads = [producer(11, 1, 2), partial(takes, num=2, owner=3), partial(takes, num=2, owner=4)]
    found = explore(setup, check, threads)
    assert len(found.outcomes) > 3, "the search has seen too little"


@pytest.mark.parametrize("num_pushed", [1, 2])
def test_a_chain_that_is_never_empty_is_never_found_empty_though_blocks_are_used_again(num_pushed: int) -> None:
    def setup() -> Words:
        words = chain_after(0)
        for ticket in (31, 32, 33):
            assert chain.push(words, STORE, CHAIN, ticket, 1, np.zeros(2, np.int64), 0)
        return words

    def check(words: Words, results: list[Any]) -> None:
        assert [len(results[0]), len(results[1])] == [1, 2], f"found empty: {results}"
        in_order(words, [*results, 3], {2: range(11, 13), 3: range(31, 34)})

    threads = [partial(takes, num=1, owner=2), partial(takes, num=2, owner=3), producer(11, num_pushed, 4)]
    explore(setup, check, threads)


def turns_over(words: Words, rounds: int, hand: Words) -> list[int]:
    """Push three and take three, again and again: blocks go round in the chain. What was taken."""
    taken: list[int] = []
    for turn in range(rounds):
        for number in range(3):
            if not chain.push(words, STORE, CHAIN, 40 + 3 * turn + number, 5, hand, 0):
                taken += [NO_ROOM]
        for _ in range(3):
            taken += [take(words, 5)]
    return taken


@pytest.mark.parametrize("num_inside", [1, 2])
@pytest.mark.parametrize("late", ["producer", "taker"])
def test_who_comes_late_to_a_block_that_is_in_another_use_does_no_harm(late: str, num_inside: int) -> None:
    rounds = 2

    def setup() -> Words:
        words = chain_after(0, 8)
        for number in range(num_inside):
            assert chain.push(words, STORE, CHAIN, 31 + number, 1, np.zeros(2, np.int64), 0)
        return words

    def check(words: Words, results: list[Any]) -> None:
        left = []
        while (ticket := take(words, 1)) != NONE:
            left.append(int(ticket))
        taken = [*results[1], *(results[0] if late == "taker" else ()), *left]
        pushed = [*range(31, 31 + num_inside), *range(40, 40 + 3 * rounds), *([11] if late == "producer" else ())]
        assert sorted(taken) == sorted(pushed), f"went in {pushed}, came out {taken}"
        in_order(words, [], {})

    threads = [
        producer(11, 1, 2) if late == "producer" else partial(takes, num=1, owner=2),
        partial(turns_over, rounds=rounds, hand=np.zeros(2, np.int64)),
    ]
    if late == "taker":
        # It may take what the other would: then that finds less, which it notes as NONE.
        def check_taker(words: Words, results: list[Any]) -> None:
            check(words, [results[0], tuple(ticket for ticket in results[1] if ticket != NONE)])

        explore(setup, check_taker, threads)
    else:
        explore(setup, check, threads)


@pytest.mark.parametrize("num_passed", [0, 1, 2])
def test_whoever_is_killed_no_block_is_lost(num_passed: int) -> None:
    threads = [producer(11, 2, 2), partial(takes, num=2, owner=3)]
    check = partial(in_order, producers={0: range(11, 13)})
    found = explore(lambda: chain_after(num_passed), check, threads, kills=2)
    assert any(outcome.count(None) == 2 for outcome in found.outcomes)


@pytest.mark.parametrize("num_passed", [1, 2])
def test_two_producers_of_whom_one_is_killed_lose_no_block(num_passed: int) -> None:
    threads = [producer(11, 2, 2), producer(21, 2 if ALL else 1, 3)]
    producers = {0: range(11, 13), 1: range(21, 23)}
    explore(lambda: chain_after(num_passed), partial(in_order, producers=producers), threads, kills=1)


def recovers(words: Words, dead: int) -> None:
    settle(words, dead)


@pytest.mark.parametrize("num_passed", [1, 2, 3])
def test_recovery_beside_those_who_go_on_settles_each_block_once(num_passed: int) -> None:
    """A member died at every one of its steps; then it is recovered while others push and take."""
    ends: list[Words] = []

    def note(words: Words, results: list[Any]) -> None:
        if None in results:
            ends.append(words.copy())

    explore(lambda: chain_after(num_passed), note, [producer(11, 2, 2), partial(takes, num=2, owner=3)], kills=1)
    assert len(ends) > 10
    for end in ends:
        for dead in (2, 3):
            threads = [partial(recovers, dead=dead), producer(41, 1, 5), partial(takes, num=1, owner=6)]

            def check(words: Words, results: list[Any], dead: int = dead) -> None:
                settle(words, 5 - dead)
                taken = results[2]
                left = []
                while (ticket := take(words, 1)) != NONE:
                    left.append(int(ticket))
                everything = [*taken, *left]
                assert len(set(everything)) == len(everything), f"taken twice: {everything}"
                assert 41 in everything, "a ticket was lost"
                in_order(words, [], {})

            explore(end.copy, check, threads)


def confirms(words: Words, held: int) -> int:
    """The last steps of who made the first block of the chain."""
    compare_and_swap(words, BLOCKS, held, slots.with_state(held, slots.LINKED, 0))
    compare_and_swap(words, CHAIN + chain.TAIL, 0, slots.ticket_of(BLOCKS, held))
    return 0


def test_a_first_block_that_its_maker_is_slow_to_confirm_is_not_lost() -> None:
    def setup() -> Words:
        words = chain_after(0)
        block = chain.hold(words, STORE, CHAIN, 0, 2, np.zeros(2, np.int64), 0)
        assert block == BLOCKS
        words[CHAIN + chain.HEAD] = slots.ticket_of(block, int(words[block]))
        return words

    held = int(setup()[BLOCKS])
    threads = [partial(confirms, held=held), producer(21, 3, 3), partial(takes, num=3, owner=4)]
    explore(setup, partial(in_order, producers={0: range(0), 1: range(21, 24)}), threads)


OTHER = 2


def reuses(words: Words, hand: Words) -> list[int]:
    """Empty the chain, use its blocks in another, use both; what then is in each."""
    taken: list[int] = []
    for _ in range(4):
        take(words, 5)
    for number in range(3):
        if not chain.push(words, STORE, OTHER, 70 + number, 5, hand, 0):
            taken += [NO_ROOM]
    for number in range(2):
        if not chain.push(words, STORE, CHAIN, 80 + number, 5, hand, 0):
            taken += [NO_ROOM]
    return taken


@pytest.mark.parametrize("num_passed", [1, 2])
def test_blocks_used_again_before_a_killed_member_is_recovered_hold_up_nobody(
    num_passed: int,
) -> None:
    """Its blocks pass to another chain and back before it is recovered."""
    ends: list[Words] = []

    def note(words: Words, results: list[Any]) -> None:
        if None in results:
            ends.append(words.copy())

    explore(lambda: chain_after(num_passed, 5), note, [producer(11, 2, 2), partial(takes, num=3, owner=3)], kills=1)

    def check(words: Words, results: list[Any]) -> None:
        assert results[0] == (), "there was no room"
        for dead in (2, 3):
            settle(words, dead)
        in_chains = [*blocks_in_chain(words), *blocks_in_chain(words, OTHER)]
        states = {block: int(words[block]) & slots.STATE_MASK for block in range(BLOCKS, len(words), BLOCK_WORDS)}
        assert sorted(in_chains) == [block for block, state in states.items() if state != slots.FREE]
        assert {states[block] for block in in_chains} == {slots.LINKED}
        assert [take(words, 1) for _ in range(3)] == [80, 81, NONE]

    assert len(ends) > 10
    for end in ends:
        explore(end.copy, check, [partial(reuses, hand=np.zeros(2, np.int64))], tso=False)


def test_without_a_block_left_a_producer_is_told_and_nothing_is_lost() -> None:
    threads = [producer(11, 3, 2), producer(21, 2, 3)]
    producers = {0: range(11, 14), 1: range(21, 23)}

    def check(words: Words, results: list[Any]) -> None:
        left = []
        while (ticket := take(words, 1)) != NONE:
            left.append(int(ticket))
        assert sorted(left) == sorted(t for n, tickets in producers.items() for t in tickets[: results[n]])

    found = explore(lambda: chain_after(0, 2), check, threads)
    assert any(sum(outcome) < 5 for outcome in found.outcomes), "there was always room"
