"""fsck on exchanges: half settled, against their decision, without one, and those that are only under way."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from exchanging import ASSET, BUYER, HOME, NUM_SHARDS, SELLER, Market, agreed, agreed_at_home, id_of

from ledger.decision import Request, Stage
from ledger.entry import Entry, Flag, Kind, as_bytes
from ledger.exchange import Account, Exchange
from ledger.fsck import Report, check
from ledger.fsck_exchanges import COMMITTED, POSTED, RECORD_DTYPE, SETTLED, VOIDED, Exchanges, Records, compare
from ledger.fsck_log import check_exchanges
from ledger.fsck_process import Checked, Job, check_apart
from ledger.fsck_report import Findings
from ledger.legs import answers, batch, columns, items
from ledger.log import shard_path
from ledger.note import parse_verifier_key
from ledger.payload import Payload
from ledger.result import Result

SHARDS = tuple(range(NUM_SHARDS))
UNCOMMITTED = "a leg of an exchange happens, and no shard has recorded that the exchange does"
BOTH_WAYS = "a leg of an exchange happens, and the exchange was called off, or a leg of it voided"
AGAINST = "a leg of an exchange is voided, and a shard has recorded that the exchange happens"
TWICE = "it is decided about an exchange of which the opposite is recorded, too"
INCOMPLETE = "it is decided that an exchange happens, and not every leg of it is held"
NOT_TOGETHER = "the legs of an exchange were not all ended by it, or not together"


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    opened = Market(tmp_path / "log")
    yield opened
    opened.close()


def do(market: Market, exchange: Exchange, stage: Stage, *shards: int) -> None:
    for shard in shards:
        (answer,) = answers(market.shards[shard], [Request(exchange, shard, stage)])
        assert answer.result == Result.OK


def settle(market: Market, exchange: Exchange) -> None:
    do(market, exchange, Stage.PREPARE, *exchange.shards)
    do(market, exchange, Stage.COMMIT, exchange.home)
    do(market, exchange, Stage.POST, *exchange.shards)


def report_of(market: Market) -> Report:
    for shard in market.shards.values():
        shard.close()
    market.shards.clear()
    return check(market.path)


def found(report: Report) -> list[tuple[str, str]]:
    return [(problem.where, problem.what.partition(";")[0]) for problem in report.problems]


def last(market: Market, shard: int) -> str:
    """Where the newest entry is."""
    return f"shard-{shard:03d} entry {market.shards[shard].tree_size - 1}"


def test_exchanges_that_happened_or_were_called_off_are_no_problem(market: Market) -> None:
    called_off, agreed_on = agreed(exchange_id=id_of("first")), agreed()
    do(market, called_off, Stage.PREPARE, *SHARDS)
    do(market, called_off, Stage.ABORT, HOME)
    do(market, called_off, Stage.VOID, *SHARDS)
    settle(market, agreed_on)
    back = {"seller": BUYER, "buyer": SELLER}
    do(market, agreed_at_home(exchange_id=id_of("at home"), **back), Stage.SETTLE, HOME)
    gift = agreed_at_home(exchange_id=id_of("gift"), price=0, royalties=[])
    do(market, gift, Stage.SETTLE, HOME)
    report = report_of(market)
    assert report.ok, report.problems


@pytest.mark.parametrize(
    "steps",
    [
        [(Stage.PREPARE, (0,))],
        [(Stage.PREPARE, SHARDS)],
        [(Stage.ABORT, (HOME,))],
        [(Stage.PREPARE, (0, 2)), (Stage.ABORT, (HOME,)), (Stage.VOID, (2,))],
        [(Stage.PREPARE, SHARDS), (Stage.COMMIT, (HOME,))],
        [(Stage.PREPARE, SHARDS), (Stage.COMMIT, (HOME,)), (Stage.POST, (2,))],
        [(Stage.ABORT, (HOME,)), (Stage.PREPARE, (0,))],
    ],
)
def test_an_exchange_that_is_under_way_is_no_problem(
    market: Market, steps: list[tuple[Stage, tuple[int, ...]]]
) -> None:
    for stage, shards in steps:
        do(market, agreed(), stage, *shards)
    report = report_of(market)
    assert report.ok, report.problems


def test_a_leg_that_was_posted_although_the_exchange_was_called_off_is_found(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    do(market, agreed(), Stage.ABORT, HOME)
    do(market, agreed(), Stage.POST, 0)
    do(market, agreed(), Stage.VOID, 1, 2)
    place = f"shard-000 entry {market.shards[0].tree_size - 2}"  # the first of a chain of two
    report = report_of(market)
    assert found(report) == [(place, BOTH_WAYS)]
    assert agreed().digest.hex() in report.problems[0].what


def test_a_leg_that_was_posted_without_a_decision_is_found(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    do(market, agreed(), Stage.POST, 2)
    place = last(market, 2)
    assert found(report_of(market)) == [(place, UNCOMMITTED)]


def test_a_leg_that_was_posted_for_the_decision_about_other_terms_is_found(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    settle(market, agreed(exchange_id=id_of("other"), asset=_another_asset(market)))
    do(market, agreed(), Stage.POST, 2)
    place = last(market, 2)
    assert found(report_of(market)) == [(place, UNCOMMITTED)]


def _another_asset(market: Market) -> bytes:
    market.record(market.shards[HOME], Entry(kind=Kind.ASSET, id=id_of("sculpture"), owner=SELLER))
    return id_of("sculpture")


def test_a_leg_that_was_settled_before_the_exchange_was_called_off_is_found(market: Market) -> None:
    exchange = agreed_at_home()
    legs = columns([entry for entry, _ in items(Request(exchange, HOME, Stage.SETTLE))[:-1]])
    legs["flags"][-1] = 0
    assert not market.shards[HOME].append(legs).results.any()
    do(market, exchange, Stage.ABORT, HOME)
    place = f"shard-001 entry {market.shards[HOME].tree_size - len(legs) - 1}"
    assert found(report_of(market)) == [(place, BOTH_WAYS)]


def test_a_leg_that_was_voided_although_the_exchange_happens_is_found(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    do(market, agreed(), Stage.COMMIT, HOME)
    do(market, agreed(), Stage.POST, 0, 1)
    do(market, agreed(), Stage.VOID, 2)
    place = last(market, 2)
    assert found(report_of(market)) == [(place, AGAINST)]


def test_two_decisions_that_contradict_each_other_are_found(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    do(market, agreed(), Stage.COMMIT, HOME)
    do(market, agreed(), Stage.ABORT, 2)
    places = last(market, HOME), last(market, 2)
    assert found(report_of(market)) == [(place, TWICE) for place in places]


@pytest.mark.parametrize("absent", SHARDS)
def test_a_decision_to_commit_without_the_legs_of_a_shard_is_found(market: Market, absent: int) -> None:
    do(market, agreed(), Stage.PREPARE, *(shard for shard in SHARDS if shard != absent))
    do(market, agreed(), Stage.COMMIT, HOME)
    place = last(market, HOME)
    assert found(report_of(market)) == [(place, INCOMPLETE)]


@pytest.mark.parametrize("request_hash", [bytes(32), agreed().digest])
def test_a_leg_that_something_else_has_ended_is_found_in_its_shard(market: Market, request_hash: bytes) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    (leg,) = [entry for entry, _ in items(Request(agreed(), 2, Stage.PREPARE))]
    place = last(market, 2)
    end = Entry(kind=Kind.MONEY, id=id_of("end"), subject=leg.id, flags=Flag.POST, request_hash=request_hash)
    market.record(market.shards[2], end)
    report_of(market)
    assert found(check(shard_path(market.path, 2))) == [(place, NOT_TOGETHER)]


def test_legs_of_which_only_one_was_posted_are_found_in_their_shard(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    do(market, agreed(), Stage.COMMIT, HOME)
    place = f"shard-000 entry {market.shards[0].tree_size - 2}"
    end, *others = [entry for entry, _ in items(Request(agreed(), 0, Stage.POST))]
    assert others
    market.record(market.shards[0], msgspec.structs.replace(end, flags=Flag.POST))
    assert found(report_of(market)) == [(place, NOT_TOGETHER)]


def test_one_shard_alone_is_not_asked_for_the_decision_of_another(market: Market) -> None:
    settle(market, agreed())
    report_of(market)
    for shard in SHARDS:
        assert check(shard_path(market.path, shard)).ok


def test_a_contradiction_within_one_shard_is_found_there(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    do(market, agreed(), Stage.COMMIT, HOME)
    do(market, agreed(), Stage.VOID, HOME)
    place = f"shard-001 entry {market.shards[HOME].tree_size - 2}"
    report_of(market)
    assert found(check(shard_path(market.path, HOME))) == [(place, AGAINST)]


def test_a_decision_that_is_only_in_the_write_ahead_log_is_seen(market: Market, tmp_path: Path) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    home = market.shards[HOME]
    size = home.tree_size
    decided = home.sequence(*batch([Request(agreed(), HOME, Stage.COMMIT)]))
    assert not decided.results.any()
    assert home.num_pending == 1
    do(market, agreed(), Stage.POST, 0)
    shutil.copytree(market.path, tmp_path / "copy")
    report = check(tmp_path / "copy")
    assert report.ok, report.problems
    assert report.num_pending == 1
    assert home.tree_size == size + 1


def checked(market: Market, *shards: int) -> dict[int, Checked]:
    """The checks of some shards, as they are now."""
    for shard in market.shards.values():
        shard.close()
    jobs = [job(market, shard) for shard in shards]
    results = check_apart(jobs, 1, lambda num_entries: None, os.urandom)
    market.shards.update({shard: market.open(shard) for shard in SHARDS})
    return dict(zip(shards, results, strict=True))


def job(market: Market, shard: int) -> Job:
    path = shard_path(market.path, shard)
    return Job(path, path.name, [parse_verifier_key(market.keys.verifier_keys[shard])])


def compared(market: Market, results: dict[int, Checked]) -> list[str]:
    findings = Findings()
    jobs = [job(market, shard) for shard in sorted(results)]
    check_exchanges(jobs, [results[shard] for shard in sorted(results)], True, findings.add)
    return [problem.where for problem in findings.problems]


def test_what_is_recorded_while_the_shards_are_checked_is_seen(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, 0, HOME)
    early = checked(market, HOME)
    do(market, agreed(), Stage.PREPARE, 2)
    do(market, agreed(), Stage.COMMIT, HOME)
    do(market, agreed(), Stage.POST, 0)
    results = early | checked(market, 0, 2)
    for shard in market.shards.values():
        shard.close()
    assert compared(market, results) == []


def test_a_leg_that_was_held_after_its_shard_was_checked_is_seen(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, 0, HOME)
    early = checked(market, 0, 2)
    do(market, agreed(), Stage.PREPARE, 2)
    do(market, agreed(), Stage.COMMIT, HOME)
    results = early | checked(market, HOME)
    for shard in market.shards.values():
        shard.close()
    assert compared(market, results) == []


def test_what_is_posted_while_the_shards_are_checked_is_left_for_the_next_check(market: Market) -> None:
    do(market, agreed(), Stage.PREPARE, *SHARDS)
    do(market, agreed(), Stage.POST, 0)
    results = checked(market, *SHARDS)
    do(market, agreed(), Stage.POST, 2)
    for shard in market.shards.values():
        shard.close()
    assert [where.partition(" ")[0] for where in compared(market, results)] == ["shard-000"]


def test_nothing_is_missed_that_a_shard_which_cannot_be_read_may_have(market: Market) -> None:
    settle(market, agreed())
    for shard in market.shards.values():
        shard.close()
    (shard_path(market.path, HOME) / "data.mdb").write_bytes(b"")
    assert {where.partition(" ")[0] for where, _ in found(check(market.path))} == {"shard-001"}


def test_the_legs_of_an_exchange_are_recognised_wherever_a_block_ends() -> None:
    exchange = agreed(payer=Account(HOME, BUYER))
    assert exchange.shards == (1, 2)
    requests = [Request(exchange, HOME, stage) for stage in (Stage.PREPARE, Stage.COMMIT, Stage.POST)]
    rows = as_bytes(batch(requests)[0]).copy()
    whole = spoken(rows, len(rows))
    assert len(whole) == len(rows), "every entry is of the exchange"
    for cut in range(1, len(rows)):
        assert spoken(rows, cut) == whole


def spoken(rows: np.ndarray, cut: int) -> set[tuple[int, int]]:
    """(index, what) of every entry, collected in two blocks."""
    collected = Exchanges()
    for begin, end in ((0, cut), (cut, len(rows))):
        if begin < end:
            collected.collect(rows[begin:end], begin)
    return {
        (int(record["index"]) + step, int(record["what"]))
        for record in collected.records()
        for step in range(int(record["num"]))
    }


def test_nothing_is_kept_of_what_belongs_to_no_exchange() -> None:
    leg, *_ = (entry for entry, _ in items(Request(agreed(), 0, Stage.PREPARE)))
    (decision,) = (entry for entry, _ in items(Request(agreed(), HOME, Stage.COMMIT)))
    strangers = [
        Entry(kind=Kind.ASSET, id=ASSET, request_hash=agreed().digest),
        msgspec.structs.replace(leg, request_hash=bytes(32)),
        msgspec.structs.replace(leg, id=id_of("stranger"), flags=int(Flag.LINKED)),
        Entry(kind=Kind.MONEY, id=id_of("end"), subject=leg.id, flags=Flag.VOID, request_hash=agreed().digest),
        msgspec.structs.replace(decision, content_hash=b"x" * 32),
    ]
    collected = Exchanges()
    collected.collect(as_bytes(columns(strangers)).copy(), 0)
    assert len(collected.records()) == 0


def record_of(what: int, terms: tuple[int, int, int, int], index: int) -> Records:
    record = np.zeros(1, RECORD_DTYPE)
    record["what"], record["terms"], record["index"], record["num"] = what, terms, index, 1
    record["legs"], record["num_legs"] = (1, 1) if what == SETTLED else (0, 0)
    return record


def test_terms_whose_hashes_begin_alike_are_told_apart() -> None:
    one, other = (5, 1, 1, 1), (5, 1, 1, 2)
    settled = [record_of(SETTLED, one, 0), record_of(SETTLED, other, 1)]
    decided = [record_of(COMMITTED, one, 2), record_of(COMMITTED, other, 3)]
    for voided, places in (((5, 1, 1, 3), []), (one, ["a entry 4"]), (other, ["a entry 4"])):
        findings = Findings()
        records = np.concatenate([*settled, *decided, record_of(VOIDED, voided, 4)])
        compare([records], ["a"], list, findings.add)
        assert [problem.where for problem in findings.problems] == places


def test_shards_are_read_again_only_if_something_seems_to_be_missing() -> None:
    num_asked = 0

    def read_all() -> list[Records | None]:
        nonlocal num_asked
        num_asked += 1
        return []

    terms = (1, 2, 3, 4)
    whole = [record_of(SETTLED, terms, 0), record_of(COMMITTED, terms, 1)]
    compare(whole, ["a", "b"], read_all, Findings().add)
    assert num_asked == 0
    compare([record_of(POSTED, terms, 0)], ["a"], read_all, Findings().add)
    assert num_asked == 1


def test_a_leg_is_found_by_its_terms_and_not_by_what_lies_beside_it(market: Market) -> None:
    """Anybody can put terms beside a transfer: that makes it no leg."""
    (leg, payload), *_ = items(Request(agreed(), 2, Stage.PREPARE))
    stranger = columns([msgspec.structs.replace(leg, id=id_of("stranger"))])
    assert not market.shards[2].append(stranger, [Payload(meta=payload.meta)]).results.any()
    end = Entry(kind=Kind.MONEY, id=id_of("end"), subject=id_of("stranger"), flags=Flag.POST)
    market.record(market.shards[2], end)
    report = report_of(market)
    assert report.ok, report.problems
