"""What paid for a transfer: a linked chain, a pending pair or an exchange, and what became of it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import lmdb
import msgspec
import pytest
from busy_log import EUROS, PICTURE, make_busy
from settling import ALICE, BOB, CAROL, account, asset, ending, id_of, money, ownership
from stored_bytes import damage
from whole_log import Ledger

from ledger.coordinator import conclude, to_shards
from ledger.decision import begin
from ledger.entry import Flag, Kind
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.exchange import Account, Exchange, Royalty, clearing_account, draw_up
from ledger.log import shard_path
from ledger.payments import State, chain_of, paid_for
from ledger.queries import by_subject
from ledger.reader import Reader


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def busy(ledger: Ledger) -> Ledger:
    return make_busy(ledger)


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
