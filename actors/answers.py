"""What every HTTP API of ours shares: bodies of limited size, JSON answers, and the one form of an error."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import ErrorBody, InvalidRequest, NotFound
from engine.request import AssetId

BODY_BYTES_MAX = 64 * 1024


class ErrorAnswer(msgspec.Struct, frozen=True):
    """What went wrong: its code, what was wrong, where, and what to do."""

    error: ErrorBody


async def read_body(request: Request, num_bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The body, if it is not larger than we take; a larger one is not read to its end."""
    chunks, num_bytes = [], 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > num_bytes_max:
            raise InvalidRequest(
                f"the body has more than {num_bytes_max} bytes",
                where="body",
                fix="Send less at once.",
            )
        chunks.append(chunk)
    return b"".join(chunks)


def json(data: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(data), status_code, headers, media_type="application/json")


def checked_id(text: str, what: str = "asset") -> str:
    """The id of an asset, or of what else, in a path."""
    try:
        return msgspec.convert(text, AssetId)
    except msgspec.ValidationError as error:
        raise NotFound(
            f"{text[:64]!r} is no {what} id", where=f"{what}_id", fix="Use the 32 hex digits that a request returned."
        ) from error
