"""The ledger's speed, and that of others at the same work in the same run.

    python -m bench.ledger [--quick] [--entries N] [--seconds S] [--folder DIR]

    1 append     two processes with a shard each append full entries in batches of 4,096: every batch is checked,
                 deduplicated, indexed, hashed into the tree, under a signed checkpoint, and durable before the next.
                 Beside them, slice by slice in turn, py-lmdb alone puts the same bytes with the same sync
                 (bench.ledger_writers): `append_per_s`, `append_ratio_lmdb`, `append_fall`, `bytes_per_entry`
    2 single     64 callers append an entry each, wait until it is durable, and do it again: `single_append_ms_p50` and
                 `single_append_ms_p99`
    3 read       entries by id; inclusion proofs, made and verified; receipts with entry and checkpoint, too, in the
                 full log: `lookups_per_s`, `proof_us`, `receipt_us`
    4 settle     one process applies batches of 8,190 transfers between 10,000 accounts, each batch durable before the
                 next: `transfers_per_s`
    5 fsck       the whole log is derived again from its bytes, and nothing may be wrong: `fsck_entries_per_s`
    6 peers      SQLite, PostgreSQL, RocksDB, pymerkle and LMDB do the same, as far as they can (bench.ledger_peers)

`append_per_s` is of the whole run; `append_fall` is how much slower its last tenth was than its first two million
entries (less than a fifth of a short run). `append_ratio_lmdb` is the median over slices of LMDB's seconds by ours.
Figures are those of the machine's state at that moment; on a machine that others use, too, only ratios say much.
"""

import argparse
import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from bench.ledger_peers import NUM_CALLERS, PEERS, PeerFigures, available, measure, print_table
from bench.ledger_peers_work import (
    SEED,
    TRANSFER_BATCH,
    Accounts,
    PeerMissing,
    Transfers,
    accounts,
    entries,
    entries_of,
    funding,
    transfers,
)
from bench.ledger_writers import NUM_SHARDS, Writers, open_shard
from ledger.entry import Entries, Flag, Kind, from_bytes, zeros
from ledger.fsck import check
from ledger.group import Committer
from ledger.log import VERIFIER_FILE, read_verifier_keys
from ledger.merkle import inclusion_proof, leaf_hash, verify_inclusion
from ledger.note import open_checkpoint, parse_verifier_key
from ledger.receipt import verify
from ledger.result import Result
from ledger.shard import Shard
from ledger.tree import Nodes

SLICE_ENTRIES, SLICE_ENTRIES_QUICK = 524_288, 131_072
ENTRIES_FULL, ENTRIES_QUICK = 5_000_000, 1_048_576
SECONDS_FULL, SECONDS_QUICK = 240.0, 24.0
SINGLES_FULL, SINGLES_QUICK = 40_000, 8_000
TRANSFERS_FULL, TRANSFERS_QUICK = 1_000_000, 200_000
SAMPLE_FULL, SAMPLE_QUICK = 2_000, 500
BESIDE_FIRST, BESIDE_EVERY = 8, 12
"""Slices that LMDB gets, too: so many of the first, then one of so many; it need not keep a second copy of it all."""
EARLY_ENTRIES = 2_000_000
BYTES_PER_ENTRY_MAX = 450
WARM_UP_SHARE = 0.1
CURRENCY = 1


class AppendFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Step 1."""

    num_entries: int
    append_per_s: float
    append_per_s_first: float
    append_per_s_last: float
    append_fall: float
    append_ratio_lmdb: float
    lmdb_per_s: float


class ReadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Step 3, in a shard of `num_entries`."""

    num_entries: int
    lookups_per_s: float
    proof_us: float
    receipt_us: float


