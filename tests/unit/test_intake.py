"""Intake: one job for one key, however many ask, and an answer for each of them."""

import asyncio

import pytest
import virtual_time
from briefs import request
from memory_stages import MemoryStages, send
from virtual_time import settle

from engine.errors import Cancelled, ErrorBody, IdempotencyConflict, InvalidRequest, Overloaded, Refused, Unavailable
from engine.intake import LOOK_UP_S_MAX, Intake
from engine.records import Recorded
from engine.request import Asset, AssetRequest, Reason, Status
from engine.tiers import Tier

WAIT_S = 30.0


class Mint:
    """Mints when the test says so."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Future[Asset]] = {}
        self.num_started = 0
        self.num_stopped = 0

    async def __call__(self, request: AssetRequest) -> Asset:
        self.num_started += 1
        future = self.running[request.asset_id] = asyncio.get_running_loop().create_future()
        try:
            return await future
        except asyncio.CancelledError:
            self.num_stopped += 1
            raise
        finally:
            del self.running[request.asset_id]

    def finish(self, request: AssetRequest) -> Asset:
        made = asset(request)
        self.running[request.asset_id].set_result(made)
        return made

    def fail(self, request: AssetRequest, error: Exception) -> None:
        self.running[request.asset_id].set_exception(error)


def asset(request: AssetRequest) -> Asset:
    reasons = (Reason(0, "length", "too short"),)
    return Asset(
        request.asset_id, "copy", "00" * 32, 0, 2, "", Tier.STANDARD, "default", "fake", 2, 20, False, 5, reasons
    )


@pytest.fixture
def mint() -> Mint:
    return Mint()


@pytest.fixture
def ledger() -> MemoryStages:
    return MemoryStages()


def new_intake(mint: Mint, ledger: MemoryStages, *, num_open_max: int = 100, num_done_max: int = 100) -> Intake:
    loop = asyncio.get_running_loop()
    return Intake(mint, ledger.find, num_open_max=num_open_max, num_done_max=num_done_max, now_s=loop.time)


@pytest.fixture
async def intake(mint: Mint, ledger: MemoryStages) -> Intake:
    return new_intake(mint, ledger)


async def submit(intake: Intake, request: AssetRequest, wait_s: float = WAIT_S) -> "asyncio.Task[Status]":
    """Somebody who submits and waits."""
    task = asyncio.ensure_future(send(intake, request, wait_s))
    await settle()
    return task


async def test_a_request_is_answered_with_its_asset_and_the_reasons_of_its_rejected_drafts(
    intake: Intake, mint: Mint
) -> None:
    waiter = await submit(intake, request())
    made = mint.finish(request())
    assert await waiter == Status(made.asset_id, "released", made, reasons=made.reasons)


async def test_repeats_while_it_runs_share_one_job_and_one_asset(intake: Intake, mint: Mint) -> None:
    waiters = [await submit(intake, request()) for _ in range(5)]
    mint.finish(request())
    statuses = await asyncio.gather(*waiters)
    assert mint.num_started == 1
    assert [status.state for status in statuses] == ["released"] * 5


async def test_a_repeat_after_it_was_released_gets_the_same_asset_without_a_new_job(intake: Intake, mint: Mint) -> None:
    first = await submit(intake, request())
    mint.finish(request())
    assert await (await submit(intake, request())) == await first
    assert mint.num_started == 1


async def test_a_repeat_after_a_restart_is_found_in_the_ledger(
    intake: Intake, mint: Mint, ledger: MemoryStages
) -> None:
    made = asset(request())
    ledger.recorded[made.asset_id] = Recorded(made, request().body_hash)
    status = await send(intake, request(), WAIT_S)
    assert (status.state, status.asset, status.reasons) == ("released", made, made.reasons)
    assert mint.num_started == 0


@pytest.mark.parametrize("when", ["running", "finished", "in the ledger"])
async def test_another_request_under_the_same_key_is_a_conflict(
    intake: Intake, mint: Mint, ledger: MemoryStages, when: str
) -> None:
    if when == "in the ledger":
        ledger.recorded[request().asset_id] = Recorded(asset(request()), request().body_hash)
    else:
        waiter = await submit(intake, request())
        if when == "finished":
            mint.finish(request())
            await waiter
    other = request(style="calm")
    assert other.asset_id == request().asset_id
    with pytest.raises(IdempotencyConflict) as caught:
        await send(intake, other, WAIT_S)
    assert caught.value.body.where == "idempotency_key"
    await intake.close()


async def test_the_job_of_the_last_waiter_who_leaves_is_stopped(intake: Intake, mint: Mint) -> None:
    waiter = await submit(intake, request())
    waiter.cancel()
    await settle()
    assert (mint.num_stopped, intake.jobs) == (1, {})
    status = await intake.status(request().asset_id, 0)
    assert status is not None
    assert status.state == "cancelled"
    assert status.error is not None
    assert status.error.code == Cancelled.code


async def test_one_of_two_waiters_may_leave_and_the_job_goes_on_for_the_other(intake: Intake, mint: Mint) -> None:
    leaves, stays = await submit(intake, request()), await submit(intake, request())
    leaves.cancel()
    await settle()
    mint.finish(request())
    assert (await stays).state == "released"
    assert (leaves.cancelled(), mint.num_stopped) == (True, 0)


async def test_when_both_waiters_leave_at_once_the_job_is_stopped(intake: Intake, mint: Mint) -> None:
    waiters = [await submit(intake, request()) for _ in range(2)]
    for waiter in waiters:
        waiter.cancel()
    await settle()
    assert mint.num_stopped == 1


async def test_a_stopped_request_that_is_sent_again_starts_again(intake: Intake, mint: Mint) -> None:
    (await submit(intake, request())).cancel()
    await settle()
    waiter = await submit(intake, request())
    mint.finish(request())
    assert (await waiter).state == "released"
    assert mint.num_started == 2


def test_a_waiter_whose_time_is_up_is_told_pending_and_the_job_goes_on_without_him() -> None:
    async def scenario() -> None:
        mint = Mint()
        intake = new_intake(mint, MemoryStages())
        waiter = await submit(intake, request(), wait_s=3)
        assert await waiter == Status(request().asset_id, "pending")
        assert virtual_time.now_s() == 3
        impatient = await submit(intake, request())
        impatient.cancel()
        await settle()
        asyncio.get_running_loop().call_later(4, mint.finish, request())
        status = await intake.status(request().asset_id, wait_s=60)
        assert status is not None
        assert (status.state, virtual_time.now_s(), mint.num_stopped) == ("released", 7, 0)

    virtual_time.run(scenario())


async def test_a_job_that_somebody_follows_by_its_id_goes_on_when_its_sender_leaves(intake: Intake, mint: Mint) -> None:
    sender = await submit(intake, request())
    status = await intake.status(request().asset_id, 0)
    assert status == Status(request().asset_id, "pending")
    sender.cancel()
    await settle()
    assert mint.num_stopped == 0
    mint.finish(request())
    await settle()
    followed = await intake.status(request().asset_id, 0)
    assert followed is not None
    assert followed.state == "released"


async def test_a_refusal_is_remembered_with_every_reason_and_not_tried_again(intake: Intake, mint: Mint) -> None:
    reasons = (Reason(0, "missing", "colour"), Reason(1, "length", "3 words"))
    error = Refused("all drafts were rejected", where="gate", fix="Mend the facts.")
    error.reasons = reasons
    waiter = await submit(intake, request())
    mint.fail(request(), error)
    status = await waiter
    assert (status.state, status.error, status.reasons) == ("refused", error.body, reasons)
    assert await (await submit(intake, request())) == status
    assert mint.num_started == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidRequest("no", where="brief", fix="Mend it."), "invalid_request"), (ValueError("a defect"), "internal")],
)
async def test_a_failure_is_a_status_and_a_repeat_tries_again(
    intake: Intake, mint: Mint, error: Exception, code: str
) -> None:
    waiter = await submit(intake, request())
    mint.fail(request(), error)
    status = await waiter
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.code == code
    again = await submit(intake, request())
    mint.finish(request())
    assert (await again).state == "released"


async def test_one_job_more_than_the_limit_is_refused_but_a_repeat_is_not(mint: Mint, ledger: MemoryStages) -> None:
    intake = new_intake(mint, ledger, num_open_max=2)
    for key in "ab":
        await submit(intake, request(key))
    with pytest.raises(Overloaded) as caught:
        await send(intake, request("c"), WAIT_S)
    assert caught.value.body.where == "intake"
    repeat = await submit(intake, request("a"))
    mint.finish(request("a"))
    assert (await repeat).state == "released"
    await submit(intake, request("c"))
    assert len(intake.jobs) == 2
    await intake.close()


def test_an_overload_says_how_long_the_open_jobs_will_take_at_the_recent_rate() -> None:
    async def scenario() -> str:
        mint = Mint()
        intake = new_intake(mint, MemoryStages(), num_open_max=64)
        for number in range(10):  # one in two seconds
            await asyncio.sleep(2)
            waiter = await submit(intake, request(f"done{number}"))
            mint.finish(request(f"done{number}"))
            await waiter
        for number in range(64):
            await submit(intake, request(f"open{number}"))
        with pytest.raises(Overloaded) as caught:
            await send(intake, request("more"), WAIT_S)
        await intake.close()
        return caught.value.body.fix

    # 10 jobs in the 18 s since the first ended; a sixteenth of 64 open ones is 4, and takes 4 / (10 / 18) = 7.2 s.
    assert virtual_time.run(scenario()) == "Try again in about 7 s."


async def test_only_so_many_finished_jobs_are_remembered_and_the_oldest_is_forgotten_first(
    mint: Mint, ledger: MemoryStages
) -> None:
    intake = new_intake(mint, ledger, num_done_max=2)

    async def finish(key: str, error: Exception | None = None) -> None:
        waiter = await submit(intake, request(key))
        if error is None:
            mint.finish(request(key))
        else:
            mint.fail(request(key), error)
        await waiter

    await finish("a", ValueError("first try"))
    await finish("b")
    await finish("a")  # now the younger one
    await finish("c")
    known = [key for key in "abc" if await intake.status(request(key).asset_id, 0) is not None]
    assert known == ["a", "c"]


async def test_nobody_knows_the_status_of_an_unknown_id(intake: Intake) -> None:
    assert await intake.status("00" * 16, 0) is None


async def test_the_status_of_what_only_the_ledger_remembers_is_released(intake: Intake, ledger: MemoryStages) -> None:
    made = asset(request())
    ledger.recorded[made.asset_id] = Recorded(made, request().body_hash)
    status = await intake.status(made.asset_id, 0)
    assert status == Status(made.asset_id, "released", made, reasons=made.reasons)


async def test_closing_stops_every_job_and_takes_no_new_one(intake: Intake, mint: Mint) -> None:
    waiters = [await submit(intake, request(key)) for key in "abc"]
    await intake.close()
    statuses = await asyncio.gather(*waiters)
    assert [status.state for status in statuses] == ["cancelled"] * 3
    assert {status.error and status.error.what for status in statuses} == {"the engine is stopping"}
    assert (mint.num_stopped, intake.jobs) == (3, {})
    with pytest.raises(Unavailable, match="stopping"):
        await send(intake, request("d"), WAIT_S)


async def test_a_commit_whose_answer_was_lost_is_found_by_a_repeat_and_by_its_status(
    intake: Intake, mint: Mint, ledger: MemoryStages
) -> None:
    body_hash, failed = (
        request().body_hash,
        Status(request().asset_id, "failed", error=ErrorBody("unavailable", *"abc")),
    )
    intake.done[request().asset_id] = (body_hash, failed)
    assert await intake.status(request().asset_id, 0) == failed
    made = asset(request())
    ledger.recorded[made.asset_id] = Recorded(made, body_hash)
    assert (await intake.status(made.asset_id, 0)).asset == made
    assert (await send(intake, request(), WAIT_S)).asset == made
    assert mint.num_stopped == 0


class LostStages(MemoryStages):
    """A ledger that does not answer, and knows how many wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.find_door.shut()


