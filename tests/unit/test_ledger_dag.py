"""Lineage: every ancestor and descendant once, over all shards, cut off where said; and proofs that hold offline."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settling import id_of
from whole_log import LOG, Ledger

from ledger import dag
from ledger.dag import (
    DEPTH_MAX,
    NODES_MAX,
    Lineage,
    Way,
    ancestors,
    descendants,
    prove_lineage,
    verify_lineage,
)
from ledger.entry import Entry, Kind, Parent, encode, from_bytes
from ledger.errors import EntryInvalid, EntryNotFound, KeyInvalid, ReceiptInvalid
from ledger.log import open_keys, shard_path
from ledger.note import Policy, Signer, add_cosignatures, encode_base64, read_checkpoint
from ledger.reader import Found, Page
from ledger.receipt import parse, verify
from ledger.shard import Shard

WITNESS = Signer("witness.example/w1", b"w" * 32)
NOW_S = 1_700_000_100


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path, 3)
    yield opened
    opened.close()


def made(number: int, *parents: Parent) -> Entry:
    return Entry(kind=Kind.DERIVATION if parents else Kind.MODEL, id=id_of(number), parents=parents)


def record(ledger: Ledger, number: int, shard: int, *parents: Parent) -> Parent:
    ledger.cover()
    return shard, ledger.record(shard, made(number, *parents))[0]


@pytest.fixture
def family(ledger: Ledger) -> dict[str, Parent]:
    """    model  sketch        shards 0 and 1
             \\  /    \\
            picture   copy     shard 0, shard 1
             /    \\
          crop     print       shard 2: the print is made from the crop, too
             \\____/
    """
    places = {"model": record(ledger, 1, 0), "sketch": record(ledger, 2, 1)}
    places["picture"] = record(ledger, 3, 0, places["model"], places["sketch"])
    places["copy"] = record(ledger, 4, 1, places["sketch"])
    places["crop"] = record(ledger, 5, 2, places["picture"])
    places["print"] = record(ledger, 6, 2, places["crop"], places["picture"])
    record(ledger, 7, 0)  # nobody's relative
    return places


def names(lineage: Lineage, family: dict[str, Parent]) -> list[str]:
    of = {place: name for name, place in family.items()}
    return [of[node.place] for node in lineage.nodes]


def named_edges(edges: tuple[tuple[Parent, Parent], ...], family: dict[str, Parent]) -> set[tuple[str, str]]:
    of = {place: name for name, place in family.items()}
    return {(of[child], of[parent]) for child, parent in edges}


UP_EDGES = {
    ("print", "crop"),
    ("print", "picture"),
    ("crop", "picture"),
    ("picture", "model"),
    ("picture", "sketch"),
}


# ---- up and down


def test_ancestors_come_breadth_first_over_all_shards_each_once(ledger: Ledger, family: dict[str, Parent]) -> None:
    up = ancestors(ledger.readers, family["print"])
    assert names(up, family) == ["print", "crop", "picture", "model", "sketch"]
    assert [node.depth for node in up.nodes] == [0, 1, 1, 2, 2]
    assert named_edges(up.edges, family) == UP_EDGES
    assert len(up.edges) == len(UP_EDGES)
    assert (up.absent, up.is_truncated) == ((), False)


def test_descendants_come_breadth_first_by_shard_and_index(ledger: Ledger, family: dict[str, Parent]) -> None:
    down = descendants(ledger.readers, family["sketch"])
    assert names(down, family) == ["sketch", "picture", "copy", "crop", "print"]
    assert [node.depth for node in down.nodes] == [0, 1, 1, 2, 2]
    assert named_edges(down.edges, family) == UP_EDGES - {("picture", "model")} | {("copy", "sketch")}
    assert not down.is_truncated


def test_an_entry_without_relatives_is_its_whole_lineage(ledger: Ledger, family: dict[str, Parent]) -> None:
    for walk in (ancestors, descendants):
        alone = walk(ledger.readers, (0, 2))
        assert ([node.place for node in alone.nodes], alone.edges, alone.is_truncated) == ([(0, 2)], (), False)


@pytest.mark.parametrize(("depth_max", "expected", "is_truncated"), [(0, 1, True), (1, 3, True), (2, 5, False)])
def test_more_generations_than_asked_for_are_cut_off_and_said_to_be(
    ledger: Ledger, family: dict[str, Parent], depth_max: int, expected: int, is_truncated: bool
) -> None:
    for walk, start in ((ancestors, "print"), (descendants, "sketch")):
        lineage = walk(ledger.readers, family[start], depth_max=depth_max)
        assert (len(lineage.nodes), lineage.is_truncated) == (expected, is_truncated), walk


@pytest.mark.parametrize(("nodes_max", "is_truncated"), [(1, True), (2, True), (4, True), (5, False), (6, False)])
def test_more_entries_than_asked_for_are_cut_off_and_said_to_be(
    ledger: Ledger, family: dict[str, Parent], nodes_max: int, is_truncated: bool
) -> None:
    for walk, start in ((ancestors, "print"), (descendants, "sketch")):
        lineage = walk(ledger.readers, family[start], nodes_max=nodes_max)
        assert (len(lineage.nodes), lineage.is_truncated) == (min(nodes_max, 5), is_truncated), walk
        places = {node.place for node in lineage.nodes}
        assert all({child, parent} <= places for child, parent in lineage.edges)


def test_more_children_than_a_page_are_all_found(ledger: Ledger) -> None:
    root = record(ledger, 1, 0)
    for first in range(100, 700, 100):
        ledger.record(0, *(made(first + number, root) for number in range(100)))
    down = descendants(ledger.readers, root)
    assert [node.place[1] for node in down.nodes] == list(range(601))
    assert (len(down.edges), down.is_truncated) == (600, False)


def test_parents_in_a_shard_that_is_not_at_hand_are_named(ledger: Ledger, family: dict[str, Parent]) -> None:
    readers = ledger.readers
    del readers[1]
    up = ancestors(readers, family["print"])
    assert names(up, family) == ["print", "crop", "picture", "model"]
    assert (up.absent, up.is_truncated) == ((family["sketch"],), False)
    with pytest.raises(EntryNotFound, match="shard 1 is not at hand"):
        ancestors(readers, family["sketch"])


@pytest.mark.parametrize(
    "limits", [{"depth_max": -1}, {"depth_max": DEPTH_MAX + 1}, {"nodes_max": 0}, {"nodes_max": NODES_MAX + 1}]
)
def test_limits_beyond_the_largest_are_refused(
    ledger: Ledger, family: dict[str, Parent], limits: dict[str, int]
) -> None:
    with pytest.raises(EntryInvalid, match="generations"):
        ancestors(ledger.readers, family["print"], **limits)


def test_the_lineage_of_what_is_not_there_is_refused(ledger: Ledger, family: dict[str, Parent]) -> None:
    with pytest.raises(EntryNotFound, match="no entry 99"):
        descendants(ledger.readers, (0, 99))


class Relatives:
    """A shard of nothing but parents, in a list."""

    def __init__(self, parents: list[tuple[Parent, ...]]) -> None:
        self.parents = parents

    def entry(self, index: int) -> Entry:
        if index >= len(self.parents):
            raise EntryNotFound(f"no entry {index}", where="ledger", fix="Ask for another one.")
        return made(index + 1, *self.parents[index])

    def children(self, shard: int, index: int, *, begin: int, limit: int) -> Page:
        found = [Found(at, self.entry(at)) for at, named in enumerate(self.parents) if (shard, index) in named]
        later = [each for each in found if each.index >= begin]
        return Page(tuple(later[:limit]), later[limit].index if len(later) > limit else None)


def test_a_parent_that_its_shard_has_not_is_named_by_its_place() -> None:
    shards = {0: Relatives([((1, 0), (1, 5))]), 1: Relatives([()])}
    with pytest.raises(EntryNotFound, match="no entry 5") as refused:
        ancestors(shards, (0, 0))
    assert refused.value.where == "1/5"


@given(data=st.data(), num_shards=st.integers(1, 3), num_entries=st.integers(1, 24))
def test_any_dag_gives_the_nearest_depth_of_every_relative_and_every_edge_between_them(
    data: st.DataObject, num_shards: int, num_entries: int
) -> None:
    parents: dict[int, list[tuple[Parent, ...]]] = {number: [] for number in range(num_shards)}
    places: list[Parent] = []
    for _ in range(num_entries):
        shard = data.draw(st.integers(0, num_shards - 1))
        named = data.draw(st.lists(st.sampled_from(places), max_size=4, unique=True)) if places else []
        places.append((shard, len(parents[shard])))
        parents[shard].append(tuple(named))
    edges = {(place, parent) for place in places for parent in parents[place[0]][place[1]]}
    start = data.draw(st.sampled_from(places))
    shards = {number: Relatives(named) for number, named in parents.items()}
    for walk, steps in ((ancestors, edges), (descendants, {(parent, child) for child, parent in edges})):
        depths, nearest = {start: 0}, {start}
        while nearest:
            nearest = {to for at, to in steps if at in nearest} - depths.keys()
            depths |= dict.fromkeys(nearest, max(depths.values()) + 1)
        told = walk(shards, start)
        assert {node.place: node.depth for node in told.nodes} == depths
        assert len(told.nodes) == len(depths)
        assert [node.depth for node in told.nodes] == sorted(depths.values())
        assert set(told.edges) == {edge for edge in edges if set(edge) <= depths.keys()}


# ---- proofs


def test_a_proof_shows_the_whole_path_to_who_has_only_the_keys(ledger: Ledger, family: dict[str, Parent]) -> None:
    up = ancestors(ledger.readers, family["print"])
    verified = verify_lineage(prove_lineage(up, ledger.shards), Way.UP, ledger.policy)
    assert (verified.nodes, verified.edges, verified.others) == (up.nodes, up.edges, ())
    sizes = {number: proved.checkpoint.tree_size for number, proved in verified.checkpoints.items()}
    assert sizes == {number: shard.tree_size for number, shard in ledger.shards.items()}


def test_a_proof_downwards_holds_and_names_the_parents_that_it_leaves_out(
    ledger: Ledger, family: dict[str, Parent]
) -> None:
    down = descendants(ledger.readers, family["sketch"])
    verified = verify_lineage(prove_lineage(down, ledger.readers), Way.DOWN, ledger.policy)
    assert (verified.nodes, verified.edges) == (down.nodes, down.edges)
    assert verified.others == (family["model"],)


def test_every_receipt_of_a_proof_verifies_alone(ledger: Ledger, family: dict[str, Parent]) -> None:
    text = prove_lineage(ancestors(ledger.readers, family["print"]), ledger.shards)
    receipts = receipts_of(text)
    keys = [str(key) for key in ledger.policy.log_keys]
    assert [verify(receipt, keys).index for receipt in receipts] == [1, 0, 1, 0, 0]
    assert "\n".join(receipts) == text


def test_a_cut_off_path_is_proved_and_says_that_it_is_not_whole(ledger: Ledger, family: dict[str, Parent]) -> None:
    cut = ancestors(ledger.readers, family["print"], depth_max=1)
    verified = verify_lineage(prove_lineage(cut, ledger.shards), Way.UP, ledger.policy)
    assert verified.others == (family["model"], family["sketch"])


def test_a_proof_under_cosigned_checkpoints_satisfies_a_policy_with_witnesses(
    ledger: Ledger, family: dict[str, Parent]
) -> None:
    up = ancestors(ledger.readers, family["print"])
    notes = {number: cosigned(shard) for number, shard in ledger.shards.items()}
    record(ledger, 8, 0)  # what comes later does not change the proof
    policy = Policy(ledger.policy.log_keys, (WITNESS.witness_key,), 1)
    verified = verify_lineage(prove_lineage(up, ledger.shards, notes), Way.UP, policy)
    assert {each.cosignatures[0].time_s for each in verified.checkpoints.values()} == {NOW_S}
    with pytest.raises(ReceiptInvalid, match=r"missing: witness\.example/w1"):
        verify_lineage(prove_lineage(up, ledger.shards), Way.UP, policy)


def cosigned(shard: Shard) -> str:
    note = shard.checkpoint()
    text = note.partition("\n\n")[0] + "\n"
    return add_cosignatures(note, WITNESS.cosign(text, NOW_S), [WITNESS.witness_key])


def test_an_entry_beyond_a_checkpoint_cannot_be_proved_under_it(ledger: Ledger, family: dict[str, Parent]) -> None:
    old = ledger.shards[0].checkpoint()
    late = record(ledger, 8, 0, family["print"])
    up = ancestors(ledger.readers, late)
    with pytest.raises(EntryNotFound, match="under a checkpoint of 3 entries"):
        prove_lineage(up, ledger.shards, {0: old})
    with pytest.raises(EntryNotFound, match="shard 2 is not at hand"):
        prove_lineage(up, {0: ledger.shards[0]})


def test_a_proof_that_no_verifier_would_take_is_not_given(
    ledger: Ledger, family: dict[str, Parent], monkeypatch: pytest.MonkeyPatch
) -> None:
    up = ancestors(ledger.readers, family["print"])
    text = prove_lineage(up, ledger.shards)
    monkeypatch.setattr(dag, "LINEAGE_BYTES_MAX", len(text))
    assert verify_lineage(prove_lineage(up, ledger.shards), Way.UP, ledger.policy).nodes == up.nodes
    monkeypatch.setattr(dag, "LINEAGE_BYTES_MAX", len(text) - 1)
    with pytest.raises(EntryInvalid, match="5 receipts are"):
        prove_lineage(up, ledger.shards)
    with pytest.raises(ReceiptInvalid, match="bytes"):
        verify_lineage(text, Way.UP, ledger.policy)


# ---- what is no proof


def receipts_of(text: str) -> list[str]:
    """The receipts of a proof; none of ours has an empty line and a second header inside."""
    head = "c2sp.org/tlog-proof@v1\n"
    parts = [head + part for part in text.split(head)[1:]]
    return [part.removesuffix("\n") if number < len(parts) - 1 else part for number, part in enumerate(parts)]


@pytest.fixture
def receipts(ledger: Ledger, family: dict[str, Parent]) -> list[str]:
    """Of the print, its crop, picture, model and sketch."""
    return receipts_of(prove_lineage(ancestors(ledger.readers, family["print"]), ledger.shards))


@pytest.mark.parametrize(
    ("order", "step"),
    [
        ([1, 0, 2, 3, 4], "step 5 lineage"),  # the print is no ancestor of its crop
        ([0, 1, 3, 4], "step 5 lineage"),  # the picture, which leads to the others, is left out
        ([0, 3, 1, 2, 4], "step 5 lineage"),  # the model comes before what names it
        ([0, 1, 2, 2], "step 4 entries"),
        ([0, 1, 0], "step 4 entries"),
    ],
)
def test_receipts_that_are_no_path_are_refused(
    ledger: Ledger, receipts: list[str], order: list[int], step: str
) -> None:
    with pytest.raises(ReceiptInvalid) as refused:
        verify_lineage("\n".join(receipts[number] for number in order), Way.UP, ledger.policy)
    assert refused.value.where.endswith(step)


def test_ancestors_are_no_descendants(ledger: Ledger, receipts: list[str]) -> None:
    with pytest.raises(ReceiptInvalid, match="not next among the descendants"):
        verify_lineage("\n".join(receipts), Way.DOWN, ledger.policy)


def test_a_stranger_among_the_receipts_is_refused(ledger: Ledger, receipts: list[str]) -> None:
    stranger = ledger.shards[0].receipt(2)
    with pytest.raises(ReceiptInvalid, match="entry 0/2 is not next"):
        verify_lineage("\n".join([*receipts, stranger]), Way.UP, ledger.policy)


def test_two_checkpoints_of_one_shard_are_refused(ledger: Ledger, receipts: list[str]) -> None:
    record(ledger, 8, 0)
    receipts[3] = ledger.shards[0].receipt(0)
    with pytest.raises(ReceiptInvalid, match="two checkpoints of shard 0"):
        verify_lineage("\n".join(receipts), Way.UP, ledger.policy)


def test_every_changed_byte_of_an_entry_in_a_proof_is_found(ledger: Ledger, receipts: list[str]) -> None:
    crop = parse(receipts[1])
    for place in range(0, len(crop.entry_bytes), 7):
        data = bytearray(crop.entry_bytes)
        data[place] ^= 1
        changed = receipts[1].replace(receipts[1].split("\n")[1], f"extra {encode_base64(bytes(data))}")
        with pytest.raises(ReceiptInvalid):
            verify_lineage("\n".join([receipts[0], changed, *receipts[2:]]), Way.UP, ledger.policy)


def test_a_parent_out_of_another_ledger_with_the_same_numbers_is_refused(
    ledger: Ledger, receipts: list[str], tmp_path: Path
) -> None:
    signer = open_keys(tmp_path / "other", "example.net/other", 1).signers[0]
    with Shard.open(shard_path(tmp_path / "other", 0), 0, signer, lambda: 1, entropy=lambda size: b"e" * size) as other:
        other.append(from_bytes(encode(made(1))))
        forged = other.receipt(0)
    believing_both = Policy((*ledger.policy.log_keys, signer.key))
    text = "\n".join([*receipts[:3], forged, receipts[4]])
    with pytest.raises(KeyInvalid, match="two keys for one shard number"):
        verify_lineage(text, Way.UP, believing_both)
    with pytest.raises(ReceiptInvalid):
        verify_lineage(text, Way.UP, ledger.policy)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "c2sp.org/tlog-proof@v1\n", "c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\n\nx"]
)
def test_what_is_no_receipt_is_refused(ledger: Ledger, text: str) -> None:
    with pytest.raises(ReceiptInvalid):
        verify_lineage(text, Way.UP, ledger.policy)


def test_more_than_the_limits_is_refused_before_anything_is_verified(ledger: Ledger, receipts: list[str]) -> None:
    with pytest.raises(ReceiptInvalid, match="receipts"):
        verify_lineage("\n".join(receipts[:1] * (NODES_MAX + 1)), Way.UP, ledger.policy)
    with pytest.raises(ReceiptInvalid, match="bytes"):
        verify_lineage("x" * (1 << 25), Way.UP, ledger.policy)


def test_the_origins_in_a_proof_are_the_shards_that_entries_name(ledger: Ledger, receipts: list[str]) -> None:
    origins = [read_checkpoint(parse(receipt).checkpoint).origin for receipt in receipts]
    assert origins == [f"{LOG}/shard-{number}" for number in (2, 2, 0, 0, 1)]
