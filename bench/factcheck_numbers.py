"""The fact checker's rules for quantities: what each counts, what a price is framed by, whose share a percentage is."""

from collections.abc import Iterator
from decimal import Decimal

from bench.factcheck_denial import denial
from bench.factcheck_lexicon import CURRENCIES
from bench.factcheck_reading import OPENERS, Known, Quantity, Reading, fold, key_words

SIZE_CUES = frozenset({"size", "sizes", "sized"})
_SIZE_SYSTEMS = frozenset({"eu", "uk", "us", ":"})

# What may lead to a price; all else ("from", "under", "as low as", "a saving of") makes it another assertion.
_PRICE_LEADS = frozenset(
    {"for", "at", "cost", "costs", "is", "are", "price", "prices", "priced", "you", "back", "and", "or", "tag", "yours"}
    | {"this", "these", "the", "a", "an", "our", "your", "its", "be", "merely", "reads", "says", "equals", "with"}
)
_PRICE_NOUNS = frozenset({"price", "tag", "cost", "sum", "total", "figure"})
_SKIPPED = frozenset({"only", "just", "exactly", "simply", "mere", "fair", "modest"})
# Near before a price these change what it is the price of, or whether it is the price at all.
_TWISTS_BEFORE = frozenset(
    {"starting", "starts", "start", "begins", "beginning", "least", "most", "minimum", "maximum", "low", "average"}
    | {"save", "saves", "saving", "savings", "off", "discount", "deposit", "shipping", "delivery", "postage", "fee"}
    | {"original", "originally", "former", "formerly", "once", "was", "were", "usual", "usually", "normally", "regular"}
    | {"used", "previously", "reduced", "down", "worth", "valued", "instead", "than", "more", "less", "extra", "plus"}
    | {"not", "voucher", "coupon", "gift", "budget", "instalments", "would"}
)
_TWISTS_AFTER = frozenset(
    {"voucher", "vouchers", "coupon", "off", "discount", "saving", "savings", "rebate", "deposit", "more", "less"}
    | {"upwards", "onwards", "per", "monthly", "cheaper", "extra", "instead", "fee", "shipping", "delivery", "credit"}
    | {"gift", "before", "excluding", "cashback", "bonus", "minimum", "maximum", "+"}
)
_AND_UP = frozenset({"up", "upwards", "above", "over", "more", "beyond", "less", "under", "month", "week", "postage"})
_AND_UP_AFTER = frozenset({"and", "or", "a", "plus"})
_TWIST_REACH = 3

# A number counts what follows it, unless one of these does.
_COUNTS_NOTHING = frozenset(
    {"and", "or", "is", "are", "for", "in", "at", "of", "to", "with", "by", "on", "from", "as", "it", "its", "this"}
    | {"these", "they", "the", "a", "an", "you", "your", "that", "which", "while", "so", "but", "makes", "make", "x"}
    | {"costs", "cost", "comes", "come", "fits", "suits", "has", "have", "will", "can", "brings", "keeps", "waits"}
)
_COUNTED_REACH = 2
_SHARE_REACH = 4


def quantity_errors(known: Known, reading: Reading) -> Iterator[str]:
    """One line for each number that the facts do not have, or that the text twists."""
    for number in reading.quantities:
        surface = reading.surface(number.start, number.end)
        if not _is_known(known, reading, number):
            yield f'number "{surface}" is not in the facts'
        elif denied := denial(known, reading, number.start, number.end):
            yield f'number "{surface}" is {denied}, yet the facts say it'
        elif number.unit in CURRENCIES and (twist := _price_twist(known, reading, number)):
            yield f'price "{surface}" is hedged by "{twist}"'
        elif number.unit == "percent" and not _is_known_share(known, reading, number):
            yield f'number "{surface}" is the share of another material'


