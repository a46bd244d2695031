"""The check of numbers: every price, percentage, size, year or count in a copy is the brief's, in the same role."""

from collections.abc import Iterator

from gate.numbers import Number
from gate.phrases import word_set
from gate.policy import Policy
from gate.reading import Draft
from gate.vocabulary import neighbour

# "Under 49.00 EUR" and "49.00 EUR off" use the brief's number to say something the brief does not.
PRICE_SHIFTED_BY = word_set(
    "under below over above than from save saves saving almost nearly about around approximately least was were until"
    " originally worth down between up discount"
)
PRICE_SHIFTED_AFTER = word_set("off discount less each per more cheaper savings saved or plus a")


def numbers(policy: Policy, draft: Draft) -> Iterator[str]:
    """Every number of the copy is supported, and prices are said plainly."""
    copy = draft.copy
    named = {at for mention in copy.mentions for at in range(mention.start, mention.stop)}
    for number in copy.numbers:
        if all(copy.quoted[number.start : number.stop]):
            yield from _shifted(draft, number)
        elif number.start not in named or number.role != "plain":
            if not any(_supports(key, fact, number) for key, fact in draft.evidence.numbers):
                yield f"{number.role} {_spelling(draft, number)!r} is in no fact of the brief"
            else:
                yield from _shifted(draft, number)


def _supports(key: str, fact: Number, number: Number) -> bool:
    """Whether a number of a fact stands behind a number of the copy.

    A plain number must keep a neighbour that it has in the fact: "Lipstick 51" does not support "51 shades".
    """
    if fact.value != number.value:
        return False
    if number.role == "size":
        return (fact.role == "size" or key == "size") and number.unit in ("", fact.unit)
    if fact.role != number.role or fact.unit != number.unit:
        return False
    if number.role != "plain":
        return True
    alone = not fact.before and not fact.after
    if alone and key == "size":
        return False
    return alone or (fact.before and fact.before == number.before) or bool(fact.after and fact.after == number.after)


def _shifted(draft: Draft, number: Number) -> Iterator[str]:
    """A price that words around it turn into another statement."""
    if number.role != "price":
        return
    tokens, text = draft.copy.tokens, draft.copy.text
    before = neighbour(text, tokens, number.start, -1)
    after = neighbour(text, tokens, number.stop - 1, 1)
    if before in PRICE_SHIFTED_BY or after in PRICE_SHIFTED_AFTER:
        yield f"price {_spelling(draft, number)!r} is not said plainly ({before} ... {after})"


def _spelling(draft: Draft, number: Number) -> str:
    """A number as the copy spells it."""
    tokens = draft.copy.tokens
    return draft.copy.text[tokens[number.start].start : tokens[number.stop - 1].end]
