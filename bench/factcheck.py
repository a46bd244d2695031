"""A second opinion on product copy: what a text asserts that the facts do not say, and what it leaves unsaid.

A benchmark of a quality gate may not be judged by the gate. This judge shares no code and no list with it and works
the other way round: it does not ask whether the text uses allowed words, but reads out of the text every assertion
that its lexicons know (colour, material, article, gender, season, occasion, origin, pattern, feature, claim, size,
number, proper name) and demands support for each from the facts.

    1. read both sides into tokens, lexicon hits and quantities
    2. keep the hits that are assertions: a weak word ("cream") only where its neighbours make it one
    3. every hit needs support; a supported one may not be negated or imitated
    4. every quantity and every proper name needs support
    5. every required fact must be stated; 1 to 4 find contradictions, this finds omissions

Season and usage may be left out, for no policy requires them unless it says so: copy that is silent about them is no
error here, copy that names another season is. Who requires more passes `required`.

It errs on the side of an error line: a word that stands in any fact value is supported, everything else a buyer could
hold against the shop is not. Opinion ("sturdy", "the best mug") is nobody's fact and passes. Turned down: a language
model as the judge, whose own mistakes we could not state.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from bench.factcheck_denial import MODIFIERS, denial
from bench.factcheck_lexicon import ANCESTORS, EVERYONE, METAL_COLOURS
from bench.factcheck_names import name_errors
from bench.factcheck_numbers import SIZE_CUES, quantity_errors
from bench.factcheck_reading import Hit, Known, Quantity, Reading, fold

_CONJUNCTS = re.compile(r"\band\b|[&/,]")

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
_LETTER_CUES = SIZE_CUES | {"in", "to", "or", "(", ":"}

# Of these a product has one value: "not wool" follows from "cotton", and is no invention.
_CLOSED = frozenset({"colour", "material", "article", "gender", "season", "usage", "size"})
CORE = ("article", "colour", "material", "price", "size", "gender")
_FILLERS = frozenset({"and", "with", "of", "the", "in"})
_MIXED = frozenset({"blend", "blended", "mix", "mixed", "mixture"})

# A material that is a part of the whole may not be said to be all of it.
_WHOLLY_BEFORE = frozenset({"all", "only", "entirely", "wholly", "purely", "solely", "fully", "completely", "pure"})
_WHOLLY_BEHIND = frozenset({"last", "through", "throughout", "alone", "entirely", "completely", "only"})
_WHOLLY_REACH = 5
# "A touch of gold" is a colour, "a watch of gold" is not.
_TRACES = frozenset({"touch", "hint", "flash", "gleam", "glow", "splash", "dash", "kiss", "accent", "shimmer"})
_METAL_REACH = 5


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


class Verdict(NamedTuple):
    """One line an error, in no promised order: what the text says wrongly, and what it leaves out."""

    contradictions: list[str]
    omissions: list[str]


def judge(facts: Mapping[str, str], text: str, required: Collection[str] = CORE) -> Verdict:
    """Judge short product copy (2 to 4 sentences) against the facts of its brief.

    Args:
        facts: values by column name, as in a catalogue ("color" is "colour"); all of them give support.
        required: the columns that the copy must state where the facts have them.
    Returns:
        Both lists empty where no error was found.
    Cost: linear in the length of both; about 1 ms for 60 words.
    """
    known = Known(facts)
    copy = Copy(text, known)
    wrong = [
        *_assertion_errors(known, copy),
        *_share_errors(known, copy.reading),
        *quantity_errors(known, copy.reading),
        *name_errors(known, copy.reading),
    ]
    return Verdict(list(dict.fromkeys(wrong)), list(_missing_errors(known, copy, required)))


def fact_errors(facts: Mapping[str, str], text: str, required: Collection[str] = CORE) -> list[str]:
    """All the lines of `judge`: empty means that no error of either kind was found."""
    verdict = judge(facts, text, required)
    return [*verdict.contradictions, *verdict.omissions]


def _stated_words(reading: Reading, companions: set[int]) -> frozenset[str]:
    unsaid = {
        at
        for hit in reading.hits
        if hit.entry.attribute == "neutral" or hit.start in companions
        for at in range(hit.start, hit.end)
    }
    return frozenset(fold(token.text) for at, token in enumerate(reading.tokens) if at not in unsaid)


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
            modified = modifier is not None and modifier.entry.attribute in MODIFIERS
            is_one = before in _DETERMINERS and (before_that in _IS or reading.tokens[hit.start - 1].opens)
            return before in _DEMONSTRATIVES or modified or is_one
        case "season":
            return before in _SEASON_BEFORE or after in _SEASON_AFTER
        case "gender":
            return before in _KIN_BEFORE
        case "pattern":
            coloured = reading.hit_upto.get(hit.start)
            is_one = before in {"is", "are"} | _DETERMINERS and after not in {"by", "for"}
            return is_one or coloured is not None or _modifies_article(reading, hit)
        case "size":
            return _is_size(reading, hit, before, after)
        case "claim":  # "made in" a place, not in a material
            followers = [reading.hit_from.get(at) for at in range(hit.end, hit.end + _MATERIAL_REACH)]
            return all(follower is None or follower.entry.attribute != "material" for follower in followers)
    raise AssertionError(f"no rule for weak forms of {hit.entry.attribute}")


def _is_size(reading: Reading, hit: Hit, before: str, after: str) -> bool:
    raw = reading.tokens[hit.start].raw
    if len(raw) == 1:
        alone = before in {"", ",", "."} and not after.isalpha()
        return raw.isupper() and (before in _LETTER_CUES or alone)
    return (raw.isupper() and len(raw) <= 4) or before in SIZE_CUES or after in SIZE_CUES


def _modifies_article(reading: Reading, hit: Hit) -> bool:
    follower = reading.hit_from.get(hit.end)
    while follower is not None and follower.entry.attribute in MODIFIERS:
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
        while modifier is not None and modifier.entry.attribute in MODIFIERS:
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


def _assertion_errors(known: Known, copy: Copy) -> Iterator[str]:
    for hit in copy.assertions:
        attribute = hit.entry.attribute
        surface = copy.reading.surface(hit.start, hit.end)
        denied = denial(known, copy.reading, hit.start, hit.end)
        both = attribute == "gender" and copy.names_both_genders and "unisex" in known.concepts
        if _is_metal(copy.reading, hit) and not _says_material(known, hit):
            yield f'material "{surface}" is not in the facts'
        elif known.supports(hit) or both:
            if denied:
                yield f'{attribute} "{surface}" is {denied}, yet the facts say it'
        elif hit.start in copy.companions or (denied == "negated" and _excludes(known, attribute)):
            continue
        else:
            yield f'{attribute} "{surface}" is not in the facts'


def _excludes(known: Known, attribute: str) -> bool:
    """Whether the one value that the facts have for an attribute rules out all others."""
    return attribute in _CLOSED and attribute in known.readings


def _is_metal(reading: Reading, hit: Hit) -> bool:
    """Whether a metal's colour stands as what the product is made of: "made from fine silver", "a watch of gold"."""
    follower = reading.hit_from.get(hit.end)
    if hit.entry.concept not in METAL_COLOURS or (follower is not None and follower.entry.attribute == "material"):
        return False
    if reading.word(hit.start - 1) in {"real", "genuine", "solid", "pure"}:
        return True
    for at in range(hit.start - 1, hit.start - 1 - _METAL_REACH, -1):
        word, before = reading.word(at), reading.word(at - 1)
        if word in {"of", "from", "with", "in", "by"}:
            owner = reading.hit_upto.get(at)
            of_product = word == "of" and owner is not None and owner.entry.attribute == "article"
            return before in _MADE or before == "out" or of_product
        if not word.isalpha():
            return False
    return False


