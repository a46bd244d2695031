"""A grammar per brief: every sentence that it derives states the brief's facts and passes the gate.

The last try at a brief decodes within such a grammar: the model still chooses, among some thousands of texts, but can
no longer choose something false. The grammar is built as a plan, a tree of sequences and alternatives; `render` writes
a plan as a Lark grammar, and `sample` draws from it, so that what the grammar derives can be tested without a model.

Turned down: a grammar that lets the model write freely between the facts. It reads better and proves nothing.

Source: the Lark dialect of llguidance (its docs/syntax.md).
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

from engine.errors import Refused
from gate.assess import assess
from gate.phrases import contains, word_set, words_of
from gate.policy import Policy
from gate.verdict import Case
from gate.vocabulary import vocabulary

CLAUSES_PER_SENTENCE_MAX = 3
POLICIES_CACHED_MAX = 64
# The built grammar is tried on a few of its own texts: facts can hold what no template foresees (a banned word, a
# character that may not be released).
SELF_CHECKS = 12


class GrammarImpossible(Refused):
    """The facts of the brief cannot be stated within its policy, by any text."""


@dataclass(frozen=True)
class Seq:
    """One part after another."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Alt:
    """Any one of the options; never empty."""

    options: tuple["Node", ...]


Node = str | Seq | Alt


@dataclass(frozen=True)
class Subject:
    """What the copy is about, and the words that must agree with it."""

    noun: str
    plural: bool
    counted: bool

    def verb(self, plural_form: str, singular_form: str) -> str:
        """The form of a verb or pronoun that agrees."""
        return plural_form if self.plural else singular_form


# Phrases without vocabulary words, numbers or claims. A policy may still ban some; those are left out of its grammars.
TONE: dict[str, tuple[str, ...]] = {
    "adjective": (
        "lovely",
        "neat",
        "fresh",
        "simple",
        "classic",
        "graceful",
        "beautiful",
        "charming",
        "pleasing",
        "modern",
    ),
    "meet": ("Meet", "Discover", "Say hello to", "Take a closer look at", "Get to know"),
    "choose": ("Choose", "Look to", "Turn to", "Reach for", "Go for"),
    "wish": ("when you want", "when you are looking for", "if you would like", "if you are after"),
    "get": ("you get", "you have", "you will find", "we bring you"),
    "opener": (
        "Good style begins with a clear idea",
        "Some things simply feel right",
        "The details make the difference",
        "A well chosen piece says a lot",
        "Good taste is often quiet",
        "Real character needs few words",
    ),
    "judgement": (
        "a good choice",
        "an easy choice",
        "a happy choice",
        "a welcome companion",
        "a fine addition",
        "a natural fit",
    ),
    "moment": ("every day", "the days ahead", "any day of the week", "good days and busy days", "your own style"),
    "closer": (
        "You will notice the care in every detail",
        "The look is clear and calm",
        "Nothing about the look is loud",
        "The style speaks for itself",
        "Each detail has its place",
        "Enjoy the look and make it your own",
    ),
}
COLOUR_NAMES = {"multi": "multicolour", "skin": "skin tone"}
USAGE_MOMENTS = {
    "casual": "casual days",
    "smart casual": "smart casual days",
    "formal": "formal days",
    "sports": "sports",
    "ethnic": "ethnic looks",
    "party": "party nights",
    "travel": "travel",
}
MASS_NOUNS = word_set(
    "swimwear shapewear innerwear nightwear lingerie luggage jewellery make-up footwear clothing homeware furniture"
) | {"lip care"}
LENGTHS = word_set("mm cm m inch inches")
VOLUMES = word_set("ml cl l litre litres")


def copy_grammar(facts: Mapping[str, str], policy: Policy) -> str:
    """A Lark grammar of product texts for a brief, each of which the gate accepts.

    Raises:
        GrammarImpossible: no text can state these facts within the policy; the error names what stands in the way.
    Cost: 13 ms (median), most of it the gate's judgement of a few samples; a second for a policy's first.
    """
    return render(copy_plan(facts, policy))


