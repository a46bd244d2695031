"""The orders that others serve in, as baselines of the scheduling benchmark.

    fifo                   who came first
    strict_priority        the tier, then who came first
    strict_ageing          the same, but each `AGEING_S` of waiting count as one tier
    edf                    the earliest deadline; one that is late by its predicted cost is dropped
    value_density          the highest value by predicted second; one that is late by its predicted cost is dropped
    value_density_hopeful  the same, but a job is given up only when its deadline has passed

All of them drop a job whose deadline has passed when it would be claimed. That is kind to the first three: plain
queues of this sort serve it, too, and lose the server's time.

Each is a heap whose order never changes: what a job is compared by is known when it arrives, also with ageing, for all
that wait age alike. Who is too late stays too late, so it is dropped for good when it comes up, and a claim is
amortised O(log n).
"""

import heapq

from bench.scheduling_world import Floats, Jobs

AGEING_S = 600.0
"""Ten minutes: a batch request has come up to the flex ones before the shortest batch deadline passes. Chosen in its
favour, on seed 2: shorter ages of 30 s to 5 minutes lose far more value, for then jobs that could have waited overtake
those that cannot; longer ones come ever closer to `strict_priority`."""


class Ranked:
    """The order and what all of them share.

    Args:
        rank: float64[n], the smallest first; of equal ones the one that came first.
        latest_s: float64[n], the last moment at which a job is worth a claim.
    """

    name: str

    def __init__(self, rank: Floats, latest_s: Floats) -> None:
        self.rank: list[float] = rank.tolist()
        self.latest_s: list[float] = latest_s.tolist()
        self.heap: list[tuple[float, int]] = []

    def submit(self, number: int, now_s: float) -> None:
        """Queue a job."""
        heapq.heappush(self.heap, (self.rank[number], number))

    def claim(self, now_s: float) -> int | None:
        """The first that is not too late."""
        while self.heap:
            number = heapq.heappop(self.heap)[1]
            if now_s <= self.latest_s[number]:
                return number
        return None

    def finished(self, number: int, now_s: float) -> None:
        """None of them learns."""


class Fifo(Ranked):
    """Who came first."""

    name = "fifo"

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(jobs.arrival_s, jobs.deadline_s)


class StrictPriority(Ranked):
    """The highest tier, then who came first: of equal rank it is the lower number, so the earlier arrival."""

    name = "strict_priority"

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(jobs.tier.astype(float), jobs.deadline_s)


class StrictAgeing(Ranked):
    """The highest tier, raised by one for every `AGEING_S` waited. All age alike, so the sum of arrival and tier orders
    as tier less waiting does at every moment."""

    name = "strict_ageing"

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(jobs.arrival_s + AGEING_S * jobs.tier, jobs.deadline_s)


class Edf(Ranked):
    """The earliest deadline."""

    name = "edf"

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(jobs.deadline_s, jobs.deadline_s - jobs.cost_s)


class ValueDensity(Ranked):
    """The highest value by predicted second that is on time if the prediction is right."""

    name = "value_density"

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(-jobs.value / jobs.cost_s, jobs.deadline_s - jobs.cost_s)


class ValueDensityHopeful(Ranked):
    """The highest value by predicted second."""

    name = "value_density_hopeful"

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(-jobs.value / jobs.cost_s, jobs.deadline_s)


BASELINES = (Fifo, StrictPriority, StrictAgeing, Edf, ValueDensity, ValueDensityHopeful)
"""All of them, each built from the jobs."""
