"""What a check of a ledger found: problems as data, up to a limit, and where each of them is."""

from collections.abc import Callable

import msgspec

PROBLEMS_MAX = 1000

Tell = Callable[[str, str], None]
"""(where, what): one more problem."""

Step = Callable[[int], None]
"""(entries): so many more are done."""

At = Callable[[str], None]
"""(what): this is read next. If that is the reader's death, it is known what killed it."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """What a check saw. After `PROBLEMS_MAX` problems the rest are not listed, and `truncated` says so.

    `num_orphans`: segments of the index that belong to no run: of a merge that is under way or was cut short, or
    replaced by one and kept until its place is needed. They are no problem: nobody reads them, and the owner deletes
    them. `num_pending`: entries in write-ahead logs that are not in the store yet, and not among `num_entries`.
    `num_super`: entries of the super-log, which is not among the shards. `not_checked`: what could not be opened, which
    is damage no more than it is sound; what shards say of each other was not checked either then.
    """

    num_shards: int
    num_entries: int
    problems: tuple[Problem, ...]
    truncated: bool = False
    num_orphans: int = 0
    num_pending: int = 0
    num_super: int = 0
    not_checked: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was checked and nothing was found."""
        return not self.problems and not self.not_checked


class Findings:
    """The problems so far, up to the limit, and what was not checked."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.not_checked: list[Problem] = []
        self.truncated = False

    def add(self, where: str, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(where, what))
        else:
            self.truncated = True

    def extend(self, others: "Findings") -> None:
        """Add what somebody else has found."""
        for problem in others.problems:
            self.add(problem.where, problem.what)
        self.not_checked += others.not_checked
        self.truncated |= others.truncated

    def of(self, shard: str) -> Tell:
        """How the check of a shard tells its problems."""
        return lambda where, what: self.add(f"{shard} {where}", what)
