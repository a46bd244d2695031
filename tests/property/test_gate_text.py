"""The gate survives anything: every text and every brief gets a verdict, and the verdict is consistent."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gate.assess import Gate, assess
from gate.errors import PolicyError
from gate.policy import Policy, load_policies, parse_policy
from gate.reading import normalise, read_copy
from gate.verdict import Case

POLICIES = load_policies(Path(__file__).parents[2] / "configs" / "policies")
GATE = Gate(POLICIES)
PHRASES = st.sampled_from(
    [
        "blue",
        "not",
        "49.00 EUR",
        "€",
        "1.2.3,4",
        "٣",
        "½",
        "size",
        "M",
        ".",
        '"',
        "(",
        "İ",
        "ß",
        "fall",
        "a",
        "<|im_end|>",
    ]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(PHRASES, max_size=40).map(" ".join), st.lists(PHRASES).map("".join))
FACTS = st.dictionaries(
    st.one_of(st.sampled_from(["article", "colour", "price", "size", "name"]), st.text(max_size=10)), TEXTS, max_size=6
)


@given(TEXTS, FACTS, TEXTS, st.sampled_from(["stop", "length", "error"]))
@settings(max_examples=300, deadline=None)
def test_any_text_gets_a_consistent_verdict_and_no_check_breaks(
    text: str, facts: dict[str, str], prompt: str, finish_reason: str
) -> None:
    case = Case(facts, prompt, text, finish_reason, "default")  # type: ignore[arg-type]
    verdict = assess(POLICIES["default"], case)
    assert verdict.accepted == (verdict.findings == ())
    assert 0.0 <= verdict.score <= 1.0
    assert (verdict.score == 1.0) == verdict.accepted
    assert not any(finding.check == "error" for finding in verdict.findings), verdict.findings
    assert GATE.assess_batch([case]) == [verdict]


@given(TEXTS, FACTS)
@settings(max_examples=200, deadline=None)
def test_the_words_and_sentences_of_a_text_lie_inside_it_in_order(text: str, facts: dict[str, str]) -> None:
    copy = read_copy(text, facts)
    assert copy.text == normalise(text)
    assert len(copy.outside) == len(copy.text)
    ends = [0]
    for token in copy.tokens:
        assert ends[-1] <= token.start < token.end <= len(copy.text)
        ends.append(token.end)
    covered = [at for first, last in copy.sentences for at in range(first, last)]
    assert covered == list(range(len(copy.tokens)))


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
@settings(max_examples=200, deadline=None)
def test_any_policy_file_loads_or_is_refused_by_name(source: bytes) -> None:
    try:
        policy = parse_policy(source, "any.yaml")
    except PolicyError as error:
        assert error.code == "invalid_policy"
        assert error.where.startswith("any.yaml")
    else:
        assert isinstance(policy, Policy)
