"""Numbers in text: prices, percentages, sizes and plain numbers, so that each is compared with its own kind only."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

from gate.phrases import Token, word_set

# Words between a number and what it counts, and marks that part them: "a pack of 3", "4 as their number".
JOINING = word_set("a an the of in is are as its their with and or for to at by on has have")
PARTING = re.compile(r"[,;:.!?()]")

Role = Literal["price", "percent", "size", "plain"]

# Source: ISO 4217, list one (national currencies; funds, metals and test codes left out).
_ISO_4217 = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
    "CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG "
    "HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA "
    "MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD "
    "RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX "
    "USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"
)
# Codes that are English words, names or units too; they count in capitals only.
_CODES_OF_WORDS = word_set("all bob cop cup gel mad mop pen sos top try")
_CURRENCIES = (
    ("EUR", "€ eur euro euros"),
    ("USD", "$ usd dollar dollars bucks"),
    ("GBP", "£ gbp pound pounds quid"),
    ("INR", "₹ inr rs rupee rupees"),
    ("JPY", "¥ jpy yen"),
    ("CHF", "chf francs"),
    ("a coin", "cent cents pence"),
)
CURRENCY_CODES = frozenset(_ISO_4217.split())
CURRENCIES = {code.lower(): code for code in CURRENCY_CODES} | {
    spelling: code for code, spellings in _CURRENCIES for spelling in spellings.split()
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
NUMBER_WORDS = dict(zip(_NUMBER_WORDS.split(), _NUMBER_VALUES.split(), strict=True))
# Thousands in commas, the Indian way too (1,29,900.00), or in points, the continental way (1.299,00 and 1.299.000).
_IN_COMMAS = re.compile(r"[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?:\.\d+)?")
_IN_POINTS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+,\d{1,2}|[1-9]\d{0,2}(?:\.\d{3}){2,}")
# A point before exactly three digits is a thousand to some and a fraction to others ("49.000"), unless a zero leads.
_EITHER = re.compile(r"[1-9]\d{0,2}\.\d{3}")
_DECIMAL = re.compile(r"(?:0|[1-9]\d*)(?:[.,]\d+)?")


class Number(NamedTuple):
    """A number in a text: words [start, stop), currency, per cent or region word included.

    `value` is `amount_of` its digits; `unit` is the currency code of a price, the region of a size ("uk"), else empty;
    `before` and `after` are words that may tell what is counted: the last that does not only join, and the next; empty
    where punctuation parts them from the number.
    """

    role: Role
    value: str
    unit: str
    start: int
    stop: int
    before: str
    after: str


def amount_of(digits: str) -> str:
    """The amount in its shortest form, by which numbers are compared: 1299 for "1,299.00", "1.299,00" and "1299".

    What can be read in two ways ("49.000"), or in none ("1.2.2020", "0049"), stands for itself only.
    """
    if _IN_COMMAS.fullmatch(digits):
        plain = digits.replace(",", "")
    elif _IN_POINTS.fullmatch(digits):
        plain = digits.replace(".", "").replace(",", ".")
    elif _DECIMAL.fullmatch(digits) and not _EITHER.fullmatch(digits):
        plain = digits.replace(",", ".")
    else:
        return digits
    return format(Decimal(plain).normalize(), "f")


def spelled(word: str) -> str:
    """A word for comparison: a number by its amount, any other word as it is."""
    return amount_of(word) if word[0].isdigit() else word


def numbers_of(text: str, tokens: Sequence[Token]) -> Iterator[Number]:
    """The numbers of a text in order, each with its role."""
    for at, token in enumerate(tokens):
        if token.word[0].isdigit():
            yield _read(text, tokens, at, amount_of(token.word))
        elif token.word in NUMBER_WORDS:
            yield _read(text, tokens, at, NUMBER_WORDS[token.word])


def _read(text: str, tokens: Sequence[Token], at: int, value: str) -> Number:
    """Find a number's role in its surroundings."""
    token = tokens[at]
    before = tokens[at - 1].word if at else ""
    after = tokens[at + 1].word if at + 1 < len(tokens) else ""
    left = text[tokens[at - 1].end if at else 0 : token.start].strip()
    right = text[token.end : tokens[at + 1].start if after else len(text)].strip()

    def found(role: Role, unit: str, start: int, stop: int) -> Number:
        return Number(role, value, unit, start, stop, _counted_before(text, tokens, start), _next(text, tokens, stop))

    if left[-1:] in CURRENCIES or right[:1] in CURRENCIES:
        return found("price", CURRENCIES.get(left[-1:]) or CURRENCIES[right[:1]], at, at + 1)
    if right == "" and _is_currency(text, tokens, at + 1):
        return found("price", CURRENCIES[after], at, at + 2)
    if left in ("", ".") and _is_currency(text, tokens, at - 1):
        return found("price", CURRENCIES[before], at - 1, at + 1)
    if right[:1] == "%":
        return found("percent", "", at, at + 1)
    if after in ("percent", "percentage", "pc"):
        return found("percent", "", at, at + 2)
    if before in SIZE_WORDS and left in ("", ":"):
        return found("size", before if before in SIZE_REGIONS else "", at - 1, at + 1)
    return found("plain", "", at, at + 1)


def is_thing(word: str) -> bool:
    """Whether a word may name what is counted, and does not only join."""
    return word != "" and word not in JOINING


def _counted_before(text: str, tokens: Sequence[Token], at: int) -> str:
    """The last word before a word that may name what is counted, without a punctuation mark on the way."""
    while at > 0 and not PARTING.search(text, tokens[at - 1].end, tokens[at].start):
        at -= 1
        if is_thing(tokens[at].word):
            return tokens[at].word
    return ""


def _next(text: str, tokens: Sequence[Token], at: int) -> str:
    """The word at a place, unless a punctuation mark parts it from the word before."""
    parted = at == len(tokens) or PARTING.search(text, tokens[at - 1].end, tokens[at].start)
    return "" if parted else tokens[at].word


def _is_currency(text: str, tokens: Sequence[Token], at: int) -> bool:
    """Whether a word is there and names a currency."""
    if not 0 <= at < len(tokens) or tokens[at].word not in CURRENCIES:
        return False
    return tokens[at].word not in _CODES_OF_WORDS or text[tokens[at].start : tokens[at].end].isupper()
