"""Words and phrases: how text becomes words, and a table that finds phrases of several words in them.

A table is a dictionary from a phrase's first word to the phrases that begin so, longest first. Turned down:
Aho-Corasick, which wins for huge tables; here nearly every word of a text begins no phrase at all, and one dictionary
look-up says so.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*")

T = TypeVar("T")


class Token(NamedTuple):
    """A word: lower case without a possessive 's, and where it stands (characters, half open)."""

    word: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The words and numbers of a text. Hyphens separate, apostrophes join, letters and digits part ("250ml" is two)."""
    return [Token(fold(match.group()), *match.span()) for match in WORD.finditer(text)]


def words_of(text: str) -> tuple[str, ...]:
    """Only the words."""
    return tuple([word.removesuffix("'s") for word in WORD.findall(text.lower())])


def word_set(listed: str) -> frozenset[str]:
    """A set of words from a line of them."""
    return frozenset(listed.split())


def fold(word: str) -> str:
    """Lower case, without the possessive: women's -> women."""
    return word.lower().removesuffix("'s")


def plural(noun: str) -> str:
    """The regular English plural of a noun (of the last word of a phrase)."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def windows(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Every run of `size` words, in order."""
    return zip(*(words[skip:] for skip in range(size)), strict=False)


def contains(words: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether the words of `phrase` stand next to each other in `words`. Cost: O(len(words))."""
    size = len(phrase)
    if size == 0 or phrase[0] not in words:
        return False
    return any(tuple(words[i : i + size]) == tuple(phrase) for i in range(len(words) - size + 1))


class PhraseTable(Generic[T]):
    """Phrases of one or more words, each with a value."""

    def __init__(self, entries: Iterable[tuple[Sequence[str], T]]) -> None:
        table: dict[str, dict[tuple[str, ...], T]] = {}
        for words, value in entries:
            if words:
                table.setdefault(words[0], {})[tuple(words)] = value
        self._by_first = {
            first: sorted(((len(words), words, value) for words, value in found.items()), key=lambda entry: -entry[0])
            for first, found in table.items()
        }

    def longest(self, words: Sequence[str]) -> Iterator[tuple[int, int, T]]:
        """Leftmost longest phrases, none overlapping: (start, stop, value). Cost: O(len(words))."""
        at, end = 0, len(words)
        by_first = self._by_first
        while at < end:
            for size, phrase, value in by_first.get(words[at], ()):
                if size == 1 or tuple(words[at : at + size]) == phrase:
                    yield at, at + size, value
                    at += size - 1
                    break
            at += 1

    def every(self, words: Sequence[str]) -> Iterator[tuple[int, int, T]]:
        """Every phrase, overlapping ones too: (start, stop, value)."""
        for at, word in enumerate(words):
            for size, phrase, value in self._by_first.get(word, ()):
                if size == 1 or tuple(words[at : at + size]) == phrase:
                    yield at, at + size, value
