"""The pipeline: tries as the policy says, and a record that nothing interrupts. Gate and ledger are the real ones."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import virtual_time
from briefs import FALSE_COPY, NOW_MS, TRUE_COPY, Script, attempt, draft, open_keepers, policies, request
from memory_stages import MemoryStages
from virtual_time import settle

from engine.embedded import LocalStages
from engine.errors import DeadlineExceeded, InvalidRequest, Refused, Unavailable
from engine.generators.contract import Attempt, Draft
from engine.generators.fake import FakeGenerator
from engine.pipeline import Generate, Pipeline, Sampling, Stages, Try, retry_plan, seed_of
from gate.assess import Gate
from ledger.receipt import verify

SAMPLING = Sampling(tokens_max=90, temperature=0.25, temperature_constrained=0.75)


def one_at_a_time(generator: FakeGenerator) -> Generate:
    """A pool of one place."""

    async def generate(attempt: Attempt, deadline_ms: int) -> Draft:
        generator.add(attempt)
        while not (drafts := generator.step()):
            pass
        return drafts[0]

    return generate


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[LocalStages]:
    _, keepers = open_keepers(tmp_path)
    stages = LocalStages(Gate(policies()), keepers)
    yield stages
    stages.close()


def pipeline(script: Script, stages: Stages) -> Pipeline:
    return Pipeline(one_at_a_time(FakeGenerator(writer=script)), stages, policies(), SAMPLING, lambda: NOW_MS + 40)


async def test_a_draft_that_is_accepted_at_once_is_released_as_it_was_written(stages: LocalStages) -> None:
    script = Script(TRUE_COPY)
    asset = await pipeline(script, stages).mint(request(tier="priority", value_micros=7))
    assert asset.content == TRUE_COPY
    assert asset.content_hash == hashlib.sha256(TRUE_COPY.encode()).hexdigest()
    assert (asset.num_attempts, asset.num_tokens, asset.constrained) == (1, len(TRUE_COPY.split()), False)
    assert (asset.model, asset.policy, asset.latency_ms, asset.reasons) == ("fake", "default", 40, ())
    (tried,) = script.attempts
    assert (tried.tokens_max, tried.temperature, tried.priority, tried.grammar) == (90, 0.25, 0, None)
    keys = stages.keepers[asset.shard].keys.verifier_keys
    assert verify(asset.receipt, keys, TRUE_COPY.encode()).entry.amount == 7


async def test_a_rejected_draft_is_written_again_with_another_seed_and_its_reasons_are_kept(
    stages: LocalStages,
) -> None:
    script = Script(FALSE_COPY, TRUE_COPY)
    asset = await pipeline(script, stages).mint(request())
    assert (asset.num_attempts, asset.constrained) == (2, False)
    assert asset.num_tokens == len(FALSE_COPY.split()) + len(TRUE_COPY.split())
    assert {reason.attempt for reason in asset.reasons} == {0}
    assert {"missing", "unsupported"} <= {reason.check for reason in asset.reasons}
    first, second = script.attempts
    assert first.seed != second.seed
    assert first.attempt_id != second.attempt_id
    assert (first.messages, second.grammar) == (second.messages, None)


async def test_after_the_free_tries_the_draft_is_constrained_to_a_grammar_of_its_brief(stages: LocalStages) -> None:
    script = Script(FALSE_COPY, FALSE_COPY, FALSE_COPY, TRUE_COPY)
    asset = await pipeline(script, stages).mint(request())
    assert (asset.num_attempts, asset.constrained) == (4, True)
    assert [tried.grammar is not None for tried in script.attempts] == [False, False, False, True]
    grammar = script.attempts[-1].grammar
    assert grammar is not None
    assert "teal" in grammar
    assert script.attempts[-1].temperature == 0.75


async def test_a_request_whose_every_draft_is_rejected_is_refused_with_every_reason(stages: LocalStages) -> None:
    script = Script(FALSE_COPY)
    with pytest.raises(Refused, match="all 4 drafts") as caught:
        await pipeline(script, stages).mint(request())
    assert {reason.attempt for reason in caught.value.reasons} == {0, 1, 2, 3}  # type: ignore[attr-defined]
    assert "unsupported" in caught.value.body.what
    assert len(script.attempts) == 4
    assert (await stages.find(request().asset_id)).recorded is None


async def test_a_brief_that_no_text_can_keep_is_refused_without_a_constrained_try(stages: LocalStages) -> None:
    script = Script("This cheap thing is here for you and it is as good as ever. Put it on today.")
    with pytest.raises(Refused) as caught:
        await pipeline(script, stages).mint(request(facts={"article": "cheap thing"}))
    assert len(script.attempts) == 3
    last = caught.value.reasons[-1]
    assert (last.attempt, last.check) == (3, "grammar")  # type: ignore[attr-defined]


class SlowPool:
    """A pool of one place whose every draft takes `draft_ms` of a clock of its own."""

    def __init__(self, script: Script, draft_ms: int) -> None:
        self.generate_one = one_at_a_time(FakeGenerator(writer=script))
        self.draft_ms = draft_ms
        self.now_ms = NOW_MS

    async def generate(self, attempt: Attempt, deadline_ms: int) -> Draft:
        self.now_ms += self.draft_ms
        return await self.generate_one(attempt, deadline_ms)

    def pipeline(self, stages: Stages) -> Pipeline:
        return Pipeline(self.generate, stages, policies(), SAMPLING, lambda: self.now_ms)


@pytest.mark.parametrize(
    ("draft_s", "numbers"),
    [(29, [0, 1, 3]), (31, [0, 3]), (20, [0, 1, 2, 3])],
    ids=["before the last free retry", "before both", "in its turn"],
)
async def test_where_time_is_short_the_next_try_is_the_constrained_one(
    stages: LocalStages, draft_s: int, numbers: list[int]
) -> None:
    script = Script(*[FALSE_COPY] * (len(numbers) - 1), TRUE_COPY)
    pool = SlowPool(script, draft_s * 1000)
    asset = await pool.pipeline(stages).mint(request(deadline_ms=NOW_MS + 120_000))
    assert [tried.attempt_id for tried in script.attempts] == [f"{asset.asset_id}/{number}" for number in numbers]
    assert (asset.num_attempts, asset.constrained) == (len(numbers), True)


async def test_where_time_is_short_and_the_constrained_draft_is_rejected_the_free_retries_follow(
    stages: LocalStages,
) -> None:
    script = Script(FALSE_COPY, FALSE_COPY, TRUE_COPY)
    pool = SlowPool(script, 31_000)
    asset = await pool.pipeline(stages).mint(request(deadline_ms=NOW_MS + 120_000))
    assert [tried.attempt_id for tried in script.attempts] == [f"{asset.asset_id}/{number}" for number in (0, 3, 1)]
    assert (asset.num_attempts, asset.constrained) == (3, False)


async def test_where_time_is_short_and_no_grammar_can_help_the_free_retries_are_made(stages: LocalStages) -> None:
    script = Script("This cheap thing is here for you and it is as good as ever. Put it on today.")
    pool = SlowPool(script, 39_000)
    with pytest.raises(Refused, match="all 3 drafts"):
        await pool.pipeline(stages).mint(request(facts={"article": "cheap thing"}, deadline_ms=NOW_MS + 120_000))
    assert len(script.attempts) == 3


async def test_a_draft_that_was_cut_off_is_rejected(stages: LocalStages) -> None:
    script = Script(f"{TRUE_COPY} {'And so it goes on. ' * 30}", TRUE_COPY)
    asset = await pipeline(script, stages).mint(request())
    assert asset.num_attempts == 2


async def test_an_error_of_the_generator_is_unavailable_and_is_not_retried(stages: LocalStages) -> None:
    num_tries = 0

    async def failing(attempt: Attempt, deadline_ms: int) -> Draft:
        nonlocal num_tries
        num_tries += 1
        error = Unavailable("the backend is broken", where="generator", fix="Send it again.").body
        return Draft(attempt.attempt_id, "", "error", 0, 0, draft("x").model, error)

    minter = Pipeline(failing, stages, policies(), SAMPLING, lambda: NOW_MS)
    with pytest.raises(Unavailable, match="the backend is broken"):
        await minter.mint(request())
    assert num_tries == 1


async def test_a_brief_that_no_generator_can_take_is_the_clients_error(stages: LocalStages) -> None:
    async def refusing(attempt: Attempt, deadline_ms: int) -> Draft:
        error = InvalidRequest("the prompt has 1245 tokens", where="brief", fix="Shorten the facts.").body
        return Draft(attempt.attempt_id, "", "error", 0, 0, draft("x").model, error)

    with pytest.raises(InvalidRequest, match="1245 tokens"):
        await Pipeline(refusing, stages, policies(), SAMPLING, lambda: NOW_MS).mint(request())


async def test_a_last_try_that_does_not_fit_keeps_the_reasons_of_those_that_did(stages: LocalStages) -> None:
    async def too_long_when_constrained(attempt: Attempt, deadline_ms: int) -> Draft:
        if attempt.grammar is None:
            return Draft(attempt.attempt_id, "Not a copy.", "stop", 9, 3, draft("x").model)
        error = InvalidRequest("the prompt has 944 tokens", where="brief", fix="Shorten the facts.").body
        return Draft(attempt.attempt_id, "", "error", 0, 0, draft("x").model, error)

    minter = Pipeline(too_long_when_constrained, stages, policies(), SAMPLING, lambda: NOW_MS)
    with pytest.raises(Refused, match="all 3 drafts") as caught:
        await minter.mint(request())
    assert ("generator", "the prompt has 944 tokens") in {(row.check, row.detail) for row in caught.value.reasons}


async def test_a_gate_with_another_version_of_the_policy_releases_nothing(stages: LocalStages) -> None:
    other = {name: msgspec.structs.replace(policy, version=99) for name, policy in policies().items()}
    generate = one_at_a_time(FakeGenerator(writer=Script(TRUE_COPY)))
    minter = Pipeline(generate, stages, other, SAMPLING, lambda: NOW_MS)
    with pytest.raises(Unavailable, match="another version of the policy"):
        await minter.mint(request())


async def test_a_source_is_shown_to_the_writer_and_becomes_a_parent(stages: LocalStages) -> None:
    source = await pipeline(Script(TRUE_COPY), stages).mint(request("source"))
    script = Script("Wrap up in a scarf of teal wool when the day turns cold. You will be glad that you did.")
    asset = await pipeline(script, stages).mint(request("derived", source=source.asset_id))
    assert script.attempts[0].messages[-1][1].endswith(f"Say it differently than: {TRUE_COPY}")
    parents = stages.keepers[asset.shard].shard.entry(asset.index).parents
    assert len(parents) == 3
    assert parents[2] == (source.shard, source.index)


async def test_a_source_that_does_not_exist_is_refused_before_anything_is_generated(stages: LocalStages) -> None:
    script = Script(TRUE_COPY)
    with pytest.raises(InvalidRequest) as caught:
        await pipeline(script, stages).mint(request(source="ab" * 16))
    assert caught.value.body.where == "brief.source"
    assert script.attempts == []


def test_seeds_are_the_same_on_every_run_and_differ_between_tries_and_assets() -> None:
    assert seed_of("ab" * 16, 0) == 725206817
    seeds = {seed_of(asset_id, number) for asset_id in ("ab" * 16, "cd" * 16) for number in range(10)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_plan_is_one_try_the_free_retries_and_then_the_constrained_ones() -> None:
    assert list(retry_plan(policies()["luxury"])) == [
        Try(0, False),
        Try(1, False),
        Try(2, False),
        Try(3, False),
        Try(4, True),
    ]


async def never(attempt: Attempt, deadline_ms: int) -> Draft:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def good(attempt: Attempt, deadline_ms: int) -> Draft:
    return draft(attempt.attempt_id, "good copy")


def in_memory(generate: Generate, stages: MemoryStages) -> Pipeline:
    """A pipeline whose Unix time starts at NOW_MS and goes with the loop's clock."""
    loop = asyncio.get_running_loop()
    return Pipeline(generate, stages, policies(), SAMPLING, lambda: NOW_MS + round(loop.time() * 1000))


