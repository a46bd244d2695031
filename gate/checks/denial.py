"""Checks of denials: a fact may be said in words and still be taken back, by a negation or as an imitation.

What the words reach is counted in words up to the end of the clause, not parsed: product copy is short, and in doubt
the gate rejects.
"""

from collections.abc import Iterator

from gate.phrases import PhraseTable, word_set, words_of
from gate.policy import Policy
from gate.reading import Draft, phrase
from gate.vocabulary import EDGE, Mention, neighbour

NEGATORS = word_set(
    "not no never nobody none without neither nor cannot hardly barely scarcely lacks lack lacking minus excluding"
    " except unlike formerly isnt arent doesnt dont wont instead rather other anything far fail fails failed avoid"
    " avoids skip skips omit omits"
)
# "Anything but", "far from", "rather than", "other than", "instead of" deny; alone these words do not.
NEGATOR_NEEDS = {"instead": "of", "rather": "than", "other": "than", "anything": "but", "far": "from"}
# "Not only blue" affirms; "no matter the season" denies nothing.
NOT_NEGATED_BY = word_set("only just merely simply doubt matter wonder surprise")
# With one of these between, a negation praises: "can't go wrong with blue", "no better shirt", "never fail to please".
PRAISED_BY = word_set("wrong better finer nicer easier simpler softer regret resist miss fault beat fail fails")
# "Nobody would ever call these jeans blue": what is called or expected is denied however far on it stands.
CALLING = word_set("call called describe described say expect think believe claim")
NEGATION_REACH = 5
ARTICLE_NEGATION_REACH = 3

# Denials that follow what they deny. "Blue is not their colour", "cotton was left out": a colour or material that opens
# its clause, or is missing. "The jeans are blue in no way": a phrase that ends its clause.
BE = word_set("is are was were isn't aren't wasn't weren't")
ABSENT = word_set("left missing absent avoided excluded omitted skipped gone lacking replaced")
CLOSING = PhraseTable(
    (words_of(words), words) for words in ("in no way", "by no means", "not at all", "no more", "no longer", "anymore")
)

DENIED_AFTER_SPACE = word_set("free alternative substitute imitation")
DENIED_AFTER = DENIED_AFTER_SPACE | word_set("less like look effect feel style type inspired lookalike")
# "Cut to resemble cotton", "a fabric like cotton", "looks like cotton", "softer than cotton", "as soft as cotton".
RESEMBLING = word_set("resemble resembles resembling imitate imitates imitating mimic mimics mimicking simulates")
LIKENED = word_set(
    "look looks looking feel feels feeling seem seems just much fabric cloth material textile something surface finish"
)
RESEMBLING_REACH = 2
MEASURED = word_set("well far long much")  # "as well as cotton" compares nothing

CLAUSE_MARKS = frozenset(",;:.!?—()")


def negated(policy: Policy, draft: Draft) -> Iterator[str]:
    """No fact is denied: "not blue", "without cotton", "no longer 49.00 EUR", "cotton was left out"."""
    copy = draft.copy
    anchors = {mention.start: (phrase(copy, mention), _reach_of(mention)) for mention in copy.mentions}
    anchors |= {number.start: (copy.words[number.start], NEGATION_REACH) for number in copy.numbers}
    for at, word in enumerate(copy.words):
        if not copy.quoted[at] and _negates(copy.words, at):
            yield from (f"{word!r} denies {anchors[i][0]!r}" for i in _denied(draft, at, anchors))
    for start, stop, words in CLOSING.every(copy.words):
        if neighbour(copy.text, copy.tokens, stop - 1, 1) == EDGE:
            behind = (at for at in _clause(draft, start, -1) if start - at <= NEGATION_REACH)
            yield from (f"{words!r} denies {anchors[at][0]!r}" for at in behind if at in anchors)
    for mention in filter(_can_be_imitated, copy.mentions):
        if _is_absent(draft, mention):
            yield f"{copy.words[mention.stop]!r} denies {phrase(copy, mention)!r}"


