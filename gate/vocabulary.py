"""What words mean: words for colour, material, article, gender, season, usage, size, origin, brand, pattern, sleeve and
fit, with their synonyms.

The rules for words that could mean something else, in the order they are tried:

1. The longest phrase wins: "rose gold" is one colour, "small of the back" is an idiom and no size.
2. A word that is also ordinary English (fall, top, medium, coffee, ...) counts only where its neighbours say so; the
   neighbours are listed in `gate.idioms.CONTEXTS`. "A cup of tea" is no cup, "a cup of porcelain" is.
3. Everything else counts wherever it stands. "A rose on the sleeve" is read as the colour rose. In doubt the gate
   rejects: a false reject costs one retry, a false accept costs the reader's trust.

The words of a fact are read without rule 2, because a fact of one word has no neighbours; its key tells instead: the
"Gold" of a colour is no material. In a fact whose key does not tell, such as a name, what may be both is the colour.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from gate import idioms, lexicon, nouns
from gate.phrases import PhraseTable, Token, plural, word_set, words_of

Kind = Literal[
    "colour",
    "material",
    "article",
    "gender",
    "season",
    "usage",
    "size",
    "origin",
    "brand",
    "pattern",
    "sleeve",
    "fit",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Other spellings of a fact's key.
KEY_SPELLINGS = {"color": "colour", "colors": "colour", "colours": "colour"}
EDGE = "|"


class Reading(NamedTuple):
    """One meaning of a word."""

    kind: str
    canonical: str


Readings = tuple[Reading, ...]


class Mention(NamedTuple):
    """A vocabulary term in a text: words [start, stop), and its possible meanings, never empty."""

    start: int
    stop: int
    readings: Readings


class Context(NamedTuple):
    """When an ambiguous word counts, by the word before and after it (see `gate.idioms.CONTEXTS`)."""

    sure: frozenset[str]
    after: frozenset[str]
    before: frozenset[str]
    not_after: frozenset[str]
    not_before: frozenset[str]

    def counts(self, previous: str, following: str) -> bool:
        """Whether the word between these two has its vocabulary meaning."""
        if previous in self.sure:
            return True
        if previous in self.not_after or following in self.not_before:
            return False
        if self.after or self.before:
            return previous in self.after or following in self.before
        return True


class Term(NamedTuple):
    """A parsed line of the lexicon."""

    canonical: str
    synonyms: tuple[str, ...]
    broader: tuple[str, ...]
    plural_only: bool


class Vocabulary:
    """The compiled lexicon. Build once (`vocabulary()`); all methods are pure."""

    def __init__(self) -> None:
        self.broader: dict[Reading, set[Reading]] = {}
        self.plural_only: set[str] = set()
        self.synonyms: dict[Reading, list[str]] = {}
        meanings: dict[tuple[str, ...], list[Reading]] = {}
        for phrase, reading in self._meanings():
            readings = meanings.setdefault(words_of(phrase), [])
            if reading not in readings:
                readings.append(reading)
                self.synonyms.setdefault(reading, []).append(phrase)
        self._facts = PhraseTable([(words, tuple(readings)) for words, readings in meanings.items()])
        harmless = [(words_of(phrase), ()) for phrase in _listed(idioms.HARMLESS)]
        self._text = PhraseTable[Readings](
            [*[(words, tuple(readings)) for words, readings in meanings.items()], *harmless]
        )
        self._contexts = _contexts(self.synonyms)

    def mentions(self, text: str, tokens: Sequence[Token]) -> list[Mention]:
        """The terms that a text uses in their vocabulary meaning. Cost: tens of microseconds for a short copy."""
        words = [token.word for token in tokens]
        return [
            Mention(start, stop, readings)
            for start, stop, readings in self._text.longest(words)
            if readings and (stop - start > 1 or self._counts(text, tokens, start))
        ]

    def first_of_names(self, text: str, tokens: Sequence[Token], sentences: Iterable[tuple[int, int]]) -> list[Mention]:
        """The brands that are English words too, where they open a sentence and their next word gives them away."""
        found = []
        for at in (first for first, last in sentences if last - first > 1):
            told = tokens[at].word in _BRANDS_OF_WORDS and text[tokens[at].start].isupper()
            if told and (neighbour(text, tokens, at, 1) == "made" or self._opens_thing(text, tokens, at + 1)):
                found.append(Mention(at, at + 1, (Reading("brand", tokens[at].word),)))
        return found

    def terms(self, words: Sequence[str]) -> list[Readings]:
        """The meanings of the terms in a fact's words: the longest phrases, without regard to context."""
        return [readings for _, _, readings in self._facts.longest(words)]

    def supports(self, words: Sequence[str], kind: str = "") -> Iterator[Reading]:
        """Everything that may be said because a fact of a kind has these words: its terms, and what is broader.

        A part of a term supports nothing: what is faux leather is no leather, and rose gold is no gold.
        """
        for readings in self.terms(words):
            kinds = {reading.kind for reading in readings}
            only = kind if kind in kinds else "colour" if {"colour", "material"} <= kinds else ""
            for reading in readings:
                if only in ("", reading.kind):
                    yield reading
                    yield from self.broader.get(reading, ())

    def _counts(self, text: str, tokens: Sequence[Token], at: int) -> bool:
        """Whether a term of one word has its vocabulary meaning here."""
        token = tokens[at]
        if token.word in _SIZE_LETTERS:
            glued = text[token.start - 1 : token.start].isalnum() or text[token.end : token.end + 1].isalnum()
            named = at > 0 and tokens[at - 1].word in ("size", "sizes")
            return not glued and (named or text[token.start].isupper())
        if token.word in _CONTAINERS and neighbour(text, tokens, at, 1) == "of":
            return neighbour(text, tokens, at, -1) not in _COUNTED_BY or self._tells_material(tokens, at + 2)
        context = self._contexts.get(token.word)
        if context is None:
            return True
        return context.counts(neighbour(text, tokens, at, -1), neighbour(text, tokens, at, 1))

    def _tells_material(self, tokens: Sequence[Token], at: int) -> bool:
        """Whether a material stands among the next words."""
        words = [token.word for token in tokens[at : at + idioms.CONTAINER_REACH]]
        return any(reading.kind == "material" for readings in self.terms(words) for reading in readings)

    def _opens_thing(self, text: str, tokens: Sequence[Token], at: int) -> bool:
        """Whether an article, a material or a colour stands at this word."""
        near = tokens[at : at + 3]
        kinds = {reading.kind for found in self.mentions(text, near) if found.start == 0 for reading in found.readings}
        return not kinds.isdisjoint(("article", "material", "colour"))

    def _meanings(self) -> Iterator[tuple[str, Reading]]:
        """Every phrase of the lexicon with one meaning; fills `broader` and `plural_only` on the way."""
        yield from self._simple("colour", lexicon.COLOURS)
        for shade in lexicon.SHADES.split():
            for base in lexicon.SHADED.split():
                self._widen(Reading("colour", f"{shade} {base}"), [f"colour:{base.replace('gray', 'grey')}"])
                yield f"{shade} {base}", Reading("colour", f"{shade} {base}".replace("gray", "grey"))
        yield from self._materials()
        yield from self._articles()
        yield from self._simple("gender", lexicon.GENDERS)
        for persons, genders in lexicon.PERSONS.items():
            yield from ((word, Reading("gender", gender)) for word in persons.split() for gender in genders)
        yield from self._simple("season", lexicon.SEASONS)
        for first in lexicon.SEASON_PAIRS.split():
            yield from (
                (f"{first} to {last}", Reading("season", "all seasons")) for last in lexicon.SEASON_PAIRS.split()
            )
        for kind, lines in (
            ("usage", lexicon.USAGES),
            ("size", lexicon.SIZES),
            ("origin", lexicon.ORIGINS),
            ("pattern", lexicon.PATTERNS),
            ("sleeve", lexicon.SLEEVES),
            ("fit", lexicon.FITS),
        ):
            yield from self._simple(kind, lines)
        yield from ((name, Reading("brand", name)) for name in _listed(lexicon.BRANDS))

    def _simple(self, kind: str, lines: str) -> Iterator[tuple[str, Reading]]:
        for term in _parse(lines):
            reading = Reading(kind, term.canonical)
            self._widen(reading, [f"{kind}:{name}" for name in term.broader])
            yield from ((phrase, reading) for phrase in (term.canonical, *term.synonyms))

    def _materials(self) -> Iterator[tuple[str, Reading]]:
        """Materials; imitations ("faux leather"), mixtures ("cotton blend") and coats ("gold plated") are their own."""
        textiles = list(self._simple("material", lexicon.TEXTILES))
        for _, reading in textiles:
            self._widen(reading, ["material:fabric"])
        plain = [*textiles, *self._simple("material", lexicon.MATERIALS)]
        yield from plain
        yield from self._simple("material", lexicon.GENERIC_TEXTILE)
        for phrase, reading in plain:
            for word in lexicon.IMITATION.split():
                yield f"{word} {phrase}", Reading("material", f"imitation {reading.canonical}")
            for word in lexicon.MIXED.split():
                blend = Reading("material", f"{reading.canonical} blend")
                yield from ((f"{phrase} {word}", blend), (f"{word} of {phrase}", blend))
        for metal in lexicon.PLATINGS.split():
            yield from ((f"{metal} {word}", Reading("material", f"{metal} plated")) for word in lexicon.PLATED.split())

    def _articles(self) -> Iterator[tuple[str, Reading]]:
        for lines, allowed in (*nouns.SECTIONS, (nouns.SECTION_NAMES, ())):
            for term in _parse(lines):
                reading = Reading("article", term.canonical)
                self._widen(reading, [*allowed, *(f"article:{name}" for name in term.broader)])
                if term.plural_only:
                    self.plural_only.add(term.canonical)
                for phrase in (term.canonical, *term.synonyms):
                    yield phrase, reading
                    if not term.plural_only and (phrase.endswith("ss") or not phrase.endswith("s")):
                        yield plural(phrase), reading

    def _widen(self, reading: Reading, broader: Iterable[str]) -> None:
        """Note what a meaning may also be called; `broader` are "kind:canonical"."""
        pairs = (name.split(":", 1) for name in broader)
        self.broader.setdefault(reading, set()).update(Reading(kind, canonical) for kind, canonical in pairs)