def test_a_request_the_ledger_does_not_answer_for_is_unavailable_after_a_while_and_nothing_was_started() -> None:
    async def scenario() -> None:
        mint = Mint()
        intake = new_intake(mint, LostStages())
        with pytest.raises(Unavailable, match="has not answered"):
            await send(intake, request(), 0)
        assert virtual_time.now_s() == LOOK_UP_S_MAX
        with pytest.raises(Unavailable, match="has not answered"):
            await intake.status(request().asset_id, 0)
        assert (mint.num_started, intake.jobs, intake.num_look_ups) == (0, {}, 0)

    virtual_time.run(scenario())


async def test_requests_that_wait_for_the_ledger_count_as_open(mint: Mint) -> None:
    ledger = LostStages()
    intake = new_intake(mint, ledger, num_open_max=2)
    await submit(intake, request("a"))
    await submit(intake, request("b"))
    for refused in (request("c"), request("a")):
        with pytest.raises(Overloaded, match="2 requests are open"):
            await send(intake, refused, WAIT_S)
    with pytest.raises(Overloaded):
        await intake.submit(request("without a key of its own"), WAIT_S)
    assert ledger.find_door.num_waiting == 2
    ledger.find_door.open()
    await settle()
    assert (len(intake.jobs), intake.num_look_ups) == (2, 0)
    await intake.close()


