"""Checks of form: length, whole sentences, repetition, and characters that do not belong in product copy."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator

from gate.phrases import windows
from gate.policy import Policy
from gate.reading import Draft

# Latin letters with accents, digits, and the punctuation of prose; an en dash, an ellipsis and a no-break space are
# what writers' tools make of -, ... and a space. A letter with a plainer form (a long s, a ligature) is a look-alike.
LATIN = "".join(char for char in map(chr, range(0xC0, 0x180)) if unicodedata.is_normalized("NFKC", char))
ALLOWED = frozenset(
    string.ascii_letters
    + string.digits
    + " \n.,;:!?'\"()&%/+-$€£¥₹–—…’‘“”\u00a0"
    + LATIN.replace("×", "").replace("÷", "")
)
BRACKETS = re.compile(r"[()\[\]{}]")
CLOSERS = {")": "(", "]": "[", "}": "{"}
ENDINGS = (".", "!", "?", '."', '!"', '?"', ".)", "!)", "?)", ".'", "!'", "?'")


def length(policy: Policy, draft: Draft) -> Iterator[str]:
    """The copy has as many words and sentences as the policy allows."""
    num_words, num_sentences = len(draft.copy.tokens), len(draft.copy.sentences)
    if not policy.words.min <= num_words <= policy.words.max:
        yield f"{num_words} words; the policy allows {policy.words.min} to {policy.words.max}"
    if not policy.sentences.min <= num_sentences <= policy.sentences.max:
        yield f"{num_sentences} sentences; the policy allows {policy.sentences.min} to {policy.sentences.max}"


def truncated(policy: Policy, draft: Draft) -> Iterator[str]:
    """The writer finished, and the last sentence ends as sentences do."""
    if draft.case.finish_reason != "stop":
        yield f"the writer did not finish ({draft.case.finish_reason})"
    if not draft.copy.text.rstrip().endswith(ENDINGS):
        yield f"the text does not end a sentence: {draft.copy.text[-30:]!r}"


def balanced(policy: Policy, draft: Draft) -> Iterator[str]:
    """Quotes and brackets come in pairs."""
    open_marks: list[str] = []
    for char in BRACKETS.findall(draft.copy.outside):
        if char not in CLOSERS:
            open_marks.append(char)
        elif not open_marks or open_marks.pop() != CLOSERS[char]:
            yield f"{char!r} closes nothing"
            return
    if open_marks:
        yield f"{open_marks[-1]!r} is never closed"
    if draft.copy.outside.count('"') % 2:
        yield "a quotation mark has no partner"


def repetition(policy: Policy, draft: Draft) -> Iterator[str]:
    """No sentence stands twice, no word follows itself, no run of words repeats beyond the policy's limit.

    Runs inside a repeated fact do not count: a product may be named twice.
    """
    words, quoted = draft.copy.words, draft.copy.quoted
    sentences = Counter(tuple(words[first:last]) for first, last in draft.copy.sentences)
    for sentence, times in sentences.items():
        if times > 1:
            yield f"the same sentence {times} times: {' '.join(sentence)!r}"
    for at in range(len(words) - 1):
        if words[at] == words[at + 1] and not quoted[at] and words[at].isalpha():
            yield f"the word {words[at]!r} follows itself"
    runs = list(windows(words, policy.repetition.words))
    if len(set(runs)) == len(runs):
        return
    size = policy.repetition.words
    for run, times in Counter(run for at, run in enumerate(runs) if not all(quoted[at : at + size])).items():
        if times > policy.repetition.times_max:
            yield f"{' '.join(run)!r} stands {times} times"


def characters(policy: Policy, draft: Draft) -> Iterator[str]:
    """Only characters of English prose, or of the facts.

    Judged before normalisation: what looks like one character and is another (a Cyrillic letter in a Latin word, a
    full-width digit, a ligature) must not reach a reader just because its normal form is harmless. Control and format
    characters (zero width, direction marks) are refused even where a fact holds them.
    """
    odd = set(unicodedata.normalize("NFC", draft.case.text)) - ALLOWED
    if not odd:
        return
    from_facts = {char for value in draft.case.facts.values() for char in unicodedata.normalize("NFC", value)}
    for char in sorted(odd):
        if unicodedata.category(char)[0] == "C" or char not in from_facts:
            yield f"character U+{ord(char):04X} ({unicodedata.name(char, 'no name')}) does not belong in the copy"