def copy_plan(facts: Mapping[str, str], policy: Policy) -> Node:
    """The same texts as a tree.

    Raises:
        GrammarImpossible: see `copy_grammar`.
    """
    plain = {key: " ".join(value.split()) for key, value in facts.items() if value.strip()}
    tone = _tone_for(policy, plain)
    wholes: list[Node] = [Seq(_spaced(sentences)) for sentences in _arrangements(plain, policy, tone)]
    fitting = [whole for whole in wholes if _fits(whole, policy)]
    fitting = fitting or [short for short in map(_shortest, wholes) if _fits(short, policy)]
    if not fitting:
        raise _impossible(
            f"its facts do not fit {policy.words.min} to {policy.words.max} words in {policy.sentences.min} to"
            f" {policy.sentences.max} sentences",
            "Widen the policy's words or sentences, or shorten the facts.",
        )
    plan = Alt(tuple(fitting))
    _self_check(plan, plain, policy)
    return plan


def render(plan: Node) -> str:
    """A plan as a Lark grammar; equal alternatives share one terminal. Cost: linear in the plan.

    Everything is terminals (upper case), so the whole text is one regular expression. As rules (lower case) each
    phrase would be a lexeme of its own, and llguidance's greedy lexer, once it has read "Meet " where "Meet me" is
    another option, no longer takes "Meet" and a space.
    """
    rules: dict[Node, str] = {}
    lines: list[str] = []

    def term(node: Node) -> str:
        if isinstance(node, str):
            return json.dumps(node, ensure_ascii=False)
        if isinstance(node, Seq):
            return " ".join(term(part) for part in node.parts)
        if node not in rules:
            options = " | ".join(term(option) for option in node.options)
            rules[node] = f"T{len(rules)}"
            lines.append(f"{rules[node]}: {options}")
        return rules[node]

    text = term(plan)
    return "\n".join(["start: TEXT", f"TEXT: {text}", *lines]) + "\n"


def sample(plan: Node, rng: random.Random) -> str:
    """One text of the plan, every alternative equally likely where it stands."""
    if isinstance(plan, str):
        return plan
    if isinstance(plan, Seq):
        return "".join(sample(part, rng) for part in plan.parts)
    return sample(rng.choice(plan.options), rng)


def num_texts(plan: Node) -> int:
    """How many derivations a plan has."""
    if isinstance(plan, str):
        return 1
    if isinstance(plan, Alt):
        return sum(num_texts(option) for option in plan.options)
    product = 1
    for part in plan.parts:
        product *= num_texts(part)
    return product


Tone = Callable[[str], Alt]


def _arrangements(facts: Mapping[str, str], policy: Policy, tone: Tone) -> Iterator[list[Node]]:
    """Whole texts as lists of sentences, in several orders; all mandatory sentences stand in each."""
    subject = _subject(facts.get("article", ""))
    first = _identity(facts, subject, tone)
    rest = [*_details(facts, policy, subject), *_required(facts, policy)]
    opener, judgement, closer = _sentence(tone("opener")), _judgement(facts, subject, tone), _sentence(tone("closer"))
    yield [first, *rest]
    yield [opener, first, *rest]
    yield [first, *rest, judgement]
    yield [first, judgement, *rest]
    yield [first, *rest, closer]
    yield [first, closer, *rest]


def _identity(facts: Mapping[str, str], subject: Subject, tone: Tone) -> Node:
    """The sentence that says what it is: name, article, colour, gender."""
    thing = _thing(facts, subject, tone)
    meet, choose, wish = tone("meet"), tone("choose"), tone("wish")
    name = facts.get("name")
    if name is None:
        return _sentence(Alt((Seq((meet, " ", thing)), Seq((subject.verb("These are ", "This is "), thing)))))
    return _sentence(
        Alt(
            (
                Seq((meet, " ", name, ", ", thing)),
                Seq((choose, " ", name, " ", wish, " ", thing)),
                Seq(("With ", name, ", ", tone("get"), " ", thing)),
            )
        )
    )


