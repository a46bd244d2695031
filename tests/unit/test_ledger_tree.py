"""The tree as a shard keeps it: rows of every eighth level, against RFC 6962's definition by recursion."""

import random
from functools import cache

import numpy as np
import pytest
from shards import naive_root

from ledger.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from ledger.tree import TILE_HASHES, TILE_LEVELS, Edge, Nodes, as_hashes

SIZE_MAX = TILE_HASHES**2 + 3 * TILE_HASHES + 5
"""Level 16 has one hash, level 8 one tile and three hashes."""

SIZES = sorted(
    {
        *range(1, 20),
        *(TILE_HASHES * tiles + more for tiles in (1, 2, 3, 255, 256) for more in (-1, 0, 1)),
        777,
        4096,
        SIZE_MAX,
    }
)


class Stored:
    """The stored levels of a tree, each as the bytes of its hashes one after another."""

    def __init__(self) -> None:
        self.levels: dict[int, bytearray] = {}
        self.reads: list[tuple[int, int, int]] = []

    def read(self, level: int, begin: int, end: int) -> bytes:
        assert level % TILE_LEVELS == 0 and 0 <= begin <= end
        self.reads.append((level, begin, end))
        data = bytes(self.levels.get(level, b"")[32 * begin : 32 * end])
        assert len(data) == 32 * (end - begin), "what is not stored is asked for"
        return data

    def grow(self, edge: Edge, leaves: np.ndarray) -> Edge:
        """Store what more leaves lead to; the new edge."""
        edge, rows = edge.extended(leaves)
        for row in rows:
            stored = self.levels.setdefault(row.level, bytearray())
            assert len(stored) == 32 * row.first, "a hash is stored twice, or one is left out"
            stored += row.hashes.tobytes()
        return edge


@cache
def leaves() -> np.ndarray:
    """uint8[SIZE_MAX, 32]."""
    return as_hashes(b"".join(leaf_hash(number.to_bytes(4, "big")) for number in range(SIZE_MAX)))


@cache
def complete(level: int) -> tuple[bytes, ...]:
    """All complete nodes of a level, by the definition."""
    if level == 0:
        return tuple(leaf.tobytes() for leaf in leaves())
    below = complete(level - 1)
    return tuple(node_hash(left, right) for left, right in zip(below[::2], below[1::2], strict=False))


@cache
def root_of(size: int) -> bytes:
    """By recursion, over the largest complete nodes."""
    if size == 0:
        return EMPTY_ROOT
    level = size.bit_length() - 1
    left = complete(level)[0]
    return left if size == 1 << level else node_hash(left, right_part(1 << level, size))


def right_part(begin: int, size: int) -> bytes:
    level = (size - begin).bit_length() - 1
    left = complete(level)[begin >> level]
    middle = begin + (1 << level)
    return left if middle == size else node_hash(left, right_part(middle, size))


@pytest.fixture(scope="module")
def stored() -> Stored:
    """The largest tree, grown in one step."""
    tree = Stored()
    tree.grow(Edge(0, {}), leaves())
    return tree


def test_the_roots_expected_here_are_those_of_the_rfc() -> None:
    for size in [*range(40), *range(TILE_HASHES - 2, TILE_HASHES + 3), 1000]:
        assert root_of(size) == naive_root([leaf.tobytes() for leaf in leaves()[:size]])


def test_an_empty_tree_has_the_root_of_nothing() -> None:
    assert Edge(0, {}).root() == EMPTY_ROOT
    assert Edge.load(0, Stored().read).root() == EMPTY_ROOT


def test_no_more_leaves_change_nothing() -> None:
    edge, _ = Edge(0, {}).extended(leaves()[:5])
    again, rows = edge.extended(leaves()[:0])
    assert (again.size, again.root(), rows) == (5, root_of(5), [])


def test_a_tree_grown_leaf_by_leaf_has_every_root_on_its_way() -> None:
    tree, edge = Stored(), Edge(0, {})
    for size in range(1, 2 * TILE_HASHES + 3):
        edge = tree.grow(edge, leaves()[size - 1 : size])
        assert (edge.size, edge.root()) == (size, root_of(size))
    assert bytes(tree.levels[8]) == b"".join(complete(8)[:2])