def _share_errors(known: Known, reading: Reading) -> Iterator[str]:
    """A part of a blend that is said to be the whole: "cotton to the last thread" for a cotton blend."""
    fact = known.readings.get("material")
    parts = {hit.entry.concept for hit in fact.hits} if fact is not None else set()
    blended = fact is not None and any(token.text in _MIXED for token in fact.tokens)
    if not blended and len(parts) < 2:
        return
    for hit in reading.hits:
        before = [reading.word(at) for at in range(hit.start - 1, hit.start - 3, -1)]
        behind = [reading.word(at) for at in range(hit.end, hit.end + _WHOLLY_REACH)]
        behind = behind[: next((at for at, word in enumerate(behind) if not word.isalpha()), len(behind))]
        wholly = not _WHOLLY_BEFORE.isdisjoint(before) or not _WHOLLY_BEHIND.isdisjoint(behind)
        named = _MIXED & set(behind) if blended else {part.entry.concept for part in reading.hits} >= parts
        if hit.entry.concept in parts and (wholly or before == ["but", "nothing"]) and not named:
            yield f'material "{reading.surface(hit.start, hit.end)}" is only a part of it'


def _says_material(known: Known, hit: Hit) -> bool:
    material = known.readings.get("material")
    return material is not None and any(said.entry.concept == hit.entry.concept for said in material.hits)


def _missing_errors(known: Known, copy: Copy, required: Collection[str]) -> Iterator[str]:
    for key in required:
        if key in known.readings and not _is_stated(key, known.readings[key], copy):
            value = known.readings[key]
            yield f'{key} "{value.surface(0, len(value.tokens))}" is not stated'


def _is_stated(key: str, fact: Reading, copy: Copy) -> bool:
    words = {fold(token.text) for token in fact.tokens if token.text.isalnum()} - _FILLERS
    concepts = {hit.entry.concept for hit in fact.hits if hit.entry.attribute == key}
    match key:
        case "price" | "size" if fact.quantities:
            return _states_quantities(fact.quantities, copy.reading.quantities)
        case "size" if concepts:
            return concepts <= copy.concepts
        case "article":
            return not concepts.isdisjoint(copy.concepts) or not _heads(fact).isdisjoint(copy.words)
        case "material" if fact.hits:
            if words & _MIXED and copy.words.isdisjoint(_MIXED):
                return False
            return all(hit.entry.concept in copy.concepts or fold(hit.words[-1]) in copy.words for hit in fact.hits)
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
    return frozenset(fold(part.split()[-1]) for part in parts if part.split())


def _states_gender(concepts: set[str], copy: Copy) -> bool:
    if "unisex" in concepts:
        return "unisex" in copy.concepts or copy.names_both_genders or not EVERYONE.isdisjoint(copy.words)
    enough = frozenset[str]().union(*(ANCESTORS[concept] for concept in concepts)) - {"kid"}
    return not enough.isdisjoint(copy.concepts)
