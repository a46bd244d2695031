"""The book: what it says, what it forgets, its canonical bytes, and replaying what was recorded."""

import hashlib
import struct

import numpy as np
import pytest
from settling import (
    ALICE,
    BOB,
    CAROL,
    FREE,
    HELD_MONEY,
    HELD_PICTURE,
    HELD_TIMED,
    NEW_PICTURE,
    NS_PER_S,
    PICTURE,
    SPARE,
    START_NS,
    WORLD,
    Desk,
    account,
    asset,
    ending,
    id_of,
    money,
    open_world,
    ownership,
    rows_of,
)

from ledger.book import SNAPSHOT_HASH_BYTES, SNAPSHOT_MAGIC, Balance, Book, snapshot_size
from ledger.entry import AMOUNT_MAX, Flag, Kind, from_bytes
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.positions import ACCOUNT_DTYPE, ASSET_DTYPE, PENDING_DTYPE, mark, rollback
from ledger.result import Result
from ledger.settlement import apply_batch

PENDING, POST, VOID = Flag.PENDING, Flag.POST, Flag.VOID
NEW, OTHER = 90, 91
OWNER_HINT = {0: id_of(ALICE)}


def test_due_tells_by_expiry_then_index_and_no_more_than_asked() -> None:
    desk = Desk()
    desk.take(account(ALICE), account(BOB), asset(PICTURE, ALICE))
    seconds = {70: 3, 71: 1, 72: 0, 73: 2, 74: 1}
    desk.take(*(money(number, ALICE, BOB, 1, PENDING, num_bytes=timeout) for number, timeout in seconds.items()))
    assert desk.book.due(START_NS + NS_PER_S) == []
    far = desk.now_ns + 3 * NS_PER_S
    assert desk.book.due(far) == [id_of(71), id_of(74), id_of(73), id_of(70)]
    assert desk.book.due(far, 2) == [id_of(71), id_of(74)]
    desk.take(ending(NEW, 71, VOID))
    assert desk.book.due(far, 1) == [id_of(74)]
    assert desk.book.due(START_NS) == []
    desk.take(money(75, ALICE, BOB, 1, PENDING, num_bytes=1))
    assert Book.load(desk.book.snapshot()).due(far) == desk.book.due(far) == [id_of(n) for n in (74, 75, 73, 70)]


def test_a_transfer_that_comes_back_by_a_rollback_is_due_again() -> None:
    desk = open_world()
    far, before = desk.now_ns + NS_PER_S, mark(desk.book.state)
    desk.offer(ending(NEW, HELD_TIMED, VOID), commit=False)
    assert desk.book.due(far) == []
    rollback(desk.book.state, before)
    assert desk.book.due(far) == [id_of(HELD_TIMED)]


def test_a_batch_that_could_not_be_written_is_undone_exactly() -> None:
    desk = open_world()
    snapshot, before = desk.book.snapshot(), mark(desk.book.state)
    batch = (
        account(90),
        money(91, ALICE, 90, 7, PENDING),
        ending(92, 91, POST, amount=3),
        ending(93, HELD_MONEY, VOID),
        ending(94, HELD_PICTURE, POST, Kind.OWNERSHIP),
        ownership(95, PICTURE, BOB, CAROL, PENDING),
        asset(NEW_PICTURE, ALICE),
        ownership(96, NEW_PICTURE, ALICE, BOB),
    )
    assert set(desk.offer(*batch, commit=False)) == {Result.OK}
    assert desk.book.snapshot() != snapshot
    rollback(desk.book.state, before)
    assert desk.book.snapshot() == snapshot
    assert set(desk.offer(*batch)) == {Result.OK}
    assert desk.replayed().snapshot() == desk.book.snapshot()


def test_a_snapshot_depends_on_neither_seed_nor_room_nor_on_what_was_undone() -> None:
    desk, other = open_world(), Desk(b"secret")
    other.book.reserve(1000)
    for entry in WORLD:
        other.offer(money(99, SPARE, FREE, 1, PENDING), commit=False)
        rollback(other.book.state, 0)
        other.now_ns -= 1
        other.take(entry) if entry.kind != Kind.OWNERSHIP else other.offer(entry, owners=OWNER_HINT)
    assert other.book.snapshot() == desk.book.snapshot() == Book.load(desk.book.snapshot(), b"third").snapshot()


def test_a_snapshot_tells_pending_transfers_by_index_wherever_their_rows_are() -> None:
    desk = Desk()
    desk.take(account(ALICE), account(BOB), *(money(number, ALICE, BOB, 1, PENDING) for number in (70, 71)))
    desk.take(ending(72, 70, VOID))
    desk.take(money(73, ALICE, BOB, 1, PENDING))
    assert desk.book.snapshot() == desk.replayed().snapshot()


