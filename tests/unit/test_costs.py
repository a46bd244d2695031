"""The cost model: what is learned from attempts, verdicts and stages, and what plans of tries are said to cost."""

import math

import msgspec
import numpy as np
import pytest

from engine import costs, service_time
from engine.costs import CostModel, Knowledge, PassRate, Rate, Rung, outlook
from engine.errors import InvalidRequest, NotFound, StartFailed
from engine.service_time import ServiceTime

GUESS = (0.05, 1e-4, 1e-2)
SMALL = Rate("text-edge", "small", 1_000, GUESS)
LARGE = Rate("text-frontier", "large", 7_000, (0.2, 1e-4, 3e-2))
FEATURES = (300.0, 60.0)
PLAN = [
    Rung("text-edge", "small", "default", 0, FEATURES),
    Rung("text-edge", "small", "default", 1, FEATURES),
    Rung("text-frontier", "large", "default", 2, FEATURES),
]


def taught(num: int = 600, *, seed: int = 1, speed: float = 1.0, half_life: float = 256.0) -> ServiceTime:
    """A service that takes 0.03 s, 2 ms a prompt token and 20 ms a new one, times a lognormal of sigma 0.4."""
    service = ServiceTime(GUESS, half_life)
    teach(service, num, seed=seed, speed=speed)
    return service


def teach(service: ServiceTime, num: int, *, seed: int, speed: float = 1.0) -> None:
    rng = np.random.default_rng(seed)
    for prompt, new, ratio in zip(
        rng.integers(1, 1000, num), rng.integers(1, 300, num), rng.lognormal(-0.08, 0.4, num), strict=True
    ):
        service.observe((float(prompt), float(new)), truth((prompt, new)) * float(ratio) * speed)


def truth(features: tuple[float, ...]) -> float:
    return 0.03 + 2e-3 * float(features[0]) + 0.02 * float(features[1])


def model(num: int = 400) -> CostModel:
    """A cost model that has seen attempts, verdicts, gate and ledger."""
    made = CostModel([SMALL, LARGE], gate_s=0.05, ledger_s=0.01)
    rng = np.random.default_rng(7)
    for ratio, accepted in zip(rng.lognormal(-0.08, 0.4, num).tolist(), rng.random((num, 3)).tolist(), strict=True):
        made.observe_attempt("text-edge", "small", FEATURES, 1.3 * ratio)
        made.observe_attempt("text-frontier", "large", FEATURES, 2.0 * ratio)
        made.observe_gate(0.1 * ratio)
        made.observe_ledger(0.004 * ratio)
        for rung, draw, chance in zip(PLAN, accepted, (0.4, 0.3, 0.9), strict=True):
            made.observe_verdict(rung.model, rung.policy, rung.number, draw < chance)
    return made


def test_before_anything_is_seen_the_guess_is_the_prediction() -> None:
    prediction = ServiceTime(GUESS).predict((100, 50))
    assert prediction.mean_s == pytest.approx(0.05 + 0.01 + 0.5)
    assert prediction.p50_s == pytest.approx(prediction.mean_s * math.exp(-0.125), rel=0.05)
    assert prediction.p99_s == pytest.approx(prediction.p50_s * math.exp(0.5 * 2.326), rel=0.05)


def test_the_weight_of_each_feature_is_learned() -> None:
    service = taught(2000)
    for features in [(1.0, 300.0), (1000.0, 1.0), (500.0, 150.0)]:
        assert service.mean(features) == pytest.approx(truth(features), rel=0.15)
    assert service.num_observed == 2000


@pytest.mark.parametrize("speed", [100.0, 0.01])
def test_a_guess_that_is_a_hundred_times_wrong_is_forgotten_within_some_observations(speed: float) -> None:
    service = taught(30, speed=speed)
    assert service.mean(FEATURES) == pytest.approx(truth(FEATURES) * speed, rel=0.35)


