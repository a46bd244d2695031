"""Minting a list: what counts as a success, what the table says, and the files."""

from pathlib import Path

import pytest
from briefs import TRUE_COPY
from rich.console import Console

from actors.minting import NAME_BYTES_MAX, Minted, Tally, file_name, progress_bar, write_asset
from engine.errors import ErrorBody, Overloaded, Refused, Unavailable
from engine.request import Asset
from engine.tiers import Tier

ASSET = Asset("ab" * 16, TRUE_COPY, "cd" * 32, 0, 1, "a receipt", Tier.FLEX, "default", "fake", 1, 20, False, 900)
REFUSED = Refused("the scarf is red", where="draft", fix="Change the facts.").body
OVERLOADED = Overloaded("the queue is full", where="pool", fix="Come back.").body


def released(sku: str = "1", *, verified: bool = True) -> Minted:
    return Minted(sku, Tier.FLEX, 0.5, asset=ASSET, verified=verified)


def failed(error: ErrorBody = OVERLOADED, sku: str = "1") -> Minted:
    return Minted(sku, Tier.FLEX, 0.5, error=error)


def tally_of(*rows: Minted) -> Tally:
    tally = Tally(len(rows))
    tally.minted += rows
    return tally


def test_a_release_and_a_refusal_are_a_success() -> None:
    tally = tally_of(released(), failed(REFUSED))
    assert tally.faults == []
    summary = tally.summary()
    assert (summary["num_released"], summary["num_refused"], summary["num_failed"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([released(), failed()], ["requests that failed: 1; the first: overloaded at pool"]),
        ([released(), released(verified=False)], ["receipts that do not verify: 1"]),
        ([failed(REFUSED)], ["nothing was released"]),
        ([], ["nothing was released"]),
        ([failed(), failed()], ["requests that failed: 2", "nothing was released"]),
    ],
)
def test_every_fault_is_named(rows: list[Minted], said: list[str]) -> None:
    faults = tally_of(*rows).faults
    assert len(faults) == len(said)
    assert all(fault.startswith(start) for fault, start in zip(faults, said, strict=True))


def test_the_table_calls_a_failure_failed_and_a_refusal_refused() -> None:
    console = Console(width=150)
    with console.capture() as capture:
        tally = tally_of(released("S-1"), failed(REFUSED, "S-2"), failed(OVERLOADED, "S-[3]"))
        console.print(tally.render(progress_bar(3)[0]))
    lines = [line.split() for line in capture.get().splitlines()]
    assert {line[0]: line[1] for line in lines if line and line[0].startswith("S-")} == {
        "S-1": "released",
        "S-2": "refused",
        "S-[3]": "failed",
    }


SKUS = [
    "A-1",
    "a/b",
    "a b",
    "a_b",
    "a?b",
    "..",
    "x" * 200,
    "x" * 199 + "y",
    "x" * 250,
    "é" * 150,
    "é" * 151,
    "~",
    "a~b",
]


def test_every_sku_has_files_of_its_own_in_the_folder(tmp_path: Path) -> None:
    for sku in SKUS:
        write_asset(tmp_path, released(sku))
    assert len(list(tmp_path.glob("*.txt"))) == len(list(tmp_path.glob("*.receipt"))) == len(SKUS)
    assert len(list(tmp_path.iterdir())) == 2 * len(SKUS)


@pytest.mark.parametrize("sku", ["A-1", "4711", "a_b", "é", "x" * NAME_BYTES_MAX])
def test_a_sku_that_is_a_file_name_is_kept_as_it_is(sku: str) -> None:
    assert file_name(sku) == sku


@pytest.mark.parametrize("sku", ["a/b", "../../etc/passwd", "x" * 1000, "\N{GRINNING FACE}" * 200])
def test_a_sku_that_is_none_is_changed_into_one(sku: str) -> None:
    name = file_name(sku)
    assert "/" not in name
    assert len(f"{name}.refused.json".encode()) <= 255
    assert file_name(sku) == name != file_name(sku + "z")


def test_what_was_not_released_is_kept_with_its_error_and_by_its_right_name(tmp_path: Path) -> None:
    write_asset(tmp_path, failed(REFUSED, "A-1"))
    write_asset(tmp_path, failed(OVERLOADED, "A-2"))
    assert {path.name for path in tmp_path.iterdir()} == {"A-1.refused.json", "A-2.failed.json"}
    assert "the queue is full" in (tmp_path / "A-2.failed.json").read_text()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "A-1.txt").mkdir()
    with pytest.raises(Unavailable) as caught:
        write_asset(tmp_path, released("A-1"))
    assert caught.value.body.where == str(tmp_path / "A-1.txt")
    assert "cannot write" in caught.value.body.what
