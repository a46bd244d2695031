"""A second opinion on product copy: what a text asserts that the facts do not say, and what it leaves unsaid.

A benchmark of a quality gate may not be judged by the gate. This judge shares no code and no list with it and works
the other way round: it does not ask whether the text uses allowed words, but reads out of the text every assertion
that its lexicons know (colour, material, article, gender, season, occasion, origin, pattern, feature, claim, size,
number, proper name) and demands support for each from the facts.

    1. read both sides into tokens, lexicon hits and quantities
    2. keep the hits that are assertions: a weak word ("cream") only where its neighbours make it one
    3. every hit needs support; a supported one may not be negated
    4. every quantity and every proper name needs support
    5. every core fact must be stated

It errs on the side of an error line: a word that stands in any fact value is supported, everything else a buyer could
hold against the shop is not. Opinion ("sturdy", "the best mug") is nobody's fact and passes. Turned down: a language
model as the judge, whose own mistakes we could not state.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

from bench.factcheck_lexicon import (
    ANCESTORS,
    CURRENCIES,
    EVERYONE,
    FORM_WORDS_MAX,
    IMITATIONS,
    LEXICON,
    METAL_COLOURS,
    NUMBER_WORDS,
    UNITS,
    Entry,
)

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*|[^\w\s]|\n")
_TSHIRT = re.compile(r"\b(?:t|tee)[- ]shirt", re.IGNORECASE)
_HYPHEN = re.compile(r"(?<=\w)[-\u2010\u2011](?=\w)")
_DECIMALS = re.compile(r"(.*)[.,](\d{1,2})")
_CONJUNCTS = re.compile(r"\band\b|[&/,]")

# A sentence, or a clause that may begin with a capital letter, starts after these.
_OPENERS = frozenset('.!?:;"“”()[]•\n–—|')
_HEADLINE_WORDS_MIN = 4
_BINDERS = frozenset({"a", "an", "the", "and", "or", "of", "in", "on", "at", "by", "for", "to", "from", "with"})

_NEGATORS = frozenset({"not", "no", "never", "without", "neither", "nor", "hardly", "unlike", "except", "cannot"})
_NEGATING_PAIRS = frozenset(
    {("anything", "but"), ("far", "from"), ("instead", "of"), ("rather", "than"), ("other", "than"), ("free", "of")}
)
# What may stand between a negator and what it negates: "not made of cotton", but not "never worry about cotton".
_LINKS = frozenset(
    {"a", "an", "the", "in", "of", "from", "for", "at", "with", "by", "any", "it", "this", "these", "really", "quite"}
    | {"actually", "exactly", "is", "are", "be", "being", "made", "cut", "crafted", "woven", "knitted", "available"}
    | {"sold", "offered", "offer", "offers", "contain", "contains", "use", "uses", "have", "has", "include", "come"}
    | {"comes", "cost", "costs", "priced", "suitable", "suited", "designed", "meant", "intended", "size", "sized"}
)

# An unsupported article after one of these is worn or used with the product; it is not the product.
_PAIRED_BY = frozenset({"with", "over", "under", "underneath", "beneath", "alongside", "beside", "against", "from"})
_PAIRING_VERBS = frozenset(
    {"pair", "pairs", "paired", "wear", "wears", "worn", "team", "teams", "teamed", "match", "matches", "style"}
    | {"styled", "combine", "combines", "go", "goes", "layer", "layers", "layered", "work", "works", "look", "looks"}
    | {"slip", "slips", "throw", "pull", "complements", "complement"}
)
_OWN = frozenset({"your", "any", "every", "favourite", "favorite", "other"})
_PAIRED_REACH = 6
_OWN_REACH = 3
_MATERIAL_REACH = 3

_DEMONSTRATIVES = frozenset({"this", "these", "our"})
_DETERMINERS = frozenset({"a", "an", "the"})
_IS = frozenset({"is", "are", "it", "as", "new", "be"})
_COLOUR_NOUNS = frozenset({"shade", "tone", "hue", "colour", "color", "coloured", "colored", "finish", "tint", "dye"})
_MADE = frozenset({"made", "crafted", "cut", "woven", "spun", "knitted", "sewn"})
_OF_WHAT = _MADE | _COLOUR_NOUNS
_SEASON_BEFORE = frozenset({"in", "this", "for", "during", "early", "late", "next"})
_SEASON_AFTER = frozenset({"season", "collection", "wear", "wardrobe", "weather", "summer", "winter", "days"})
_KIN_BEFORE = frozenset({"a", "for", "your", "every", "new"})
_SIZE_CUES = frozenset({"size", "sizes", "sized"})
_SIZE_SYSTEMS = frozenset({"eu", "uk", "us", ":"})
_LETTER_CUES = _SIZE_CUES | {"in", "to", "or", "(", ":"}
_PRICE_HEDGES = frozenset({"under", "below", "over", "above", "nearly", "almost", "about", "around", "roughly", "than"})

# Of these a product has one value: "not wool" follows from "cotton", and is no invention.
_CLOSED = frozenset({"colour", "material", "article", "gender", "season", "usage", "size"})
_MODIFIERS = frozenset({"colour", "material", "gender", "pattern", "feature", "usage", "season", "claim"})
_CORE = ("article", "colour", "material", "price", "size", "gender")
_FILLERS = frozenset({"and", "with", "blend", "mix", "of", "the", "in"})
_EVERYDAY_CAPITALS = frozenset(
    {"i", "i'm", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "ok"}
)


class Token(NamedTuple):
    """`text`: lower case, without a possessive 's; `opens`: a sentence or clause begins here."""

    text: str
    raw: str
    opens: bool


