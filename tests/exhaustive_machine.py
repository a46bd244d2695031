"""Where each thread of a scenario is, and what a step does to a state (see `exhaustive`).

A place of a thread is its instruction, its live local variables and its private arrays, frame by frame; it is a `Node`,
made once, that knows its next access and what follows each value that it may read there. A state is memory, and a node
and a store buffer of each thread.
"""

import copy
import dis
import functools
import inspect
import itertools
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from types import CodeType
from typing import Any

import numpy as np
from exhaustive_source import (
    ADD,
    AND,
    DONE,
    EXCHANGE,
    KILLED,
    LOAD,
    OR,
    STORE,
    SWAP,
    Compiler,
    Unsupported,
    plain,
    wrapped,
)

from engine.atomics import Words

Thread = Callable[..., Any]
Running = Generator[tuple[Any, ...], Any, Any]
Buffer = tuple[tuple[int, int], ...]
State = tuple[Any, ...]  # memory, then a node and a buffer of each thread


def liveness(code: CodeType) -> dict[int, tuple[str, ...]]:
    """The local variables that may still be read, after each instruction."""
    instructions = list(dis.get_instructions(code))
    ends = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}
    jumps = {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}
    before: dict[int, frozenset[str]] = {instruction.offset: frozenset() for instruction in instructions}
    after = dict(before)
    changed = True
    while changed:
        changed = False
        for place in reversed(range(len(instructions))):
            instruction = instructions[place]
            live: frozenset[str] = frozenset()
            if instruction.opname not in ends | jumps and place + 1 < len(instructions):
                live |= before[instructions[place + 1].offset]
            if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
                live |= before[instruction.argval]
            after[instruction.offset] = live
            if instruction.opname == "STORE_FAST":
                live -= {instruction.argval}
            elif "FAST" in instruction.opname:
                live |= set(instruction.argval) if isinstance(instruction.argval, tuple) else {instruction.argval}
            if live != before[instruction.offset]:
                before[instruction.offset], changed = live, True
    always = {*code.co_cellvars, *code.co_freevars}
    return {offset: tuple(sorted(names | always)) for offset, names in after.items()}


@functools.cache
def live_at(code: CodeType, offset: int) -> tuple[str, ...]:
    return all_live(code)[offset]


all_live = functools.cache(liveness)


def frozen(value: Any, numbers: dict[int, int] | None = None) -> Hashable:
    """A value that compares by what is in it; arrays that are one and the same stay so."""
    if isinstance(value, tuple):
        return tuple(frozen(each, numbers) for each in value)
    if isinstance(value, list | np.ndarray):
        if numbers is not None:
            if id(value) in numbers:
                return ("again", numbers[id(value)])
            numbers[id(value)] = len(numbers)
        return tuple(frozen(each, numbers) for each in (value if isinstance(value, list) else value.tolist()))
    if isinstance(value, float):
        return ("float", value) if numbers is not None else value
    if isinstance(value, np.generic):
        return value.item()
    return value


class Memory:
    """The words as they are at one moment; one object for equal words, so that it is compared by its identity."""

    __slots__ = ("after", "values")

    def __init__(self, values: tuple[int, ...]) -> None:
        self.values = values
        self.after: dict[tuple[int, int], Memory] = {}


class Node:
    """A place where a thread can be: its next access, what follows each value it may get, and what it may touch.

    `touches` and `writes` have a bit for each word that it touches or writes from here on, as far as is known.
    """

    __slots__ = (
        "after", "before", "bit", "first", "index", "is_start", "kind", "num_steps", "running", "second",
        "site", "slot", "thread", "touches", "value", "via", "writes",
    )  # fmt: skip

    def __init__(self, thread: int, kind: int, value: Any = None) -> None:
        self.thread, self.kind, self.value = thread, kind, value
        self.site = self.index = self.first = self.second = self.slot = self.bit = 0
        self.touches = self.writes = 0
        self.after: dict[Any, Node] = {}
        self.before: list[Node] = []
        self.via: tuple[Node, Any] | None = None
        self.running: Running | None = None
        self.is_start = False


