"""What a request will take: seconds as distributions, tries from the gate's pass rate, and money from both.

A service time is *level* times *shape* times *ratio*. The shape is linear in the features of the attempt (one, prompt
tokens, new tokens, pixels times steps, ...) with weights that are never negative, since nothing makes work faster. The
level is how fast the machine is at present. The ratio, actual by predicted, is a decaying histogram from which every
quantile is read; each ratio is taken before its observation is learned from, so the quantiles hold the error of the
prediction, too. All three forget with a half-life counted in observations.

- Shape: least squares of relative errors (quasi-likelihood of a variance that grows with the square of the mean,
  McCullagh and Nelder 1989, ch. 9) in information form, one sweep of coordinate descent an observation (Zakharov, White
  and Liu, IEEE TSP 2008), which keeps weights from below zero (Franc, Hlavac and Navara, CAIP 2005). Turned down: the
  usual recursion on the covariance. Where features do not vary, as in a pool that paints one size, forgetting makes the
  covariance grow without bound (wind-up), and weights become negative.
- Level: the least squares step along the shape goes first, and what was learned before counts as seen at the new level.
  So a slower machine changes one number, and the weight of a feature that was long not seen keeps up with it.
- Jumps: forgetting alone follows a machine that became three times slower in three half-lives. A two-sided CUSUM of the
  log ratios (Page, Biometrika 1954) notices within some ten observations; the level jumps by the median ratio since the
  change began, and the histogram, which is relative, remains valid.
- Freaks: one ratio counts as at most `RATIO_MAX` for the mean (Huber 1964) and `CLIP` spreads for the CUSUM.
- Ratios: log-spaced bins, as in DDSketch (VLDB 2019), that decay by growing increments (Cormode et al., forward decay,
  ICDE 2009) in a binary indexed tree (Fenwick 1994). Turned down: tracking a few quantiles by stochastic gradient; they
  cross, and nobody can ask for the inverse, the chance to be on time.

Tries follow one another until the gate accepts, so a rung's pass rate is that of drafts whose earlier tries were
rejected, and the chance of a plan is the product over its rungs. The seconds of several tries are one distribution with
the sum's mean and variance (Fenton 1960) and the form of the histogram that varies most.

Concurrency: one thread.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import accumulate, pairwise
from operator import mul
from statistics import NormalDist, median

import msgspec

from engine.errors import InvalidRequest, NotFound, StartFailed

HALF_LIFE = 256.0
"""Observations after which one counts half."""
SECONDS_MAX, FEATURE_MAX = 1e7, 1e12
"""Nothing takes four months; a hundred steps of ten gigapixels."""

BINS_PER_OCTAVE, OCTAVES = 16, 4
NUM_BINS = 2 * OCTAVES * BINS_PER_OCTAVE
"""Ratios from 1/16 to 16, told apart by 4.4%; others count in the first or last bin. A power of two, for the tree."""
PRIOR_SIGMA, PRIOR_WEIGHT = 0.5, 8.0
"""Before anything is seen ratios are taken for lognormal, and that counts as so many observations."""
INCREMENT_MAX = 1e100

RATIO_MAX = 8.0
GUESS_WEIGHT = 1.0
"""The guess of the shape counts as one observation."""
WEIGHT_RANGE, LEVEL_RANGE, FACTOR_MAX = 1e6, 1e9, 1024.0
"""How far weights stay from the guess and the level from one, and how far it jumps at once."""
INFORMATION_MIN = 1e-200
"""A feature not seen for so long that its information underflows keeps its weight."""

SLACK, ALARM, CLIP, SPREAD_MIN = 0.75, 8.0, 3.0, 0.07
"""CUSUM in spreads of the log ratio (at least a twentieth): what is no change, when to believe one, the most that one
observation says, so that it takes four. Normal noise raises an alarm in some 70,000 observations (Siegmund 1985)."""
RECENT_MAX = 32
KEEP_WEIGHT = 8.0
"""After a jump all that was known of the shape and level counts as so many observations."""

PASS_RATES_MAX = 4096
"""Pass rates kept; then the oldest goes."""

_EDGES = (0.0, 0.01, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.98, 0.995, 1.0)
ATOM_WEIGHTS = tuple(right - left for left, right in pairwise(_EDGES))
ATOM_LEVELS = tuple((left + right) / 2 for left, right in pairwise(_EDGES))
"""A distribution as atoms, closer together towards the ends."""

Observation = tuple[tuple[float, ...], float, int]
"""Features, seconds, bin."""


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """Seconds of one attempt: the mean, and the time within which so many of 100 end."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


class RatiosState(msgspec.Struct, frozen=True):
    """All that `Ratios` knows."""

    counts: list[float]
    increment: float


class ServiceTimeState(msgspec.Struct, frozen=True):
    """All that a `ServiceTime` knows."""

    guess: tuple[float, ...]
    growth: float
    num_observed: int
    level: float
    shape: list[float]
    matrix: list[list[float]]
    vector: list[float]
    recent: list[Observation]
    drift: list[float]
    runs: list[int]
    ratios: RatiosState


class Ratios:
    """A decaying histogram of ratios by their octaves (base-2 logarithms), uniform within a bin."""

    def __init__(self, counts: list[float], increment: float = 1.0) -> None:
        self.counts = counts
        self.increment = increment
        self.tree = [0.0] * (NUM_BINS + 1)
        for number, count in enumerate(counts):
            self.put(number, count)

    def put(self, number: int, weight: float) -> None:
        """Add to the tree alone: tree[i] is the sum of as many bins before i as its lowest set bit says."""
        place = number + 1
        while place <= NUM_BINS:
            self.tree[place] += weight
            place += place & -place

    def add(self, ratio: float, growth: float) -> int:
        """Count a ratio; its bin. Whatever comes later counts `growth` times as much."""
        number = bin_of(ratio)
        self.counts[number] += self.increment
        self.put(number, self.increment)
        self.increment *= growth
        if self.increment > INCREMENT_MAX:
            self.__init__([count / self.increment for count in self.counts])  # type: ignore[misc]
        return number

    def move(self, number: int, ratio: float, weight: float) -> None:
        """Count in the bin of this ratio what was counted in that bin."""
        weight = min(weight, self.counts[number])
        for place, change in ((number, -weight), (bin_of(ratio), weight)):
            self.counts[place] += change
            self.put(place, change)

    def quantile(self, q: float) -> float:
        """The octaves of the q-quantile."""
        if not 0.0 < q < 1.0:
            raise invalid("q", q)
        tree = self.tree
        left = q * tree[NUM_BINS]
        number, step = 0, NUM_BINS >> 1
        while step:
            if tree[number + step] < left:
                number += step
                left -= tree[number]
            step >>= 1
        count = self.counts[number]
        return (number + (min(left / count, 1.0) if count > 0.0 else 0.0)) / BINS_PER_OCTAVE - OCTAVES

    def below(self, octaves: float) -> float:
        """The share of ratios below: the inverse of `quantile`."""
        place = (octaves + OCTAVES) * BINS_PER_OCTAVE
        if not 0.0 < place < NUM_BINS:
            return float(place > 0.0)
        number = int(place)
        total = (place - number) * self.counts[number]
        while number:
            total += self.tree[number]
            number &= number - 1
        return min(total / self.tree[NUM_BINS], 1.0)
