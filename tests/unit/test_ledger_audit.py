"""The auditor's questions: every answer is the log's own, and an answer that cannot be proved is not given."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from settling import ALICE, BOB, CAROL, account, asset, ending, id_of, money, ownership
from whole_log import LOG, Ledger, plain

from ledger.audit import (
    NS_PER_S,
    Moved,
    OwnerChange,
    Totals,
    changes,
    kept,
    kept_text,
    prove_existence,
    trial_balance,
    verify_existence,
    verify_kept,
)
from ledger.coordinator import conclude, to_shards
from ledger.decision import begin
from ledger.entry import ENTRY_BYTES, Flag, Kind
from ledger.errors import (
    CheckpointRefused,
    EntryNotFound,
    LedgerCorrupt,
    LogMismatch,
    NotConsistent,
    ReceiptInvalid,
    SplitView,
)
from ledger.exchange import Account, Exchange, Royalty, clearing_account, draw_up
from ledger.log import shard_path
from ledger.merkle import leaf_hash
from ledger.note import Checkpoint, Policy, Signer, add_cosignatures, read_checkpoint
from ledger.payments import State, chain_of, paid_for
from ledger.queries import by_subject
from ledger.reader import Reader

PICTURE, SONG = 50, 51
EUROS, DOLLARS = 1, 2
SEED = b"seed of a table."
WITNESSES = [Signer(f"witness.example/w{number}", bytes([number]) * 32) for number in range(1, 4)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path)
    yield opened
    opened.close()


def tree(ledger: Ledger, size: int | None = None, shard: int = 0) -> Checkpoint:
    """The checkpoint that the shard would sign of so many entries; of all, by default."""
    return ledger.readers[shard].tree(ledger.shards[shard].tree_size if size is None else size)


@pytest.fixture
def busy(ledger: Ledger) -> Ledger:
    """Accounts in two currencies; a chain that sells a picture; money held, posted in part, voided and expired."""
    ledger.record(0, account(ALICE), account(BOB), account(CAROL), account(7, currency=DOLLARS))  # 0 to 3
    ledger.record(0, account(8, currency=DOLLARS), asset(PICTURE, ALICE), asset(SONG, BOB))  # 4 to 6
    ledger.record(  # 7, 8
        0, money(60, BOB, ALICE, 100, Flag.LINKED), ownership(61, PICTURE, ALICE, BOB)
    )
    held = [money(number, CAROL, ALICE, amount, Flag.PENDING, num_bytes=1) for number, amount in ((62, 30), (63, 8))]
    ledger.record(0, *held, money(64, CAROL, BOB, 5, Flag.PENDING))  # 9 to 11
    ledger.record(0, ending(65, 62, Flag.POST, amount=20), ending(66, 64, Flag.POST))  # 12, 13
    ledger.now_ns += 2 * NS_PER_S
    assert not ledger.shards[0].expire().results.any()  # 14: 63 is over
    dollars = money(67, 7, 8, 4, currency=DOLLARS)
    ledger.record(0, dollars, ownership(68, SONG, BOB, CAROL, Flag.PENDING))  # 15, 16
    ledger.record(0, ending(69, 68, Flag.POST, Kind.OWNERSHIP))  # 17
    return ledger


# ---- trial balance


def test_a_trial_balance_is_the_books_and_is_balanced(busy: Ledger) -> None:
    balance = trial_balance(busy.readers[0], tree(busy), SEED, accounts_max=10)
    assert balance.currencies == {EUROS: Totals(125, 125, 0, 0), DOLLARS: Totals(4, 4, 0, 0)}
    assert balance.is_balanced
    book = busy.shards[0].book
    assert {currency: msgspec.structs.astuple(sums) for currency, sums in balance.currencies.items()} == (
        book.trial_balance()
    )
    assert balance.accounts == tuple(
        (id_of(number), book.balance(id_of(number))) for number in (ALICE, BOB, CAROL, 7, 8)
    )


@pytest.mark.parametrize(
    ("size", "posted", "pending", "num_accounts"),
    [(0, None, None, 0), (5, 0, 0, 5), (8, 100, 0, 5), (12, 100, 43, 5), (14, 125, 8, 5)],
)
def test_a_trial_balance_is_as_of_its_checkpoint(
    busy: Ledger, size: int, posted: int | None, pending: int | None, num_accounts: int
) -> None:
    balance = trial_balance(busy.readers[0], tree(busy, size), SEED)
    totals = balance.currencies.get(EUROS)
    assert totals == (None if posted is None else Totals(posted, posted, pending, pending))
    assert (balance.num_accounts, balance.accounts) == (num_accounts, ())


def test_a_balance_does_not_depend_on_the_seed(busy: Ledger) -> None:
    balances = [
        trial_balance(busy.readers[0], tree(busy), seed, accounts_max=10) for seed in (SEED, b"another seed....")
    ]
    assert balances[0] == balances[1]


def test_a_sum_that_is_off_is_not_balanced() -> None:
    assert not Totals(2, 1, 0, 0).is_balanced
    assert not Totals(1, 1, 3, 4).is_balanced


def test_a_checkpoint_with_another_root_or_log_or_more_entries_gives_no_balance(busy: Ledger) -> None:
    reader, checkpoint = busy.readers[0], tree(busy)
    with pytest.raises(LedgerCorrupt, match="do not lead to the root"):
        trial_balance(reader, Checkpoint(checkpoint.origin, checkpoint.tree_size, bytes(32)), SEED)
    with pytest.raises(LogMismatch, match="shard-1"):
        trial_balance(reader, Checkpoint(f"{LOG}/shard-1", checkpoint.tree_size, checkpoint.root), SEED)
    with pytest.raises(EntryNotFound, match="a checkpoint of 19 entries; there are 18"):
        trial_balance(reader, Checkpoint(checkpoint.origin, 19, checkpoint.root), SEED)


def test_progress_is_told_until_everything_is_done(ledger: Ledger) -> None:
    for first in range(0, 70_000, 7_000):
        ledger.shards[0].append(plain(7_000, first))
    told: list[tuple[int, int]] = []
    trial_balance(ledger.readers[0], tree(ledger), SEED, progress=lambda done, num: told.append((done, num)))
    assert told == [(65_536, 70_000), (70_000, 70_000)]


def damage(path: Path, index: int, place: int, *, with_leaf: bool = False) -> None:
    """Flip a bit of a stored entry; `with_leaf`: and let its stored leaf hash agree."""
    environment = lmdb.open(str(path), max_dbs=6)
    with environment.begin(write=True) as transaction:
        entry = bytearray(stored(transaction, environment, b"entries", b"", index, ENTRY_BYTES))
        entry[place] ^= 1
        replace_stored(transaction, environment, b"entries", b"", index, bytes(entry))
        if with_leaf:
            replace_stored(transaction, environment, b"hashes", b"\0", index, leaf_hash(bytes(entry)))
    environment.close()


def row_of(transaction: Any, table: Any, prefix: bytes, index: int, width: int) -> tuple[bytes, bytearray, int]:
    """Key and bytes of the row of a table that has an item, and where in it the item begins."""
    for key, data in transaction.cursor(table):
        first = int.from_bytes(key[len(prefix) :], "big")
        if key.startswith(prefix) and first <= index < first + len(data) // width:
            return key, bytearray(data), (index - first) * width
    raise AssertionError(f"no item {index}")


def stored(transaction: Any, environment: Any, name: bytes, prefix: bytes, index: int, width: int) -> bytes:
    _, row, begin = row_of(transaction, environment.open_db(name, txn=transaction), prefix, index, width)
    return bytes(row[begin : begin + width])


def replace_stored(transaction: Any, environment: Any, name: bytes, prefix: bytes, index: int, item: bytes) -> None:
    table = environment.open_db(name, txn=transaction)
    key, row, begin = row_of(transaction, table, prefix, index, len(item))
    row[begin : begin + len(item)] = item
    transaction.put(key, bytes(row), db=table)


def test_a_balance_over_a_changed_entry_is_not_given_even_if_it_would_add_up(busy: Ledger) -> None:
    checkpoint = tree(busy)
    busy.close()
    damage(shard_path(busy.path, 0), 15, 80)  # the dollars: 5 instead of 4, on both sides
    with Reader.open(shard_path(busy.path, 0)) as reader:
        with pytest.raises(LedgerCorrupt, match="do not lead to the root"):
            trial_balance(reader, checkpoint, SEED)
        with pytest.raises(LedgerCorrupt, match="do not lead to the root"):
            changes(reader, reader.tree(10), checkpoint)


# ---- what changed


def test_changes_count_entries_money_and_owners(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy, 0), tree(busy))
    assert told.num_entries == {Kind.ASSET: 2, Kind.OWNERSHIP: 3, Kind.MONEY: 8, Kind.ACCOUNT: 5}
    assert told.money == {EUROS: Moved(125, 43, 8), DOLLARS: Moved(4, 0, 0)}
    picture = OwnerChange(8, id_of(PICTURE), id_of(ALICE), id_of(BOB))
    assert told.owners == (picture, OwnerChange(17, id_of(SONG), id_of(BOB), id_of(CAROL)))
    assert (told.num_owner_changes, told.proof) == (2, ())


def test_changes_between_two_sizes_are_of_the_entries_between_them(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy, 12), tree(busy, 15))
    assert told.num_entries == {Kind.MONEY: 3}
    assert told.money == {EUROS: Moved(25, 0, 8)}, "posts and expiries of what was held before"
    assert told.num_owner_changes == 0
    assert told.proof == tuple(busy.readers[0].consistency(12, 15))


def test_the_money_of_all_stretches_together_is_that_of_the_whole(busy: Ledger) -> None:
    reader, size = busy.readers[0], busy.shards[0].tree_size
    totals: dict[int, list[int]] = {}
    for begin_ in range(0, size, 5):
        told = changes(reader, tree(busy, begin_), tree(busy, min(begin_ + 5, size)))
        for currency, moved in told.money.items():
            sums = totals.setdefault(currency, [0, 0, 0])
            totals[currency] = [a + b for a, b in zip(sums, msgspec.structs.astuple(moved), strict=True)]
    whole = changes(reader, tree(busy, 0), tree(busy)).money
    assert totals == {currency: list(msgspec.structs.astuple(moved)) for currency, moved in whole.items()}


def test_nothing_changes_between_a_checkpoint_and_itself(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy), tree(busy))
    assert (told.num_entries, told.money, told.owners, told.num_owner_changes) == ({}, {}, (), 0)


def test_more_changes_of_owner_than_asked_for_are_counted_and_not_listed(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy, 0), tree(busy), moves_max=1)
    assert (len(told.owners), told.num_owner_changes) == (1, 2)


def test_posts_of_more_than_a_page_of_transfers_add_up(ledger: Ledger) -> None:
    num = 1_500
    ledger.record(0, account(ALICE), account(BOB))
    ledger.record(0, *(money(1000 + number, ALICE, BOB, number + 1, Flag.PENDING) for number in range(num)))
    ledger.record(0, *(ending(5000 + number, 1000 + number, Flag.POST) for number in range(num)))
    sum_ = num * (num + 1) // 2
    assert changes(ledger.readers[0], tree(ledger, 0), tree(ledger)).money == {EUROS: Moved(sum_, sum_, 0)}


@pytest.mark.parametrize("with_leaf", [False, True])
def test_what_was_held_before_and_was_changed_since_is_not_told(ledger: Ledger, with_leaf: bool) -> None:
    """Even if its leaf hash was made to agree: the nodes above it do not."""
    ledger.record(0, account(ALICE), account(BOB), money(60, BOB, ALICE, 100, Flag.PENDING))
    ledger.shards[0].append(plain(600, 0))
    old = tree(ledger)
    ledger.record(0, ending(61, 60, Flag.POST))
    new = tree(ledger)
    assert changes(ledger.readers[0], old, new).money == {EUROS: Moved(100, 0, 0)}
    ledger.close()
    damage(shard_path(ledger.path, 0), 2, 80, with_leaf=with_leaf)
    expected = "not under the checkpoint of 603" if with_leaf else "not its leaf"
    with Reader.open(shard_path(ledger.path, 0)) as reader, pytest.raises(LedgerCorrupt, match=expected):
        changes(reader, old, new)


# ---- nothing was removed


def test_a_third_party_verifies_that_nothing_was_removed_with_the_old_checkpoint_and_the_keys(busy: Ledger) -> None:
    note = busy.shards[0].checkpoint()
    text = kept_text(kept(busy.readers[0], tree(busy, 7), read_checkpoint(note)), note)
    assert text.startswith("old 7\n")
    verified = verify_kept(text, tree(busy, 7), busy.policy)
    assert (verified.old, verified.new) == (tree(busy, 7), tree(busy))


def test_another_old_tree_is_not_believed_to_have_been_kept(busy: Ledger) -> None:
    note = busy.shards[0].checkpoint()
    text = kept_text(kept(busy.readers[0], tree(busy, 7), read_checkpoint(note)), note)
    forged = Checkpoint(tree(busy, 7).origin, 7, bytes(32))
    with pytest.raises(NotConsistent):
        kept(busy.readers[0], forged, tree(busy))
    with pytest.raises(NotConsistent):
        verify_kept(text, forged, busy.policy)
    with pytest.raises(LogMismatch, match="from 7 entries"):
        verify_kept(text, tree(busy, 8), busy.policy)


def test_two_trees_of_one_size_are_a_split_view(busy: Ledger) -> None:
    with pytest.raises(SplitView):
        kept(busy.readers[0], Checkpoint(tree(busy).origin, 18, bytes(32)), tree(busy))


def test_checkpoints_in_the_wrong_order_or_of_another_shard_are_refused(busy: Ledger) -> None:
    with pytest.raises(LogMismatch, match="the old checkpoint has 18 entries"):
        kept(busy.readers[0], tree(busy), tree(busy, 3))
    with pytest.raises(LogMismatch, match="shard-1"):
        kept(busy.readers[0], tree(busy, 0, shard=1), tree(busy))


def test_a_proof_that_was_changed_or_signed_by_a_stranger_is_refused(busy: Ledger) -> None:
    note = busy.shards[0].checkpoint()
    text = kept_text(kept(busy.readers[0], tree(busy, 7), read_checkpoint(note)), note)
    lines = text.split("\n")
    with pytest.raises((NotConsistent, CheckpointRefused)):
        verify_kept("\n".join([lines[0], *lines[2:]]), tree(busy, 7), busy.policy)
    stranger = Signer(f"{LOG}/shard-0", b"x" * 32)
    with pytest.raises(ReceiptInvalid, match="no known key"):
        verify_kept(text, tree(busy, 7), Policy((stranger.key,)))


# ---- existence


def cosigned(ledger: Ledger, *times_s: int) -> str:
    """The newest checkpoint, cosigned by the first witnesses at these times."""
    note = ledger.shards[0].checkpoint()
    text = note.partition("\n\n")[0] + "\n"
    for witness, time_s in zip(WITNESSES, times_s, strict=False):
        note = add_cosignatures(note, witness.cosign(text, time_s), [witness.witness_key])
    return note


def policy_of(ledger: Ledger, threshold: int) -> Policy:
    return Policy(ledger.policy.log_keys, tuple(witness.witness_key for witness in WITNESSES), threshold)


def test_without_witnesses_existence_is_the_logs_own_word(busy: Ledger) -> None:
    receipt = prove_existence(busy.readers[0], id_of(PICTURE))
    recorded_ns = busy.shards[0].entry(5).time_ns
    shown = verify_existence(receipt, busy.policy, recorded_ns + 1)
    assert (shown.index, shown.recorded_ns, shown.witnessed_s) == (5, recorded_ns, None)
    with pytest.raises(ReceiptInvalid, match="the log says") as refused:
        verify_existence(receipt, busy.policy, recorded_ns)
    assert refused.value.where == "step 8 time"


@pytest.mark.parametrize(("threshold", "by_s"), [(1, 100), (2, 200), (3, 300)])
def test_with_k_witnesses_existence_is_proved_by_the_kth_earliest_cosignature(
    busy: Ledger, threshold: int, by_s: int
) -> None:
    receipt = prove_existence(busy.readers[0], id_of(PICTURE), cosigned(busy, 200, 100, 300))
    shown = verify_existence(receipt, policy_of(busy, threshold), (by_s + 1) * NS_PER_S)
    assert (shown.witnessed_s, len(shown.cosignatures)) == (by_s, 3)
    with pytest.raises(ReceiptInvalid, match="witnesses say"):
        verify_existence(receipt, policy_of(busy, threshold), (by_s + 1) * NS_PER_S - 1)


@pytest.mark.parametrize("times_s", [(100, 100), (100, 101), (101, 100)])
def test_a_witness_that_cosigns_twice_is_one_witness(busy: Ledger, times_s: tuple[int, int]) -> None:
    note = busy.shards[0].checkpoint()
    text = note.partition("\n\n")[0] + "\n"
    lines = [WITNESSES[0].cosign(text, time_s) for time_s in times_s] + [WITNESSES[1].cosign(text, 500)]
    receipt = prove_existence(busy.readers[0], id_of(PICTURE), note + "".join(lines))
    assert verify_existence(receipt, policy_of(busy, 1), 10**18).witnessed_s == 100
    assert verify_existence(receipt, policy_of(busy, 2), 10**18).witnessed_s == 500
    with pytest.raises(ReceiptInvalid, match="2 witnesses say"):
        verify_existence(receipt, policy_of(busy, 2), 499 * NS_PER_S)


def test_too_few_witnesses_prove_nothing(busy: Ledger) -> None:
    receipt = prove_existence(busy.readers[0], id_of(PICTURE), cosigned(busy, 100))
    with pytest.raises(ReceiptInvalid, match="1 of the 2 witnesses"):
        verify_existence(receipt, policy_of(busy, 2), 10**18)


def test_an_entry_after_the_cosigned_checkpoint_is_not_proved_by_it(busy: Ledger) -> None:
    note = cosigned(busy, 100)
    busy.record(0, asset(99, ALICE))
    with pytest.raises(EntryNotFound, match="under a checkpoint of 18 entries"):
        prove_existence(busy.readers[0], id_of(99), note)
    with pytest.raises(EntryNotFound, match="no entry has this id"):
        prove_existence(busy.readers[0], id_of(98), note)


# ---- what paid


def test_a_linked_chain_is_what_paid_for_the_asset_in_it(busy: Ledger) -> None:
    paid = paid_for(busy.readers, 0, id_of(61))
    assert (paid.transfer.asset, paid.transfer.debit, paid.transfer.credit) == (
        id_of(PICTURE),
        id_of(ALICE),
        id_of(BOB),
    )
    assert paid.transfer.state == State.HAPPENED
    (payment,) = paid.others
    assert (payment.place, payment.debit, payment.credit, payment.amount) == ((0, 7), id_of(BOB), id_of(ALICE), 100)
    assert (paid.exchange, paid.decision, paid.absent) == (None, None, ())


def test_what_money_paid_for_is_found_from_the_money(busy: Ledger) -> None:
    paid = paid_for(busy.readers, 0, id_of(60))
    assert (paid.transfer.amount, [other.asset for other in paid.others]) == (100, [id_of(PICTURE)])


@pytest.mark.parametrize(
    ("transfer", "state", "amount", "ended_by"),
    [
        (62, State.HAPPENED, 20, (0, 12)),
        (64, State.HAPPENED, 5, (0, 13)),
        (63, State.EXPIRED, 8, (0, 14)),
        (67, State.HAPPENED, 4, None),
    ],
)
def test_a_transfer_alone_says_how_it_ended_and_how_much_moved(
    busy: Ledger, transfer: int, state: State, amount: int, ended_by: tuple[int, int] | None
) -> None:
    paid = paid_for(busy.readers, 0, id_of(transfer))
    assert (paid.transfer.state, paid.transfer.amount, paid.transfer.ended_by) == (state, amount, ended_by)


def test_a_pending_pair_is_found_from_the_transfer_and_from_its_end(ledger: Ledger) -> None:
    ledger.record(0, account(ALICE), account(BOB), asset(PICTURE, ALICE))
    hold = Flag.PENDING | Flag.LINKED
    ledger.record(0, money(60, BOB, ALICE, 9, hold), ownership(61, PICTURE, ALICE, BOB, Flag.PENDING))
    held = paid_for(ledger.readers, 0, id_of(61))
    assert [held.transfer.state, *(other.state for other in held.others)] == [State.HELD, State.HELD]
    ledger.record(0, ending(62, 60, Flag.POST | Flag.LINKED), ending(63, 61, Flag.POST, Kind.OWNERSHIP))
    for asked in (61, 63):
        paid = paid_for(ledger.readers, 0, id_of(asked))
        assert (paid.transfer.id, paid.transfer.state, paid.transfer.ended_by) == (id_of(61), State.HAPPENED, (0, 6))
        assert [(other.id, other.state, other.amount) for other in paid.others] == [(id_of(60), State.HAPPENED, 9)]


def test_money_held_by_itself_and_posted_with_the_asset_is_what_paid_for_it(ledger: Ledger) -> None:
    ledger.record(0, account(ALICE), account(BOB), asset(PICTURE, ALICE))
    ledger.record(0, money(60, BOB, ALICE, 9, Flag.PENDING))
    ledger.record(0, ending(62, 60, Flag.POST | Flag.LINKED), ownership(61, PICTURE, ALICE, BOB))
    paid = paid_for(ledger.readers, 0, id_of(61))
    assert [(other.id, other.state, other.ended_by) for other in paid.others] == [(id_of(60), State.HAPPENED, (0, 4))]


def test_a_chain_ends_where_its_links_end(ledger: Ledger) -> None:
    link = Flag.LINKED
    ledger.record(0, asset(1, ALICE), asset(2, ALICE, link), asset(3, ALICE, link), asset(4, ALICE), asset(5, ALICE))
    chains = [[found.index for found in chain_of(ledger.readers[0], index)] for index in range(5)]
    assert chains == [[0], [1, 2, 3], [1, 2, 3], [1, 2, 3], [4]]
    with pytest.raises(EntryNotFound):
        chain_of(ledger.readers[0], 5)


def test_a_chain_that_was_cut_by_changing_a_link_is_not_told(ledger: Ledger) -> None:
    link = Flag.LINKED
    ledger.record(0, asset(1, ALICE), asset(2, ALICE, link), asset(3, ALICE, link), asset(4, ALICE))
    ledger.close()
    damage(shard_path(ledger.path, 0), 1, 4)
    with Reader.open(shard_path(ledger.path, 0)) as reader:
        for index in (1, 2, 3):
            with pytest.raises(LedgerCorrupt) as found:
                chain_of(reader, index)
            assert found.value.where == "entry 1"


def test_what_is_no_transfer_is_paid_by_nothing(busy: Ledger) -> None:
    for id_ in (id_of(PICTURE), id_of(999)):
        with pytest.raises(EntryNotFound, match="no transfer has this id"):
            paid_for(busy.readers, 0, id_)
    with pytest.raises(EntryNotFound, match="shard 7 is not at hand"):
        paid_for(busy.readers, 7, id_of(61))


def exchange(ledger: Ledger, payer_shard: int, deadline_ns: int = 2 * 10**18) -> Exchange:
    """Bob, whose money is in some shard, buys Alice's picture in shard 0; a tenth goes to Carol."""
    ledger.record(0, account(ALICE), account(CAROL), asset(PICTURE, ALICE))
    ledger.record(payer_shard, account(BOB))
    if payer_shard:
        for shard in (0, payer_shard):
            ledger.record(shard, clearing_account(payer_shard, 0, EUROS))
    return draw_up(
        exchange_id=id_of(500),
        home=0,
        asset=id_of(PICTURE),
        seller=id_of(ALICE),
        buyer=id_of(BOB),
        currency=EUROS,
        price=100,
        payer=Account(payer_shard, id_of(BOB)),
        payee=Account(0, id_of(ALICE)),
        royalties=[Royalty(Account(0, id_of(CAROL)), 1_000)],
        deadline_ns=deadline_ns,
    )


