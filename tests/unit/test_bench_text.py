"""The benchmark's arithmetic: which attempts bare vLLM is given, what the figures are made of, which products count."""

import csv
import random
from pathlib import Path

import msgspec
import pytest
from briefs import FACTS, FALSE_COPY, NOW_MS, TRUE_COPY, draft, policies, small_config
from memory_stages import MemoryStages

from actors import minting
from actors.minting import Minted, mint_products
from bench.text import TENANT, Measured, Rates, attempts_of, choose_products, summary
from engine.admission import RequestBody, admit, asset_id
from engine.catalogue import Product
from engine.errors import InvalidRequest, Overloaded, Refused
from engine.generators.contract import Attempt, Draft
from engine.pipeline import Pipeline, Sampling
from engine.request import Asset, Reason, Status
from engine.tiers import Tier

PREFIX = "bench-1"
SAMPLING = Sampling(tokens_max=71, temperature=0.2, temperature_constrained=0.7)
# SKU -> the try whose draft the gate accepts; the default policy allows three free ones and one within the grammar.
ACCEPTED = {"first": 0, "third": 2, "constrained": 3, "never": 99, "impossible": 99, "unfit": 99}
NUM_DRAFTS = {"first": 1, "third": 3, "constrained": 4, "never": 4, "impossible": 3, "unfit": 4}


def product(sku: str) -> Product:
    """A scarf, with what is not for writers; of "impossible" no text of the policy can state the article."""
    article = "cheap thing" if sku == "impossible" else FACTS["article"]
    return Product(sku, FACTS | {"article": article, "sku": sku, "category": "Apparel", "year": "2026"}, row=2)


