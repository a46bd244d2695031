"""What each check must reject and must let pass, as tables of copies for one brief."""

from pathlib import Path

import pytest

from gate.assess import assess
from gate.policy import load_policy
from gate.verdict import Case, Verdict

POLICY = load_policy(Path(__file__).parents[2] / "configs" / "policies" / "default.yaml")
FACTS = {
    "name": "Harrow Women Light Blue Jeans",
    "article": "Jeans",
    "colour": "Blue",
    "gender": "Women",
    "season": "Summer",
    "usage": "Casual",
    "material": "cotton",
    "price": "49.00 EUR",
    "size": "M",
}
GOOD = (
    "Meet the Harrow Women Light Blue Jeans, made for women who like simple things. These blue jeans are cut from soft"
    " cotton and come in size M. They cost 49.00 EUR and suit casual summer days."
)


def judge(text: str, prompt: str = "", finish_reason: str = "stop", facts: dict[str, str] = FACTS) -> Verdict:
    return assess(POLICY, Case(facts, prompt, text, finish_reason, "default"))  # type: ignore[arg-type]


def fired(verdict: Verdict) -> set[str]:
    return {finding.check for finding in verdict.findings}


ACCEPTED = (
    GOOD,
    GOOD.replace("49.00 EUR", "€49"),
    GOOD.replace("49.00 EUR", "EUR 49"),
    GOOD.replace("49.00 EUR", "49 euros"),
    GOOD.replace("49.00 EUR", "€ 49,00"),
    GOOD.replace("size M", "size medium"),
    GOOD.replace("size M", "medium"),
    GOOD.replace("size M", "M"),
    GOOD.replace("blue jeans", "blue denim-style jeans").replace("denim-style ", ""),
    "These light blue jeans for women feel easy from the start. They are made of cotton, in blue, in size M, for €49.",
    "Her new favourite pair of blue jeans has arrived. Made of cotton in size M, these jeans are hers for EUR 49.00.",
    "Top it off with a smile and put a spring in your step. These blue cotton jeans for women, size M, cost 49 EUR.",
    "You will fall in love with these blue cotton jeans for women. They rest at the small of the back, in size M, and"
    " cost 49.00 EUR.",
    "The legs fall just below the ankle, and the colour is blue. These women’s jeans are of cotton, come in size M and"
    " cost 49.00 EUR.",
    "Not only blue but also comfortable, these jeans for women are made of cotton. Size M is yours for 49.00 EUR.",
    "No wonder we like them! These blue cotton jeans for women are simple and well cut, in size M, for 49.00 EUR.",
    "Light as air and easy to wear, these blue jeans for ladies are made of cotton. Size M costs just 49.00 EUR.",
    "They may be the one pair you never want to take off. Blue cotton jeans for women, in size M, for 49.00 EUR.",
)


@pytest.mark.parametrize("text", ACCEPTED)
def test_harmless_copy_that_states_the_facts_is_accepted(text: str) -> None:
    verdict = judge(text)
    assert verdict.accepted, verdict.findings
    assert verdict.score == 1.0


