"""Service times: what is predicted holds for whatever comes, and covers what it says it covers."""

import math
from itertools import pairwise

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from engine.service_time import BINS_PER_OCTAVE, FEATURE_MAX, OCTAVES, RATIO_MAX, SECONDS_MAX, ServiceTime

LEVELS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
SEEDS = st.integers(0, 2**32 - 1)
SIGMAS = st.floats(0.1, 0.9)
SECONDS = st.one_of(st.floats(0, SECONDS_MAX), st.floats(0.01, 10), st.sampled_from([0.0, 5e-324, 1e-300, SECONDS_MAX]))
FEATURES = st.tuples(
    st.one_of(st.floats(0, FEATURE_MAX), st.floats(0, 1000), st.sampled_from([0.0, 5e-324, FEATURE_MAX])),
    st.integers(0, 500),
)
ATTEMPTS = st.lists(st.tuples(FEATURES, SECONDS), max_size=60)
HALF_LIVES = st.sampled_from([1.0, 8.0, 256.0, 1e9])
GUESS = (0.05, 1e-4, 1e-2)
WEIGHTS = np.array([0.03, 2e-4, 2e-2])


def taught(attempts: list[tuple[tuple[float, ...], float]], half_life: float = 256.0) -> ServiceTime:
    service = ServiceTime(GUESS, half_life)
    for features, seconds in attempts:
        service.observe(features, seconds)
    return service


def attempts_of(
    rng: np.random.Generator, num: int, sigma: float, speed: float = 1.0
) -> list[tuple[tuple[float, ...], float]]:
    """Attempts whose times are linear in their features, times a lognormal of mean one."""
    features = np.column_stack([rng.integers(1, 2000, num), rng.geometric(0.01, num)]).astype(float)
    seconds = speed * (WEIGHTS[0] + features @ WEIGHTS[1:]) * rng.lognormal(-(sigma**2) / 2, sigma, num)
    return list(zip(map(tuple, features.tolist()), seconds.tolist(), strict=True))


def mean_of(features: tuple[float, ...]) -> float:
    return float(WEIGHTS[0] + WEIGHTS[1:] @ features)


@given(ATTEMPTS, FEATURES, HALF_LIVES)
def test_predictions_are_numbers_above_zero_whatever_was_seen(
    attempts: list[tuple[tuple[float, ...], float]], features: tuple[float, ...], half_life: float
) -> None:
    prediction = taught(attempts, half_life).predict(features)
    assert all(0.0 < value < math.inf for value in msgspec.structs.astuple(prediction))


@given(ATTEMPTS, FEATURES, HALF_LIVES)
def test_a_higher_quantile_is_never_sooner_and_more_time_never_less_chance(
    attempts: list[tuple[tuple[float, ...], float]], features: tuple[float, ...], half_life: float
) -> None:
    service = taught(attempts, half_life)
    quantiles = [service.quantile(features, q) for q in LEVELS]
    assert all(sooner <= later for sooner, later in pairwise(quantiles))
    chances = [service.chance(features, scale * quantiles[3]) for scale in (0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0)]
    assert all(less <= more for less, more in pairwise(chances))
    assert chances[0] >= 0.0 and chances[-1] <= 1.0


@given(ATTEMPTS, FEATURES, st.floats(0.001, 0.999))
def test_the_chance_of_a_quantile_is_the_quantile(
    attempts: list[tuple[tuple[float, ...], float]], features: tuple[float, ...], q: float
) -> None:
    service = taught(attempts)
    assert service.chance(features, service.quantile(features, q)) == pytest.approx(q, abs=1e-6)


