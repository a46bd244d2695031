"""The whole engine over HTTP: HAProxy, gateway, vLLM with the reference model, gate and ledger, none of them a fake."""

import asyncio
import hashlib
from typing import Any

import httpx
import msgspec
import pytest
from memory_log import MemoryLog
from running import DEADLINE_MS, RunningEngine, until

from actors.answers import BODY_BYTES_MAX
from engine.admission import asset_id
from engine.catalogue import brief_facts, load
from engine.config import CONFIGS
from engine.errors import ErrorBody
from engine.request import Asset, Status
from engine.tiers import Tier
from ledger.entry import from_bytes, owner_of
from ledger.errors import ReceiptInvalid
from ledger.note import Policy, parse_verifier_key
from ledger.receipt import verify
from ledger.tile_client import VerifiedTiles

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

NUM_BRIEFS = 24
SCARF = {"article": "Scarf", "colour": "Teal", "material": "Wool"}


def body(key: str, **fields: Any) -> dict[str, Any]:
    """A request with time enough on any machine."""
    brief = {"facts": SCARF, "policy": "quick"}
    return {"brief": brief, "idempotency_key": key, "deadline_ms": DEADLINE_MS} | fields


def status_of(response: httpx.Response) -> Status:
    return msgspec.json.decode(response.content, type=Status)


def error_of(response: httpx.Response) -> ErrorBody:
    """The error of an answer in the one form, whoever on the way made it."""
    assert response.headers["content-type"] == "application/json"
    return msgspec.convert(response.json()["error"], ErrorBody, strict=True)


@pytest.fixture
async def first(engine: RunningEngine, http: httpx.AsyncClient) -> Asset:
    """An asset that is the same for every test that asks for it."""
    return engine.released(await http.post("/v1/assets", json=body("first", brief={"facts": SCARF}, value_micros=77)))


async def test_a_brief_becomes_an_asset_whose_receipt_verifies_offline(
    engine: RunningEngine, http: httpx.AsyncClient, first: Asset
) -> None:
    asset = first
    content = await http.get(f"/v1/assets/{asset.asset_id}/content")
    assert content.text == asset.content
    assert hashlib.sha256(content.content).hexdigest() == asset.content_hash
    receipt = (await http.get(f"/v1/assets/{asset.asset_id}/receipt")).text
    proved = verify(receipt, engine.verifier_keys(), content.content)
    assert (proved.entry.id.hex(), proved.entry.amount, proved.index) == (asset.asset_id, 77, asset.index)
    assert (proved.entry.shard, len(proved.entry.parents)) == (asset.shard, 2)
    assert engine.released(await http.get(f"/v1/assets/{asset.asset_id}")).content == asset.content
    words = asset.content.lower()
    assert all(fact in words for fact in ("scarf", "teal", "wool"))


async def test_a_receipt_does_not_verify_with_another_text(engine: RunningEngine, first: Asset) -> None:
    with pytest.raises(ReceiptInvalid, match="content"):
        verify(first.receipt, engine.verifier_keys(), first.content.encode() + b" ")


def tiles_of(engine: RunningEngine, name: str, key: str) -> VerifiedTiles:
    """A log of the engine as whoever has nothing but its public key reads it."""

    def fetch(path: str) -> bytes:
        return httpx.get(f"{engine.url}/log/{name}/{path}").raise_for_status().content

    return VerifiedTiles(fetch, Policy((parse_verifier_key(key),)))


async def test_anyone_verifies_an_asset_from_the_static_files_of_its_log_and_the_public_key(
    engine: RunningEngine, http: httpx.AsyncClient, first: Asset
) -> None:
    key = engine.verifier_keys()[first.shard]
    tiles = await asyncio.to_thread(tiles_of, engine, str(first.shard), key)
    (entry,) = from_bytes(await asyncio.to_thread(tiles.read_entries, first.index, first.index + 1))
    assert entry["id"].tobytes().hex() == first.asset_id
    assert entry["content_hash"].tobytes() == hashlib.sha256(first.content.encode()).digest()
    assert (await http.get(f"/log/{first.shard}/checkpoint")).headers["cache-control"] == "no-store"
    assert error_of(await http.get(f"/log/{first.shard}/tile/9/000")).code == "not_found"
    assert error_of(await http.get("/log/7/checkpoint")).code == "not_found"


