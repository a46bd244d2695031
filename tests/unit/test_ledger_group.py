"""Group commit: every caller gets its own answer, whoever is in its batch and whatever becomes of it."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from settling import PLAIN, id_of
from shards import asset, content_of, open_shard

from ledger import group as group_module
from ledger.entry import ENTRY_BYTES, Entries, Entry, Flag, Kind, encode
from ledger.errors import EntryInvalid, LedgerBusy, LedgerError, LedgerFull
from ledger.group import Answer, Committer
from ledger.payload import Payload
from ledger.result import Result

NUM_CALLERS = 64
WAIT_S = 30.0
"""Long enough for any machine; what waits so long waits for ever."""


def plain(number: int, flags: Flag = PLAIN) -> Entry:
    return Entry(kind=Kind.MODEL, id=id_of(number), flags=flags)


def linked(first: int, length: int) -> bytes:
    """Linked entries with the numbers from `first` on."""
    flags = [Flag.LINKED] * (length - 1) + [PLAIN]
    return b"".join(encode(plain(first + place, flag)) for place, flag in enumerate(flags))


class FakeShard:
    """Answers every entry with the number in its id, and remembers what it was given, by batch."""

    batch_entries_max = 8192

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.num_expired_before: list[int] = []
        self.payloads: list[Sequence[Payload] | None] = []
        self.failures: dict[int, Exception] = {}  # by the number of the batch
        self.num_integrated = 0
        self.integrate_failures: list[Exception] = []
        self.integrated = threading.Event()
        self.is_in = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def expire_all(self) -> int:
        self.num_expired_before.append(len(self.batches))
        return 0

    def sequence(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> SimpleNamespace:
        numbers = [int.from_bytes(id_.tobytes()[:8], "little") for id_ in entries["id"]]
        self.is_in.set()
        assert self.may_go_on.wait(WAIT_S)
        self.batches.append(numbers)
        self.payloads.append(payloads)
        if len(self.batches) - 1 in self.failures:
            raise self.failures[len(self.batches) - 1]
        return SimpleNamespace(answers=lambda: [Answer(number, Result.OK) for number in numbers])

    def integrate(self) -> None:
        self.num_integrated += 1
        self.integrated.set()
        if self.integrate_failures:
            raise self.integrate_failures.pop(0)


@pytest.fixture
def fake() -> FakeShard:
    return FakeShard()


@pytest.fixture
def committer(fake: FakeShard) -> Iterator[Committer]:
    made = Committer(fake)
    yield made
    fake.may_go_on.set()
    made.close()


async def held(fake: FakeShard, committer: Committer) -> "asyncio.Task[Answer]":
    """A first batch, of entry 0, that stays in the shard until `may_go_on`: what comes meanwhile makes the next."""
    fake.may_go_on.clear()
    first = asyncio.create_task(committer.append(encode(plain(0))))
    assert await asyncio.to_thread(fake.is_in.wait, WAIT_S)
    return first


async def started(*calls: Awaitable[object]) -> "list[asyncio.Task[object]]":
    """The calls, each as far as it gets by itself, in their order."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks  # type: ignore[return-value]


def wait_for(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.001)


async def outcomes_of(tasks: "Sequence[asyncio.Future[object]]") -> list[object]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_S)


async def test_a_lone_caller_waits_for_nobody(fake: FakeShard, committer: Committer) -> None:
    assert await committer.append(encode(plain(7))) == Answer(7, Result.OK)
    assert fake.batches == [[7]]
    assert fake.payloads == [None]


async def test_every_one_of_many_callers_gets_the_answer_to_its_own_entries(
    fake: FakeShard, committer: Committer
) -> None:
    async def caller(number: int) -> None:
        for turn in range(20):
            first = 1 + 10 * (20 * number + turn)
            if number % 3:
                assert await committer.append(encode(plain(first))) == Answer(first, Result.OK)
            else:
                expected = tuple(Answer(first + place, Result.OK) for place in range(turn % 4 + 1))
                assert await committer.append_together(linked(first, turn % 4 + 1)) == expected

    await asyncio.wait_for(asyncio.gather(*map(caller, range(NUM_CALLERS))), WAIT_S)
    num_single, num_together = NUM_CALLERS * 2 // 3, NUM_CALLERS - NUM_CALLERS * 2 // 3
    assert sum(map(len, fake.batches)) == 20 * num_single + 50 * num_together
    assert len(fake.batches) < 20 * NUM_CALLERS


