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
    "You can't go wrong with these blue jeans for women. They are made of cotton, in size M, and cost 49.00 EUR.",
    "There are no better women's jeans. Blue, made of cotton and easy to wear, they cost only 49.00 EUR in size M.",
    "Blue cotton jeans for women who like cotton, from Monday to Friday. In size M they are yours for just 49.00 EUR.",
    "These blue jeans never fail to please. Made of cotton as well as with care, for women, in size M, at 49.00 EUR.",
    GOOD.replace("They cost 49.00 EUR and", "Yours at a price of 49.00 EUR, they"),
    GOOD.replace("They cost 49.00 EUR and", "The price is €49 and they"),
    GOOD.replace("They cost 49.00 EUR and", "Priced at just €49.00, they"),
    GOOD.replace("They cost 49.00 EUR and", "For 49.00 EUR they"),
    GOOD.replace("These blue", "These 49.00 EUR blue").replace("49.00 EUR blue jeans", "49.00 EUR jeans, blue,"),
    GOOD.replace("size M. They", "size M - 49.00 EUR. They").replace("cost 49.00 EUR and suit", "suit"),
    GOOD.replace("They cost 49.00 EUR and", "At 49.00 EUR these jeans"),
    GOOD.replace("soft cotton", "cotton that looks good"),
    GOOD.replace("These blue jeans are", "These jeans are more than blue, they are"),
    GOOD.replace("summer ", ""),
    GOOD.replace("casual summer days", "you well"),
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
    ("imitated", GOOD.replace("soft cotton", "cotton-free cloth")),
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
    *(
        ("numbers", GOOD.replace("They cost 49.00 EUR", f"They are yours {frame}"))
        for frame in (
            "starting at 49.00 EUR",
            "starting at €49",
            "as low as 49.00 EUR",
            "from only 49.00 EUR",
            "down to just 49.00 EUR",
            "up to 49.00 EUR",
            "roughly 49.00 EUR",
            "reduced to 49.00 EUR",
            "for 49.00 EUR and up",
            "at a saving of 49.00 EUR",
            "with a 49.00 EUR voucher",
            "for a 49.00 EUR saving",
            "for -49.00 EUR",
            "for -€49",
            "for 49.00 EUR each",
            "for 49.00 EUR a month",
            "for 49.00 EUR off",
        )
    ),
    ("numbers", GOOD.replace("49.00 EUR", "49.000 EUR")),
    ("numbers", GOOD.replace("49.00 EUR", "0049 EUR")),
    ("names", GOOD.replace("These blue", "From Marlowe come blue")),
    ("names", GOOD.replace("These blue jeans are", "Marlowe made these blue jeans, which are")),
    ("unsupported", GOOD.replace("They cost", "Gap jeans cost")),
    ("unsupported", GOOD.replace("These blue jeans are", "Guess made these blue jeans, which are")),
    ("unsupported", GOOD.replace("They cost", "Bangladesh made. They cost")),
    ("unsupported", GOOD.replace("things.", "things. Your husband and your father will like them.")),
    ("unsupported", GOOD.replace("These blue jeans", "These striped blue jeans")),
    ("unsupported", GOOD.replace("These blue jeans", "These slim fit blue jeans")),
    ("unsupported", GOOD.replace("soft cotton", "pseudo cotton")),
    *(
        ("negated", GOOD.replace("They cost", f"{denial} They cost"))
        for denial in (
            "Blue is not their colour.",
            "Blue isn't their colour.",
            "Cotton is not used at all.",
            "Cotton was left out.",
            "Nobody would ever call these jeans blue.",
            "They are not really what you would call blue.",
            "They fail to be blue.",
            "These jeans avoid cotton.",
            "The jeans are blue in no way.",
        )
    ),
    *(
        ("imitated", GOOD.replace("cut from soft cotton", imitation))
        for imitation in (
            "cut to resemble soft cotton",
            "cut from fabric that looks like cotton",
            "cut from a fabric like cotton",
            "cut from cotton-feel fabric",
            "softer than cotton",
            "almost as soft as cotton",
        )
    ),
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
    ("characters", GOOD.replace("soft", "\u017foft")),
    ("characters", GOOD.replace("like", "l\u0133ke")),
    ("characters", GOOD.replace("and come", "\u0149 come")),
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


