"""Money and owners over HTTP: a thin skin over `engine.settling.Settlement`.

A batch is answered with 200 once what is `ok` in it is durable; each entry has its own exact code. As with assets, a
tenant is who the request says: whatever stands before the engine has to see to that it is true.
"""

from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse

from actors.answers import checked_id, json, read_body
from actors.schemas import schema_of
from engine.admission import decoded
from engine.money import (
    AccountsBody,
    AccountStatus,
    Entered,
    ExchangeBody,
    Exchanged,
    Lineage,
    Ownership,
    TransfersBody,
    account_id,
)
from engine.settling import DEPTH_DEFAULT, Settlement, Way
from ledger.dag import DEPTH_MAX

BODY_BYTES_MAX = 1024 * 1024
STATUS_CODES = {"settled": 200, "pending": 202, "refused": 422}


class BatchAnswer(msgspec.Struct, frozen=True):
    """What became of each account or transfer, in order."""

    results: list[Entered]


SCHEMAS = (AccountsBody, TransfersBody, ExchangeBody, BatchAnswer, AccountStatus, Exchanged, Ownership, Lineage)

# One after the other they can be sent as they are, but for the asset and the deadline of the exchange.
EUR = 978
BANK, BUYER, SELLER, ARTIST = (account_id("acme", EUR, key).hex() for key in ("bank", "buyer", "seller", "artist"))
EXAMPLE_ACCOUNTS = {
    "tenant": "acme",
    "currency": EUR,
    "accounts": [
        {"key": "bank"},
        {"key": "buyer", "limit": "debits_within_credits"},
        {"key": "seller"},
        {"key": "artist"},
    ],
}
EXAMPLE_TRANSFERS = {
    "tenant": "acme",
    "currency": EUR,
    "transfers": [{"key": "deposit/17", "debit": BANK, "credit": BUYER, "amount": 35_000_000}],
}
EXAMPLE_EXCHANGE = {
    "key": "sale/1",
    "asset": "ef" * 16,
    "seller": "acme",
    "buyer": "bob",
    "deadline_ms": 1_800_000_000_000,
    "price": 35_000_000,
    "currency": EUR,
    "payer": BUYER,
    "payee": SELLER,
    "royalties": [{"payee": ARTIST, "basis_points": 500}],
}


def add_settlement(api: FastAPI, settlement: Settlement) -> None:
    """The endpoints."""
    add_money(api, settlement)
    add_owners(api, settlement)
    add_super_key(api, settlement)


def add_money(api: FastAPI, settlement: Settlement) -> None:
    """Accounts, transfers, exchanges."""
    accounts_decoder = msgspec.json.Decoder(AccountsBody)
    transfers_decoder = msgspec.json.Decoder(TransfersBody)
    exchange_decoder = msgspec.json.Decoder(ExchangeBody)

    @api.post("/v1/accounts", openapi_extra=body_of(AccountsBody, EXAMPLE_ACCOUNTS), responses=answer_of(BatchAnswer))
    async def open_accounts(request: Request) -> Response:
        """Open accounts of a tenant in one currency. Transfers and exchanges name them by the ids in the answer, which
        follow from tenant, currency and key."""
        body = decoded(await read_body(request, BODY_BYTES_MAX), accounts_decoder)
        return json(BatchAnswer(await settlement.open_accounts(body)))

    @api.get("/v1/accounts/{account_id}", responses=answer_of(AccountStatus))
    async def get_account(account_id: str) -> Response:
        """How an account stands."""
        return json(await settlement.account(checked_id(account_id, "account")))

    @api.post(
        "/v1/transfers", openapi_extra=body_of(TransfersBody, EXAMPLE_TRANSFERS), responses=answer_of(BatchAnswer)
    )
    async def transfer(request: Request) -> Response:
        """Move money in one currency, in one durable step: double entry, holds, posts, voids, linked chains.

        Each transfer has an exact result: `ok`, `exists` for a repeat, else why not. Keys make repeats safe.
        """
        body = decoded(await read_body(request, BODY_BYTES_MAX), transfers_decoder)
        return json(BatchAnswer(await settlement.transfer(body)))

    @api.post("/v1/exchanges", openapi_extra=body_of(ExchangeBody, EXAMPLE_EXCHANGE), responses=exchange_answers())
    async def exchange(request: Request) -> Response:
        """Give an asset for money, royalties included: all of it, or nothing. A repeat tells how it ended.

        The asset is one that was made for the seller, or that they bought. `deadline_ms` is Unix time, at most an hour
        from now.
        """
        body = decoded(await read_body(request, BODY_BYTES_MAX), exchange_decoder)
        exchanged = await settlement.exchange(body)
        return json(exchanged, STATUS_CODES[exchanged.state])


def add_owners(api: FastAPI, settlement: Settlement) -> None:
    """Whose an asset is, and where it comes from."""

    @api.get("/v1/assets/{asset_id}/owner", responses=answer_of(Ownership))
    async def get_owner(asset_id: str) -> Response:
        """Whose an asset is, since when, and receipts of what made it theirs."""
        return json(await settlement.owner(checked_id(asset_id)))

    @api.get("/v1/assets/{asset_id}/lineage", responses=answer_of(Lineage))
    async def get_lineage(
        asset_id: str,
        way: Annotated[Way, Query()] = "ancestors",
        depth: Annotated[int, Query(ge=0, le=DEPTH_MAX)] = DEPTH_DEFAULT,
    ) -> Response:
        """What an asset was made from (model, policy, source), or what was made from it, over all shards."""
        return json(await settlement.lineage(checked_id(asset_id), way, depth))


def add_super_key(api: FastAPI, settlement: Settlement) -> None:
    """What super-checkpoints are checked with; they themselves are at /log/super."""

    @api.get("/v1/verifier-keys/super", response_class=PlainTextResponse)
    async def get_super_key() -> Response:
        """The public key of the super-log: a chain (`mintage receipt --chain`) is checked with it alone."""
        return Response(f"{await settlement.super_key()}\n", media_type="text/plain; charset=utf-8")


def body_of(kind: type[msgspec.Struct], example: Any) -> dict[str, Any]:
    """A request body for the OpenAPI page; we decode it ourselves."""
    body = schema_of(kind)
    body["content"]["application/json"]["example"] = example
    return {"requestBody": {"required": True, **body}}


def answer_of(kind: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
    """The answer that is no error, for the OpenAPI page."""
    return {200: {"description": "Done.", **schema_of(kind)}}


def exchange_answers() -> dict[int | str, dict[str, Any]]:
    """The answers about an exchange, for the OpenAPI page."""
    body = schema_of(Exchanged)
    return {
        200: {"description": "Settled: the asset and all of the money.", **body},
        202: {"description": "Under way: send it again to learn how it ended.", **body},
        422: {"description": "Refused, and nothing has moved; `result` says why.", **body},
    }
