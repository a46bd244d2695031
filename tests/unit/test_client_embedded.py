"""The embedded engine from end to end, through the client: no Ray, no model, all else real."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from briefs import FACTS, FALSE_COPY, TRUE_COPY, small_config

from engine import Client, Engine, connect
from engine.client import read_keys
from engine.config import Config, LedgerConfig, PoolConfig
from engine.embedded import LoopThread
from engine.errors import DeadlineExceeded, IdempotencyConflict, InvalidRequest, NotFound, Refused, StartFailed
from engine.generators.contract import Attempt, Draft, Generator
from engine.generators.fake import FakeGenerator
from engine.request import Reason
from engine.service import unix_ms
from gate.errors import PolicyError
from ledger.errors import LedgerLocked, LogMismatch
from ledger.fsck import check
from ledger.receipt import verify
from ledger.shard import Shard

PATIENCE_S = 20.0


class HeldGenerator(FakeGenerator):
    """Steps only while its door is open."""

    def __init__(self, writer: Callable[[Attempt], str]) -> None:
        super().__init__(writer=writer)
        self.door = threading.Event()
        self.door.set()

    def step(self) -> list[Draft]:
        return super().step() if self.door.wait(PATIENCE_S) else []


def writer(attempt: Attempt) -> str:
    """False copies for whoever asks for lies, true ones for the others."""
    return FALSE_COPY if "lies" in attempt.messages[-1][1] else TRUE_COPY


def open_engine(path: Path, generator: FakeGenerator | None = None) -> Engine:
    config = small_config(path, pool=PoolConfig(lease_s=5))
    return Engine.open(path, config, generator=generator or FakeGenerator(writer=writer))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(tmp_path) as opened:
        yield opened


@pytest.fixture
def client(engine: Engine) -> Client:
    return connect(engine)


def test_mint_gives_an_asset_whose_receipt_verifies(client: Client, tmp_path: Path) -> None:
    asset = client.mint(FACTS, tier="priority")
    assert (asset.content, asset.tier, asset.model) == (TRUE_COPY, "priority", "fake")
    keys = read_keys(tmp_path / "ledger" / "verifier.keys")
    assert verify(asset.receipt, keys, TRUE_COPY.encode()).index == asset.index


def test_submit_gives_an_id_and_result_its_asset(client: Client) -> None:
    asset_id = client.submit(FACTS, idempotency_key="4711")
    assert client.result(asset_id).asset_id == asset_id
    assert client.status(asset_id).state == "released"
    assert client.submit(FACTS, idempotency_key="4711") == asset_id


async def test_every_call_has_an_async_form(client: Client) -> None:
    asset_id = await client.submit_async(FACTS, idempotency_key="4711")
    asset = await client.result_async(asset_id)
    again = await client.mint_async(FACTS, idempotency_key="4711")
    assert (asset.asset_id, again.index) == (asset_id, asset.index)


def test_many_threads_may_mint_at_once(engine: Engine) -> None:
    assets = []

    def mint(number: int) -> None:
        assets.append(connect(engine).mint(FACTS, idempotency_key=f"k{number}"))

    threads = [threading.Thread(target=mint, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len({asset.asset_id for asset in assets}) == 16
    assert len({(asset.shard, asset.index) for asset in assets}) == 16


def test_a_refusal_is_raised_with_its_reasons(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.mint(FACTS, style="tell lies")
    reasons = [reason for reason in caught.value.reasons if isinstance(reason, Reason)]
    assert {reason.attempt for reason in reasons} == {0, 1, 2, 3}


def test_bad_input_is_raised_as_the_named_errors(client: Client) -> None:
    with pytest.raises(InvalidRequest) as unfit:
        client.mint({"Colour": "Teal"})
    assert unfit.value.body.where == "brief.facts"
    with pytest.raises(InvalidRequest) as unknown:
        client.submit(FACTS, colour="teal")
    assert unknown.value.body.where == "body"
    with pytest.raises(NotFound):
        client.mint(FACTS, policy="budget")
    with pytest.raises(NotFound):
        client.status("ab" * 16)
    with pytest.raises(NotFound):
        client.result("ab" * 16)


def test_a_key_that_stands_for_another_request_is_a_conflict(client: Client) -> None:
    client.mint(FACTS, idempotency_key="4711")
    with pytest.raises(IdempotencyConflict):
        client.mint(FACTS, idempotency_key="4711", style="calm")


def test_what_takes_longer_than_the_caller_waits_is_a_timeout_and_goes_on(tmp_path: Path) -> None:
    generator = HeldGenerator(writer)
    generator.door.clear()
    with open_engine(tmp_path, generator) as engine:
        client = connect(engine)
        with pytest.raises(TimeoutError):
            client.mint(FACTS, timeout_s=0.01, idempotency_key="4711")
        asset_id = client.submit(FACTS, idempotency_key="4711")
        with pytest.raises(TimeoutError):
            client.result(asset_id, timeout_s=0.01)
        generator.door.set()
        assert client.result(asset_id).content == TRUE_COPY


def test_a_deadline_that_passes_is_raised_by_its_name(tmp_path: Path) -> None:
    generator = HeldGenerator(writer)
    generator.door.clear()
    with open_engine(tmp_path, generator) as engine:
        with pytest.raises(DeadlineExceeded):
            connect(engine).mint(FACTS, deadline_ms=unix_ms() + 200)
        generator.door.set()


def test_what_was_released_is_there_after_the_engine_was_opened_again(tmp_path: Path) -> None:
    with open_engine(tmp_path) as engine:
        first = connect(engine).mint(FACTS, idempotency_key="4711")
        checkpoints = connect(engine).checkpoints()
    generator = FakeGenerator(writer=lambda _: "never asked")
    with open_engine(tmp_path, generator) as engine:
        client = connect(engine)
        assert client.status(first.asset_id).state == "released"
        again = client.mint(FACTS, idempotency_key="4711")
        assert client.checkpoints() == checkpoints
        with pytest.raises(IdempotencyConflict):
            client.mint(FACTS, idempotency_key="4711", style="calm")
    assert (again.content, again.index) == (first.content, first.index)
    keys = read_keys(tmp_path / "ledger" / "verifier.keys")
    for asset in (first, again):
        verify(asset.receipt, keys, asset.content.encode())
    report = check(tmp_path / "ledger")
    assert report.problems == ()
    assert report.num_entries == 3
    assert generator.num_steps == 0


def test_a_directory_has_one_engine_at_a_time_and_a_failed_start_gives_back_what_it_took(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Shard.open.__func__.__kwdefaults__, "lock_wait_s", 0)  # type: ignore[attr-defined]
    with pytest.raises(LedgerLocked):
        open_engine(tmp_path)
    assert connect(engine).mint(FACTS).content == TRUE_COPY


def test_a_wrong_policy_or_ledger_is_said_before_the_model_is_loaded(tmp_path: Path, engine: Engine) -> None:
    def load_model(_: Config) -> Generator:
        raise AssertionError("the model was loaded")

    with pytest.raises(PolicyError):
        Engine(small_config(tmp_path / "other", policies_dir=str(tmp_path)), load_model)
    with pytest.raises(LogMismatch):
        Engine(small_config(tmp_path, ledger=LedgerConfig(num_shards=3)), load_model)


def test_a_model_that_does_not_load_gives_the_ledger_back(tmp_path: Path) -> None:
    def load_model(_: Config) -> Generator:
        raise StartFailed("no memory", where="model", fix="Buy some.")

    with pytest.raises(StartFailed):
        Engine(small_config(tmp_path), load_model)
    with open_engine(tmp_path) as engine:
        assert connect(engine).mint(FACTS).content == TRUE_COPY


def test_a_start_that_fails_after_the_model_was_loaded_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ClosingGenerator(FakeGenerator):
        num_closed = 0

        def close(self) -> None:
            self.num_closed += 1
            super().close()

    def no_thread(_: str) -> LoopThread:
        raise RuntimeError("can't start new thread")

    generator = ClosingGenerator(writer=writer)
    with monkeypatch.context() as patch:
        patch.setattr("engine.embedded.LoopThread", no_thread)
        with pytest.raises(RuntimeError, match="thread"):
            open_engine(tmp_path, generator)
    assert generator.num_closed == 1
    with open_engine(tmp_path) as engine:
        assert connect(engine).mint(FACTS).content == TRUE_COPY


def test_closing_stops_what_is_open_and_ends_generator_and_thread(tmp_path: Path) -> None:
    generator = HeldGenerator(writer)
    generator.door.clear()
    engine = open_engine(tmp_path, generator)
    asset_id = connect(engine).submit(FACTS)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine.service.intake.jobs:
        closing.join(0.001)
    generator.door.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert not generator.running
    assert not engine.thread.thread.is_alive()
    assert check(tmp_path / "ledger").num_entries == 0
    with open_engine(tmp_path) as reopened, pytest.raises(NotFound):
        connect(reopened).status(asset_id)


def test_a_refused_request_leaves_nothing_in_the_ledger(tmp_path: Path) -> None:
    generator = FakeGenerator(writer=lambda _: FALSE_COPY)
    with open_engine(tmp_path, generator) as engine, pytest.raises(Refused):
        connect(engine).mint(FACTS)
    assert check(tmp_path / "ledger").num_entries == 0