PROMPT = """You write product texts. You use every given fact.
Warm, plain and precise. Say what the product is; promise nothing.
This  is made for  who like a calm, simple look. Wear it all .  It costs .
Say that the jeans is blue, made of cotton, for women, in size M, for 49.00 EUR."""
FRESH = "These blue jeans for women are made of cotton. They come in size M and cost 49.00 EUR."


@pytest.mark.parametrize(
    "leak",
    [
        "Say that the jeans is blue, made of cotton, for women, in size M, for 49.00 EUR.",
        "Warm, plain and precise.",
        "Say what the product is; promise nothing.",
        "These blue jeans are made for women who like a calm, simple look.",
    ],
)
def test_a_sentence_of_the_prompt_is_rejected_whatever_facts_stand_in_it(leak: str) -> None:
    assert judge(FRESH, prompt=PROMPT).accepted
    assert "prompt" in fired(judge(f"{FRESH} {leak}", prompt=PROMPT))


def test_what_anybody_would_say_of_the_facts_is_no_repetition_of_the_prompt() -> None:
    text = "The jeans are blue and made of cotton, for women. They come in size M. The price is 49.00 EUR. "
    assert judge(text + "Enjoy them.", prompt=PROMPT + "\nThey come in . The price is .").accepted


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"article": "Watch", "colour": "Gold", "name": "Marlowe Men Gold Watch"}, "It is made of gold"),
        ({"article": "Watch", "colour": "Gold", "name": "Marlowe Men Gold Watch"}, "It is of solid gold"),
        ({"article": "Watch", "colour": "Silver"}, "It is crafted from silver"),
        ({"article": "Watch", "colour": "Gold", "material": "steel"}, "It is made of steel and gold"),
        ({"article": "Watch", "colour": "Gold", "material": "steel"}, "It is made of gold and of steel"),
        ({"article": "Watch", "colour": "Rose Gold"}, "It is made of rose gold"),
        ({"article": "Watch", "colour": "Rose Gold"}, "It comes in rose gold, in rose and in gold"),
        ({"article": "Watch", "material": "gold plated steel"}, "The gold plated steel is made of gold"),
        ({"article": "Bag", "material": "faux leather"}, "Faux leather outside, it is real leather at heart"),
        ({"article": "Mug", "origin": "Danish"}, "It is Danish, a Norwegian mug"),
        ({"article": "Vase", "material": "ceramic"}, "It is made of ceramic and glass of the clear kind"),
        ({"article": "Shirt", "pattern": "striped"}, "It is a checked shirt"),
        ({"article": "Shirt", "sleeve": "long sleeve"}, "It has short sleeves"),
        ({"article": "Shirt", "fit": "slim fit"}, "It has a loose fit"),
        ({"article": "Shoe", "gender": "Men"}, "Made for men, and your wife and your mother will wear it"),
    ],
)
def test_what_contradicts_a_fact_of_two_meanings_or_several_words_is_rejected(facts: dict[str, str], said: str) -> None:
    text = f"{said}. This is something that you will like on any day of the week."
    assert "unsupported" in fired(judge(text, facts=facts))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"article": "Watch", "colour": "Gold", "material": "steel"}, "A gold watch made of steel"),
        ({"article": "Watch", "colour": "Gold", "material": "steel"}, "A watch of steel, crafted with care, in gold"),
        ({"article": "Watch", "colour": "Gold"}, "A watch with a touch of gold"),
        ({"article": "Ring", "material": "gold", "colour": "Gold"}, "A ring made of gold"),
        ({"article": "Watch", "material": "gold plated steel"}, "A watch of gold plated steel"),
        ({"article": "Coat", "colour": "Grey", "material": "wool"}, "A coat of soft grey wool"),
        ({"article": "Bowl", "colour": "Brown", "material": "walnut wood"}, "A bowl of brown walnut wood"),
        ({"article": "Cup", "colour": "White", "material": "porcelain"}, "A cup of white porcelain"),
        ({"article": "Shirt", "pattern": "striped", "sleeve": "long sleeve"}, "A striped shirt with long sleeves"),
        ({"article": "Mug", "color": "Black"}, "A black mug"),
    ],
)
def test_facts_of_two_meanings_or_several_words_may_be_said(facts: dict[str, str], said: str) -> None:
    verdict = judge(f"{said}, easy to like. It is something that you will use on any day.", facts=facts)
    assert verdict.accepted, verdict.findings


