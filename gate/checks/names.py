"""The check of names: a capitalised word inside a sentence that is neither in the brief nor ordinary names something
the brief does not. The first word of a sentence is always capitalised and tells nothing, so it is not judged."""

from collections.abc import Iterator

from gate.numbers import CURRENCIES, NUMBER_WORDS, SIZE_REGIONS
from gate.phrases import word_set
from gate.policy import Policy
from gate.reading import Draft

ORDINARY_CAPITALS = word_set("i i'm i've i'd i'll tv ok") | SIZE_REGIONS | frozenset(CURRENCIES)


def names(policy: Policy, draft: Draft) -> Iterator[str]:
    """No name stands in the copy that is not in the brief. Vocabulary words and number words are judged elsewhere."""
    copy = draft.copy
    judged_elsewhere = {at for mention in copy.mentions for at in range(mention.start, mention.stop)}
    initial = {first for first, _ in copy.sentences}
    known = draft.evidence.words
    for at, token in enumerate(copy.tokens):
        if not copy.text[token.start].isupper() or copy.quoted[at] or at in initial or at in judged_elsewhere:
            continue
        if token.word in known or token.word in ORDINARY_CAPITALS or token.word in NUMBER_WORDS:
            continue
        if copy.text[token.start - 1] in "\"'(" and copy.text[: token.start - 1].rstrip()[-1:] in ("", ".", "!", "?"):
            continue
        yield f"name {copy.text[token.start : token.end]!r} is in no fact of the brief"
