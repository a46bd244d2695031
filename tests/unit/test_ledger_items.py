"""What entries are found by: their traits, their keys and the index's items, against entries decoded one by one."""

import random
from collections import defaultdict

import numpy as np
import pytest
from settling import account, ending, id_of, money, ownership, rows_of
from shards import asset

from ledger.entry import HASH_BYTES, ID_BYTES, KINDS_WITH_CONTENT, Entry, Flag, Kind, as_bytes, encode, from_bytes
from ledger.items import (
    HAS_ERASURES,
    HAS_PARENTS,
    NO_PLACE,
    SETTLES,
    id_keys,
    insert_items,
    previous_with_key,
    subject_keys,
    traits_of,
)
from ledger.newest import parent_value
from ledger.runs import Family
from ledger.tail import SEED_BYTES, Tail, found, keys_of, new_tail

SEED = bytes(range(SEED_BYTES))
FIRST_INDEX = 2**40 + 3
NUM_ITEMS_MAX = 4096


def erasure(number: int, subject: int) -> Entry:
    return Entry(kind=Kind.ERASURE, id=id_of(number), subject=id_of(subject))


def child(number: int, **fields: object) -> Entry:
    return asset(number, parents=((1, 5),), **fields)


TRAITS = {
    "an asset": ([asset(1)], 0),
    "two assets": ([asset(1), asset(2)], 0),
    "a child": ([asset(1), child(2)], HAS_PARENTS),
    "an erasure": ([erasure(1, 2), asset(3)], HAS_ERASURES),
    "an account": ([account(1)], SETTLES),
    "money": ([asset(1), money(2, 3, 4, 1)], SETTLES),
    "ownership": ([ownership(2, 1, 3, 4)], SETTLES),
    "the end of a transfer": ([ending(2, 1, Flag.POST)], SETTLES),
    "a chain": ([asset(1, flags=Flag.LINKED), asset(2)], SETTLES),
    "a flag that nothing has": ([asset(1, flags=Flag.CREDITS_WITHIN_DEBITS)], SETTLES),
    "all": ([child(1), erasure(2, 1), account(3)], HAS_PARENTS | HAS_ERASURES | SETTLES),
}


@pytest.mark.parametrize("what", TRAITS)
def test_a_batch_has_the_traits_of_its_entries(what: str) -> None:
    entries, traits = TRAITS[what]
    assert traits_of(rows_of(*entries)) == traits
    assert traits_of(rows_of(*reversed(entries))) == traits


@pytest.mark.parametrize("kind", Kind)
def test_only_money_accounts_and_ownership_settle_and_only_erasures_erase(kind: Kind) -> None:
    expected = SETTLES if kind in (Kind.ACCOUNT, Kind.MONEY, Kind.OWNERSHIP) else 0
    expected |= HAS_ERASURES if kind == Kind.ERASURE else 0
    assert traits_of(rows_of(Entry(kind=kind, id=id_of(1), tier=255, shard=2**16 - 1, time_ns=2**64 - 1))) == expected


@pytest.mark.parametrize("bit", range(16))
def test_any_flag_at_all_is_looked_at_closer(bit: int) -> None:
    row = np.frombuffer(encode(asset(1)), np.uint8).reshape(1, -1).copy()
    row[0, 4 + bit // 8] = 1 << bit % 8
    assert traits_of(row) == SETTLES


def test_no_entries_have_no_traits_and_no_keys() -> None:
    rows = rows_of(asset(1))[:0]
    assert traits_of(rows) == 0
    assert len(id_keys(rows, SEED)) == len(subject_keys(rows, SEED)) == len(previous_with_key(id_keys(rows, SEED))) == 0


def test_keys_are_those_of_the_ids_and_of_the_subjects_under_the_seed() -> None:
    rows = rows_of(*(ownership(number, number + 100, 1, 2) for number in range(1, 20)))
    assert (id_keys(rows, SEED) == keys_of(rows[:, 16:32], SEED)).all()
    assert (subject_keys(rows, SEED) == keys_of(rows[:, 112:128], SEED)).all()
    assert not np.isin(id_keys(rows, SEED), id_keys(rows, SEED[::-1])).any()
    assert len({*id_keys(rows, SEED).tolist(), *subject_keys(rows, SEED).tolist()}) == 38


def naive_previous(keys: list[int]) -> list[int]:
    newest: dict[int, int] = {}
    out = []
    for place, key in enumerate(keys):
        out.append(newest.get(key, NO_PLACE))
        newest[key] = place
    return out


def clashing(number: int) -> int:
    """Keys that differ in their upper half only: all of one bucket, however many buckets there are."""
    return (number << 40) | 0xFFFF_FFFF


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [0],
        [0, 0],
        [2**64 - 1, 0, 2**64 - 1],
        [7] * 100,
        [1, 2, 3, 1, 2, 3, 3],
        [clashing(number) for number in range(200)],
        [clashing(number % 50) for number in range(200)],
        [15, 31, 15, 31, 0, 16, 0],  # a cluster that runs over the last bucket of sixteen
        [2**63, 2**63 + 1, 2**63, 2**63 - 1],  # a float would not tell them apart
    ],
    ids=str,
)
def test_equal_keys_are_found_and_colliding_ones_told_apart(keys: list[int]) -> None:
    previous = previous_with_key(np.array(keys, np.uint64))
    assert previous.dtype == np.int64
    assert previous.tolist() == naive_previous(keys)


