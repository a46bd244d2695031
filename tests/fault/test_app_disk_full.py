"""A disk that is full under a serving engine: refused by name, nothing acknowledged lost, and it goes on by itself."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from briefs import FACTS, MODEL, TRUE_COPY, open_service, request, small_config

from actors.api import build_api
from actors.hop import Answer, encode
from actors.ledger_shard import LedgerShard
from engine.generators.fake import FakeGenerator
from engine.records import Commit, Outcome
from engine.request import Asset, Status, shard_of
from engine.service import Service
from engine.tiers import TERMS, Tier
from ledger.fsck import check
from ledger.log import shard_path
from ledger.receipt import verify

NUM_BEFORE = 5
REQUESTS_MAX = 200
CHUNK_BYTES = 4096
POLICY = b'{"name": "default"}'


class TinyDisk:
    """A file system of two MiB that can be filled to its last page and emptied again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ballast = path / "ballast"

    def fill(self) -> None:
        with self.ballast.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(CHUNK_BYTES)):
                    pass
            except OSError:
                return

    def free(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TinyDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield TinyDisk(path)
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
async def service(disk: TinyDisk) -> AsyncIterator[Service]:
    async with open_service(disk.path, FakeGenerator(writer=lambda _: TRUE_COPY)) as opened:
        yield opened


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_api(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://mintage.test") as client:
        yield client


async def post(http: httpx.AsyncClient, key: str) -> tuple[int, Status]:
    """One request for a scarf: HTTP status and where it stands."""
    body: dict[str, Any] = {"brief": {"facts": FACTS}, "idempotency_key": key}
    response = await http.post("/v1/assets", json=body)
    return response.status_code, msgspec.json.decode(response.content, type=Status)


async def release(http: httpx.AsyncClient, key: str) -> Asset:
    """One request that must be released."""
    code, status = await post(http, key)
    assert (code, status.state) == (200, "released"), status.error
    assert status.asset is not None
    return status.asset


async def refused_for_room(http: httpx.AsyncClient, acknowledged: list[Asset]) -> str:
    """Go on until there is no room left in the pages the ledger has already; the key of the refused request."""
    for number in range(REQUESTS_MAX):
        key = f"until full {number}"
        code, status = await post(http, key)
        if status.asset is None:
            assert (code, status.state) == (503, "failed")
            assert status.error is not None
            assert status.error.code == "ledger_full"
            assert "No space left" in status.error.what
            assert "room" in status.error.fix.lower() or "free" in status.error.fix.lower()
            return key
        acknowledged.append(status.asset)
    raise AssertionError("the disk never became full")


async def test_a_full_disk_is_503_by_name_and_the_same_request_succeeds_once_there_is_room(
    disk: TinyDisk, service: Service, http: httpx.AsyncClient
) -> None:
    acknowledged = [await release(http, f"before {number}") for number in range(NUM_BEFORE)]
    disk.fill()
    key = await refused_for_room(http, acknowledged)
    assert (await post(http, key))[0] == 503
    for asset in acknowledged:
        found = await http.get(f"/v1/assets/{asset.asset_id}/content")
        receipt = await http.get(f"/v1/assets/{asset.asset_id}/receipt")
        verify(receipt.text, service.verifier_keys, found.content)
        assert found.text == asset.content
    disk.free()
    asset = await release(http, key)
    verify(asset.receipt, service.verifier_keys, TRUE_COPY.encode())
    assert (await release(http, key)).index == asset.index
    assert (await release(http, "before 0")).index == acknowledged[0].index


def commit(key: str) -> Commit:
    """An accepted draft on its way into the ledger."""
    asked = request(key)
    return Commit(
        asset_id=asked.asset_id,
        content=TRUE_COPY,
        request_hash=asked.body_hash,
        tenant=asked.tenant,
        value_micros=asked.value_micros,
        tier=Tier.STANDARD,
        priority=TERMS[Tier.STANDARD].priority,
        model=MODEL,
        policy_name="default",
        policy=POLICY,
        num_attempts=1,
        num_tokens=20,
        constrained=False,
        latency_ms=1,
        reasons=(),
    )


async def test_the_shard_actor_answers_every_item_of_a_batch_with_the_full_disk(disk: TinyDisk) -> None:
    actor = LedgerShard(small_config(disk.path), 0)
    keys = (f"item {number}" for number in range(REQUESTS_MAX))
    items = [item for item in map(commit, keys) if shard_of(item.asset_id, 2) == 0]

    async def commit_all(batch: list[Commit]) -> list[Outcome]:
        return outcomes(await actor.commit(encode(batch)))

    def outcomes(answer: bytes) -> list[Outcome]:
        return msgspec.msgpack.decode(msgspec.msgpack.decode(answer, type=Answer).result, type=list[Outcome])

    try:
        (first,) = await commit_all(items[:1])
        assert first.recorded is not None
        disk.fill()
        errors = [outcome.error for outcome in await commit_all(items[1:])]
        assert {error.code if error else None for error in errors} == {"ledger_full"}
        assert len(errors) == len(items) - 1
        found = outcomes(await actor.find(encode([items[0].asset_id, items[1].asset_id])))
        assert [outcome.recorded for outcome in found] == [first.recorded, None]
        disk.free()
        assert all(outcome.recorded for outcome in await commit_all(items[1:5]))
    finally:
        actor.writer.shutdown()
        actor.keeper.close()
    assert check(shard_path(disk.path / "ledger", 0)).problems == ()
