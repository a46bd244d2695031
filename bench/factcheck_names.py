"""The fact checker's rules for proper names: brands, makers and places that no fact has.

Inside a sentence a capital gives a name away. At its start every word has one; there only the word's place tells:
    1. it made or presents the product: "Guess made these shoes"
    2. it owns it, or something of it: "Zara's finest jeans"
    3. it stands before the product's name like an adjective that we do not know: "Gap blue jeans", "Lyon made."
The adjectives and verbs that open product copy were collected by hand. An unknown one is taken for a name.
"""

from collections.abc import Iterator
from itertools import pairwise

from bench.factcheck_lexicon import OPENING_WORDS
from bench.factcheck_reading import Known, Reading, Token, fold

_HEADLINE_WORDS_MIN = 4
_BINDERS = frozenset({"a", "an", "the", "and", "or", "of", "in", "on", "at", "by", "for", "to", "from", "with"})
_EVERYDAY_CAPITALS = frozenset(
    {"i", "i'm", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "ok"}
)

_MAKING = frozenset(
    {"made", "designed", "created", "crafted", "built", "launched", "stitched", "sewed", "invented", "produced"}
    | {"presents", "introduces", "unveils", "wove", "knitted", "manufactures", "produces", "designs"}
)
_PRODUCT = frozenset({"this", "these", "the", "a", "an", "our", "its", "his", "her", "it", "them", "your"})
_PRONOUNS = frozenset({"we", "they", "you", "he", "she", "it", "i", "who", "which", "that", "someone", "everyone"})
# "Today's favourite", "life's too short", "it's": no one's name.
_NAMELESS_OWNERS = frozenset(
    {"it", "that", "there", "here", "what", "who", "let", "he", "she", "nature", "life", "today", "tomorrow", "season"}
    | {"year", "everyone", "everybody", "anyone", "someone", "nobody", "day", "week", "weekend", "morning", "evening"}
    | {"night", "world", "how", "where", "one", "this", "tonight", "when", "mother", "father"}
)
_MADE_HOW = frozenset(
    {"well", "newly", "hand", "self", "man", "ready", "custom", "being", "not", "never", "all", "purpose"}
)
_MADE_WHAT = frozenset({"", ".", "!", ",", ";", ":"})
_DESCRIBING = frozenset({"colour", "material", "article", "gender", "pattern", "usage"})
_ADJECTIVE_ENDINGS = (
    ("ful", "less", "ic", "al", "ous", "able", "ible", "ive", "ish", "ing", "ed", "ly", "est", "ant", "ent", "ary")
)  # fmt: skip


def name_errors(known: Known, reading: Reading) -> Iterator[str]:
    """One line for each proper name that neither the facts nor the lexicons know."""
    spans = [(hit.start, hit.end) for hit in reading.hits] + [(n.start, n.end) for n in reading.quantities]
    covered = {at for start, end in spans for at in range(start, end)}
    for sentence in _sentences(reading):
        headline = _is_headline([reading.tokens[at] for at in sentence])
        for at in sentence:
            token = reading.tokens[at]
            if at in covered or not token.raw[0].isupper() or fold(token.text) in known.words:
                continue
            named = _is_name_at_start(reading, at) if token.opens else not headline
            if named and token.text not in _EVERYDAY_CAPITALS:
                yield f'name "{token.raw}" is not in the facts'


def _is_headline(sentence: list[Token]) -> bool:
    """Title Case capitalises every word but the short ones that bind, so that a capital names nothing there."""
    words = [token for token in sentence if token.raw.isalpha() and token.text not in _BINDERS]
    return len(words) >= _HEADLINE_WORDS_MIN and all(token.raw[0].isupper() for token in words)


def _sentences(reading: Reading) -> Iterator[range]:
    starts = [at for at, token in enumerate(reading.tokens) if token.opens]
    for start, end in pairwise([*starts, len(reading.tokens)]):
        yield range(start, end)


def _is_name_at_start(reading: Reading, at: int) -> bool:
    token, then, then_that = reading.tokens[at], reading.word(at + 1), reading.word(at + 2)
    if token.text in _PRONOUNS:
        return False
    if token.raw.endswith("'s"):
        return token.text not in _NAMELESS_OWNERS
    if then in _MAKING and then_that in _PRODUCT:
        return True
    if (
        token.text in OPENING_WORDS
        or token.text.endswith(_ADJECTIVE_ENDINGS)
        or token.text.endswith(("n't", "'re", "'ve"))
    ):
        return False
    if then == "made":
        made = reading.hit_from.get(at + 2)
        return token.text not in _MADE_HOW and (then_that in _MADE_WHAT or made is not None)
    follower = reading.hit_from.get(at + 1)
    return follower is not None and follower.entry.attribute in _DESCRIBING and not follower.entry.weak