def _thing(facts: Mapping[str, str], subject: Subject, tone: Tone) -> Node:
    """ "a lovely shirt in blue for women", with its two tails in either order."""
    gender = facts.get("gender", "").lower()
    article = "a " if subject.counted and not subject.plural else ""
    unisex = "unisex " if gender == "unisex" else ""
    colour = facts.get("colour") or facts.get("color") or ""
    tails = [f"in {COLOUR_NAMES.get(colour.lower(), colour.lower())}"] if colour else []
    if gender and not unisex:
        tails.append(f"for {gender}")
    head = Seq((article, tone("adjective"), f" {unisex}{subject.noun}"))
    if not tails:
        return head
    return Seq((head, " ", Alt(tuple(" ".join(order) for order in permutations(tails)))))


def _details(facts: Mapping[str, str], policy: Policy, subject: Subject) -> list[Node]:
    """Sentences for every other fact that must be stated, a few facts each, in any order."""
    clauses = list(_clauses(facts, policy, subject))
    groups = [clauses[at : at + CLAUSES_PER_SENTENCE_MAX] for at in range(0, len(clauses), CLAUSES_PER_SENTENCE_MAX)]
    this = Alt((subject.verb("They", "It"), f"{subject.verb('These', 'This')} {subject.noun}"))
    return [
        _sentence(Seq((this, " ", Alt(tuple(_enumerated(order) for order in permutations(group)))))) for group in groups
    ]


def _clauses(facts: Mapping[str, str], policy: Policy, subject: Subject) -> Iterator[Node]:
    """One clause for each fact of the brief that the identity sentence leaves out."""
    be = subject.verb("are", "is")
    told = {"name", "article", "colour", "color", "gender"}
    for key in [*(key for key in ("material", "size", "price") if key in facts), *policy.facts.must_state]:
        if key in told or key not in facts:
            continue
        told.add(key)
        value = facts[key]
        match key:
            case "material":
                yield Alt((f"{be} made of {value}", f"{be} made from {value}", f"{be} crafted in {value}"))
            case "size":
                yield _size_clause(value, subject)
            case "price":
                yield Alt(
                    (f"{subject.verb('cost', 'costs')} {value}", f"{be} priced at {value}", f"{be} yours for {value}")
                )
            case "season":
                yield f"{subject.verb('go', 'goes')} well with {value.lower()}"
            case "usage":
                yield f"{be} meant for {value.lower()} use"
            case _:
                yield f"{subject.verb('have', 'has')} {value} as {subject.verb('their', 'its')} {key}"


def _size_clause(value: str, subject: Subject) -> Node:
    """A size in the words that fit its unit."""
    units = set(words_of(value))
    if units & LENGTHS and value[0].isdigit():
        return f"{subject.verb('measure', 'measures')} {value}"
    if units & VOLUMES and value[0].isdigit():
        return f"{subject.verb('hold', 'holds')} {value}"
    size = value if "size" in units else f"size {value}"
    return Alt((f"{subject.verb('come', 'comes')} in {size}", f"{subject.verb('are', 'is')} offered in {size}"))


def _judgement(facts: Mapping[str, str], subject: Subject, tone: Tone) -> Node:
    """A closing word, for any day or for the season and usage of the brief."""
    moments: list[Node] = [tone("moment")]
    if facts.get("season"):
        moments.append(facts["season"].lower())
    usage = USAGE_MOMENTS.get(facts.get("usage", "").lower())
    if usage:
        moments.append(usage)
    return _sentence(Seq((subject.verb("They are ", "It is "), tone("judgement"), " for ", Alt(tuple(moments)))))


def _required(facts: Mapping[str, str], policy: Policy) -> list[Node]:
    """A sentence with the policy's required terms that no fact brings along."""
    values = [words_of(value) for value in facts.values()]
    terms = [term for term in policy.required_terms if not any(contains(value, words_of(term)) for value in values)]
    return [_sentence(Seq(("Think ", _enumerated(terms))))] if terms else []


def _enumerated(parts: Sequence[Node]) -> Node:
    """ "a, b and c"."""
    joints = [", "] * (len(parts) - 2) + [" and "] if len(parts) > 1 else []
    joined: list[Node] = [parts[0]]
    for joint, part in zip(joints, parts[1:], strict=True):
        joined += [joint, part]
    return Seq(tuple(joined))


def _sentence(body: Node) -> Node:
    return Seq((body, "."))


