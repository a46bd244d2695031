"""The grammar builder: what it derives, what it refuses, and that the decoder's compiler takes it."""

import random
from pathlib import Path

import llguidance
import msgspec
import pytest

from engine.errors import MintageError
from engine.grammar import Alt, GrammarImpossible, Seq, copy_grammar, copy_plan, num_texts, render, sample
from gate.policy import Policy, SentenceRange, WordRange, load_policies

POLICIES = load_policies(Path(__file__).parents[2] / "configs" / "policies")
FACTS = {
    "name": 'Harrow "Slim" Women Jeans \\ 51',
    "article": "Jeans",
    "colour": "Blue",
    "gender": "Women",
    "material": "cotton",
    "price": "49.00 EUR",
    "size": "M",
}
TOKENIZER = llguidance.LLTokenizer("byte")


def accepts(grammar: str, text: str) -> bool:
    matcher = llguidance.LLMatcher(TOKENIZER, grammar)
    tokens = TOKENIZER.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def texts(facts: dict[str, str], policy: Policy, num: int = 40) -> list[str]:
    plan, rng = copy_plan(facts, policy), random.Random(11)
    return [sample(plan, rng) for _ in range(num)]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_the_decoder_compiles_the_grammar_and_derives_its_samples_and_nothing_else(policy: Policy) -> None:
    grammar = copy_grammar(FACTS, policy)
    assert llguidance.LLMatcher.validate_grammar(grammar, TOKENIZER) == ""
    for text in texts(FACTS, policy):
        assert accepts(grammar, text)
        assert not accepts(grammar, text.replace("blue", "red"))
        assert not accepts(grammar, text[:-1])


def test_a_brief_has_thousands_of_texts_in_several_orders() -> None:
    for policy in POLICIES.values():
        assert num_texts(copy_plan(FACTS, policy)) > 5000
    drawn = texts(FACTS, POLICIES["default"])
    assert len(set(drawn)) == len(drawn)
    assert len({text.split()[0] for text in drawn}) > 4


def test_the_same_brief_always_gives_the_same_grammar() -> None:
    assert copy_grammar(FACTS, POLICIES["default"]) == copy_grammar(dict(FACTS), POLICIES["default"])


@pytest.mark.parametrize(
    ("article", "present", "absent"),
    [
        ("Jeans", "These jeans", "a lovely jeans"),
        ("Shirts", "This shirt", "These shirts"),
        ("Dresses", "This dress", "These dress"),
        ("Casual Shoes", "These casual shoes", "This casual"),
        ("Swimwear", "This swimwear", "a lovely swimwear"),
        ("Zithers", "These zithers", "This zithers"),
    ],
)
def test_nouns_and_verbs_agree(article: str, present: str, absent: str) -> None:
    drawn = " ".join(texts({"article": article, "colour": "Blue", "price": "5.00 EUR"}, POLICIES["default"], 200))
    assert present in drawn
    assert absent not in drawn


def test_a_fact_the_policy_asks_for_is_stated_even_if_no_template_knows_it() -> None:
    policy = msgspec.structs.replace(
        POLICIES["default"], facts=msgspec.structs.replace(POLICIES["default"].facts, must_state=("article", "pattern"))
    )
    assert all("stripes" in text for text in texts({"article": "Shirts", "pattern": "fine stripes"}, policy))


def test_required_terms_are_worked_in() -> None:
    policy = msgspec.structs.replace(POLICIES["default"], required_terms=("comfort", "ease"))
    assert all("Think comfort and ease." in text for text in texts(FACTS, policy))


def test_a_policy_that_bans_tone_words_gets_a_grammar_without_them() -> None:
    policy = msgspec.structs.replace(POLICIES["default"], banned_terms=("lovely", "discover", "welcome companion"))
    grammar = copy_grammar(FACTS, policy)
    assert "neat" in grammar
    assert not any(word in grammar for word in ("lovely", "Discover", "welcome companion"))


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (FACTS | {"name": "Cheap Jeans"}, "cheap"),
        (FACTS | {"name": "Jeans\u200b Blue"}, "U+200B"),
        (FACTS | {"material": "cotton " * 90}, "12 to 90 words"),
    ],
)
def test_facts_that_no_text_may_state_are_refused_by_name(facts: dict[str, str], named: str) -> None:
    with pytest.raises(GrammarImpossible) as caught:
        copy_grammar(facts, POLICIES["default"])
    assert isinstance(caught.value, MintageError)
    assert caught.value.body.code == "refused"
    assert named in caught.value.body.what


def test_a_policy_without_room_for_the_facts_is_refused() -> None:
    tiny = Policy(name="tiny", version=1, words=WordRange(1, 6), sentences=SentenceRange(1, 4))
    with pytest.raises(GrammarImpossible, match="1 to 6 words"):
        copy_plan(FACTS, tiny)


def test_a_tight_policy_gets_the_shortest_phrases() -> None:
    tight = msgspec.structs.replace(POLICIES["default"], words=WordRange(12, 32))
    assert texts(FACTS, tight)


def test_an_option_that_begins_another_is_still_derived() -> None:
    grammar = render(Seq((Alt(("Meet", "Meet me")), " ", Alt(("more", "me", "me, too")), ".")))
    for text in ("Meet more.", "Meet me.", "Meet me me.", "Meet me, too.", "Meet me me, too."):
        assert accepts(grammar, text)
    assert not accepts(grammar, "Meet me")


def test_rendering_escapes_what_lark_would_read() -> None:
    assert render('say "\\" é') == 'start: TEXT\nTEXT: "say \\"\\\\\\" é"\n'
    assert accepts(render('say "\\" é'), 'say "\\" é')