class Hit(NamedTuple):
    """A form of the lexicon at tokens[start:end]."""

    start: int
    end: int
    words: tuple[str, ...]
    entry: Entry


class Quantity(NamedTuple):
    """A number at tokens[start:end] with its unit: a currency code, a unit of UNITS, or empty."""

    start: int
    end: int
    value: Decimal
    unit: str


class Reading:
    """What the lexicons see in one text. Never changed after it is made."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.quantities = _quantities(self.tokens)
        self.hits = _hits(self.tokens, {at for number in self.quantities for at in range(number.start, number.end)})
        self.hit_from = {hit.start: hit for hit in self.hits}
        self.hit_upto = {hit.end: hit for hit in self.hits}

    def word(self, at: int) -> str:
        """The text of a token; empty outside the text."""
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def surface(self, start: int, end: int) -> str:
        return " ".join(token.raw for token in self.tokens[start:end])


class Known:
    """What the facts support: words (folded), concepts with their ancestors, and numbers with their units."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        self.readings = {key: Reading(value) for key, value in facts.items()}
        readings = self.readings.values()
        self.concepts = frozenset[str]().union(
            *(ANCESTORS[hit.entry.concept] for reading in readings for hit in reading.hits)
        )
        self.words = frozenset(word for reading in readings for word in _supporting_words(reading))
        self.quantities = {(number.value, number.unit) for reading in readings for number in reading.quantities}
        self.numbers = {value for value, _ in self.quantities}

    def supports(self, hit: Hit) -> bool:
        return hit.entry.concept in self.concepts or all(_fold(word) in self.words for word in hit.words)


class Copy:
    """The text under judgement: its assertions, and what of it speaks of something else than the product."""

    def __init__(self, text: str, known: Known) -> None:
        self.reading = Reading(text)
        self.assertions = [hit for hit in self.reading.hits if _is_assertion(self.reading, hit)]
        self.companions = _companions(self.reading, self.assertions, known)
        self.concepts = {hit.entry.concept for hit in self.assertions if hit.start not in self.companions}
        self.words = _stated_words(self.reading, self.companions)
        genders = frozenset[str]().union(*(ANCESTORS[concept] for concept in self.concepts))
        self.names_both_genders = {"male", "female"} <= genders


def fact_errors(facts: Mapping[str, str], text: str) -> list[str]:
    """Judge short product copy (2 to 4 sentences) against the facts of its brief.

    Args:
        facts: values by column name, as in a catalogue; only those of _CORE must be stated, all give support.
    Returns:
        One line an error, in no promised order; empty means that no error was found.
    Cost: linear in the length of both; under 1 ms for 60 words.
    """
    known = Known(facts)
    copy = Copy(text, known)
    found = [
        *_assertion_errors(known, copy),
        *_quantity_errors(known, copy.reading),
        *_name_errors(known, copy.reading),
        *_missing_errors(known, copy),
    ]
    return list(dict.fromkeys(found))


