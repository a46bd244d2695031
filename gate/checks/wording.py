"""Checks of wording: banned and required terms, claims without evidence, and the language."""

import functools
from collections.abc import Iterator

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from gate.phrases import PhraseTable, contains, plural, word_set, words_of
from gate.policy import Policy
from gate.reading import Draft

TABLES_MAX = 128  # compiled term lists kept; a policy has three
LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pt", "sv", "da", "pl", "ro", "tr", "id")
# Running English prose is a third to a half of these words. Above the first share a text is English whatever the
# statistical identifier says (it is unreliable below some 100 characters); below the second it is not prose at all.
STOPWORDS_SURE = 0.3
STOPWORDS_MIN = 0.1
STOPWORDS = word_set(
    "the a an and or but if of to in on at by for from with without into onto over under up down out off about as"
    " than is are was were be been being am do does did done have has had having will would can could may might"
    " shall should must this that these those it its it's they them their theirs you your yours we our ours us he"
    " him his she her i me my mine who whom whose which what when where why how all any both each every few more"
    " most much many some such no not only own same so too very just also then there here now once while until"
    " because through during before after above below between again further well you'll they're don't isn't that's"
    " ever never always made make"
)
WORDS_FOR_LANGUAGE_MIN = 5


def banned(policy: Policy, draft: Draft) -> Iterator[str]:
    """No banned term, in singular or plural, whole words only, even where the brief uses it."""
    for term in _found(policy.banned_terms, draft):
        yield f"{term!r} is banned by the policy"


def required(policy: Policy, draft: Draft) -> Iterator[str]:
    """Every required term is there."""
    present = set(_found(policy.required_terms, draft))
    for term in policy.required_terms:
        if term not in present:
            yield f"{term!r} is required by the policy"


def claims(policy: Policy, draft: Draft) -> Iterator[str]:
    """No claim that the brief does not make itself."""
    for claim in _found(policy.claims_need_evidence, draft):
        if not any(contains(value, words_of(claim)) for value in draft.evidence.values.values()):
            yield f"the claim {claim!r} is in no fact of the brief"


def language(policy: Policy, draft: Draft) -> Iterator[str]:
    """The text is in a language of the policy; words of the facts are left out, names have no language."""
    own = [word for word in draft.copy.words if word not in draft.evidence.words and not word[0].isdigit()]
    if len(own) < WORDS_FOR_LANGUAGE_MIN:
        return
    share = sum(word in STOPWORDS for word in own) / len(own)
    if share >= STOPWORDS_SURE:
        return
    guess, _ = _identifier().classify(" ".join(own))
    if share < STOPWORDS_MIN or guess not in policy.languages:
        yield f"does not read as {' or '.join(policy.languages)} prose (identified as {guess})"


def _found(terms: tuple[str, ...], draft: Draft) -> Iterator[str]:
    """The terms that stand in the copy, in order."""
    for _, _, term in _table(terms).every(draft.copy.words):
        yield term


@functools.lru_cache(maxsize=TABLES_MAX)
def _table(terms: tuple[str, ...]) -> PhraseTable[str]:
    """A list of terms, compiled; each stands for its plural too."""
    phrases = ((words_of(phrase), term) for term in terms for phrase in (term, plural(term)))
    return PhraseTable(phrases)


@functools.cache
def _identifier() -> LanguageIdentifier:
    """The language identifier among languages that product copy comes in. Cost: a fraction of a second, once."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(LANGUAGES))
    return identifier
