"""A witness over HTTP: `POST /add-checkpoint` of C2SP tlog-witness, and nothing else.

200 with the cosignature line; 400 malformed or an old size above the new one; 403 not signed by the log; 404 not a log
of ours; 409 with our size (text/x.tlog.size) if the log believes another, or for a second tree of one size; 422 the
proof does not hold; 503 another request holds the log, or no room. Errors but the size are in the engine's one form.
"""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.answers import ErrorAnswer, json, read_body
from engine.errors import ErrorBody, InvalidRequest, MintageError, NotFound, describe, http_status
from ledger.errors import CheckpointRefused, LedgerError, SizeConflict
from ledger.witness import REQUEST_CHARS_MAX, Witness

ADD_CHECKPOINT = "/add-checkpoint"
BODY_BYTES_MAX = 4 * REQUEST_CHARS_MAX  # a character is at most 4 bytes
RETRY_AFTER_S = 1


def build_witness_api(witness: Witness, now_s: Callable[[], int]) -> Starlette:
    """The ASGI application of a witness.

    Args:
        now_s: Unix time in seconds.
    """

    async def add_checkpoint(request: Request) -> Response:
        body = await read_body(request, BODY_BYTES_MAX)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("the body is not UTF-8", where="body", fix="Send a request of tlog-witness.") from None
        line = await run_in_threadpool(witness.add_checkpoint, text, now_s())
        return Response(line, media_type="text/plain; charset=utf-8")

    return Starlette(
        routes=[Route(ADD_CHECKPOINT, add_checkpoint, methods=["POST"])],
        exception_handlers={
            SizeConflict: size_conflict,
            LedgerError: refused,
            MintageError: refused,
            HTTPException: routing,
            Exception: refused,
        },
    )


async def size_conflict(_: Request, error: Exception) -> Response:
    """The size to go on from, as the specification wants it."""
    assert isinstance(error, SizeConflict)
    return Response(f"{error.size}\n", 409, media_type="text/x.tlog.size")


async def refused(_: Request, error: Exception) -> Response:
    """Any other refusal or failure."""
    body = describe(error)
    status_code = error.http_status if isinstance(error, CheckpointRefused) else http_status(body)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status_code == 503 else {}
    return json(ErrorAnswer(body), status_code, headers)


async def routing(request: Request, error: Exception) -> Response:
    """No such path or method."""
    assert isinstance(error, HTTPException)
    code = NotFound.code if error.status_code == 404 else InvalidRequest.code
    body = ErrorBody(code, str(error.detail), request.url.path, f"Send a POST to {ADD_CHECKPOINT}.")
    return json(ErrorAnswer(body), error.status_code, dict(error.headers or {}))
