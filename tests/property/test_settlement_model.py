"""Any batches, offered to a book and to a model of dictionaries: the same results, balances and owners."""

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from settling import NS_PER_S, Desk, account, asset, ending, id_of, money, ownership

from ledger import idtable
from ledger.book import Book
from ledger.entry import AMOUNT_MAX, ZERO_ID, Entry, Flag, Kind
from ledger.positions import mark, rollback
from ledger.result import Result

MODES = Flag.PENDING | Flag.POST | Flag.VOID | Flag.EXPIRED
ENDS = Flag.POST | Flag.VOID | Flag.EXPIRED
FATES = {
    Flag.POST: Result.PENDING_TRANSFER_ALREADY_POSTED,
    Flag.VOID: Result.PENDING_TRANSFER_ALREADY_VOIDED,
    Flag.EXPIRED: Result.PENDING_TRANSFER_EXPIRED,
}
LIMITS = Flag.DEBITS_WITHIN_CREDITS, Flag.CREDITS_WITHIN_DEBITS
NUM_ACCOUNTS = 4
FIRST_ASSET, NUM_ASSETS = 100, 2
FIRST_TRANSFER = 1000


class Model:
    """The rules again, from what the result codes say, over dictionaries: slow, and with nothing to undo."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.before: dict[bytes, Entry] | None = None  # what there was before the chain that is tried
        self.sums: dict[tuple[bytes, str], int] = defaultdict(int)
        self.fates: dict[bytes, Result] = {}
        self.owners: dict[bytes, bytes] = {}
        self.holds: dict[bytes, bytes] = {}

    def offer(self, batch: list[Entry], results: dict[int, Result]) -> list[Result]:
        answers: list[Result] = []
        while len(answers) < len(batch):
            begin = end = len(answers)
            while end < len(batch) and Flag.LINKED in Flag(batch[end].flags):
                end += 1
            answers += self.offer_chain(batch[begin : end + 1], results, begin, is_open=end == len(batch))
        return answers

    def offer_chain(self, chain: list[Entry], results: dict[int, Result], begin: int, *, is_open: bool) -> list[Result]:
        before = [results.get(begin + place) or next(self.objections(entry), None) for place, entry in enumerate(chain)]
        if not is_open and set(before) == {Result.EXISTS}:
            return [Result.EXISTS] * len(chain)
        trial = copy.deepcopy(self)
        trial.before = self.entries
        answers = [Result.LINKED_EVENT_FAILED] * len(chain)
        if is_open:
            answers[-1] = Result.LINKED_EVENT_CHAIN_OPEN
        for place, entry in enumerate(chain[: len(chain) - is_open]):
            code = results.get(begin + place) or next(trial.objections(entry), Result.OK)
            if code != Result.OK:
                answers[place] = code
                return answers
            trial.record(entry)
        if is_open:
            return answers
        self.__dict__ = trial.__dict__
        self.before = None
        return [Result.OK] * len(chain)

    def objections(self, entry: Entry) -> Iterator[Result]:
        """Every code that applies, the most urgent first; what comes after the first may be nonsense."""
        if entry.kind == Kind.ACCOUNT:
            if entry.flags & Flag.DEBITS_WITHIN_CREDITS and entry.flags & Flag.CREDITS_WITHIN_DEBITS:
                yield Result.FLAGS_ARE_MUTUALLY_EXCLUSIVE
            if not entry.currency:
                yield Result.CURRENCY_MUST_NOT_BE_ZERO
        elif entry.kind in (Kind.MONEY, Kind.OWNERSHIP):
            if (entry.flags & MODES).bit_count() > 1:
                yield Result.FLAGS_ARE_MUTUALLY_EXCLUSIVE
            if entry.flags & ENDS:
                yield from self.objections_to_end(entry)
            elif entry.kind == Kind.MONEY:
                yield from self.objections_to_money(entry)
            else:
                yield from self.objections_to_ownership(entry)

    def objections_to_money(self, entry: Entry) -> Iterator[Result]:
        if entry.debit == ZERO_ID:
            yield Result.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
        if entry.credit == ZERO_ID:
            yield Result.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
        if entry.debit == entry.credit:
            yield Result.ACCOUNTS_MUST_BE_DIFFERENT
        if entry.num_bytes and not entry.flags & Flag.PENDING:
            yield Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
        if not entry.amount:
            yield Result.AMOUNT_MUST_NOT_BE_ZERO
        if not entry.currency:
            yield Result.CURRENCY_MUST_NOT_BE_ZERO
        debit, credit = self.entries.get(entry.debit), self.entries.get(entry.credit)
        if debit is None:
            yield Result.DEBIT_ACCOUNT_NOT_FOUND
        elif credit is None:
            yield Result.CREDIT_ACCOUNT_NOT_FOUND
        elif debit.currency != credit.currency:
            yield Result.ACCOUNTS_MUST_HAVE_THE_SAME_CURRENCY
        elif debit.currency != entry.currency:
            yield Result.CURRENCY_MUST_MATCH
        else:
            yield from self.objections_to_sums(entry, debit, credit)

    def objections_to_sums(self, entry: Entry, debit: Entry, credit: Entry) -> Iterator[Result]:
        debits_pending, debits_posted = (self.sums[debit.id, f"debits_{name}"] for name in ("pending", "posted"))
        credits_pending, credits_posted = (self.sums[credit.id, f"credits_{name}"] for name in ("pending", "posted"))
        debits = debits_pending + debits_posted + entry.amount
        credits = credits_pending + credits_posted + entry.amount
        is_pending = bool(entry.flags & Flag.PENDING)
        if is_pending and debits_pending + entry.amount > AMOUNT_MAX:
            yield Result.OVERFLOWS_DEBITS_PENDING
        if is_pending and credits_pending + entry.amount > AMOUNT_MAX:
            yield Result.OVERFLOWS_CREDITS_PENDING
        if debits_posted + entry.amount > AMOUNT_MAX:
            yield Result.OVERFLOWS_DEBITS_POSTED
        if credits_posted + entry.amount > AMOUNT_MAX:
            yield Result.OVERFLOWS_CREDITS_POSTED
        if debits > AMOUNT_MAX:
            yield Result.OVERFLOWS_DEBITS
        if credits > AMOUNT_MAX:
            yield Result.OVERFLOWS_CREDITS
        if debit.flags & Flag.DEBITS_WITHIN_CREDITS and debits > self.sums[debit.id, "credits_posted"]:
            yield Result.EXCEEDS_CREDITS
        if credit.flags & Flag.CREDITS_WITHIN_DEBITS and credits > self.sums[credit.id, "debits_posted"]:
            yield Result.EXCEEDS_DEBITS

    def objections_to_ownership(self, entry: Entry) -> Iterator[Result]:
        if entry.owner == ZERO_ID:
            yield Result.NEW_OWNER_MUST_NOT_BE_ZERO
        if entry.owner == entry.debit:
            yield Result.OWNERS_MUST_BE_DIFFERENT
        if entry.num_bytes and not entry.flags & Flag.PENDING:
            yield Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
        if entry.amount:
            yield Result.AMOUNT_MUST_BE_ZERO
        if entry.subject not in self.owners:
            yield Result.ASSET_NOT_FOUND
        elif self.owners[entry.subject] != entry.debit:
            yield Result.OWNER_MISMATCH
        elif entry.subject in self.holds:
            yield Result.ASSET_IS_HELD

    def objections_to_end(self, entry: Entry) -> Iterator[Result]:
        if entry.num_bytes:
            yield Result.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
        pending = self.entries.get(entry.subject)
        if pending is None or pending.kind not in (Kind.MONEY, Kind.OWNERSHIP):
            yield Result.PENDING_TRANSFER_NOT_FOUND
        elif not pending.flags & Flag.PENDING:
            yield Result.PENDING_TRANSFER_NOT_PENDING
        elif pending.id in self.fates:
            yield self.fates[pending.id]
        else:
            yield from self.objections_to_end_live(entry, pending)

    def objections_to_end_live(self, entry: Entry, pending: Entry) -> Iterator[Result]:
        is_over = pending.num_bytes > 0 and entry.time_ns >= pending.time_ns + pending.num_bytes * NS_PER_S
        if is_over and not entry.flags & Flag.EXPIRED:
            yield Result.PENDING_TRANSFER_EXPIRED
        if not is_over and entry.flags & Flag.EXPIRED:
            yield Result.PENDING_TRANSFER_NOT_DUE
        if entry.kind != pending.kind:
            yield Result.PENDING_TRANSFER_HAS_DIFFERENT_KIND
        if entry.debit not in (ZERO_ID, pending.debit):
            is_money = entry.kind == Kind.MONEY
            different_owner = Result.PENDING_TRANSFER_HAS_DIFFERENT_OWNER
            yield Result.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID if is_money else different_owner
        if entry.kind == Kind.MONEY and entry.credit not in (ZERO_ID, pending.credit):
            yield Result.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID
        if entry.kind == Kind.OWNERSHIP and entry.owner not in (ZERO_ID, pending.owner):
            yield Result.PENDING_TRANSFER_HAS_DIFFERENT_OWNER
        if entry.kind == Kind.MONEY and entry.currency not in (0, pending.currency):
            yield Result.PENDING_TRANSFER_HAS_DIFFERENT_CURRENCY
        if entry.code not in (0, pending.code):
            yield Result.PENDING_TRANSFER_HAS_DIFFERENT_CODE
        if entry.flags & Flag.POST and entry.kind == Kind.MONEY:
            if entry.amount > pending.amount:
                yield Result.EXCEEDS_PENDING_TRANSFER_AMOUNT
        elif entry.amount not in (0, pending.amount):
            yield Result.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT

    def record(self, entry: Entry) -> None:
        self.entries[entry.id] = entry
        if entry.kind == Kind.ASSET:
            self.owners[entry.id] = entry.owner
        if entry.kind not in (Kind.MONEY, Kind.OWNERSHIP):
            return
        pending = self.entries[entry.subject] if entry.flags & ENDS else None
        if pending:
            self.fates[pending.id] = FATES[Flag(entry.flags) & ENDS]
        happens = not entry.flags & (Flag.PENDING | Flag.VOID | Flag.EXPIRED)
        if entry.kind == Kind.MONEY:
            self.record_money(entry, pending or entry, happens)
        else:
            self.record_ownership(entry, pending or entry, happens)

    def record_money(self, entry: Entry, first: Entry, happens: bool) -> None:
        for account_id, side in ((first.debit, "debits"), (first.credit, "credits")):
            if entry.flags & ENDS:
                self.sums[account_id, f"{side}_pending"] -= first.amount
            elif entry.flags & Flag.PENDING:
                self.sums[account_id, f"{side}_pending"] += first.amount
            if happens:
                self.sums[account_id, f"{side}_posted"] += entry.amount or first.amount

    def record_ownership(self, entry: Entry, first: Entry, happens: bool) -> None:
        if entry.flags & Flag.PENDING:
            self.holds[first.subject] = first.id
        elif entry.flags & ENDS:
            del self.holds[first.subject]
        if happens:
            self.owners[first.subject] = first.owner

    def hints(self, batch: list[Entry]) -> tuple[dict[int, bytes], dict[int, Result]]:
        """What a ledger that holds all entries so far, and none of the batch, says to each entry."""
        owners, statuses = {}, {}
        for place, entry in enumerate(batch):
            subject = self.entries.get(entry.subject)
            if subject is None:
                continue
            if subject.kind == Kind.ASSET:
                owners[place] = subject.owner
            elif subject.kind in (Kind.MONEY, Kind.OWNERSHIP) and entry.flags & ENDS:
                not_pending = Result.PENDING_TRANSFER_NOT_PENDING
                statuses[place] = self.fates.get(subject.id, not_pending)
        return owners, statuses


class Draw(NamedTuple):
    """One entry before it is known what there is for it to refer to; mostly, but not always, one in order."""

    what: str
    debit: int
    step: int
    amount: int
    mode: Flag
    is_linked: bool
    back: int
    currency: int
    code: int
    timeout_s: int
    is_repeat: bool
    wait_ns: int


def one_in(number: int) -> st.SearchStrategy[bool]:
    return st.integers(1, number).map(lambda drawn: drawn == number)


DRAWS = st.builds(
    Draw,
    what=st.sampled_from(["money"] * 4 + ["ownership"] * 3 + ["end"] * 6 + ["account", "asset"]),
    debit=st.sampled_from([1, 1, 1, 2, 2, 2, 3, 4, 0]),
    step=st.sampled_from([1, 1, 1, 1, 2, 0]),
    amount=st.sampled_from([1, 2, 5, 5, 10, 10, 0, AMOUNT_MAX - 7]),
    mode=st.sampled_from([Flag.PENDING, Flag.POST, Flag.VOID, Flag.EXPIRED]),
    is_linked=one_in(6),
    back=st.integers(0, 3),
    currency=st.sampled_from([1] * 8 + [0, 2]),
    code=st.sampled_from([0, 0, 0, 7]),
    timeout_s=st.sampled_from([0, 0, 1, 2]),
    is_repeat=one_in(12),
    wait_ns=st.sampled_from([0, 0, 0, NS_PER_S // 2, NS_PER_S]),
)


def write(draw: Draw, number: int, earlier: list[Entry]) -> Entry:
    """The entry of a draw; transfers have a number as their id, accounts and assets one of a few."""
    credit, fields = (draw.debit + draw.step) % (NUM_ACCOUNTS + 1), {"code": draw.code}
    asset_number = FIRST_ASSET + draw.back % NUM_ASSETS
    if draw.what == "account":
        return account(1 + draw.back, Flag.DEBITS_WITHIN_CREDITS, draw.currency)
    if draw.what == "asset":
        return asset(asset_number, 1 + draw.back)
    if draw.what == "end":
        return write_end(draw, number, earlier)
    mode = draw.mode & Flag.PENDING
    fields["num_bytes"] = draw.timeout_s if mode else 0
    if draw.what == "money":
        return money(number, draw.debit, credit, draw.amount, mode, currency=draw.currency, **fields)
    return ownership(number, asset_number, 1 + draw.debit % 2, 2 - draw.debit % 2 * draw.step, mode, **fields)


def write_end(draw: Draw, number: int, earlier: list[Entry]) -> Entry:
    """Mostly of a late pending transfer, of the same kind, with nothing named that need not be."""
    pending = [entry for entry in earlier if entry.flags & Flag.PENDING]
    ended = (earlier if draw.step == 0 else pending)[-1 - draw.back % len(pending)]
    kind = Kind(ended.kind) if ended.kind == Kind.OWNERSHIP and draw.step < 2 else Kind.MONEY
    entry = ending(number, 0, draw.mode & ENDS or Flag.POST, kind, subject=ended.id)
    if draw.step == 2:
        entry = msgspec.structs.replace(entry, code=draw.code, currency=draw.currency, content_hash=ended.content_hash)
    if draw.debit == 0:
        entry = msgspec.structs.replace(entry, content_hash=id_of(1) + id_of(2), owner=id_of(draw.back))
    if kind == Kind.MONEY and draw.debit > 1:
        entry = msgspec.structs.replace(entry, amount=draw.amount)
    return entry


def numbered(draws: list[Draw], first: int, earlier: list[Entry]) -> list[Entry]:
    """The entries of a batch, of which each can refer to those before it."""
    batch: list[Entry] = []
    for place, draw in enumerate(draws):
        entry = write(draw, first + place - draw.is_repeat, earlier + batch)
        batch.append(msgspec.structs.replace(entry, flags=entry.flags | (Flag.LINKED if draw.is_linked else 0)))
    return batch


def repeats(batch: list[Entry], known: dict[bytes, Entry]) -> dict[int, Result]:
    """By place: what the shard refuses before settlement, an id seen before or an entry about itself."""
    seen = set(known)
    found = {}
    for place, entry in enumerate(batch):
        if entry.id in seen or entry.subject == entry.id:
            found[place] = Result.EXISTS
        seen.add(entry.id)
    return found


def assert_same(desk: Desk, model: Model) -> None:
    """The book says of every account, asset and transfer what the model says, and every currency adds up to zero."""
    for index, entry in enumerate(model.entries.values()):
        if entry.kind == Kind.ACCOUNT:
            balance = desk.book.balance(entry.id)
            assert balance.index == index
            for name in ("debits_pending", "debits_posted", "credits_pending", "credits_posted"):
                assert getattr(balance, name) == model.sums[entry.id, name]
        elif entry.kind in (Kind.MONEY, Kind.OWNERSHIP):
            is_live = bool(entry.flags & Flag.PENDING) and entry.id not in model.fates
            pending = desk.book.pending(entry.id)
            assert (pending and pending.index) == (index if is_live else None)
    for asset_id, owner in model.owners.items():
        assert (desk.book.owner(asset_id) or model.entries[asset_id].owner) == owner
    for debits, credits, debits_pending, credits_pending in desk.book.trial_balance().values():
        assert (debits, debits_pending) == (credits, credits_pending)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.lists(DRAWS, min_size=4, max_size=14), st.booleans()), min_size=1, max_size=6),
    st.lists(st.sampled_from([Flag(0), *LIMITS]), min_size=NUM_ACCOUNTS, max_size=NUM_ACCOUNTS),
)
def test_any_batches_settle_as_in_a_model_of_dictionaries(
    batches: list[tuple[list[Draw], bool]], limits: list[Flag]
) -> None:
    desk, model = Desk(), Model()
    number = FIRST_TRANSFER
    opening = [account(1 + place, flags, 1 + (place == 3)) for place, flags in enumerate(limits)]
    opening += [asset(FIRST_ASSET, 1), asset(FIRST_ASSET + 1, 2)]
    opening += [money(FIRST_TRANSFER - 3, 2, 1, 12), money(FIRST_TRANSFER - 2, 1, 2, 9, Flag.PENDING, num_bytes=1)]
    opening += [ownership(FIRST_TRANSFER - 1, FIRST_ASSET + 1, 2, 1, Flag.PENDING, num_bytes=1)]
    for place, (draws, is_reloaded) in enumerate([([], False), *batches]):
        recorded = [entry for entry in model.entries.values() if entry.kind in (Kind.MONEY, Kind.OWNERSHIP)]
        batch = numbered(draws, number, recorded) if place else opening
        number += len(draws)
        results = repeats(batch, model.entries)
        owners, statuses = model.hints(batch)

        snapshot, now_ns = desk.book.snapshot(), desk.now_ns
        before = mark(desk.book.state)
        tried = desk.offer(*batch, results=results, owners=owners, statuses=statuses, commit=False)
        rollback(desk.book.state, before)
        assert desk.book.snapshot() == snapshot
        desk.now_ns = now_ns

        timed = [msgspec.structs.replace(entry, time_ns=now_ns + 1 + n) for n, entry in enumerate(batch)]
        assert desk.offer(*batch, results=results, owners=owners, statuses=statuses) == tried
        assert tried == model.offer(timed, results)
        assert_same(desk, model)
        assert desk.replayed().snapshot() == desk.book.snapshot()
        if is_reloaded:
            desk.book = Book.load(desk.book.snapshot(), b"reloaded")
        desk.now_ns += sum(draw.wait_ns for draw in draws)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=80),
    st.lists(st.integers(0, 2**64 - 1), min_size=idtable.NUM_KEYS, max_size=idtable.NUM_KEYS) | st.just([0] * 5),
)
def test_a_table_finds_what_was_inserted_and_not_removed(steps: list[tuple[int, bool]], keys: list[int]) -> None:
    rows = np.array([[number * 2**32, number] for number in range(31)], np.uint64)
    table, key_words, inside = np.zeros(64, np.uint32), np.array(keys, np.uint64), set()
    for number, is_insertion in steps:
        if is_insertion and number not in inside:
            idtable.insert(table, rows, key_words, number)
            inside.add(number)
        elif not is_insertion and number in inside:
            idtable.remove(table, rows, key_words, number)
            inside.discard(number)
        found = {number for number in range(31) if idtable.find(table, rows, key_words, *rows[number]) == number}
        assert found == inside
    assert np.count_nonzero(table) == len(inside)