def test_a_loaded_book_goes_on_where_the_other_stopped() -> None:
    desk = open_world()
    loaded = Desk()
    loaded.book, loaded.now_ns, loaded.recorded = Book.load(desk.book.snapshot()), desk.now_ns, [*desk.recorded]
    for each in (desk, loaded):
        each.take(ending(90, HELD_MONEY, POST), ending(91, HELD_PICTURE, VOID, Kind.OWNERSHIP), money(92, FREE, BOB, 1))
    assert loaded.book.snapshot() == desk.book.snapshot()


@pytest.mark.parametrize("place", [0, len(SNAPSHOT_MAGIC), 100, -SNAPSHOT_HASH_BYTES - 1, -1])
def test_a_damaged_snapshot_is_refused(place: int) -> None:
    data = bytearray(open_world().book.snapshot())
    data[place] ^= 1
    with pytest.raises(LedgerCorrupt, match="snapshot"):
        Book.load(bytes(data))


def test_a_snapshot_says_after_how_many_entries_it_was_taken_and_is_refused_with_another_number() -> None:
    data = bytearray(open_world().book.snapshot(7))
    assert snapshot_size(data) == 7
    data[0] = 6
    with pytest.raises(LedgerCorrupt, match="snapshot"):
        Book.load(bytes(data))


def hashed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


NO_SNAPSHOTS = (
    b"",
    SNAPSHOT_MAGIC,
    hashed(b"x" * 40),
    hashed(b"x" * 80),
    hashed(bytes(8) + SNAPSHOT_MAGIC + struct.pack("<QQQ", 0, 1, 0)),
    hashed(bytes(8) + SNAPSHOT_MAGIC + struct.pack("<QQQ", 2**60, 0, 0)),
)


@pytest.mark.parametrize("data", NO_SNAPSHOTS)
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="snapshot"):
        Book.load(data)


def test_a_replayed_entry_that_breaks_a_rule_is_named() -> None:
    desk = open_world()
    recorded = [*desk.recorded, *map(bytes, rows_of(money(90, ALICE, BOB, 101)))]
    with pytest.raises(LedgerCorrupt, match=r"index 1011: .*EXCEEDS_CREDITS"):
        Book().replay(from_bytes(b"".join(recorded)), 1000)


def test_a_verifier_that_believes_nothing_finds_a_false_first_owner() -> None:
    entries = from_bytes(rows_of(ownership(1, PICTURE, BOB, CAROL)).tobytes())
    Book().replay(entries, 0)
    with pytest.raises(LedgerCorrupt, match=r"index 0: .*OWNER_MISMATCH"):
        Book().replay(entries, 0, np.frombuffer(id_of(ALICE), np.uint64).reshape(1, 2))


def test_an_unknown_account_has_no_balance() -> None:
    with pytest.raises(EntryNotFound, match=id_of(OTHER).hex()):
        Book().balance(id_of(OTHER))


def test_a_trial_balance_is_exact_beyond_64_bits() -> None:
    desk = Desk()
    desk.take(*map(account, range(1, 11)))
    desk.take(*(money(20 + n, n, n + 1, AMOUNT_MAX) for n in range(1, 10, 2)))
    assert desk.book.trial_balance() == {1: (5 * AMOUNT_MAX, 5 * AMOUNT_MAX, 0, 0)}
    assert Book().trial_balance() == {}


def test_without_room_nothing_is_applied() -> None:
    desk = open_world()
    snapshot = desk.book.snapshot()
    desk.book.reserve(0)
    none = np.zeros(1, np.uint64), np.zeros((1, 2), np.uint64), np.zeros(1, np.uint8)
    with pytest.raises(AssertionError, match="room"):
        apply_batch(desk.book.state, rows_of(account(90)), 0, np.zeros(1, np.uint8), *none)
    assert desk.book.snapshot() == snapshot


def test_a_book_grows_past_its_first_room_and_forgets_what_ended() -> None:
    desk = Desk()
    desk.take(account(1), account(2))
    for begin in range(1000, 3000, 200):
        desk.take(*(money(number, 1, 2, 3, PENDING) for number in range(begin, begin + 200)))
        desk.take(*(ending(10 * number, number, POST) for number in range(begin, begin + 199)))
    assert desk.book.balance(id_of(1)) == Balance(1, 0, 30, 5970, 0, 0, 0)
    live = [number for number in range(1000, 3000) if desk.book.pending(id_of(number))]
    assert live == list(range(1199, 3000, 200))
    assert desk.book.state["num_pendings"] < 300
    assert desk.replayed().snapshot() == desk.book.snapshot()


@pytest.mark.parametrize("dtype", [ACCOUNT_DTYPE, PENDING_DTYPE, ASSET_DTYPE])
def test_rows_of_a_snapshot_have_no_padding(dtype: np.dtype) -> None:
    assert dtype.itemsize == sum(dtype[name].itemsize for name in dtype.names)
