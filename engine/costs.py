"""What a request will take: seconds as distributions, tries from the gate's pass rate, and money from both.

Tries follow one another until the gate accepts, so a rung's pass rate is that of drafts whose earlier tries were
rejected, and the chances of a plan's rungs multiply. The seconds of several tries have the mean and variance of the sum
(Fenton 1960) and the form of the histogram that adds most to it. Concurrency: one thread.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import accumulate, pairwise
from operator import mul

import msgspec

from engine.errors import NotFound, StartFailed
from engine.service_time import (
    HALF_LIFE,
    LN2,
    NUM_BINS,
    SECONDS_MAX,
    ServiceTime,
    invalid,
)

PASS_RATES_MAX = 4096
"""Pass rates kept; then the oldest goes."""

EDGES = (0.0, 0.01, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.98, 0.995, 1.0)
MIDDLES = [(left + right) / 2 for left, right in pairwise(EDGES)]
WEIGHTS = [right - left for left, right in pairwise(EDGES)]
"""A distribution as atoms: the quantile and the chance of each, finer towards the ends."""


class PassRate(msgspec.Struct):
    """How often the gate accepts: a beta distribution that forgets, even at first. Plain data."""

    half_life: float = HALF_LIFE
    accepted: float = 0.0
    rejected: float = 0.0

    @property
    def chance(self) -> float:
        """That the next draft is accepted."""
        return (self.accepted + 1.0) / (self.accepted + self.rejected + 2.0)

    def observe(self, accepted: bool) -> None:
        """Learn from a verdict."""
        keep = 2.0 ** (-1.0 / self.half_life)
        self.accepted = keep * self.accepted + accepted
        self.rejected = keep * self.rejected + (not accepted)


def outlook(chances: Iterable[float]) -> list[float]:
    """The chance that each try of a plan is made, given the chance that each is accepted; and at last that none is.
    The sum of all but the last is the expected number of tries."""
    return list(accumulate((1.0 - chance for chance in chances), mul, initial=1.0))


def atoms(octaves: list[float], spread: float, mean_s: float, variance: float) -> list[float]:
    """Seconds of this mean and variance, an atom each: the ratios to the power that gives the variance."""
    power = math.sqrt(math.log1p(variance / mean_s**2)) / (spread * LN2)
    values = [2.0 ** (power * value) for value in octaves]
    scale = mean_s / sum(map(mul, values, WEIGHTS))
    return [scale * value for value in values]


def ordered(values: list[float], weights: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Atoms in order, and the chance up to the middle of each; up to the last one it is one."""
    values_s, chances = zip(*sorted(zip(values, weights, strict=True)), strict=True)
    sums = [total - chance / 2.0 for total, chance in zip(accumulate(chances), chances, strict=True)]
    return values_s, (*sums[:-1], 1.0)


def interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The line through the origin and these points, both ascending; level after the last one."""
    index = bisect_left(xs, x)
    if index == len(xs):
        return ys[-1]
    x_before, y_before = (xs[index - 1], ys[index - 1]) if index else (0.0, 0.0)
    return y_before + (ys[index] - y_before) * (x - x_before) / (xs[index] - x_before)


class Rate(msgspec.Struct, frozen=True):
    """A model in a pool: the price of a second in micro-units, and the guess of its `ServiceTime`."""

    pool: str
    model: str
    price_micros: int
    guess: tuple[float, ...]


class Rung(msgspec.Struct, frozen=True):
    """One try of a plan: where, by which policy it is judged, its number in the policy's plan, and its features."""

    pool: str
    model: str
    policy: str
    number: int
    features: tuple[float, ...]


class Forecast(msgspec.Struct, frozen=True):
    """What a request still takes until it is released or refused, but for waiting in queues: seconds (their mean, and
    atoms in order with the chance up to each), expected cost, expected number of tries, chance of acceptance."""

    mean_s: float
    cost_micros: int
    num_tries: float
    accepted: float
    values_s: tuple[float, ...]
    sums: tuple[float, ...]

    def quantile(self, q: float) -> float:
        """Seconds within which it ends with chance q, 0 < q < 1."""
        if not 0.0 < q < 1.0:
            raise invalid("q", q)
        return interpolate(q, self.sums, self.values_s)

    def chance(self, within_s: float) -> float:
        """The chance that it ends within so many seconds, the inverse of `quantile`."""
        if math.isnan(within_s):
            raise invalid("within_s", within_s)
        return interpolate(within_s, self.values_s, self.sums) if within_s > 0.0 else 0.0


class Knowledge(msgspec.Struct):
    """All that a `CostModel` has learned, as plain data, by pool and model, and by model, policy and rung."""

    services: list[tuple[str, str, ServiceTime]]
    gate: ServiceTime
    ledger: ServiceTime
    pass_rates: list[tuple[str, str, int, PassRate]]


