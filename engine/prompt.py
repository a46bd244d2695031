"""What the writer is told: the brief as a short chat. Worked examples do for a small model what rules cannot.

The examples show only the kinds of fact that the brief has: an example with a price makes a small model state that
price of a product that has none. Briefs with the same kinds of fact share a prefix, which the backend caches.
"""

from collections.abc import Mapping
from typing import NamedTuple

SYSTEM = "You write product texts for an online shop. You use every given fact and invent none."
REQUEST = "Write two short sentences about this product.\n{facts}"


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


def fact_lines(facts: Mapping[str, str]) -> str:
    """The facts as lines, in the order given."""
    return "\n".join(f"{key}: {value}" for key, value in facts.items())


def worked(example: Example, keys: frozenset[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    """An example as a user's and an assistant's turn, with only the kinds of fact in `keys`."""
    facts = {key: value for key, value in example.facts.items() if key in keys}
    copy = "".join(text for need, text in example.pieces if not need or need in keys)
    return ("user", REQUEST.format(facts=fact_lines(facts))), ("assistant", copy)


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
    brief = REQUEST.format(facts=fact_lines(facts))
    if style:
        brief += f"\nstyle: {style}"
    if source:
        brief += f"\nSay it differently than: {source}"
    return (*chat, ("user", brief))
