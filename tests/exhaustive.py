"""Every interleaving of a few small threads that run the very source of the lock-free code, with kills, on x86.

A thread is a plain function of `words` that calls the code under test and returns what it observed. Its source, and
that of every function it calls with `words`, is rewritten into a generator that yields at each access of shared memory
and otherwise does what it says; the search plays the part of the memory and of the scheduler:

    def producer(words: Words) -> bool:
        return ring.push(words, RING, 7)

    found = explore(setup, check, [producer, partial(consumer, num_max=2)], kills=1)

Memory is x86-TSO: a store waits in its thread's buffer until a step of its own brings it to memory, oldest first; a
load sees the thread's own buffer before memory; a read-modify-write waits for the empty buffer. A kill ends a thread
between two of its accesses; its buffer goes on draining.

A state is memory, the buffers, and of each thread where it is: instruction, live local variables and private arrays,
frame by frame. So loops and detours that lead to the same place meet again, and a thread is run only once for each
place and each value that it reads there, however many states that place is part of. What a lock-free thread cannot do
is return to a state: a cycle of states is reported as an endless loop, except where a store waits in a buffer all the
way round (the machine would have drained it). Whatever happens without buffers is looked at first, as that is told in
fewer steps, and there no waiting for another thread is excused.

Most orders are not worth a look: where a thread's next step touches nothing that another may still touch in a way that
matters (both read: no matter), it is the only one taken. What a thread may still touch is learned: the search starts
with what it has seen, and starts again with all that it found until nothing is found any more. A run that was left out
differs from one that was looked at only in the order of independent steps; the first that did not would have taught the
search something. A kill is tried where it makes a difference: at the start, after each store, and after each `killed`.

Not int64 as numba has it: results of + - * << are wrapped, and a shift by less than 0 or more than 63 fails; but
numba takes a module constant of 2^63 or more for unsigned, and mixes it with int64 into floats, and here it is an int.
What is not supported (try, with, nested functions, slices of `words`, `words` under another name) raises `Unsupported`.

Turned down: replaying whole runs (most states are met on many); histories of results for a thread's place (loops
never meet, and a wait never ends).
Source: Sewell et al., x86-TSO, CACM 2010; Godefroid, Partial-Order Methods, LNCS 1032, for what may be left out.
"""

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from exhaustive_machine import MODIFY, Machine, Node, State, Thread
from exhaustive_source import (
    DONE,
    KILLED,
    LOAD,
    STORE,
    SWAP,
    Compiler,
    Unsupported,
    killed,
)

from engine.atomics import Words

__all__ = ["Explored", "Forbidden", "State", "Thread", "Unsupported", "explore", "killed"]

STEPS_MAX = 20_000  # of one run, all threads together
STATES_MAX = 20_000_000  # some 4 GB
LATE_STATES = 1_000  # so many more than twice as many states, and a search that has learned something starts anew
CHANGES_SHOWN_MAX = 40


class Forbidden(AssertionError):
    """An interleaving that must not be: `check` or a thread raised, or it has no end. The text tells its steps."""


class Explored(NamedTuple):
    """What a search saw."""

    states: int
    runs: int
    """Different ends: memory and what the threads returned."""
    outcomes: set[tuple[Any, ...]]
    """What the threads returned, one place a thread; None for one that was killed, tuples for lists and arrays."""