async def test_what_comes_while_a_batch_is_written_makes_the_next_in_the_order_it_came(
    fake: FakeShard, committer: Committer
) -> None:
    first = await held(fake, committer)
    others = await started(
        committer.append(encode(plain(1))),
        committer.append_together(linked(2, 3)),
        committer.append(encode(plain(5))),
    )
    fake.may_go_on.set()
    assert await first == Answer(0, Result.OK)
    together = tuple(Answer(number, Result.OK) for number in (2, 3, 4))
    assert await outcomes_of(others) == [Answer(1, Result.OK), together, Answer(5, Result.OK)]
    assert fake.batches == [[0], [1, 2, 3, 4, 5]]


async def test_one_entry_handed_in_as_together_is_answered_with_a_tuple(fake: FakeShard, committer: Committer) -> None:
    first = await held(fake, committer)
    others = await started(committer.append(encode(plain(1))), committer.append_together(linked(2, 1)))
    fake.may_go_on.set()
    assert await outcomes_of([first, *others]) == [
        Answer(0, Result.OK),
        Answer(1, Result.OK),
        (Answer(2, Result.OK),),
    ]


async def test_chains_stay_in_one_batch_whatever_room_is_left(
    fake: FakeShard, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "BATCH_ITEMS_MAX", 8)
    first = await held(fake, committer)
    lengths = [3, 4, 5, 8, 1, 1, 7, 2]
    starts = [1 + 10 * place for place in range(len(lengths))]
    chains = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
    tasks = await started(*(committer.append_together(linked(numbers[0], len(numbers))) for numbers in chains))
    fake.may_go_on.set()
    answers = await outcomes_of([first, *tasks])
    assert answers[1:] == [tuple(Answer(number, Result.OK) for number in numbers) for numbers in chains]
    one, two, three, four, five, six, seven, eight = chains
    assert fake.batches == [[0], one + two, three, four, five + six, seven, eight]


async def test_a_batch_is_bounded_in_number(
    fake: FakeShard, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "BATCH_ITEMS_MAX", 10)
    first = await held(fake, committer)
    tasks = await started(*(committer.append(encode(plain(number))) for number in range(1, NUM_CALLERS + 1)))
    fake.may_go_on.set()
    await outcomes_of([first, *tasks])
    assert [len(batch) for batch in fake.batches] == [1, 10, 10, 10, 10, 10, 10, 4]
    assert list(chain.from_iterable(fake.batches)) == list(range(NUM_CALLERS + 1))


