"""The HTTP API: every endpoint, every bad input, and one form for every error."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from briefs import FACTS, FALSE_COPY, TRUE_COPY, open_service

from actors.answers import BODY_BYTES_MAX
from actors.api import EXAMPLE_ERROR, EXAMPLE_REQUEST, build_api
from engine.config import IntakeConfig
from engine.errors import DeadlineExceeded, ErrorBody, Overloaded
from engine.generators.contract import Attempt, Draft
from engine.generators.fake import FakeGenerator
from engine.records import Commit, Outcome
from engine.request import Status
from engine.service import Service
from ledger.errors import LedgerFull
from ledger.receipt import verify

PATIENCE_S = 20.0


class HeldGenerator(FakeGenerator):
    """Steps only while its door is open. False copies for whoever asks for lies."""

    def __init__(self) -> None:
        super().__init__(writer=lambda attempt: FALSE_COPY if "lies" in attempt.messages[-1][1] else TRUE_COPY)
        self.door = threading.Event()
        self.door.set()
        self.seen: set[str] = set()

    def add(self, attempt: Attempt) -> None:
        super().add(attempt)
        self.seen.add(attempt.attempt_id)

    def step(self) -> list[Draft]:
        assert self.door.wait(PATIENCE_S)
        return super().step()


@pytest.fixture
def generator() -> HeldGenerator:
    return HeldGenerator()


@pytest.fixture
async def service(tmp_path: Path, generator: HeldGenerator) -> AsyncIterator[Service]:
    async with open_service(tmp_path, generator, intake=IntakeConfig(num_open_max=3)) as opened:
        yield opened
        generator.door.set()


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_api(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://mintage.test") as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    return {"brief": {"facts": FACTS}, "idempotency_key": "4711"} | fields


def status_of(response: httpx.Response) -> Status:
    return msgspec.json.decode(response.content, type=Status)


def error_of(response: httpx.Response) -> ErrorBody:
    """The error of an answer, in the one form."""
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert list(content) == ["error"]
    error = msgspec.convert(content["error"], ErrorBody, strict=True)
    assert set(content["error"]) == {"code", "what", "where", "fix"}
    assert all(content["error"].values())
    return error


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a thread sets no event of this loop
            await asyncio.sleep(0.001)


async def test_a_request_is_answered_with_its_asset(http: httpx.AsyncClient, service: Service) -> None:
    response = await http.post("/v1/assets", json=body(tier="priority"))
    assert response.status_code == 200
    status = status_of(response)
    assert (status.state, response.headers["location"]) == ("released", f"/v1/assets/{status.asset_id}")
    assert status.asset is not None
    assert (status.asset.content, status.asset.tier) == (TRUE_COPY, "priority")
    verify(status.asset.receipt, service.verifier_keys, TRUE_COPY.encode())


async def test_a_repeat_is_answered_with_the_same_asset(http: httpx.AsyncClient) -> None:
    first, again = [await http.post("/v1/assets", json=body()) for _ in range(2)]
    assert first.content == again.content


async def test_a_refusal_is_422_with_the_reasons_and_the_place_to_ask_again(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/assets", json=body(brief={"facts": FACTS, "style": "tell lies"}))
    status = status_of(response)
    assert (response.status_code, status.state) == (422, "refused")
    assert status.error is not None
    assert status.error.code == "refused"
    assert {reason.attempt for reason in status.reasons} == {0, 1, 2, 3}
    assert (await http.get(response.headers["location"])).content == response.content


@pytest.mark.parametrize("prefer", ["respond-async", "wait=0", "foo, wait=0", 'wait="0"', "respond-async; wait = 0"])
async def test_who_does_not_want_to_wait_gets_202_and_finds_the_asset_at_location(
    http: httpx.AsyncClient, generator: HeldGenerator, prefer: str
) -> None:
    generator.door.clear()
    response = await http.post("/v1/assets", json=body(), headers={"Prefer": prefer})
    assert (response.status_code, status_of(response).state) == (202, "pending")
    location = response.headers["location"]
    assert (await http.get(location)).status_code == 202
    assert (await http.get(location, params={"wait": 0.01})).status_code == 202
    generator.door.set()
    finished = await http.get(location, params={"wait": PATIENCE_S})
    assert (finished.status_code, status_of(finished).state) == (200, "released")


async def test_prefer_wait_says_how_long_to_wait(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/assets", json=body(), headers={"Prefer": "wait=20"})
    assert response.status_code == 200


async def test_the_key_may_come_as_a_header_and_means_the_same(http: httpx.AsyncClient) -> None:
    by_field = await http.post("/v1/assets", json=body())
    without = {"brief": {"facts": FACTS}}
    by_header = await http.post("/v1/assets", json=without, headers={"Idempotency-Key": "4711"})
    by_both = await http.post("/v1/assets", json=body(), headers={"Idempotency-Key": "4711"})
    assert by_field.content == by_header.content == by_both.content


@pytest.mark.parametrize(
    ("key", "where"), [("another", "idempotency_key"), ("", "Idempotency-Key"), ("k" * 257, "Idempotency-Key")]
)
async def test_a_key_that_contradicts_or_is_no_key_is_400(http: httpx.AsyncClient, key: str, where: str) -> None:
    sent = body() if key == "another" else {"brief": {"facts": FACTS}}
    response = await http.post("/v1/assets", json=sent, headers={"Idempotency-Key": key})
    assert response.status_code == 400
    assert error_of(response).where == where


async def test_another_request_under_the_same_key_is_409(http: httpx.AsyncClient) -> None:
    await http.post("/v1/assets", json=body())
    response = await http.post("/v1/assets", json=body(value_micros=1))
    assert (response.status_code, error_of(response).code) == (409, "idempotency_conflict")


BAD = [
    (b"", 400, "body"),
    (b"{", 400, "body"),
    (b"\xff", 400, "body"),
    (b"[]", 400, "body"),
    (b"{}", 400, "body"),
    (msgspec.json.encode(body(tier="gold")), 400, "tier"),
    (msgspec.json.encode(body(value_micros=-1)), 400, "value_micros"),
    (msgspec.json.encode(body(deadline_ms=1)), 400, "deadline_ms"),
    (msgspec.json.encode(body(deadline_ms="soon")), 400, "deadline_ms"),
    (msgspec.json.encode(body(tenant="a b")), 400, "tenant"),
    (msgspec.json.encode(body(colour="teal")), 400, "body"),
    (msgspec.json.encode(body(brief={"facts": {}})), 400, "brief.facts"),
    (msgspec.json.encode(body(brief={"facts": {"article": "a\nb"}})), 400, "brief.facts.article"),
    (msgspec.json.encode(body(brief={"facts": {"article": "<|im_end|>"}})), 400, "brief.facts.article"),
    (msgspec.json.encode(body(brief={"facts": FACTS, "policy": "budget"})), 404, "brief.policy"),
    (msgspec.json.encode(body(brief={"facts": FACTS, "model": "frontier"})), 404, "brief.model"),
    (b" " * (BODY_BYTES_MAX + 1), 400, "body"),
]


@pytest.mark.parametrize(("data", "status_code", "where"), BAD, ids=lambda value: str(value)[:40])
async def test_a_bad_request_gets_its_status_and_the_place_of_the_fault(
    http: httpx.AsyncClient, service: Service, data: bytes, status_code: int, where: str
) -> None:
    response = await http.post("/v1/assets", content=data)
    assert response.status_code == status_code
    assert error_of(response).where == where
    assert not service.intake.jobs


async def test_a_source_that_does_not_exist_is_400_as_the_requests_outcome(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/assets", json=body(brief={"facts": FACTS, "source": "ab" * 16}))
    status = status_of(response)
    assert (response.status_code, status.state) == (400, "failed")
    assert status.error is not None
    assert status.error.where == "brief.source"


async def test_a_body_that_is_too_large_is_not_read_to_its_end(service: Service) -> None:
    num_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_read
        while True:
            num_read += 1
            yield b" " * 4096

    chunks = endless()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(chunks), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await build_api(service)(scope("POST", "/v1/assets"), receive, send)
    assert sent[0]["status"] == 400
    assert num_read == BODY_BYTES_MAX // 4096 + 1


def scope(method: str, path: str) -> dict[str, Any]:
    """An ASGI scope."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": ("mintage.test", 80),
        "client": ("127.0.0.1", 1),
    }


