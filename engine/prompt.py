"""What the writer is told: the brief as a short chat. Worked examples do for a small model what rules cannot.

The examples show only the kinds of fact that the brief has: an example with a price makes a small model state that
price of a product that has none. Briefs with the same kinds of fact share a prefix, which the backend caches.
"""

from collections.abc import Mapping
from typing import NamedTuple

from gate.phrases import WORD, fold, words_of

SYSTEM = "You write product texts for an online shop. You use every given fact and invent none."
REQUEST = "Write two short sentences about this product."
SAY = "Say that the {article} is"


class Example(NamedTuple):
    """A worked example: its facts, and its copy as pieces that each need some kinds of fact (`""`: always there)."""

    facts: dict[str, str]
    pieces: tuple[tuple[str, str], ...]


EXAMPLES = (
    Example(
        {
            "name": "Alder & Finch Women Teal Scarf",
            "article": "Scarf",
            "colour": "Teal",
            "material": "Wool",
            "gender": "Women",
            "season": "Winter",
            "usage": "Casual",
            "size": "Large",
            "price": "35.00 EUR",
        },
        (
            ("", "This teal "),
            ("material", "wool "),
            ("", "scarf by Alder & Finch is made "),
            ("gender", "for women "),
            ("", "who like a calm, simple look."),
            ("season", " Wear it all winter and let the teal speak for itself."),
            ("size", " It comes in size large."),
            ("price", " It costs 35.00 EUR."),
        ),
    ),
    Example(
        {
            "name": "Harrow Men Brown Boots",
            "article": "Boots",
            "colour": "Brown",
            "material": "Suede",
            "gender": "Men",
            "season": "Fall",
            "usage": "Casual",
            "size": "43",
            "price": "89.00 EUR",
        },
        (
            ("", "These brown "),
            ("material", "suede "),
            ("", "boots by Harrow "),
            ("gender", "bring men "),
            ("", "an easy charm. Put them on and enjoy the day."),
            ("size", " They come in size 43."),
            ("price", " The price is 89.00 EUR."),
        ),
    ),
)


# The order in which facts are told; the examples keep it too, and a small model copies the shape it was shown.
ORDER = ("name", "article", "colour", "material", "gender", "season", "usage", "size", "price")


def fact_lines(facts: Mapping[str, str]) -> str:
    """The facts as lines, in the one order; others follow as given."""
    known = [key for key in ORDER if key in facts]
    others = [key for key in facts if key not in ORDER]
    return "\n".join(f"{key}: {facts[key]}" for key in (*known, *others))


def request_for(facts: Mapping[str, str]) -> str:
    """What the writer is asked about one product."""
    return f"{REQUEST}\n{fact_lines(facts)}{must_say(facts)}"


def must_say(facts: Mapping[str, str]) -> str:
    """The facts that a buyer asks for first, as one instruction. Naming them once more in running words nearly doubles
    the share of first drafts that the gate accepts (24% to 42% of 96 products, same seeds, by the gate of then)."""
    gender = facts.get("gender", "").lower()
    said = [
        facts.get("colour", facts.get("color", "")).lower(),
        f"made of {facts['material'].lower()}" if "material" in facts else "",
        gender if gender == "unisex" else f"for {gender}" if gender else "",
        f"in size {facts['size']}" if "size" in facts else "",
        f"for {facts['price']}" if "price" in facts else "",
    ]
    said = [part for part in said if part]
    return f"\n{SAY.format(article=facts.get('article', 'product').lower())} {', '.join(said)}." if said else ""


def instructions(facts: Mapping[str, str], *, tone: str, style: str) -> str:
    """What the writer is told besides the facts, and a copy may not repeat, a line for each part of `messages`.

    The worked copies stand without their facts: a copy that says the same of another product repeats them too. A source
    is left out; a copy may share sentences with the asset that it derives from.
    """
    examples = (_without(example.facts, worked(example, frozenset(facts))[1][1]) for example in EXAMPLES)
    return "\n".join((SYSTEM, tone, *examples, REQUEST + must_say(facts), style))


def _without(facts: Mapping[str, str], text: str) -> str:
    """A text without the words of facts."""
    told = {word for value in facts.values() for word in words_of(value)}
    return WORD.sub(lambda match: "" if fold(match[0]) in told else match[0], text)


def worked(example: Example, keys: frozenset[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    """An example as a user's and an assistant's turn, with only the kinds of fact in `keys`."""
    facts = {key: value for key, value in example.facts.items() if key in keys}
    copy = "".join(text for need, text in example.pieces if not need or need in keys)
    return ("user", request_for(facts)), ("assistant", copy)


def messages(facts: Mapping[str, str], *, tone: str, style: str, source: str = "") -> tuple[tuple[str, str], ...]:
    """The chat for a brief: system, worked examples, the brief.

    Args:
        tone: the brand's tone, from the policy.
        style: the requester's wish, from the brief.
        source: an earlier copy to vary, where the brief names one.
    """
    keys = frozenset(facts)
    chat = [("system", f"{SYSTEM} {tone}".strip())]
    for example in EXAMPLES:
        chat += worked(example, keys)
    brief = request_for(facts)
    if style:
        brief += f"\nstyle: {style}"
    if source:
        brief += f"\nSay it differently than: {source}"
    return (*chat, ("user", brief))
