"""SHA-256 of many leaves and nodes of a Merkle tree at once: RFC 6962 hashes in numba, without the interpreter.

Two messages are hashed side by side. On a CPU with SHA instructions (x86 `sha_ni`) one compression is a chain of 32
dependent instructions of 4 cycles; two chains in one loop fill each other's gaps. Elsewhere the same functions run on
plain 32-bit arithmetic. Both are the standard's algorithm (FIPS 180-4) and give the same bits; a test compares them
with hashlib.

Measured on an AMD EPYC with `sha_ni`, one core: see bench/ledger.py.
Turned down: hashlib in a loop (0.5 us a call and the interpreter lock), and OpenSSL by function pointer (its one-shot
call looks the algorithm up each time).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import ENTRY_BYTES

HASH_BYTES = 32
Hashes = NDArray[np.uint8]
"""uint8[n, 32]: a hash a row."""

_TARGET_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
HAS_SHA_INSTRUCTIONS = "+sha" in _TARGET_FEATURES
"""Whether numba compiles for a CPU that has them; by NUMBA_CPU_NAME that may be another one than this."""

_K = np.array(
    [
        0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
        0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
        0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
        0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
        0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
        0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
        0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
        0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
    ],
    np.uint32,
)  # fmt: skip
_H0 = np.array(
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32
)
_LANE = ir.IntType(32)
_VECTOR = ir.VectorType(_LANE, 4)


class _Message:
    """One of the two messages while its block is compressed: state as ABEF and CDGH, the last four schedule rows."""

    def __init__(self, builder: Any, state: Any, block: Any) -> None:
        self.builder = builder
        self.state_pointer = builder.inttoptr(state, _VECTOR.as_pointer())
        block_pointer = builder.inttoptr(block, _VECTOR.as_pointer())
        self.rows = [self.swap(self.load(block_pointer, row)) for row in range(4)]
        low, high = self.load(self.state_pointer, 0), self.load(self.state_pointer, 1)
        self.abef = self.shuffle(low, high, (5, 4, 1, 0))
        self.cdgh = self.shuffle(low, high, (7, 6, 3, 2))
        self.start = self.abef, self.cdgh

    def load(self, pointer: Any, place: int) -> Any:
        return self.builder.load(self.builder.gep(pointer, [_LANE(place)]), align=1)

    def store(self, value: Any, place: int) -> None:
        self.builder.store(value, self.builder.gep(self.state_pointer, [_LANE(place)]), align=1)

    def shuffle(self, left: Any, right: Any, lanes: tuple[int, int, int, int]) -> Any:
        return self.builder.shuffle_vector(left, right, ir.Constant(_VECTOR, lanes))

    def call(self, name: str, *args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)

    def swap(self, row: Any) -> Any:
        return self.call("llvm.bswap.v4i32", row)

    def four_rounds(self, group: int) -> None:
        """Rounds 4 * group to 4 * group + 3, after extending the schedule by the row they need."""
        builder, rows = self.builder, self.rows
        if group >= 4:
            shifted = self.shuffle(rows[2], rows[3], (1, 2, 3, 4))
            partial = builder.add(self.call("llvm.x86.sha256msg1", rows[0], rows[1]), shifted)
            rows.append(self.call("llvm.x86.sha256msg2", partial, rows[3]))
            rows.pop(0)
        row = rows[3] if group >= 4 else rows[group]
        constants = ir.Constant(_VECTOR, [int(k) for k in _K[4 * group : 4 * group + 4]])
        words = builder.add(row, constants)
        self.cdgh = self.call("llvm.x86.sha256rnds2", self.cdgh, self.abef, words)
        words = self.shuffle(words, words, (2, 3, 2, 3))
        self.abef = self.call("llvm.x86.sha256rnds2", self.abef, self.cdgh, words)

    def finish(self) -> None:
        """Add the state at the start, and store it."""
        abef = self.builder.add(self.abef, self.start[0])
        cdgh = self.builder.add(self.cdgh, self.start[1])
        self.store(self.shuffle(abef, cdgh, (3, 2, 7, 6)), 0)
        self.store(self.shuffle(abef, cdgh, (1, 0, 5, 4)), 1)


@intrinsic
def _compress_two_by_instructions(typing: Any, state_a: Any, block_a: Any, state_b: Any, block_b: Any) -> Any:
    """Addresses of two states (8 words each) and of two blocks (64 bytes each): both states take their block in."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        messages = _Message(builder, args[0], args[1]), _Message(builder, args[2], args[3])
        for group in range(16):
            for message in messages:
                message.four_rounds(group)
        for message in messages:
            message.finish()
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp, types.uintp), generate