async def test_what_was_released_can_be_asked_for_while_as_many_are_open_as_may_be(
    mint: Mint, ledger: MemoryStages
) -> None:
    intake = new_intake(mint, ledger, num_open_max=1)
    made = asset(request("released"))
    ledger.recorded[made.asset_id] = Recorded(made, request("released").body_hash)
    await submit(intake, request("open"))
    status = await intake.status(made.asset_id, 0)
    assert status is not None
    assert status.asset == made
    await intake.close()


async def test_another_body_whose_look_up_is_out_while_the_first_one_fails_is_a_conflict(mint: Mint) -> None:
    ledger = LostStages()
    intake = new_intake(mint, ledger)
    other = await submit(intake, request(style="calm"))
    first = asyncio.ensure_future(intake.submit(request(), WAIT_S))
    await settle()
    mint.fail(request(), ValueError("a defect"))
    assert (await first).state == "failed"
    ledger.find_door.open()
    with pytest.raises(IdempotencyConflict):
        await other
    await intake.close()


async def test_another_body_whose_look_up_is_out_while_the_first_one_is_refused_is_a_conflict(mint: Mint) -> None:
    ledger = LostStages()
    intake = new_intake(mint, ledger)
    other = await submit(intake, request(style="calm"))
    first = asyncio.ensure_future(intake.submit(request(), WAIT_S))
    await settle()
    mint.fail(request(), Refused("no draft passed", where="gate", fix="Mend the facts."))
    assert (await first).state == "refused"
    ledger.find_door.open()
    with pytest.raises(IdempotencyConflict):
        await other