def explore(
    setup: Callable[[], Words],
    check: Callable[[Words, list[Any]], object],
    threads: Sequence[Thread],
    *,
    kills: int = 0,
    killable: Collection[int] | None = None,
    tso: bool = True,
    shared: Collection[str] = ("words",),
    steps_max: int = STEPS_MAX,
    states_max: int = STATES_MAX,
) -> Explored:
    """Run the threads in every order that makes a difference, and check how each order ends.

    Args:
        setup: makes the memory, int64[any], as it is before the threads start.
        check: called once for each different end, with a copy of the memory and a list of what the threads returned
            (None for a killed one; tuples for lists and arrays); raises AssertionError if it must not be.
        threads: functions of `words`, or a `functools.partial` of such; what it binds is private to the thread.
        kills: how many threads may be killed in one run.
        killable: numbers of the threads that may be; all if left out.
        tso: with store buffers; else a store is seen at once.
        shared: parameter names of the memory.
    Raises:
        Forbidden: with the interleaving that led to it.
        Unsupported: a function cannot be rewritten.
    Cost: some 100,000 states a second, each looked at two to five times in all; 200 bytes a state.
    """
    may_die = frozenset(range(len(threads)) if killable is None else killable)
    machine = Machine(setup(), Compiler(frozenset(shared)), threads, kills, may_die)
    search = Search(machine, check, steps_max, states_max)
    for machine.tso in (False, True) if tso else (False,):
        while not search.run():
            pass
    return Explored(len(search.seen), search.num_runs, search.outcomes)


