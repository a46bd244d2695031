"""Atomic operations on words in shared memory: `words` is an int64 array, `index` a place in it.

Processes share one array of 64-bit words. A word that two of them touch is read and written only by the functions
here; plain indexing is for words that one process owns at that moment, and for words that such an operation published.

Orderings: a load-acquire sees all that was written before the store-release that it reads; the others are
read-modify-writes and full barriers (sequentially consistent). On x86-64 the first two are plain moves, and a plain
move may be overtaken by a later load; whoever must not be overtaken (announce, then look) uses a read-modify-write.

Indices are not checked: an index outside of the array damages memory.

Cost: a few ns where the line is in this core's cache, about 100 ns where another core has just written it.
Source: LLVM's atomic instructions (https://llvm.org/docs/Atomics.html) by way of llvmlite's builder.
"""

# mypy: disable-error-code="no-untyped-def"
# Intrinsics are called by numba with types and IR values, which have no types to write down.

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Words = NDArray[np.int64]
"""Memory that processes share, as 64-bit words."""

WORD_BYTES = 8


def _pointer(context, builder, signature, args):
    """The address of words[index]."""
    words = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(words.data, [args[1]])


def _word(context, builder, signature, args, place):
    return context.cast(builder, args[place], signature.args[place], types.int64)


@intrinsic
def load_acquire(typing_context, words, index):
    """words[index], and all that was written before it was stored."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(context, builder, signature, args), "acquire", WORD_BYTES)

    return types.int64(words, types.intp), codegen


@intrinsic
def store_release(typing_context, words, index, value):
    """words[index] = value, seen by no one before what was written earlier."""

    def codegen(context, builder, signature, args):
        value = _word(context, builder, signature, args, 2)
        builder.store_atomic(value, _pointer(context, builder, signature, args), "release", WORD_BYTES)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


@intrinsic
def compare_and_swap(typing_context, words, index, expected, desired):
    """If words[index] is `expected` it becomes `desired`: True. Else nothing changes: False."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        expected, desired = (_word(context, builder, signature, args, place) for place in (2, 3))
        pair = builder.cmpxchg(pointer, expected, desired, "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(words, types.intp, types.int64, types.int64), codegen


def _read_modify_write(operation):
    def typer(typing_context, words, index, operand):
        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature, args)
            return builder.atomic_rmw(operation, pointer, _word(context, builder, signature, args, 2), "seq_cst")

        return types.int64(words, types.intp, types.int64), codegen

    return typer


@intrinsic
def fetch_add(typing_context, words, index, operand):
    """words[index] += operand; what it was before."""
    return _read_modify_write("add")(typing_context, words, index, operand)


@intrinsic
def fetch_or(typing_context, words, index, operand):
    """words[index] |= operand; what it was before."""
    return _read_modify_write("or")(typing_context, words, index, operand)


@intrinsic
def fetch_and(typing_context, words, index, operand):
    """words[index] &= operand; what it was before."""
    return _read_modify_write("and")(typing_context, words, index, operand)


@intrinsic
def exchange(typing_context, words, index, operand):
    """words[index] = operand; what it was before."""
    return _read_modify_write("xchg")(typing_context, words, index, operand)


@intrinsic
def count_trailing_zeros(typing_context, word):
    """The number of the lowest bit that is set; 64 if none is."""

    def codegen(context, builder, signature, args):
        return builder.cttz(_word(context, builder, signature, args, 0), ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), codegen


@intrinsic
def count_leading_zeros(typing_context, word):
    """How many bits above the highest bit that is set are not; 64 if none is."""

    def codegen(context, builder, signature, args):
        return builder.ctlz(_word(context, builder, signature, args, 0), ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), codegen
