"""A seeded world around intake, pipeline and pool, on a virtual clock: workers die, clients leave, stages are slow.

A failing test's name holds its seed: run it alone with `-k "[SEED]"`, and it goes the same way again.
"""

import asyncio
import random

import pytest
import virtual_time
from briefs import NOW_MS, draft, policies, request
from memory_stages import MemoryStages, send

from engine.errors import MintageError
from engine.generators.contract import Attempt
from engine.intake import Intake
from engine.pipeline import Pipeline, Sampling
from engine.pool import Inbox, Pool, Worker
from engine.records import Commit, Outcome
from engine.request import Asset, AssetRequest, Status
from engine.tiers import Tier
from gate.verdict import Case, Verdict

NUM_SEEDS = 300
NUM_CLIENTS = 14
NUM_KEYS = 8
NUM_WORKERS = 3
LEASE_S = 5.0
DEADLINE_S = 120.0
END_S = 300.0
FAILURES = {"deadline_exceeded", "unavailable", "overloaded"}


class WatchedPool(Pool):
    """Checks every claim: nothing better was left waiting, and nobody else holds it."""

    def claim(self, worker_id: str, worker: Worker, capacity: int) -> Inbox:
        inbox = super().claim(worker_id, worker, capacity)
        claimed = [self.tickets[each.attempt_id].key for each in inbox.attempts]
        left = [key for key, ticket in self.heap if not ticket.future.done()]
        assert not claimed or not left or max(claimed) < min(left), "something better was left waiting"
        held = [name for each in self.workers.values() for name in each.claims]
        assert len(held) == len(set(held)), "two workers hold one attempt"
        return inbox


