"""The ledger's speed, and that of others at the same work in the same run.

    python -m bench.ledger [--quick] [--entries N] [--seconds S] [--folder DIR]

    1 append     two processes with a shard each append full entries in batches of 4,096: every batch is checked,
                 deduplicated, indexed, hashed into the tree, under a signed checkpoint, and durable before the next.
                 Beside them, slice by slice in turn, two processes of py-lmdb alone put the same bytes with the same
                 sync (bench.ledger_writers): `append_per_s`, `append_ratio_lmdb`, `append_fall`, `bytes_per_entry`
    2 receipts   with entry and checkpoint, made and verified in the first shard of that log: `receipt_us`
    3 steps      2 to 4 of bench.ledger_peers, in the same shard and as each peer does them: `lookups_per_s`,
                 `proof_us`, `single_append_ms_p50` and `_p99`, `transfers_per_s`
    4 fsck       the whole log is derived again from its bytes, and nothing may be wrong: `fsck_entries_per_s`
    5 peers      the ledger in an empty shard, SQLite, PostgreSQL, RocksDB, pymerkle and LMDB do the same work, one
                 process each, measured in the same way (bench.ledger_peers): the table, and `peers`

The rows of the table, which are `peers` in the JSON, compare with each other. All other figures are of the log of
step 1, which is as large as asked for: `append_per_s` is the rate of two processes and compares with `lmdb_per_s`, that
of two as well, and with nothing in the table.

`append_per_s` is of the whole run; `append_fall` is how much slower its last tenth was than its first two million
entries (less than a fifth of a short run), `lmdb_fall` the same of LMDB in the same slices: what the machine itself
lost, as when it has to find memory for ever more of the page cache. `append_ratio_lmdb` is the median over slices of
LMDB's seconds by ours.
Figures are those of the machine's state at that moment; on a machine that others use, too, only ratios say much.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from bench.ledger_peers import (
    PEERS,
    PROVE_SHARE,
    PeerFigures,
    available,
    mean_us,
    measure,
    measure_full,
    print_table,
)
from bench.ledger_peers_ledger import NUM_SHARDS, Ledger, bytes_on_disk
from bench.ledger_peers_work import PeerMissing
from bench.ledger_writers import Writers
from ledger.fsck import check

SLICE_ENTRIES, SLICE_ENTRIES_QUICK = 524_288, 131_072
ENTRIES_FULL, ENTRIES_QUICK = 5_000_000, 1_048_576
SECONDS_FULL, SECONDS_QUICK = 280.0, 24.5
TRANSFERS_FULL, TRANSFERS_QUICK = 1_000_000, 200_000
BESIDE_FIRST, BESIDE_EVERY = 8, 12
"""Slices that LMDB gets, too: so many of the first, then one of so many, and all of the last tenth; it need not keep a
second copy of it all."""
EARLY_ENTRIES = 2_000_000
BYTES_PER_ENTRY_MAX = 450


class AppendFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Step 1."""

    num_entries: int
    append_per_s: float
    append_per_s_first: float
    append_per_s_last: float
    append_fall: float
    append_ratio_lmdb: float
    lmdb_per_s: float
    lmdb_fall: float


