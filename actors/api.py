"""The HTTP API: a thin skin of FastAPI over `Service`. Imports no Ray, so tests drive it directly.

Errors always look the same: `{"error": {"code", "what", "where", "fix"}}`, with the status of the code.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from actors.answers import ErrorAnswer, checked_id, json, read_body
from actors.log_api import ReadLog, add_logs
from actors.schemas import add_schemas, schema_of
from actors.settlement_api import SCHEMAS, add_settlement
from engine.admission import RequestBody, decode
from engine.errors import ErrorBody, InvalidRequest, MintageError, NotFound, describe, http_status
from engine.request import Status
from engine.service import WAIT_S_MAX, Service
from engine.settling import Settlement

PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?")
RETRY_STATUSES = (429, 503)  # those that carry Retry-After

EXAMPLE_REQUEST = {
    "brief": {
        "facts": {"article": "Scarf", "colour": "Teal", "material": "Wool", "gender": "Women", "price": "35.00 EUR"},
        "policy": "default",
    },
    "tier": "priority",
    "value_micros": 50_000,
    "idempotency_key": "spring-catalogue/4711",
}
EXAMPLE_ERROR = {
    "error": {
        "code": "invalid_request",
        "what": "Invalid enum value 'gold' (tiers: priority, standard, flex, batch)",
        "where": "tier",
        "fix": "Send the field as the API's schema says (see /docs).",
    }
}


def build_api(
    service: Service, settlement: Settlement | None = None, logs: Mapping[str, ReadLog] | None = None
) -> FastAPI:
    """The ASGI application of a service.

    Args:
        settlement: with it, money and owners.
        logs: to be served as static resources, by name.
    """
    api = FastAPI(
        title="Mintage",
        version="1",
        description="Generated assets: judged before release, recorded in a ledger that anyone can verify.",
        responses={"default": {"description": "Any other error.", **schema_of(ErrorAnswer)}},
    )
    add_errors(api, service)
    add_assets(api, service)
    add_ledger(api, service)
    if settlement is not None:
        add_settlement(api, settlement)
    if logs:
        add_logs(api, logs)
    add_schemas(api, RequestBody, Status, ErrorAnswer, *(SCHEMAS if settlement is not None else ()))
    return api


def add_assets(api: FastAPI, service: Service) -> None:
    """Requests and assets."""

    @api.post("/v1/assets", openapi_extra=openapi_body(), responses=openapi_answers())
    async def create_asset(request: Request) -> Response:
        """Request an asset. Waits up to `Prefer: wait=N` seconds for it, else answers 202 with a URL to ask again.

        `Prefer: respond-async` does not wait. `Idempotency-Key` (or the field) makes a repeat safe. A client that goes
        away while it waits stops its request.
        """
        body = with_key(decode(await read_body(request)), request.headers.get("Idempotency-Key"))
        wait_s = prefer_wait_s(request.headers.get("Prefer", ""), service.config.http.wait_s)
        return answer(service, await service.submit(body, wait_s))

    @api.get("/v1/assets/{asset_id}", responses=openapi_answers())
    async def get_asset(asset_id: str, wait: Annotated[float, Query(ge=0, le=WAIT_S_MAX)] = 0.0) -> Response:
        """How a request stands, waiting up to `wait` seconds for it to finish."""
        return answer(service, await service.status(checked_id(asset_id), wait))

    @api.get("/v1/assets/{asset_id}/content", response_class=PlainTextResponse)
    async def get_content(asset_id: str) -> Response:
        """The content of a released asset."""
        asset = await service.asset(checked_id(asset_id))
        headers = {"ETag": f'"{asset.content_hash}"', "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(asset.content, media_type="text/plain; charset=utf-8", headers=headers)

    @api.get("/v1/assets/{asset_id}/receipt", response_class=PlainTextResponse)
    async def get_receipt(asset_id: str) -> Response:
        """The receipt of a released asset (C2SP tlog-proof): entry, inclusion proof, signed checkpoint."""
        asset = await service.asset(checked_id(asset_id))
        return Response(asset.receipt, media_type="text/plain; charset=utf-8")


def add_ledger(api: FastAPI, service: Service) -> None:
    """The ledger's public face, and health."""

    @api.get("/v1/checkpoint")
    async def get_checkpoints() -> Response:
        """The newest signed checkpoint of every shard, in order."""
        return json(await service.checkpoints())

    @api.get("/v1/checkpoint/{shard}", response_class=PlainTextResponse)
    async def get_checkpoint(shard: int) -> Response:
        """One shard's newest signed checkpoint (C2SP signed note)."""
        checkpoints = await service.checkpoints()
        if not 0 <= shard < len(checkpoints):
            raise NotFound(f"there is no shard {shard}", where="shard", fix=f"Use 0 to {len(checkpoints) - 1}.")
        return Response(checkpoints[shard], media_type="text/plain; charset=utf-8")

    @api.get("/v1/verifier-keys", response_class=PlainTextResponse)
    async def get_verifier_keys() -> Response:
        """The public keys that receipts are checked with, one line a shard: the file `mintage verify --key` reads."""
        return Response("".join(f"{key}\n" for key in service.verifier_keys), media_type="text/plain; charset=utf-8")

    @api.get("/healthz", responses={503: {"description": "Nobody can generate now; in the same form."}})
    async def get_health() -> Response:
        """200 while somebody can generate, else 503."""
        health = service.health()
        status_code = 200 if health["ok"] else 503
        return json(health, status_code, retry_after(service, status_code))