async def test_a_batch_is_bounded_in_bytes(
    fake: FakeShard, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = len(content_of(10))
    monkeypatch.setattr(group_module, "BATCH_BYTES_MAX", 4 * num_bytes)
    first = await held(fake, committer)
    tasks = await started(*(append_asset(committer, number) for number in range(10, 30)))
    fake.may_go_on.set()
    answers = await outcomes_of([first, *tasks])
    assert answers[1:] == [Answer(number, Result.OK) for number in range(10, 30)]
    assert fake.batches == [[0], *([*range(begin, begin + 4)] for begin in range(10, 30, 4))]


async def test_a_caller_without_payload_is_batched_with_callers_who_have_one(
    fake: FakeShard, committer: Committer
) -> None:
    first = await held(fake, committer)
    tasks = await started(
        committer.append_together(linked(1, 2)), append_asset(committer, 10), committer.append(encode(plain(4)))
    )
    fake.may_go_on.set()
    await outcomes_of([first, *tasks])
    assert fake.batches == [[0], [1, 2, 10, 4]]
    assert fake.payloads == [None, [Payload(), Payload(), Payload(content_of(10)), Payload()]]


INVALID = {
    "nothing": (b"", None),
    "not whole entries": (encode(plain(1))[:-1], None),
    "two entries where there is one answer": (encode(plain(1)) * 2, None),
    "a content that does not come with it": (encode(asset(1)), None),
    "another content": (encode(asset(1)), Payload(b"another")),
    "another metadata": (encode(asset(1)), Payload(None, b"{}")),
}


@pytest.mark.parametrize("what", INVALID)
async def test_what_one_caller_hands_in_wrongly_harms_nobody(what: str, fake: FakeShard, committer: Committer) -> None:
    data, payload = INVALID[what]
    first = await held(fake, committer)
    tasks = await started(
        committer.append(encode(plain(2))), committer.append(data, payload), committer.append(encode(plain(3)))
    )
    fake.may_go_on.set()
    before, wrong, after = await outcomes_of(tasks)
    assert isinstance(wrong, EntryInvalid)
    assert (before, after) == (Answer(2, Result.OK), Answer(3, Result.OK))
    assert await first == Answer(0, Result.OK)
    assert fake.batches == [[0], [2, 3]]


async def test_more_than_the_shard_takes_is_refused_before_it_joins_a_batch(fake: FakeShard) -> None:
    fake.batch_entries_max = 4
    committer = Committer(fake)
    assert len(await committer.append_together(linked(1, 4))) == 4
    with pytest.raises(EntryInvalid, match="4 entries"):
        await committer.append_together(linked(11, 5))
    with pytest.raises(EntryInvalid, match="2 for 3 entries"):
        await committer.append_together(linked(11, 3), [Payload(), Payload()])
    committer.close()
    assert fake.batches == [[1, 2, 3, 4]]


async def test_a_caller_with_more_than_a_batch_of_many_callers_has_one_alone(
    fake: FakeShard, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "BATCH_ITEMS_MAX", 4)
    first = await held(fake, committer)
    tasks = await started(
        committer.append(encode(plain(1))), committer.append_together(linked(11, 6)), committer.append(encode(plain(2)))
    )
    fake.may_go_on.set()
    await outcomes_of([first, *tasks])
    assert fake.batches == [[0], [1], list(range(11, 17)), [2]]


async def test_nothing_follows_an_open_chain_in_its_batch(fake: FakeShard, committer: Committer) -> None:
    first = await held(fake, committer)
    open_chain = linked(11, 3)[:-ENTRY_BYTES]
    tasks = await started(
        committer.append(encode(plain(1))),
        committer.append_together(open_chain),
        committer.append(encode(plain(2, Flag.LINKED | Flag.PENDING))),
        committer.append(encode(plain(3))),
    )
    fake.may_go_on.set()
    await outcomes_of([first, *tasks])
    assert fake.batches == [[0], [1, 11, 12], [2], [3]]


async def test_what_is_over_is_expired_before_every_batch(fake: FakeShard, committer: Committer) -> None:
    for number in range(3):
        await committer.append(encode(plain(number)))
    assert fake.num_expired_before == [0, 1, 2]


@pytest.mark.parametrize(("name", "limit"), [("CALLERS_MAX", 3), ("WAITING_BYTES_MAX", 2 * ENTRY_BYTES + 1)])
async def test_too_many_who_wait_are_refused_at_once_until_some_are_done(
    name: str, limit: int, fake: FakeShard, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, name, limit)
    first = await held(fake, committer)
    waiting = await started(committer.append(encode(plain(1))), committer.append(encode(plain(2))))
    with pytest.raises(LedgerBusy, match=f"3 callers with {3 * ENTRY_BYTES} bytes"):
        await committer.append(encode(plain(3)))
    fake.may_go_on.set()
    await outcomes_of([first, *waiting])
    assert await committer.append(encode(plain(3))) == Answer(3, Result.OK)
    assert sorted(chain.from_iterable(fake.batches)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "error",
    [LedgerFull("no room", where="disk", fix="Make some."), RuntimeError("not one of ours"), KeyError(1)],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_reaches_everybody_in_the_batch_and_the_next_batch_goes_on(
    error: Exception, fake: FakeShard, committer: Committer
) -> None:
    first = await held(fake, committer)
    fake.failures[1] = error
    tasks = await started(
        *(committer.append(encode(plain(number))) for number in range(1, NUM_CALLERS)),
        committer.append_together(linked(100, 3)),
    )
    fake.may_go_on.set()
    assert await first == Answer(0, Result.OK)
    assert await outcomes_of(tasks) == [error] * NUM_CALLERS
    assert await committer.append(encode(plain(7))) == Answer(7, Result.OK)


async def test_a_caller_that_is_cancelled_is_recorded_and_the_others_are_answered(
    fake: FakeShard, committer: Committer
) -> None:
    first = await held(fake, committer)
    tasks = await started(*(committer.append(encode(plain(number))) for number in range(1, NUM_CALLERS)))
    for task in tasks[::2]:
        task.cancel()
    await asyncio.sleep(0)
    fake.may_go_on.set()
    assert await first == Answer(0, Result.OK)
    outcomes = await outcomes_of(tasks)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    assert outcomes[1::2] == [Answer(number, Result.OK) for number in range(2, NUM_CALLERS, 2)]
    assert fake.batches == [[0], list(range(1, NUM_CALLERS))]


def test_callers_of_several_event_loops_share_a_batch(fake: FakeShard, committer: Committer) -> None:
    num_loops, num_each = 4, NUM_CALLERS // 4
    are_ready = threading.Barrier(num_loops + 1)

    async def callers(place: int) -> list[object]:
        numbers = range(1 + place * num_each, 1 + (place + 1) * num_each)
        tasks = await started(*(committer.append(encode(plain(number))) for number in numbers))
        await asyncio.to_thread(are_ready.wait, WAIT_S)
        assert await outcomes_of(tasks) == [Answer(number, Result.OK) for number in numbers]
        return [asyncio.get_running_loop()]

    async def one() -> None:
        first = await held(fake, committer)
        await asyncio.to_thread(are_ready.wait, WAIT_S)
        fake.may_go_on.set()
        assert await first == Answer(0, Result.OK)

    with ThreadPoolExecutor(num_loops + 1) as threads:
        main = threads.submit(asyncio.run, one())
        assert fake.is_in.wait(WAIT_S)
        loops = list(threads.map(lambda place: asyncio.run(callers(place)), range(num_loops)))
        main.result(WAIT_S)
    assert len({id(loop) for (loop,) in loops}) == num_loops
    assert [len(batch) for batch in fake.batches] == [1, NUM_CALLERS]
    assert sorted(fake.batches[1]) == list(range(1, NUM_CALLERS + 1))


async def test_a_closed_event_loop_keeps_nobody_else_waiting(fake: FakeShard, committer: Committer) -> None:
    first = await held(fake, committer)
    await asyncio.to_thread(hand_in_and_leave, committer, plain(1))
    other = await started(committer.append(encode(plain(2))))
    fake.may_go_on.set()
    assert await outcomes_of([first, *other]) == [Answer(0, Result.OK), Answer(2, Result.OK)]
    assert fake.batches == [[0], [1, 2]]
    assert await committer.append(encode(plain(3))) == Answer(3, Result.OK)


def hand_in_and_leave(committer: Committer, entry: Entry) -> None:
    """From an event loop that is closed before the answer comes."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(committer.append(encode(entry)))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


async def test_closing_writes_what_was_handed_in_and_ends_both_threads(
    fake: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "BATCH_ITEMS_MAX", 10)
    before = set(threading.enumerate())
    committer = Committer(fake)
    mine = set(threading.enumerate()) - before
    assert {thread.name for thread in mine} == {"committer", "integrator"}
    first = await held(fake, committer)
    tasks = await started(*(committer.append(encode(plain(number))) for number in range(1, NUM_CALLERS)))
    closing = asyncio.create_task(asyncio.to_thread(committer.close))
    await asyncio.to_thread(wait_for, lambda: committer._is_closed)
    assert not closing.done()
    fake.may_go_on.set()
    await asyncio.wait_for(closing, WAIT_S)
    assert not any(thread.is_alive() for thread in mine)
    assert await outcomes_of([first, *tasks]) == [Answer(number, Result.OK) for number in range(NUM_CALLERS)]


async def test_a_closed_committer_takes_nothing_more_and_may_be_closed_again(fake: FakeShard) -> None:
    committer = Committer(fake)
    await committer.append(encode(plain(1)))
    committer.close()
    committer.close()
    with pytest.raises(LedgerError, match="closed"):
        await committer.append(encode(plain(2)))
    with pytest.raises(LedgerError, match="closed"):
        await committer.append_together(linked(2, 2))
    assert fake.batches == [[1]]


def test_who_hands_in_while_it_is_closed_is_answered_or_refused_but_never_kept_waiting(fake: FakeShard) -> None:
    committer = Committer(fake)
    num_recorded = [0] * 4

    async def call_until_closed(place: int) -> None:
        with pytest.raises(LedgerError, match="closed"):
            while True:
                number = 4 * num_recorded[place] + place
                answer = await asyncio.wait_for(committer.append(encode(plain(number))), WAIT_S)
                assert answer == Answer(number, Result.OK)
                num_recorded[place] += 1

    with ThreadPoolExecutor(6) as threads:
        callers = [threads.submit(lambda place=place: asyncio.run(call_until_closed(place))) for place in range(4)]
        while min(num_recorded) < 10 and not any(caller.done() for caller in callers):
            assert fake.is_in.wait(WAIT_S)
        closers = [threads.submit(committer.close) for _ in range(2)]
        for done in [*callers, *closers]:
            done.result(WAIT_S)
    assert min(num_recorded) >= 10
    assert sorted(chain.from_iterable(fake.batches)) == sorted(
        4 * turn + place for place, count in enumerate(num_recorded) for turn in range(count)
    )


async def test_what_was_sequenced_is_integrated_without_anybody_asking(fake: FakeShard, committer: Committer) -> None:
    await committer.append(encode(plain(1)))
    assert await asyncio.to_thread(fake.integrated.wait, WAIT_S)


async def test_a_failed_integration_is_tried_again_after_the_next_batch(fake: FakeShard, committer: Committer) -> None:
    fake.integrate_failures += [LedgerFull("no room", where="disk", fix="Make some."), ValueError("not one of ours")]
    for number in range(1, 4):
        fake.integrated.clear()
        assert await committer.append(encode(plain(number))) == Answer(number, Result.OK)
        assert await asyncio.to_thread(fake.integrated.wait, WAIT_S)
    assert fake.integrate_failures == []


async def append_asset(committer: Committer, number: int) -> Answer:
    return await committer.append(encode(asset(number)), Payload(content_of(number)))


async def test_a_shard_answers_each_of_many_callers_with_the_place_of_its_entry(tmp_path: Path) -> None:
    """Every number comes from two callers: one of them records it, the other one is told where it is."""
    with open_shard(tmp_path) as shard:
        committer = Committer(shard)
        numbers = [1 + place // 2 for place in range(NUM_CALLERS)] * 4
        answers = await asyncio.gather(*(append_asset(committer, number) for number in numbers))
        await asyncio.to_thread(committer.close)
        assert shard.tree_size == NUM_CALLERS // 2
        for number, answer in zip(numbers, answers, strict=True):
            assert shard.entry(answer.index).id == id_of(number)
            assert shard.content(answer.index) == content_of(number)
        for number in range(1, NUM_CALLERS // 2 + 1):
            results = sorted(answer.result for other, answer in zip(numbers, answers, strict=True) if other == number)
            assert results == [Result.OK, *[Result.EXISTS] * 7]
    with open_shard(tmp_path) as shard:
        assert [shard.find(id_of(number)) is not None for number in set(numbers)] == [True] * (NUM_CALLERS // 2)


async def test_a_shard_refuses_entries_and_chains_of_a_batch_one_by_one(tmp_path: Path) -> None:
    """Callers with a good entry, a bad one, a good chain and a bad one, all at the same time."""
    with open_shard(tmp_path) as shard:
        committer = Committer(shard)

        async def call(number: int) -> None:
            first = 100 * number + 1
            good, bad = linked(first, 3), linked(first + 10, 2) + encode(plain(0))
            bad = bad[:ENTRY_BYTES] + encode(plain(first + 11, Flag.LINKED)) + bad[2 * ENTRY_BYTES :]
            recorded = await committer.append_together(good)
            assert [answer.result for answer in recorded] == [Result.OK] * 3
            assert [answer.index - recorded[0].index for answer in recorded] == [0, 1, 2]
            refused = await committer.append_together(bad)
            failed = Result.LINKED_EVENT_FAILED
            assert [answer.result for answer in refused] == [failed, failed, Result.ID_MUST_NOT_BE_ZERO]
            unknown = await committer.append(encode(Entry(kind=Kind.MODEL, id=id_of(first + 20), parents=((1, 0),))))
            assert unknown.result == Result.UNKNOWN_PARENT
            assert (await committer.append(encode(plain(first + 30)))).result == Result.OK

        await asyncio.gather(*map(call, range(NUM_CALLERS)))
        await asyncio.to_thread(committer.close)
        assert shard.tree_size == 4 * NUM_CALLERS


async def test_a_shard_that_could_not_integrate_tells_the_next_batch_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_shard(tmp_path) as shard:
        committer, failed = Committer(shard), threading.Event()
        await append_asset(committer, 4)  # the write-ahead log is made
        shard.integrate()

        def no_room() -> None:
            failed.set()
            raise LedgerFull("no room", where="disk", fix="Make some.")

        with monkeypatch.context() as patch:
            patch.setattr(shard._store, "write", no_room)
            assert (await append_asset(committer, 1)).result == Result.OK
            assert await asyncio.to_thread(failed.wait, WAIT_S)
            await asyncio.to_thread(wait_for, lambda: shard._writer._is_behind)
            with pytest.raises(LedgerFull):
                await append_asset(committer, 2)
        assert await append_asset(committer, 3) == Answer(2, Result.OK)
        await asyncio.to_thread(committer.close)
        contents = [content_of(number) for number in (4, 1, 3)]
        assert [shard.content(index) for index in range(shard.tree_size)] == contents


async def test_as_much_as_a_batch_is_integrated_before_its_time(
    fake: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.group.INTEGRATE_AFTER_S", 1_000.0)
    with closing(Committer(fake)) as committer:
        await committer.append(encode(plain(0)))
        assert not fake.integrated.is_set(), "it waits for more"
        await committer.append_together(b"".join(encode(plain(number)) for number in range(4096)))
        assert await asyncio.to_thread(fake.integrated.wait, WAIT_S)
    assert fake.num_integrated == 2, "what is left is integrated at once when it closes"