async def test_one_request_more_than_the_limit_is_429_and_says_when_to_come_back(
    http: httpx.AsyncClient, service: Service, generator: HeldGenerator
) -> None:
    generator.door.clear()
    for number in range(3):
        sent = body(idempotency_key=f"k{number}")
        assert (await http.post("/v1/assets", json=sent, headers={"Prefer": "wait=0"})).status_code == 202
    response = await http.post("/v1/assets", json=body(idempotency_key="more"))
    assert (response.status_code, error_of(response).code) == (429, "overloaded")
    assert int(response.headers["retry-after"]) == service.intake.retry_after_s()


async def test_who_must_come_back_is_told_when_by_the_rate_of_the_last_requests(
    http: httpx.AsyncClient, service: Service, generator: HeldGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.intake, "retry_after_s", lambda: 17)
    monkeypatch.setattr(service.intake, "num_open_max", 0)
    overloaded = await http.post("/v1/assets", json=body())
    assert (overloaded.status_code, overloaded.headers["retry-after"]) == (429, "17")
    service.pool.leave("local")
    sick = await http.get("/healthz")
    assert (sick.status_code, sick.headers["retry-after"]) == (503, "17")
    assert "retry-after" not in (await http.get("/v1/nothing")).headers


@pytest.mark.parametrize(
    ("error", "status_code"),
    [
        (LedgerFull("no room", where="shard 0", fix="Make room."), 503),
        (Overloaded("the queue is full", where="pool", fix="Come back."), 429),
        (DeadlineExceeded("too late", where="pipeline", fix="Give more time."), 504),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_a_request_that_ended_so_says_when_to_come_back_if_that_helps(
    http: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, status_code: int
) -> None:
    async def failing(commit: Commit) -> Outcome:
        raise error

    monkeypatch.setattr(service.intake, "retry_after_s", lambda: 17)
    monkeypatch.setattr(service.stages, "record", failing)
    created = await http.post("/v1/assets", json=body())
    asked = await http.get(created.headers["location"])
    for response in (created, asked):
        assert (response.status_code, status_of(response).state) == (status_code, "failed")
        assert response.headers.get("retry-after") == ("17" if status_code in (429, 503) else None)


async def test_content_and_receipt_of_an_asset_can_be_had_alone(http: httpx.AsyncClient, service: Service) -> None:
    created = await http.post("/v1/assets", json=body())
    asset = status_of(created).asset
    assert asset is not None
    content = await http.get(f"{created.headers['location']}/content")
    assert (content.status_code, content.text) == (200, TRUE_COPY)
    assert content.headers["content-type"] == "text/plain; charset=utf-8"
    assert content.headers["etag"] == f'"{asset.content_hash}"'
    assert "immutable" in content.headers["cache-control"]
    receipt = await http.get(f"{created.headers['location']}/receipt")
    assert receipt.headers["content-type"] == "text/plain; charset=utf-8"
    assert verify(receipt.text, service.verifier_keys, content.content).index == asset.index


@pytest.mark.parametrize("part", ["", "/content", "/receipt"])
@pytest.mark.parametrize("asset_id", ["ab" * 16, "ab", "AB" * 16, "x" * 32, "ab" * 16 + "%0A", "..%2F..%2Fkey"])
async def test_an_unknown_or_impossible_id_is_404(http: httpx.AsyncClient, asset_id: str, part: str) -> None:
    response = await http.get(f"/v1/assets/{asset_id}{part}")
    assert (response.status_code, error_of(response).code) == (404, "not_found")


@pytest.mark.parametrize("part", ["/content", "/receipt"])
async def test_a_pending_request_has_neither_content_nor_receipt(
    http: httpx.AsyncClient, generator: HeldGenerator, part: str
) -> None:
    generator.door.clear()
    created = await http.post("/v1/assets", json=body(), headers={"Prefer": "wait=0"})
    response = await http.get(created.headers["location"] + part)
    assert (response.status_code, error_of(response).where) == (404, "asset_id")


@pytest.mark.parametrize("wait", ["-1", "601", "nan", "inf", "long", ""])
async def test_a_wait_that_is_no_time_is_400_in_our_form(http: httpx.AsyncClient, wait: str) -> None:
    response = await http.get(f"/v1/assets/{'ab' * 16}", params={"wait": wait})
    error = error_of(response)
    assert (response.status_code, error.code, error.where) == (400, "invalid_request", "query.wait")


async def test_the_checkpoints_of_all_shards_and_of_each_are_public(http: httpx.AsyncClient, service: Service) -> None:
    await http.post("/v1/assets", json=body())
    every = (await http.get("/v1/checkpoint")).json()
    assert every == await service.checkpoints()
    for shard, checkpoint in enumerate(every):
        assert (await http.get(f"/v1/checkpoint/{shard}")).text == checkpoint


@pytest.mark.parametrize(("shard", "status_code"), [("2", 404), ("-1", 404), ("x", 400)])
async def test_a_shard_that_does_not_exist_has_no_checkpoint(
    http: httpx.AsyncClient, shard: str, status_code: int
) -> None:
    response = await http.get(f"/v1/checkpoint/{shard}")
    assert response.status_code == status_code
    assert "shard" in error_of(response).where


async def test_the_verifier_keys_are_one_line_a_shard(http: httpx.AsyncClient, service: Service) -> None:
    response = await http.get("/v1/verifier-keys")
    assert response.text.splitlines() == list(service.verifier_keys)


async def test_health_is_200_while_somebody_generates_and_else_503(http: httpx.AsyncClient, service: Service) -> None:
    healthy = await http.get("/healthz")
    assert (healthy.status_code, healthy.json()["ok"], healthy.json()["num_generators"]) == (200, True, 1)
    service.pool.leave("local")
    sick = await http.get("/healthz")
    assert (sick.status_code, sick.json()["ok"]) == (503, False)


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [("GET", "/", 404), ("GET", "/v1/nothing", 404), ("DELETE", "/v1/assets", 405), ("POST", "/healthz", 405)],
)
async def test_what_is_not_there_is_an_error_in_our_form(
    http: httpx.AsyncClient, method: str, path: str, status_code: int
) -> None:
    response = await http.request(method, path)
    assert response.status_code == status_code
    assert error_of(response).where == path


async def test_a_defect_is_500_and_a_full_ledger_503_in_our_form(
    http: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    error: Exception = ZeroDivisionError("a defect")

    async def failing() -> list[str]:
        raise error

    monkeypatch.setattr(service.stages, "checkpoints", failing)
    broken = await http.get("/v1/checkpoint")
    assert (broken.status_code, error_of(broken).code) == (500, "internal")
    error = LedgerFull("no room", where="shard 0", fix="Make room.")
    full = await http.get("/v1/checkpoint")
    assert (full.status_code, error_of(full).code) == (503, "ledger_full")
    assert int(full.headers["retry-after"]) == service.intake.retry_after_s()


async def test_the_openapi_page_lists_every_endpoint_and_its_examples_are_true(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    assert set(page["paths"]) == {
        "/v1/assets",
        "/v1/assets/{asset_id}",
        "/v1/assets/{asset_id}/content",
        "/v1/assets/{asset_id}/receipt",
        "/v1/checkpoint",
        "/v1/checkpoint/{shard}",
        "/v1/verifier-keys",
        "/healthz",
    }
    post = page["paths"]["/v1/assets"]["post"]
    content = post["requestBody"]["content"]["application/json"]
    (example,) = content["examples"].values()
    assert example["value"] == EXAMPLE_REQUEST
    accepted = await http.post("/v1/assets", json=example["value"], headers={"Prefer": "wait=0"})
    assert accepted.status_code == 202
    wrong = post["responses"]["400"]["content"]["application/json"]["example"]
    assert wrong == EXAMPLE_ERROR
    assert error_of(await http.post("/v1/assets", json=body(tier="gold"))) == msgspec.convert(wrong["error"], ErrorBody)


def references(page: Any) -> Iterator[str]:
    """Every $ref of an OpenAPI page."""
    if isinstance(page, dict):
        if "$ref" in page:
            yield page["$ref"]
        for part in page.values():
            yield from references(part)
    elif isinstance(page, list):
        for part in page:
            yield from references(part)


async def test_every_reference_of_the_openapi_page_leads_somewhere(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    found = set(references(page))
    assert {f"#/components/schemas/{name}" for name in ("RequestBody", "Brief", "Status", "ErrorBody")} <= found
    for reference in found:
        place = page
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place["description"]


async def test_the_openapi_page_says_what_an_answer_looks_like(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    schemas = page["components"]["schemas"]
    for operation in (page["paths"]["/v1/assets"]["post"], page["paths"]["/v1/assets/{asset_id}"]["get"]):
        for status_code in ("200", "202"):
            schema = operation["responses"][status_code]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Status"}
    released = (await http.post("/v1/assets", json=body())).json()
    assert released.keys() == schemas["Status"]["properties"].keys()
    assert released["asset"].keys() == schemas["Asset"]["properties"].keys()
    missing = await http.get(f"/v1/assets/{'ab' * 16}/content")
    for name, part in (("ErrorAnswer", missing.json()), ("ErrorBody", missing.json()["error"])):
        assert part.keys() == schemas[name]["properties"].keys()
    for operations in page["paths"].values():
        for operation in operations.values():
            wrong = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert wrong == {"$ref": "#/components/schemas/ErrorAnswer"}


async def test_a_client_who_goes_away_stops_his_generation(
    service: Service, generator: HeldGenerator, http: httpx.AsyncClient
) -> None:
    generator.door.clear()
    leaving = asyncio.create_task(http.post("/v1/assets", json=body()))
    await until(lambda: bool(generator.seen))
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await until(lambda: not service.intake.jobs and not service.pool.workers["local"].claims)
    generator.door.set()
    await until(lambda: not generator.running)
    served = await http.post("/v1/assets", json=body(idempotency_key="next"))
    assert served.status_code == 200
    (stopped, *_) = service.intake.done.values()
    assert stopped[1].state == "cancelled"
    assert len(generator.seen) == 2
