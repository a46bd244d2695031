"""The ledger's benchmark measures what it says: everything appended is there, and what is wrong stops it."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from bench import ledger as bench
from bench.ledger_peers import PEERS, PeerFigures
from bench.ledger_peers_ledger import NUM_SHARDS, open_shard
from bench.ledger_writers import Writers
from ledger.fsck import Report
from ledger.fsck_report import Problem

OPTIONS = argparse.Namespace(entries=32_768, slice=16_384, transfers=9_000, seconds=0.2 * len(PEERS))


def test_a_small_run_measures_every_step_and_leaves_a_log_that_is_in_order(tmp_path: Path) -> None:
    figures = bench.measure_log(tmp_path, OPTIONS)
    assert figures["num_entries"] == 32_768
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
    assert sizes[1] == 64 + 16_384
    assert sizes[0] >= 64 + 16_384 + 64 + 10_000 + figures["num_transfers"]  # and single appends, and accounts
    assert not list(tmp_path.glob("lmdb-*"))


def test_what_is_slower_in_the_end_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([(1.0, 0.5)] * 8 + [(2.0, 0.8)] * 2)

    class Slowing:
        def __init__(self, folder: Path) -> None:
            pass

        def __enter__(self) -> "Slowing":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def append(self, num_entries: int, names: tuple[str, ...]) -> dict[str, float]:
            both = dict(zip(("ledger", "lmdb"), next(seconds), strict=True))
            return {name: both[name] for name in names}

    monkeypatch.setattr(bench, "Writers", Slowing)
    figures = bench.append(tmp_path, 1_000, 100)
    assert (figures.append_per_s_first, figures.append_per_s_last, figures.append_fall) == (100, 50, 0.5)
    assert figures.append_per_s == 1_000 / 12
    assert (figures.append_ratio_lmdb, figures.lmdb_per_s, figures.lmdb_fall) == (0.5, 200, 0.375)


def test_a_writer_that_dies_stops_the_run(tmp_path: Path) -> None:
    with open_shard(tmp_path / "ledger", 1), pytest.raises(RuntimeError, match="has ended"):
        Writers(tmp_path)


def test_a_finding_of_fsck_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Report(1, 10, (Problem("shard-000", "the root is wrong"),), False, 0)
    monkeypatch.setattr(bench, "check", lambda log: found)
    with pytest.raises(AssertionError, match="the root is wrong"):
        bench.verify_all(tmp_path)


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"room for .* need"):
        bench.refuse_too_small_a_disk(tmp_path, 10**15)


def test_the_rate_of_two_processes_is_shown_apart_from_the_table_of_those_measured_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    alone = PeerFigures(
        name="ledger",
        version="this",
        num_entries=1,
        num_transfers=1,
        appends_per_s=111_111,
        lookups_per_s=1,
        proof_us=1,
        single_append_ms_p50=1,
        single_append_ms_p99=1,
        transfers_per_s=1,
        bytes_per_entry=1,
        notes="",
    )
    together = dict.fromkeys(bench.AppendFigures.__struct_fields__, 2.0) | {"append_per_s": 222_222.0}
    rest = ("single_append_ms_p50", "single_append_ms_p99", "lookups_per_s", "proof_us", "receipt_us")
    together |= dict.fromkeys((*rest, "transfers_per_s", "fsck_entries_per_s", "proof_entries"), 3.0)
    monkeypatch.setattr(bench, "measure_log", lambda folder, options: together)
    monkeypatch.setattr(bench, "measure", lambda name, *_: alone)
    monkeypatch.setattr(bench, "available", lambda: dict.fromkeys(PEERS, "not today") | {"ledger": None})
    monkeypatch.setattr(sys, "argv", ["bench", "--entries", "1", "--folder", str(tmp_path)])
    bench.main()
    table, apart = capsys.readouterr().out.split("Not in the table: 2 processes")
    assert "111,111" in table and "222,222" not in table
    assert "222,222" in apart
    result = json.loads(apart.splitlines()[-1])
    assert [peer["name"] for peer in result["peers"]] == ["ledger"]
    assert result["append_per_s"] == 222_222
