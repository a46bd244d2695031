"""Checks for what must never reach a reader: the writer's prompt, chat markup, placeholders, addresses and numbers to
call. They look at the text with literal facts blanked, so a product may be called "s.Oliver" or "Mr. Men"."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice

from gate.phrases import PhraseTable, windows, word_set, words_of
from gate.policy import Policy
from gate.reading import SENTENCE_END, Draft, normalise

# A sentence, or a run, of so many words that the prompt has too is the prompt itself. Words and keys of facts do not
# count: "it comes in size M" is what anybody would say.
PROMPT_SENTENCE_WORDS_MIN = 4
PROMPT_RUN_WORDS = 8
PROMPTS_CACHED_MAX = 256

MARKUP = re.compile(r"[<>|{}\[\]`#*_~\\^=]|^[ ]*[-•] ", re.MULTILINE)
LABEL = re.compile(r"(?:^|[.!?\n])\s*((?:product )?\w+)\s*:", re.IGNORECASE)
LABELS = word_set(
    "copy description text answer output title response caption headline note system user assistant human product"
) | {"product copy", "product description", "product text"}
FILLER = re.compile(r"\[[^\]]*\]|\{[^}]*\}|<[a-z _]+>|_{2,}|\.{4,}", re.IGNORECASE)
CONTACT = re.compile(
    r"@|[Ww]{3}\.|[Hh]ttps?:|(?<=\w)\.(?i:com|net|org|io|co|shop|store|info|biz|in|de|fr|uk|us|eu)\b"
    r"|\d[\d\s().-]{7,}\d"
)
CHATTER = """
as an ai, as a language model, as a large language model, language model, ai assistant, i cannot, i can't, i'm sorry
i am sorry, i apologize, i apologise, sure here, certainly here, of course here, absolutely here, sure i, certainly i
here is a, here is an, here is the, here is your, here it is, here a, here the, here your, here are a, here are some
here are the, here are your
let me know, feel free to, hope this helps, i hope this, product copy, product description, the prompt, this prompt
word count, write a, write the, written by, my favorite, my favourite
i am excited, i'm excited, we are excited, we're excited, excited to announce, im start, im end
end of text, endoftext
"""
PLACEHOLDERS = """
xyz, xxx, xxxx, abc, lorem, lorem ipsum, tbd, tba, todo, undefined, null, nan, insert, placeholder, your brand
your company, your store, your product, brand name, product name, company name, store name
"""


def _table(listed: str) -> PhraseTable[str]:
    """Phrases separated by commas or lines, compiled."""
    phrases = (phrase.strip() for phrase in listed.replace("\n", ",").split(","))
    return PhraseTable([(words_of(phrase), phrase) for phrase in phrases])


_CHATTER, _PLACEHOLDERS = _table(CHATTER), _table(PLACEHOLDERS)


def markup(policy: Policy, draft: Draft) -> Iterator[str]:
    """No chat template, HTML or Markdown."""
    yield from _hits(MARKUP, draft, "markup")


def chatter(policy: Policy, draft: Draft) -> Iterator[str]:
    """The text is the copy, not talk about the copy, nor a list of the brief's fields."""
    yield from (f"talk of the writer {phrase!r}" for phrase in _phrases(_CHATTER, draft))
    if ":" not in draft.copy.outside:
        return
    keys = {key.lower() for key in draft.case.facts}
    for match in LABEL.finditer(draft.copy.outside):
        if match[1].lower() in LABELS | keys:
            yield f"label {match[1]!r}: told as a list, not as prose"


def prompt(policy: Policy, draft: Draft) -> Iterator[str]:
    """No sentence of the prompt, and no long run of its words; facts are left out on both sides."""
    facts = draft.evidence.words.union(*(words_of(key) for key in draft.case.facts))

    def own(words: Iterable[str]) -> tuple[str, ...]:
        return tuple([word for word in words if word not in facts])

    asked = [own(sentence) for sentence in _prompt_sentences(draft.case.prompt)]
    said = [own(draft.copy.words[first:last]) for first, last in draft.copy.sentences]
    runs = set(windows(list(chain.from_iterable(asked)), PROMPT_RUN_WORDS))
    repeated = chain(
        (sentence for sentence in said if len(sentence) >= PROMPT_SENTENCE_WORDS_MIN and sentence in asked),
        (run for run in windows(list(chain.from_iterable(said)), PROMPT_RUN_WORDS) if run in runs),
    )
    yield from (f"repeats the prompt: {' '.join(words)!r}" for words in islice(repeated, 1))


def placeholders(policy: Policy, draft: Draft) -> Iterator[str]:
    """Nothing is left to be filled in."""
    yield from _hits(FILLER, draft, "placeholder")
    yield from (f"placeholder {phrase!r}" for phrase in _phrases(_PLACEHOLDERS, draft))


def contacts(policy: Policy, draft: Draft) -> Iterator[str]:
    """No web address, e-mail address or telephone number."""
    yield from _hits(CONTACT, draft, "contact")


@lru_cache(maxsize=PROMPTS_CACHED_MAX)
def _prompt_sentences(text: str) -> tuple[tuple[str, ...], ...]:
    """The words of each sentence of a prompt; kept, because the tries at a brief share it."""
    return tuple(words_of(sentence) for sentence in SENTENCE_END.split(normalise(text)))


def _hits(pattern: re.Pattern[str], draft: Draft, what: str) -> Iterator[str]:
    for match in pattern.finditer(draft.copy.outside):
        yield f"{what} {match[0].strip()!r}"


def _phrases(table: PhraseTable[str], draft: Draft) -> Iterator[str]:
    """The phrases of a table that stand in the copy outside repeated facts."""
    for start, stop, phrase in table.every(draft.copy.words):
        if not all(draft.copy.quoted[start:stop]):
            yield phrase