def _tokens(text: str) -> list[Token]:
    text = _HYPHEN.sub(" ", _TSHIRT.sub("tshirt", text.replace("’", "'")))
    tokens: list[Token] = []
    for raw in _TOKEN.findall(text):
        opens = not tokens or tokens[-1].raw in _OPENERS
        tokens.append(Token(raw.lower().removesuffix("'s"), raw, opens))
    return tokens


def _quantities(tokens: list[Token]) -> list[Quantity]:
    """Every number, in digits or words. A number of a size like "45 x 45 cm" takes the unit of the one it precedes."""
    found: list[Quantity] = []
    for at, token in enumerate(tokens):
        value = _value(token.text)
        if value is None:
            continue
        unit_before = UNITS.get(tokens[at - 1].text, "") if at > (found[-1].end if found else 0) else ""
        unit_after = UNITS.get(tokens[at + 1].text, "") if at + 1 < len(tokens) else ""
        if unit_before in CURRENCIES and unit_after not in CURRENCIES:
            found.append(Quantity(at - 1, at + 1, value, unit_before))
        else:
            found.append(Quantity(at, at + 2 if unit_after else at + 1, value, unit_after))
    for place in reversed(range(len(found) - 1)):
        here, then = found[place], found[place + 1]
        if not here.unit and then.start == here.end + 1 and tokens[here.end].text in {"x", "×", "by"}:
            found[place] = here._replace(unit=then.unit)
    return found


def _value(text: str) -> Decimal | None:
    """A number in digits (either decimal mark; a mark before three digits parts thousands) or in words."""
    if not text[0].isdecimal():
        return Decimal(NUMBER_WORDS[text]) if text in NUMBER_WORDS else None
    decimals = _DECIMALS.fullmatch(text)
    whole, part = decimals.groups() if decimals else (text, "0")
    return Decimal(f"{whole.replace(',', '').replace('.', '')}.{part}").normalize()


def _hits(tokens: list[Token], taken: set[int]) -> list[Hit]:
    """The forms of the lexicon, longest first from the left, outside the positions taken."""
    hits: list[Hit] = []
    for start in range(len(tokens)):
        if hits and start < hits[-1].end:
            continue
        for end in range(min(start + FORM_WORDS_MAX, len(tokens)), start, -1):
            words = tuple(token.text for token in tokens[start:end])
            if words in LEXICON and taken.isdisjoint(range(start, end)):
                hits.append(Hit(start, end, words, LEXICON[words]))
                break
    return hits


def _fold(word: str) -> str:
    """One form for singular and plural; only ever compared with itself, so that it need not be English."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


def _supporting_words(reading: Reading) -> Iterator[str]:
    imitated = {
        at for hit in reading.hits if hit.entry.concept in IMITATIONS for at in range(hit.start, hit.end)
    }  # "faux leather" supports itself, not "leather"
    for at, token in enumerate(reading.tokens):
        if at not in imitated:
            yield _fold(token.text)


def _stated_words(reading: Reading, companions: set[int]) -> frozenset[str]:
    unsaid = {
        at
        for hit in reading.hits
        if hit.entry.attribute == "neutral" or hit.start in companions
        for at in range(hit.start, hit.end)
    }
    return frozenset(_fold(token.text) for at, token in enumerate(reading.tokens) if at not in unsaid)


def _is_assertion(reading: Reading, hit: Hit) -> bool:
    """Whether a hit speaks of the product's properties; for strong forms always, for weak ones by their neighbours."""
    if hit.entry.attribute == "neutral":
        return False
    if not hit.entry.weak:
        return True
    before, before_that, after = reading.word(hit.start - 1), reading.word(hit.start - 2), reading.word(hit.end)
    match hit.entry.attribute:
        case "colour" | "material":
            of_it = before == "in" or (before in {"of", "from"} and before_that in _OF_WHAT)
            return of_it or after in _COLOUR_NOUNS or _modifies_article(reading, hit)
        case "article":
            modifier = reading.hit_upto.get(hit.start)
            modified = modifier is not None and modifier.entry.attribute in _MODIFIERS
            is_one = before in _DETERMINERS and (before_that in _IS or reading.tokens[hit.start - 1].opens)
            return before in _DEMONSTRATIVES or modified or is_one
        case "season":
            return before in _SEASON_BEFORE or after in _SEASON_AFTER
        case "gender":
            return before in _KIN_BEFORE
        case "size":
            return _is_size(reading, hit, before, after)
        case "claim":  # "made in" a place, not in a material
            followers = [reading.hit_from.get(at) for at in range(hit.end, hit.end + _MATERIAL_REACH)]
            return all(follower is None or follower.entry.attribute != "material" for follower in followers)
    raise AssertionError(f"no rule for weak forms of {hit.entry.attribute}")


