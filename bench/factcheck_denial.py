"""What product copy takes back: "not cotton", "cotton was left out", "nobody would call it blue", "looks like cotton".

A negator counts where nothing but linking words stands between it and what it denies, so that "never worry about
cotton" denies no cotton. Behind the word a whole pattern must fit ("is ... not ... used"), because "cotton is not
only soft" praises it.
"""

from collections.abc import Set

from bench.factcheck_reading import OPENERS, Known, Reading, fold

MODIFIERS = frozenset({"colour", "material", "gender", "pattern", "feature", "usage", "season", "claim"})
_NEGATORS = frozenset(
    {"not", "no", "never", "without", "neither", "nor", "hardly", "unlike", "except", "cannot", "nobody", "zero"}
    | {"lack", "lacks", "lacking", "minus", "sans", "avoid", "avoids", "skip", "skips", "barely", "scarcely"}
)
_NEGATING_PAIRS = frozenset(
    {("anything", "but"), ("everything", "but"), ("far", "from"), ("instead", "of"), ("rather", "than")}
    | {("other", "than"), ("free", "of"), ("free", "from"), ("devoid", "of"), ("fails", "to"), ("fail", "to")}
)
_IMITATORS = frozenset(
    {"pseudo", "quasi", "mock", "fake", "faux", "imitation", "simulated", "ersatz", "artificial", "supposedly"}
    | {"allegedly", "seemingly", "almost", "nearly", "resembles", "resembling", "mimics", "mimicking", "imitates"}
    | {"imitating", "imitated", "evokes"}
)
_IMITATING_PAIRS = frozenset(
    {(verb, "like") for verb in ("look", "looks", "looking", "feel", "feels", "feeling", "seem", "seems", "just")}
    | {("so", "called"), ("inspired", "by"), ("reminiscent", "of"), ("similar", "to"), ("passes", "for")}
)
# "Cotton-feel", "cotton look": not cotton. "Cotton feels good" and "cotton like no other" are.
_IMITATING_AFTER = frozenset({"feel", "look", "effect", "imitation", "substitute", "lookalike", "alternative", "ish"})
_LIKE_WHAT = frozenset({"no", "none", "never", "nothing", "you", "this", "that", "these", "it", "a", "an", "the"})
# What may stand between a negator and what it negates: "not made of cotton", but not "never worry about cotton".
_LINKS = frozenset(
    {"a", "an", "the", "in", "of", "from", "for", "at", "with", "by", "any", "it", "this", "these", "really", "quite"}
    | {"actually", "exactly", "is", "are", "be", "being", "made", "cut", "crafted", "woven", "knitted", "available"}
    | {"sold", "offered", "offer", "offers", "contain", "contains", "use", "uses", "have", "has", "include", "come"}
    | {"comes", "cost", "costs", "priced", "suitable", "suited", "designed", "meant", "intended", "size", "sized"}
    | {"real", "genuine"}
)
# "Nobody would ever call these jeans blue": a negator anywhere before such a verb denies what is called so after it.
_CALLING = frozenset(
    {"call", "called", "calls", "describe", "described", "consider", "considered", "label", "labelled", "labeled"}
    | {"qualify", "qualifies", "deem", "deemed", "classed", "termed"}
)
_BEING = frozenset(
    {"is", "are", "was", "were", "has", "have", "had", "been", "be", "being", "got", "does", "do", "did"}
)
_NOT = frozenset({"not", "no", "never", "hardly", "nowhere", "neither"})
# What a product has not if it "is not ...": "cotton is not used", "blue is not their colour".
_HAVING = frozenset(
    {"used", "use", "included", "present", "found", "involved", "contained", "part", "here", "it", "what", "among"}
    | {"colour", "color", "shade", "tone", "hue", "material", "fabric", "pattern", "theirs", "offered", "available"}
)
_GONE = frozenset(
    {"missing", "absent", "avoided", "excluded", "omitted", "replaced", "banned", "lacking", "out", "removed"}
    | {"dropped", "swapped", "imitated", "gone", "nowhere"}
)
_PREDICATED = frozenset({"colour", "material", "pattern", "feature", "claim", "season", "size"})
_PREDICATE_REACH = 6