@pytest.mark.parametrize("seed", range(20))
def test_any_keys_are_found_as_a_dictionary_finds_them(seed: int) -> None:
    source = random.Random(seed)
    values = [source.choice([source.getrandbits(64), clashing(source.randrange(9))]) for _ in range(40)]
    keys = [source.choice(values) for _ in range(source.randrange(300))]
    assert previous_with_key(np.array(keys, np.uint64)).tolist() == naive_previous(keys)


def test_a_batch_of_the_largest_size_is_taken() -> None:
    keys = np.arange(8192, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert (previous_with_key(keys) == NO_PLACE).all()
    assert previous_with_key(np.concatenate([keys, keys])).tolist() == [NO_PLACE] * 8192 + list(range(8192))


Items = dict[Family, dict[int, list[int]]]


def naive_items(entries: list[Entry], first_index: int) -> Items:
    """The indices under each key, by family, from the decoded entries."""
    items: Items = {family: defaultdict(list) for family in Family}
    for index, entry in enumerate(entries, first_index):
        values = {(Family.ID, entry.id)}
        values |= {(family, value) for family, value in ((Family.SUBJECT, entry.subject), (Family.OWNER, entry.owner))}
        if entry.kind in KINDS_WITH_CONTENT:
            values.add((Family.CONTENT, entry.content_hash))
        values = {(family, value) for family, value in values if any(value) or family == Family.ID}
        values |= {(Family.PARENT, parent_value(parent)) for parent in entry.parents}
        for family, value in values:
            items[family][key_of_bytes(value)].append(index)
    return items


def key_of_bytes(value: bytes) -> int:
    return int(keys_of(np.frombuffer(value, np.uint8).reshape(1, -1), SEED)[0])


def new_tails() -> tuple[Tail, ...]:
    return tuple(new_tail(NUM_ITEMS_MAX) for _ in Family)


def items_of(tails: tuple[Tail, ...]) -> Items:
    """What the tables hold."""
    return {
        family: {
            key: found(tails[family], key).tolist() for key in tails[family].keys[: tails[family].num_items[0]].tolist()
        }
        for family in Family
    }


def insert(entries: list[Entry], first_index: int, tails: tuple[Tail, ...]) -> None:
    rows = rows_of(*entries) if entries else as_bytes(from_bytes(b""))
    insert_items(rows, id_keys(rows, SEED), first_index, SEED, tails)


def drawn(source: random.Random, number: int) -> Entry:
    """Few values, so that many entries share one; some have a half of a value that is zero."""
    ids = [bytes(ID_BYTES), id_of(1), bytes(8) + id_of(2)[:8], id_of(3)[:8] + bytes(8)]
    contents = [bytes(HASH_BYTES), *(bytes(8 * word) + b"\x01" * 8 + bytes(24 - 8 * word) for word in range(4))]
    places = [(shard, index) for shard in (0, 1, 2**16 - 1) for index in (0, 1, 2**64 - 1)]
    return Entry(
        kind=source.choice(list(Kind)),
        id=id_of(number),
        owner=source.choice(ids),
        subject=source.choice(ids),
        content_hash=source.choice(contents),
        parents=tuple(source.sample(places, source.randrange(5))),
    )


@pytest.mark.parametrize("seed", range(10))
def test_entries_are_put_under_the_keys_that_they_have_when_decoded(seed: int) -> None:
    source = random.Random(seed)
    entries = [drawn(source, number) for number in range(1, source.randrange(2, 200))]
    tails = new_tails()
    cut = source.randrange(len(entries) + 1)
    insert(entries[:cut], FIRST_INDEX, tails)
    insert(entries[cut:], FIRST_INDEX + cut, tails)
    assert items_of(tails) == naive_items(entries, FIRST_INDEX)


@pytest.mark.parametrize("kind", Kind)
def test_an_entry_is_found_by_its_content_only_if_its_kind_has_one(kind: Kind) -> None:
    tails = new_tails()
    insert([Entry(kind=kind, id=id_of(1), content_hash=b"\x01" * HASH_BYTES)], 0, tails)
    assert int(tails[Family.CONTENT].num_items[0]) == (kind in KINDS_WITH_CONTENT)


def test_no_entries_leave_the_tables_as_they_are() -> None:
    tails = new_tails()
    insert([], FIRST_INDEX, tails)
    assert items_of(tails) == {family: {} for family in Family}


def test_the_place_zero_of_shard_zero_is_a_parent_like_any_other() -> None:
    tails = new_tails()
    insert([asset(2, parents=((0, 0),))], 7, tails)
    assert found(tails[Family.PARENT], key_of_bytes(parent_value((0, 0)))).tolist() == [7]


def test_more_parents_than_there_is_room_for_are_not_looked_at() -> None:
    """The number of parents as a damaged disk gives it."""
    row = rows_of(asset(1, parents=((0, 1), (0, 2), (0, 3), (0, 4)))).copy()
    row[0, 72] = 255
    tails = new_tails()
    insert_items(row, id_keys(row, SEED), 0, SEED, tails)
    assert int(tails[Family.PARENT].num_items[0]) == 4
