"""The gate as a whole: batches, unknown policies, broken checks, limits."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import gate.assess
from gate.assess import FACTS_CHARS_MAX, FINDINGS_PER_CHECK_MAX, TEXT_CHARS_MAX, Gate, assess
from gate.errors import PolicyError
from gate.policy import Policy, SentenceRange, WordRange
from gate.reading import Draft
from gate.verdict import Case, Verdict

POLICY = Policy(name="plain", version=1, words=WordRange(3, 40), sentences=SentenceRange(1, 3))
FACTS = {"article": "Mug", "colour": "Green"}
GOOD = Case(FACTS, "", "This is a green mug, and it is a good one.", "stop", "plain")


def with_text(text: str) -> Case:
    return msgspec.structs.replace(GOOD, text=text)


def test_a_verdict_names_its_policy_and_crosses_processes() -> None:
    verdict = assess(POLICY, GOOD)
    assert verdict == Verdict(True, (), 1.0, "plain", POLICY.hash)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(verdict), type=Verdict) == verdict
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(GOOD), type=Case) == GOOD


def test_a_batch_answers_in_the_order_of_its_cases() -> None:
    cases = [GOOD, with_text("This is a red mug, and it is a good one."), GOOD]
    verdicts = Gate({"plain": POLICY}).assess_batch(cases)
    assert [verdict.accepted for verdict in verdicts] == [True, False, True]
    assert verdicts == [assess(POLICY, case) for case in cases]
    assert Gate({"plain": POLICY}).assess_batch([]) == []


def test_an_unknown_policy_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(PolicyError, match="plain") as caught:
        Gate({"plain": POLICY}).assess_batch([GOOD, msgspec.structs.replace(GOOD, policy="grand")])
    assert caught.value.code == "unknown_policy"
    assert "grand" in caught.value.what


def test_a_check_that_breaks_rejects_its_case_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(policy: Policy, draft: Draft) -> Iterator[str]:
        if "teapot" in draft.case.text:
            raise ZeroDivisionError("short and stout")
        yield from ()

    monkeypatch.setattr(gate.assess, "CHECKS", (("odd", breaks),))
    fine, broken = Gate({"plain": POLICY}).assess_batch([GOOD, with_text("A teapot.")])
    assert fine.accepted
    assert not broken.accepted
    assert broken.findings[0].check == "error"
    assert "'odd' failed with ZeroDivisionError: short and stout" in broken.findings[0].detail


def test_texts_and_facts_beyond_the_limits_are_rejected_unread() -> None:
    long_text = assess(POLICY, with_text("a" * (TEXT_CHARS_MAX + 1)))
    long_facts = assess(POLICY, msgspec.structs.replace(GOOD, facts={"name": "a" * FACTS_CHARS_MAX}))
    for verdict in (long_text, long_facts):
        assert [finding.check for finding in verdict.findings] == ["length"]
        assert verdict.score == 0.0


def test_a_check_reports_a_bounded_number_of_findings() -> None:
    colours = "Red, pink, black, white, yellow, orange, purple, brown, beige, teal, maroon, indigo."
    verdict = assess(POLICY, with_text(colours))
    assert sum(finding.check == "unsupported" for finding in verdict.findings) == FINDINGS_PER_CHECK_MAX


def test_required_terms_must_stand_in_the_copy() -> None:
    policy = msgspec.structs.replace(POLICY, required_terms=("good one", "mugs"))
    verdict = assess(policy, GOOD)
    assert [(finding.check, finding.detail) for finding in verdict.findings] == [
        ("required", "'mugs' is required by the policy")
    ]


def test_only_the_kinds_that_a_policy_names_are_judged() -> None:
    lenient = msgspec.structs.replace(
        POLICY, facts=msgspec.structs.replace(POLICY.facts, may_not_contradict=("colour",))
    )
    text = "This is a green mug, and it is a good one in summer."
    assert not assess(POLICY, with_text(text)).accepted
    assert assess(lenient, with_text(text)).accepted


def test_the_gate_imports_nothing_of_the_engine_the_ledger_or_a_model_server() -> None:
    code = (
        "import sys, gate.assess\n"
        "banned = ('engine', 'ledger', 'actors', 'ray', 'torch', 'vllm', 'lmdb')\n"
        "print([name for name in banned if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
