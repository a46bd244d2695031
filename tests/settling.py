"""A desk that offers entries to a book as a shard would, and short ways to write such entries."""

import msgspec
import numpy as np

from ledger.book import Book
from ledger.entry import ENTRY_BYTES, ZERO_ID, Entry, Flag, Kind, as_bytes, encode, from_bytes
from ledger.result import Result
from ledger.settlement import apply_batch

START_NS = 1_000_000_000_000
NS_PER_S = 10**9
PLAIN = Flag(0)

ALICE, BOB, CAROL, SPARE, EURO, FREE = 1, 2, 3, 4, 5, 6
PICTURE, NEW_PICTURE = 50, 51
HELD_MONEY, HELD_TIMED, HELD_PICTURE = 60, 61, 62


def id_of(number: int) -> bytes:
    """bytes[16]; both halves depend on the number, and 0 gives the id of nothing."""
    return number.to_bytes(8, "little") + (number << 8).to_bytes(8, "little")


def account(number: int, flags: Flag = PLAIN, currency: int = 1) -> Entry:
    return Entry(kind=Kind.ACCOUNT, id=id_of(number), flags=flags, currency=currency)


def money(number: int, debit: int, credit: int, amount: int, flags: Flag = PLAIN, **fields: object) -> Entry:
    halves = id_of(debit) + id_of(credit)
    plain = Entry(kind=Kind.MONEY, id=id_of(number), content_hash=halves, amount=amount, flags=flags, currency=1)
    return msgspec.structs.replace(plain, **fields)


def ownership(number: int, asset: int, old: int, new: int, flags: Flag = PLAIN, **fields: object) -> Entry:
    halves = id_of(old) + ZERO_ID
    plain = Entry(
        kind=Kind.OWNERSHIP,
        id=id_of(number),
        subject=id_of(asset),
        content_hash=halves,
        owner=id_of(new),
        flags=flags,
    )
    return msgspec.structs.replace(plain, **fields)


def ending(number: int, pending: int, flags: Flag, kind: Kind = Kind.MONEY, **fields: object) -> Entry:
    plain = Entry(kind=kind, id=id_of(number), subject=id_of(pending), flags=flags)
    return msgspec.structs.replace(plain, **fields)


def asset(number: int, owner: int, flags: Flag = PLAIN) -> Entry:
    return Entry(kind=Kind.ASSET, id=id_of(number), owner=id_of(owner), flags=flags)


class Desk:
    """Offers batches to a book, gives every entry a time, and keeps what was recorded."""

    def __init__(self, seed: bytes = b"") -> None:
        self.book = Book(seed)
        self.now_ns = START_NS
        self.recorded: list[bytes] = []

    def offer(
        self,
        *entries: Entry,
        results: dict[int, Result] | None = None,
        owners: dict[int, bytes] | None = None,
        statuses: dict[int, Result] | None = None,
        commit: bool = True,
    ) -> list[Result]:
        """What becomes of a batch; the dictionaries are by place in it. Uncommitted entries are not kept."""
        num_entries = len(entries)
        codes = np.zeros(num_entries, np.uint8)
        hint_owners = np.zeros((num_entries, 2), np.uint64)
        hint_statuses = np.zeros(num_entries, np.uint8)
        for place, code in (results or {}).items():
            codes[place] = code
        for place, owner in (owners or {}).items():
            hint_owners[place] = np.frombuffer(owner, np.uint64)
        for place, status in (statuses or {}).items():
            hint_statuses[place] = status
        data = [encode(msgspec.structs.replace(entry, time_ns=self.tick())) for entry in entries]
        rows = np.frombuffer(b"".join(data), np.uint8).reshape(num_entries, ENTRY_BYTES)
        self.book.reserve(num_entries)
        no_parents = np.zeros(num_entries, np.uint64)
        num_recorded = apply_batch(
            self.book.state, rows, len(self.recorded), codes, no_parents, hint_owners, hint_statuses
        )
        assert num_recorded == np.count_nonzero(codes == Result.OK)
        if commit:
            self.book.commit()
            self.recorded += [row for row, code in zip(data, codes, strict=True) if code == Result.OK]
        return [Result(int(code)) for code in codes]

    def take(self, *entries: Entry) -> None:
        """Record entries that are in order."""
        results = self.offer(*entries)
        assert set(results) <= {Result.OK}, results

    def tick(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def replayed(self) -> Book:
        """Another book, from the recorded entries alone."""
        book = Book(b"another")
        book.replay(from_bytes(b"".join(self.recorded)), 0)
        return book


def rows_of(*entries: Entry) -> np.ndarray:
    return as_bytes(from_bytes(b"".join(map(encode, entries))))


# Alice may not spend what she has not got (she has 100); Carol may not receive more than she has given (nothing).
# The spare account and the free one have no limits. Held: 30 and 5 of the free account's, and the picture.
WORLD = (
    account(ALICE, Flag.DEBITS_WITHIN_CREDITS),
    account(BOB),
    account(CAROL, Flag.CREDITS_WITHIN_DEBITS),
    account(SPARE),
    account(EURO, currency=2),
    account(FREE),
    money(80, BOB, ALICE, 100),
    money(HELD_MONEY, FREE, BOB, 30, Flag.PENDING, code=7),
    money(HELD_TIMED, FREE, BOB, 5, Flag.PENDING, num_bytes=1),
    asset(PICTURE, ALICE),
    ownership(HELD_PICTURE, PICTURE, ALICE, BOB, Flag.PENDING, code=7),
)


def open_world() -> Desk:
    desk = Desk()
    desk.take(*WORLD)
    return desk
