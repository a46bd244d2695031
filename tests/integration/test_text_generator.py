"""The text generator over real vLLM: it keeps the contract, and survives what would end vLLM itself."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from briefs import policies, request
from contract_generator import RULES, OpenGenerator, an_attempt, drain
from msgspec import structs

from engine.catalogue import brief_facts, load
from engine.config import CONFIGS, Config, TextConfig
from engine.embedded import open_text_generator
from engine.errors import InvalidRequest
from engine.generators import text
from engine.generators.contract import Attempt, Generator
from engine.generators.runtime import text_environment
from engine.pipeline import Sampling, Try, attempt_of, case_of
from engine.request import Brief
from engine.tiers import Tier
from gate.assess import Gate

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

CAPACITY = 64
NUM_PRODUCTS = 8
BATCHED_TOKENS = 2048  # what vLLM prefills in one step; see engine/generators/text.py


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    """One vLLM engine in this process; two cannot be, and a start takes seconds."""
    config = Config(text=TextConfig(capacity=CAPACITY))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in text_environment(config.text.threads).items():
            if name != "LD_PRELOAD":  # too late for this process
                patch.setenv(name, value)
        opened = open_text_generator(config)
        yield opened
        opened.close()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_text_generator_keeps_the_rule_that(generator: Generator, rule: Callable[[OpenGenerator], None]) -> None:
    rule(lambda: generator)


def texts_of(generator: Generator, attempts: list[Attempt]) -> dict[str, str]:
    """What becomes of attempts that are written together."""
    for attempt in attempts:
        generator.add(attempt)
    return {draft.attempt_id: draft.text for draft in drain(generator)}


def attempt_at(facts: Mapping[str, str], asset_id: str, *, constrained: bool) -> Attempt:
    """The pipeline's own attempt at a product."""
    brief = Brief(dict(facts))
    return attempt_of(asset_id, brief, Tier.STANDARD, policies()["default"], Sampling(), Try(0, constrained))


def test_another_seed_writes_another_text(generator: Generator) -> None:
    facts = brief_facts(load(CONFIGS / "catalogue.csv")[0])
    (one,) = texts_of(generator, [attempt_at(facts, "0" * 32, constrained=True)]).values()
    (other,) = texts_of(generator, [attempt_at(facts, "1" * 32, constrained=True)]).values()
    assert one
    assert other
    assert one != other


def test_a_nucleus_of_one_token_leaves_nothing_to_the_seed(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(seed: int) -> str:
        attempt = an_attempt(tokens_max=24)
        return texts_of(generator, [structs.replace(attempt, seed=seed, temperature=1.5)])[attempt.attempt_id]

    assert written(1) != written(2)
    monkeypatch.setattr(text, "TOP_P", 1e-6)
    assert written(1) == written(2) != ""


def test_drafts_within_their_briefs_grammar_pass_the_gate(generator: Generator) -> None:
    requests = {}
    for product in load(CONFIGS / "catalogue.csv")[:NUM_PRODUCTS]:
        asked = request(product.sku, facts=brief_facts(product))
        attempt = attempt_at(asked.brief.facts, asked.asset_id, constrained=True)
        requests[attempt.attempt_id] = asked
        generator.add(attempt)
    drafts = drain(generator)
    assert {draft.attempt_id for draft in drafts} == requests.keys()
    cases = [case_of(requests[draft.attempt_id], policies()["default"], draft) for draft in drafts]
    verdicts = Gate(policies()).assess_batch(cases)
    assert [verdict.findings for verdict in verdicts] == [()] * NUM_PRODUCTS, drafts


def test_an_aborted_attempt_leaves_nothing_running_in_vllm(generator: Generator) -> None:
    attempt = an_attempt(tokens_max=64)
    generator.add(attempt)
    generator.step()
    generator.abort(attempt.attempt_id)
    assert not generator.engine.has_unfinished_requests()  # type: ignore[attr-defined]


def test_a_prompt_that_is_too_long_harms_nobody_who_is_running(generator: Generator) -> None:
    running = an_attempt(tokens_max=4)
    generator.add(running)
    generator.step()
    with pytest.raises(InvalidRequest, match=r"the prompt has \d+ tokens"):
        generator.add(an_attempt("wool " * 2_000))
    assert [draft.attempt_id for draft in drain(generator)] == [running.attempt_id]


def test_a_grammar_that_does_not_compile_is_the_requests_fault(generator: Generator) -> None:
    attempt = an_attempt()
    broken = Attempt(attempt.attempt_id, attempt.messages, 1, 8, 0.5, 1, grammar="start: (")
    with pytest.raises(InvalidRequest):
        generator.add(broken)
    assert generator.credits() == generator.capacity
    assert len(texts_of(generator, [an_attempt()])) == 1


def test_seeded_prompts_of_more_tokens_than_one_step_takes_are_all_served(generator: Generator) -> None:
    words = "a calm and simple teal scarf of soft wool for cold days " * 7
    attempts = [an_attempt(f"{number} {words}", tokens_max=4) for number in range(CAPACITY)]
    for attempt in attempts:
        generator.add(attempt)
    drafts = drain(generator)
    assert {draft.attempt_id for draft in drafts} == {attempt.attempt_id for attempt in attempts}
    assert sum(draft.num_prompt_tokens for draft in drafts) > 2 * BATCHED_TOKENS
    assert {draft.finish_reason for draft in drafts} <= {"stop", "length"}