async def at_once(_: int) -> None:
    """No pause."""


def settle(ledger: Ledger, deal: Exchange) -> None:
    progress = asyncio.run(conclude(begin(deal), to_shards(ledger.shards), lambda: ledger.now_ns, at_once))
    assert not progress.waiting


def the_transfer(ledger: Ledger) -> bytes:
    """The id of the one entry that gave, or was to give, the picture to Bob."""
    (found,) = by_subject(ledger.readers[0], id_of(PICTURE)).found
    return found.entry.id


def test_an_exchange_within_a_shard_is_paid_by_its_chain(ledger: Ledger) -> None:
    settle(ledger, exchange(ledger, 0))
    paid = paid_for(ledger.readers, 0, the_transfer(ledger))
    assert paid.exchange == id_of(500)
    assert paid.decision is not None
    assert paid.decision.is_commit
    assert sorted(other.amount for other in paid.others) == [10, 90]
    assert {other.credit for other in paid.others} == {id_of(ALICE), id_of(CAROL)}


def test_an_exchange_across_shards_is_paid_by_legs_in_both_and_one_decision(ledger: Ledger) -> None:
    settle(ledger, exchange(ledger, 1))
    paid = paid_for(ledger.readers, 0, the_transfer(ledger))
    assert paid.transfer.state == State.HAPPENED
    assert {other.state for other in paid.others} == {State.HAPPENED}
    assert sorted((other.place[0], other.amount) for other in paid.others) == [(0, 10), (0, 90), (1, 10), (1, 90)]
    assert {other.debit for other in paid.others if other.place[0] == 1} == {id_of(BOB)}
    assert paid.decision is not None
    decision = ledger.shards[0].entry(paid.decision.place[1])
    assert (decision.kind, decision.amount, paid.decision.is_commit) == (Kind.DECISION, 1, True)
    money_side = paid_for(ledger.readers, 1, paid.others[-1].id)
    assert (money_side.exchange, money_side.decision) == (paid.exchange, paid.decision)
    assert id_of(PICTURE) in {other.asset for other in money_side.others}


