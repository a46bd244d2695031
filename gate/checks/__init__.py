"""The checks, each a pure function from a policy and a draft to the details of what it found wrong."""

from collections.abc import Callable, Iterable

from gate.checks import amounts, denial, facts, form, leak, names, wording
from gate.policy import Policy
from gate.reading import Draft

Check = Callable[[Policy, Draft], Iterable[str]]

# All of them run on every draft, in this order; a verdict reports every finding.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("missing", facts.missing),
    ("unsupported", facts.unsupported),
    ("negated", denial.negated),
    ("imitated", denial.imitated),
    ("numbers", amounts.numbers),
    ("names", names.names),
    ("banned", wording.banned),
    ("required", wording.required),
    ("claims", wording.claims),
    ("language", wording.language),
    ("length", form.length),
    ("truncated", form.truncated),
    ("balanced", form.balanced),
    ("repetition", form.repetition),
    ("characters", form.characters),
    ("markup", leak.markup),
    ("chatter", leak.chatter),
    ("prompt", leak.prompt),
    ("placeholders", leak.placeholders),
    ("contacts", leak.contacts),
)