def _is_size(reading: Reading, hit: Hit, before: str, after: str) -> bool:
    raw = reading.tokens[hit.start].raw
    if len(raw) == 1:
        return raw.isupper() and before in _LETTER_CUES
    return (raw.isupper() and len(raw) <= 4) or before in _SIZE_CUES or after in _SIZE_CUES


def _modifies_article(reading: Reading, hit: Hit) -> bool:
    follower = reading.hit_from.get(hit.end)
    while follower is not None and follower.entry.attribute in _MODIFIERS:
        follower = reading.hit_from.get(follower.end)
    return follower is not None and follower.entry.attribute == "article"


def _companions(reading: Reading, assertions: list[Hit], known: Known) -> set[int]:
    """Where other articles than the product, and their colours and materials, stand: "wear it with blue jeans"."""
    starts: set[int] = set()
    for hit in assertions:
        if hit.entry.attribute != "article" or known.supports(hit) or not _is_companion(reading, hit):
            continue
        starts.add(hit.start)
        modifier = reading.hit_upto.get(hit.start)
        while modifier is not None and modifier.entry.attribute in _MODIFIERS:
            starts.add(modifier.start)
            modifier = reading.hit_upto.get(modifier.start)
    return starts


def _is_companion(reading: Reading, hit: Hit) -> bool:
    first = hit.start
    while first > 0 and not reading.tokens[first].opens:
        first -= 1
    words = [token.text for token in reading.tokens[first : hit.start]]
    near, nearest = words[-_PAIRED_REACH:], words[-_OWN_REACH:]
    if not _DEMONSTRATIVES.isdisjoint(nearest):
        return False
    paired = not _PAIRED_BY.isdisjoint(near) and not _PAIRING_VERBS.isdisjoint(words)
    return paired or (not _OWN.isdisjoint(nearest) and _IS.isdisjoint(nearest))


def _is_negated(known: Known, reading: Reading, start: int, end: int) -> bool:
    """Whether a negator governs tokens[start:end] through linking words and other hits alone."""
    if reading.word(end) == "free" and "free" not in known.words:
        return True
    at = start - 1
    while at >= 0:
        word = reading.word(at)
        negates = word in _NEGATORS or word.endswith("n't") or (reading.word(at - 1), word) in _NEGATING_PAIRS
        if negates and _fold(word) not in known.words:
            return True
        modifier = reading.hit_upto.get(at + 1)
        if modifier is not None and modifier.entry.attribute in _MODIFIERS:
            at = modifier.start - 1
        elif word in _LINKS:
            at -= 1
        else:
            return False
    return False


def _assertion_errors(known: Known, copy: Copy) -> Iterator[str]:
    for hit in copy.assertions:
        attribute = hit.entry.attribute
        surface = copy.reading.surface(hit.start, hit.end)
        negated = _is_negated(known, copy.reading, hit.start, hit.end)
        both = attribute == "gender" and copy.names_both_genders and "unisex" in known.concepts
        if _is_metal(copy.reading, hit) and not _says_material(known, hit):
            yield f'material "{surface}" is not in the facts'
        elif known.supports(hit) or both:
            if negated:
                yield f'{attribute} "{surface}" is negated, yet the facts say it'
        elif hit.start in copy.companions or (negated and attribute in _CLOSED and attribute in known.readings):
            continue
        else:
            yield f'{attribute} "{surface}" is not in the facts'


def _is_metal(reading: Reading, hit: Hit) -> bool:
    """Whether a metal's colour stands as what the product is made of: "made from fine silver"."""
    before = [reading.word(at) for at in range(hit.start - 3, hit.start)]
    of_it = any(word in _MADE and then in {"of", "from"} for word, then in pairwise(before))
    return hit.entry.concept in METAL_COLOURS and of_it


def _says_material(known: Known, hit: Hit) -> bool:
    material = known.readings.get("material")
    return material is not None and any(said.entry.concept == hit.entry.concept for said in material.hits)


