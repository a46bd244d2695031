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

import ast
import copy
import dis
import functools
import inspect
import itertools
import textwrap
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from engine import atomics
from engine.atomics import Words

STEPS_MAX = 20_000  # of one run, all threads together
STATES_MAX = 20_000_000  # some 4 GB
TURNS_MAX = 200_000  # of loops between two accesses
LATE_STATES = 1_000  # so many more than twice as many states, and a search that has learned something starts anew
CHANGES_SHOWN_MAX = 40

LOAD, STORE, SWAP, ADD, OR, AND, EXCHANGE, KILLED, DONE = range(9)
KINDS = {
    id(atomics.load_acquire): LOAD,
    id(atomics.store_release): STORE,
    id(atomics.compare_and_swap): SWAP,
    id(atomics.fetch_add): ADD,
    id(atomics.fetch_or): OR,
    id(atomics.fetch_and): AND,
    id(atomics.exchange): EXCHANGE,
}
MAY_OVERFLOW = (ast.Add, ast.Sub, ast.Mult, ast.Pow, ast.USub)
SHIFTS = (ast.LShift, ast.RShift)

Thread = Callable[..., Any]
Steps = list[ast.stmt]
Running = Generator[tuple[Any, ...], Any, Any]
Buffer = tuple[tuple[int, int], ...]
State = tuple[Any, ...]  # memory, then a node and a buffer of each thread


class Forbidden(AssertionError):
    """An interleaving that must not be: `check` or a thread raised, or it has no end. The text tells its steps."""


class Unsupported(Exception):
    """A function does what cannot be rewritten; where, and what."""


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


def killed(words: Words, thread: int) -> bool:
    """In a thread: whether that thread has been killed and its stores have reached memory."""
    raise AssertionError("to be called in a thread of a scenario")


# What rewritten code calls