@functools.cache
def vocabulary() -> Vocabulary:
    """The one compiled vocabulary. Cost: some tens of milliseconds on the first call."""
    return Vocabulary()


_SIZE_LETTERS = word_set(idioms.SIZE_LETTERS)
_CONTAINERS = word_set(idioms.CONTAINERS)
_COUNTED_BY = word_set(idioms.COUNTED_BY)
_BRANDS_OF_WORDS = word_set(lexicon.BRANDS_OF_WORDS)


def _parse(lines: str) -> Iterator[Term]:
    """Terms from `canonical: synonym, synonym > broader, broader` lines."""
    for line in lines.strip().splitlines():
        names, _, broader = line.partition(" > ")
        canonical, _, synonyms = names.partition(":")
        yield Term(
            canonical.strip().removeprefix("+"),
            tuple(_listed(synonyms)),
            tuple(_listed(broader)),
            canonical.startswith("+"),
        )


def _listed(text: str) -> list[str]:
    """Phrases separated by commas or lines."""
    return [phrase.strip() for phrase in text.replace("\n", ",").split(",") if phrase.strip()]


def _contexts(synonyms: dict[Reading, list[str]]) -> dict[str, Context]:
    """The rules for ambiguous words, with ARTICLE replaced by the first word of every article."""
    articles = {words_of(name)[0] for reading, names in synonyms.items() if reading.kind == "article" for name in names}

    def words(rule: dict[str, str], field: str) -> frozenset[str]:
        listed = word_set(rule.get(field, ""))
        return listed - {idioms.ARTICLE} | articles if idioms.ARTICLE in listed else listed

    return {word: Context(*(words(rule, field) for field in Context._fields)) for word, rule in idioms.CONTEXTS.items()}


def kind_of(key: str) -> str:
    """The kind of fact that a key names: "Color" is colour."""
    return KEY_SPELLINGS.get(key.strip().lower(), key.strip().lower())


def neighbour(text: str, tokens: Sequence[Token], at: int, step: int) -> str:
    """The word next to a word, or EDGE where a punctuation mark or the end of the text comes first."""
    other = at + step
    if not 0 <= other < len(tokens):
        return EDGE
    first, last = sorted((tokens[at], tokens[other]), key=lambda token: token.start)
    return tokens[other].word if text[first.end : last.start].strip(" -'\"") == "" else EDGE