def _is_known(known: Known, reading: Reading, number: Quantity) -> bool:
    if number.unit:
        return (number.value, number.unit) in known.quantities
    before = number.start - 1
    while reading.word(before) in _SIZE_SYSTEMS:
        before -= 1
    if reading.word(before) in SIZE_CUES and "size" in known.readings:
        return number.value in {size.value for size in known.readings["size"].quantities}
    counted = _counted(reading, number.end)
    if not counted:
        return number.value in known.numbers
    led_by = reading.word(before - 1) if reading.word(before) == "of" else reading.word(before)
    return any(
        _may_count(key, fact, {fold(word) for word in [led_by, *counted]}, known)
        for key, fact in known.readings.items()
        if number.value in {said.value for said in fact.quantities}
    )


def _counted(reading: Reading, at: int) -> list[str]:
    """The words that follow a number and may name what it counts; none where it ends its phrase."""
    words: list[str] = []
    while len(words) < _COUNTED_REACH and reading.word(at).isalpha() and reading.word(at) not in _COUNTS_NOTHING:
        words.append(reading.word(at))
        at += 1
    return words


def _may_count(key: str, fact: Reading, words: set[str], known: Known) -> bool:
    """Whether a fact's number may stand by these words: they name its column, stand in its value, or (but for sizes
    and prices) name the product: {"pieces": "4"} supports "4 pieces" and "4 mugs", not "4 handles"."""
    own = {fold(word) for word in key_words(key)} | {fold(token.text) for token in fact.tokens}
    article = known.readings.get("article")
    if article is not None and key not in {"size", "price"}:
        own |= {fold(token.text) for token in article.tokens}
    return not own.isdisjoint(words)


def _price_twist(known: Known, reading: Reading, number: Quantity) -> str:
    """The word that makes a price something else than the price; empty where there is none."""
    first = number.start - 1
    while reading.word(first) in _SKIPPED:
        first -= 1
    lead = reading.word(first)
    noun = reading.word(first - 1)
    if lead == "of" and noun not in _PRICE_NOUNS:
        return f"{noun} of"
    is_named = first + 1 in reading.hit_upto or fold(lead) in known.words  # "The Tidewater, size M 24 EUR"
    if lead.isalpha() and lead != "of" and lead not in _PRICE_LEADS and not is_named:
        return lead
    return _twist_before(reading, first) or _twist_behind(reading, number.end)


def _twist_before(reading: Reading, first: int) -> str:
    for at in range(first, max(first - _TWIST_REACH, -1), -1):
        if reading.tokens[at].raw in OPENERS or reading.word(at) == ",":
            return ""
        if reading.word(at) in _TWISTS_BEFORE:
            return reading.word(at)
    return ""


def _twist_behind(reading: Reading, end: int) -> str:
    word, then = reading.word(end), reading.word(end + 1)
    if word in _AND_UP_AFTER:
        return f"{word} {then}" if then in _AND_UP else ""
    return word if word in _TWISTS_AFTER else ""


def _is_known_share(known: Known, reading: Reading, number: Quantity) -> bool:
    share = _share(reading, number)
    said = {_share(fact, part) for fact in known.readings.values() for part in fact.quantities} - {None}
    return share is None or not said or share in said


def _share(reading: Reading, number: Quantity) -> tuple[Decimal, str] | None:
    """A percentage and the material that it is of: "60% cotton", "cotton (60%)", "60% of it is cotton"."""
    if number.unit != "percent":
        return None
    ends = {other.end for other in reading.quantities}
    before = number.start - 1 if reading.word(number.start - 1) in {"(", ":"} else number.start
    hit = reading.hit_upto.get(before)
    if hit is not None and hit.entry.attribute == "material" and hit.start not in ends:
        return number.value, hit.entry.concept
    starts = {other.start for other in reading.quantities}
    for at in range(number.end, number.end + _SHARE_REACH):
        hit = reading.hit_from.get(at)
        if at in starts:
            return None
        if hit is not None and hit.entry.attribute == "material":
            return number.value, hit.entry.concept
    return None
