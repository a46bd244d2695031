"""The check of numbers: every price, percentage, size, year or count in a copy is the brief's, of the same thing."""

import re
from collections.abc import Iterator

from gate.numbers import PARTING, Number, is_thing
from gate.phrases import plural, word_set, words_of
from gate.policy import Policy
from gate.reading import Draft
from gate.vocabulary import EDGE

KEY_REACH = 3
SHARE_REACH = 3

# Only a price that is said plainly is the brief's: "from 49.00 EUR", "49.00 EUR off" and "a saving of 49.00 EUR" use
# its number to say something else, in more ways than can be listed. So the plain ways are listed.
SOFTENERS = word_set("only just")
COSTS = word_set("cost costs costing price priced")
COSTS_NOT_AFTER = word_set("to once could would might may half")
CONTRACTED = word_set("it's they're")
IS = CONTRACTED | word_set("is are")
PRICE_WORDS = word_set("price cost tag")
SUBJECTS = word_set("it they this these that price cost tag pair")
AT_AFTER = (
    SUBJECTS | IS | word_set("priced yours hers his theirs offered available sold sells sell listed come comes them")
)
FOR_NOT_AFTER = word_set("start starts starting begin begins beginning reduced discounted down worth less more each")
SIGN = re.compile(r"(?:^|[\s(])[-+–—](?:[€£$¥₹]\s?)?$")  # "-49.00 EUR" is no price; "jeans - 49.00 EUR" has a dash
DASH = " - "
BESIDE = " -'\"€£$¥₹"
DETERMINERS = word_set("a an the this these our your")
# What may follow a price without a punctuation mark; after "and", "for" and "in", but not with these.
AFTER_PRICE = word_set(
    "and but in for it they you we this these that which it's they're is when while as today on only"
)
AFTER_PRICE_NOT = {
    "and": word_set("up upward upwards over above more under below less"),
    "for": word_set("one each every half a"),
    "in": word_set("savings store credit vouchers"),
}


def numbers(policy: Policy, draft: Draft) -> Iterator[str]:
    """Every number of the copy is supported, and prices are said plainly."""
    copy = draft.copy
    named = {at for mention in copy.mentions for at in range(mention.start, mention.stop)}
    for number in copy.numbers:
        if number.role == "plain" and number.start in named:
            continue
        quoted = all(copy.quoted[number.start : number.stop])
        if not quoted and not any(_supports(draft, key, fact, number) for key, fact in draft.evidence.numbers):
            yield f"{number.role} {_spelling(draft, number)!r} is in no fact of the brief"
        elif number.role == "price" and not _said_plainly(draft, number):
            yield f"price {_spelling(draft, number)!r} is not said plainly: {_around(draft, number)!r}"


def _supports(draft: Draft, key: str, fact: Number, number: Number) -> bool:
    """Whether a number of a fact stands behind a number of the copy: the same amount of the same thing."""
    if fact.value != number.value:
        return False
    if number.role == "size":
        return (fact.role == "size" or key == "size") and number.unit in ("", fact.unit)
    if fact.role != number.role or fact.unit != number.unit:
        return False
    if number.role == "price":
        return True
    if not fact.before and not fact.after:
        return key != "size" and _near_key(draft, key, number)
    return _same_share(draft, fact, number) if number.role == "percent" else _same_count(draft, fact, number)


def _near_key(draft: Draft, key: str, number: Number) -> bool:
    """Whether a number that is a whole fact stands next to its key: {pieces: 4} is "4 pieces", and never "4 lids"."""
    names = {form for word in words_of(key) for form in (word, plural(word), word.removesuffix("s"))}
    ahead = draft.copy.words[number.stop : number.stop + KEY_REACH]
    return number.before in names or next(filter(is_thing, ahead), "") in names


