"""What the fact checker sees in a text: tokens, forms of the lexicon, quantities; and what the facts support by it."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

from bench.factcheck_lexicon import (
    ANCESTORS,
    CURRENCIES,
    FORM_WORDS_MAX,
    IMITATIONS,
    LEXICON,
    NUMBER_WORDS,
    UNITS,
    Entry,
)

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[A-Za-z]{1,2}\$|[^\W\d_]+(?:'[^\W\d_]+)*|[^\w\s]|\n")
_TSHIRT = re.compile(r"\b(?:t|tee)[- ]shirt", re.IGNORECASE)
_HYPHEN = re.compile(r"(?<=\w)[-\u2010\u2011](?=\w)")
_DECIMALS = re.compile(r"(.*)[.,](\d{1,2})")

# A sentence, or a clause that may begin with a capital letter, starts after these.
OPENERS = frozenset('.!?:;"“”()[]•\n–—|')

_ALIASES = {"color": "colour"}
# Values that say that a product has not what the column names.
_DENIED = frozenset({"no", "none", "without", "false", "not"})


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
        self.readings = {_ALIASES.get(key.lower(), key.lower()): Reading(value) for key, value in facts.items()}
        readings = self.readings.values()
        self.concepts = frozenset[str]().union(
            *(ANCESTORS[hit.entry.concept] for reading in [*readings, *self._with_keys()] for hit in reading.hits)
        )
        self.words = frozenset(word for reading in readings for word in _supporting_words(reading))
        self.quantities = {(number.value, number.unit) for reading in readings for number in reading.quantities}
        self.numbers = {value for value, _ in self.quantities}

    def _with_keys(self) -> Iterator[Reading]:
        """Facts as a writer says them: {"fit": "slim"} is a "slim fit", {"lid": "no"} is no lid."""
        for key, reading in self.readings.items():
            if reading.word(0) not in _DENIED and not any(hit.entry.attribute == key for hit in reading.hits):
                yield Reading(f"{reading.surface(0, len(reading.tokens))} {' '.join(key_words(key))}")

    def supports(self, hit: Hit) -> bool:
        return hit.entry.concept in self.concepts or all(fold(word) in self.words for word in hit.words)


def key_words(key: str) -> list[str]:
    """The words of a column's name: "num_pieces" is about pieces."""
    return key.replace("_", " ").split()


def _tokens(text: str) -> list[Token]:
    text = _HYPHEN.sub(" ", _TSHIRT.sub("tshirt", text.replace("’", "'")))
    tokens: list[Token] = []
    for raw in _TOKEN.findall(text):
        opens = not tokens or tokens[-1].raw in OPENERS
        tokens.append(Token(raw.lower().removesuffix("'s"), raw, opens))
    return tokens


def _quantities(tokens: list[Token]) -> list[Quantity]:
    """Every number, in digits or words. A number of a size like "45 x 45 cm" takes the unit of the one it precedes."""
    found: list[Quantity] = []
    for at, token in enumerate(tokens):
        value = _value(token.text)
        if value is None:
            continue
        unit_before = _unit(tokens[at - 1]) if at > (found[-1].end if found else 0) else ""
        unit_after = _unit(tokens[at + 1]) if at + 1 < len(tokens) else ""
        if unit_before in CURRENCIES and unit_after not in CURRENCIES:
            found.append(Quantity(at - 1, at + 1, value, unit_before))
        else:
            found.append(Quantity(at, at + 2 if unit_after else at + 1, value, unit_after))
    for place in reversed(range(len(found) - 1)):
        here, then = found[place], found[place + 1]
        if not here.unit and then.start == here.end + 1 and tokens[here.end].text in {"x", "×", "by"}:
            found[place] = here._replace(unit=then.unit)
    return found


def _unit(token: Token) -> str:
    """A unit's or a currency's name; some codes of currencies are words unless they stand in capitals."""
    return UNITS.get(token.text) or UNITS.get(token.raw, "")


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


def fold(word: str) -> str:
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
            yield fold(token.text)
