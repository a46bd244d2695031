"""The Merkle tree against RFC 6962's recursive definition, for trees of any size grown in any steps."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import ReceiptInvalid
from ledger.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

SIZE_MAX = 130
LEAVES = [leaf_hash(number.to_bytes(4, "big")) for number in range(SIZE_MAX)]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


ROOTS = [naive_root(LEAVES[:size]) for size in range(SIZE_MAX + 1)]


class Nodes:
    """Complete nodes as a shard stores them."""

    def __init__(self) -> None:
        self.hashes: dict[tuple[int, int], bytes] = {}

    def read(self, level: int, index: int) -> bytes:
        return self.hashes[level, index]

    def grow(self, old: int, new: int) -> bytes:
        """Append leaves to a frontier loaded afresh; the new root."""
        frontier = Frontier.load(old, self.read)
        for leaf in LEAVES[old:new]:
            for node in frontier.add(leaf):
                assert (node.level, node.index) not in self.hashes, "a complete node was written twice"
                self.hashes[node.level, node.index] = node.hash
        return frontier.root()


GROWN = Nodes()
GROWN.grow(0, SIZE_MAX)
SIZES = st.integers(1, SIZE_MAX)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_tree_grown_in_any_steps_has_the_root_of_the_definition(steps: list[int]) -> None:
    nodes, size = Nodes(), 0
    for step in steps:
        step = min(step, SIZE_MAX - size)
        assert nodes.grow(size, size + step) == ROOTS[size + step]
        size += step


@settings(deadline=None)
@given(SIZES, st.data())
def test_every_leaf_is_proved_to_be_at_its_place_and_at_no_other(size: int, data: st.DataObject) -> None:
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, GROWN.read)
    verify_inclusion(index, size, LEAVES[index], proof, ROOTS[size])
    if other != index:
        with pytest.raises(ReceiptInvalid):
            verify_inclusion(other, size, LEAVES[index], proof, ROOTS[size])
        with pytest.raises(ReceiptInvalid):
            verify_inclusion(index, size, LEAVES[other], proof, ROOTS[size])


@settings(deadline=None)
@given(SIZES, SIZES)
def test_any_two_sizes_are_proved_consistent(first: int, second: int) -> None:
    old, new = sorted((first, second))
    proof = consistency_proof(old, new, GROWN.read)
    verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
    with pytest.raises(ReceiptInvalid):
        verify_consistency(old, new, LEAVES[1], ROOTS[new], proof)
    with pytest.raises(ReceiptInvalid):
        verify_consistency(old, new, ROOTS[old], LEAVES[1], proof)


@settings(deadline=None)
@given(SIZES, st.data())
def test_a_flipped_bit_of_a_proof_is_refused(size: int, data: st.DataObject) -> None:
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    inclusion = flipped(inclusion_proof(index, size, GROWN.read), data)
    consistency = flipped(consistency_proof(old, size, GROWN.read), data)
    if inclusion:
        with pytest.raises(ReceiptInvalid):
            verify_inclusion(index, size, LEAVES[index], inclusion, ROOTS[size])
    if consistency:
        with pytest.raises(ReceiptInvalid):
            verify_consistency(old, size, ROOTS[old], ROOTS[size], consistency)


def flipped(proof: list[bytes], data: st.DataObject) -> list[bytes]:
    """The proof with one bit changed; an empty one has none."""
    if not proof:
        return []
    place, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    changed = (int.from_bytes(proof[place], "big") ^ 1 << bit).to_bytes(32, "big")
    return [*proof[:place], changed, *proof[place + 1 :]]
