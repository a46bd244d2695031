"""What a request will take: seconds as distributions, tries from the gate's pass rate, and money from both.

A service time is *level* times *shape* times *ratio*. The shape is linear in the features of the attempt (one, prompt
tokens, new tokens, pixels times steps, ...) with weights that are never negative, since nothing makes work faster. The
level is how fast the machine is at present. The ratio, actual by predicted, is a decaying histogram from which every
quantile is read; each ratio is taken before its observation is learned from, so quantiles hold the error of the
prediction, too. All three forget with a half-life counted in observations.

- Shape: least squares of relative errors (McCullagh and Nelder 1989, ch. 9), one sweep of coordinate descent on the
  normal equations an observation (Zakharov, White and Liu, IEEE TSP 2008), weights kept from below zero (Franc, Hlavac
  and Navara, CAIP 2005). Turned down: the usual recursion on the covariance. Where features do not vary, as in a pool
  that paints one size, forgetting makes it grow without bound (wind-up), and weights become negative.
- Level: the least squares step along the shape goes first, and all that was learned before counts as seen at the new
  level. So a slower machine changes one number, and the weight of a feature that was long not seen about keeps up.
- Jumps: forgetting alone follows a machine that became three times slower in three half-lives. A two-sided CUSUM of the
  log ratios (Page, Biometrika 1954) notices within some ten observations; the level jumps by the median ratio since the
  change began, and the histogram, which is relative, remains valid.
- Freaks: one ratio counts as at most `RATIO_MAX` for the mean (Huber 1964) and `CLIP` spreads for the CUSUM.
- Ratios: log-spaced bins, as in DDSketch (VLDB 2019), that decay by growing increments (Cormode et al., ICDE 2009).
  Turned down: tracking a few quantiles by stochastic gradient; they cross, and the chance to be on time is not theirs.

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
from statistics import NormalDist, median

import msgspec

from engine.errors import InvalidRequest, NotFound, StartFailed

HALF_LIFE = 256.0
SECONDS_MIN, SECONDS_MAX, FEATURE_MAX = 1e-6, 1e7, 1e12
"""Less is taken for a microsecond, and nothing takes four months; a hundred steps of ten gigapixels."""

BINS_PER_OCTAVE, OCTAVES = 16, 4
NUM_BINS = 2 * OCTAVES * BINS_PER_OCTAVE
"""Ratios from 1/16 to 16, told apart by 4.4%; others count in the first or last bin."""
PRIOR_CENTRE, PRIOR_SPREAD, PRIOR_WEIGHT = -0.18, 0.72, 8.0
"""Before anything is seen ratios are lognormal with mean one and sigma 0.5 (here in octaves), which counts as so many
observations."""
INCREMENT_MAX = 1e100

RATIO_MAX = 8.0
WEIGHT_RANGE, LEVEL_RANGE, JUMP_MAX = 1e6, 1e9, 1024.0
"""How far weights stay from the guess and the level from one, and how far it jumps at once."""
INFORMATION_MIN = 1e-200
"""What teaches less, a feature too small to be squared, teaches nothing."""

SLACK, ALARM, CLIP, SPREAD_MIN = 0.75, 8.0, 3.0, 0.07
"""CUSUM in spreads of the log ratio (at least a twentieth): what is no change, when to believe one, the most that one
observation says, so that it takes four. Normal noise raises an alarm in some 70,000 observations (Siegmund 1985)."""
USUAL_EVERY, RECENT_MAX, KEEP_WEIGHT = 8, 32, 8.0
"""How often it is looked up what is usual; how far back a jump may look; what all before it counts for after it."""

PASS_RATES_MAX = 4096
"""Pass rates kept; then the oldest goes."""

EDGES = (0.0, 0.01, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.98, 0.995, 1.0)
MIDDLES = [(left + right) / 2 for left, right in pairwise(EDGES)]
WEIGHTS = [right - left for left, right in pairwise(EDGES)]
"""A distribution as atoms: the quantile and the chance of each, finer towards the ends."""
LN2 = math.log(2)


def invalid(where: str, value: object) -> InvalidRequest:
    return InvalidRequest(f"{value!r} will not do", where=where, fix="Give finite numbers within the documented range.")


def bin_of(ratio: float) -> int:
    return min(max(int((math.log2(ratio) + OCTAVES) * BINS_PER_OCTAVE), 0), NUM_BINS - 1)


def prior_counts() -> list[float]:
    """The histogram before anything is seen."""
    normal = NormalDist(PRIOR_CENTRE, PRIOR_SPREAD)
    chances = [normal.cdf(edge / BINS_PER_OCTAVE - OCTAVES) for edge in range(NUM_BINS + 1)]
    return [PRIOR_WEIGHT * (right - left) for left, right in pairwise(chances)]


class Ratios(msgspec.Struct):
    """A decaying histogram of ratios, by octaves (base-2 logarithms), uniform within a bin. Plain data."""

    counts: list[float] = msgspec.field(default_factory=prior_counts)
    increment: float = 1.0
    sums: list[float] = []  # empty when the counts have changed

    def summed(self) -> list[float]:
        """The counts up to each bin."""
        if not self.sums:
            self.sums = list(accumulate(self.counts))
        return self.sums

    def add(self, ratio: float, growth: float) -> int:
        """Count a ratio; its bin. Whatever comes later counts `growth` times as much."""
        number = bin_of(ratio)
        self.counts[number] += self.increment
        self.increment *= growth
        if self.increment > INCREMENT_MAX:
            self.counts = [count / self.increment for count in self.counts]
            self.increment = 1.0
        self.sums = []
        return number

    def quantile(self, q: float) -> float:
        """The octaves of the q-quantile, 0 < q < 1."""
        if not 0.0 < q < 1.0:
            raise invalid("q", q)
        sums = self.summed()
        target = q * sums[-1]
        number = bisect_left(sums, target)
        before = sums[number - 1] if number else 0.0
        return (number + (target - before) / (sums[number] - before)) / BINS_PER_OCTAVE - OCTAVES

    def below(self, octaves: float) -> float:
        """The share of ratios below: the inverse of `quantile`."""
        place = (octaves + OCTAVES) * BINS_PER_OCTAVE
        if not 0.0 < place < NUM_BINS:
            return float(place > 0.0)
        sums, number = self.summed(), int(place)
        before = sums[number - 1] if number else 0.0
        return (before + (place - number) * (sums[number] - before)) / sums[-1]


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """Seconds of one attempt: the mean, and the time within which so many of 100 end."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


