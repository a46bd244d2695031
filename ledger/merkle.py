"""The Merkle tree of RFC 6962, section 2.1: hashes, proofs from stored nodes, and their verification.

A node is named by (level, index): the root over leaves index * 2^level up to (index + 1) * 2^level. Only complete
nodes are ever stored, so a stored node never changes. `ledger.tree` has which are, and how a tree grows.

The generators follow the RFC's recursive definitions, the verifiers the iterative algorithms of RFC 9162, sections
2.1.3.2 and 2.1.4.2: two different texts, so that one cannot repeat the other's mistake. Every verifier raises
`ReceiptInvalid` and returns nothing; a result that can be ignored is no check.
"""

import hashlib
from collections.abc import Callable, Sequence

from ledger.errors import ReceiptInvalid

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
LEVELS_MAX = 64
"""Tree sizes fit 64 bits, so no path is longer; a consistency proof may need one hash more."""

ReadNode = Callable[[int, int], bytes]
"""(level, index) -> bytes[32] of a stored complete node."""


def leaf_hash(data: bytes) -> bytes:
    """bytes[32] of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """bytes[32] of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def inclusion_proof(index: int, size: int, read_node: ReadNode) -> list[bytes]:
    """PATH(index, D[size]): the siblings from the leaf up. Needs 0 <= index < size. Cost: O(log^2 size) reads."""
    assert 0 <= index < size, (index, size)
    begin, end, proof = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            proof.append(_range_hash(middle, end, read_node))
            end = middle
        else:
            proof.append(_range_hash(begin, middle, read_node))
            begin = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, read_node: ReadNode) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2. Needs 0 < old <= new. Cost: O(log^2 new) reads."""
    assert 0 < old <= new, (old, new)
    begin, end, proof = 0, new, []
    while old < end:
        middle = begin + _split(end - begin)
        if old <= middle:
            proof.append(_range_hash(middle, end, read_node))
            end = middle
        else:
            proof.append(_range_hash(begin, middle, read_node))
            begin = middle
    if begin > 0:  # the RFC's b = false: the verifier does not know this subtree from the old root
        proof.append(_range_hash(begin, end, read_node))
    return proof[::-1]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) is at `index` of the tree of `size` leaves with `root`.

    Raises:
        ReceiptInvalid: it is not, or the proof proves nothing.
    """
    if not 0 <= index < size:
        raise _invalid(f"index {index} is not in a tree of {size}")
    _check_hashes([leaf, *proof])
    value, fn, sn = leaf, index, size - 1
    for sibling in proof:
        if sn == 0:
            raise _invalid("the proof is longer than the path")
        if fn & 1 or fn == sn:
            value = node_hash(sibling, value)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            value = node_hash(value, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise _invalid("the proof is shorter than the path")
    if value != root:
        raise _invalid("the path does not lead to the root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `old` leaves with `old_root` is a prefix of that of `new` leaves with `new_root`.

    An empty old tree is a prefix of everything, so there is nothing to prove: that is refused too.
    Raises:
        ReceiptInvalid: it is not, or the proof proves nothing.
    """
    if not 0 < old <= new:
        raise _invalid(f"sizes {old} and {new} cannot be compared")
    if old == new:
        if proof or old_root != new_root:
            raise _invalid("one size with two roots, or a proof where none is needed")
        return
    if not proof:
        raise _invalid("the proof is empty")
    _check_hashes(proof)
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old_value = new_value = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise _invalid("the proof is longer than the path")
        if fn & 1 or fn == sn:
            old_value, new_value = node_hash(sibling, old_value), node_hash(sibling, new_value)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            new_value = node_hash(new_value, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise _invalid("the proof is shorter than the path")
    if old_value != old_root or new_value != new_root:
        raise _invalid("the path does not lead to both roots")


def _split(num_leaves: int) -> int:
    """The largest power of two smaller than `num_leaves` (> 1)."""
    return 1 << (num_leaves - 1).bit_length() - 1


def _range_hash(begin: int, end: int, read_node: ReadNode) -> bytes:
    """MTH(D[begin:end]); `begin` is a multiple of the range's largest power of two, so its parts are stored nodes."""
    num_leaves = end - begin
    if num_leaves & (num_leaves - 1) == 0:
        level = num_leaves.bit_length() - 1
        return read_node(level, begin >> level)
    middle = begin + _split(num_leaves)
    return node_hash(_range_hash(begin, middle, read_node), _range_hash(middle, end, read_node))


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if len(hashes) > LEVELS_MAX + 1 or any(len(value) != HASH_BYTES for value in hashes):
        raise _invalid(f"more than {LEVELS_MAX + 1} hashes, or one that is not {HASH_BYTES} bytes")


def _invalid(what: str) -> ReceiptInvalid:
    return ReceiptInvalid(what, where="proof", fix="Do not trust it; ask the log for a new proof.")
