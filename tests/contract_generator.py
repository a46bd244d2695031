"""The generator contract as rules that any generator must keep, whatever it is made of.

Each rule takes `open_generator`, which gives a generator that is idle; it leaves it idle, so a costly one may be
opened once and given to every rule. `test_generator_contract.py` runs them for the fake.
"""

import itertools
from collections.abc import Callable

import pytest

from engine.errors import InvalidRequest
from engine.generators.contract import Attempt, Draft, Generator

OpenGenerator = Callable[[], Generator]
STEPS_MAX = 2_000
numbers = itertools.count()


def an_attempt(words: str = "a calm teal scarf of soft wool", *, tokens_max: int = 8) -> Attempt:
    """A short attempt with an id of its own."""
    attempt_id = f"contract-{next(numbers)}"
    return Attempt(attempt_id, (("user", words),), seed=7, tokens_max=tokens_max, temperature=0.5, priority=1)


def drain(generator: Generator) -> list[Draft]:
    """Step until every place is free again."""
    drafts: list[Draft] = []
    for _ in range(STEPS_MAX):
        if generator.credits() == generator.capacity:
            return drafts
        drafts += generator.step()
    raise AssertionError(f"the generator is not idle after {STEPS_MAX} steps")


def an_idle_generator_has_all_its_credits_and_steps_to_nothing(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    assert generator.credits() == generator.capacity > 0
    assert generator.step() == []


def every_attempt_yields_one_draft_under_its_own_id(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    attempts = [an_attempt() for _ in range(min(generator.capacity, 4))]
    for attempt in attempts:
        generator.add(attempt)
    drafts = drain(generator)
    assert sorted(draft.attempt_id for draft in drafts) == sorted(attempt.attempt_id for attempt in attempts)
    assert generator.step() == []


def each_attempt_takes_one_credit_until_it_ends(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    seen = [generator.credits()]
    while generator.credits() > 0:
        generator.add(an_attempt())
        seen.append(generator.credits())
    assert seen == list(range(generator.capacity, -1, -1))
    assert len(drain(generator)) == generator.capacity


def a_draft_names_its_model_and_counts_its_tokens(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    attempt = an_attempt(tokens_max=5)
    generator.add(attempt)
    (draft,) = drain(generator)
    assert draft.model == generator.info
    assert draft.finish_reason in ("stop", "length")
    assert 1 <= draft.num_tokens <= attempt.tokens_max
    assert draft.num_prompt_tokens > 0
    assert draft.error is None


def a_draft_cut_by_tokens_max_says_so(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    generator.add(an_attempt(tokens_max=1))
    (draft,) = drain(generator)
    assert (draft.finish_reason, draft.num_tokens) == ("length", 1)


def the_same_attempt_is_written_the_same_way_again(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    first, second = an_attempt(), an_attempt()
    assert (first.messages, first.seed) == (second.messages, second.seed)
    texts = []
    for attempt in (first, second):
        generator.add(attempt)
        texts += [draft.text for draft in drain(generator)]
    assert texts[0] == texts[1]


def an_aborted_attempt_frees_its_place_and_yields_no_draft(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    kept, stopped = an_attempt(), an_attempt()
    generator.add(kept)
    generator.add(stopped)
    generator.step()
    generator.abort(stopped.attempt_id)
    assert generator.credits() >= generator.capacity - 1
    assert stopped.attempt_id not in {draft.attempt_id for draft in drain(generator)}


def aborting_what_nobody_knows_changes_nothing(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    generator.abort("never-added")
    attempt = an_attempt()
    generator.add(attempt)
    drain(generator)
    generator.abort(attempt.attempt_id)
    assert generator.credits() == generator.capacity
    assert generator.step() == []


def an_aborted_attempt_may_be_added_again(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    attempt = an_attempt()
    generator.add(attempt)
    generator.step()
    generator.abort(attempt.attempt_id)
    generator.add(attempt)
    assert [draft.attempt_id for draft in drain(generator)] == [attempt.attempt_id]


def later_attempts_join_while_earlier_ones_run(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    early, late = an_attempt(tokens_max=8), an_attempt(tokens_max=1)
    generator.add(early)
    drafts = generator.step()
    generator.add(late)
    drafts += drain(generator)
    assert {draft.attempt_id for draft in drafts} == {early.attempt_id, late.attempt_id}


def a_prompt_that_can_never_fit_is_refused_and_takes_no_place(open_generator: OpenGenerator) -> None:
    generator = open_generator()
    with pytest.raises(InvalidRequest) as refused:
        generator.add(an_attempt("wool " * 20_000))
    assert refused.value.body.where.startswith("brief")
    assert generator.credits() == generator.capacity
    assert generator.step() == []


RULES: tuple[Callable[[OpenGenerator], None], ...] = (
    an_idle_generator_has_all_its_credits_and_steps_to_nothing,
    every_attempt_yields_one_draft_under_its_own_id,
    each_attempt_takes_one_credit_until_it_ends,
    a_draft_names_its_model_and_counts_its_tokens,
    a_draft_cut_by_tokens_max_says_so,
    the_same_attempt_is_written_the_same_way_again,
    an_aborted_attempt_frees_its_place_and_yields_no_draft,
    aborting_what_nobody_knows_changes_nothing,
    an_aborted_attempt_may_be_added_again,
    later_attempts_join_while_earlier_ones_run,
    a_prompt_that_can_never_fit_is_refused_and_takes_no_place,
)
