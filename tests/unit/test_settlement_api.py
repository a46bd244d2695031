"""Money and owners over HTTP: an asset is minted, sold and traced; and one form for every error."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from briefs import FACTS, NOW_MS, TRUE_COPY, open_service

from actors.api import build_api
from actors.settlement_api import BODY_BYTES_MAX, EXAMPLE_ACCOUNTS, EXAMPLE_EXCHANGE, EXAMPLE_TRANSFERS
from engine.admission import converted
from engine.errors import ErrorBody
from engine.generators.fake import FakeGenerator
from engine.money import BATCH_MAX, AccountsBody, ExchangeBody, TransfersBody, account_id
from engine.service import Service
from engine.settling import Settlement
from ledger.entry import owner_of
from ledger.note import parse_verifier_key
from ledger.receipt import verify

EUR = 978


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path, FakeGenerator(writer=lambda _: TRUE_COPY)) as opened:
        yield opened


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    settlement = Settlement(service.stages, lambda: NOW_MS * 10**6)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(build_api(service, settlement), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://mintage.test") as client:
        yield client


def error_of(response: httpx.Response) -> ErrorBody:
    return msgspec.convert(response.json()["error"], ErrorBody, strict=True)


async def post(http: httpx.AsyncClient, path: str, body: Any, status_code: int = 200) -> Any:
    response = await http.post(path, json=body)
    assert response.status_code == status_code, response.text
    return response.json()


async def get(http: httpx.AsyncClient, path: str, status_code: int = 200) -> Any:
    response = await http.get(path)
    assert response.status_code == status_code, response.text
    return response.json()


async def account(http: httpx.AsyncClient, tenant: str, limit: str = "none") -> str:
    body = {"tenant": tenant, "currency": EUR, "accounts": [{"key": "main", "limit": limit}]}
    (entered,) = (await post(http, "/v1/accounts", body))["results"]
    assert entered["result"] == "ok"
    return str(entered["id"])


async def test_an_asset_is_minted_sold_and_traced(http: httpx.AsyncClient, service: Service) -> None:
    minted = await post(http, "/v1/assets", {"brief": {"facts": FACTS}, "tenant": "acme", "idempotency_key": "1"})
    asset = minted["asset_id"]
    bank, bob = await account(http, "bank"), await account(http, "bob", "debits_within_credits")
    acme = await account(http, "acme")
    fund = {"key": "1", "debit": bank, "credit": bob, "amount": 35_000_000}
    moved = await post(http, "/v1/transfers", {"tenant": "bank", "currency": EUR, "transfers": [fund, fund]})
    assert [each["result"] for each in moved["results"]] == ["ok", "exists"]
    sale = {"key": "1", "asset": asset, "seller": "acme", "buyer": "bob", "deadline_ms": NOW_MS + 1000}
    sale |= {"price": 35_000_000, "currency": EUR, "payer": bob, "payee": acme}
    assert (await post(http, "/v1/exchanges", sale))["state"] == "settled"
    assert (await get(http, f"/v1/accounts/{acme}"))["credits_posted"] == 35_000_000
    owner = await get(http, f"/v1/assets/{asset}/owner")
    assert (owner["asset"], owner["owner"]) == (asset, owner_of("bob").hex())
    assert verify(owner["receipts"][-1], service.verifier_keys).index == owner["index"]
    told = await get(http, f"/v1/assets/{asset}/lineage")
    assert [each["kind"] for each in told["entries"]] == ["asset", "model", "policy"]
    assert (await get(http, f"/v1/assets/{asset}/lineage?way=descendants&depth=1"))["edges"] == []
    again = sale | {"key": "2", "seller": "bob", "buyer": "carol", "payer": acme, "payee": bob, "price": 36_000_000}
    assert (await post(http, "/v1/exchanges", again))["state"] == "settled", "acme may owe"


async def test_what_is_refused_is_422_with_its_exact_reason(http: httpx.AsyncClient) -> None:
    minted = await post(http, "/v1/assets", {"brief": {"facts": FACTS}, "tenant": "acme"})
    bob, acme = await account(http, "bob", "debits_within_credits"), await account(http, "acme")
    sale = {"key": "1", "asset": minted["asset_id"], "seller": "acme", "buyer": "bob", "deadline_ms": NOW_MS + 1000}
    sale |= {"price": 1, "currency": EUR, "payer": bob, "payee": acme}
    refused = await post(http, "/v1/exchanges", sale, 422)
    assert (refused["state"], refused["result"]) == ("refused", "exceeds_credits")
    conflict = await http.post("/v1/exchanges", json=sale | {"price": 2})
    assert (conflict.status_code, error_of(conflict).where) == (409, "key")


BAD_BODIES = [
    ("/v1/accounts", {"currency": EUR, "accounts": []}, "accounts"),
    ("/v1/accounts", {"currency": 0, "accounts": [{"key": "a"}]}, "currency"),
    ("/v1/accounts", {"currency": EUR, "accounts": [{"key": ""}]}, "accounts[0].key"),
    ("/v1/accounts", {"currency": EUR, "accounts": [{"key": "a", "limit": "all"}]}, "accounts[0].limit"),
    ("/v1/accounts", {"currency": EUR, "accounts": [{"key": "a", "owner": "b"}]}, "accounts[0]"),
    ("/v1/accounts", {"currency": EUR, "accounts": [{"key": str(n)} for n in range(BATCH_MAX + 1)]}, "accounts"),
    ("/v1/transfers", {"currency": EUR, "transfers": [{"key": "a", "amount": -1}]}, "transfers[0].amount"),
    ("/v1/transfers", {"currency": EUR, "transfers": [{"key": "a", "amount": 2**63}]}, "transfers[0].amount"),
    ("/v1/transfers", {"currency": EUR, "transfers": [{"key": "a", "amount": 1.5}]}, "transfers[0].amount"),
    ("/v1/transfers", {"currency": EUR, "transfers": [{"key": "a", "debit": "main"}]}, "transfers[0].debit"),
    ("/v1/transfers", {"transfers": [{"key": "a"}]}, "body"),
    ("/v1/exchanges", {"key": "a"}, "body"),
    ("/v1/exchanges", EXAMPLE_EXCHANGE | {"payer": None}, "price"),
    ("/v1/exchanges", EXAMPLE_EXCHANGE | {"deadline_ms": 2**63}, "deadline_ms"),
    ("/v1/exchanges", [], "body"),
]


@pytest.mark.parametrize(("path", "body", "where"), BAD_BODIES)
async def test_bad_input_is_400_with_its_place_and_records_nothing(
    http: httpx.AsyncClient, path: str, body: Any, where: str
) -> None:
    before = await get(http, "/v1/checkpoint")
    response = await http.post(path, json=body)
    error = error_of(response)
    assert (response.status_code, error.code, error.where) == (400, "invalid_request", where)
    assert await get(http, "/v1/checkpoint") == before


async def test_a_body_that_is_too_large_or_no_json_is_400(http: httpx.AsyncClient) -> None:
    for content in (b" " * (BODY_BYTES_MAX + 1), b"{", b"\xff"):
        response = await http.post("/v1/transfers", content=content)
        assert (response.status_code, error_of(response).where) == (400, "body")


async def test_the_largest_batch_is_one_durable_step(http: httpx.AsyncClient) -> None:
    a, b = await account(http, "a"), await account(http, "b")
    transfers = [{"key": str(n), "debit": a, "credit": b, "amount": 1, "linked": True} for n in range(BATCH_MAX - 1)]
    transfers.append({"key": "last", "debit": a, "credit": b, "amount": 1})
    moved = await post(http, "/v1/transfers", {"currency": EUR, "transfers": transfers})
    assert {each["result"] for each in moved["results"]} == {"ok"}
    assert (await get(http, f"/v1/accounts/{a}"))["debits_posted"] == BATCH_MAX


@pytest.mark.parametrize("path", ["/v1/accounts/{}", "/v1/assets/{}/owner", "/v1/assets/{}/lineage"])
@pytest.mark.parametrize("id_", ["ab" * 16, "ab", "x" * 32])
async def test_an_unknown_or_impossible_id_is_404(http: httpx.AsyncClient, path: str, id_: str) -> None:
    response = await http.get(path.format(id_))
    assert (response.status_code, error_of(response).code) == (404, "not_found")


@pytest.mark.parametrize("query", ["way=sideways", "depth=65", "depth=-1", "depth=x"])
async def test_a_question_that_is_none_is_400(http: httpx.AsyncClient, query: str) -> None:
    response = await http.get(f"/v1/assets/{'ab' * 16}/lineage?{query}")
    assert (response.status_code, error_of(response).where) == (400, f"query.{query.partition('=')[0]}")


async def test_the_super_logs_key_is_public(http: httpx.AsyncClient, tmp_path: Path) -> None:
    response = await http.get("/v1/verifier-keys/super")
    assert response.text == (tmp_path / "ledger/super/verifier.keys").read_text()
    assert parse_verifier_key(response.text.strip()).name == "mintage.test/super/shard-0"


async def test_the_examples_work_one_after_the_other_with_an_asset_and_a_deadline_of_ones_own(
    http: httpx.AsyncClient,
) -> None:
    minted = await post(http, "/v1/assets", {"brief": {"facts": FACTS}, "tenant": EXAMPLE_EXCHANGE["seller"]})
    opened = await post(http, "/v1/accounts", EXAMPLE_ACCOUNTS)
    moved = await post(http, "/v1/transfers", EXAMPLE_TRANSFERS)
    assert {each["result"] for each in opened["results"] + moved["results"]} == {"ok"}
    sale = EXAMPLE_EXCHANGE | {"asset": minted["asset_id"], "deadline_ms": NOW_MS + 1000}
    assert (await post(http, "/v1/exchanges", sale))["state"] == "settled"


async def test_the_openapi_page_has_the_endpoints_and_the_examples(http: httpx.AsyncClient) -> None:
    page = await get(http, "/openapi.json")
    kinds = {"/v1/accounts": AccountsBody, "/v1/transfers": TransfersBody, "/v1/exchanges": ExchangeBody}
    examples = {"/v1/accounts": EXAMPLE_ACCOUNTS, "/v1/transfers": EXAMPLE_TRANSFERS, "/v1/exchanges": EXAMPLE_EXCHANGE}
    for path, kind in kinds.items():
        content = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{kind.__name__}")
        assert content["example"] == examples[path]
        assert isinstance(converted(content["example"], kind), kind)
        assert page["components"]["schemas"][kind.__name__]["description"]
    assert {"/v1/accounts/{account_id}", "/v1/assets/{asset_id}/owner", "/v1/assets/{asset_id}/lineage"} <= set(
        page["paths"]
    )


def test_an_accounts_id_is_a_function_of_tenant_currency_and_key() -> None:
    ids = {account_id(tenant, currency, key) for tenant in ("a", "b") for currency in (1, 11) for key in ("1", "11")}
    assert len(ids) == 8
    assert account_id("a", 1, "1").hex() == "182e8c5ae9db59492034c4682e320812", "recorded ids are for ever"