@pytest.mark.parametrize("speed", [3.0, 1 / 3])
def test_a_machine_of_another_speed_is_noticed_within_twelve_observations(speed: float) -> None:
    service = taught(1000)
    teach(service, 12, seed=2, speed=speed)
    assert service.mean(FEATURES) == pytest.approx(truth(FEATURES) * speed, rel=0.5)
    teach(service, 100, seed=3, speed=speed)
    assert service.mean(FEATURES) == pytest.approx(truth(FEATURES) * speed, rel=0.15)


def test_after_a_jump_the_quantiles_are_as_wide_as_before() -> None:
    service = taught(1000)
    before = service.predict(FEATURES)
    teach(service, 60, seed=2, speed=3.0)
    after = service.predict(FEATURES)
    assert after.p99_s / after.p50_s == pytest.approx(before.p99_s / before.p50_s, rel=0.25)


def test_one_freak_spoils_neither_mean_nor_median() -> None:
    service = taught(1000)
    before = service.predict(FEATURES)
    service.observe(FEATURES, 1000 * truth(FEATURES))
    after = service.predict(FEATURES)
    assert after.mean_s == pytest.approx(before.mean_s, rel=0.03)
    assert after.p50_s == pytest.approx(before.p50_s, rel=0.03)


def test_a_feature_long_not_seen_keeps_its_weight_and_follows_the_machine() -> None:
    service = ServiceTime((0.01, 1e-3, 1e-2), 16)
    rng = np.random.default_rng(3)
    for size in rng.integers(1, 100, 500).tolist():
        service.observe((float(size), float(size % 7)), 0.02 + 0.002 * size + 0.05 * (size % 7))
    for number, size in enumerate(rng.integers(1, 100, 20_000).tolist()):
        service.observe((float(size), 0.0), min(1 + number / 5_000, 3.0) * (0.02 + 0.002 * size))
    assert service.mean((1.0, 1000.0)) == pytest.approx(3 * 50, rel=0.2)


def test_features_that_never_vary_do_not_wind_the_weights_up() -> None:
    service = ServiceTime(GUESS, 4)
    rng = np.random.default_rng(4)
    for ratio in rng.lognormal(0, 0.3, 20_000).tolist():
        service.observe(FEATURES, 2.0 * ratio)
    assert all(0.3 < weight / guess < 3 for weight, guess in zip(service.shape, GUESS, strict=True))
    assert service.mean((600.0, 120.0)) == pytest.approx(2 * service.mean(FEATURES), rel=0.2)


def test_work_without_features_has_a_time_of_its_own() -> None:
    service = ServiceTime((1.0,))
    for seconds in [0.1, 0.11, 0.09] * 50:
        service.observe((), seconds)
    assert service.mean(()) == pytest.approx(0.1, rel=0.05)
    assert service.chance((), 0.2) > 0.95


def test_work_that_takes_no_time_at_all_is_predicted_small_but_not_nothing() -> None:
    service = ServiceTime((1.0,))
    for _ in range(200):
        service.observe((), 0.0)
    assert 0.0 < service.mean(()) < 2e-6
    for _ in range(40):
        service.observe((), 1.0)
    assert 0.5 < service.mean(()) < 2.0


def test_no_time_left_is_no_chance_and_for_ever_is_certain() -> None:
    service = taught()
    assert service.chance(FEATURES, 0.0) == service.chance(FEATURES, -5.0) == 0.0
    assert service.chance(FEATURES, math.inf) == 1.0


def test_a_histogram_goes_on_when_its_increments_have_grown_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    service = taught(300, half_life=32)
    monkeypatch.setattr(service_time, "INCREMENT_MAX", 2.0)
    again = taught(300, half_life=32)
    assert again.ratios.increment <= 2.0
    assert again.quantile(FEATURES, 0.9) == pytest.approx(service.quantile(FEATURES, 0.9))


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, -math.inf, 1e8])
def test_bad_seconds_are_refused_and_change_nothing(seconds: float) -> None:
    service = taught(50)
    before = msgspec.json.encode(service)
    with pytest.raises(InvalidRequest, match="seconds"):
        service.observe(FEATURES, seconds)
    assert msgspec.json.encode(service) == before