def _spaced(sentences: Sequence[Node]) -> tuple[Node, ...]:
    """Sentences with a space between them."""
    return tuple(part for sentence in sentences for part in (" ", sentence))[1:]


def _subject(article: str) -> Subject:
    """The noun of an article fact, and its number.

    A known article takes its everyday form: one of "Shirts" is a shirt, one of "Jeans" is a pair and stays plural.
    An unknown one is repeated as it is, and is plural if it ends in -s.
    """
    words = words_of(article)
    noun, plural_only = " ".join(article.lower().split()) or "piece", False
    for readings in vocabulary().terms(words):
        for reading in readings:
            spellings = vocabulary().synonyms[reading]
            if reading.kind == "article" and any(words_of(spelling) == words for spelling in spellings):
                noun, plural_only = reading.canonical, reading.canonical in vocabulary().plural_only
    plural = plural_only or (noun.endswith("s") and not noun.endswith("ss"))
    return Subject(noun, plural, noun not in MASS_NOUNS)


def _tone_for(policy: Policy, facts: Mapping[str, str]) -> Tone:
    """The tone phrases for a brief: what the policy allows, without words that its facts use already."""
    allowed = _allowed_tone(policy)
    used = {word for value in facts.values() for word in words_of(value) if len(word) > len("with")}

    def tone(slot: str) -> Alt:
        options = tuple(phrase for phrase in allowed[slot] if used.isdisjoint(words_of(phrase)))
        if not options:
            raise _impossible(
                f"policy {policy.name!r} leaves no {slot} phrase", "Ban fewer terms, or add phrases to TONE."
            )
        return Alt(options)

    return tone


@lru_cache(maxsize=POLICIES_CACHED_MAX)
def _allowed_tone(policy: Policy) -> dict[str, tuple[str, ...]]:
    """TONE without what the policy's own gate objects to."""
    return {slot: tuple(phrase for phrase in TONE[slot] if not _objections(policy, phrase)) for slot in TONE}


def _objections(policy: Policy, phrase: str) -> bool:
    """Whether the words of a phrase, wherever they stand, break the policy."""
    verdict = assess(policy, Case({}, "", phrase, "stop", policy.name))
    return any(finding.check in ("banned", "claims", "unsupported", "numbers", "error") for finding in verdict.findings)


def _num_words(node: Node) -> tuple[int, int]:
    """The fewest and the most words of a node."""
    if isinstance(node, str):
        return len(words_of(node)), len(words_of(node))
    if isinstance(node, Seq):
        bounds = [_num_words(part) for part in node.parts]
        return sum(low for low, _ in bounds), sum(high for _, high in bounds)
    bounds = [_num_words(option) for option in node.options]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _shortest(node: Node) -> Node:
    """A node with only its shortest options."""
    if isinstance(node, str):
        return node
    if isinstance(node, Seq):
        return Seq(tuple(map(_shortest, node.parts)))
    fewest = min(_num_words(option)[0] for option in node.options)
    return Alt(tuple(_shortest(option) for option in node.options if _num_words(option)[0] == fewest))


def _fits(whole: Node, policy: Policy) -> bool:
    """Whether every text of an arrangement has as many words and sentences as the policy allows."""
    low, high = _num_words(whole)
    num_sentences = (len(whole.parts) + 1) // 2 if isinstance(whole, Seq) else 1
    within_words = policy.words.min <= low and high <= policy.words.max
    return within_words and policy.sentences.min <= num_sentences <= policy.sentences.max


def _self_check(plan: Node, facts: Mapping[str, str], policy: Policy) -> None:
    """Refuse a brief whose own facts the gate rejects, naming what it found."""
    rng = random.Random(0)  # fixed: the same brief must always be possible or never
    for _ in range(SELF_CHECKS):
        text = sample(plan, rng)
        verdict = assess(policy, Case(dict(facts), "", text, "stop", policy.name))
        if not verdict.accepted:
            found = "; ".join(f"{finding.check}: {finding.detail}" for finding in verdict.findings)
            raise _impossible(found, "Change the fact, or the rule of the policy that forbids it.")


def _impossible(what: str, fix: str) -> GrammarImpossible:
    return GrammarImpossible(f"the brief cannot be told within its policy: {what}", where="brief.facts", fix=fix)