@given(ATTEMPTS, FEATURES, st.floats(-3.9, 3.9))
def test_the_quantile_of_a_chance_lies_within_a_bin_unless_nothing_was_seen_between(
    attempts: list[tuple[tuple[float, ...], float]], features: tuple[float, ...], octaves: float
) -> None:
    service = taught(attempts)
    within_s = service.mean(features) * 2.0**octaves
    chance = service.chance(features, within_s)
    number = int((octaves + OCTAVES) * BINS_PER_OCTAVE)
    if 0.0 < chance < 1.0 and service.ratios.counts[number] > 1e-6 * sum(service.ratios.counts):
        bins = BINS_PER_OCTAVE * math.log2(service.quantile(features, chance) / within_s)
        assert abs(bins) <= 1.0


@given(ATTEMPTS, ATTEMPTS, FEATURES, HALF_LIVES)
def test_a_restored_estimate_predicts_the_same_and_goes_on_the_same(
    before: list[tuple[tuple[float, ...], float]],
    after: list[tuple[tuple[float, ...], float]],
    features: tuple[float, ...],
    half_life: float,
) -> None:
    service = taught(before, half_life)
    restored = msgspec.json.decode(msgspec.json.encode(service), type=ServiceTime)
    assert restored.predict(features) == service.predict(features)
    for attempt in after:
        service.observe(*attempt)
        restored.observe(*attempt)
    assert restored == service


@settings(max_examples=10)
@given(SEEDS, SIGMAS)
def test_quantiles_cover_what_they_say(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    service = taught(attempts_of(rng, 500, sigma))
    covered = dict.fromkeys((0.1, 0.5, 0.9, 0.99), 0)
    num = 1000
    for features, seconds in attempts_of(rng, num, sigma):
        for q in covered:
            covered[q] += seconds <= service.quantile(features, q)
        service.observe(features, seconds)
    for q, count in covered.items():
        # Five standard deviations of the count, and a fiftieth of a spread for the bins' width.
        assert abs(count / num - q) < 5 * math.sqrt(q * (1 - q) / num) + 0.02, q


@settings(max_examples=10)
@given(SEEDS, SIGMAS)
def test_the_mean_is_learned(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    attempts = attempts_of(rng, 1000, sigma)
    service = taught(attempts)
    errors = [service.mean(features) / mean_of(features) - 1.0 for features, _ in attempts]
    assert abs(float(np.mean(errors))) < 0.05 + 0.2 * sigma
    assert float(np.median(np.abs(errors))) < 0.05 + 0.2 * sigma


@settings(max_examples=20)
@given(SEEDS, st.floats(0.1, 0.5), st.sampled_from([3.0, 1 / 3, 10.0, 0.1]))
def test_another_speed_of_the_machine_is_learned_within_thirty_two_observations(
    seed: int, sigma: float, speed: float
) -> None:
    rng = np.random.default_rng(seed)
    service = taught(attempts_of(rng, 600, sigma))
    for features, seconds in attempts_of(rng, 32, sigma, speed):
        service.observe(features, seconds)
    assert service.mean((1000.0, 100.0)) == pytest.approx(speed * mean_of((1000.0, 100.0)), rel=0.1 + sigma)


@settings(max_examples=20)
@given(SEEDS, st.floats(0.1, 0.5), st.integers(40, 400), st.floats(100.0, 1000.0))
def test_one_freak_moves_the_mean_a_little_and_not_for_long(seed: int, sigma: float, num: int, times: float) -> None:
    rng = np.random.default_rng(seed)
    attempts, more = attempts_of(rng, num, sigma), attempts_of(rng, 300, sigma)
    sane, shocked = taught(attempts), taught(attempts)
    features = (1000.0, 100.0)
    shocked.observe(features, times * mean_of(features))
    # It counts as RATIO_MAX, one of num observations of three unknown weights; rarely it completes a false alarm.
    assert shocked.mean(features) < sane.mean(features) * (1.3 + 4 * RATIO_MAX / num)
    for attempt in more:
        sane.observe(*attempt)
        shocked.observe(*attempt)
    assert shocked.mean(features) == pytest.approx(sane.mean(features), rel=0.2)
