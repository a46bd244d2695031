"""Hops: an actor's own error arrives as what it is, at once; no answer is tried again; and batches fit in a message."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import virtual_time
from briefs import FACTS, TRUE_COPY, attempt, draft, policies, small_config
from stub_handle import Method, StubHandle
from virtual_time import settle

import actors.hop
from actors.gatekeeper import Gatekeeper
from actors.gateway import MINT_SIZE_MAX, Gateway
from actors.generator import GeneratorActor
from actors.hop import (
    BATCH_BYTES_MAX,
    HOP_S_MAX,
    LEAVE_S_MAX,
    RETRY_S,
    NoAnswer,
    RemotePool,
    RemoteStages,
    answering,
    caller,
    encode,
)
from engine.calls import PlaceOf, decode_call
from engine.errors import InvalidRequest, MintageError, Refused, Unavailable
from engine.generators.fake import FakeGenerator
from engine.records import Commit, Outcome
from engine.request import Status
from gate.verdict import Case
from ledger.errors import LedgerCorrupt

CORRUPT = LedgerCorrupt("its bytes are not its leaf", where="entry 3", fix="Restore it from a copy.")
# What Serve raises where a replica is not there: in its router, of gRPC, of a connection it lost in the middle.
TRANSPORT = [ConnectionError("refused"), RuntimeError("Unexpected error (StatusCode.UNAVAILABLE)"), OSError("gone")]


class Shard:
    """A shard actor that says what the test wants."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.batches: list[list[str]] = []

    @answering
    async def find(self, batch: bytes) -> bytes:
        if self.error is not None:
            raise self.error
        self.batches.append(msgspec.msgpack.decode(batch))
        return encode([Outcome()] * len(self.batches[-1]))

    @answering
    async def commit(self, batch: bytes) -> bytes:
        return encode([Outcome()] * len(msgspec.msgpack.decode(batch, type=list[Commit])))

    @answering
    async def checkpoint(self, _: bytes) -> bytes:
        return encode(["a checkpoint"])

    @answering
    async def read(self, path: str) -> bytes:
        if self.error is not None:
            raise self.error
        return encode(f"what is at {path}".encode())

    @answering
    async def read_super(self, path: str) -> bytes:
        return encode(f"what the super-log has at {path}".encode())

    @answering
    async def call(self, data: bytes) -> bytes:
        if self.error is not None:
            raise self.error
        return encode(int(decode_call(data).id))

    @answering
    async def upper(self, batch: bytes) -> bytes:
        self.batches.append(msgspec.msgpack.decode(batch))
        return encode([item.upper() for item in self.batches[-1]])


def case(text: str = TRUE_COPY) -> Case:
    return Case(facts=FACTS, prompt="Write.", text=text, finish_reason="stop", policy="default")


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (CORRUPT, "ledger_corrupt", MintageError),
        (Refused("no", where="gate", fix="Mend it."), "refused", Refused),
        (ValueError("a defect"), "internal", MintageError),
        (TimeoutError("of its own"), "internal", MintageError),
    ],
)
async def test_an_actors_own_error_arrives_as_what_it_is_and_is_not_tried_again(
    error: Exception, code: str, kind: type[MintageError]
) -> None:
    handle = StubHandle(Shard(error))
    stages = RemoteStages(StubHandle(Gatekeeper(policies())), [handle])
    with pytest.raises(kind) as caught:
        await stages.find("ab" * 16)
    assert (caught.value.body.code, handle.find.num_calls) == (code, 1)


@pytest.mark.parametrize("loss", TRANSPORT, ids=repr)
async def test_a_call_that_raises_is_no_answer_whatever_it_raises(loss: Exception) -> None:
    handle = StubHandle(Shard())
    handle.upper.losses = [loss]
    with pytest.raises(NoAnswer) as caught:
        await caller(handle.upper, str, "there")(["a"])
    assert (caught.value.body.code, caught.value.body.where) == ("unavailable", "there")
    assert type(loss).__name__ in caught.value.body.what


