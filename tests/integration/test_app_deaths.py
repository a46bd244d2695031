"""Processes that die under the engine's feet, by `kill -9`: what was asked is answered, what was said stays true."""

import asyncio
import itertools
from typing import Any

import httpx
import msgspec
import pytest
from running import DEADLINE_MS, RunningEngine, until

from engine.request import Asset, Status

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

NUM_REQUESTS = 8
COLOURS = ("Teal", "Brown", "Black", "White", "Green", "Navy Blue", "Grey", "Red")


def bodies(key: str) -> list[dict[str, Any]]:
    """Requests with time enough to outlive a restart."""
    articles = itertools.cycle(("Scarf", "Boots"))
    return [
        {
            "brief": {"facts": {"article": article, "colour": colour}, "policy": "quick"},
            "tier": "flex",
            "deadline_ms": DEADLINE_MS,
            "idempotency_key": f"{key} {colour}",
        }
        for article, colour in zip(articles, COLOURS[:NUM_REQUESTS], strict=False)
    ]


def outcomes(engine: RunningEngine, answers: list[httpx.Response]) -> list[Asset | None]:
    """The asset of every answer, None where the gate refused; nothing else may have come of any."""
    states = [msgspec.json.decode(answer.content, type=Status).state for answer in answers]
    assert set(states) <= {"released", "refused"}, [answer.text for answer in answers]
    return [
        engine.released(answer) if state == "released" else None for answer, state in zip(answers, states, strict=True)
    ]


async def post_all(http: httpx.AsyncClient, requests: list[dict[str, Any]]) -> list[httpx.Response]:
    return list(await asyncio.gather(*(http.post("/v1/assets", json=request) for request in requests)))


async def test_a_generator_killed_in_the_middle_of_a_batch_loses_no_request(
    engine: RunningEngine, http: httpx.AsyncClient
) -> None:
    requests = bodies("generator")
    posted = asyncio.create_task(post_all(http, requests))
    await until(lambda: under_way(engine, NUM_REQUESTS), "the generator has claimed them all")
    killed = engine.kill_replica("Generator")
    answers = await posted
    assets = outcomes(engine, answers)
    assert any(assets)
    successor = engine.replica("Generator")
    assert successor is not None
    assert successor.pid != killed
    health = engine.health()
    assert (health["num_open"], health["num_generators"]) == (0, 1)
    assert outcomes(engine, await post_all(http, requests)) == assets


async def test_a_killed_gateway_comes_back_and_a_request_sent_again_with_its_key_gets_its_asset(
    engine: RunningEngine, http: httpx.AsyncClient
) -> None:
    before = dict(engine.acknowledged)
    requests = bodies("gateway")
    posted = asyncio.gather(*(http.post("/v1/assets", json=request) for request in requests), return_exceptions=True)
    await until(lambda: under_way(engine, NUM_REQUESTS), "the generator has claimed them all")
    killed = engine.kill_replica("Gateway")
    assert all(isinstance(answer, httpx.TransportError) or answer.status_code >= 500 for answer in await posted)
    await until(engine.is_healthy, "a generator has found the gateway's successor")
    successor = engine.replica("Gateway")
    assert successor is not None
    assert successor.pid != killed
    assets = outcomes(engine, await post_all(http, requests))
    assert any(assets)
    assert outcomes(engine, await post_all(http, requests)) == assets
    again = await asyncio.gather(*(http.get(f"/v1/assets/{asset_id}") for asset_id in before))
    assert [engine.released(answer).content for answer in again] == [asset.content for asset in before.values()]


def under_way(engine: RunningEngine, num_requests: int) -> bool:
    """Whether that many requests are open, all of them in a generator's hands."""
    health = engine.health()
    return (health["num_open"], health["num_waiting"]) == (num_requests, 0)


async def test_a_gate_and_a_ledger_that_are_killed_lose_nothing_that_was_acknowledged(
    engine: RunningEngine, http: httpx.AsyncClient
) -> None:
    before = dict(engine.acknowledged)
    requests = bodies("gate and ledger")
    posted = asyncio.create_task(post_all(http, requests))
    await until(lambda: under_way(engine, NUM_REQUESTS), "the generator has claimed them all")
    deployments = ("Gatekeeper", "LedgerShard-0", "LedgerShard-1")
    killed = [engine.kill_replica(deployment) for deployment in deployments]
    assets = outcomes(engine, await posted)
    assert any(assets)
    await until(lambda: all(map(engine.replica, deployments)), "every deployment has a replica again")
    successors = [process.pid for process in map(engine.replica, deployments) if process is not None]
    assert not set(killed) & set(successors)
    again = await asyncio.gather(*(http.get(f"/v1/assets/{asset_id}") for asset_id in before))
    assert [engine.released(answer).content for answer in again] == [asset.content for asset in before.values()]