def append(folder: Path, num_entries: int, slice_entries: int) -> AppendFigures:
    """Fill the log in `folder / "ledger"`."""
    num_slices = -(-num_entries // slice_entries)
    num_early = max(1, min(EARLY_ENTRIES // slice_entries, num_slices // 5))
    num_late = max(num_early, num_slices // 10)
    taken: list[dict[str, float]] = []
    with Writers(folder) as writers:
        for number in range(num_slices):
            names: tuple[str, ...] = ("ledger",)
            if number < BESIDE_FIRST or number % BESIDE_EVERY == 0 or number >= num_slices - num_late:
                names = ("ledger", "lmdb") if number % 2 else ("lmdb", "ledger")
            taken.append(writers.append(slice_entries, names))

    def rate(name: str, slices: list[dict[str, float]]) -> float:
        return slice_entries / float(np.median([spans[name] for spans in slices if name in spans]))

    first, last = rate("ledger", taken[:num_early]), rate("ledger", taken[-num_late:])
    return AppendFigures(
        num_entries=num_slices * slice_entries,
        append_per_s=num_slices * slice_entries / sum(spans["ledger"] for spans in taken),
        append_per_s_first=first,
        append_per_s_last=last,
        append_fall=1 - last / first,
        append_ratio_lmdb=float(np.median([spans["lmdb"] / spans["ledger"] for spans in taken if "lmdb" in spans])),
        lmdb_per_s=rate("lmdb", taken),
        lmdb_fall=1 - rate("lmdb", taken[-num_late:]) / rate("lmdb", taken[:num_early]),
    )


def verify_all(log: Path) -> float:
    """Entries per second of fsck, which must find nothing."""
    start_s = time.perf_counter()
    report = check(log)
    seconds = time.perf_counter() - start_s
    assert report.ok, f"fsck: {(*report.problems, *report.not_checked)[0]}"
    return report.num_entries / seconds


def measure_log(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Steps 1 to 4."""
    log = folder / "ledger"
    appended = append(folder, options.entries, options.slice)
    for raw in folder.glob("lmdb-*"):
        shutil.rmtree(raw)
    bytes_per_entry = bytes_on_disk(log) / appended.num_entries
    seconds = options.seconds / len(PEERS)
    with closing(Ledger(log)) as ledger:
        proof_entries = ledger.tree_size
        receipt_us = mean_us(ledger.check_receipt, proof_entries, time.perf_counter() + PROVE_SHARE * seconds)
        full = measure_full(ledger, appended.num_entries // NUM_SHARDS, options.transfers, seconds)
    return {
        **msgspec.structs.asdict(appended),
        **msgspec.structs.asdict(full),
        "receipt_us": receipt_us,
        "proof_entries": proof_entries,
        "bytes_per_entry": bytes_per_entry,
        "fsck_entries_per_s": verify_all(log),
    }


def main() -> None:
    options = parse_options()
    missing = {name: reason for name, reason in available().items() if reason is not None}
    peers: list[PeerFigures] = []
    with tempfile.TemporaryDirectory(prefix="ledger-bench-", dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o711)  # so that PostgreSQL's user can get to its own folder in it
        refuse_too_small_a_disk(folder, options.entries)
        figures = measure_log(folder, options)
        for peer in [peer for peer in PEERS if peer not in missing]:
            try:
                peers.append(
                    measure(peer, folder, options.peer_entries, options.transfers, options.seconds / len(PEERS))
                )
            except PeerMissing as error:
                missing[peer] = str(error)
    print_table(peers, missing)
    print_figures(figures)
    figures["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    figures["peers"], figures["missing"] = peers, missing
    print(msgspec.json.encode(figures).decode())


def refuse_too_small_a_disk(folder: Path, num_entries: int) -> None:
    """Say so before, not in the middle."""
    needed, free = num_entries * BYTES_PER_ENTRY_MAX, shutil.disk_usage(folder).free
    if needed > free:
        sys.exit(
            f"{folder} has room for {free / 1e9:.1f} GB; {num_entries:,} entries need {needed / 1e9:.1f} GB. "
            "Name another folder (--folder) or fewer entries (--entries)."
        )


def print_figures(figures: dict[str, Any]) -> None:
    """Those of the log, which are none of the table's."""
    console = Console()
    console.print(
        f"Not in the table: {NUM_SHARDS} processes together filled a log of {figures['num_entries']:,} entries at "
        f"{figures['append_per_s']:,.0f} entries/s ({figures['append_per_s_first']:,.0f} at first, "
        f"{figures['append_per_s_last']:,.0f} at the end), {figures['append_ratio_lmdb']:.2f} of the speed of "
        f"{NUM_SHARDS} with raw LMDB ({figures['lmdb_per_s']:,.0f} puts/s). From first to last it lost "
        f"{figures['append_fall']:.0%}, LMDB in the same slices {figures['lmdb_fall']:.0%}."
    )
    console.print(
        f"In its first shard, of {figures['proof_entries']:,} entries: single append "
        f"{figures['single_append_ms_p50']:.3g} ms (p99 {figures['single_append_ms_p99']:.3g} ms), "
        f"{figures['lookups_per_s']:,.0f} lookups/s, proof "
        f"{figures['proof_us']:,.0f} us, receipt {figures['receipt_us']:,.0f} us, {figures['transfers_per_s']:,.0f} "
        f"transfers/s; fsck of the whole log {figures['fsck_entries_per_s']:,.0f} entries/s."
    )


def parse_options() -> argparse.Namespace:
    """Sizes, time and place."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, done in under a minute")
    parser.add_argument("--entries", type=int, help="how many entries the log gets; the big run is of 50,000,000")
    parser.add_argument("--seconds", type=float, help="how long all peers together may take")
    parser.add_argument(
        "--folder", type=Path, help="where to write: the disk to measure; the temporary folder if unsaid"
    )
    options = parser.parse_args()
    quick = options.quick
    options.slice = SLICE_ENTRIES_QUICK if quick else SLICE_ENTRIES
    options.entries = options.entries or (ENTRIES_QUICK if quick else ENTRIES_FULL)
    options.seconds = options.seconds or (SECONDS_QUICK if quick else SECONDS_FULL)
    options.transfers = TRANSFERS_QUICK if quick else TRANSFERS_FULL
    options.peer_entries = min(options.entries, ENTRIES_QUICK)
    if options.entries < 1:
        parser.error("--entries must be at least 1")
    return options


if __name__ == "__main__":
    main()
