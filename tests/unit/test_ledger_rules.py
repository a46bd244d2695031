"""What an entry must be like, whatever the ledger holds: every refusal, and parents at every limit."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from settling import id_of, money, ownership, rows_of
from shards import asset

from ledger.entry import AMOUNT_MAX, PARENTS_MAX, SHARD_MAX, Entry, Flag, Kind, Parent, encode
from ledger.result import Result
from ledger.rules import check, mark_unknown_parents, parent_ends

SHARD, SIZE = 3, 100
COVERED = np.zeros(SHARD_MAX + 1, np.uint64)
COVERED[[0, 7, SHARD_MAX]] = 1, 50, 2**64 - 1

LINKED, PENDING, POST, VOID, EXPIRED = Flag.LINKED, Flag.PENDING, Flag.POST, Flag.VOID, Flag.EXPIRED
LIMITS = (Flag.DEBITS_WITHIN_CREDITS, Flag.CREDITS_WITHIN_DEBITS)
TRANSFERS = (Kind.MONEY, Kind.OWNERSHIP)


def child(*parents: Parent, number: int = 9) -> Entry:
    return Entry(kind=Kind.DERIVATION, id=id_of(number), parents=parents)


def results_of(*entries: Entry, size: int = SIZE, may_expire: bool = False) -> list[Result]:
    codes = check(rows_of(*entries), SHARD, size, COVERED, may_expire=may_expire)
    assert codes.dtype == np.uint8
    return [Result(code) for code in codes.tolist()]


def changed(entry: Entry, *changes: tuple[int, int]) -> np.ndarray:
    """uint8[1, 240], with some bytes set that `encode` would not write."""
    row = np.frombuffer(encode(entry), np.uint8).reshape(1, -1).copy()
    for place, value in changes:
        row[0, place] = value
    return row


def result_of_changed(entry: Entry, *changes: tuple[int, int]) -> Result:
    return Result(int(check(changed(entry, *changes), SHARD, SIZE, COVERED)[0]))


def test_no_entries_have_no_results() -> None:
    assert check(rows_of(asset(1))[:0], SHARD, SIZE, COVERED).tolist() == []


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_passes_with_largest_numbers(kind: Kind) -> None:
    entry = Entry(
        kind=kind,
        id=b"\xff" * 16,
        tier=255,
        code=2**16 - 1,
        currency=2**32 - 1,
        amount=1 if kind == Kind.DECISION else AMOUNT_MAX,
        num_bytes=2**64 - 1,
        owner=b"\xff" * 16,
        subject=b"\xff" * 16,
        content_hash=b"\xff" * 32,
        meta_hash=b"\xff" * 32,
        request_hash=b"\xff" * 32,
        parents=((SHARD, 0), (SHARD, SIZE - 1), (7, 49), (SHARD_MAX, 2**64 - 2)),
        time_ns=2**64 - 1,
    )
    assert results_of(entry) == [Result.OK]


def test_a_decision_is_yes_or_no() -> None:
    no, yes, neither = (Entry(kind=Kind.DECISION, id=id_of(9 + amount), amount=amount) for amount in range(3))
    assert results_of(no, yes, neither) == [Result.OK, Result.OK, Result.NOT_CANONICAL]


@pytest.mark.parametrize("place", [73, *range(224, 240)])
@pytest.mark.parametrize("value", [1, 0x80])
def test_reserved_bytes_are_zero(place: int, value: int) -> None:
    assert result_of_changed(asset(1), (place, value)) == Result.NOT_CANONICAL


@pytest.mark.parametrize("kind", [0, max(Kind) + 1, 127, 128, 255])
def test_an_unknown_kind_is_not_canonical(kind: int) -> None:
    assert result_of_changed(asset(1), (2, kind)) == Result.NOT_CANONICAL


def test_all_kinds_from_the_first_to_the_last_are_known() -> None:
    assert [int(kind) for kind in Kind] == list(range(1, max(Kind) + 1))


@pytest.mark.parametrize("number", [AMOUNT_MAX + 1, 2**64 - 1])
def test_an_amount_beyond_the_largest_is_not_canonical(number: int) -> None:
    amount = [(80 + place, byte) for place, byte in enumerate(number.to_bytes(8, "little"))]
    assert result_of_changed(money(1, 2, 3, 1), *amount) == Result.NOT_CANONICAL


@pytest.mark.parametrize("num_parents", [PARENTS_MAX + 1, 127, 128, 255])
def test_more_parents_than_there_is_room_for_are_not_canonical(num_parents: int) -> None:
    full = child(*((SHARD, index) for index in range(PARENTS_MAX)))
    assert result_of_changed(full, (72, num_parents)) == Result.NOT_CANONICAL


@pytest.mark.parametrize("num_parents", range(PARENTS_MAX))
@pytest.mark.parametrize("field", [32, 64], ids=["index", "shard"])
def test_places_of_parents_that_there_are_not_are_zero(num_parents: int, field: int) -> None:
    entry = child(*((SHARD, index) for index in range(num_parents)))
    width = 8 if field == 32 else 2
    for place in range(num_parents, PARENTS_MAX):
        for byte in (0, width - 1):
            assert result_of_changed(entry, (field + width * place + byte, 0x80)) == Result.NOT_CANONICAL


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
def test_a_parent_is_named_once(first: int, second: int) -> None:
    entry = child((SHARD, 10), (SHARD, 11), (7, 10), (7, 11))
    assert results_of(entry) == [Result.OK]
    index = entry.parents[first][1].to_bytes(8, "little")
    shard = entry.parents[first][0].to_bytes(2, "little")
    changes = [(32 + 8 * second + place, byte) for place, byte in enumerate(index)]
    changes += [(64 + 2 * second + place, byte) for place, byte in enumerate(shard)]
    assert result_of_changed(entry, *changes) == Result.NOT_CANONICAL


def test_an_id_of_zeros_is_none_and_one_bit_makes_it_one() -> None:
    assert results_of(asset(1, id=bytes(16))) == [Result.ID_MUST_NOT_BE_ZERO]  # type: ignore[arg-type]
    for place in range(16, 32):
        assert result_of_changed(asset(0), (place, 1)) == Result.OK


def flags_of(kind: Kind, *, may_expire: bool) -> Flag:
    """Those that an entry may have, by the table of kinds and flags."""
    if kind == Kind.ACCOUNT:
        return LINKED | LIMITS[0] | LIMITS[1]
    if kind in TRANSFERS:
        return LINKED | PENDING | POST | VOID | (EXPIRED if may_expire else Flag(0))
    return LINKED


@pytest.mark.parametrize("may_expire", [False, True])
@pytest.mark.parametrize("kind", Kind)
def test_a_kind_has_its_flags_and_no_others(kind: Kind, may_expire: bool) -> None:
    allowed = flags_of(kind, may_expire=may_expire)
    for bit in range(16):
        row = changed(Entry(kind=kind, id=id_of(1)), (4 + bit // 8, 1 << bit % 8))
        expected = Result.OK if 1 << bit & allowed else Result.RESERVED_FLAG
        assert check(row, SHARD, SIZE, COVERED, may_expire=may_expire).tolist() == [expected]


def test_only_the_ledger_itself_says_that_a_time_is_over() -> None:
    ends = [money(1, 0, 0, 0, EXPIRED, subject=id_of(5)), ownership(2, 5, 0, 0, EXPIRED)]
    assert results_of(*ends) == [Result.RESERVED_FLAG] * 2
    assert results_of(*ends, may_expire=True) == [Result.OK] * 2


def test_of_several_faults_the_one_listed_first_is_told() -> None:
    faults: list[tuple[Result, Callable[[np.ndarray], None]]] = [
        (Result.RESERVED_FLAG, lambda row: row[:, 4:6].fill(0x80)),
        (Result.ID_MUST_NOT_BE_ZERO, lambda row: row[:, 16:32].fill(0)),
        (Result.NOT_CANONICAL, lambda row: row[:, 230].fill(1)),
        (Result.UNKNOWN_PARENT, lambda row: row[:, 33].fill(1)),
    ]
    assert sorted(result for result, _ in faults) == [result for result, _ in faults]
    for kind in Kind:
        row = changed(msgspec.structs.replace(child((SHARD, 0)), kind=kind))
        for expected, spoil in reversed(faults):
            spoil(row)
            assert check(row, SHARD, SIZE, COVERED).tolist() == [expected]


def test_each_entry_is_judged_by_itself() -> None:
    entries = [asset(1), asset(0), child((SHARD, SIZE + 2)), asset(2), child((7, 50))]
    assert results_of(*entries) == [
        Result.OK,
        Result.ID_MUST_NOT_BE_ZERO,
        Result.UNKNOWN_PARENT,
        Result.OK,
        Result.UNKNOWN_PARENT,
    ]


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ((SHARD, 0), Result.OK),
        ((SHARD, SIZE - 1), Result.OK),
        ((SHARD, SIZE), Result.UNKNOWN_PARENT),  # itself
        ((SHARD, SIZE + 1), Result.UNKNOWN_PARENT),
        ((SHARD, 2**63), Result.UNKNOWN_PARENT),
        ((SHARD, 2**64 - 1), Result.UNKNOWN_PARENT),
        ((0, 0), Result.OK),
        ((0, 1), Result.UNKNOWN_PARENT),
        ((7, 49), Result.OK),
        ((7, 50), Result.UNKNOWN_PARENT),
        ((1, 0), Result.UNKNOWN_PARENT),  # nothing is known of that shard
        ((SHARD_MAX, 2**64 - 2), Result.OK),
        ((SHARD_MAX, 2**64 - 1), Result.UNKNOWN_PARENT),
        ((SHARD_MAX - 1, 0), Result.UNKNOWN_PARENT),
    ],
)
def test_a_parent_comes_before_its_child_or_is_covered(parent: Parent, expected: Result) -> None:
    others = [(7, 1), (7, 2), (7, 3)]
    for place in range(PARENTS_MAX):
        assert results_of(child(*others[:place], parent, *others[place:])) == [expected]
    assert results_of(child(parent)) == [expected]


def test_what_a_checkpoint_covers_of_the_shard_itself_does_not_count() -> None:
    covered = COVERED.copy()
    covered[SHARD] = 2**64 - 1
    assert check(rows_of(child((SHARD, SIZE))), SHARD, SIZE, covered).tolist() == [Result.UNKNOWN_PARENT]


def test_the_first_entry_of_a_shard_has_no_parent_there() -> None:
    assert results_of(child((SHARD, 0)), size=0) == [Result.UNKNOWN_PARENT]
    assert results_of(asset(1), child((SHARD, 0)), size=0) == [Result.OK, Result.OK]


def test_a_parent_in_the_same_batch_comes_before_its_child() -> None:
    family = [child((SHARD, SIZE + place - 1), (SHARD, place), number=place + 1) for place in range(1, 5)]
    assert results_of(asset(1), *family) == [Result.OK] * 5
    assert results_of(*family) == [Result.UNKNOWN_PARENT] * 4


def settled(entries: list[Entry], refused: dict[int, Result]) -> list[Result]:
    """The results of a batch in which some entries are refused or repeats, after its parents were looked for."""
    rows = rows_of(*entries)
    results = check(rows, SHARD, SIZE, COVERED)
    for place, result in refused.items():
        results[place] = result
    mark_unknown_parents(parent_ends(rows, SHARD, results), SIZE, results)
    return [Result(code) for code in results.tolist()]


def test_an_entry_names_the_place_its_parent_gets_only_if_all_between_are_recorded() -> None:
    batch = [asset(1), asset(2), asset(3), child((SHARD, SIZE + 2)), child((SHARD, SIZE + 1), number=10)]
    assert settled(batch, {}) == [Result.OK] * 5
    assert settled(batch, {0: Result.EXISTS}) == [
        Result.EXISTS,
        Result.OK,
        Result.OK,
        Result.UNKNOWN_PARENT,  # it would name itself
        Result.OK,
    ]
    assert settled(batch, {0: Result.EXISTS, 1: Result.ID_MUST_NOT_BE_ZERO})[2:] == [
        Result.OK,
        Result.UNKNOWN_PARENT,
        Result.UNKNOWN_PARENT,
    ]


def test_what_has_no_place_because_its_parent_has_none_moves_those_behind_it() -> None:
    batch = [asset(1), child((SHARD, SIZE), number=2), child((SHARD, SIZE + 1), number=3)]
    assert settled(batch, {}) == [Result.OK] * 3
    assert settled(batch, {0: Result.EXISTS}) == [Result.EXISTS, Result.UNKNOWN_PARENT, Result.UNKNOWN_PARENT]


def test_what_is_refused_already_keeps_its_reason() -> None:
    batch = [child((SHARD, SIZE - 1)), child((SHARD, SIZE), number=10)]
    assert settled(batch, {1: Result.EXISTS}) == [Result.OK, Result.EXISTS]


def test_the_lowest_place_of_an_entry_is_behind_its_last_parent_here() -> None:
    entries = [asset(1), child((7, 49)), child((SHARD, 5), (SHARD, 40), (SHARD, 7), (7, 49)), child((SHARD, SIZE + 9))]
    rows = rows_of(*entries)
    assert parent_ends(rows, SHARD, check(rows, SHARD, SIZE, COVERED)).tolist() == [0, 0, 41, 0]


def test_places_near_the_end_of_all_numbers_are_compared_exactly() -> None:
    """Where a float would do for an integer, neighbours would be equal."""
    size = 2**63 - 10
    entries = [child((SHARD, size - 1)), child((SHARD, size + 1), number=10), child((SHARD, size + 2), number=11)]
    assert results_of(*entries, size=size) == [Result.OK, Result.UNKNOWN_PARENT, Result.UNKNOWN_PARENT]
    rows = rows_of(*entries)
    results = check(rows, SHARD, size, COVERED)
    ends = parent_ends(rows, SHARD, results)
    assert ends.tolist() == [size, 0, 0]
    mark_unknown_parents(ends, size - 1, results)
    assert results[0] == Result.UNKNOWN_PARENT
