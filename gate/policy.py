"""Brand policies: what a brand wants its copy to be, as a YAML file that a brand manager edits.

A policy is read strictly. An unknown key, a wrong type or an impossible number is an error with its file and line;
nothing is filled in silently except the documented defaults.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from gate.errors import PolicyError
from gate.vocabulary import KINDS, Kind

POLICY_BYTES_MAX = 256 * 1024
TERMS_MAX = 1000
TERM_CHARS_MAX = 100
WORDS_MAX = 400
SENTENCES_MAX = 40
RETRIES_MAX = 10

# The vocabulary is English; another language needs a lexicon of its own before a policy may ask for it.
Language = Literal["en"]
Term = Annotated[str, msgspec.Meta(min_length=1, max_length=TERM_CHARS_MAX, pattern=r"\w")]
Terms = Annotated[tuple[Term, ...], msgspec.Meta(max_length=TERMS_MAX)]
FactKey = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The root of the parts of a policy."""


class WordRange(Strict, frozen=True):
    """How many words a copy has, both ends included."""

    min: Annotated[int, msgspec.Meta(ge=1, le=WORDS_MAX)]
    max: Annotated[int, msgspec.Meta(ge=1, le=WORDS_MAX)]

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")


class SentenceRange(Strict, frozen=True):
    """How many sentences a copy has, both ends included."""

    min: Annotated[int, msgspec.Meta(ge=1, le=SENTENCES_MAX)]
    max: Annotated[int, msgspec.Meta(ge=1, le=SENTENCES_MAX)]

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")


class FactRules(Strict, frozen=True):
    """Which facts the copy must state where the brief has them, and which kinds of word need a fact behind them.

    A fact that is not listed in `must_state` may be left out of the copy, but not be contradicted by a word of a kind
    in `may_not_contradict` or by a number (numbers always need a fact behind them). Other words of a fact are free.
    """

    must_state: tuple[FactKey, ...] = ("article", "colour", "material", "price", "size", "gender")
    may_not_contradict: tuple[Kind, ...] = KINDS


class Repetition(Strict, frozen=True):
    """No run of `words` words may stand more than `times_max` times in a copy."""

    words: Annotated[int, msgspec.Meta(ge=2, le=20)] = 4
    times_max: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1


class Retries(Strict, frozen=True):
    """How often a rejected draft is written anew: freely with a new seed, then within the grammar of its brief."""

    free: Annotated[int, msgspec.Meta(ge=0, le=RETRIES_MAX)] = 2
    constrained: Annotated[int, msgspec.Meta(ge=0, le=RETRIES_MAX)] = 1


