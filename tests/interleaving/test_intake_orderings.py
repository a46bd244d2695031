"""Repeats, leaving clients and the record of one request, forced into every order that can go wrong."""

import asyncio

import pytest
from briefs import NOW_MS, draft, policies, request
from memory_stages import MemoryStages, send
from virtual_time import settle

from engine.errors import IdempotencyConflict
from engine.generators.contract import Attempt, Draft
from engine.intake import Intake
from engine.pipeline import Pipeline, Sampling
from engine.records import Outcome
from engine.request import AssetRequest, Status

TURNS_MAX = 40


class House:
    """Intake and pipeline over stages in memory; counts how often was generated."""

    def __init__(self) -> None:
        self.stages = MemoryStages()
        self.num_generated = 0
        pipeline = Pipeline(self.generate, self.stages, policies(), Sampling(), lambda: NOW_MS)
        clock = asyncio.get_running_loop().time
        self.intake = Intake(pipeline.mint, self.stages.find, num_open_max=9, num_done_max=9, now_s=clock)

    async def generate(self, attempt: Attempt, deadline_ms: int) -> Draft:
        self.num_generated += 1
        await asyncio.sleep(0)
        return draft(attempt.attempt_id, "good copy")

    def submit(self, wanted: AssetRequest | None = None) -> "asyncio.Task[Status]":
        return asyncio.ensure_future(send(self.intake, wanted or request(), wait_s=60))


async def test_two_submits_of_one_key_that_both_ask_the_ledger_first_share_one_job() -> None:
    house = House()
    house.stages.find_door.shut()
    first, second = house.submit(), house.submit()
    await settle()
    assert (house.stages.find_door.num_waiting, house.intake.jobs) == (2, {})
    house.stages.find_door.open()
    statuses = await asyncio.gather(first, second)
    assert [status.state for status in statuses] == ["released", "released"]
    assert (house.num_generated, house.stages.num_records) == (1, {request().asset_id: 1})


async def test_two_different_requests_of_one_key_that_both_ask_the_ledger_first_are_asset_and_conflict() -> None:
    house = House()
    house.stages.find_door.shut()
    first, other = house.submit(), house.submit(request(style="calm"))
    await settle()
    house.stages.find_door.open()
    results = await asyncio.gather(first, other, return_exceptions=True)
    assert isinstance(results[0], Status)
    assert results[0].state == "released"
    assert isinstance(results[1], IdempotencyConflict)
    assert (house.num_generated, house.stages.num_records) == (1, {request().asset_id: 1})


async def test_a_submit_whose_lookup_is_outstanding_while_another_finishes_gets_the_finished_asset() -> None:
    house = House()
    house.stages.find_door.shut()
    slow = house.submit()
    await settle()

    async def find_nothing(asset_id: str) -> Outcome:
        return Outcome()

    house.intake.find = find_nothing
    released = await house.submit()
    assert not slow.done()
    house.stages.find_door.open()
    assert (await slow).asset == released.asset is not None
    assert (house.num_generated, house.stages.num_records) == (1, {request().asset_id: 1})


@pytest.mark.parametrize("num_turns", range(TURNS_MAX))
async def test_whenever_the_client_leaves_the_request_is_cancelled_or_recorded_never_both(
    num_turns: int,
) -> None:
    house = House()
    client = house.submit()
    await settle(num_turns)
    client.cancel()
    await settle()
    asset_id = request().asset_id
    status = await house.intake.status(asset_id, 0)
    if asset_id in house.stages.recorded:
        assert status is not None
        assert status.state == "released"
    else:
        assert status is None or status.state == "cancelled"
    assert (await house.submit()).state == "released"
    assert house.stages.num_records == {asset_id: 1}


async def test_a_client_who_leaves_during_the_record_leaves_a_released_asset() -> None:
    house = House()
    house.stages.record_door.shut()
    client = house.submit()
    await settle()
    client.cancel()
    await settle()
    assert request().asset_id in house.intake.jobs
    house.stages.record_door.open()
    await settle()
    status = await house.intake.status(request().asset_id, 0)
    assert status is not None
    assert status.state == "released"
    assert house.stages.num_records == {request().asset_id: 1}


@pytest.mark.parametrize("num_turns", range(8))
async def test_a_repeat_that_comes_while_the_abandoned_job_is_being_stopped_is_served(num_turns: int) -> None:
    house = House()
    house.stages.gate_door.shut()
    abandoned = house.submit()
    await settle()
    abandoned.cancel()
    await settle(num_turns)
    repeat = house.submit()
    await settle()
    house.stages.gate_door.open()
    assert (await repeat).state == "released"
    assert house.stages.num_records == {request().asset_id: 1}


async def test_a_repeat_that_comes_during_the_record_of_an_abandoned_job_gets_its_asset() -> None:
    house = House()
    house.stages.record_door.shut()
    abandoned = house.submit()
    await settle()
    abandoned.cancel()
    await settle()
    repeats = [house.submit(), house.submit()]
    await settle()
    repeats[0].cancel()
    await settle()
    house.stages.record_door.open()
    assert (await repeats[1]).state == "released"
    assert (house.num_generated, house.stages.num_records) == (1, {request().asset_id: 1})


async def test_closing_during_the_record_waits_for_the_ledger() -> None:
    house = House()
    house.stages.record_door.shut()
    client = house.submit()
    await settle()
    closing = asyncio.ensure_future(house.intake.close())
    await settle()
    assert not closing.done()
    house.stages.record_door.open()
    await closing
    assert (await client).state == "released"
    assert house.stages.num_records == {request().asset_id: 1}