class Search:
    """All states, depth first."""

    def __init__(
        self, machine: Machine, check: Callable[[Words, list[Any]], object], steps_max: int, states_max: int
    ) -> None:
        self.machine, self.check, self.steps_max, self.states_max = machine, check, steps_max, states_max
        self.seen: dict[State, bool] = {}  # True while it is on the way
        self.way: list[tuple[State, list[State]]] = []
        self.outcomes: set[tuple[Any, ...]] = set()
        self.judged: set[State] = set()
        self.num_runs = 0

    def run(self) -> bool:
        """Look at all states. False: it learned something on the way, and is to be run again."""
        machine, seen, way = self.machine, self.seen, self.way
        seen.clear()
        self.outcomes.clear()
        self.num_runs = 0
        states_late = self.states_max
        starts = self.guarded(machine.first_states)
        machine.has_learned = False
        for start in starts:
            if start not in seen:
                self.visit(start)
            while way:
                state, left_over = way[-1]
                if not left_over:
                    seen[state] = False
                    way.pop()
                    continue
                following = left_over.pop()
                on_the_way = seen.get(following)
                if on_the_way is None:
                    self.visit(following)
                elif on_the_way:
                    self.judge_cycle(following)
                if machine.has_learned and len(seen) >= states_late:
                    way.clear()
                    return False
                if machine.has_learned and states_late == self.states_max:
                    states_late = 2 * len(seen) + LATE_STATES
        return not machine.has_learned

    def visit(self, state: State) -> None:
        """Look at a state for the first time."""
        seen = self.seen
        seen[state] = True
        self.way.append((state, []))
        if len(seen) > self.states_max:
            self.forbid(f"more than {self.states_max} states: take a smaller scenario")
        if len(self.way) > self.steps_max:
            self.forbid(f"more than {self.steps_max} steps in a run")
        try:
            states, left_out = self.machine.moves(state)
            if left_out and any(seen.get(following) for following in states):
                states = self.machine.every_move(state)  # on a cycle nothing is put off for ever
        except Unsupported:
            raise
        except Exception as error:
            self.forbid(f"{type(error).__name__}: {error}", error)
        self.way[-1] = (state, states)
        if not states:
            self.judge_end(state)

    def guarded(self, begin: Callable[[], list[State]]) -> list[State]:
        try:
            return begin()
        except Unsupported:
            raise
        except Exception as error:
            self.forbid(f"{type(error).__name__}: {error}", error)

    def judge_end(self, state: State) -> None:
        """All threads have ended, and all stores have reached memory."""
        results = tuple(state[place].value for place in self.machine.places)
        self.num_runs += 1
        self.outcomes.add(results)
        if state in self.judged:
            return
        self.judged.add(state)
        try:
            self.check(self.words_of(state), list(results))
        except Exception as error:
            self.forbid(f"{type(error).__name__}: {error}".removeprefix("AssertionError: "), error)

    def words_of(self, state: State) -> Words:
        words = np.array(self.machine.words, np.int64)
        for index, slot in self.machine.slots.items():
            if index >= 0:
                words[index] = self.machine.read(state[0], slot)
        return words

    def judge_cycle(self, start: State) -> None:
        """A state led to itself: for ever, unless a store waits all the time that the machine would have drained."""
        first = next(place for place, (state, _) in enumerate(self.way) if state is start or state == start)
        states = [state for state, _ in self.way[first:]]
        waits = any(
            start[place + 1] and all(state[place + 1] == start[place + 1] for state in states)
            for place in self.machine.places
        )
        if not waits:
            self.way.append((start, []))
            self.forbid(f"an endless loop: the last {len(states)} steps lead back to where they began")

    # Telling

    def forbid(self, why: str, error: Exception | None = None) -> NoReturn:
        states = [state for state, _ in self.way]
        steps = [line for before, after in itertools.pairwise(states) for line in self.told(before, after)]
        lines = [f"  {number:>3}  {line}" for number, line in enumerate(steps, 1)]
        if states:
            lines = self.told_start(states[0]) + lines + self.told_end(states[-1])
        raise Forbidden("\n".join([why, "", *lines])) from error

    def thread(self, place: int) -> str:
        names = self.machine.names
        return f"{place // 2} {names[place // 2]:<{max(map(len, names))}}"

    def told_start(self, state: State) -> list[str]:
        machine = self.machine
        return [
            f"       {self.thread(place)}: killed at the start"
            for place, dead in zip(machine.places, machine.dead, strict=True)
            if state[place] is dead
        ]

    def told(self, before: State, after: State) -> list[str]:
        """A line for a step, and one for a kill behind it."""
        machine = self.machine
        for place in machine.places:
            if before[place + 1] and machine.flush(before, place) == after:
                (slot, value), *_ = before[place + 1]
                return [f"{self.thread(place)}  memory: words[{self.index_of(slot)}] = {value}"]
            states = machine.take(before, place)
            if after in states:
                lines = [f"{self.thread(place)}  {self.told_access(before, place)}"]
                if states.index(after):
                    node = before[place]
                    victim = node.index if node.kind == KILLED else node.thread
                    lines.append(f"{self.thread(1 + 2 * victim)}  killed")
                return lines
        raise AssertionError("a state follows that no step leads to")

    def told_access(self, state: State, place: int) -> str:
        """What, on which word, with what result, and where."""
        machine, node = self.machine, state[place]
        site = machine.compiler.sites[node.site]
        after = machine.take(state, place)[0]
        value = next(value for value, each in node.after.items() if each is after[place])
        arguments = [node.index, node.first, node.second][: NUM_ARGUMENTS.get(node.kind, 2)]
        if node.kind == LOAD:
            value = self.loaded(state, place)
        elif node.kind in MODIFY and node.kind not in (STORE, SWAP):
            value = machine.read(state[0], node.slot)
        result = "" if node.kind == STORE else f" -> {value}"
        buffered = ", into its buffer" if node.kind == STORE and machine.tso else ""
        what = f"{site.operation}({', '.join(map(str, arguments))}){result}{buffered}"
        file = site.file.rpartition("/")[2]
        return f"{what:<44} {site.function} {file}:{site.line}: {site.source}"

    def loaded(self, state: State, place: int) -> int:
        node = state[place]
        own = [value for slot, value in state[place + 1] if slot == node.slot]
        return own[-1] if own else self.machine.read(state[0], node.slot)

    def index_of(self, slot: int) -> int:
        return list(self.machine.slots)[slot]

    def told_end(self, state: State) -> list[str]:
        """What the threads returned, and the words that have changed."""
        machine, words = self.machine, self.words_of(state)
        lines = [""]
        for place in machine.places:
            node = state[place]
            dead = node is machine.dead[place // 2]
            lines.append(f"{self.thread(place)}: {'killed' if dead else returned(node)}")
        changed = np.flatnonzero(words != machine.words).tolist()
        told = ", ".join(f"[{index}] {words[index]}" for index in changed[:CHANGES_SHOWN_MAX])
        return [*lines, f"words that have changed: {told or 'none'}"]


NUM_ARGUMENTS = {LOAD: 1, SWAP: 3, KILLED: 1}


def returned(node: Node) -> str:
    return f"returned {node.value!r}" if node.kind == DONE else "not at its end"
