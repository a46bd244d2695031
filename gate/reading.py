"""A case made ready to be checked: its text as words and sentences, and what its facts support. Computed once."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gate.numbers import Number, numbers_of, spelled
from gate.phrases import Token, tokens_of
from gate.verdict import Case
from gate.vocabulary import Mention, Reading, kind_of, vocabulary

FACTS_CACHED_MAX = 1024
SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|\n+")
# What NFKC leaves alone but a reader does not tell apart.
_PLAIN = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"'})
ONE_NUMBER = re.compile(r"\W*\d[\d.,]*\W*")
BLANK = "\N{WHITE SQUARE}"  # no letter, no digit, no punctuation of prose: no pattern of characters matches it


class Fact(NamedTuple):
    """One fact: its words, the meanings that they support and its numbers."""

    words: tuple[str, ...]
    supports: frozenset[Reading]
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Evidence:
    """What the facts of a brief say: all their words, the meanings they support and the numbers they hold."""

    values: Mapping[str, tuple[str, ...]]
    words: frozenset[str]
    supports: frozenset[Reading]
    numbers: tuple[tuple[str, Number], ...]


@dataclass(frozen=True)
class Copy:
    """A judged text.

    `text` is its normal form (NFKC, plain quotes); `words` are the words of `tokens`; `mentions`, `numbers` and
    `sentences` index them.
    `quoted[i]` tells that word i stands in a literal repetition of a fact of several words: what stands there is in
    the brief. `outside` is the text with those repetitions blanked, for checks of characters. `sentences` are
    half-open ranges of words.
    """

    text: str
    outside: str
    tokens: tuple[Token, ...]
    words: tuple[str, ...]
    quoted: tuple[bool, ...]
    mentions: tuple[Mention, ...]
    numbers: tuple[Number, ...]
    sentences: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Draft:
    """Everything a check may look at."""

    case: Case
    copy: Copy
    evidence: Evidence


def read(case: Case) -> Draft:
    """Analyse a case. Pure. Cost: most of the gate's time, 100 to 200 microseconds for a short copy."""
    return Draft(case, read_copy(case.text, case.facts), read_evidence(case.facts))


def normalise(text: str) -> str:
    """The form in which texts and facts are compared: NFKC, plain quotes, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    return re.sub(" {2,}", " ", text) if "  " in text else text


def read_evidence(facts: Mapping[str, str]) -> Evidence:
    """What these facts support."""
    known = {key: _read_fact(kind_of(key), value) for key, value in facts.items()}
    return Evidence(
        values={key: fact.words for key, fact in known.items()},
        words=frozenset().union(*(fact.words for fact in known.values())),
        supports=frozenset().union(*(fact.supports for fact in known.values())),
        numbers=tuple((key, number) for key, fact in known.items() for number in fact.numbers),
    )


@lru_cache(maxsize=FACTS_CACHED_MAX)
def _read_fact(kind: str, value: str) -> Fact:
    """One fact; kept, because most briefs share their colours, genders and materials."""
    text = normalise(value)
    tokens = tokens_of(text)
    words = tuple([token.word for token in tokens])
    return Fact(words, frozenset(vocabulary().supports(words, kind)), tuple(numbers_of(text, tokens)))


def read_copy(text: str, facts: Mapping[str, str]) -> Copy:
    """Analyse a text, knowing which facts it may repeat literally."""
    normal = normalise(text)
    tokens = tuple(tokens_of(normal))
    spans = _spans(normal, facts)
    quoted = tuple([_covered(spans, token.start) for token in tokens]) if spans else (False,) * len(tokens)
    sentences = tuple(_sentences(normal, tokens, spans))
    mentions = [*vocabulary().mentions(normal, tokens), *vocabulary().first_of_names(normal, tokens, sentences)]
    return Copy(
        text=normal,
        outside=_blanked(normal, spans),
        tokens=tokens,
        words=tuple([token.word for token in tokens]),
        quoted=quoted,
        mentions=tuple(sorted(mentions)),
        numbers=tuple(numbers_of(normal, tokens)),
        sentences=sentences,
    )


def phrase(copy: Copy, mention: Mention) -> str:
    """A term as the copy spells it."""
    return copy.text[copy.tokens[mention.start].start : copy.tokens[mention.stop - 1].end]


def stated_literally(copy_words: tuple[str, ...], value: tuple[str, ...]) -> bool:
    """Whether a fact's words stand next to each other, numbers compared by value."""
    wanted = [spelled(word) for word in value]
    found = [spelled(word) for word in copy_words]
    size = len(wanted)
    return any(found[at : at + size] == wanted for at in range(len(found) - size + 1))


def _spans(text: str, facts: Mapping[str, str]) -> list[tuple[int, int]]:
    """Where facts of several words are repeated literally: ordered, disjoint character ranges."""
    lowered = text.lower()
    if len(lowered) != len(text):
        return []  # some capitals change length in lower case; without spans the checks are stricter, never laxer
    spans: list[tuple[int, int]] = []
    for value in sorted({normalise(fact).strip().lower() for fact in facts.values()}, key=len, reverse=True):
        if value.isalnum() or not value or ONE_NUMBER.fullmatch(value):
            continue  # one word or one number may be repeated in another sense
        at = lowered.find(value)
        while at >= 0:
            end = at + len(value)
            whole = not (lowered[at - 1 : at].isalnum() or lowered[end : end + 1].isalnum())
            if whole and not any(start < end and at < stop for start, stop in spans):
                spans.append((at, end))
            at = lowered.find(value, end)
    return sorted(spans)


def _covered(spans: list[tuple[int, int]], at: int) -> bool:
    """Whether a character lies in one of the spans."""
    return any(start <= at < stop for start, stop in spans)


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with the spans written over, of the same length."""
    for start, stop in spans:
        text = text[:start] + BLANK * (stop - start) + text[stop:]
    return text


def _sentences(text: str, tokens: tuple[Token, ...], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half-open ranges of words; a full stop inside a repeated fact ("U.S. Polo") ends nothing."""
    starts = [token.start for token in tokens]
    sentences: list[tuple[int, int]] = []
    first = 0
    for match in SENTENCE_END.finditer(text):
        if _covered(spans, match.start()):
            continue
        last = bisect_right(starts, match.start())
        if last > first:
            sentences.append((first, last))
            first = last
    if first < len(tokens):
        sentences.append((first, len(tokens)))
    return sentences
