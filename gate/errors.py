"""The gate's one error: a policy that cannot be used. A bad text is never an error, it is a verdict."""

from typing import Literal

PolicyCode = Literal["invalid_policy", "unknown_policy"]


class PolicyError(Exception):
    """A policy file is wrong, or a case names a policy that nobody loaded.

    Args:
        what: what was wrong, one clause without a full stop.
        where: the file and line, or the field that named the policy.
        fix: what to do about it, a full sentence.
    """

    def __init__(self, code: PolicyCode, what: str, *, where: str, fix: str) -> None:
        super().__init__(code, what, where, fix)
        self.code = code
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.code} at {self.where}: {self.what}. {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.code, self.what, self.where, self.fix)


def _rebuild(code: PolicyCode, what: str, where: str, fix: str) -> PolicyError:
    """Unpickle: the constructor takes its arguments by keyword, which plain exception pickling cannot do."""
    return PolicyError(code, what, where=where, fix=fix)