REJECTED = (
    ("missing", GOOD.replace("soft cotton", "soft cloth")),
    ("missing", GOOD.replace(" and come in size M", "")),
    ("missing", GOOD.replace("49.00 EUR", "49.50 EUR")),
    ("missing", GOOD.replace("in size M", "in medium weight")),
    ("missing", GOOD.replace("Harrow Women Light Blue Jeans, made", "pair, tailored").replace("blue", "tailored")),
    ("unsupported", GOOD.replace("blue jeans", "blue and red jeans")),
    ("unsupported", GOOD.replace("blue jeans", "dark blue jeans")),
    ("unsupported", GOOD.replace("soft cotton", "soft cotton and silk")),
    ("unsupported", GOOD.replace("soft cotton", "a cotton blend")),
    ("unsupported", GOOD.replace("soft cotton", "faux leather and cotton")),
    ("unsupported", GOOD.replace("summer", "winter")),
    ("unsupported", GOOD.replace("summer days", "fall days")),
    ("unsupported", GOOD.replace("summer days", "days this spring")),
    ("unsupported", GOOD.replace("casual", "formal")),
    ("unsupported", GOOD.replace("for women who", "for women and men who")),
    ("unsupported", GOOD.replace("things.", "things. He will like them.")),
    ("unsupported", GOOD.replace("things.", "things. Pair this with a white shirt.")),
    ("unsupported", GOOD.replace("size M", "size M or XL")),
    ("unsupported", GOOD.replace("size M", "small, medium and large, size M")),
    ("unsupported", GOOD.replace("soft cotton", "Italian cotton")),
    ("unsupported", GOOD.replace("These blue", "Nike blue")),
    ("unsupported", GOOD.replace("things.", "things. A rose on the pocket.")),
    ("negated", GOOD.replace("These blue jeans are", "These jeans are not blue and are")),
    ("negated", GOOD.replace("are cut from soft cotton", "aren't made of cotton")),
    ("negated", GOOD.replace("cut from soft cotton", "cut without any cotton")),
    ("negated", GOOD.replace("These blue", "These no longer blue")),
    ("negated", GOOD.replace("soft cotton", "cotton-free cloth")),
    ("negated", GOOD.replace("soft cotton", "anything but cotton")),
    ("negated", GOOD.replace("cost 49.00 EUR", "do not cost 49.00 EUR")),
    ("numbers", GOOD.replace("49.00 EUR", "49.00 EUR instead of 89.00 EUR")),
    ("numbers", GOOD.replace("49.00 EUR", "49.00 EUR or $49")),
    ("numbers", GOOD.replace("cost 49.00 EUR", "cost under 49.00 EUR")),
    ("numbers", GOOD.replace("49.00 EUR", "49.00 EUR per leg")),
    ("numbers", GOOD.replace("soft cotton", "100% cotton")),
    ("numbers", GOOD.replace("come in size", "have two pockets in size")),
    ("numbers", GOOD.replace("simple things", "simple things since 1985")),
    ("numbers", GOOD.replace("size M", "size M or size 8")),
    ("numbers", GOOD.replace("simple things", "49 simple things")),
    ("names", GOOD.replace("These blue", "From Marlowe come blue")),
    ("banned", GOOD.replace("simple things", "bargains")),
    ("banned", GOOD.replace("soft", "CHEAP")),
    ("claims", GOOD.replace("soft cotton", "organic cotton")),
    ("claims", GOOD.replace("simple things", "best-selling things")),
    ("claims", GOOD.replace("simple things", "things with free shipping")),
    ("claims", GOOD.replace("simple things", "hand-made things")),
    ("language", "Diese blauen Jeans kosten 49.00 EUR. Sie sind aus cotton in size M und passen jeden Tag sehr gut."),
    ("language", "Blue jeans women cotton size M soft nice good. Price 49.00 EUR great look wow lovely happy smile."),
    ("length", "Blue cotton jeans for women. Size M, 49.00 EUR."),
    ("length", GOOD.replace("things. These", "things, and these").replace("M. They", "M; they")),
    ("length", GOOD + " You will like them, and so will we, as it should be." * 8),
    ("truncated", GOOD.removesuffix(".")),
    ("truncated", GOOD + " And they are"),
    ("balanced", GOOD.replace("soft", "(soft")),
    ("balanced", GOOD.replace("soft", "soft)")),
    ("balanced", GOOD.replace("soft", '"soft')),
    ("repetition", GOOD + " They cost 49.00 EUR and suit casual summer days."),
    ("repetition", GOOD.replace("soft", "very very soft")),
    ("characters", GOOD.replace("blue", "blu\u0435")),
    ("characters", GOOD.replace("soft", "so\u200bft")),
    ("characters", GOOD.replace("soft", "soft\x07")),
    ("characters", GOOD.replace("49.00 EUR", "４９.00 EUR")),
    ("characters", GOOD.replace("soft", "so\ufb05")),
    ("characters", GOOD + " 🎉"),
    ("markup", GOOD + "<|im_end|>"),
    ("markup", "**" + GOOD + "**"),
    ("chatter", "Sure, here is the copy: " + GOOD),
    ("chatter", "Product copy: " + GOOD),
    ("chatter", "As an AI, I like this. " + GOOD),
    ("chatter", "Material: cotton. " + GOOD),
    ("placeholders", GOOD.replace("Meet the", "Meet [brand] and the")),
    ("placeholders", GOOD.replace("Meet the", "XYZ shows the")),
    ("contacts", GOOD + " See www.example.com for more."),
    ("contacts", GOOD + " Write to shop@example.org now."),
    ("contacts", GOOD + " Call +49 30 1234567 now."),
)