@pytest.mark.parametrize("stage", ["pool", "gate", "source"])
def test_the_deadline_ends_whatever_stage_it_meets_before_the_record(stage: str) -> None:
    async def scenario() -> float:
        stages = MemoryStages()
        if stage == "gate":
            stages.gate_door.shut()
        if stage == "source":
            stages.find_door.shut()
        minter = in_memory(never if stage == "pool" else good, stages)
        source = "ab" * 16 if stage == "source" else None
        with pytest.raises(DeadlineExceeded) as caught:
            await minter.mint(request(deadline_ms=NOW_MS + 5_000, source=source))
        assert caught.value.body.where == "deadline_ms"
        assert not stages.recorded
        return virtual_time.now_s()

    assert virtual_time.run(scenario()) == 5


def test_a_deadline_that_passed_before_the_start_ends_the_request_without_a_draft() -> None:
    async def scenario() -> None:
        await asyncio.sleep(6)
        with pytest.raises(DeadlineExceeded):
            await in_memory(never, MemoryStages()).mint(request(deadline_ms=NOW_MS + 5_000))
        assert virtual_time.now_s() == 6

    virtual_time.run(scenario())


def test_a_deadline_that_passes_during_the_record_does_not_undo_it() -> None:
    async def scenario() -> None:
        stages = MemoryStages()
        stages.record_door.shut()
        asyncio.get_running_loop().call_later(60, stages.record_door.open)
        asset = await in_memory(good, stages).mint(request(deadline_ms=NOW_MS + 5_000))
        assert (asset.content, virtual_time.now_s()) == ("good copy", 60)

    virtual_time.run(scenario())


@pytest.mark.parametrize("num_cancellations", [1, 2, 3])
async def test_however_often_the_record_is_cancelled_the_answer_is_the_ledgers(num_cancellations: int) -> None:
    stages = MemoryStages()
    stages.record_door.shut()
    minting = asyncio.ensure_future(in_memory(good, stages).mint(request(deadline_ms=NOW_MS + 10**11)))
    await settle()
    for _ in range(num_cancellations):
        minting.cancel()
        await settle()
    assert not minting.done()
    stages.record_door.open()
    assert (await minting).content == "good copy"
    assert list(stages.recorded) == [request().asset_id]


async def test_a_cancellation_before_the_record_records_nothing() -> None:
    stages = MemoryStages()
    stages.gate_door.shut()
    minting = asyncio.ensure_future(in_memory(good, stages).mint(request(deadline_ms=NOW_MS + 10**11)))
    await settle()
    minting.cancel()
    await settle()
    assert minting.cancelled()
    assert not stages.recorded


def test_an_attempt_says_nothing_of_who_asked() -> None:
    assert {"tenant", "value_micros", "deadline_ms"}.isdisjoint(attempt("a").__struct_fields__)
