"""How long an attempt will take, as a distribution that is learned while it changes.

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

Concurrency: one thread.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul
from statistics import NormalDist, median

import msgspec

from engine.errors import InvalidRequest, StartFailed

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