def append(folder: Path, num_entries: int, slice_entries: int) -> AppendFigures:
    """Fill the log in `folder / "ledger"`."""
    seconds: list[float] = []
    ratios: list[float] = []
    lmdb_s: list[float] = []
    num_slices = -(-num_entries // slice_entries)
    with Writers(folder) as writers:
        for number in range(num_slices):
            names: tuple[str, ...] = ("ledger",)
            if number < BESIDE_FIRST or number % BESIDE_EVERY == 0 or number == num_slices - 1:
                names = ("ledger", "lmdb") if number % 2 else ("lmdb", "ledger")
            taken = writers.append(slice_entries, names)
            seconds.append(taken["ledger"])
            if "lmdb" in taken:
                ratios.append(taken["lmdb"] / taken["ledger"])
                lmdb_s.append(taken["lmdb"])
    num_early = max(1, min(EARLY_ENTRIES // slice_entries, num_slices // 5))
    num_late = max(num_early, num_slices // 10)
    first = slice_entries / float(np.median(seconds[:num_early]))
    last = slice_entries / float(np.median(seconds[-num_late:]))
    return AppendFigures(
        num_entries=num_slices * slice_entries,
        append_per_s=num_slices * slice_entries / sum(seconds),
        append_per_s_first=first,
        append_per_s_last=last,
        append_fall=1 - last / first,
        append_ratio_lmdb=float(np.median(ratios)),
        lmdb_per_s=slice_entries / float(np.median(lmdb_s)),
    )


async def append_singly(shard: Shard, num_entries: int) -> list[float]:
    """Milliseconds from call to durable answer of each of many single appends, by `NUM_CALLERS` callers at a time; the
    first tenth is not among them."""
    committer = Committer(shard)
    rows = iter(entries_of(entries(1 << 50, num_entries)))
    latencies_ms: list[float] = []

    async def call() -> None:
        for row in rows:
            start_s = time.perf_counter()
            answer = await committer.append(row)
            latencies_ms.append(1e3 * (time.perf_counter() - start_s))
            assert answer.result is Result.OK, "the ledger refused an entry"

    try:
        await asyncio.gather(*(call() for _ in range(NUM_CALLERS)))
    finally:
        committer.close()
    return latencies_ms[int(WARM_UP_SHARE * num_entries) :]


def read(shard: Shard, key: str, num_samples: int) -> ReadFigures:
    """Look up, prove and verify entries of the whole shard, chosen at random."""
    random = np.random.default_rng(SEED)
    indices = random.integers(0, shard.tree_size, num_samples).tolist()
    ids = [from_bytes(shard.read_entries(index, index + 1))["id"][0].tobytes() for index in indices]
    start_s = time.perf_counter()
    found = [find(shard, id_) for id_ in ids]
    lookups_s = time.perf_counter() - start_s
    assert [from_bytes(data)["id"][0].tobytes() for data in found] == ids, "the ledger found another entry"

    checkpoint = open_checkpoint(shard.checkpoint(), [parse_verifier_key(key)])
    proofs_us = []
    for index in indices:
        leaf = leaf_hash(shard.read_entries(index, index + 1))
        start_s = time.perf_counter()
        proof = inclusion_proof(index, checkpoint.tree_size, Nodes(checkpoint.tree_size, shard.read_hashes))
        verify_inclusion(index, checkpoint.tree_size, leaf, proof, checkpoint.root)
        proofs_us.append(1e6 * (time.perf_counter() - start_s))

    receipts_us = []
    for index in indices:
        start_s = time.perf_counter()
        verified = verify(shard.receipt(index), [key])
        receipts_us.append(1e6 * (time.perf_counter() - start_s))
        assert verified.index == index, "the receipt is another entry's"
    return ReadFigures(
        num_entries=shard.tree_size,
        lookups_per_s=num_samples / lookups_s,
        proof_us=float(np.median(proofs_us)),
        receipt_us=float(np.median(receipts_us)),
    )


def find(shard: Shard, id_: bytes) -> bytes:
    """The bytes of an entry that is there."""
    index = shard.find(id_)
    assert index is not None, "the ledger does not find an entry"
    return shard.read_entries(index, index + 1)


def settle(folder: Path, num_transfers: int) -> float:
    """Transfers per second of one shard; in the end no money may be lost."""
    opened = accounts()
    busy_s, moved, done = 0.0, 0, 0
    with closing(open_shard(folder, 0)) as shard:
        for batch in in_batches(account_entries(opened)):
            must_append(shard, batch)
        paid_in = funding(opened)
        for batch in in_batches(money_entries(paid_in)):
            must_append(shard, batch)
        moved += int(paid_in["amount"].sum())
        while done < num_transfers:
            made = transfers(opened, done // TRANSFER_BATCH, min(TRANSFER_BATCH, num_transfers - done))
            batch = money_entries(made)
            start_s = time.perf_counter()
            must_append(shard, batch)
            busy_s += time.perf_counter() - start_s
            moved += int(made["amount"].sum())
            done += len(made)
        assert shard.book.trial_balance() == {CURRENCY: (moved, moved, 0, 0)}, "the ledger lost money"
    return done / busy_s


def account_entries(opened: Accounts) -> Entries:
    """An entry for each account."""
    rows = zeros(len(opened.ids))
    rows["kind"], rows["currency"], rows["id"] = Kind.ACCOUNT, CURRENCY, opened.ids
    rows["flags"] = np.where(opened.limited, int(Flag.DEBITS_WITHIN_CREDITS), 0)
    return rows


def money_entries(batch: Transfers) -> Entries:
    """An entry for each transfer."""
    rows = zeros(len(batch))
    rows["kind"], rows["currency"] = Kind.MONEY, CURRENCY
    for name in ("id", "debit", "credit", "amount"):
        rows[name] = batch[name]
    return rows


def in_batches(rows: Entries) -> Iterator[Entries]:
    """At most `TRANSFER_BATCH` at a time."""
    for begin in range(0, len(rows), TRANSFER_BATCH):
        yield rows[begin : begin + TRANSFER_BATCH]


def must_append(shard: Shard, batch: Entries) -> None:
    """Append a batch of which nothing may be refused."""
    assert (shard.append(batch).results == Result.OK).all(), "the ledger refused an entry"


def verify_all(log: Path) -> float:
    """Entries per second of fsck, which must find nothing."""
    start_s = time.perf_counter()
    report = check(log)
    seconds = time.perf_counter() - start_s
    assert not report.problems, f"fsck found {report.problems[0]}"
    return report.num_entries / seconds


def bytes_on_disk(folder: Path) -> int:
    """What all files take."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def measure_ledger(folder: Path, options: argparse.Namespace) -> tuple[PeerFigures, dict[str, Any]]:
    """Steps 1 to 5."""
    log = folder / "ledger"
    appended = append(folder, options.entries, options.slice)
    for raw in folder.glob("lmdb-*"):
        shutil.rmtree(raw)
    bytes_per_entry = bytes_on_disk(log) / appended.num_entries
    key = read_verifier_keys(log / VERIFIER_FILE)[0]
    with closing(open_shard(log, 0)) as shard:
        reads = read(shard, key, options.sample)
        latencies_ms = asyncio.run(append_singly(shard, options.singles))
    settling = folder / "settlement"
    settling.mkdir()
    transfers_per_s = settle(settling, options.transfers)
    fsck_entries_per_s = verify_all(log)
    p50, p99 = (float(np.percentile(latencies_ms, share)) for share in (50, 99))
    row = PeerFigures(
        name="ledger",
        version="this repository",
        num_entries=appended.num_entries,
        num_transfers=options.transfers,
        appends_per_s=appended.append_per_s,
        lookups_per_s=reads.lookups_per_s,
        proof_us=reads.proof_us,
        single_append_ms_p50=p50,
        single_append_ms_p99=p99,
        transfers_per_s=transfers_per_s,
        bytes_per_entry=bytes_per_entry,
        notes=f"{NUM_SHARDS} processes append; all else is done by one",
    )
    figures = {
        **msgspec.structs.asdict(appended),
        "single_append_ms_p50": p50,
        "single_append_ms_p99": p99,
        "transfers_per_s": transfers_per_s,
        "proof_us": reads.proof_us,
        "receipt_us": reads.receipt_us,
        "lookups_per_s": reads.lookups_per_s,
        "proof_entries": reads.num_entries,
        "bytes_per_entry": bytes_per_entry,
        "fsck_entries_per_s": fsck_entries_per_s,
    }
    return row, figures


def main() -> None:
    options = parse_options()
    missing = {name: reason for name, reason in available().items() if reason is not None}
    peers: list[PeerFigures] = []
    with tempfile.TemporaryDirectory(prefix="ledger-bench-", dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o711)  # so that PostgreSQL's user can get to its own folder in it
        refuse_too_small_a_disk(folder, options.entries)
        row, figures = measure_ledger(folder, options)
        for peer in [peer for peer in PEERS if peer not in missing]:
            try:
                peers.append(
                    measure(peer, folder, options.peer_entries, options.transfers, options.seconds / len(PEERS))
                )
            except PeerMissing as error:
                missing[peer] = str(error)
    print_table([row, *peers], missing)
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
    """What the table of all has no column for."""
    Console().print(
        f"ledger: {figures['append_ratio_lmdb']:.2f} of raw LMDB's speed ({figures['lmdb_per_s']:,.0f} puts/s); "
        f"{figures['append_per_s_first']:,.0f} entries/s at first, {figures['append_per_s_last']:,.0f} at the end; "
        f"receipt made and verified in {figures['receipt_us']:,.0f} us; "
        f"fsck {figures['fsck_entries_per_s']:,.0f} entries/s"
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
    options.singles = SINGLES_QUICK if quick else SINGLES_FULL
    options.sample = SAMPLE_QUICK if quick else SAMPLE_FULL
    options.transfers = TRANSFERS_QUICK if quick else TRANSFERS_FULL
    options.peer_entries = min(options.entries, ENTRIES_QUICK)
    if options.entries < 1:
        parser.error("--entries must be at least 1")
    return options


if __name__ == "__main__":
    main()
