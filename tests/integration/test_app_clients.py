"""The Python client and the command line against a running engine."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from running import DEADLINE_MS, RunningEngine, mintage

from engine import connect
from engine.config import CONFIGS
from engine.errors import IdempotencyConflict, NotFound
from engine.request import shard_of
from ledger.receipt import verify

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

NUM_PRODUCTS = 3
BOOTS = {"article": "Boots", "colour": "Brown", "material": "Suede"}


def options(key: str) -> dict[str, Any]:
    return {"policy": "quick", "tier": "priority", "idempotency_key": key, "deadline_ms": DEADLINE_MS}


def test_the_client_mints_and_finds_again_what_it_minted(engine: RunningEngine) -> None:
    with connect(engine.url) as client:
        asset = engine.acknowledge(client.mint(BOOTS, **options("client")))
        assert engine.acknowledge(client.result(asset.asset_id)).content == asset.content
        assert client.status(asset.asset_id).state == "released"
        assert len(client.checkpoints()) == 2


def test_a_submitted_request_goes_on_without_its_client(engine: RunningEngine) -> None:
    with connect(engine.url) as client:
        asset_id = client.submit(BOOTS, **options("submitted"))
    with connect(engine.url) as another:
        assert engine.acknowledge(another.result(asset_id)).asset_id == asset_id


async def test_the_async_forms_do_the_same(engine: RunningEngine) -> None:
    with connect(engine.url) as client:
        asset_id = await client.submit_async(BOOTS, **options("async client"))
        asset = engine.acknowledge(await client.result_async(asset_id))
        assert asset.asset_id == asset_id
        assert shard_of(asset_id, 2) == asset.shard


def test_the_clients_errors_are_the_engines_own(engine: RunningEngine) -> None:
    with connect(f"{engine.url}/") as client:
        engine.acknowledge(client.mint(BOOTS, **options("client")))
        with pytest.raises(NotFound, match="no policy is called 'none'"):
            client.mint(BOOTS, policy="none")
        with pytest.raises(IdempotencyConflict):
            client.mint(BOOTS | {"colour": "Black"}, **options("client"))
        with pytest.raises(NotFound):
            client.result("0" * 32)


@pytest.fixture(scope="module")
def minted(engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `mintage mint` filled with three products."""
    folder = tmp_path_factory.mktemp("minted")
    ran = mintage("mint", CONFIGS / "catalogue.csv", "--num", str(NUM_PRODUCTS), "--policy", "quick", "--key", "cli",
                  "--tier", "batch", "--out", folder, "--url", engine.url, "--json")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert summary["num_products"] == NUM_PRODUCTS
    assert summary["num_released"] + summary["num_refused"] == NUM_PRODUCTS
    assert summary["num_receipts_verified"] == summary["num_released"] == len(list(folder.glob("*.receipt"))) > 0
    return folder


def receipts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.receipt"))


def test_every_receipt_that_mint_wrote_verifies(engine: RunningEngine, minted: Path) -> None:
    for receipt in receipts(minted):
        ran = mintage("verify", receipt, "--json")
        assert ran.returncode == 0, ran.stderr
        facts = json.loads(ran.stdout)
        assert (facts["verified"], facts["content_checked"]) == (True, True)
        with connect(engine.url) as client:
            assert (
                engine.acknowledge(client.result(facts["asset_id"])).content == receipt.with_suffix(".txt").read_text()
            )


def test_minting_again_under_the_same_key_gives_the_same_assets(
    engine: RunningEngine, minted: Path, tmp_path: Path
) -> None:
    ran = mintage("mint", CONFIGS / "catalogue.csv", "--num", str(NUM_PRODUCTS), "--policy", "quick", "--key", "cli",
                  "--tier", "batch", "--out", tmp_path, "--url", engine.url)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert f"{len(receipts(minted))} of {NUM_PRODUCTS} released" in ran.stdout
    for receipt in receipts(minted):
        assert (tmp_path / f"{receipt.stem}.txt").read_text() == receipt.with_suffix(".txt").read_text()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_text_that_was_tampered_with_does_not_verify(minted: Path, tmp_path: Path, as_json: bool) -> None:
    tampered = tmp_path / "tampered.txt"
    tampered.write_text(receipts(minted)[0].with_suffix(".txt").read_text() + " Now half the price.")
    ran = mintage("verify", receipts(minted)[0], "--content", tampered, *(["--json"] if as_json else []))
    assert ran.returncode == 1
    if as_json:
        error = json.loads(ran.stdout)["error"]
        assert (error["code"], set(error)) == ("receipt_invalid", {"code", "what", "where", "fix"})
    else:
        assert ran.stderr.startswith("receipt_invalid")
        assert "Traceback" not in ran.stderr


def test_show_tells_of_an_asset_and_of_none(engine: RunningEngine, minted: Path) -> None:
    receipt = receipts(minted)[0]
    with connect(engine.url) as client:
        verified = verify(receipt.read_text(), engine.verifier_keys())
        asset = client.result(verified.entry.id.hex())
    ran = mintage("show", asset.asset_id, "--url", engine.url, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["asset"]["content"] == asset.content
    ran = mintage("show", asset.asset_id, "--url", engine.url)
    assert asset.content in ran.stdout
    ran = mintage("show", "0" * 32, "--url", engine.url)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("not_found")


def test_an_unknown_column_is_refused_before_anything_is_asked(engine: RunningEngine, tmp_path: Path) -> None:
    rows = list(csv.reader((CONFIGS / "catalogue.csv").read_text().splitlines()))
    catalogue = tmp_path / "shop.csv"
    with catalogue.open("w", newline="") as file:
        csv.writer(file).writerows([[*rows[0], "colr"], *([*row, "red"] for row in rows[1:])])
    num_drafts = engine.health()["num_drafts"]
    ran = mintage("mint", catalogue, "--out", tmp_path / "out", "--url", engine.url, "--json")
    assert ran.returncode == 1
    error = json.loads(ran.stdout)["error"]
    assert error["code"] == "invalid_request"
    assert "colr" in error["what"] + error["where"]
    assert not (tmp_path / "out").exists()
    assert engine.health()["num_drafts"] == num_drafts


def test_a_second_engine_on_the_same_port_is_refused_by_the_ports_number(engine: RunningEngine, tmp_path: Path) -> None:
    ran = mintage("run", "--port", str(engine.port), "--data", tmp_path / "data")
    assert ran.returncode == 1
    assert "start_failed" in ran.stderr
    assert f"port {engine.port} cannot be taken" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert engine.is_healthy()
