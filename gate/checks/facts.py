"""Checks against the facts: what is missing, and what no fact supports."""

from collections.abc import Iterator

from gate.numbers import Number
from gate.phrases import word_set
from gate.policy import Policy
from gate.reading import Draft, phrase, stated_literally
from gate.vocabulary import KINDS, Mention, Reading, kind_of, vocabulary

# "Gold" is a colour or a material. A material is what a thing is made of, from, or in; a colour is what it comes in.
MADE_OF = word_set("of from")
MADE_IN = word_set("in with by")
MADE = word_set("made crafted cut cast forged woven knitted knit sewn wrought carved built fashioned worked")
SHADES_OF = word_set("shade shades hue hues tone tones touch hint splash dash tint colour color look gleam glow")
SOLID = word_set("solid real pure genuine true carat karat")
COLOUR_WORDS = word_set("colour color coloured colored tone toned shade hue finish look")
CLAUSE_STARTS = word_set("it they this these that which is are for at to on as than comes come looks look")
MADE_REACH = 6


def missing(policy: Policy, draft: Draft) -> Iterator[str]:
    """Every fact that must be stated is, by its own words or a synonym."""
    stated = {reading for mention in draft.copy.mentions for reading in mention.readings}
    required = {kind_of(key) for key in policy.facts.must_state}
    for key, value in draft.case.facts.items():
        if kind_of(key) in required and value.strip() and not _states(draft, key, stated):
            yield f"{key} {value.strip()!r} is not stated"


def unsupported(policy: Policy, draft: Draft) -> Iterator[str]:
    """Every colour, material, article, ... word has a fact behind it; literal repetitions of facts need none."""
    kinds = frozenset(policy.facts.may_not_contradict)
    for mention in draft.copy.mentions:
        meant = _meant(draft, mention)
        judged = [reading for reading in meant if reading.kind in kinds]
        literal = all(draft.copy.quoted[mention.start : mention.stop]) and meant == mention.readings
        if judged and not literal and draft.evidence.supports.isdisjoint(meant):
            yield f"{judged[0].kind} {phrase(draft.copy, mention)!r} is in no fact of the brief"


def _states(draft: Draft, key: str, stated: set[Reading]) -> bool:
    """Whether the copy states a fact.

    A fact of a vocabulary kind is stated when each of its terms of that kind is; a price or a size of numbers when
    its numbers are; any other fact only by its own words.
    """
    copy, evidence = draft.copy, draft.evidence
    kind = kind_of(key)
    if kind in KINDS:
        terms = vocabulary().terms(evidence.values[key])
        needed = [found for readings in terms if (found := [reading for reading in readings if reading.kind == kind])]
        if needed:
            return all(any(reading in stated for reading in readings) for readings in needed)
    numbers = [number for of, number in evidence.numbers if of == key]
    if kind in ("price", "size") and numbers and all(number.role in ("price", "size") for number in numbers):
        return all(any(_same_amount(fact, number) for number in copy.numbers) for fact in numbers)
    return stated_literally(copy.words, evidence.values[key])


def _same_amount(fact: Number, number: Number) -> bool:
    """Whether a number of the copy says a price or size; a size may leave out its region ("size 8" for UK 8)."""
    same = fact.role == number.role and fact.value == number.value
    return same and (fact.unit == number.unit or (fact.role == "size" and number.unit == ""))


def _meant(draft: Draft, mention: Mention) -> tuple[Reading, ...]:
    """The meanings that a term can have where it stands: "gold" in "made of gold" is no colour."""
    kinds = {reading.kind for reading in mention.readings}
    if not {"colour", "material"} <= kinds or not _as_material(draft, mention):
        return mention.readings
    return tuple(reading for reading in mention.readings if reading.kind == "material")


def _as_material(draft: Draft, mention: Mention) -> bool:
    """Whether a term stands where only a material can: "made of gold", "crafted in fine silver", "solid gold"."""
    words, quoted = draft.copy.words, draft.copy.quoted
    first = next(first for first, last in draft.copy.sentences if first <= mention.start < last)
    following = words[mention.stop] if mention.stop < len(words) else ""
    if following in COLOUR_WORDS:
        return False
    if mention.start > first and words[mention.start - 1] in SOLID:
        return True
    if any(other.start == mention.stop and other.readings[0].kind == "article" for other in draft.copy.mentions):
        return False
    for at in range(mention.start - 1, max(first, mention.start - MADE_REACH) - 1, -1):
        before = words[at - 1] if at > first else ""
        if words[at] in CLAUSE_STARTS or quoted[at]:
            return False
        if words[at] in MADE_OF:
            return before not in SHADES_OF
        if words[at] in MADE_IN:
            return before in MADE
    return False