class SlowStages(MemoryStages):
    """Gate and ledger that take their time."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice

    async def assess(self, case: Case) -> Verdict:
        await asyncio.sleep(self.dice.choice([0, 0.1, 1]))
        return await super().assess(case)

    async def record(self, commit: Commit) -> Outcome:
        await asyncio.sleep(self.dice.choice([0, 0.1, 3]))
        return await super().record(commit)

    async def find(self, asset_id: str) -> Outcome:
        await asyncio.sleep(self.dice.choice([0, 0.1, 1]))
        return await super().find(asset_id)


class World:
    """The engine, its workers and its clients. All chance comes from one seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.stages = SlowStages(self.dice)
        self.pool = WatchedPool(lease_s=LEASE_S, now_s=virtual_time.now_s)
        pipeline = Pipeline(self.pool.generate, self.stages, policies(), Sampling(), self.now_ms)
        self.intake = Intake(pipeline.mint, self.stages.find, num_open_max=10, num_done_max=4, now_s=virtual_time.now_s)
        self.num_workers = 0
        self.answers: list[Status] = []
        self.num_refused_early = 0
        self.num_left = 0

    def now_ms(self) -> int:
        return NOW_MS + round(virtual_time.now_s() * 1000)

    async def run(self) -> None:
        """Until every client has gone and every job has ended."""
        keepers = [asyncio.create_task(self.keep_a_worker_alive()) for _ in range(NUM_WORKERS)]
        keepers.append(asyncio.create_task(self.expire_for_ever()))
        async with asyncio.timeout(END_S):
            await asyncio.gather(*(self.client(number) for number in range(NUM_CLIENTS)))
            while self.intake.jobs:
                await asyncio.wait([job.task for job in self.intake.jobs.values()])
        for keeper in keepers:
            keeper.cancel()
        broken = [
            each for each in await asyncio.gather(*keepers, return_exceptions=True) if isinstance(each, Exception)
        ]
        assert broken == []

    async def expire_for_ever(self) -> None:
        while True:
            self.pool.expire()
            await asyncio.sleep(1)

    async def keep_a_worker_alive(self) -> None:
        """A worker that dies now and then, without a word, and is started anew under another name."""
        while True:
            self.num_workers += 1
            life_s = self.dice.expovariate(1 / 20)
            try:
                async with asyncio.timeout(life_s):
                    await self.work(f"worker-{self.num_workers}", self.dice.randint(1, 3))
            except TimeoutError:
                await asyncio.sleep(self.dice.choice([0, 2, 8]))

    async def work(self, worker_id: str, capacity: int) -> None:
        """Pull, write for a while, hand in."""
        async with asyncio.TaskGroup() as group:
            running: dict[str, asyncio.Task[None]] = {}
            while True:
                inbox = await self.pool.pull(worker_id, capacity, 1.0)
                for attempt_id in inbox.aborts:
                    running.pop(attempt_id).cancel()
                for attempt in inbox.attempts:
                    running[attempt.attempt_id] = group.create_task(self.write(worker_id, attempt))

    async def write(self, worker_id: str, attempt: Attempt) -> None:
        await asyncio.sleep(self.dice.choice([0, 0.5, 2, 7]))
        text = self.dice.choice(["good copy", "good copy", "bad copy"])
        self.pool.complete(worker_id, [draft(attempt.attempt_id, text)])

    async def client(self, number: int) -> None:
        """Ask for one of a few keys, perhaps leave, perhaps come back."""
        key = f"key-{self.dice.randrange(NUM_KEYS)}"
        tier = list(Tier)[int(key[-1]) % 4]
        await asyncio.sleep(self.dice.uniform(0, 20))
        for _ in range(self.dice.randint(1, 3)):
            deadline_ms = NOW_MS + round(DEADLINE_S * 1000)
            wanted = request(key, tier=tier.value, deadline_ms=deadline_ms)
            wait_s = self.dice.choice([0, 1, 60, 200])
            patience_s = self.dice.choice([0.5, 5, 1000])
            try:
                async with asyncio.timeout(patience_s):
                    status = await send(self.intake, wanted, wait_s)
                    while status.state == "pending" and self.dice.random() < 0.7:
                        status = await self.intake.status(wanted.asset_id, 10) or status
                self.answers.append(status)
            except TimeoutError:
                self.num_left += 1
            except MintageError as error:
                assert error.body.code in FAILURES
                self.num_refused_early += 1

    def check(self) -> None:
        """What must hold when all is over."""
        assert not self.pool.tickets, "an attempt outlived its request"
        assert self.pool.num_waiting == 0
        assert set(self.stages.num_records.values()) <= {1}, "a key was sent to the ledger twice"
        assert self.stages.num_records.keys() == self.stages.recorded.keys()
        for status in self.answers:
            if status.state == "released":
                assert status.asset == self.stages.recorded[status.asset_id].asset
            elif status.state == "failed":
                assert status.error is not None
                assert status.error.code in FAILURES
            else:
                assert status.state in ("pending", "refused", "cancelled")


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_no_attempt_is_lost_no_key_committed_twice_and_every_request_ends(seed: int) -> None:
    async def scenario() -> World:
        world = World(seed)
        await world.run()
        return world

    world = virtual_time.run(scenario())
    world.check()
    assert world.answers or world.num_left or world.num_refused_early


def test_the_simulated_world_is_rough_enough_to_mean_something() -> None:
    async def scenario(seed: int) -> World:
        world = World(seed)
        await world.run()
        return world

    worlds = [virtual_time.run(scenario(seed)) for seed in range(30)]
    states = {status.state for world in worlds for status in world.answers}
    assert {"released", "pending"} <= states
    assert any(world.num_left for world in worlds)
    assert any(world.num_workers > NUM_WORKERS for world in worlds), "some worker died"
    assert any(len(world.stages.recorded) > 3 for world in worlds)


def test_an_intake_that_records_every_job_twice_is_caught() -> None:
    async def scenario() -> World:
        world = World(0)
        mint = world.intake.mint

        async def mint_twice(wanted: AssetRequest) -> Asset:
            await mint(wanted)
            return await mint(wanted)

        world.intake.mint = mint_twice
        await world.run()
        return world

    world = virtual_time.run(scenario())
    with pytest.raises(AssertionError, match="sent to the ledger twice"):
        world.check()


def test_a_seed_goes_the_same_way_again() -> None:
    async def history(seed: int) -> tuple[list[Status], float]:
        world = World(seed)
        await world.run()
        return world.answers, virtual_time.now_s()

    assert virtual_time.run(history(7)) == virtual_time.run(history(7))
    assert virtual_time.run(history(7)) != virtual_time.run(history(8))
