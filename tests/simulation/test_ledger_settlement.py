"""Exchanges between many shards, under every fault that a seed can think of: nothing is ever settled by halves.

`MINTAGE_SETTLEMENTS=1000000` settles a million of them; a failing test's name holds the seed of its world. What
happened in each world is printed (`pytest -rP`).
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from broken_protocols import (
    forgets_the_decision,
    gives_up_what_it_has_decided,
    resumes_without_asking,
    takes_a_refusal_for_the_end,
    takes_any_decision_for_its_own,
    takes_one_vote_for_all,
    voids_before_it_is_decided,
)
from settlement_checker import Violation
from settlement_world import CRASHES, Faults, Protocol, Size, World

from ledger import legs
from ledger.decision import Answer, Request, Stage
from ledger.entry import Entry
from ledger.errors import LedgerCorrupt
from ledger.legs import Appends
from ledger.payload import Payload
from ledger.result import Result

NUM_SETTLEMENTS = int(os.environ.get("MINTAGE_SETTLEMENTS", "20000"))
NUM_WORLDS = max(8, NUM_SETTLEMENTS // 5_000)
WORLD_SETTLEMENTS = -(-NUM_SETTLEMENTS // NUM_WORLDS)
MEMORY = Path("/dev/shm")
"""A file system in memory: nothing here asks whether the disk keeps its promises."""

SMALL = Size(num_shards=3, num_owners=30, num_assets=500, num_coordinators=2, num_asked_per_tick=30, funds=4_000)
HARSH = Faults(loss=0.1, repeat=0.1, delay_ticks_max=8, shard_crash=0.02, coordinator_crash=0.02, id_reuse=0.02)
SOUND = Protocol()
NUM_SEEDS_OF_A_BUG = 5


@contextmanager
def world(seed: int, *, size: Size, faults: Faults = HARSH, protocol: Protocol = SOUND) -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        opened = World(seed, Path(folder), size=size, faults=faults, protocol=protocol)
        try:
            yield opened
        finally:
            opened.close()


@pytest.mark.parametrize("seed", range(NUM_WORLDS))
def test_no_exchange_is_settled_by_halves_whatever_fails(seed: int) -> None:
    faults = HARSH if seed % 8 == 7 else Faults()
    with world(seed, size=Size(num_shards=2 + seed % 6), faults=faults) as opened:
        opened.run(WORLD_SETTLEMENTS)
        print(f"seed {seed}: {dict(sorted(opened.outcomes.items()))}")
        assert opened.outcomes["committed"] >= WORLD_SETTLEMENTS


def test_the_same_seed_gives_the_same_roots_and_another_one_others() -> None:
    roots = []
    for seed in (1, 1, 2):
        with world(seed, size=SMALL) as opened:
            opened.run(200)
            roots.append(opened.roots())
    assert roots[0] == roots[1]
    assert not set(roots[0]) & set(roots[2])


def answers_before_it_is_durable(shard: Appends, requests: list[Request]) -> list[Answer]:
    """Says OK to the first request of a batch, and forgets it."""
    first, *others = requests
    forgotten = Answer(first.exchange.digest, first.shard, first.stage, Result.OK)
    return [forgotten, *(legs.answers(shard, others) if others else ())]


BUGS = {
    "a coordinator that forgets the decision": Protocol(after=forgets_the_decision),
    "a coordinator that voids before it is decided": Protocol(after=voids_before_it_is_decided),
    "a coordinator that takes one vote for all": Protocol(after=takes_one_vote_for_all),
    "a coordinator that takes any decision for its own": Protocol(after=takes_any_decision_for_its_own),
    "a coordinator that takes a refusal for the end": Protocol(after=takes_a_refusal_for_the_end),
    "a coordinator that gives up what it has decided": Protocol(give_up=gives_up_what_it_has_decided),
    "a recovery that does not ask for the decision": Protocol(resume=resumes_without_asking),
    "a shard that answers before it is durable": Protocol(answers=answers_before_it_is_durable),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_checker_catches(bug: str) -> None:
    with pytest.raises((Violation, LedgerCorrupt)):
        run_small_worlds(BUGS[bug])


def test_the_checker_catches_legs_that_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    items = legs.items

    def timed(request: Request) -> list[tuple[Entry, Payload]]:
        timeout_s = 3 if request.stage == Stage.PREPARE else 0
        return [
            (msgspec.structs.replace(entry, num_bytes=entry.num_bytes or timeout_s), payload)
            for entry, payload in items(request)
        ]

    monkeypatch.setattr(legs, "items", timed)
    with pytest.raises((Violation, LedgerCorrupt)):
        run_small_worlds(SOUND)


def test_the_small_worlds_are_in_order_without_a_bug_and_see_every_fault() -> None:
    seen = run_small_worlds(SOUND)
    expected = {"committed", "expired", "found unfinished", "lost", "repeated", "overtaken", "a coordinator crashed"}
    expected |= {f"crashed {moment}" for moment in CRASHES}
    refusals = (
        Result.ASSET_IS_HELD,
        Result.OWNER_MISMATCH,
        Result.EXCEEDS_CREDITS,
        Result.EXISTS_WITH_DIFFERENT_AMOUNT,
        Result.EXISTS_WITH_DIFFERENT_CONTENT,
    )
    assert expected | {f"refused: {code.name}" for code in refusals} <= seen


def run_small_worlds(protocol: Protocol) -> set[str]:
    """What happened in any of them."""
    seen: set[str] = set()
    for seed in range(NUM_SEEDS_OF_A_BUG):
        with world(seed, size=SMALL, protocol=protocol) as opened:
            opened.run(150)
            seen |= {name for name, count in opened.outcomes.items() if count}
    return seen