async def test_super_checkpoints_cover_every_shard_and_one_key_checks_them(
    engine: RunningEngine, http: httpx.AsyncClient, first: Asset
) -> None:
    super_key = (await http.get("/v1/verifier-keys/super")).text.strip()

    def newest_moment() -> list[tuple[int, int, bytes]]:
        """Shard, size and root of each, out of the verified tiles."""
        tiles = tiles_of(engine, "super", super_key)
        entries = from_bytes(tiles.read_entries(0, tiles.tree_size))[-2:]
        return [(int(row["code"]), int(row["amount"]), row["content_hash"].tobytes()) for row in entries]

    def is_covered() -> bool:
        return any(shard == first.shard and size > first.index for shard, size, _ in newest_moment())

    await until(is_covered, "a moment covers the asset")
    moment = await asyncio.to_thread(newest_moment)
    assert [shard for shard, _, _ in moment] == [0, 1]
    for shard, size, root in moment:
        tiles = await asyncio.to_thread(tiles_of, engine, str(shard), engine.verifier_keys()[shard])
        log = MemoryLog(await asyncio.to_thread(tiles.read_entries, 0, size))
        assert log.root(size) == root


async def test_an_asset_is_sold_for_money_and_its_lineage_is_told(
    engine: RunningEngine, http: httpx.AsyncClient, first: Asset
) -> None:
    ids = {}
    for tenant, limit in (("bank", "none"), ("bob", "debits_within_credits"), ("seller", "none")):
        opened = {"tenant": tenant, "currency": 978, "accounts": [{"key": "main", "limit": limit}]}
        (entered,) = (await http.post("/v1/accounts", json=opened)).json()["results"]
        assert entered["result"] in ("ok", "exists")
        ids[tenant] = entered["id"]
    fund = {"key": "fund", "debit": ids["bank"], "credit": ids["bob"], "amount": 100}
    moved = await http.post("/v1/transfers", json={"tenant": "bank", "currency": 978, "transfers": [fund, fund]})
    assert [each["result"] for each in moved.json()["results"]][1:] == ["exists"]
    asset = engine.released(await http.post("/v1/assets", json=body("sold"))).asset_id
    sale = {"key": "1", "asset": asset, "seller": "public", "buyer": "bob", "deadline_ms": DEADLINE_MS - 60_000}
    sale |= {"price": 100, "currency": 978, "payer": ids["bob"], "payee": ids["seller"]}
    for _ in range(2):
        sold = await http.post("/v1/exchanges", json=sale)
        assert (sold.status_code, sold.json()["state"]) == (200, "settled"), sold.text
    account = (await http.get(f"/v1/accounts/{ids['seller']}")).json()
    assert (account["credits_posted"], account["credits_pending"]) == (100, 0)
    owner = (await http.get(f"/v1/assets/{asset}/owner")).json()
    assert owner["owner"] == owner_of("bob").hex()
    assert verify(owner["receipts"][0], engine.verifier_keys()).entry.owner == owner_of("bob")
    lineage = (await http.get(f"/v1/assets/{asset}/lineage")).json()
    assert [each["kind"] for each in lineage["entries"]] == ["asset", "model", "policy"]
    assert (await http.get(f"/v1/assets/{first.asset_id}/owner")).json()["owner"] == owner_of("public").hex()


async def test_checkpoints_cover_what_was_released(http: httpx.AsyncClient, first: Asset) -> None:
    asset = first
    notes = (await http.get("/v1/checkpoint")).json()
    one = (await http.get(f"/v1/checkpoint/{asset.shard}")).text
    assert notes[asset.shard] == one
    origin, size = one.splitlines()[:2]
    assert origin.endswith(f"/shard-{asset.shard}")
    assert int(size) > asset.index
    assert error_of(await http.get("/v1/checkpoint/9")).code == "not_found"