class Policy(Strict, frozen=True):
    """A brand policy; see configs/policies/default.yaml for what each key means."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    version: Annotated[int, msgspec.Meta(ge=1)]
    words: WordRange
    sentences: SentenceRange
    tone: Annotated[str, msgspec.Meta(max_length=300)] = ""
    languages: Annotated[tuple[Language, ...], msgspec.Meta(min_length=1)] = ("en",)
    facts: FactRules = FactRules()
    banned_terms: Terms = ()
    required_terms: Annotated[tuple[Term, ...], msgspec.Meta(max_length=20)] = ()
    claims_need_evidence: Terms = ()
    repetition: Repetition = Repetition()
    retries: Retries = Retries()

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the policy's canonical JSON: comments, key order and layout of the file do not change it."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def load_policies(folder: Path) -> dict[str, Policy]:
    """All policies of a folder (`*.yaml`), by name.

    Raises:
        PolicyError: a file is wrong, two files hold policies of one name, or there is no policy at all.
    """
    policies: dict[str, Policy] = {}
    for path in sorted(folder.glob("*.yaml")):
        policy = load_policy(path)
        if policy.name in policies:
            raise PolicyError(
                "invalid_policy",
                f"the name {policy.name!r} is already taken by another file of this folder",
                where=str(path),
                fix="Give each policy a name of its own.",
            )
        policies[policy.name] = policy
    if not policies:
        raise PolicyError(
            "invalid_policy",
            "there is no policy file",
            where=str(folder),
            fix="Put at least one *.yaml policy there; configs/policies/default.yaml is a good start.",
        )
    return policies


def load_policy(path: Path) -> Policy:
    """One policy file.

    Raises:
        PolicyError: with the file and line of the first fault.
    """
    try:
        with path.open("rb") as file:
            source = file.read(POLICY_BYTES_MAX + 1)
    except OSError as error:
        raise _invalid(
            f"cannot read the file: {error.strerror}", str(path), "Check the path and its rights."
        ) from error
    if len(source) > POLICY_BYTES_MAX:
        raise _invalid(f"the file is larger than {POLICY_BYTES_MAX} bytes", str(path), "Shorten its lists of terms.")
    return parse_policy(source, str(path))


def parse_policy(source: bytes, where: str) -> Policy:
    """A policy from YAML; `where` names the source in errors."""
    root = _compose(source, where)
    for repeated, number in _repeated_keys(root):
        raise _invalid(f"the key {repeated!r} stands twice", f"{where}, line {number}", "Keep one of them.")
    try:
        loader = yaml.SafeLoader(source)
        try:
            data = loader.construct_document(root)
        finally:
            loader.dispose()
        return msgspec.convert(data, Policy)
    except yaml.constructor.ConstructorError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise _invalid(error.problem or str(error), f"{where}{line}", "Write plain text, numbers and lists.") from error
    except (ValueError, OverflowError) as error:  # msgspec.ValidationError is a ValueError
        what, number = _locate(str(error), root)
        raise _invalid(what, f"{where}, line {number}", "Compare with configs/policies/default.yaml.") from error


def _invalid(what: str, where: str, fix: str) -> PolicyError:
    return PolicyError("invalid_policy", what, where=where, fix=fix)


def _compose(source: bytes, where: str) -> yaml.Node:
    """The YAML tree with its line numbers."""
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f", line {mark.line + 1}" if mark else ""
        raise _invalid(f"not YAML: {what}", f"{where}{line}", "Mend the layout; indent with spaces.") from error
    except RecursionError as error:
        raise _invalid("nested too deeply", where, "A policy is a few flat sections.") from error
    if not isinstance(root, yaml.MappingNode):
        raise _invalid("not a policy: expected `key: value` lines", f"{where}, line 1", "Start with `name:`.")
    return root


def _repeated_keys(root: yaml.Node) -> Iterator[tuple[str, int]]:
    """Keys that stand twice in one mapping, with their line; YAML itself would keep the last silently."""
    pending, seen_nodes = [root], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if str(key.value) in seen:
                    yield str(key.value), key.start_mark.line + 1
                seen.add(str(key.value))
                pending.append(value)


def _locate(message: str, root: yaml.Node) -> tuple[str, int]:
    """The readable part and the line of an msgspec message such as "Expected `int`, got `str` - at `$.words.min`"."""
    what, _, path = message.partition(" - at `$")
    node: yaml.Node = root
    for name, index in re.findall(r"\.([^.\[`]+)|\[(\d+)\]", path):
        found = _child(node, name, index)
        if found is None:
            break
        node = found
    unknown = re.search(r"unknown field `([^`]*)`", what)
    if unknown and isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if key.value == unknown[1]:
                return f"unknown key {unknown[1]!r}", key.start_mark.line + 1
    at = path.rstrip("`").lstrip(".")
    return f"{what} for {at}" if at else what, node.start_mark.line + 1


def _child(node: yaml.Node, name: str, index: str) -> Any:
    """The node under a key or an index, None where there is none (a default was wrong, not the file)."""
    if isinstance(node, yaml.SequenceNode) and index:
        return node.value[int(index)]
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    return None
