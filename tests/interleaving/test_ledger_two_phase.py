"""Two-phase commit in every order: all states that two coordinators, two shards and a hostile network can get into.

The network keeps whatever was ever sent and may deliver it at any time, again and again, or never. So a message is
lost, repeated, late or overtaken in every possible way, and a coordinator that hears nothing more is one that died.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from broken_protocols import (
    everywhere,
    forgets_the_decision,
    gives_up_what_it_has_decided,
    resumes_without_asking,
    takes_any_decision_for_its_own,
    takes_one_vote_for_all,
    voids_before_it_is_decided,
)
from exchanging import BUYER, HOME, SELLER, Market, agreed, id_of

from ledger import decision
from ledger.decision import Answer, Progress, Request, Stage
from ledger.entry import Entry, Kind
from ledger.errors import LedgerCorrupt
from ledger.exchange import Exchange
from ledger.legs import answers
from ledger.result import Result

EXCHANGE = agreed()
PAYING, ROYAL = 0, 2
SHARDS = (PAYING, HOME, ROYAL)
FREE, HELD, POSTED, VOIDED = "free", "held", "posted", "voided"
REACHABLE = ({FREE}, {HELD}, {POSTED}, {VOIDED}, {FREE, HELD}, {FREE, VOIDED}, {HELD, POSTED}, {HELD, VOIDED})
"""What the legs of an exchange may be at one moment, over its shards."""

STATES_MAX = 200_000
"""Far more than there are; a protocol that never settles would have no end."""


class Legs(NamedTuple):
    """A shard, as far as one exchange is concerned: its legs, and at home the decision."""

    legs: str = FREE
    decided: Stage | None = None


def asked(shard: Legs, stage: Stage) -> tuple[Legs, Result]:
    """What a shard does and says; `test_the_model_of_a_shard_...` compares it with a real one."""
    if stage == Stage.PREPARE:
        return (shard._replace(legs=HELD), Result.OK) if shard.legs == FREE else (shard, Result.EXISTS)
    if stage in (Stage.COMMIT, Stage.ABORT):
        if shard.decided is None:
            return shard._replace(decided=stage), Result.OK
        return shard, Result.EXISTS if shard.decided == stage else Result.EXISTS_WITH_DIFFERENT_AMOUNT
    end = POSTED if stage == Stage.POST else VOIDED
    if shard.legs == HELD:
        return shard._replace(legs=end), Result.OK
    if shard.legs == FREE:
        return shard, Result.PENDING_TRANSFER_NOT_FOUND
    return shard, Result.EXISTS if shard.legs == end else Result.EXISTS_WITH_DIFFERENT_FLAGS


class Working(NamedTuple):
    """A coordinator at work: its progress without what is the same for all, and without the reason of a refusal."""

    stage: Stage
    waiting: frozenset[int]

    @property
    def progress(self) -> Progress:
        return Progress(EXCHANGE, self.stage, self.waiting)


class State(NamedTuple):
    """Everything: shards by place in `SHARDS`, coordinators (None: not yet at work), and all that was ever sent."""

    shards: tuple[Legs, ...]
    coordinators: tuple[Working | None, ...]
    requests: frozenset[tuple[int, Stage]] = frozenset()
    answers: frozenset[tuple[int, Stage, Result]] = frozenset()


class Coordinators(msgspec.Struct, frozen=True):
    """The protocol under test. `starts`: how each coordinator may begin, at any time."""

    after: Callable[[Progress, Answer], Progress] = decision.after
    give_up: Callable[[Progress], Progress] = decision.give_up
    starts: tuple[Callable[[Exchange], Progress], ...] = (decision.begin, decision.resume)


class Broken(AssertionError):
    """A state that must not be."""


def with_coordinator(state: State, number: int, progress: Progress) -> State:
    """The coordinator goes on, and sends what it has to."""
    working = Working(progress.stage, progress.waiting)
    coordinators = (*state.coordinators[:number], working, *state.coordinators[number + 1 :])
    sent = {(request.shard, request.stage) for request in decision.requests(progress)}
    return state._replace(coordinators=coordinators, requests=state.requests | sent)


def next_states(state: State, protocol: Coordinators) -> Iterator[State]:
    """Every single thing that can happen."""
    for number, working in enumerate(state.coordinators):
        if working is None:
            yield with_coordinator(state, number, protocol.starts[number](EXCHANGE))
            continue
        before = working.progress
        heard = [Answer(EXCHANGE.digest, *answer) for answer in state.answers]
        for then in (protocol.give_up(before), *(protocol.after(before, answer) for answer in heard)):
            if then is not before:
                yield with_coordinator(state, number, then)
    for number, stage in state.requests:
        place = SHARDS.index(number)
        shard, result = asked(state.shards[place], stage)
        shards = (*state.shards[:place], shard, *state.shards[place + 1 :])
        said = Result.OK if result == Result.EXISTS else result  # nobody tells these two apart
        yield state._replace(shards=shards, answers=state.answers | {(number, stage, said)})
        if stage == Stage.PREPARE and number == PAYING and shard.legs == HELD != state.shards[place].legs:
            refusal = (number, stage, Result.EXCEEDS_CREDITS)
            yield state._replace(answers=state.answers | {refusal})


def check(state: State) -> None:
    """No shard has posted or voided against the decision, or before it, and no client is told otherwise."""
    decided = state.shards[SHARDS.index(HOME)].decided
    legs = {shard.legs for shard in state.shards}
    if POSTED in legs and (decided != Stage.COMMIT or not legs <= {POSTED, HELD}):
        raise Broken(f"posted, though {decided} is decided and the shards are {legs}")
    if VOIDED in legs and decided != Stage.ABORT:
        raise Broken(f"voided, though {decided} is decided")
    for working in state.coordinators:
        told = working.progress.is_committed if working is not None else None
        if told is not None and told != (decided == Stage.COMMIT):
            raise Broken(f"a client is told {told}, though {decided} is decided")


@cache
def check_recovery(now: tuple[Legs, ...]) -> None:
    """Whoever resumes the exchange now, and is answered, brings it to an end that is the same everywhere."""
    shards = dict(zip(SHARDS, now, strict=True))
    progress = decision.resume(EXCHANGE)
    while progress.waiting:
        for request in decision.requests(progress):
            shards[request.shard], result = asked(shards[request.shard], request.stage)
            progress = decision.after(progress, Answer(EXCHANGE.digest, request.shard, request.stage, result))
    ends = {shard.legs for shard in shards.values()}
    if ends not in ({POSTED}, {VOIDED}, {FREE}, {VOIDED, FREE}):
        raise Broken(f"recovery leaves the shards {ends}")


def explore(protocol: Coordinators) -> set[State]:
    """All states there are.

    Raises:
        Broken, LedgerCorrupt: one of them must not be.
    """
    first = State((Legs(),) * len(SHARDS), (None,) * len(protocol.starts))
    seen, waiting = {first}, [first]
    while waiting:
        for state in next_states(waiting.pop(), protocol):
            if state not in seen:
                check(state)
                check_recovery(state.shards)
                seen.add(state)
                waiting.append(state)
        assert len(seen) < STATES_MAX
    return seen


@pytest.mark.parametrize("second", [decision.resume, decision.begin], ids=["a recovery", "a second coordinator"])
def test_in_no_order_of_events_is_an_exchange_settled_by_halves(second: Callable[[Exchange], Progress]) -> None:
    seen = explore(Coordinators(starts=(decision.begin, second)))
    ends = {frozenset(shard.legs for shard in state.shards) for state in seen}
    assert ends >= {frozenset(legs) for legs in REACHABLE}
    assert not [legs for legs in ends if {POSTED, VOIDED} <= legs or {POSTED, FREE} <= legs]
    told = {working.progress.is_committed for state in seen for working in state.coordinators if working is not None}
    assert told == {None, True, False}


@pytest.mark.parametrize(
    "protocol",
    [
        Coordinators(after=forgets_the_decision),
        Coordinators(after=voids_before_it_is_decided),
        Coordinators(after=takes_one_vote_for_all),
        Coordinators(after=takes_any_decision_for_its_own),
        Coordinators(give_up=gives_up_what_it_has_decided),
        Coordinators(starts=(decision.begin, resumes_without_asking)),
        Coordinators(starts=(decision.begin, lambda exchange: everywhere(decision.begin(exchange), Stage.POST))),
    ],
    ids=["forgets", "voids early", "one vote", "any decision", "gives up", "does not ask", "posts early"],
)
def test_the_search_finds_what_is_wrong_with(protocol: Coordinators) -> None:
    with pytest.raises((Broken, LedgerCorrupt)):
        explore(protocol)


STAGES = (Stage.PREPARE, Stage.COMMIT, Stage.ABORT, Stage.POST, Stage.VOID)
LENGTH = 4


def test_the_model_of_a_shard_answers_as_a_real_one_to_any_requests_in_any_order(tmp_path: Path) -> None:
    market = Market(tmp_path)
    orders = list(product(STAGES, repeat=LENGTH))
    exchanges = [
        agreed(exchange_id=id_of(f"exchange {number}"), asset=id_of(f"asset {number}"), royalties=[], price=1)
        for number in range(len(orders))
    ]
    assets = [Entry(kind=Kind.ASSET, id=exchange.asset, owner=SELLER) for exchange in exchanges]
    market.record(market.shards[HOME], *assets)
    models = [Legs()] * len(orders)
    for place in range(LENGTH):
        batch = [Request(exchange, HOME, order[place]) for exchange, order in zip(exchanges, orders, strict=True)]
        for number, answer in enumerate(answers(market.shards[HOME], batch)):
            models[number], expected = asked(models[number], answer.stage)
            assert answer.result == expected, [stage.name for stage in orders[number][: place + 1]]
    owners = [market.shards[HOME].book.owner(exchange.asset) or SELLER for exchange in exchanges]
    assert owners == [BUYER if model.legs == POSTED else SELLER for model in models]
    market.close()
