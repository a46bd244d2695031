"""The vocabulary: coverage of real catalogues, synonyms, and words with two meanings."""

import csv
import os
from pathlib import Path

import pytest

from gate.phrases import PhraseTable, plural, tokens_of, words_of
from gate.vocabulary import Reading, kind_of, vocabulary

SHARED = Path(os.environ.get("MINTAGE_SHARED", Path(__file__).parents[3] / "shared"))


def meanings(text: str) -> set[Reading]:
    mentions = vocabulary().mentions(text, tokens_of(text))
    return {reading for mention in mentions for reading in mention.readings}


@pytest.mark.parametrize("column", ["article", "colour", "gender", "season", "usage"])
def test_every_value_of_a_real_catalogue_is_known(column: str) -> None:
    path = SHARED / "data" / "catalogue.csv"
    if not path.exists():
        pytest.skip("the shared catalogue is not on this machine")
    with path.open(encoding="utf-8", newline="") as file:
        values = {row[column] for row in csv.DictReader(file)} - {""}
    known = vocabulary()
    unknown = {
        value
        for value in values
        if not any(reading.kind == column for readings in known.terms(words_of(value)) for reading in readings)
    }
    assert values and not unknown


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("a gray mug", "colour", "grey"),
        ("navy socks", "colour", "navy blue"),
        ("an off-white vase", "colour", "off white"),
        ("a rose gold watch", "colour", "rose gold"),
        ("a dark-blue coat", "colour", "dark blue"),
        ("woollen scarves", "material", "wool"),
        ("a stainless steel mug", "material", "stainless steel"),
        ("a faux leather bag", "material", "imitation leather"),
        ("a wool-blend coat", "material", "wool blend"),
        ("a blend of wool", "material", "wool blend"),
        ("gold-plated steel", "material", "gold plated"),
        ("a Norwegian mug", "origin", "norway"),
        ("pinstripes", "pattern", "striped"),
        ("short-sleeved", "sleeve", "short sleeve"),
        ("a relaxed fit", "fit", "loose fit"),
        ("for your grandmother", "gender", "women"),
        ("a cup of white porcelain", "article", "cup"),
        ("a coat of soft grey wool", "article", "coat"),
        ("ceramic and glass of this kind", "material", "glass"),
        ("two tees", "article", "t-shirt"),
        ("a T-Shirt", "article", "t-shirt"),
        ("new dresses", "article", "dress"),
        ("cosy pullovers", "article", "sweater"),
        ("women's", "gender", "women"),
        ("for him or her", "gender", "unisex"),
        ("for ladies", "gender", "women"),
        ("this autumn", "season", "fall"),
        ("an XL", "size", "xl"),
        ("in size m", "size", "m"),
        ("in 2XL", "size", "xxl"),
        ("of the top", "article", "top"),
        ("the fall collection", "season", "fall"),
        ("a coffee mug", "colour", "coffee brown"),
    ],
)
def test_a_word_is_understood(text: str, kind: str, canonical: str) -> None:
    assert Reading(kind, canonical) in meanings(text)


@pytest.mark.parametrize(
    "text",
    [
        "the small of the back",
        "top it off",
        "a top choice",
        "on top of that",
        "spring into action",
        "it may fall to the knee",
        "clothing" * 2,
        "soft on the skin",
        "light as air",
        "of medium weight",
        "tie it together",
        "watch the days go by",
        "they suit everyone",
        "a silver lining",
        "it rose to the challenge",
        "that's it, I'm sure",
        "over a cup of coffee",
        "a glass of cold water",
        "tailored and altered",
    ],
)
def test_an_ordinary_word_means_nothing_of_the_vocabulary(text: str) -> None:
    assert meanings(text) == set()


@pytest.mark.parametrize(
    ("fact", "kind", "foreign"),
    [
        ("faux leather", "material", "leather"),
        ("cotton blend", "material", "cotton"),
        ("gold plated steel", "material", "gold"),
        ("silver plated", "material", "silver"),
        ("steel", "material", "stainless steel"),
        ("cotton", "material", "pima cotton"),
        ("Rose Gold", "colour", "rose"),
        ("Rose Gold", "colour", "gold"),
        ("Danish", "origin", "norway"),
        ("Italy", "origin", "milan"),
    ],
)
def test_a_fact_supports_no_part_of_its_terms_and_nothing_narrower(fact: str, kind: str, foreign: str) -> None:
    supported = set(vocabulary().supports(words_of(fact), kind))
    assert supported
    assert Reading(kind, foreign) in vocabulary().synonyms
    assert Reading(kind, foreign) not in supported


@pytest.mark.parametrize(
    ("fact", "kind", "broader"),
    [
        ("stainless steel", "material", "steel"),
        ("pima cotton", "material", "cotton"),
        ("Danish", "origin", "scandinavia"),
        ("Milan", "origin", "italy"),
        ("light blue", "colour", "blue"),
    ],
)
def test_a_fact_supports_what_is_broader(fact: str, kind: str, broader: str) -> None:
    assert Reading(kind, broader) in set(vocabulary().supports(words_of(fact), kind))


def test_the_key_of_a_fact_tells_which_of_two_meanings_it_has() -> None:
    meant = {kind: set(vocabulary().supports(("gold",), kind)) for kind in ("colour", "material", "name")}
    assert Reading("material", "gold") not in meant["colour"] | meant["name"]
    assert Reading("colour", "gold") in meant["colour"] & meant["name"]
    assert Reading("material", "gold") in meant["material"]


def test_a_key_is_known_in_its_other_spellings() -> None:
    assert {kind_of(key) for key in ("color", "Colour", "colors", "colours")} == {"colour"}
    assert kind_of("capacity") == "capacity"


def test_the_longest_phrase_wins_and_phrases_do_not_overlap() -> None:
    table = PhraseTable([(("a",), 1), (("a", "b"), 2), (("b", "c"), 3)])
    assert list(table.longest(["a", "b", "c", "a"])) == [(0, 2, 2), (3, 4, 1)]
    assert [value for _, _, value in table.every(["a", "b", "c"])] == [2, 1, 3]


@pytest.mark.parametrize(
    ("one", "many"), [("dress", "dresses"), ("saree", "sarees"), ("body", "bodies"), ("toy", "toys")]
)
def test_plurals_are_regular(one: str, many: str) -> None:
    assert plural(one) == many


def test_every_broader_term_of_an_article_is_a_term() -> None:
    known = set(vocabulary().synonyms)
    dangling = {
        wide for reading, broader in vocabulary().broader.items() if reading in known for wide in broader
    } - known
    assert dangling == set()