def imitated(policy: Policy, draft: Draft) -> Iterator[str]:
    """No colour and no material is only like what the fact says: "cotton-free", "looks like cotton", "blue-effect"."""
    words = draft.copy.words
    for mention in filter(_can_be_imitated, draft.copy.mentions):
        following = words[mention.stop : mention.stop + 1]
        if following and following[0] in DENIED_AFTER and _joined(draft, mention.stop):
            yield f"{following[0]!r} denies {phrase(draft.copy, mention)!r}"
        for at in _clause(draft, mention.start, -1):
            if mention.start - at > RESEMBLING_REACH:
                break
            if _likens(words, at) and not draft.copy.quoted[at]:
                yield f"{words[at]!r} makes {phrase(draft.copy, mention)!r} a comparison"


def _negates(words: tuple[str, ...], at: int) -> bool:
    """Whether a word denies what follows it. "Never fail" is no denial."""
    word = words[at]
    following = words[at + 1] if at + 1 < len(words) else ""
    if following in NOT_NEGATED_BY:
        return False
    if word in PRAISED_BY and any(_negates(words, i) for i in range(max(0, at - 2), at)):
        return False
    if word in NEGATOR_NEEDS:
        return following == NEGATOR_NEEDS[word]
    return word in NEGATORS or word.endswith("n't")


def _reach_of(mention: Mention) -> int:
    """How many words away a term can be denied: "never want to take these jeans off" denies no jeans."""
    return ARTICLE_NEGATION_REACH if mention.readings[0].kind == "article" else NEGATION_REACH


def _denied(draft: Draft, at: int, anchors: dict[int, tuple[str, int]]) -> Iterator[int]:
    """The anchors that a negation reaches, up to the end of its clause or to a word that turns it into praise."""
    words = draft.copy.words
    called = False
    for i in _clause(draft, at, 1):
        if words[i] in PRAISED_BY or (words[i] == "but" and words[at] != "anything"):
            return
        called = called or words[i] in CALLING
        if i in anchors and (called or i - at <= anchors[i][1]):
            yield i


def _clause(draft: Draft, at: int, step: int) -> Iterator[int]:
    """The words after (step 1) or before (step -1) a word, up to the mark that ends its clause."""
    tokens, text = draft.copy.tokens, draft.copy.text
    i = at + step
    while 0 <= i < len(tokens):
        left, right = sorted((i, i - step))
        if not CLAUSE_MARKS.isdisjoint(text[tokens[left].end : tokens[right].start]):
            return
        yield i
        i += step


def _is_absent(draft: Draft, mention: Mention) -> bool:
    """Whether a verb after a colour or material says that it is not there, or not so."""
    words = draft.copy.words
    verb, following, further = (*words[mention.stop : mention.stop + 3], "", "", "")[:3]
    if verb not in BE or next(_clause(draft, mention.stop - 1, 1), None) is None:
        return False
    if following in ABSENT:
        return True
    opens = next(_clause(draft, mention.start, -1), None) is None
    denies = verb.endswith("n't") or following in ("not", "never", "nowhere", "no")
    praise = {following, further} & (PRAISED_BY | NOT_NEGATED_BY)
    return opens and denies and not praise


def _likens(words: tuple[str, ...], at: int) -> bool:
    """Whether a word makes what follows it something to compare with."""
    before = words[at - 1] if at else ""
    if words[at] == "like":
        return before in LIKENED
    if words[at] == "as":
        return at >= 2 and words[at - 2] == "as" and before not in MEASURED
    if words[at] == "than":
        return before.endswith("er") and before not in NEGATOR_NEEDS
    return words[at] in RESEMBLING


def _can_be_imitated(mention: Mention) -> bool:
    """Whether a term is a material or a colour: what can be imitated or left out."""
    return any(reading.kind in ("material", "colour") for reading in mention.readings)


def _joined(draft: Draft, at: int) -> bool:
    """Whether a word follows the one before it directly: "cotton-free", or "cotton substitute" with a space.

    A space is not enough for the words that have another use ("blue look", "cotton like no other").
    """
    tokens, text = draft.copy.tokens, draft.copy.text
    gap = text[tokens[at - 1].end : tokens[at].start]
    return gap == "-" or (gap.strip() == "" and tokens[at].word in DENIED_AFTER_SPACE)