def test_a_call_that_never_returns_is_no_answer_after_a_while() -> None:
    async def scenario() -> float:
        with pytest.raises(NoAnswer, match="TimeoutError"):
            await caller(Method(lambda _: asyncio.sleep(10 * HOP_S_MAX)), str, "there")(["a"])
        return virtual_time.now_s()

    assert virtual_time.run(scenario()) == HOP_S_MAX


async def test_a_cancellation_on_the_other_side_is_no_answer_and_one_on_this_side_is_a_cancellation() -> None:
    handle = StubHandle(Shard())
    handle.upper.losses = [asyncio.CancelledError()]
    with pytest.raises(NoAnswer, match="CancelledError"):
        await caller(handle.upper, str, "there")(["a"])
    calling = asyncio.ensure_future(caller(Method(lambda _: asyncio.sleep(60)), str, "there")(["a"]))
    await settle()
    calling.cancel()
    await settle()
    assert calling.cancelled()


async def test_a_call_of_a_shard_arrives_with_its_answer_or_its_error() -> None:
    handles = [StubHandle(Shard()), StubHandle(Shard(CORRUPT))]
    stages = RemoteStages(StubHandle(Gatekeeper(policies())), handles)
    handles[0].call.losses = [ConnectionError("refused")]
    assert await stages.call(0, PlaceOf(b"17")) == 17
    with pytest.raises(MintageError) as caught:
        await stages.call(1, PlaceOf(b"17"))
    assert (caught.value.body.code, handles[1].call.num_calls) == ("ledger_corrupt", 1)


async def test_logs_are_read_from_their_shards_and_the_super_log_from_beside_the_first() -> None:
    stages = RemoteStages(StubHandle(Gatekeeper(policies())), [StubHandle(Shard()), StubHandle(Shard(CORRUPT))])
    assert list(stages.logs) == ["0", "1", "super"]
    assert await stages.logs["0"]("checkpoint") == b"what is at checkpoint"
    assert await stages.logs["super"]("checkpoint") == b"what the super-log has at checkpoint"
    with pytest.raises(MintageError, match="not its leaf"):
        await stages.logs["1"]("tile/0/000")


def test_stages_ask_again_after_every_loss_and_give_up_after_the_last_pause() -> None:
    async def scenario() -> tuple[int, int]:
        gatekeeper, shard = StubHandle(Gatekeeper(policies())), StubHandle(Shard())
        stages = RemoteStages(gatekeeper, [shard])
        gatekeeper.assess.losses = list(TRANSPORT)
        assert (await stages.assess(case())).accepted
        shard.checkpoint.answer_losses = [ConnectionError()]
        assert await stages.checkpoints() == ["a checkpoint"]
        shard.find.losses = [ConnectionError() for _ in range(100)]
        with pytest.raises(Unavailable, match="no answer"):
            await stages.find("ab" * 16)
        return gatekeeper.assess.num_calls, shard.find.num_calls

    assert virtual_time.run(scenario()) == (1 + len(TRANSPORT), 1 + len(RETRY_S))


async def test_the_error_of_one_item_of_a_look_up_is_raised_for_it_alone() -> None:
    class Damaged(Shard):
        @answering
        async def find(self, batch: bytes) -> bytes:
            ids = msgspec.msgpack.decode(batch)
            error = Unavailable("it is damaged", where="entry 3", fix="Restore it.").body
            return encode([Outcome(error=error) if each.startswith("d") else Outcome() for each in ids])

    stages = RemoteStages(StubHandle(Gatekeeper(policies())), [StubHandle(Damaged())])
    sound, damaged = await asyncio.gather(stages.find("ab" * 16), stages.find("da" * 16), return_exceptions=True)
    assert sound == Outcome()
    assert isinstance(damaged, Unavailable)
    assert damaged.body.where == "entry 3"


