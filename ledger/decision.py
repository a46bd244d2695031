"""Two-phase commit of an exchange over several shards: the protocol as a state machine, without any input or output.

    PREPARE  to every shard: hold its legs, all or none (pending transfers in a linked chain)
    COMMIT   once all hold, to the asset's shard: record the decision that it happens
    ABORT    if one does not, or the deadline is over, to the asset's shard: record the decision that it does not
    POST     after a decision to commit, to every shard: the legs happen
    VOID     after a decision to abort, to every shard: the legs are released

An exchange within one shard needs no phases: SETTLE records its legs and its decision in one linked chain, or nothing;
then ABORT makes sure that it stays nothing, since a repeat of the request may still be on its way.

What makes it safe:
- The decision is one entry, whose id is a function of the exchange's id: the asset's shard records the first one that
  comes, for ever, and tells every other one apart by its code. However many coordinators there are, one decision.
- Nobody posts or voids before the decision is durable, and a decision to commit is offered only by whoever was told
  by every shard that its legs are durably held.
- A leg that is held can always be posted: its account was charged, and its asset blocked, when it was held.
- After a decision to commit no leg can expire, because no leg expires at all. They are pending transfers without a
  timeout, which the ledger refuses to expire; what is over at the deadline is the time to decide, and only the
  decision releases them. No clock decides anything: a wrong one aborts too early or too late, never by halves.

What makes it end: every message may be lost, late or repeated, as every entry's id is a function of the terms, so
that a repeat exists already. A coordinator keeps nothing. If it dies, anyone finds the held legs in the logs, with the
terms beside them (`ledger.coordinator`), and offers to abort: presumed abort, unless the answer is that a commit is
recorded; then that is finished. A PREPARE that comes after the end is held until it is found in the same way.

Turned down: legs with a timeout (a shard that is cut off for longer than that from a decided exchange would release its
legs: half settled; a shard that asks for the decision before it expires a leg must wait for the answer just the same,
so the timeout would add nothing); votes without entries (a shard could forget them in a crash); and the decision in
the same chain as the asset's legs (one commit less, but a refusal might be of either, and only one of them is final).
Source: Gray, Notes on Data Base Operating Systems, 1978; Mohan, Lindsay and Obermarck, Transaction Management in the R*
Distributed Database Management System, TODS 1986, for presumed abort.
"""

from enum import IntEnum

import msgspec

from ledger.errors import LedgerCorrupt
from ledger.exchange import Exchange
from ledger.result import Result

_DONE = frozenset({Result.OK, Result.EXISTS})


class Stage(IntEnum):
    """What is being asked of the shards."""

    SETTLE = 1
    PREPARE = 2
    COMMIT = 3
    ABORT = 4
    POST = 5
    VOID = 6


class Request(msgspec.Struct, frozen=True):
    """To one shard: do your part of a stage. Repeats do no harm."""

    exchange: Exchange
    shard: int
    stage: Stage


class Answer(msgspec.Struct, frozen=True):
    """What became of a request: `OK`, `EXISTS` if it had been done before, or why the shard refuses.

    `digest`: of the exchange's terms.
    """

    digest: bytes
    shard: int
    stage: Stage
    result: Result


class Progress(msgspec.Struct, frozen=True):
    """How far an exchange is, as one coordinator knows: whose answers to this stage are missing; none: it is over.

    `refusal`: why it does not happen, if a shard has said so; `EXISTS`: it was called off before.
    """

    exchange: Exchange
    stage: Stage
    waiting: frozenset[int]
    refusal: Result | None = None

    @property
    def is_committed(self) -> bool | None:
        """Whether the exchange happens; None as long as that is open. It never changes afterwards."""
        return {Stage.POST: True, Stage.VOID: False}.get(self.stage)


def begin(exchange: Exchange) -> Progress:
    """Nothing is known yet. Whoever is not sure whether it was begun before begins it again."""
    shards = exchange.shards
    return Progress(exchange, Stage.PREPARE if len(shards) > 1 else Stage.SETTLE, frozenset(shards))


def resume(exchange: Exchange) -> Progress:
    """Somebody began it and has not finished: call it off, unless it was decided."""
    return Progress(exchange, Stage.ABORT, frozenset({exchange.home}))


def give_up(progress: Progress) -> Progress:
    """The deadline is over: call it off if nothing is known to be decided. What was asked already may still be done;
    of two decisions the first one holds."""
    undecided = (Stage.SETTLE, Stage.PREPARE, Stage.COMMIT)
    return resume(progress.exchange) if progress.stage in undecided else progress


def requests(progress: Progress) -> tuple[Request, ...]:
    """What to send now; and again, if answers do not come."""
    return tuple(Request(progress.exchange, shard, progress.stage) for shard in sorted(progress.waiting))


def after(progress: Progress, answer: Answer) -> Progress:
    """How far it is after an answer; one to another stage, or a second one, changes nothing.

    The answer must be about this exchange, by the digest of its terms.

    Raises:
        LedgerCorrupt: a shard cannot do what it has promised.
    """
    assert answer.digest == progress.exchange.digest, "an answer to somebody else"
    if answer.stage != progress.stage or answer.shard not in progress.waiting:
        return progress
    result, others = answer.result, progress.waiting - {answer.shard}
    match progress.stage:
        case Stage.SETTLE if result in _DONE:
            return Progress(progress.exchange, Stage.POST, frozenset())
        case Stage.SETTLE | Stage.PREPARE if result not in _DONE:
            return Progress(progress.exchange, Stage.ABORT, frozenset({progress.exchange.home}), result)
        case Stage.PREPARE if not others:
            return Progress(progress.exchange, Stage.COMMIT, frozenset({progress.exchange.home}))
        case Stage.COMMIT | Stage.ABORT:
            return _decided(progress, result)
        case Stage.POST if result not in _DONE:
            raise _broken(answer)
        case Stage.VOID if result not in _DONE and result != Result.PENDING_TRANSFER_NOT_FOUND:
            raise _broken(answer)
    return msgspec.structs.replace(progress, waiting=others)


def _decided(progress: Progress, result: Result) -> Progress:
    """It is decided, as offered or otherwise.

    A recorded decision that differs in its amount alone is of the same terms: the other decision. One that differs in
    anything before that belongs to other terms under the same id; then these can never be committed.
    """
    is_recorded = Result.EXISTS_WITH_DIFFERENT_KIND <= result <= Result.EXISTS
    if result != Result.OK and not is_recorded:
        raise _broken(Answer(progress.exchange.digest, progress.exchange.home, progress.stage, result))
    as_offered, is_other = result in _DONE, result == Result.EXISTS_WITH_DIFFERENT_AMOUNT
    is_commit = as_offered if progress.stage == Stage.COMMIT else is_other
    refusal = progress.refusal
    if not is_commit and refusal is None and result != Result.OK:
        refusal = result
    shards = progress.exchange.shards
    waiting = frozenset(shards if len(shards) > 1 else ())
    return Progress(progress.exchange, Stage.POST if is_commit else Stage.VOID, waiting, None if is_commit else refusal)


def _broken(answer: Answer) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"{answer.stage.name} of the exchange with the terms {answer.digest.hex()} is refused: {answer.result.name}",
        where=f"shard {answer.shard}",
        fix="Run fsck on the shards of the exchange; a leg was ended by something else than its decision.",
    )