class CostModel:
    """What plans of tries take and cost. `forecast` costs some 20 us, and 15 us a try.

    Args:
        gate_s, ledger_s: guesses of what judging a draft and recording an asset take.
    Raises:
        StartFailed: a price is no integer from 0, or a model has two of one pool; and see `ServiceTime`.
        NotFound, of every method that takes a pool: it does not have this model.
    """

    def __init__(
        self, rates: Sequence[Rate], *, gate_s: float = 0.01, ledger_s: float = 0.005, half_life: float = HALF_LIFE
    ) -> None:
        self.half_life = half_life
        self.prices = {(rate.pool, rate.model): rate.price_micros for rate in rates}
        self.services = {(rate.pool, rate.model): ServiceTime(rate.guess, half_life) for rate in rates}
        self.gate, self.ledger = ServiceTime((gate_s,), half_life), ServiceTime((ledger_s,), half_life)
        self.pass_rates: dict[tuple[str, str, int], PassRate] = {}
        if len(self.prices) < len(rates) or any(type(price) is not int or price < 0 for price in self.prices.values()):
            raise StartFailed("a wrong price", where="rates", fix="Give each model of a pool one integer, 0 or more.")

    def service(self, pool: str, model: str) -> ServiceTime:
        """The estimate for attempts of a model in a pool."""
        try:
            return self.services[pool, model]
        except KeyError:
            known = ", ".join(sorted(name for name, served in self.services if served == model)) or "none"
            what = f"pool {pool!r} has no model {model!r}"
            raise NotFound(what, where="pool", fix=f"Pools that have this model: {known}.") from None

    def pass_rate(self, model: str, policy: str, number: int) -> PassRate:
        """The gate's pass rate of a rung."""
        return self.pass_rates.get((model, policy, number)) or PassRate(self.half_life)

    def price(self, pool: str, model: str, seconds: float) -> int:
        """What so many seconds cost, in micro-units, rounded up."""
        if not 0.0 <= seconds <= SECONDS_MAX:
            raise invalid("seconds", seconds)
        self.service(pool, model)
        return math.ceil(self.prices[pool, model] * seconds)

    def observe_attempt(self, pool: str, model: str, features: Sequence[float], seconds: float) -> None:
        """An attempt took so long, from its claim to its draft."""
        self.service(pool, model).observe(features, seconds)

    def observe_gate(self, seconds: float) -> None:
        """A draft was judged within so many seconds."""
        self.gate.observe((), seconds)

    def observe_ledger(self, seconds: float) -> None:
        """An asset was recorded within so many seconds."""
        self.ledger.observe((), seconds)

    def observe_verdict(self, model: str, policy: str, number: int, accepted: bool) -> None:
        """The gate judged the draft of a rung."""
        rate = self.pass_rates.setdefault((model, policy, number), PassRate(self.half_life))
        rate.observe(accepted)
        if len(self.pass_rates) > PASS_RATES_MAX:
            del self.pass_rates[next(iter(self.pass_rates))]

    def forecast(self, plan: Sequence[Rung]) -> Forecast:
        """What these tries, made one after the other until the gate accepts, will take and cost."""
        if not plan:
            raise invalid("plan", plan)
        reached = outlook(self.pass_rate(rung.model, rung.policy, rung.number).chance for rung in plan)
        gate_s, ledger_s = self.gate.mean(()), self.ledger.mean(())
        gate_variance, ledger_variance = self.gate.variance(gate_s), self.ledger.variance(ledger_s)
        total_s, total_variance, most, cost = 0.0, 0.0, -1.0, 0.0
        values: list[float] = []
        weights: list[float] = []
        for rung, (here, after) in zip(plan, pairwise(reached), strict=True):
            service = self.service(rung.pool, rung.model)
            seconds = service.mean(rung.features)
            variance = service.variance(seconds)
            if variance > most:
                most, spread = variance, service.spread
                octaves = [service.ratios.quantile(q) for q in MIDDLES]
            total_s += seconds + gate_s
            total_variance += variance + gate_variance
            cost += here * seconds * self.prices[rung.pool, rung.model]
            values += atoms(octaves, spread, total_s + ledger_s, total_variance + ledger_variance)
            weights += [(here - after) * weight for weight in WEIGHTS]
        values += atoms(octaves, spread, total_s, total_variance)
        weights += [reached[-1] * weight for weight in WEIGHTS]
        mean_s, num_tries = sum(map(mul, values, weights)), sum(reached[:-1])
        return Forecast(mean_s, math.ceil(cost), num_tries, 1.0 - reached[-1], *ordered(values, weights))

    def snapshot(self) -> Knowledge:
        """A copy of what was learned."""
        services = [(*key, service) for key, service in self.services.items()]
        pass_rates = [(*key, rate) for key, rate in self.pass_rates.items()]
        return deepcopy(Knowledge(services, self.gate, self.ledger, pass_rates))

    def restore(self, knowledge: Knowledge) -> None:
        """Go on from what was learned before, wherever the guess is still the same."""
        old = deepcopy(knowledge)
        learned = {(pool, model): service for pool, model, service in old.services}
        self.services = {key: taken_up(service, learned.get(key)) for key, service in self.services.items()}
        self.gate, self.ledger = taken_up(self.gate, old.gate), taken_up(self.ledger, old.ledger)
        self.pass_rates = {(model, policy, number): rate for model, policy, number, rate in old.pass_rates}


def taken_up(new: ServiceTime, old: ServiceTime | None) -> ServiceTime:
    """The old estimate, if it is of the same features and the same histogram, with the new half-life."""
    if old is None or old.guess != new.guess or len(old.ratios.counts) != NUM_BINS:
        return new
    old.half_life = new.half_life
    return old
