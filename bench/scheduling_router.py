"""Our own policy in the scheduling benchmark: the router that runs in production, on memory of this process alone."""

import math
from statistics import NormalDist

import numpy as np

from bench.scheduling_world import NOISE_SIGMA, Jobs
from engine import dispatch, mailbox, router, slots
from engine.atomics import Words
from engine.layout import Layout, SizeClass, Sizes

NS = 10**9
START_COSTS = math.exp(NormalDist().inv_cdf(router.START_QUANTILE) * NOISE_SIGMA - NOISE_SIGMA**2 / 2)
"""The quantile of actual by predicted seconds that the engine would have learned (engine.costs) of this world."""
MEMBER = 1
POOL = "pool"


class Mintage:
    """The router with one pool, driven by the simulation's clock.

    Args:
        jobs: of these it knows what the engine knows when a request comes: predicted cost, value, deadline.
    """

    name = "mintage"

    def __init__(self, jobs: Jobs) -> None:
        self.cost_ns: list[int] = (jobs.cost_s * NS).astype(np.int64).tolist()
        latest_s = jobs.deadline_s - START_COSTS * jobs.cost_s
        self.start_ns: list[int] = (latest_s * NS).astype(np.int64).tolist()
        self.value: list[int] = jobs.value.tolist()
        mean_ns = int(jobs.cost_s.mean() * NS)
        layout = Layout(Sizes(classes=(SizeClass(8, len(jobs)),), pools={POOL: mean_ns}))
        self.words: Words = np.zeros(layout.num_words, np.int64)
        layout.initialise(self.words)
        self.area, self.pool = layout.area(0), layout.pool_offsets[POOL]
        self.hand = np.zeros(2 * slots.HAND_WORDS, np.int64)
        self.out = np.zeros(dispatch.OUT_WORDS, np.int64)
        tick_ns = int(self.words[self.pool + router.TICK])
        self.weights = router.weights_of(mean_ns, tick_ns)
        self.num_claims = 0

    def submit(self, number: int, now_s: float) -> None:
        slot = slots.claim(self.words, self.area, MEMBER, self.hand, 0)
        dispatch.submit(
            self.words, self.pool, slot, 0, 0, number, self.start_ns[number], self.cost_ns[number],
            self.value[number], 0, int(now_s * NS), self.area, False, MEMBER, self.hand, 0, slots.HAND_WORDS,
        )  # fmt: skip

    def claim(self, now_s: float) -> int | None:
        self.num_claims += 1
        earliest = self.num_claims % router.EARLIEST_EVERY == 0
        if not dispatch.claim(
            self.words,
            self.pool,
            MEMBER,
            int(now_s * NS),
            self.weights,
            earliest,
            self.hand,
            slots.HAND_WORDS,
            self.out,
        ):
            return None
        mailbox.finish(self.words, self.area, int(self.out[dispatch.OUT_SLOT]), MEMBER)
        return int(self.out[dispatch.OUT_CALL])

    def finished(self, number: int, now_s: float) -> None:
        """Costs are given; nothing is learned."""
