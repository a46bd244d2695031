"""A log in which money and assets have moved in every way: what an auditor is asked about."""

from settling import ALICE, BOB, CAROL, NS_PER_S, account, asset, ending, money, ownership
from whole_log import Ledger

from ledger.entry import Flag, Kind

PICTURE, SONG = 50, 51
EUROS, DOLLARS = 1, 2


def make_busy(ledger: Ledger) -> Ledger:
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
