"""The stored Merkle tree against RFC 6962's recursive definition, for trees of any size grown in any steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shards import naive_root

from ledger.errors import ReceiptInvalid
from ledger.merkle import consistency_proof, inclusion_proof, leaf_hash, verify_consistency, verify_inclusion
from ledger.tree import TILE_HASHES, TILE_LEVELS, Edge, Nodes, as_hashes

SIZE_MAX = 600
"""Two tiles and a part of one, and a second stored level."""

LEAVES = [leaf_hash(number.to_bytes(4, "big")) for number in range(SIZE_MAX)]
ROOTS = [naive_root(LEAVES[:size]) for size in range(SIZE_MAX + 1)]
SIZES = st.integers(1, SIZE_MAX) | st.sampled_from([1, 2, 255, 256, 257, 511, 512, 513, SIZE_MAX])


class Levels:
    """The stored levels, as a shard keeps them: rows only ever go to the end."""

    def __init__(self) -> None:
        self.rows: dict[int, list[bytes]] = {}

    def read(self, level: int, begin: int, end: int) -> bytes:
        row = self.rows.get(level, [])[begin:end]
        assert len(row) == max(end - begin, 0), "it reads what was never stored"
        return b"".join(row)

    def grow(self, edge: Edge, new: int) -> Edge:
        """Append leaves up to a size; the edge of the larger tree."""
        old, before = edge.size, edge.root()
        grown, rows = edge.extended(as_hashes(b"".join(LEAVES[old:new])))
        assert (edge.size, edge.root()) == (old, before), "what it was extended from has changed"
        for row in rows:
            assert row.level % TILE_LEVELS == 0
            assert row.first == len(self.rows.setdefault(row.level, [])), "a node was left out, or comes twice"
            self.rows[row.level] += [node.tobytes() for node in row.hashes]
        return grown


GROWN = Levels()
GROWN.grow(Edge(0, {}), SIZE_MAX)


def nodes(size: int) -> Nodes:
    return Nodes(size, GROWN.read)


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=8))
def test_a_tree_grown_in_any_steps_has_the_root_of_the_definition(steps: list[tuple[int, bool]]) -> None:
    levels, edge = Levels(), Edge(0, {})
    for step, is_reopened in steps:
        edge = levels.grow(edge, min(edge.size + step, SIZE_MAX))
        assert edge.root() == ROOTS[edge.size]
        if is_reopened:
            edge = Edge.load(edge.size, levels.read)
            assert edge.root() == ROOTS[edge.size]
    for level, row in levels.rows.items():
        assert row == GROWN.rows[level][: edge.size >> level]
        assert len(row) == edge.size >> level


@given(SIZES)
def test_the_edge_of_any_earlier_size_can_be_loaded(size: int) -> None:
    assert Edge.load(size, GROWN.read).root() == ROOTS[size]


@given(SIZES, st.data())
def test_any_complete_node_is_the_root_over_its_leaves(size: int, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, size.bit_length() - 1))
    index = data.draw(st.integers(0, (size >> level) - 1))
    assert nodes(size)(level, index) == naive_root(LEAVES[index << level : (index + 1) << level])


@given(SIZES, st.data())
def test_every_leaf_is_proved_to_be_at_its_place_and_at_no_other(size: int, data: st.DataObject) -> None:
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, nodes(size))
    verify_inclusion(index, size, LEAVES[index], proof, ROOTS[size])
    if other != index:
        with pytest.raises(ReceiptInvalid):
            verify_inclusion(other, size, LEAVES[index], proof, ROOTS[size])
        with pytest.raises(ReceiptInvalid):
            verify_inclusion(index, size, LEAVES[other], proof, ROOTS[size])


@given(SIZES, SIZES)
def test_any_two_sizes_are_proved_consistent(first: int, second: int) -> None:
    old, new = sorted((first, second))
    proof = consistency_proof(old, new, nodes(new))
    verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
    with pytest.raises(ReceiptInvalid):
        verify_consistency(old, new, LEAVES[1], ROOTS[new], proof)
    with pytest.raises(ReceiptInvalid):
        verify_consistency(old, new, ROOTS[old], LEAVES[1], proof)


@given(SIZES, st.data())
def test_a_flipped_bit_of_a_proof_is_refused(size: int, data: st.DataObject) -> None:
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    inclusion = flipped(inclusion_proof(index, size, nodes(size)), data)
    consistency = flipped(consistency_proof(old, size, nodes(size)), data)
    if inclusion:
        with pytest.raises(ReceiptInvalid):
            verify_inclusion(index, size, LEAVES[index], inclusion, ROOTS[size])
    if consistency:
        with pytest.raises(ReceiptInvalid):
            verify_consistency(old, size, ROOTS[old], ROOTS[size], consistency)


@given(SIZES, st.integers(0, SIZE_MAX))
def test_a_proof_reads_each_tile_once_and_no_more_of_them_than_its_path_is_long(size: int, place: int) -> None:
    reads: list[tuple[int, int]] = []

    def read(level: int, begin: int, end: int) -> bytes:
        assert begin % TILE_HASHES == 0 and end - begin <= TILE_HASHES
        reads.append((level, begin))
        return GROWN.read(level, begin, end)

    inclusion_proof(place % size, size, Nodes(size, read))
    assert len(set(reads)) == len(reads) <= 2 * size.bit_length()


def flipped(proof: list[bytes], data: st.DataObject) -> list[bytes]:
    """The proof with one bit changed; an empty one has none."""
    if not proof:
        return []
    place, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    changed = (int.from_bytes(proof[place], "big") ^ 1 << bit).to_bytes(32, "big")
    return [*proof[:place], changed, *proof[place + 1 :]]


def test_hashes_are_rows_over_the_same_bytes() -> None:
    assert np.array_equal(as_hashes(LEAVES[0] + LEAVES[1])[1], np.frombuffer(LEAVES[1], np.uint8))