@pytest.mark.parametrize("seed", range(8))
def test_a_tree_grown_in_any_steps_and_loaded_in_between_is_the_same(seed: int, stored: Stored) -> None:
    source = random.Random(seed)
    tree, edge = Stored(), Edge(0, {})
    while edge.size < SIZE_MAX:
        step = source.choice([1, 2, source.randint(1, 600), source.randint(1, 40_000)])
        edge = tree.grow(edge, leaves()[edge.size : edge.size + step])
        assert edge.root() == root_of(edge.size)
        if source.random() < 0.5:
            edge = Edge.load(edge.size, tree.read)
            assert edge.root() == root_of(edge.size)
    assert tree.levels == stored.levels


def test_only_every_eighth_level_is_stored_and_all_of_it(stored: Stored) -> None:
    assert sorted(stored.levels) == [0, 8, 16]
    for level, data in stored.levels.items():
        assert bytes(data) == b"".join(complete(level))
    assert len(stored.levels[16]) == 32


@pytest.mark.parametrize("size", SIZES)
def test_an_edge_loaded_at_any_size_has_its_root_and_reads_less_than_a_tile_a_level(size: int, stored: Stored) -> None:
    stored.reads.clear()
    assert Edge.load(size, stored.read).root() == root_of(size)
    assert all(end - begin < TILE_HASHES for _, begin, end in stored.reads)
    assert len(stored.reads) <= 3


def test_extending_an_edge_leaves_it_as_it_was() -> None:
    edge, _ = Edge(0, {}).extended(leaves()[:300])
    one, _ = edge.extended(leaves()[300:1000])
    other, _ = edge.extended(leaves()[300:301])
    assert (edge.size, edge.root()) == (300, root_of(300))
    assert (one.root(), other.root()) == (root_of(1000), root_of(301))


def test_an_edge_does_not_change_with_the_memory_that_its_leaves_came_in() -> None:
    memory = leaves()[:5].copy()
    edge, _ = Edge(0, {}).extended(memory)
    memory[:] = 0
    assert edge.root() == root_of(5)


def test_every_complete_node_is_found_from_the_stored_levels(stored: Stored) -> None:
    nodes = Nodes(SIZE_MAX, stored.read)
    for level in range(SIZE_MAX.bit_length()):
        expected = complete(level)
        places = {*range(min(len(expected), 300)), *range(max(len(expected) - 300, 0), len(expected))}
        assert [nodes(level, place) for place in sorted(places)] == [expected[place] for place in sorted(places)]


def test_a_tile_is_read_once_and_never_beyond_the_tree(stored: Stored) -> None:
    stored.reads.clear()
    size = 3 * TILE_HASHES + 7
    nodes = Nodes(size, stored.read)
    for index in range(size):
        nodes(0, index)
        nodes(1, index // 2 if index < size - 1 else 0)
    assert stored.reads == [(0, 256 * tile, min(256 * (tile + 1), size)) for tile in range(4)]


@pytest.mark.parametrize("size", SIZES)
def test_leaves_of_trees_of_any_size_are_proved_from_the_stored_levels(size: int, stored: Stored) -> None:
    source, nodes = random.Random(size), Nodes(size, stored.read)
    edges = {0, size - 1, size // 2, (1 << size.bit_length() - 1) - 1, size // TILE_HASHES * TILE_HASHES - 1}
    for index in edges | {source.randrange(size) for _ in range(8)}:
        if 0 <= index < size:
            proof = inclusion_proof(index, size, nodes)
            assert len(proof) <= (size - 1).bit_length()
            verify_inclusion(index, size, leaves()[index].tobytes(), proof, root_of(size))


@pytest.mark.parametrize("new", SIZES)
def test_any_older_tree_is_proved_to_be_a_part_of_this_one(new: int, stored: Stored) -> None:
    source, nodes = random.Random(new), Nodes(new, stored.read)
    olds = [old for old in SIZES if old <= new] + [source.randint(1, new) for _ in range(8)]
    for old in olds:
        verify_consistency(old, new, root_of(old), root_of(new), consistency_proof(old, new, nodes))