class Machine:
    """The threads, and what a step does to a state."""

    def __init__(
        self,
        words: Words,
        compiler: Compiler,
        threads: Sequence[Thread],
        kills: int,
        killable: frozenset[int],
    ) -> None:
        self.words, self.compiler, self.kills, self.killable = words, compiler, kills, killable
        self.tso = False
        self.starts = [self.starter(thread) for thread in threads]
        self.names = [getattr(thread, "func", thread).__name__ for thread in threads]
        self.places = range(1, 2 * len(threads) + 1, 2)
        self.dead = [Node(number, DONE) for number in range(len(threads))]
        self.slots: dict[int, int] = {}
        self.start_values: list[int] = []
        self.kill_bits = [0] * len(threads)
        self.nodes: dict[Hashable, Node] = {}
        self.memories: dict[tuple[int, ...], Memory] = {}
        self.has_learned = False

    def starter(self, thread: Thread) -> Callable[[], Running]:
        bound = thread if isinstance(thread, functools.partial) else functools.partial(thread)
        source: Any = bound.func
        function = self.compiler.rewritten(getattr(source, "py_func", source))
        if not inspect.isgeneratorfunction(function):
            raise Unsupported(f"{function.__name__}: a thread is a function of {' or '.join(self.compiler.shared)}")
        return lambda: function(None, *copy.deepcopy(bound.args), **copy.deepcopy(bound.keywords))

    def slot_of(self, index: int) -> int:
        """A small number for a word that some thread touches; below 0: for the life of thread -1 - index."""
        slot = self.slots.get(index)
        if slot is None:
            slot = self.slots[index] = len(self.slots)
            self.start_values.append(int(self.words[index]) if index >= 0 else 0)
            if index < 0:
                self.kill_bits[-1 - index] = 1 << slot
        return slot

    def memory(self, values: list[int]) -> Memory:
        """Words by their slots; what is as it was at the start is left out at the end."""
        while values and values[-1] == self.start_values[len(values) - 1]:
            values.pop()
        key = tuple(values)
        return self.memories.setdefault(key, Memory(key))

    def written(self, memory: Memory, slot: int, value: int) -> Memory:
        after = memory.after.get((slot, value))
        if after is None:
            values = [*memory.values, *self.start_values[len(memory.values) :]]
            values[slot] = value
            after = memory.after[slot, value] = self.memory(values)
        return after

    def read(self, memory: Memory, slot: int) -> int:
        return memory.values[slot] if slot < len(memory.values) else self.start_values[slot]

    # Nodes

    def begin(self, number: int) -> Node:
        """Where a thread starts."""
        running = self.starts[number]()
        node = self.arrived(number, running, lambda: next(running))
        node.is_start = True
        return node

    def follow(self, node: Node, value: Any) -> Node:
        """Where a thread goes that gets a value for its access."""
        running, node.running = node.running or self.again(node), None
        after = self.arrived(node.thread, running, lambda: running.send(value))
        node.after[value] = after
        if after.via is None and not after.is_start:
            after.via = (node, value)
        after.before.append(node)
        self.learn(node, after)
        return after

    def again(self, node: Node) -> Running:
        """Run a thread anew to a place."""
        values = []
        while node.via is not None:
            node, value = node.via
            values.append(value)
        running = self.starts[node.thread]()
        next(running)
        for value in reversed(values):
            running.send(value)
        return running

    def arrived(self, number: int, running: Running, proceed: Callable[[], tuple[Any, ...]]) -> Node:
        self.compiler.turns.num = 0
        try:
            kind, site, index, first, second = request = proceed()
        except StopIteration as end:
            key: Hashable = (number, DONE, frozen(end.value))
            return self.nodes.setdefault(key, Node(number, DONE, frozen(end.value)))
        key = (number, *map(plain, request), *self.control(running))
        node = self.nodes.get(key)
        if node is None:
            node = self.nodes[key] = Node(number, kind)
            self.describe(node, site, int(index), wrapped(first), wrapped(second))
        if node.running is None:
            node.running = running
        return node

    def control(self, running: Any) -> Iterator[Hashable]:
        """Where each frame is, and its variables that matter."""
        numbers: dict[int, int] = {}
        while running is not None:
            frame = running.gi_frame
            values = frame.f_locals
            yield id(frame.f_code), frame.f_lasti
            for each in live_at(frame.f_code, frame.f_lasti):
                yield frozen(values.get(each, "unbound"), numbers)
            running = running.gi_yieldfrom

    def describe(self, node: Node, site: int, index: int, first: int, second: int) -> None:
        node.site, node.index, node.first, node.second = site, index, first, second
        limit = len(self.starts) if node.kind == KILLED else len(self.words)
        assert 0 <= index < limit, f"index {index} is not within 0 to {limit - 1}: {self.compiler.sites[site].source}"
        node.slot = self.slot_of(-1 - index if node.kind == KILLED else index)
        node.bit = node.touches = 1 << node.slot
        if node.kind not in (LOAD, KILLED):
            node.writes = node.bit

    def learn(self, node: Node, after: Node) -> None:
        """What can be touched from a place can be touched from those before it."""
        changed = [(node, after)]
        while changed:
            node, after = changed.pop()
            touches, writes = node.touches | after.touches, node.writes | after.writes
            if (touches, writes) != (node.touches, node.writes):
                node.touches, node.writes, self.has_learned = touches, writes, True
                changed += [(each, node) for each in node.before]

    # Steps

    def first_states(self) -> list[State]:
        state: list[Any] = [self.memory([])]
        for number in range(len(self.starts)):
            state += [self.begin(number), ()]
        states = [tuple(state)]
        for num in range(1, self.kills + 1):
            for chosen in itertools.combinations(sorted(self.killable), num):
                states.append(functools.reduce(self.kill, chosen, states[0]))
        return states

    def kill(self, state: State, number: int) -> State:
        return self.changed(state, 1 + 2 * number, state[0], self.dead[number], state[2 + 2 * number])

    def may_kill(self, state: State, number: int) -> bool:
        num_dead = sum(state[place] is dead for place, dead in zip(self.places, self.dead, strict=True))
        return num_dead < self.kills and number in self.killable and state[1 + 2 * number] is not self.dead[number]

    def changed(self, state: State, place: int, memory: Memory, node: Node, buffer: Buffer) -> State:
        new = list(state)
        new[0], new[place], new[place + 1] = memory, node, buffer
        return tuple(new)

    def flush(self, state: State, place: int) -> State:
        """The oldest store of a buffer reaches memory."""
        (slot, value), *rest = state[place + 1]
        return self.changed(state, place, self.written(state[0], slot, value), state[place], tuple(rest))

    def take(self, state: State, place: int) -> list[State]:
        """A thread's next access, and the same with a kill behind it where that matters; none if it has to wait."""
        memory, node, buffer = state[0], state[place], state[place + 1]
        kind, slot, value = node.kind, node.slot, None
        if kind == DONE or (buffer and SWAP <= kind <= EXCHANGE):
            return []
        if kind == LOAD:
            value = next((stored for at, stored in reversed(buffer) if at == slot), None) if buffer else None
            if value is None:
                value = self.read(memory, slot)
        elif kind == STORE and self.tso:
            buffer = (*buffer, (slot, node.first))
        elif kind == KILLED:
            value = state[1 + 2 * node.index] is self.dead[node.index] and not state[2 + 2 * node.index]
        else:
            old = self.read(memory, slot)
            value, new = MODIFY[kind](old, node.first, node.second)
            memory = self.written(memory, slot, new)
        after = node.after.get(value) or self.follow(node, value)
        states = [self.changed(state, place, memory, after, buffer)]
        if self.kills:
            changes = memory is not state[0] or buffer is not state[place + 1]
            victim = node.index if kind == KILLED else node.thread if changes else None
            if victim is not None and self.may_kill(states[0], victim):
                states.append(self.kill(states[0], victim))
        return states

    def every_move(self, state: State) -> list[State]:
        states = []
        for place in self.places:
            states += self.take(state, place)
            if state[place + 1]:
                states.append(self.flush(state, place))
        return states

    def moves(self, state: State) -> tuple[list[State], bool]:
        """The states to look at after a state, and whether steps of other threads were left out."""
        touched = twice = written = 0
        bits = self.kill_bits
        for number, place in enumerate(self.places):
            node = state[place]
            touches, writes = node.touches, node.writes
            for slot, _ in state[place + 1]:
                touches |= 1 << slot
                writes |= 1 << slot
            if self.kills and bits[number] and (node is not self.dead[number] or state[place + 1]):
                touches |= bits[number]
                writes |= bits[number]
            twice |= touched & touches
            touched |= touches
            written |= writes
        for number, place in enumerate(self.places):
            node, buffer = state[place], state[place + 1]
            watched = bits[number] & twice
            if buffer and not 1 << buffer[0][0] & twice:
                return [self.flush(state, place)], True
            if node.kind == DONE:
                continue
            if node.kind == LOAD:
                alone = not node.bit & twice & written or self.is_own(state, place)
            elif node.kind == STORE and self.tso:
                alone = not watched
            else:
                alone = not node.bit & twice and not watched
            if alone and (states := self.take(state, place)):
                return states, True
        return self.every_move(state), False

    def is_own(self, state: State, place: int) -> bool:
        """Whether a load is of what no other thread may write.

        A store that waits in the thread's own buffer is not enough: it may reach memory first, and be overwritten.
        """
        node = state[place]
        for other in self.places:
            buffered = any(slot == node.slot for slot, _ in state[other + 1])
            if other != place and (buffered or state[other].writes & node.bit):
                return False
        return True


def swapped(old: int, expected: int, desired: int) -> tuple[bool, int]:
    return (True, desired) if old == expected else (False, old)


MODIFY: dict[int, Callable[[int, int, int], tuple[Any, int]]] = {
    STORE: lambda old, value, _: (None, value),
    SWAP: swapped,
    ADD: lambda old, operand, _: (old, wrapped(old + operand)),
    OR: lambda old, operand, _: (old, old | operand),
    AND: lambda old, operand, _: (old, old & operand),
    EXCHANGE: lambda old, operand, _: (old, operand),
}