class ScriptedEngine:
    """In the place of `HttpBackend`: the real pipeline over drafts by ACCEPTED. Keeps the attempts that it made."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.skus = {asset_id(TENANT, f"{PREFIX}/{sku}"): sku for sku in ACCEPTED}
        self.pipeline = Pipeline(self.generate, MemoryStages(), policies(), SAMPLING, lambda: NOW_MS)

    async def generate(self, attempt: Attempt, deadline_ms: int) -> Draft:
        self.attempts.append(attempt)
        identity, _, number = attempt.attempt_id.partition("/")
        sku = self.skus[identity]
        made = draft(attempt.attempt_id, "good copy" if int(number) == ACCEPTED[sku] else "bad copy")
        if sku == "unfit" and attempt.grammar is not None:
            error = InvalidRequest("the prompt is too long", where="brief", fix="Shorten the facts.").body
            return msgspec.structs.replace(made, error=error, finish_reason="error")
        return made

    async def submit(self, body: RequestBody, wait_s: float) -> Status:
        admitted = admit(body, now_ms=NOW_MS, policies=["default"], models=[])
        asset = await self.pipeline.mint(admitted)
        return Status(asset.asset_id, "released", asset, reasons=asset.reasons)

    async def verifier_keys(self) -> list[str]:
        return []

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("tier", [Tier.BATCH, Tier.PRIORITY])
async def test_bare_vllm_is_given_exactly_the_attempts_that_the_engine_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    engine = ScriptedEngine()
    monkeypatch.setattr(minting, "HttpBackend", lambda url: engine)
    products = [product(sku) for sku in ACCEPTED]
    tiers = [tier] * len(products)
    rows = [row async for row in mint_products("", products, tiers, key_prefix=PREFIX, num_in_flight=2)]
    assert {row.sku: row.state for row in rows} == {
        sku: "released" if accepted < 99 else "refused" for sku, accepted in ACCEPTED.items()
    }
    attempts = attempts_of(small_config(tmp_path, sampling=SAMPLING), products, rows, PREFIX)
    assert sorted(attempts, key=lambda each: each.attempt_id) == sorted(
        engine.attempts, key=lambda each: each.attempt_id
    )
    counted = [engine.skus[each.attempt_id.partition("/")[0]] for each in attempts]
    assert {sku: counted.count(sku) for sku in ACCEPTED} == NUM_DRAFTS


def test_a_product_that_failed_makes_the_round_worthless(tmp_path: Path) -> None:
    error = Overloaded("the queue is full", where="pool", fix="Come back.").body
    rows = [Minted("first", Tier.BATCH, 0.1, error=error)]
    with pytest.raises(SystemExit, match="first failed, so the round says nothing: overloaded"):
        attempts_of(small_config(tmp_path), [product("first")], rows, PREFIX)


def released(sku: str, *, num_attempts: int = 1, content: str = TRUE_COPY, verified: bool = True) -> Minted:
    asset = Asset(
        asset_id(TENANT, sku), content, "cd" * 32, 0, 1, "", Tier.BATCH, "default", "fake",
        num_attempts=num_attempts, num_tokens=20, constrained=num_attempts == 4, latency_ms=9,
    )  # fmt: skip
    return Minted(sku, Tier.BATCH, 0.5, asset=asset, verified=verified)


def refused(sku: str) -> Minted:
    error = Refused("the gate rejected it", where="gate", fix="Mend it.").body
    return Minted(sku, Tier.BATCH, 0.5, error=error, reasons=(Reason(0, "form", "bad"),))


def measured(*rows: Minted, engine: Rates, bare: Rates, num_attempts: int = 9, scale: float = 1.0) -> Measured:
    return Measured(
        first_asset_s=10.0 * scale,
        rss_gib=2.0 * scale,
        pss_gib=1.0 * scale,
        engine=engine,
        bare=bare,
        num_attempts=num_attempts,
        same_text_rate=0.5 * scale,
        rows=list(rows),
        facts={row.sku: FACTS for row in rows},
    )


def rates(full: float, whole: float, num_drafts: int = 9) -> Rates:
    return Rates(full_drafts_per_s=full, drafts_per_s=whole, tokens_per_s=20 * whole, num_drafts=num_drafts)


def test_the_rates_are_shares_of_all_products_of_all_rounds() -> None:
    rows = [released("a"), released("b", num_attempts=2), released("c", num_attempts=4, verified=False)]
    rounds = [
        measured(*rows, engine=rates(8, 6), bare=rates(10, 8)),
        measured(refused("d"), released("e", content=FALSE_COPY), engine=rates(9, 6), bare=rates(10, 8)),
    ]
    figures = summary(rounds)
    shares = ("accept_rate_first_try", "retry_rate", "constrained_rate", "released_rate", "refused_rate")
    assert [figures[name] for name in shares] == [0.4, 0.4, 0.2, 0.8, 0.2]
    assert figures["receipts_verified"] == 3


def test_a_released_text_that_is_not_true_is_counted_among_the_released_and_shown() -> None:
    rows = [released("a"), released("b", content=FALSE_COPY), refused("c")]
    figures = summary([measured(*rows, engine=rates(8, 6), bare=rates(10, 8))])
    assert figures["fact_error_rate"] == 0.5
    assert list(figures["fact_errors"]) == ["b"]
    assert any("silk" in error for error in figures["fact_errors"]["b"])


def test_a_round_in_which_nothing_was_released_has_no_rate_of_errors() -> None:
    figures = summary([measured(refused("a"), engine=rates(8, 6), bare=rates(10, 8))])
    assert (figures["released_rate"], figures["refused_rate"], figures["fact_error_rate"]) == (0, 1, 0)


def test_the_ratios_are_those_of_each_round_and_their_median_counts() -> None:
    """Of three rounds the middle ratio, which is not the ratio of the middle rates; of memory the most."""
    rounds = [
        measured(released("a"), engine=rates(5, 4), bare=rates(10, 10), scale=1.0),
        measured(released("b"), engine=rates(18, 12), bare=rates(20, 20), scale=2.0),
        measured(released("c"), engine=rates(24, 15), bare=rates(30, 30), scale=0.5),
    ]
    figures = summary(rounds)
    assert (figures["engine_ratio"], figures["engine_ratio_whole"]) == (0.8, 0.5)
    assert (figures["engine_drafts_per_s"], figures["bare_drafts_per_s"]) == (18, 20)
    assert (figures["engine_tokens_per_s"], figures["bare_tokens_per_s"]) == (240, 400)
    assert (figures["first_asset_s"], figures["same_text_rate"]) == (10, 0.5)
    assert (figures["rss_gib"], figures["pss_gib"]) == (4, 2)


@pytest.mark.parametrize("num_drafts", [8, 10])
def test_other_attempts_than_the_engines_are_no_comparison(num_drafts: int) -> None:
    whole = measured(released("a"), engine=rates(8, 6), bare=rates(10, 8))
    other = measured(released("b"), engine=rates(8, 6, num_drafts), bare=rates(10, 8))
    with pytest.raises(SystemExit, match=f"the engine made {num_drafts} drafts, bare vLLM 9"):
        summary([whole, other])


SKUS = [f"S-{number:04d}" for number in range(1000)]


def write_catalogue(path: Path, skus: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["sku", "article", "colour", "name"], *([sku, "Mug", "Red", sku] for sku in skus)])
    return path


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared catalogue, of a thousand products."""
    monkeypatch.setenv("MINTAGE_SHARED", str(tmp_path))
    return write_catalogue(tmp_path / "data" / "catalogue.csv", SKUS)


def looked_at() -> set[str]:
    """What the prompt, the gate and the fact checker were developed on: 400 of one shuffle and 96 of another."""
    found: set[str] = set()
    for seed, num in ((0, 400), (5, 96)):
        order = list(SKUS)
        random.Random(seed).shuffle(order)
        found.update(order[:num])
    return found


@pytest.mark.parametrize("is_named", [False, True])
def test_no_product_of_the_shared_catalogue_that_was_developed_on_is_chosen_and_every_other_may_be(
    shared: Path, is_named: bool
) -> None:
    products, where = choose_products(shared if is_named else None, len(SKUS))
    assert {each.sku for each in products} == set(SKUS) - looked_at()
    assert where == "catalogue.csv"


def test_the_same_products_are_chosen_again_and_fewer_are_the_first_of_them(shared: Path) -> None:
    many, _ = choose_products(None, 40)
    few, _ = choose_products(None, 10)
    assert len(many) == 40
    assert many[:10] == few
    assert [each.sku for each in many] != sorted(each.sku for each in many)


def test_another_catalogue_is_used_whole(shared: Path, tmp_path: Path) -> None:
    named = write_catalogue(tmp_path / "mine.csv", SKUS[:30])
    products, where = choose_products(named, 100)
    assert (sorted(each.sku for each in products), where) == (SKUS[:30], "mine.csv")


def test_without_a_shared_catalogue_it_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINTAGE_SHARED", str(tmp_path))
    products, where = choose_products(None, 5)
    assert (len(products), where) == (5, "configs/catalogue.csv")