def test_an_exchange_that_was_called_off_has_paid_nothing(ledger: Ledger) -> None:
    deal = exchange(ledger, 1)
    short = msgspec.structs.replace(
        deal, moves=tuple(msgspec.structs.replace(m, debit=id_of(9)) for m in deal.moves[:1])
    )
    settle(ledger, short)
    paid = paid_for(ledger.readers, 0, the_transfer(ledger))
    assert (paid.transfer.state, paid.others) == (State.VOIDED, ())
    assert paid.decision is not None
    assert not paid.decision.is_commit


def test_a_shard_that_is_not_at_hand_is_named(ledger: Ledger) -> None:
    settle(ledger, exchange(ledger, 1))
    paid = paid_for({0: ledger.readers[0]}, 0, the_transfer(ledger))
    assert (paid.absent, {other.place[0] for other in paid.others}) == ((1,), {0})


def test_where_the_terms_were_erased_the_chains_still_say_what_paid_in_their_shard(ledger: Ledger) -> None:
    settle(ledger, exchange(ledger, 0))
    before = paid_for(ledger.readers, 0, the_transfer(ledger))
    assert before.decision is not None
    environment_path = shard_path(ledger.path, 0)
    transfer = the_transfer(ledger)
    ledger.close()
    environment = lmdb.open(str(environment_path), max_dbs=6)
    with environment.begin(write=True) as transaction:
        contents = environment.open_db(b"contents", txn=transaction)
        transaction.drop(contents, delete=False)
    environment.close()
    with Reader.open(environment_path) as reader:
        after = paid_for({0: reader}, 0, transfer)
    assert (after.exchange, after.decision) == (None, None)
    assert (after.transfer, after.others) == (before.transfer, before.others)
