"""The prompt: the brief's own kinds of fact, and nothing that could be mistaken for one."""

from itertools import combinations

import pytest
from briefs import FACTS

from engine.prompt import EXAMPLES, REQUEST, SYSTEM, fact_lines, instructions, messages


def test_the_chat_is_system_examples_and_the_brief_in_alternating_turns() -> None:
    chat = messages(FACTS, tone="", style="")
    assert [role for role, _ in chat] == ["system", *["user", "assistant"] * len(EXAMPLES), "user"]
    assert chat[0][1] == SYSTEM
    assert chat[-1][1].startswith(f"{REQUEST}\n{fact_lines(FACTS)}")
    assert set(fact_lines(FACTS).split("\n")) == {"article: Scarf", "colour: Teal", "material: Wool"}


def test_tone_style_and_source_are_told_where_given_and_not_mentioned_where_not() -> None:
    chat = messages(FACTS, tone="Quiet and exact.", style="for spring", source="An older copy.")
    assert chat[0][1].endswith("Quiet and exact.")
    assert chat[-1][1].endswith("\nstyle: for spring\nSay it differently than: An older copy.")
    plain = messages(FACTS, tone="", style="")[-1][1]
    assert "style" not in plain
    assert "differently" not in plain


def test_the_order_in_which_a_client_sends_its_facts_does_not_change_the_prompt() -> None:
    backwards = dict(reversed(FACTS.items()))
    assert messages(backwards, tone="", style="") == messages(FACTS, tone="", style="")


def test_facts_of_no_known_kind_are_told_too_in_the_order_given() -> None:
    assert fact_lines({"sparkle": "2", "aura": "1"}) == "sparkle: 2\naura: 1"


def test_the_examples_show_no_kind_of_fact_that_the_brief_lacks() -> None:
    kinds = list(EXAMPLES[0].facts)
    for num_kinds in (1, 2, 3):
        for keys in combinations(kinds, num_kinds):
            turns = messages(dict.fromkeys(keys, "x"), tone="", style="")[1:-1]
            lines = [line for role, text in turns if role == "user" for line in text.split("\n")]
            shown = {kind for kind in kinds if any(line.startswith(f"{kind}: ") for line in lines)}
            assert shown == set(keys)


def worked_copies(*keys: str) -> str:
    """The copies of the examples for a brief with these kinds of fact."""
    chat = messages(dict.fromkeys(keys, "x"), tone="", style="")
    return " ".join(text for role, text in chat if role == "assistant")


@pytest.mark.parametrize("key", ["price", "size", "material", "gender"])
def test_an_example_states_a_fact_only_if_the_brief_has_one_of_its_kind(key: str) -> None:
    for example in EXAMPLES:
        value = example.facts[key].lower()
        assert value in worked_copies("colour", key).lower()
        assert value not in worked_copies("colour").lower()


def test_briefs_with_the_same_kinds_of_fact_share_everything_before_the_brief() -> None:
    one = messages({"article": "Scarf", "colour": "Teal"}, tone="Warm.", style="")
    other = messages({"article": "Boots", "colour": "Brown"}, tone="Warm.", style="short")
    assert one[:-1] == other[:-1]
    assert one[-1] != other[-1]


def test_the_instructions_are_everything_in_the_chat_besides_the_facts() -> None:
    facts = FACTS | {"price": "5.00 EUR"}
    told = instructions(facts, tone="Quiet. Say little.", style="for spring").split("\n")
    assert told[:2] == [SYSTEM, "Quiet. Say little."]
    assert told[-3:] == [REQUEST, "Say that the scarf is teal, made of wool, for 5.00 EUR.", "for spring"]
    assert len(told) == 2 + len(EXAMPLES) + 3
    assert "calm, simple look" in told[2]


def test_the_instructions_hold_no_fact_of_an_example() -> None:
    told = instructions(dict.fromkeys(EXAMPLES[0].facts, "x"), tone="", style="").lower()
    for example in EXAMPLES:
        for value in ("harrow", "alder", example.facts["colour"], example.facts["material"], example.facts["price"]):
            assert value.lower() not in told