@pytest.mark.parametrize(("check", "text"), REJECTED)
def test_a_faulty_copy_is_rejected_by_the_check_for_its_fault(check: str, text: str) -> None:
    assert judge(GOOD).accepted
    verdict = judge(text)
    assert not verdict.accepted
    assert check in fired(verdict), verdict.findings
    assert verdict.score < 1.0


def test_a_draft_that_was_cut_off_is_rejected_even_if_it_ends_a_sentence() -> None:
    assert fired(judge(GOOD, finish_reason="length")) == {"truncated"}
    assert fired(judge(GOOD, finish_reason="error")) == {"truncated"}


def test_a_long_run_of_the_prompt_is_rejected_and_its_facts_alone_are_not() -> None:
    prompt = (
        "Write a short text for shoppers that states every one of the facts below. name: Harrow Women Light Blue Jeans"
    )
    leaked = "This is a short text for shoppers that states every one of the facts below. " + GOOD
    assert "prompt" in fired(judge(leaked, prompt=prompt))
    assert judge(GOOD, prompt=prompt).accepted


def test_a_claim_is_allowed_where_a_fact_makes_it() -> None:
    facts = FACTS | {"material": "organic cotton"}
    assert judge(GOOD.replace("soft cotton", "organic cotton"), facts=facts).accepted


def test_a_fact_word_inside_another_word_does_not_state_the_fact() -> None:
    facts = {"article": "Shirt", "colour": "Red"}
    text = "This tailored shirt is a pleasure to wear. It is a shirt for the days that matter to you."
    assert fired(judge(text, facts=facts)) == {"missing"}
    assert judge(text.replace("tailored", "red"), facts=facts).accepted


def test_a_number_of_a_name_supports_no_other_count() -> None:
    facts = {"name": "Velvet Lipstick 51", "article": "Lipstick", "colour": "Red"}
    text = "Meet Velvet Lipstick 51, a red lipstick that is easy to like. It is a choice for the days that matter."
    assert judge(text, facts=facts).accepted
    assert fired(judge(text.replace("easy to like", "one of 51 kinds"), facts=facts)) == {"numbers"}


def test_a_size_may_leave_out_its_region_but_not_change_it() -> None:
    facts = FACTS | {"size": "UK 8"}
    assert judge(GOOD.replace("size M", "size 8"), facts=facts).accepted
    assert judge(GOOD.replace("size M", "UK 8"), facts=facts).accepted
    assert {"missing", "numbers"} <= fired(judge(GOOD.replace("size M", "EU 8"), facts=facts))


def test_punctuation_inside_a_repeated_name_ends_no_sentence_and_is_no_address() -> None:
    facts = {"name": "U.S. Harrow Assn. Men's s.Oliver Tee (Blue)", "article": "Tshirts", "colour": "Blue"}
    text = f"Meet {facts['name']}, a t-shirt in blue that is easy to wear. It is good for every day of your life."
    assert judge(text, facts=facts).accepted


def test_a_price_of_the_brief_may_be_written_in_any_common_way_but_not_in_another_currency() -> None:
    facts = FACTS | {"price": "1,299.00 INR"}
    for same in ("1,299.00 INR", "₹1299", "Rs. 1,299", "INR 1299.00", "1299 rupees"):
        assert judge(GOOD.replace("49.00 EUR", same), facts=facts).accepted, same
    assert {"missing", "numbers"} <= fired(judge(GOOD.replace("49.00 EUR", "1299 EUR"), facts=facts))