@pytest.mark.parametrize("features", [(-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf), (1.0,), (1.0, 2.0, 3.0), ()])
def test_bad_features_are_refused_and_change_nothing(features: tuple[float, ...]) -> None:
    service = taught(50)
    before = msgspec.json.encode(service)
    for ask in (lambda: service.observe(features, 1.0), lambda: service.predict(features)):
        with pytest.raises(InvalidRequest, match="features"):
            ask()
    assert msgspec.json.encode(service) == before


@pytest.mark.parametrize("q", [0.0, 1.0, -0.5, math.nan])
def test_there_is_no_quantile_outside_of_zero_to_one(q: float) -> None:
    with pytest.raises(InvalidRequest):
        taught(5).quantile(FEATURES, q)
    with pytest.raises(InvalidRequest):
        model(5).forecast(PLAN).quantile(q)


def test_the_chance_within_no_number_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="within_s"):
        taught(5).chance(FEATURES, math.nan)
    with pytest.raises(InvalidRequest, match="within_s"):
        model(5).forecast(PLAN).chance(math.nan)


@pytest.mark.parametrize(("guess", "half_life"), [((), 9), ((0.0,), 9), ((-1.0,), 9), ((math.nan,), 9), ((1.0,), 0)])
def test_a_guess_that_is_none_does_not_start(guess: tuple[float, ...], half_life: float) -> None:
    with pytest.raises(StartFailed, match="guess"):
        ServiceTime(guess, half_life)


def test_a_pass_rate_is_even_at_first_and_then_what_was_seen() -> None:
    rate = PassRate()
    assert rate.chance == 0.5
    for number in range(2000):
        rate.observe(number % 10 == 0)
    assert rate.chance == pytest.approx(0.1, abs=0.02)


def test_a_pass_rate_follows_a_gate_that_became_stricter() -> None:
    rate = PassRate(half_life=50)
    for accepted in [True] * 1000 + [False] * 250:
        rate.observe(accepted)
    assert rate.chance < 0.05


def test_the_outlook_of_a_plan_is_the_chance_of_each_try_and_of_none_accepted() -> None:
    assert outlook([0.5, 0.5, 0.8]) == pytest.approx([1.0, 0.5, 0.25, 0.05])
    assert outlook([]) == [1.0]


def test_a_forecast_is_what_a_simulation_of_the_plan_gives() -> None:
    made = model(2000)
    forecast = made.forecast(PLAN)
    rng = np.random.default_rng(9)
    num = 200_000
    alive, seconds, micros = np.ones(num, bool), np.zeros(num), np.zeros(num)
    for rung, mean_s, price in zip(PLAN, (1.3, 1.3, 2.0), (1_000, 1_000, 7_000), strict=True):
        attempt = mean_s * rng.lognormal(-0.08, 0.4, num)
        micros += alive * attempt * price
        seconds += alive * (attempt + 0.1 * rng.lognormal(-0.08, 0.4, num))
        accepted = alive & (rng.random(num) < made.pass_rate(rung.model, rung.policy, rung.number).chance)
        seconds += accepted * 0.004
        alive &= ~accepted
    assert forecast.accepted == pytest.approx(1 - alive.mean(), abs=0.01)
    assert forecast.cost_micros == pytest.approx(micros.mean(), rel=0.06)
    assert forecast.mean_s == pytest.approx(seconds.mean(), rel=0.06)
    for q in (0.1, 0.5, 0.9, 0.99):
        within = float(np.quantile(seconds, q))
        assert forecast.quantile(q) == pytest.approx(within, rel=0.12)
        assert forecast.chance(within) == pytest.approx(q, abs=0.04)