def _quantity_errors(known: Known, reading: Reading) -> Iterator[str]:
    for number in reading.quantities:
        surface = reading.surface(number.start, number.end)
        if not _is_known_quantity(known, reading, number):
            yield f'number "{surface}" is not in the facts'
        elif _is_negated(known, reading, number.start, number.end):
            yield f'number "{surface}" is negated, yet the facts say it'
        elif number.unit in CURRENCIES and reading.word(number.start - 1) in _PRICE_HEDGES:
            yield f'price "{surface}" is hedged by "{reading.word(number.start - 1)}"'


def _is_known_quantity(known: Known, reading: Reading, number: Quantity) -> bool:
    if number.unit:
        return (number.value, number.unit) in known.quantities
    before = number.start - 1
    while reading.word(before) in _SIZE_SYSTEMS:
        before -= 1
    if reading.word(before) in _SIZE_CUES and "size" in known.readings:
        return number.value in {size.value for size in known.readings["size"].quantities}
    return number.value in known.numbers


def _name_errors(known: Known, reading: Reading) -> Iterator[str]:
    """Capitalised words inside a sentence that neither the facts nor the lexicons know: invented names."""
    spans = [(hit.start, hit.end) for hit in reading.hits] + [(n.start, n.end) for n in reading.quantities]
    covered = {at for start, end in spans for at in range(start, end)}
    for sentence in _sentences(reading):
        if _is_headline([reading.tokens[at] for at in sentence]):
            continue
        for at in sentence:
            token = reading.tokens[at]
            if token.opens or at in covered or not token.raw[0].isupper():
                continue
            if _fold(token.text) not in known.words and token.text not in _EVERYDAY_CAPITALS:
                yield f'name "{token.raw}" is not in the facts'


def _is_headline(sentence: list[Token]) -> bool:
    """Title Case capitalises every word but the short ones that bind, so that a capital names nothing there."""
    words = [token for token in sentence if token.raw.isalpha() and token.text not in _BINDERS]
    return len(words) >= _HEADLINE_WORDS_MIN and all(token.raw[0].isupper() for token in words)


def _sentences(reading: Reading) -> Iterator[range]:
    starts = [at for at, token in enumerate(reading.tokens) if token.opens]
    for start, end in pairwise([*starts, len(reading.tokens)]):
        yield range(start, end)


def _missing_errors(known: Known, copy: Copy) -> Iterator[str]:
    for key in _CORE:
        if key in known.readings and not _is_stated(key, known.readings[key], copy):
            value = known.readings[key]
            yield f'{key} "{value.surface(0, len(value.tokens))}" is not stated'


def _is_stated(key: str, fact: Reading, copy: Copy) -> bool:
    words = {_fold(token.text) for token in fact.tokens if token.text.isalnum()} - _FILLERS
    concepts = {hit.entry.concept for hit in fact.hits if hit.entry.attribute == key}
    match key:
        case "price" | "size" if fact.quantities:
            return _states_quantities(fact.quantities, copy.reading.quantities)
        case "size" if concepts:
            return concepts <= copy.concepts
        case "article":
            return not concepts.isdisjoint(copy.concepts) or not _heads(fact).isdisjoint(copy.words)
        case "material" if fact.hits:
            return all(hit.entry.concept in copy.concepts or _fold(hit.words[-1]) in copy.words for hit in fact.hits)
        case "gender" if concepts:
            return _states_gender(concepts, copy) or words <= copy.words
    return words <= copy.words or (bool(concepts) and concepts <= copy.concepts)


def _states_quantities(fact: list[Quantity], stated: list[Quantity]) -> bool:
    """Whether the numbers of a fact stand in the text side by side and in order: "45 x 45 cm" is not "45 cm"."""
    wanted = [(number.value, number.unit) for number in fact]
    said = [(number.value, number.unit) for number in stated]
    return any(said[at : at + len(wanted)] == wanted for at in range(len(said)))


def _heads(article: Reading) -> frozenset[str]:
    """The last word of each part of an article's name: "Perfume and Body Mist" is stated by "perfume" or "mist"."""
    parts = _CONJUNCTS.split(" ".join(token.text for token in article.tokens))
    return frozenset(_fold(part.split()[-1]) for part in parts if part.split())


def _states_gender(concepts: set[str], copy: Copy) -> bool:
    if "unisex" in concepts:
        return "unisex" in copy.concepts or copy.names_both_genders or not EVERYONE.isdisjoint(copy.words)
    enough = frozenset[str]().union(*(ANCESTORS[concept] for concept in concepts)) - {"kid"}
    return not enough.isdisjoint(copy.concepts)