def wrapped(value: Any) -> Any:
    """An int as int64 has it; anything else as it is."""
    if isinstance(value, int | np.integer):
        return ((int(value) + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)
    return value


def left(value: int, places: int) -> int:
    assert 0 <= places < 64, f"a shift by {places} is undefined"
    return wrapped(int(value) << int(places))


def right(value: int, places: int) -> int:
    assert 0 <= places < 64, f"a shift by {places} is undefined"
    return int(value) >> int(places)


def plain(value: Any) -> Any:
    """An element of a private array, as an int."""
    return int(value) if isinstance(value, np.integer) else value


def indexed(values: Any) -> Any:
    """What a loop goes through, by its place."""
    return values if isinstance(values, range | tuple) else tuple(values)


def trailing(word: int) -> int:
    word &= (1 << 64) - 1
    return (word & -word).bit_length() - 1 if word else 64


def leading(word: int) -> int:
    return 64 - (word & (1 << 64) - 1).bit_length()


class Turns:
    """Counts the turns of loops since the last access."""

    def __init__(self) -> None:
        self.num = 0

    def count(self) -> None:
        self.num += 1
        assert self.num <= TURNS_MAX, "an endless loop without any access of shared memory"


# Rewriting


class Site(NamedTuple):
    """Where an access is in the source."""

    operation: str
    function: str
    file: str
    line: int
    source: str


def name(identifier: str) -> ast.Name:
    return ast.Name(identifier, ast.Load())


def called(function: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(name(function), list(arguments), [])


def assigned(target: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Name(target, ast.Store())], value)


def is_simple(node: ast.expr) -> bool:
    """Whether it is the same before and after whatever else the expression does."""
    return isinstance(node, ast.Name | ast.Constant)


class Rewriter:
    """One function, so that each access is a statement of its own: `t = yield (kind, site, index, ...)`.

    Nothing else is under way when it yields, so the place of the instruction and the local variables tell all.
    """

    def __init__(self, compiler: "Compiler", function: FunctionType, source: list[str], first: int) -> None:
        self.compiler = compiler
        self.shared = compiler.shared
        self.function = function
        self.source = source
        self.first = first
        code = function.__code__
        self.locals = {*code.co_varnames, *code.co_cellvars}
        self.outer = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        self.callees: dict[str, FunctionType] = {}
        self.numbers = itertools.count()

    def unsupported(self, node: ast.AST, why: str) -> NoReturn:
        line = getattr(node, "lineno", self.first)
        raise Unsupported(f"{self.function.__code__.co_filename}:{line}: {self.function.__name__}: {why}")

    def is_shared(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in self.shared

    def resolve(self, node: ast.expr) -> Any:
        """What a dotted name stands for outside of the function; None if it is not from there."""
        if isinstance(node, ast.Name):
            return None if node.id in self.locals else self.outer.get(node.id)
        if isinstance(node, ast.Attribute):
            return getattr(self.resolve(node.value), node.attr, None)
        return None

    def kept(self, value: ast.expr, steps: Steps) -> ast.Name:
        """A name for a value as it is now."""
        temporary = f"__t{next(self.numbers)}"
        steps.append(assigned(temporary, value))
        return name(temporary)

    def operands(self, nodes: Sequence[ast.expr]) -> tuple[Steps, list[ast.expr]]:
        """Expressions from left to right; those before the last that takes steps are evaluated before it."""
        pairs = [self.expression(node) for node in nodes]
        last = max((place for place, (steps, _) in enumerate(pairs) if steps), default=-1)
        steps, values = [], []
        for place, (before, value) in enumerate(pairs):
            steps += before
            values.append(self.kept(value, steps) if place < last and not is_simple(value) else value)
        return steps, values

    def access(self, node: ast.AST, kind: int, label: str, nodes: Sequence[ast.expr]) -> tuple[Steps, ast.expr]:
        """A step of the scheduler; `nodes` are the index and what else it takes."""
        steps, values = self.operands(nodes)
        line = getattr(node, "lineno", self.first)
        text = self.source[line - self.first].strip()
        site = Site(label, self.function.__qualname__, self.function.__code__.co_filename, line, text)
        self.compiler.sites.append(site)
        values += [ast.Constant(0)] * (3 - len(values))
        number = ast.Constant(len(self.compiler.sites) - 1)
        request = ast.Tuple([ast.Constant(kind), number, *values], ast.Load())
        return steps, self.kept(ast.Yield(request), steps)

    def expression(self, node: ast.expr) -> tuple[Steps, ast.expr]:
        """The steps it takes first, and an expression without any."""
        match node:
            case ast.Call():
                return self.call(node)
            case ast.Subscript(value=base, slice=index) if self.is_shared(base):
                if isinstance(index, ast.Slice | ast.Tuple):
                    self.unsupported(node, "a slice of shared memory")
                return self.access(node, LOAD, "load", [index])
            case ast.Subscript(value=base, slice=index) if not isinstance(index, ast.Slice):
                steps, (base, index) = self.operands([base, index])
                return steps, called("__plain", ast.Subscript(base, index, ast.Load()))
            case ast.BinOp(left=first, op=operator, right=second):
                steps, (first, second) = self.operands([first, second])
                return steps, self.arithmetic(operator, first, second)
            case ast.UnaryOp(op=operator, operand=operand):
                steps, value = self.expression(operand)
                value = ast.UnaryOp(operator, value)
                return steps, called("__wrapped", value) if isinstance(operator, MAY_OVERFLOW) else value
            case ast.BoolOp():
                return self.short_circuit(node)
            case ast.Compare():
                return self.comparison(node)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                steps, test = self.expression(test)
                result = self.kept(ast.Constant(None), steps)
                branches = [self.branch(result, each) for each in (body, orelse)]
                return [*steps, ast.If(test, *branches)], result
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                steps, values = self.operands(elements)
                return steps, type(node)(values, ast.Load())
        if any(self.is_shared(each) for each in ast.walk(node)):
            self.unsupported(node, "shared memory is neither indexed nor handed on by its name")
        return [], node

    def branch(self, result: ast.Name, node: ast.expr) -> Steps:
        steps, value = self.expression(node)
        return [*steps, assigned(result.id, value)]

    def arithmetic(self, operator: ast.operator, first: ast.expr, second: ast.expr) -> ast.expr:
        if isinstance(operator, SHIFTS):
            return called("__left" if isinstance(operator, ast.LShift) else "__right", first, second)
        value = ast.BinOp(first, operator, second)
        return called("__wrapped", value) if isinstance(operator, MAY_OVERFLOW) else value

    def short_circuit(self, node: ast.BoolOp) -> tuple[Steps, ast.expr]:
        pairs = [self.expression(value) for value in node.values]
        if not any(steps for steps, _ in pairs[1:]):
            return pairs[0][0], ast.BoolOp(node.op, [value for _, value in pairs])
        steps = list(pairs[0][0])
        result = self.kept(pairs[0][1], steps)
        test = result if isinstance(node.op, ast.And) else ast.UnaryOp(ast.Not(), result)
        inner: Steps = []
        for before, value in reversed(pairs[1:]):
            rest = [ast.If(test, inner, [])] if inner else []
            inner = [*before, assigned(result.id, value), *rest]
        return [*steps, ast.If(test, inner, [])], result

    def comparison(self, node: ast.Compare) -> tuple[Steps, ast.expr]:
        if len(node.ops) == 1:
            steps, values = self.operands([node.left, *node.comparators])
            return steps, ast.Compare(values[0], node.ops, values[1:])
        steps, (first, second) = self.operands([node.left, node.comparators[0]])
        second = self.kept(second, steps)
        result = self.kept(ast.Compare(first, node.ops[:1], [second]), steps)
        rest = ast.Compare(second, node.ops[1:], node.comparators[1:])
        return [*steps, ast.If(result, self.branch(result, rest), [])], result

    def call(self, node: ast.Call) -> tuple[Steps, ast.expr]:
        target = self.resolve(node.func)
        kind = KILLED if target is killed else KINDS.get(id(target))
        if kind is not None:
            if node.keywords or not self.is_shared(node.args[0]):
                self.unsupported(node, "an atomic operation takes shared memory by its name, and no keywords")
            return self.access(node, kind, ast.unparse(node.func).rpartition(".")[2], node.args[1:])
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        hands_on = any(self.is_shared(value) for value in given)
        function = getattr(target, "py_func", target)
        if not isinstance(function, FunctionType) or (function is target and not hands_on):
            if hands_on:
                self.unsupported(node, f"{ast.unparse(node.func)} is not known, and takes shared memory")
            function = None
        elif hands_on:
            self.check_names(node, function)
        steps, values = self.operands([PLACEHOLDER if self.is_shared(value) else value for value in given])
        values = [old if self.is_shared(old) else new for old, new in zip(given, values, strict=True)]
        num = len(node.args)
        keywords = [ast.keyword(keyword.arg, value) for keyword, value in zip(node.keywords, values[num:], strict=True)]
        call = ast.Call(name(self.alias(function)) if function else self.callable(target, node), values[:num], keywords)
        if hands_on:
            return steps, self.kept(ast.YieldFrom(call), steps)
        return steps, call

    def callable(self, target: Any, node: ast.Call) -> ast.expr:
        """What is called directly."""
        if target is atomics.count_trailing_zeros or target is atomics.count_leading_zeros:
            return name("__trailing" if target is atomics.count_trailing_zeros else "__leading")
        if any(self.is_shared(each) for each in ast.walk(node.func)):
            self.unsupported(node, "a method of shared memory")
        if isinstance(getattr(target, "__self__", None), list | dict | set | np.ndarray):
            self.unsupported(node, "a method of what is not the thread's own")
        return node.func

    def check_names(self, node: ast.Call, function: FunctionType) -> None:
        """Shared memory stays under its names from function to function."""
        parameters = list(inspect.signature(function).parameters)
        pairs = [*zip(parameters, node.args, strict=False), *((each.arg, each.value) for each in node.keywords)]
        for parameter, value in pairs:
            if self.is_shared(value) and parameter not in self.shared:
                self.unsupported(node, f"shared memory is called {parameter} in {function.__name__}")

    def alias(self, function: FunctionType) -> str:
        alias = f"__f{next(self.numbers)}_{function.__name__}"
        self.callees[alias] = function
        return alias

    def block(self, nodes: Sequence[ast.stmt]) -> Steps:
        steps: Steps = []
        for node in nodes:
            steps += [ast.copy_location(step, node) for step in self.statement(node)]
        return steps or [ast.Pass()]

    def statement(self, node: ast.stmt) -> Steps:
        match node:
            case ast.Pass() | ast.Break() | ast.Continue():
                return [node]
            case ast.Expr(value=value):
                steps, value = self.expression(value)
                return steps if is_simple(value) else [*steps, ast.Expr(value)]
            case ast.Return(value=value):
                steps, value = self.expression(value or ast.Constant(None))
                return [*steps, ast.Return(value)]
            case ast.Assign(targets=targets, value=value) | ast.AnnAssign(target=targets, value=ast.expr() as value):
                targets = targets if isinstance(targets, list) else [targets]
                steps, value = self.expression(value)
                if not is_simple(value) and (len(targets) > 1 or isinstance(targets[0], ast.Subscript)):
                    value = self.kept(value, steps)
                return steps + [step for target in targets for step in self.assignment(target, value)]
            case ast.AnnAssign():
                return []
            case ast.AugAssign():
                return self.augmented(node)
            case ast.If(test=test, body=body, orelse=orelse):
                steps, test = self.expression(test)
                return [*steps, ast.If(test, self.block(body), self.block(orelse) if orelse else [])]
            case ast.While(test=test, body=body, orelse=[]):
                steps, test = self.expression(test)
                leave = ast.If(ast.UnaryOp(ast.Not(), test), [ast.Break()], [])
                count = ast.Expr(called("__count"))
                return [ast.While(ast.Constant(True), [count, *steps, leave, *self.block(body)], [])]
            case ast.For(target=target, iter=values, body=body, orelse=[]):
                return self.loop(target, values, body)
            case ast.Assert(test=test, msg=message):
                steps, test = self.expression(test)
                return [*steps, ast.Assert(test, message)]
        return self.unsupported(node, f"{type(node).__name__} cannot be rewritten")

    def assignment(self, target: ast.expr, value: ast.expr) -> Steps:
        if isinstance(target, ast.Subscript) and self.is_shared(target.value):
            return self.access(target, STORE, "store", [target.slice, value])[0]
        if isinstance(target, ast.Subscript):
            if isinstance(target.value, ast.Name) and target.value.id not in self.locals:
                self.unsupported(target, f"{target.value.id} is neither shared memory nor the thread's own")
            steps, (base, index) = self.operands([target.value, target.slice])
            return [*steps, ast.Assign([ast.Subscript(base, index, ast.Store())], value)]
        if not all(isinstance(each, ast.Name) for each in getattr(target, "elts", [target])):
            self.unsupported(target, "several targets, and one of them is not a name")
        return [ast.Assign([target], value)]

    def augmented(self, node: ast.AugAssign) -> Steps:
        if isinstance(node.target, ast.Name):
            steps, value = self.expression(ast.BinOp(name(node.target.id), node.op, node.value))
            return [*steps, assigned(node.target.id, value)]
        if not isinstance(node.target, ast.Subscript) or not isinstance(node.target.value, ast.Name):
            self.unsupported(node, "what is added to is neither a name nor an element of one")
        base, steps = node.target.value, []
        before, index = self.expression(node.target.slice)
        steps += before
        index = self.kept(index, steps)
        place = ast.copy_location(ast.Subscript(base, index, ast.Load()), node)
        before, value = self.expression(ast.copy_location(ast.BinOp(place, node.op, node.value), node))
        steps += before
        return steps + self.assignment(place, self.kept(value, steps))

    def loop(self, target: ast.expr, values: ast.expr, body: Sequence[ast.stmt]) -> Steps:
        """By a place in a local variable, as an iterator would hide it."""
        steps, sequence = self.expression(values)
        sequence = self.kept(called("__indexed", sequence), steps)
        place = self.kept(ast.Constant(0), steps)
        element = ast.Assign([target], ast.Subscript(sequence, place, ast.Load()))
        following = assigned(place.id, ast.BinOp(place, ast.Add(), ast.Constant(1)))
        test = ast.Compare(place, [ast.Lt()], [called("len", sequence)])
        count = ast.Expr(called("__count"))
        return [*steps, ast.While(test, [count, element, following, *self.block(body)], [])]


PLACEHOLDER = ast.Constant(None)


class Compiler:
    """The functions as generators (with shared memory) or as functions with int64 arithmetic (without)."""

    def __init__(self, shared: frozenset[str]) -> None:
        self.shared = shared
        self.sites: list[Site] = []
        self.functions: dict[FunctionType, Callable[..., Any]] = {}
        self.turns = Turns()

    def rewritten(self, function: FunctionType) -> Callable[..., Any]:
        if function in self.functions:
            return self.functions[function]
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
        if not isinstance(tree, ast.FunctionDef):
            raise Unsupported(f"{function.__code__.co_filename}:{first}: {function.__name__} is not a plain function")
        ast.increment_lineno(tree, first - 1)
        rewriter = Rewriter(self, function, lines, first)
        body = rewriter.block(tree.body)
        arguments = tree.args
        arguments.defaults, arguments.kw_defaults = [], [None for _ in arguments.kwonlyargs]
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in every:
            argument.annotation = None
        if any(argument.arg in self.shared for argument in every):
            body.append(ast.If(ast.Constant(False), [ast.Expr(ast.Yield())], []))
        new = ast.copy_location(ast.FunctionDef(tree.name, arguments, body, []), tree)
        module = ast.fix_missing_locations(ast.Module([new], []))
        namespace = {**rewriter.outer, **self.helpers()}
        exec(compile(module, function.__code__.co_filename, "exec"), namespace)
        compiled = self.functions[function] = namespace[tree.name]
        compiled.__defaults__, compiled.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
        for alias, callee in rewriter.callees.items():
            namespace[alias] = self.rewritten(callee)
        return compiled

    def helpers(self) -> dict[str, Callable[..., Any]]:
        functions = (wrapped, left, right, plain, indexed, trailing, leading, self.turns.count)
        return {f"__{function.__name__}": function for function in functions}


# Where a thread is


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