def add_errors(api: FastAPI, service: Service) -> None:
    """Every error in the one form."""

    @api.exception_handler(MintageError)
    async def ours(_: Request, error: MintageError) -> Response:
        return error_answer(service, error.body)

    @api.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        code = NotFound.code if error.status_code == 404 else InvalidRequest.code
        body = ErrorBody(code, str(error.detail), request.url.path, "See /docs for what there is.")
        return error_answer(service, body, error.status_code, dict(error.headers or {}))

    @api.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        body = InvalidRequest(first["msg"], where=where, fix="See /docs for what it takes.").body
        return error_answer(service, body)

    @api.exception_handler(Exception)
    async def other(_: Request, error: Exception) -> Response:
        return error_answer(service, describe(error))


def with_key(body: RequestBody, header: str | None) -> RequestBody:
    """The idempotency key may come as a header; if it comes twice, both must be the same."""
    if header is None:
        return body
    if body.idempotency_key not in (None, header):
        raise InvalidRequest(
            "the header Idempotency-Key and the field idempotency_key differ",
            where="idempotency_key",
            fix="Send one of them.",
        )
    if not 1 <= len(header) <= 256:
        raise InvalidRequest("the key is empty or too long", where="Idempotency-Key", fix="Send 1 to 256 characters.")
    return msgspec.structs.replace(body, idempotency_key=header)


def prefer_wait_s(prefer: str, default_s: float) -> float:
    """How long to wait, from the Prefer header (RFC 7240)."""
    wanted = PREFER_WAIT.search(prefer)
    if wanted is not None:
        return min(float(wanted[1]), WAIT_S_MAX)
    return 0.0 if "respond-async" in prefer else default_s


def answer(service: Service, status: Status) -> Response:
    """The HTTP form of a status: 200 released, 202 pending, else the error's own status."""
    headers = {"Location": f"/v1/assets/{status.asset_id}"}
    if status.error is not None:
        status_code = http_status(status.error)
        return json(status, status_code, headers | retry_after(service, status_code))
    return json(status, 202 if status.state == "pending" else 200, headers)


def error_answer(
    service: Service, body: ErrorBody, status_code: int | None = None, headers: dict[str, str] | None = None
) -> Response:
    """An error that belongs to no request."""
    status_code = status_code or http_status(body)
    return json(ErrorAnswer(body), status_code, retry_after(service, status_code) | (headers or {}))


def retry_after(service: Service, status_code: int) -> dict[str, str]:
    """The header that says in how many seconds to come back, for a status that asks to."""
    return {"Retry-After": str(service.intake.retry_after_s())} if status_code in RETRY_STATUSES else {}


def openapi_body() -> dict[str, Any]:
    """The request body for the OpenAPI page; we decode it ourselves."""
    body = schema_of(RequestBody)
    body["content"]["application/json"]["examples"] = {"product text": {"value": EXAMPLE_REQUEST}}
    return {"requestBody": {"required": True, **body}}


def openapi_answers() -> dict[int | str, dict[str, Any]]:
    """The answers about a request for the OpenAPI page. One that was let in is always answered with its status."""
    status, either = schema_of(Status), schema_of(Status, ErrorAnswer)
    wrong = schema_of(Status, ErrorAnswer)
    wrong["content"]["application/json"]["example"] = EXAMPLE_ERROR
    return {
        200: {"description": "Released: the asset with its receipt.", **status},
        202: {"description": "Still under way: ask again at Location.", **status},
        400: {"description": "The request breaks a rule.", **wrong},
        404: {"description": "Nothing has this id, or the brief names a policy or model that is not there.", **either},
        409: {"description": "The idempotency key stands for another request.", **either},
        422: {"description": "The gate refused every draft; `reasons` says why.", **status},
        429: {"description": "Too many requests are open: come back after Retry-After seconds.", **either},
        499: {"description": "Everybody who waited went away.", **status},
        503: {"description": "A part cannot serve now: come back after Retry-After seconds.", **either},
        504: {"description": "The deadline passed.", **status},
    }
