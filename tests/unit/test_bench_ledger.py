"""The ledger's benchmark measures what it says: everything appended is there, and what is wrong stops it."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from bench import ledger as bench
from bench.ledger_peers_work import accounts, funding
from bench.ledger_writers import NUM_SHARDS, Writers, open_shard
from ledger.fsck import Report
from ledger.fsck_report import Problem

OPTIONS = argparse.Namespace(entries=40_000, slice=10_000, singles=640, sample=20, transfers=9_000)


def test_a_small_run_measures_every_step_and_leaves_a_log_that_is_in_order(tmp_path: Path) -> None:
    row, figures = bench.measure_ledger(tmp_path, OPTIONS)
    assert figures["num_entries"] == row.num_entries == 40_000
    wanted = {"append_per_s", "append_ratio_lmdb", "single_append_ms_p50", "single_append_ms_p99", "transfers_per_s"}
    wanted |= {"proof_us", "receipt_us", "lookups_per_s", "bytes_per_entry", "fsck_entries_per_s"}
    assert all(figures[name] > 0 for name in wanted)
    assert figures["single_append_ms_p50"] <= figures["single_append_ms_p99"]
    assert figures["append_fall"] == 1 - figures["append_per_s_last"] / figures["append_per_s_first"]
    assert 240 < figures["bytes_per_entry"] < 2_000
    json.dumps(figures)
    sizes = []
    for number in range(NUM_SHARDS):
        with open_shard(tmp_path / "ledger", number) as shard:
            sizes.append(shard.tree_size)
    assert sum(sizes) >= 40_000 + 640
    assert not list(tmp_path.glob("lmdb-*"))


def test_what_is_slower_in_the_end_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0] * 8 + [2.0] * 2)

    class Slowing:
        def __init__(self, folder: Path) -> None:
            pass

        def __enter__(self) -> "Slowing":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def append(self, num_entries: int, names: tuple[str, ...]) -> dict[str, float]:
            return dict.fromkeys(names, 0.5) | {"ledger": next(seconds)}

    monkeypatch.setattr(bench, "Writers", Slowing)
    figures = bench.append(tmp_path, 1_000, 100)
    assert (figures.append_per_s_first, figures.append_per_s_last, figures.append_fall) == (100, 50, 0.5)
    assert figures.append_per_s == 1_000 / 12
    assert figures.append_ratio_lmdb == 0.5


def test_a_writer_that_dies_stops_the_run(tmp_path: Path) -> None:
    with open_shard(tmp_path / "ledger", 1), pytest.raises(RuntimeError, match="has ended"):
        Writers(tmp_path)


def test_a_finding_of_fsck_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Report(1, 10, (Problem("shard-000", "the root is wrong"),), False, 0)
    monkeypatch.setattr(bench, "check", lambda log: found)
    with pytest.raises(AssertionError, match="the root is wrong"):
        bench.verify_all(tmp_path)


def test_a_refused_entry_stops_the_run(tmp_path: Path) -> None:
    with open_shard(tmp_path, 0) as shard, pytest.raises(AssertionError, match="refused"):
        bench.must_append(shard, bench.money_entries(funding(accounts())[:5]))


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"room for .* need"):
        bench.refuse_too_small_a_disk(tmp_path, 10**15)


def test_transfers_become_entries_of_the_same_sides_and_amounts() -> None:
    batch = funding(accounts())[:5]
    rows = bench.money_entries(batch)
    for name in ("id", "debit", "credit"):
        assert rows[name].tolist() == batch[name].tolist()
    assert np.array_equal(rows["amount"], batch["amount"])
