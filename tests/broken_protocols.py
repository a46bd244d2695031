"""Mistakes that a coordinator could make, for tests that must catch every one of them."""

import msgspec

from ledger import decision
from ledger.decision import Answer, Progress, Stage
from ledger.exchange import Exchange
from ledger.result import Result


def forgets_the_decision(progress: Progress, answer: Answer) -> Progress:
    """Posts once all shards hold their legs, and writes nothing down."""
    then = decision.after(progress, answer)
    return everywhere(then, Stage.POST) if then.stage == Stage.COMMIT else then


def voids_before_it_is_decided(progress: Progress, answer: Answer) -> Progress:
    """Releases the legs as soon as one shard refuses."""
    then = decision.after(progress, answer)
    return everywhere(then, Stage.VOID) if then.stage == Stage.ABORT and len(then.exchange.shards) > 1 else then


def takes_one_vote_for_all(progress: Progress, answer: Answer) -> Progress:
    """Commits before every shard has said that it holds its legs."""
    if progress.stage == Stage.PREPARE and answer.stage == Stage.PREPARE and answer.result == Result.OK:
        progress = msgspec.structs.replace(progress, waiting=frozenset({answer.shard}))
    return decision.after(progress, answer)


def takes_any_decision_for_its_own(progress: Progress, answer: Answer) -> Progress:
    """Does not read the answer to its decision."""
    return decision.after(progress, as_agreed(answer, Stage.COMMIT) if progress.stage == Stage.COMMIT else answer)


def takes_a_refusal_for_the_end(progress: Progress, answer: Answer) -> Progress:
    """Tells its client of a refusal within one shard without writing it down."""
    then = decision.after(progress, answer)
    refused = progress.stage == Stage.SETTLE and then.stage == Stage.ABORT
    return Progress(then.exchange, Stage.VOID, frozenset(), then.refusal) if refused else then


def gives_up_what_it_has_decided(progress: Progress) -> Progress:
    """After the deadline it releases the legs, though they are to be posted."""
    return everywhere(progress, Stage.VOID) if progress.stage == Stage.POST else decision.give_up(progress)


def resumes_without_asking(exchange: Exchange) -> Progress:
    """Presumes that what it finds was called off."""
    return Progress(exchange, Stage.VOID, frozenset(exchange.shards))


def everywhere(progress: Progress, stage: Stage) -> Progress:
    return Progress(progress.exchange, stage, frozenset(progress.exchange.shards))


def as_agreed(answer: Answer, stage: Stage) -> Answer:
    return msgspec.structs.replace(answer, result=Result.OK) if answer.stage == stage else answer
