"""Numbers in text: prices, percentages, sizes and plain numbers, so that each is compared with its own kind only."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

from gate.phrases import Token, word_set

Role = Literal["price", "percent", "size", "plain"]

_CURRENCIES = (
    ("EUR", "€ eur euro euros"),
    ("USD", "$ usd dollar dollars bucks"),
    ("GBP", "£ gbp pound pounds quid"),
    ("INR", "₹ inr rs rupee rupees"),
    ("JPY", "¥ jpy yen"),
    ("CHF", "chf francs"),
    ("a coin", "cent cents pence"),
)
_CODES = "cad aud nzd sek nok dkk pln czk cny aed sgd brl zar"
CURRENCIES = {spelling: code for code, spellings in _CURRENCIES for spelling in spellings.split()} | {
    code: code.upper() for code in _CODES.split()
}
SIZE_REGIONS = word_set("uk eu us ind")
SIZE_WORDS = SIZE_REGIONS | {"size", "sizes"}

# "One" is a pronoun more often than a number, and "first" praise more often than an ordinal, so neither counts.
_NUMBER_WORDS = (
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands"
    " million millions dozen dozens twice double triple half third fourth fifth tenth"
)
_NUMBER_VALUES = (
    "0 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 30 40 50 60 70 80 90 100 100 1000 1000 1000000 1000000 12 12"
    " 2 2 3 0.5 3 4 5 10"
)
NUMBER_WORDS = {word: Decimal(value) for word, value in zip(_NUMBER_WORDS.split(), _NUMBER_VALUES.split(), strict=True)}
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


class Number(NamedTuple):
    """A number in a text: words [start, stop), currency or region word included.

    `unit` is the currency code of a price, the region of a size ("uk"), else empty; `before` and `after` are the
    neighbouring words, empty at the ends.
    """

    role: Role
    value: Decimal
    unit: str
    start: int
    stop: int
    before: str
    after: str


def parse(digits: str) -> Decimal:
    """The value of "1,299.00", "49,00" or "049"; a comma before three digits separates thousands, else it is a point.

    Raises:
        decimal.InvalidOperation: never for what `phrases.WORD` matches, except dates such as 1.2.2020, read as one
            number by their digits.
    """
    plain = digits.replace(",", "") if _THOUSANDS.fullmatch(digits) else digits.replace(",", ".")
    if plain.count(".") > 1:
        plain = plain.replace(".", "")
    return Decimal(plain)


def spelled(word: str) -> str:
    """A word for comparison: a number in its shortest form ("49.00" -> "49"), any other word as it is."""
    return format(parse(word).normalize(), "f") if word[0].isdigit() else word


def numbers_of(text: str, tokens: Sequence[Token]) -> Iterator[Number]:
    """The numbers of a text in order, each with its role."""
    for at, token in enumerate(tokens):
        if token.word[0].isdigit():
            yield _read(text, tokens, at, parse(token.word))
        elif token.word in NUMBER_WORDS:
            yield _read(text, tokens, at, NUMBER_WORDS[token.word])


def _read(text: str, tokens: Sequence[Token], at: int, value: Decimal) -> Number:
    """Find a number's role in its surroundings."""
    token = tokens[at]
    before = tokens[at - 1].word if at else ""
    after = tokens[at + 1].word if at + 1 < len(tokens) else ""
    left = text[tokens[at - 1].end if at else 0 : token.start].strip()
    right = text[token.end : tokens[at + 1].start if after else len(text)].strip()

    def found(role: Role, unit: str, start: int, stop: int) -> Number:
        return Number(role, value, unit, start, stop, before, after)

    if left[-1:] in CURRENCIES or right[:1] in CURRENCIES:
        return found("price", CURRENCIES.get(left[-1:]) or CURRENCIES[right[:1]], at, at + 1)
    if after in CURRENCIES and right == "":
        return found("price", CURRENCIES[after], at, at + 2)
    if before in CURRENCIES and left in ("", "."):
        return found("price", CURRENCIES[before], at - 1, at + 1)
    if right[:1] == "%" or after in ("percent", "percentage", "pc"):
        return found("percent", "", at, at + 1)
    if before in SIZE_WORDS and left in ("", ":"):
        return found("size", before if before in SIZE_REGIONS else "", at - 1, at + 1)
    return found("plain", "", at, at + 1)