def test_a_colour_must_be_stated_however_its_key_is_spelled() -> None:
    for key in ("colour", "color", "Color", "colors", "colours"):
        facts = {"article": "Mug", key: "Black"}
        text = "This is a lovely mug for quiet mornings. It is easy to like and easy to use on any day."
        assert fired(judge(text, facts=facts)) == {"missing"}
        assert judge(text.replace("lovely", "black"), facts=facts).accepted


@pytest.mark.parametrize(
    ("facts", "right", "wrong"),
    [
        ({"material": "60% cotton, 40% polyester"}, "60% cotton and 40% polyester", "40% cotton and 60% polyester"),
        ({"material": "cotton 60%, polyester 40%"}, "60% cotton and 40% polyester", "40% cotton and 60% polyester"),
        ({"material": "100% cotton"}, "100% soft cotton", "cotton, and we are 100% sure"),
        ({"material": "100% cotton"}, "100 percent cotton", "cotton, 100 percent smooth"),
        ({"pieces": "4"}, "4 pieces", "4 handles"),
        ({"pieces": "4"}, "four pieces", "four lids"),
        ({"name": "Pack of 3 Shirts"}, "a pack of 3 for every taste", "a pack of 3 colours"),
        ({"name": "Pack of 3 Tops"}, "a pack of 3 shirts", "3 buttons"),
        ({"capacity": "250 ml"}, "250 ml of room", "350 ml of room"),
        ({"strength": "20%"}, "20% strength", "20% off"),
    ],
)
def test_a_number_is_only_said_of_what_it_counts(facts: dict[str, str], right: str, wrong: str) -> None:
    text = "This is a shirt that is easy to like, and it has {}. You will like it on any day of the week."
    facts = facts | {"article": "Shirt"}
    verdict = judge(text.format(right), facts=facts)
    assert verdict.accepted, verdict.findings
    assert "numbers" in fired(judge(text.format(wrong), facts=facts))


@pytest.mark.parametrize("code", ["MXN", "KRW", "THB", "SAR", "TOP"])
def test_every_currency_has_the_rules_of_prices(code: str) -> None:
    facts = FACTS | {"price": f"49.00 {code}"}
    assert judge(GOOD.replace("EUR", code), facts=facts).accepted
    for wrong in (f"cost under 49.00 {code}", f"are 49.00 {code} off", "cost 49.00 EUR"):
        assert "numbers" in fired(judge(GOOD.replace("cost 49.00 EUR", wrong), facts=facts))


@pytest.mark.parametrize(
    ("price", "same", "other"),
    [
        ("1.299,00 EUR", ("1,299.00 EUR", "1299 EUR", "€1.299,00"), ("129900 EUR", "1.299 EUR")),
        ("1,29,900.00 INR", ("129900 INR", "129,900 INR"), ("12,990,000 INR", "1,299 INR")),
        ("49.00 EUR", ("49 EUR", "49,00 EUR"), ("49.000 EUR", "4900 EUR", "0049 EUR", "4,900 EUR")),
        ("1.299 KWD", ("1.299 KWD",), ("1299 KWD", "1,299 KWD")),
    ],
)
def test_an_amount_is_read_in_every_way_of_writing_it_and_never_in_another(
    price: str, same: tuple[str, ...], other: tuple[str, ...]
) -> None:
    facts = FACTS | {"price": price}
    for text in same:
        assert judge(GOOD.replace("49.00 EUR", text), facts=facts).accepted, text
    for text in other:
        assert {"missing", "numbers"} <= fired(judge(GOOD.replace("49.00 EUR", text), facts=facts)), text


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
