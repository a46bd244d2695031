"""The source of lock-free code as a generator that yields at each access of shared memory (see `exhaustive`).

Every access becomes a statement of its own, every call that hands on shared memory a `yield from` of the rewritten
callee, and all else stays what it says, with int64 arithmetic. Nothing is imported or compiled but plain Python.
"""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from engine import atomics
from engine.atomics import Words

TURNS_MAX = 200_000  # of loops between two accesses
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
Steps = list[ast.stmt]


class Unsupported(Exception):
    """A function does what cannot be rewritten; where, and what."""


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
