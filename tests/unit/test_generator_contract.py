"""The fake generator keeps the contract that the real one keeps."""

from collections.abc import Callable

import pytest
from briefs import attempt
from contract_generator import RULES, OpenGenerator

from engine.generators.fake import FakeGenerator


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_fake_generator_keeps_the_rule_that(rule: Callable[[OpenGenerator], None]) -> None:
    rule(FakeGenerator)


def test_a_closed_fake_generator_runs_nothing_any_more() -> None:
    generator = FakeGenerator()
    generator.add(attempt("running"))
    generator.close()
    assert generator.step() == []
    assert generator.credits() == generator.capacity