class ServiceTime(msgspec.Struct):
    """An online estimate of how long work takes, from its features. Plain data: msgspec encodes and restores it.

    Args:
        guess: seconds that work takes whatever its features, then seconds per unit of each feature. The right order of
            magnitude will do; how they compare matters until the features have varied.
        half_life: observations after which one counts half.
    Raises:
        StartFailed: guess or half-life are out of range.
        InvalidRequest: features that are not as many as the guess has after the first, each from 0 to `FEATURE_MAX`;
            seconds not from 0 to `SECONDS_MAX`. Nothing was changed.
    Cost: with three features `predict` 2 us (5 after an observation), `chance` 1.5 us, `observe` 15 us.
    """

    guess: tuple[float, ...]
    half_life: float = HALF_LIFE
    num_observed: int = 0
    level: float = 1.0
    shape: list[float] = []
    matrix: list[list[float]] = []
    vector: list[float] = []
    ratios: Ratios = msgspec.field(default_factory=Ratios)
    recent: list[tuple[tuple[float, ...], float, int]] = []  # features, seconds, bin
    drift: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.0])  # CUSUM up and down
    centre: float = PRIOR_CENTRE  # mean and standard deviation of a lognormal like the ratios, in octaves
    spread: float = PRIOR_SPREAD
    runs: list[int] = msgspec.field(default_factory=lambda: [0, 0])  # for how long each has been above zero

    def __post_init__(self) -> None:
        if not self.guess or not all(1e-15 <= value <= 1e6 for value in self.guess) or not 1 <= self.half_life <= 1e9:
            raise StartFailed(
                f"{self.guess} with half-life {self.half_life} is no guess of a service time",
                where="guess",
                fix="Give seconds from 1e-15 to 1e6, per piece and per unit of each feature, and a half-life from 1.",
            )
        self.shape = self.shape or list(self.guess)
        self.matrix = self.matrix or [[0.0] * len(self.guess) for _ in self.guess]
        self.vector = self.vector or [0.0] * len(self.guess)

    def mean(self, features: Sequence[float]) -> float:
        """Expected seconds."""
        return min(self.level * self.units(features), SECONDS_MAX)

    def variance(self, mean_s: float) -> float:
        """The variance of the seconds of work with this mean, as if lognormal: so no freak can spoil it."""
        return mean_s**2 * math.expm1((self.spread * LN2) ** 2)

    def predict(self, features: Sequence[float]) -> Prediction:
        """The mean and three quantiles."""
        mean_s, quantile = self.mean(features), self.ratios.quantile
        return Prediction(
            mean_s, mean_s * 2.0 ** quantile(0.5), mean_s * 2.0 ** quantile(0.9), mean_s * 2.0 ** quantile(0.99)
        )

    def quantile(self, features: Sequence[float], q: float) -> float:
        """Seconds within which such work ends with chance q, 0 < q < 1."""
        return self.mean(features) * 2.0 ** self.ratios.quantile(q)

    def chance(self, features: Sequence[float], within_s: float) -> float:
        """The chance to end within so many seconds, the inverse of `quantile`; none where no time is left."""
        if math.isnan(within_s):
            raise invalid("within_s", within_s)
        mean_s = self.mean(features)
        return self.ratios.below(math.log2(within_s) - math.log2(mean_s)) if within_s > 0.0 else 0.0

    def observe(self, features: Sequence[float], seconds: float) -> None:
        """Learn from work that took so long."""
        if not 0.0 <= seconds <= SECONDS_MAX:
            raise invalid("seconds", seconds)
        units = self.units(features)
        row = (1.0, *map(float, features))
        if not self.num_observed:  # the guess of the shape counts as one observation
            for index, (weight, feature) in enumerate(zip(self.shape, row, strict=True)):
                self.matrix[index][index] = feature / (weight * units)
                self.vector[index] = feature / units
        self.num_observed += 1
        seconds = max(float(seconds), SECONDS_MIN)
        ratio = seconds / (self.level * units)
        growth = 2.0 ** (1.0 / self.half_life)
        self.recent.append((row, seconds, self.ratios.add(ratio, growth)))
        del self.recent[:-RECENT_MAX]
        self.learn([feature / units for feature in row], min(ratio, RATIO_MAX), 1.0 / growth)
        self.watch(math.log2(ratio))

    def units(self, features: Sequence[float]) -> float:
        """Seconds at level one; above zero."""
        shape = self.shape
        if len(features) != len(shape) - 1:
            raise invalid("features", features)
        total, index = shape[0], 1
        for feature in features:
            if not 0.0 <= feature <= FEATURE_MAX:
                raise invalid("features", features)
            total += shape[index] * feature
            index += 1
        return total

    def learn(self, row: list[float], ratio: float, keep: float) -> None:
        """Least squares: features in units of what was predicted, the ratio to it, and what to keep of all before."""
        shape, matrix, vector = self.shape, self.matrix, self.vector
        places = range(len(row))
        known, observed = 0.0, 0.0
        for index in places:
            feature, weight, line = row[index], shape[index], matrix[index]
            matrix[index] = line = [keep * line[other] + feature * row[other] for other in places]
            vector[index] = value = keep * vector[index] + feature * ratio
            known += weight * sum(map(mul, line, shape))
            observed += weight * value
        step = max(observed / known, 1.0 / RATIO_MAX)
        self.level = min(max(self.level * step, 1.0 / LEVEL_RANGE), LEVEL_RANGE)
        for index in places:
            line = matrix[index]
            vector[index] = value = vector[index] / step
            if row[index] > 0.0 and line[index] > INFORMATION_MIN:
                weight = shape[index] + (value - sum(map(mul, line, shape))) / line[index]
                least = self.guess[index] / WEIGHT_RANGE
                most = self.guess[index] * WEIGHT_RANGE
                shape[index] = least if weight < least else most if weight > most else weight

    def watch(self, octaves: float) -> None:
        """Add a log ratio to the CUSUMs, and jump if one says that the level is another. What is usual is what was so
        when nothing was suspected: else a change would soon be usual itself."""
        if not self.num_observed % USUAL_EVERY and not any(self.drift):
            low, high = self.ratios.quantile(0.16), self.ratios.quantile(0.84)
            self.centre, self.spread = (low + high) / 2.0, max((high - low) / 2.0, SPREAD_MIN)
        deviation = min(max((octaves - self.centre) / self.spread, -CLIP), CLIP)
        for side, signed in ((0, deviation), (1, -deviation)):
            drift = self.drift[side] + signed - SLACK
            self.runs[side] = self.runs[side] + 1 if drift > 0.0 else 0
            self.drift[side] = drift if drift > 0.0 else 0.0
            if drift > ALARM:
                self.jump(self.recent[-self.runs[side] :])
                return

    def jump(self, since: list[tuple[tuple[float, ...], float, int]]) -> None:
        """The level is another since these observations: set it by them, and count them anew at that level."""
        ratios = [seconds / (self.level * self.units(row[1:])) for row, seconds, _ in since]
        factor = min(max(median(ratios) / 2.0**self.centre, 1.0 / JUMP_MAX), JUMP_MAX)
        self.level = min(max(self.level * factor, 1.0 / LEVEL_RANGE), LEVEL_RANGE)
        weight = self.ratios.increment
        for (_, _, number), ratio in zip(reversed(since), reversed(ratios), strict=True):
            weight *= 2.0 ** (-1.0 / self.half_life)
            moved = min(weight, self.ratios.counts[number])
            self.ratios.counts[number] -= moved
            self.ratios.counts[bin_of(ratio / factor)] += moved
        self.ratios.sums = []
        known = sum(
            value * sum(map(mul, line, self.shape)) for value, line in zip(self.shape, self.matrix, strict=True)
        )
        keep = min(KEEP_WEIGHT / known, 1.0)
        self.matrix = [[keep * value for value in line] for line in self.matrix]
        self.vector = [keep * value for value in self.vector]
        self.recent, self.drift, self.runs = [], [0.0, 0.0], [0, 0]


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