def denial(known: Known, reading: Reading, start: int, end: int) -> str:
    """How the text takes back tokens[start:end]: "negated", "imitated", or "" for not at all."""
    hit = reading.hit_from.get(start)
    attribute = hit.entry.attribute if hit is not None else ""
    if _is_governed(known, reading, start, _NEGATORS, _NEGATING_PAIRS) or _is_disowned(reading, start):
        return "negated"
    if reading.word(end) == "free" and "free" not in known.words:
        return "negated"
    if attribute in _PREDICATED and _is_denied_behind(reading, end):
        return "negated"
    imitated = _is_governed(known, reading, start, _IMITATORS, _IMITATING_PAIRS)
    if imitated or (attribute == "material" and _is_imitated_behind(reading, end)):
        return "imitated"
    return "imitated" if attribute == "colour" and reading.word(end) == "ish" else ""


def _is_governed(known: Known, reading: Reading, start: int, words: Set[str], pairs: Set[tuple[str, str]]) -> bool:
    """Whether one of the words or pairs governs the token at start through linking words and other hits alone."""
    at = start - 1
    while at >= 0:
        word = reading.word(at)
        governs = (
            word in words or (words is _NEGATORS and word.endswith("n't")) or (reading.word(at - 1), word) in pairs
        )
        if governs and fold(word) not in known.words:
            return True
        modifier = reading.hit_upto.get(at + 1)
        if modifier is not None and modifier.entry.attribute in MODIFIERS:
            at = modifier.start - 1
        elif word in _LINKS:
            at -= 1
        else:
            return False
    return False


def _clause_before(reading: Reading, start: int) -> list[str]:
    first = start
    while first > 0 and not reading.tokens[first].opens:
        first -= 1
    return [token.text for token in reading.tokens[first:start]]


def _clause_behind(reading: Reading, end: int) -> list[str]:
    behind = []
    for token in reading.tokens[end:]:
        if token.raw in OPENERS or token.raw == ",":
            break
        behind.append(token.text)
    return behind


def _is_disowned(reading: Reading, start: int) -> bool:
    """Whether the clause says that nobody calls it so."""
    before = _clause_before(reading, start)
    calls = [at for at, word in enumerate(before) if word in _CALLING]
    return bool(calls) and any(_negates(word) for word in before[: calls[-1]])


def _negates(word: str) -> bool:
    return word in _NEGATORS or word == "none" or word.endswith("n't")


def _is_denied_behind(reading: Reading, end: int) -> bool:
    """Whether what follows says that the product is without it: "was left out", "is not used at all", "? Not here."."""
    if reading.word(end) == "?" and reading.word(end + 1) in {"no", "not", "nope", "never"}:
        return reading.word(end + 2) not in {"just", "only", "because"}
    behind = _clause_behind(reading, end)[:_PREDICATE_REACH]
    if not behind or not (behind[0] in _BEING or behind[0].endswith("n't")):
        return False
    verbs = [at for at, word in enumerate(behind) if word in _BEING or word.endswith("n't")]
    rest = behind[verbs[-1] + 1 :] if verbs[-1] < len(behind) - 1 else []
    negated = any(word in _NOT or word.endswith("n't") for word in behind)
    if negated:
        return not _HAVING.isdisjoint(rest) and not {"only", "just"} & set(rest)
    left = {"left", "ruled", "kept"} & set(rest[:2])
    return (bool(left) and "out" in rest[:3]) or not (_GONE - {"out"}).isdisjoint(rest[:2])


def _is_imitated_behind(reading: Reading, end: int) -> bool:
    word, then = reading.word(end), reading.word(end + 1)
    if word in _BEING and then in _IMITATORS:
        return True
    return word in _IMITATING_AFTER or (word == "like" and then not in _LIKE_WHAT)
