"""The check of names: a capitalised word inside a sentence that is neither in the brief nor ordinary names something
the brief does not. The first word of a sentence is always capitalised and tells nothing: it is judged where "made"
follows with its object ("Marlowe made these"), and where the vocabulary knows it as a brand or a place."""

from collections.abc import Iterator

from gate.numbers import NUMBER_WORDS, SIZE_REGIONS
from gate.phrases import word_set
from gate.policy import Policy
from gate.reading import Draft

# What stands after a maker's "made", and who may make without a name.
MADE_THINGS = word_set("this these that those the a an it them your our all")
UNNAMED_MAKERS = word_set("we they i you he she it who someone somebody experts that this these those all both")
DAYS = word_set("monday tuesday wednesday thursday friday saturday sunday")
DAYS_PLURAL = frozenset(day + "s" for day in DAYS)
ORDINARY_CAPITALS = word_set("i i'm i've i'd i'll tv ok") | SIZE_REGIONS | DAYS | DAYS_PLURAL


def names(policy: Policy, draft: Draft) -> Iterator[str]:
    """No name stands in the copy that is not in the brief. Vocabulary words and prices are judged elsewhere."""
    copy = draft.copy
    judged_elsewhere = {at for mention in copy.mentions for at in range(mention.start, mention.stop)}
    judged_elsewhere |= {at for number in copy.numbers for at in range(number.start, number.stop)}
    initial = {first for first, _ in copy.sentences if not _makes(draft, first)}
    known = draft.evidence.words
    for at, token in enumerate(copy.tokens):
        if not copy.text[token.start].isupper() or copy.quoted[at] or at in initial or at in judged_elsewhere:
            continue
        if token.word in known or token.word in ORDINARY_CAPITALS or token.word in NUMBER_WORDS:
            continue
        if copy.text[token.start - 1] in "\"'(" and copy.text[: token.start - 1].rstrip()[-1:] in ("", ".", "!", "?"):
            continue
        yield f"name {copy.text[token.start : token.end]!r} is in no fact of the brief"


def _makes(draft: Draft, at: int) -> bool:
    """Whether the word is a subject that made something ("Marlowe made these"; "style made easy" makes nothing)."""
    maker, verb, thing = (*draft.copy.words[at : at + 3], "", "")[:3]
    return maker not in UNNAMED_MAKERS and verb == "made" and thing in MADE_THINGS