async def test_a_batch_that_is_too_large_for_one_message_goes_in_parts_and_in_order() -> None:
    shard = Shard()
    sent = [letter * (BATCH_BYTES_MAX // 3) for letter in "abcde"] + ["f" * (2 * BATCH_BYTES_MAX)]
    assert await caller(StubHandle(shard).upper, str, "there")(sent) == [item.upper() for item in sent]
    assert [item for batch in shard.batches for item in batch] == sent
    assert ["".join(item[0] for item in batch) for batch in shard.batches] == ["a", "bc", "d", "e", "f"]


def gateway(path: Path, *, gatekeeper: Any = None, shard: Any = None) -> Gateway:
    """A gateway whose stages are stubs."""
    stages = StubHandle(gatekeeper or Gatekeeper(policies())), [StubHandle(shard or Shard())]
    return Gateway(small_config(path), policies(), ("key",), *stages)


async def goodbye(actor: GeneratorActor) -> None:
    """As Serve says it."""
    farewell = actor.__del__()
    assert farewell is not None
    await farewell


async def test_a_generator_works_through_a_handle_whose_calls_and_answers_get_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.hop, "RETRY_S", (0.01,))
    there = gateway(tmp_path)
    handle = StubHandle(there)
    for method in (handle.pull, handle.complete):
        method.losses = list(TRANSPORT)
        method.answer_losses = [ConnectionError("lost"), asyncio.CancelledError()]
    actor = GeneratorActor(small_config(tmp_path), lambda: handle, lambda _: FakeGenerator())
    await actor.check_health()
    waiters = [there.service.pool.generate(attempt(f"a{n}", f"copy {n}"), 1000) for n in range(20)]
    drafts = await asyncio.wait_for(asyncio.gather(*waiters), 20)
    assert [draft.text for draft in drafts] == [f"copy {n}" for n in range(20)]
    await actor.check_health()
    await goodbye(actor)


async def test_a_generator_that_serve_bids_farewell_leaves_the_pool(tmp_path: Path) -> None:
    there = gateway(tmp_path)
    actor = GeneratorActor(small_config(tmp_path), lambda: StubHandle(there), lambda _: FakeGenerator())
    await actor.check_health()
    while not there.service.pool.workers:  # noqa: ASYNC110 - the pool has no event for it
        await asyncio.sleep(0.001)
    await goodbye(actor)
    assert there.service.pool.workers == {}
    with pytest.raises(asyncio.CancelledError):
        await actor.check_health()


async def test_a_pool_that_answers_with_an_error_ends_the_call_instead_of_being_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = gateway(tmp_path)
    handle = StubHandle(there)
    monkeypatch.setattr(there.service.pool, "complete", lambda *_: 1 / 0)
    with pytest.raises(MintageError, match="ZeroDivisionError") as caught:
        await RemotePool(handle).complete("w", [draft("a")])
    assert (caught.value.body.code, handle.complete.num_calls) == ("internal", 1)


def test_leaving_a_gateway_that_is_gone_takes_one_call_and_not_long() -> None:
    async def scenario() -> tuple[int, float]:
        method = Method(lambda _: asyncio.sleep(60))
        handle = StubHandle(None)
        handle.leave = method
        await RemotePool(handle).leave("w")
        method.losses = [ConnectionError("gone")]
        await RemotePool(handle).leave("w")
        return method.num_calls, virtual_time.now_s()

    assert virtual_time.run(scenario()) == (2, LEAVE_S_MAX)


async def test_one_body_more_than_a_handle_call_may_have_starts_nothing(tmp_path: Path) -> None:
    there = gateway(tmp_path)
    with pytest.raises(InvalidRequest, match=f"at most {MINT_SIZE_MAX}") as caught:
        await there.mint([{}] * (MINT_SIZE_MAX + 1))
    assert caught.value.body.where == "bodies"
    statuses = await there.mint([{}] * MINT_SIZE_MAX)
    assert {status.state for status in statuses} == {"failed"}


async def test_a_request_whose_ledger_entry_is_damaged_is_told_so_by_the_handle(tmp_path: Path) -> None:
    there = gateway(tmp_path, shard=Shard(CORRUPT))
    body = {"brief": {"facts": FACTS}, "idempotency_key": "k"}
    (status,) = await there.mint([body])
    assert isinstance(status, Status)
    assert status.error is not None
    assert (status.state, status.error.code) == ("failed", "ledger_corrupt")
