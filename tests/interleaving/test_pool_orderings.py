"""Every order in which clients, workers and leases can meet over one attempt, each declared acceptable or not."""

import asyncio
from itertools import permutations

import pytest
import virtual_time
from briefs import attempt, draft
from virtual_time import settle

from engine.generators.contract import Draft
from engine.pool import Pool

LEASE_S = 10.0
STEPS = ("first completes", "first expires", "second pulls", "second completes", "client leaves")


async def play(order: tuple[str, ...]) -> tuple[str, list[str]]:
    """Let one worker claim the attempt, take the steps in order, and say how the client fared and who held it."""
    now_s = 0.0
    pool = Pool(lease_s=LEASE_S, now_s=lambda: now_s)
    client: asyncio.Task[Draft] = asyncio.ensure_future(pool.generate(attempt("a"), 1000))
    await settle()
    holders = [worker for worker in ("first",) if (await pool.pull(worker, 1, 0)).attempts]
    for step in order:
        if step == "first completes":
            pool.complete("first", [draft("a", "by the first")])
        elif step == "first expires":
            now_s += LEASE_S + 1
            pool.expire()
        elif step == "second pulls":
            holders += ["second"] * len((await pool.pull("second", 1, 0)).attempts)
        elif step == "second completes":
            pool.complete("second", [draft("a", "by the second")])
        else:
            client.cancel()
        held = [name for worker in pool.workers.values() for name in worker.claims]
        assert len(held) <= 1, "two workers hold one attempt"
        await settle()
    outcome = "gone" if client.cancelled() else client.result().text if client.done() else "waiting"
    if outcome == "waiting":  # a worker that is still there must be able to serve it
        now_s += LEASE_S + 1
        assert [each.attempt_id for each in (await pool.pull("last", 1, 0)).attempts] == ["a"]
        pool.complete("last", [draft("a", "by the last")])
        outcome = (await client).text
    assert not pool.tickets
    assert pool.num_waiting == 0
    return outcome, holders


def expected(order: tuple[str, ...]) -> str:
    """Whoever holds the attempt when he completes it serves it, unless the client left before that."""
    holder: str | None = "first"
    for step in order:
        worker = step.partition(" ")[0]
        if step == "client leaves":
            return "gone"
        if step.endswith("completes") and holder == worker:
            return f"by the {worker}"
        if step.endswith("expires"):
            holder = None if holder == "first" else holder
        if step.endswith("pulls") and holder is None:
            holder = "second"
    return "by the last"


@pytest.mark.parametrize("num_steps", range(1, len(STEPS) + 1))
def test_in_every_order_the_one_who_holds_the_attempt_serves_it_and_nobody_else(num_steps: int) -> None:
    for order in permutations(STEPS, num_steps):
        outcome, _ = virtual_time.run(play(order))
        assert outcome == expected(order), f"order: {order}"


def test_a_lease_that_ends_before_the_draft_comes_gives_the_attempt_to_the_other() -> None:
    outcome = virtual_time.run(play(("first expires", "second pulls", "first completes", "second completes")))
    assert outcome == ("by the second", ["first", "second"])


def test_a_draft_that_comes_before_the_lease_ends_is_the_only_one() -> None:
    outcome = virtual_time.run(play(("first completes", "first expires", "second pulls", "second completes")))
    assert outcome == ("by the first", ["first"])


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_a_client_who_leaves_as_his_draft_comes_in_leaves_the_place_free(leaves_first: bool) -> None:
    pool = Pool(lease_s=LEASE_S, now_s=lambda: 0.0)
    client = asyncio.ensure_future(pool.generate(attempt("a"), 1000))
    await settle()
    await pool.pull("w", 1, 0)
    # No turn of the loop between the two.
    if leaves_first:
        client.cancel()
        pool.complete("w", [draft("a")])
    else:
        pool.complete("w", [draft("a")])
        client.cancel()
    await settle()
    assert client.cancelled()
    assert not pool.tickets
    assert not pool.workers["w"].claims
    next_one = asyncio.ensure_future(pool.generate(attempt("b"), 1000))
    await settle()
    assert [each.attempt_id for each in (await pool.pull("w", 1, 0)).attempts] == ["b"]
    next_one.cancel()


async def test_an_attempt_stopped_and_asked_for_again_at_once_is_aborted_before_it_is_claimed_anew() -> None:
    pool = Pool(lease_s=LEASE_S, now_s=lambda: 0.0)
    gone = asyncio.ensure_future(pool.generate(attempt("a"), 1000))
    await settle()
    await pool.pull("w", 2, 0)
    gone.cancel()
    await settle()
    again = asyncio.ensure_future(pool.generate(attempt("a"), 1000))
    await settle()
    inbox = await pool.pull("w", 2, 0)
    assert (inbox.aborts, [each.attempt_id for each in inbox.attempts]) == (("a",), ["a"])
    pool.complete("w", [draft("a")])
    assert (await again).attempt_id == "a"