@intrinsic
def _copy(typing: Any, target: Any, source: Any, num_bytes: Any) -> Any:
    """Bytes from one address to another; they do not overlap. A copy of one array slice to another, which numba makes a
    loop over single bytes, costs as much as three compressions."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = [builder.inttoptr(address, ir.IntType(8).as_pointer()) for address in args[:2]]
        cgutils.raw_memcpy(builder, *pointers, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), generate


@njit(nogil=True, inline="always")
def _rotated(word: Any, places: int) -> Any:
    return np.uint32((word >> np.uint32(places)) | (word << np.uint32(32 - places)))


@njit(nogil=True)
def _compress_plainly(state: Any, block: Any) -> None:
    """uint32[8] takes uint8[64] in, by plain arithmetic."""
    words = np.empty(64, np.uint32)
    for place in range(16):
        words[place] = (
            np.uint32(block[4 * place]) << np.uint32(24)
            | np.uint32(block[4 * place + 1]) << np.uint32(16)
            | np.uint32(block[4 * place + 2]) << np.uint32(8)
            | np.uint32(block[4 * place + 3])
        )
    for place in range(16, 64):
        early, late = words[place - 15], words[place - 2]
        small0 = _rotated(early, 7) ^ _rotated(early, 18) ^ (early >> np.uint32(3))
        small1 = _rotated(late, 17) ^ _rotated(late, 19) ^ (late >> np.uint32(10))
        words[place] = np.uint32(words[place - 16] + small0 + words[place - 7] + small1)
    a, b, c, d, e, f, g, h = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
    for place in range(64):
        big1 = _rotated(e, 6) ^ _rotated(e, 11) ^ _rotated(e, 25)
        first = np.uint32(h + big1 + ((e & f) ^ (~e & g)) + _K[place] + words[place])
        big0 = _rotated(a, 2) ^ _rotated(a, 13) ^ _rotated(a, 22)
        second = np.uint32(big0 + ((a & b) ^ (a & c) ^ (b & c)))
        a, b, c, d, e, f, g, h = np.uint32(first + second), a, b, c, np.uint32(d + first), e, f, g
    for place, value in enumerate((a, b, c, d, e, f, g, h)):
        state[place] = np.uint32(state[place] + value)


if HAS_SHA_INSTRUCTIONS:

    @njit(nogil=True)
    def _compress_two(states: Any, messages: Any, block: int) -> None:
        """uint32[2, 8] take block number `block` of uint8[2, m] in."""
        _compress_two_by_instructions(
            np.uintp(states[0].ctypes.data),
            np.uintp(messages[0].ctypes.data + 64 * block),
            np.uintp(states[1].ctypes.data),
            np.uintp(messages[1].ctypes.data + 64 * block),
        )

else:

    @njit(nogil=True)
    def _compress_two(states: Any, messages: Any, block: int) -> None:
        """uint32[2, 8] take block number `block` of uint8[2, m] in."""
        for message in range(2):
            _compress_plainly(states[message], messages[message, 64 * block : 64 * block + 64])


@njit(nogil=True)
def hash_blocks(blocks: Any, states: Any) -> None:
    """uint8[2, 64], each a whole padded message: their SHA-256 in words, into uint32[2, 8]. For use in kernels."""
    states[0, :] = _H0
    states[1, :] = _H0
    _compress_two(states, blocks, 0)


@njit(nogil=True)
def _hash_rows(prefix: int, data: Any, out: Any) -> None:
    """SHA-256 of a prefix byte and a row of uint8[n, w], each in one piece, for every row; into uint8[n, 32]."""
    num_rows, width = data.shape
    num_blocks = (width + 1 + 9 + 63) // 64
    messages = np.zeros((2, 64 * num_blocks), np.uint8)
    messages[:, 0] = prefix
    messages[:, width + 1] = 0x80
    num_bits = 8 * (width + 1)
    for place in range(8):
        messages[:, 64 * num_blocks - 1 - place] = (num_bits >> (8 * place)) & 0xFF
    states = np.empty((2, 8), np.uint32)
    bodies = np.uintp(messages[0, 1:].ctypes.data), np.uintp(messages[1, 1:].ctypes.data)
    for first in range(0, num_rows, 2):
        second = min(first + 1, num_rows - 1)
        _copy(bodies[0], np.uintp(data[first].ctypes.data), np.uintp(width))
        _copy(bodies[1], np.uintp(data[second].ctypes.data), np.uintp(width))
        states[0, :] = _H0
        states[1, :] = _H0
        for block in range(num_blocks):
            _compress_two(states, messages, block)
        _write(states[0], out[first])
        _write(states[1], out[second])


@njit(nogil=True)
def _write(state: Any, out: Any) -> None:
    """uint32[8] as uint8[32], big-endian."""
    for word in range(8):
        value = state[word]
        out[4 * word] = value >> np.uint32(24)
        out[4 * word + 1] = (value >> np.uint32(16)) & np.uint32(0xFF)
        out[4 * word + 2] = (value >> np.uint32(8)) & np.uint32(0xFF)
        out[4 * word + 3] = value & np.uint32(0xFF)


def leaf_hashes(entries: NDArray[np.uint8]) -> Hashes:
    """uint8[n, 240] -> uint8[n, 32], the RFC 6962 leaf hash of every entry. Releases the interpreter lock."""
    assert entries.shape[1] == ENTRY_BYTES
    out = np.empty((len(entries), HASH_BYTES), np.uint8)
    _hash_rows(0, np.ascontiguousarray(entries), out)
    return out


def node_hashes(children: Hashes) -> Hashes:
    """uint8[2n, 32] -> uint8[n, 32], the RFC 6962 node over every pair. Releases the interpreter lock."""
    pairs = np.ascontiguousarray(children).reshape(-1, 2 * HASH_BYTES)
    out = np.empty((len(pairs), HASH_BYTES), np.uint8)
    _hash_rows(1, pairs, out)
    return out