def _same_share(draft: Draft, fact: Number, number: Number) -> bool:
    """Whether a percentage is of the same: the next word of a fact, "60% soft cotton", or the last, "cotton: 60%"."""
    copy = draft.copy
    share = number.before
    for at in range(number.stop, min(number.stop + SHARE_REACH, len(copy.words))):
        if PARTING.search(copy.text, copy.tokens[at - 1].end, copy.tokens[at].start):
            break
        if is_thing(copy.words[at]):
            share = copy.words[at]
            if share in draft.evidence.words:
                break
    return share == (fact.after or fact.before)


def _same_count(draft: Draft, fact: Number, number: Number) -> bool:
    """Whether a number counts the same: "Pack of 3 Briefs" is "3 briefs" and "a pack of 3", no "pack of 3 colours".

    The word that follows tells; where that is none or the article, the word before does.
    """
    if is_thing(fact.after) and number.after == fact.after:
        return True
    if is_thing(number.after) and not _is_article(draft, number.stop):
        return False
    return fact.before != "" and number.before == fact.before


def _is_article(draft: Draft, at: int) -> bool:
    """Whether an article noun begins at a word."""
    return any(
        mention.start == at and any(reading.kind == "article" for reading in mention.readings)
        for mention in draft.copy.mentions
    )


def _said_plainly(draft: Draft, number: Number) -> bool:
    """Whether the words around a price leave it what it is. Inside a longer literal fact they are the fact's own."""
    copy = draft.copy
    if True in (*copy.quoted[max(0, number.start - 1) : number.start], *copy.quoted[number.stop : number.stop + 1]):
        return True
    if SIGN.search(copy.text[: copy.tokens[number.start].start]):
        return False
    return _introduced(draft, number) and _continued(draft, number.stop)


def _introduced(draft: Draft, number: Number) -> bool:
    """Whether the words before a price only introduce it."""
    at = number.start - 1
    while _before(draft, at + 1) in SOFTENERS:
        at -= 1
    last, previous = _before(draft, at + 1), _before(draft, at)
    if last == "of":
        return previous in PRICE_WORDS
    if last == "at":
        return previous == EDGE or previous in AT_AFTER or _known(draft, at - 1)
    if last == "for":
        return previous not in FOR_NOT_AFTER
    if last in IS:
        return previous in SUBJECTS or last in CONTRACTED or _known(draft, at - 1)
    if last in COSTS:
        return previous not in COSTS_NOT_AFTER
    if last in DETERMINERS:
        return _is_article(draft, number.stop)
    return last == EDGE or (last == "you" and previous in COSTS)


def _continued(draft: Draft, stop: int) -> bool:
    """Whether the words after a price, [stop, ...), leave it alone."""
    following, further = _joined(draft, stop, stop), _joined(draft, stop + 1, stop + 1)
    if following == EDGE or _is_article(draft, stop):
        return True
    return following in AFTER_PRICE and further not in AFTER_PRICE_NOT.get(following, ())


def _before(draft: Draft, at: int) -> str:
    """The word before a word, EDGE where there is none or a mark parts the two."""
    return _joined(draft, at, at - 1)


def _joined(draft: Draft, at: int, wanted: int) -> str:
    """The word at `wanted`, EDGE where words `at - 1` and `at` do not stand next to each other."""
    copy = draft.copy
    if not 0 < at < len(copy.tokens):
        return EDGE
    gap = copy.text[copy.tokens[at - 1].end : copy.tokens[at].start]
    return copy.words[wanted] if gap.strip(BESIDE) == "" and DASH not in gap else EDGE


def _known(draft: Draft, at: int) -> bool:
    """Whether a word is the product, or one of its facts."""
    mentioned = any(mention.start <= at < mention.stop for mention in draft.copy.mentions)
    return at >= 0 and (mentioned or draft.copy.quoted[at] or draft.copy.words[at] in draft.evidence.words)


def _around(draft: Draft, number: Number) -> str:
    """A price with the two words on either side."""
    return " ".join(draft.copy.words[max(0, number.start - 2) : number.stop + 2])


def _spelling(draft: Draft, number: Number) -> str:
    """A number as the copy spells it."""
    tokens = draft.copy.tokens
    return draft.copy.text[tokens[number.start].start : tokens[number.stop - 1].end]