def test_a_shorter_rest_of_the_plan_takes_less_and_ends_accepted_less_often() -> None:
    made = model()
    whole, rest = made.forecast(PLAN), made.forecast(PLAN[:2])
    assert rest.mean_s < whole.mean_s
    assert rest.cost_micros < whole.cost_micros
    assert rest.num_tries < whole.num_tries < 3
    assert rest.accepted < whole.accepted < 1


def test_the_quantile_and_the_chance_of_a_forecast_are_inverse() -> None:
    forecast = model().forecast(PLAN)
    for q in (0.05, 0.3, 0.5, 0.85, 0.99):
        assert forecast.chance(forecast.quantile(q)) == pytest.approx(q)
    assert forecast.chance(0.0) == forecast.chance(-1.0) == 0.0
    assert forecast.chance(math.inf) == 1.0


def test_money_is_whole_micro_units_rounded_up() -> None:
    made = model(10)
    assert made.price("text-edge", "small", 0.0) == 0
    assert made.price("text-edge", "small", 0.0001) == 1
    assert made.price("text-frontier", "large", 2.0) == 14_000
    assert type(made.price("text-edge", "small", 1.5)) is type(made.forecast(PLAN).cost_micros) is int
    with pytest.raises(InvalidRequest):
        made.price("text-edge", "small", math.nan)


@pytest.mark.parametrize(("pool", "name"), [("nowhere", "small"), ("text-edge", "large")])
def test_an_unknown_pool_is_named_with_those_that_have_the_model(pool: str, name: str) -> None:
    made = model(5)
    with pytest.raises(NotFound, match=f"pool '{pool}' has no model '{name}'.*text-") as caught:
        made.observe_attempt(pool, name, FEATURES, 1.0)
    assert caught.value.body.where == "pool"
    for ask in (
        lambda: made.price(pool, name, 1.0),
        lambda: made.service(pool, name),
        lambda: made.forecast([Rung(pool, name, "default", 0, FEATURES)]),
    ):
        with pytest.raises(NotFound):
            ask()


def test_a_plan_without_a_try_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="plan"):
        model(5).forecast([])


@pytest.mark.parametrize("price", [-1, 1.5, True])
def test_a_price_that_is_no_whole_number_does_not_start(price: int) -> None:
    with pytest.raises(StartFailed, match="price"):
        CostModel([Rate("text-edge", "small", price, GUESS)])


def test_a_model_with_two_prices_in_one_pool_does_not_start() -> None:
    with pytest.raises(StartFailed):
        CostModel([SMALL, SMALL])


def test_what_was_learned_survives_a_restart() -> None:
    old = model()
    new = CostModel([SMALL, LARGE], gate_s=0.05, ledger_s=0.01)
    new.restore(msgspec.json.decode(msgspec.json.encode(old.snapshot()), type=Knowledge))
    assert new.forecast(PLAN) == old.forecast(PLAN)
    assert new.snapshot() == old.snapshot()


def test_a_snapshot_does_not_change_with_later_observations() -> None:
    made = model(50)
    knowledge = made.snapshot()
    before = msgspec.json.encode(knowledge)
    made.observe_gate(1.0)
    made.observe_attempt("text-edge", "small", FEATURES, 9.0)
    assert msgspec.json.encode(knowledge) == before


def test_what_was_learned_of_another_guess_or_a_pool_that_is_gone_is_left_behind() -> None:
    old = model()
    changed = Rate("text-edge", "small", 1_000, (*GUESS, 1e-3))
    new = CostModel([changed], gate_s=0.05, ledger_s=0.02, half_life=99)
    new.restore(old.snapshot())
    assert new.service("text-edge", "small").num_observed == 0
    assert new.gate.num_observed == old.gate.num_observed
    assert new.gate.half_life == 99
    assert new.ledger.num_observed == 0
    assert list(new.services) == [("text-edge", "small")]


def test_only_so_many_pass_rates_are_kept_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "PASS_RATES_MAX", 2)
    made = CostModel([SMALL])
    for number in range(3):
        made.observe_verdict("small", "default", number, True)
    assert [number for _, _, number in made.pass_rates] == [1, 2]
