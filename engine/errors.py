"""The named errors: each says what was wrong, where, and what to do; HTTP, Python and the CLI show the same fields.

`ledger` and `gate` raise errors of the same shape of their own (`LedgerError`, `PolicyError`); `describe` turns any of
them into one `ErrorBody`, so that no caller needs to know which package an error came from.
"""

from typing import ClassVar

import msgspec

from ledger.errors import LedgerBusy


class ErrorBody(msgspec.Struct, frozen=True):
    """An error as data: what crosses processes, HTTP and the terminal."""

    code: str
    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code} at {self.where}: {self.what}. {self.fix}"


class MintageError(Exception):
    """The root of the engine's own errors.

    Args:
        what: what was wrong, one clause without a full stop.
        where: the field, file or stage at fault.
        fix: what the caller can do about it, a full sentence.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(what, where, fix)
        self.body = ErrorBody(self.code, what, where, fix)

    def __str__(self) -> str:
        return str(self.body)

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild, (self.body,)


class InvalidRequest(MintageError):
    """The request cannot be understood or breaks a rule; nothing was started."""

    code = "invalid_request"
    http_status = 400


class IdempotencyConflict(MintageError):
    """The idempotency key was used before with another body."""

    code = "idempotency_conflict"
    http_status = 409


class NotFound(MintageError):
    """No such asset, policy or model."""

    code = "not_found"
    http_status = 404


class Refused(MintageError):
    """The gate rejected every try; `what` says why the last one, `reasons` (engine.request.Reason) why each."""

    code = "refused"
    http_status = 422
    reasons: tuple[object, ...] = ()


class DeadlineExceeded(MintageError):
    """The deadline passed before an asset could be released."""

    code = "deadline_exceeded"
    http_status = 504


class Cancelled(MintageError):
    """Everybody who waited for the asset went away, or asked to stop."""

    code = "cancelled"
    http_status = 499


class Overloaded(MintageError):
    """The queue is full; try again later."""

    code = "overloaded"
    http_status = 429


class Unavailable(MintageError):
    """A part of the engine cannot serve now; nothing acknowledged is lost."""

    code = "unavailable"
    http_status = 503


class StartFailed(MintageError):
    """The engine cannot start: port, cache, model or configuration."""

    code = "start_failed"
    http_status = 500


BY_CODE: dict[str, type[MintageError]] = {
    cls.code: cls
    for cls in (
        InvalidRequest,
        IdempotencyConflict,
        NotFound,
        Refused,
        DeadlineExceeded,
        Cancelled,
        Overloaded,
        Unavailable,
        StartFailed,
        MintageError,
    )
}

# Codes of the ledger's own errors that pass when somebody makes room, lets us write, or another process ends.
RETRY_LATER = frozenset({"not_written", "ledger_full", "ledger_read_only", "ledger_locked"})


def describe(error: BaseException) -> ErrorBody:
    """The four fields of any error; one that is not ours is `internal` and names its type."""
    body = getattr(error, "body", None)
    if isinstance(body, ErrorBody):
        return body
    if all(isinstance(getattr(error, name, None), str) for name in ("code", "what", "where", "fix")):
        return ErrorBody(error.code, error.what, error.where, error.fix)  # type: ignore[attr-defined]
    return ErrorBody(
        "internal",
        f"{type(error).__name__}: {error}",
        "engine",
        "This is a defect of Mintage: please report it with the log.",
    )


def kind_of(code: str) -> type[MintageError]:
    """The class that an error's code stands for, also a code of the ledger or the gate."""
    if code == LedgerBusy.code:
        return Overloaded
    return Unavailable if code in RETRY_LATER else BY_CODE.get(code, MintageError)


def rebuild(body: ErrorBody) -> MintageError:
    """The exception for an error body that came over a wire. A code of another package keeps its body, in the class of
    the engine's that says whether to try again."""
    error = kind_of(body.code)(body.what, where=body.where, fix=body.fix)
    error.body = body
    return error


def http_status(body: ErrorBody) -> int:
    """The HTTP status of an error's code."""
    return kind_of(body.code).http_status
