"""SHA-256 in bulk: the same bits as hashlib for any number of rows of any width, by instructions and without."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from ledger import sha256
from ledger.entry import ENTRY_BYTES
from ledger.sha256 import HASH_BYTES, leaf_hashes, node_hashes

ROOT = Path(__file__).parents[2]
HashRows = Callable[[int, NDArray[np.uint8], NDArray[np.uint8]], None]
NUM_ROWS = (0, 1, 2, 3, 4, 5, 127, 128, 255, 256, 257)
BLOCK_EDGES = (0, 1, 31, 53, 54, 55, 62, 63, 64, 65, 117, 118, 119, 127, 128, 240, 246, 247, 1000)
"""Widths about which, with the prefix byte, one more block begins or the length just fits."""


def rows_of(num_rows: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(num_rows * 1000 + width).integers(0, 256, (num_rows, width), np.uint8)


def by_hashlib(prefix: int, rows: NDArray[np.uint8]) -> list[bytes]:
    return [hashlib.sha256(bytes([prefix]) + row.tobytes()).digest() for row in rows]


def digests(hash_rows: HashRows, prefix: int, rows: NDArray[np.uint8]) -> list[bytes]:
    out = np.full((len(rows), HASH_BYTES), 0xAA, np.uint8)
    hash_rows(prefix, rows, out)
    return [row.tobytes() for row in out]


def compiled_without_instructions() -> HashRows:
    """`_hash_rows` as it is compiled where the CPU has no SHA instructions."""

    @njit(nogil=True)
    def compress_two(states: Any, messages: Any, block: int) -> None:
        for message in range(2):
            compress_plainly(states[message], messages[message, 64 * block : 64 * block + 64])

    compress_plainly = sha256._compress_plainly
    names = vars(sha256) | {"_compress_two": compress_two}
    plain: HashRows = njit(nogil=True)(FunctionType(sha256._hash_rows.py_func.__code__, names))
    return plain


@pytest.fixture(scope="module", params=["as this CPU does it", "plainly"])
def hash_rows(request: pytest.FixtureRequest) -> HashRows:
    if request.param == "plainly":
        return compiled_without_instructions()
    native: HashRows = sha256._hash_rows
    return native


@pytest.mark.parametrize("width", BLOCK_EDGES)
def test_rows_of_any_width_are_hashed_as_hashlib_does(width: int, hash_rows: HashRows) -> None:
    rows = rows_of(5, width)
    assert digests(hash_rows, 0, rows) == by_hashlib(0, rows)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_any_number_of_rows_is_hashed_as_hashlib_does(num_rows: int, hash_rows: HashRows) -> None:
    rows = rows_of(num_rows, ENTRY_BYTES)
    assert digests(hash_rows, 1, rows) == by_hashlib(1, rows)


@pytest.mark.parametrize("fill", [0x00, 0x80, 0xFF])
def test_words_of_extreme_bits_are_hashed_as_hashlib_does(fill: int, hash_rows: HashRows) -> None:
    rows = np.full((3, ENTRY_BYTES), fill, np.uint8)
    rows[1, ::4] ^= 0x80
    assert digests(hash_rows, 0xFF, rows) == by_hashlib(0xFF, rows)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_leaves_are_hashed_with_the_prefix_of_leaves(num_rows: int) -> None:
    entries = rows_of(num_rows, ENTRY_BYTES)
    hashes = leaf_hashes(entries)
    assert (hashes.shape, hashes.dtype) == ((num_rows, HASH_BYTES), np.uint8)
    assert [row.tobytes() for row in hashes] == by_hashlib(0, entries)


@pytest.mark.parametrize("num_nodes", NUM_ROWS)
def test_nodes_are_hashed_in_pairs_with_the_prefix_of_nodes(num_nodes: int) -> None:
    children = rows_of(2 * num_nodes, HASH_BYTES)
    hashes = node_hashes(children)
    assert (hashes.shape, hashes.dtype) == ((num_nodes, HASH_BYTES), np.uint8)
    assert [row.tobytes() for row in hashes] == by_hashlib(1, children.reshape(num_nodes, 2 * HASH_BYTES))


def test_rows_that_do_not_lie_side_by_side_are_hashed_and_left_as_they_are() -> None:
    table = rows_of(21, ENTRY_BYTES + 16)
    before = table.copy()
    for entries in (table[::2, 8:-8], table[::-3, :ENTRY_BYTES], np.asfortranarray(table[:, 16:])):
        assert [row.tobytes() for row in leaf_hashes(entries)] == by_hashlib(0, entries)
    children = table[:20:2, :HASH_BYTES]
    assert [row.tobytes() for row in node_hashes(children)] == by_hashlib(1, children.reshape(5, 2 * HASH_BYTES))
    assert (table == before).all()


def test_bytes_that_cannot_be_written_to_are_hashed() -> None:
    data = rows_of(3, ENTRY_BYTES).tobytes()
    entries = np.frombuffer(data, np.uint8).reshape(3, ENTRY_BYTES)
    assert [row.tobytes() for row in leaf_hashes(entries)] == by_hashlib(0, entries)


def test_rows_at_any_address_are_hashed() -> None:
    data = np.frombuffer(bytes(64) + rows_of(3, ENTRY_BYTES).tobytes(), np.uint8)
    for offset in range(17):
        entries = data[offset : offset + 3 * ENTRY_BYTES].reshape(3, ENTRY_BYTES)
        assert [row.tobytes() for row in leaf_hashes(entries)] == by_hashlib(0, entries)


def test_what_is_no_entry_or_no_pair_is_refused() -> None:
    with pytest.raises(AssertionError):
        leaf_hashes(rows_of(2, ENTRY_BYTES - 1))
    with pytest.raises(ValueError, match="reshape"):
        node_hashes(rows_of(3, HASH_BYTES))


def test_what_is_compiled_for_a_cpu_without_the_instructions_does_not_use_them() -> None:
    """numba may be told to compile for another CPU than this one. LLVM would end the process."""
    program = "from ledger import sha256; print(sha256.HAS_SHA_INSTRUCTIONS)"
    target = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | target, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
