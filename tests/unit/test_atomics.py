"""Atomics: the instructions that are meant, and what they do."""

import platform
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from engine import atomics
from engine.atomics import Words

X86 = platform.machine() in ("x86_64", "AMD64")


def compiled(call: Callable[..., Any], num_operands: int) -> Any:
    """A function of an array, an index and so many numbers that does nothing else."""
    names = ", ".join(f"o{number}" for number in range(num_operands))
    scope: dict[str, Any] = {"call": call}
    exec(f"def run(words, index, {names}):\n    return call(words, index, {names})", scope)
    return njit("(i8[::1], i8" + ", i8" * num_operands + ")")(scope["run"])


def assembly(function: Any) -> str:
    """Of the function itself, not of its wrappers."""
    (text,) = function.inspect_asm().values()
    return str(text).partition(".cfi_endproc")[0]


@pytest.mark.skipif(not X86, reason="the instructions are x86's")
@pytest.mark.parametrize(
    ("call", "num_operands", "instruction"),
    [
        (atomics.compare_and_swap, 2, r"lock\s+cmpxchgq"),
        (atomics.fetch_add, 1, r"lock\s+xaddq"),
        (atomics.exchange, 1, r"xchgq\s+%\w+, \("),
        (atomics.fetch_or, 1, r"lock\s+(cmpxchgq|orq)"),
        (atomics.fetch_and, 1, r"lock\s+(cmpxchgq|andq)"),
    ],
)
def test_a_read_modify_write_is_one_locked_instruction(
    call: Callable[..., Any], num_operands: int, instruction: str
) -> None:
    assert re.search(instruction, assembly(compiled(call, num_operands)))


@pytest.mark.skipif(not X86, reason="the instructions are x86's")
def test_loads_and_stores_are_plain_moves_without_a_fence() -> None:
    for function in (compiled(atomics.load_acquire, 0), compiled(atomics.store_release, 1)):
        text = assembly(function)
        assert not re.search(r"\block\b|xchg|mfence", text)
        assert re.search(r"movq\s", text)


def test_the_intermediate_code_says_the_orderings() -> None:
    for call, num_operands, wanted in (
        (atomics.load_acquire, 0, "load atomic i64"),
        (atomics.store_release, 1, "store atomic i64"),
        (atomics.compare_and_swap, 2, "cmpxchg"),
        (atomics.fetch_add, 1, "atomicrmw add"),
    ):
        (text,) = compiled(call, num_operands).inspect_llvm().values()
        line = next(line for line in text.splitlines() if wanted in line)
        ordering = {"load": "acquire", "stor": "release"}.get(wanted[:4], "seq_cst")
        assert ordering in line, line


@pytest.mark.parametrize(
    ("call", "operands", "before", "answer", "after"),
    [
        (atomics.load_acquire, (), 7, 7, 7),
        (atomics.store_release, (9,), 7, None, 9),
        (atomics.compare_and_swap, (7, 9), 7, True, 9),
        (atomics.compare_and_swap, (8, 9), 7, False, 7),
        (atomics.fetch_add, (-8,), 7, 7, -1),
        (atomics.fetch_or, (8,), 7, 7, 15),
        (atomics.fetch_and, (~2,), 7, 7, 5),
        (atomics.exchange, (-(1 << 63),), 7, 7, -(1 << 63)),
    ],
)
def test_each_changes_its_word_alone_and_answers_what_it_says(
    call: Callable[..., Any], operands: tuple[int, ...], before: int, answer: object, after: int
) -> None:
    words = np.array([1, before, 2])
    assert compiled(call, len(operands))(words, 1, *operands) == answer
    assert words.tolist() == [1, after, 2]


@pytest.mark.parametrize(("word", "trailing", "leading"), [(0, 64, 64), (1, 0, 63), (-1, 0, 0), (1 << 40, 40, 23)])
def test_bits_are_counted_from_both_ends(word: int, trailing: int, leading: int) -> None:
    run = njit(lambda word: (atomics.count_trailing_zeros(word), atomics.count_leading_zeros(word)))
    assert run(word) == (trailing, leading)


@njit(nogil=True)
def add_many(words: Words, num: int) -> None:
    for _ in range(num):
        atomics.fetch_add(words, 0, 1)


@njit(nogil=True)
def swap_many(words: Words, num: int) -> None:
    for _ in range(num):
        while True:
            seen = atomics.load_acquire(words, 0)
            if atomics.compare_and_swap(words, 0, seen, seen + 1):
                break


@pytest.mark.parametrize("work", [add_many, swap_many])
def test_threads_that_count_together_lose_nothing(work: Callable[[Words, int], None]) -> None:
    words = np.zeros(8, np.int64)
    threads = [threading.Thread(target=work, args=(words, 200_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words[0] == 800_000