async def test_the_api_describes_itself(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert {"/v1/assets", "/v1/assets/{asset_id}", "/v1/checkpoint", "/v1/verifier-keys", "/healthz"} <= set(paths)
    assert (await http.get("/docs")).is_success


async def test_many_briefs_of_every_tier_are_each_released_or_refused_with_reasons(
    engine: RunningEngine, http: httpx.AsyncClient
) -> None:
    products = load(CONFIGS / "catalogue.csv")[:NUM_BRIEFS]
    bodies = [
        body(product.sku, brief={"facts": brief_facts(product), "policy": "quick"}, tier=tier)
        for product, tier in zip(products, list(Tier) * (NUM_BRIEFS // len(Tier)), strict=True)
    ]
    answers = await asyncio.gather(*(http.post("/v1/assets", json=each) for each in bodies))
    statuses = [status_of(answer) for answer in answers]
    for answer, status in zip(answers, statuses, strict=True):
        if status.state == "released":
            engine.released(answer)
        else:
            assert (answer.status_code, status.state) == (422, "refused")
            assert {reason.attempt for reason in status.reasons} == {0, 1}
    assert len({status.asset_id for status in statuses}) == NUM_BRIEFS
    assets = [status.asset for status in statuses if status.asset is not None]
    assert {asset.tier for asset in assets} == set(Tier)
    assert {asset.shard for asset in assets} == {0, 1}
    rejected = [asset for asset in assets if asset.num_attempts > 1]
    assert rejected, "a model of this size writes no 24 copies without a fault"
    assert all({reason.attempt for reason in asset.reasons} == set(range(asset.num_attempts - 1)) for asset in assets)
    assert engine.health()["num_open"] == 0


async def test_repeats_of_a_request_even_at_the_same_moment_get_one_asset(
    engine: RunningEngine, http: httpx.AsyncClient
) -> None:
    same = body("repeated")
    answers = await asyncio.gather(*(http.post("/v1/assets", json=same) for _ in range(4)))
    answers.append(await http.post("/v1/assets", json=same))
    assets = [engine.released(answer) for answer in answers]
    assert len({(asset.asset_id, asset.shard, asset.index, asset.content) for asset in assets}) == 1


@pytest.mark.usefixtures("first")
async def test_a_key_that_was_used_for_another_request_is_a_conflict(http: httpx.AsyncClient) -> None:
    other = body("first", brief={"facts": SCARF | {"colour": "Red"}}, value_micros=77)
    answer = await http.post("/v1/assets", json=other)
    assert (answer.status_code, error_of(answer).where) == (409, "idempotency_key")


async def test_who_does_not_wait_gets_202_and_the_asset_at_location(
    engine: RunningEngine, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/assets", json=body("async"), headers={"Prefer": "respond-async"})
    assert (answer.status_code, status_of(answer).state) == (202, "pending")
    asset = engine.released(await http.get(f"{answer.headers['location']}?wait=200"))
    assert asset.asset_id == asset_id("public", "async")


BAD_INPUTS: list[tuple[str, bytes | dict[str, Any], int, str, str]] = [
    ("not JSON", b'{"brief": ', 400, "invalid_request", "body"),
    ("not UTF-8", b'{"brief": {"facts": {"article": "\xff"}}}', 400, "invalid_request", "body"),
    ("nothing", b"", 400, "invalid_request", "body"),
    ("a body too large", b" " * (BODY_BYTES_MAX + 1), 400, "invalid_request", "body"),
    ("an unknown field", {"brif": {}}, 400, "invalid_request", "body"),
    ("an unknown tier", {"tier": "gold"}, 400, "invalid_request", "tier"),
    ("a negative value", {"value_micros": -1}, 400, "invalid_request", "value_micros"),
    ("a deadline in the past", {"deadline_ms": 1_000}, 400, "invalid_request", "deadline_ms"),
    ("no facts", {"brief": {"facts": {}}}, 400, "invalid_request", "brief.facts"),
    ("an unknown policy", {"brief": {"facts": SCARF, "policy": "none"}}, 404, "not_found", "brief.policy"),
    ("an unknown model", {"brief": {"facts": SCARF, "model": "none"}}, 404, "not_found", "brief.model"),
    ("a source not released", {"brief": {"facts": SCARF, "source": "0" * 32}}, 400, "invalid_request", "brief.source"),
    (
        "a brief of over 8 KiB",
        {"brief": {"facts": {f"fact_{n}": "x" * 199 for n in range(45)}}},
        400,
        "invalid_request",
        "brief",
    ),
    (
        "a control character",
        {"brief": {"facts": {"article": "Scarf\u0007"}}},
        400,
        "invalid_request",
        "brief.facts.article",
    ),
]


@pytest.mark.parametrize(
    ("content", "status", "code", "where"), [row[1:] for row in BAD_INPUTS], ids=[row[0] for row in BAD_INPUTS]
)
async def test_bad_input_is_answered_with_its_place_and_opens_nothing(
    engine: RunningEngine, http: httpx.AsyncClient, content: bytes | dict[str, Any], status: int, code: str, where: str
) -> None:
    sent = content if isinstance(content, bytes) else msgspec.json.encode(body(f"bad {where}") | content)
    answer = await http.post("/v1/assets", content=sent)
    error = error_of(answer)
    assert (answer.status_code, error.code, error.where) == (status, code, where)
    assert error.what
    assert error.fix
    assert engine.health()["num_open"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 404),
        ("GET", "/v1/assets/xyz", 404),
        ("GET", f"/v1/assets/{'0' * 32}", 404),
        ("PUT", "/healthz", 405),
    ],
)
async def test_what_is_not_there_is_said_in_the_same_form(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert error_of(answer).fix


@pytest.mark.parametrize("pause_s", [None, 0.0, 0.1], ids=["in one write", "in two writes", "body after a pause"])
async def test_a_client_that_goes_away_stops_its_request(
    engine: RunningEngine, http: httpx.AsyncClient, pause_s: float | None
) -> None:
    num_drafts_before = engine.health()["num_drafts"]
    request = body(f"abandoned {pause_s}", brief={"facts": SCARF, "policy": "never"})
    client = await send(engine, request, pause_s)
    await until(lambda: engine.health()["num_open"] == 1, "the request is open")
    client.close()
    await until(lambda: engine.health()["num_open"] == 0, "the request is closed")
    answer = await http.get(f"/v1/assets/{asset_id('public', request['idempotency_key'])}")
    status = status_of(answer)
    assert status.state == "cancelled"
    assert status.error is not None
    assert status.error.code == "cancelled"
    num_drafts = engine.health()["num_drafts"]
    assert num_drafts <= num_drafts_before + 1
    # Had anything gone on without its client, it would hand in its drafts while this one is written.
    asset = engine.released(await http.post("/v1/assets", json=body(f"after the abandoned one {pause_s}")))
    assert engine.health()["num_drafts"] == num_drafts + asset.num_attempts
    assert (await http.get(f"/v1/assets/{status.asset_id}/content")).status_code == 404


async def send(engine: RunningEngine, request: dict[str, Any], pause_s: float | None) -> asyncio.StreamWriter:
    """A client that has sent a request, its body apart from its headers unless `pause_s` is None, and reads nothing."""
    data = msgspec.json.encode(request)
    head = f"POST /v1/assets HTTP/1.1\r\nHost: mintage\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    _, client = await asyncio.open_connection("127.0.0.1", engine.port)
    if pause_s is None:
        client.write(head + data)
    else:
        client.write(head)
        await client.drain()
        await asyncio.sleep(pause_s)
        client.write(data)
    await client.drain()
    return client
