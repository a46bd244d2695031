"""Checks against the facts: what is missing, what no fact supports, and what is denied."""

from collections.abc import Iterator

from gate.numbers import Number
from gate.phrases import word_set
from gate.policy import Policy
from gate.reading import Draft, stated_literally
from gate.vocabulary import KINDS, Mention, Reading, vocabulary

NEGATORS = word_set(
    "not no never without neither nor cannot hardly barely scarcely lacks lack lacking minus excluding except unlike"
    " formerly isnt arent doesnt dont wont instead rather other anything far"
)
# "Anything but", "far from", "rather than", "other than", "instead of" deny; alone these words do not.
NEGATOR_NEEDS = {"instead": "of", "rather": "than", "other": "than", "anything": "but", "far": "from"}
# "Not only blue" affirms; "no matter the season" denies nothing.
NOT_NEGATED_BY = word_set("only just merely simply doubt matter wonder surprise")
DENIED_AFTER = word_set("free less like look effect alternative substitute imitation lookalike")
NEGATION_REACH = 5
ARTICLE_NEGATION_REACH = 3
CLAUSE_MARKS = frozenset(",;:.!?—()")


def missing(policy: Policy, draft: Draft) -> Iterator[str]:
    """Every fact that must be stated is, by its own words or a synonym."""
    stated = {reading for mention in draft.copy.mentions for reading in mention.readings}
    for key in policy.facts.must_state:
        value = draft.case.facts.get(key, "").strip()
        if value and not _states(draft, key, stated):
            yield f"{key} {value!r} is not stated"


def unsupported(policy: Policy, draft: Draft) -> Iterator[str]:
    """Every colour, material, article, ... word has a fact behind it; literal repetitions of facts need none."""
    kinds = frozenset(policy.facts.may_not_contradict)
    for mention in draft.copy.mentions:
        judged = [reading for reading in mention.readings if reading.kind in kinds]
        if judged and not all(draft.copy.quoted[mention.start : mention.stop]) and not _supported(draft, mention):
            yield f"{judged[0].kind} {_phrase(draft, mention)!r} is in no fact of the brief"


def negated(policy: Policy, draft: Draft) -> Iterator[str]:
    """No fact is denied: "not blue", "without cotton", "no longer 49.00 EUR", "cotton-free"."""
    copy = draft.copy
    anchors = {mention.start: (_phrase(draft, mention), _reach_of(mention)) for mention in copy.mentions}
    anchors |= {number.start: (copy.tokens[number.start].word, NEGATION_REACH) for number in copy.numbers}
    words = copy.words
    for at, word in enumerate(words):
        if not copy.quoted[at] and _negates(words, at):
            denied = (anchors[i][0] for i in _reach(draft, at) if i in anchors and i - at <= anchors[i][1])
            yield from (f"{word!r} denies {phrase!r}" for phrase in denied)
    for mention in copy.mentions:
        following = words[mention.stop : mention.stop + 1]
        if following and following[0] in DENIED_AFTER and _joined(draft, mention.stop) and _can_be_imitated(mention):
            yield f"{following[0]!r} denies {_phrase(draft, mention)!r}"


def _states(draft: Draft, key: str, stated: set[Reading]) -> bool:
    """Whether the copy states a fact.

    A fact of a vocabulary kind is stated when each of its terms of that kind is; a price or a size of numbers when
    its numbers are; any other fact only by its own words.
    """
    copy, evidence = draft.copy, draft.evidence
    kind = "colour" if key == "color" else key
    if kind in KINDS:
        terms = vocabulary().terms(evidence.values[key])
        needed = [found for readings in terms if (found := [reading for reading in readings if reading.kind == kind])]
        if needed:
            return all(any(reading in stated for reading in readings) for readings in needed)
    numbers = [number for of, number in evidence.numbers if of == key]
    if key in ("price", "size") and numbers and all(number.role in ("price", "size") for number in numbers):
        return all(any(_same_amount(fact, number) for number in copy.numbers) for fact in numbers)
    return stated_literally(copy.words, evidence.values[key])


def _same_amount(fact: Number, number: Number) -> bool:
    """Whether a number of the copy says a price or size; a size may leave out its region ("size 8" for UK 8)."""
    same = fact.role == number.role and fact.value == number.value
    return same and (fact.unit == number.unit or (fact.role == "size" and number.unit == ""))


def _supported(draft: Draft, mention: Mention) -> bool:
    """Whether some meaning of a term is supported by a fact."""
    return any(reading in draft.evidence.supports for reading in mention.readings)


def _can_be_imitated(mention: Mention) -> bool:
    """Whether a term is a material or a colour: what can be imitated or left out."""
    return any(reading.kind in ("material", "colour") for reading in mention.readings)


def _negates(words: tuple[str, ...], at: int) -> bool:
    """Whether a word denies what follows it."""
    word = words[at]
    following = words[at + 1] if at + 1 < len(words) else ""
    if following in NOT_NEGATED_BY:
        return False
    if word in NEGATOR_NEEDS:
        return following == NEGATOR_NEEDS[word]
    return word in NEGATORS or word.endswith("n't")


def _reach_of(mention: Mention) -> int:
    """How many words away a term can be denied: "never want to take these jeans off" denies no jeans."""
    return ARTICLE_NEGATION_REACH if mention.readings[0].kind == "article" else NEGATION_REACH


def _reach(draft: Draft, at: int) -> Iterator[int]:
    """The words a negation reaches: a few, up to the end of its clause."""
    tokens, text = draft.copy.tokens, draft.copy.text
    for i in range(at + 1, min(at + 1 + NEGATION_REACH, len(tokens))):
        gap = text[tokens[i - 1].end : tokens[i].start]
        if not CLAUSE_MARKS.isdisjoint(gap) or (tokens[i].word == "but" and tokens[at].word != "anything"):
            return
        yield i


def _joined(draft: Draft, at: int) -> bool:
    """Whether a word follows the one before it directly: "cotton-free", or "cotton substitute" with a space.

    A space is not enough for the words that have another use ("blue look", "cotton like no other").
    """
    tokens, text = draft.copy.tokens, draft.copy.text
    gap = text[tokens[at - 1].end : tokens[at].start]
    return gap == "-" or (gap.strip() == "" and tokens[at].word in ("free", "alternative", "substitute", "imitation"))


def _phrase(draft: Draft, mention: Mention) -> str:
    """A term as the copy spells it."""
    tokens = draft.copy.tokens
    return draft.copy.text[tokens[mention.start].start : tokens[mention.stop - 1].end]
