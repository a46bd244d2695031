"""The ledger itself as a peer: one shard, written by the process that has it open."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from bench.ledger_peers_work import (
    APPEND_BATCH,
    TRANSFER_BATCH,
    Accounts,
    AppendOne,
    BatchRefused,
    Prepared,
    Rows,
    Transfers,
    cut,
)
from ledger.entry import ENTRY_DTYPE, ID_BYTES, Entries, Flag, Kind, zeros
from ledger.group import Committer
from ledger.log import VERIFIER_FILE, open_keys, read_verifier_keys, shard_path
from ledger.merkle import inclusion_proof, leaf_hash, verify_inclusion
from ledger.note import Checkpoint, open_checkpoint, parse_verifier_key
from ledger.receipt import verify
from ledger.result import Result
from ledger.shard import Publishing, Shard
from ledger.tree import Nodes
from ledger.warm import warm_up

LOG_NAME = "bench.example/ledger"
NUM_SHARDS = 2
PUBLISHING = Publishing(num_entries=APPEND_BATCH, interval_ms=10)
CURRENCY = 1


class Ledger:
    """A shard of the log in a folder; both are begun on first use. Every entry has to be recorded."""

    def __init__(self, folder: Path, number: int = 0) -> None:
        self.version = "this repository"
        self.notes = (
            "one process with one shard; deduplication, Merkle tree and signed checkpoints; "
            "transfers stand or fall one by one, in their order"
        )
        warm_up()
        self._path = shard_path(folder, number)
        self._shard = open_shard(folder, number)
        self._verifier_key = read_verifier_keys(folder / VERIFIER_FILE)[number]
        self._checkpoint: Checkpoint | None = None
        self._accounts: list[bytes] = []

    @property
    def tree_size(self) -> int:
        """How many entries there are."""
        return self._shard.tree_size

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        return rows.view(ENTRY_DTYPE)[:, 0]

    def append(self, batch: Prepared) -> None:
        results = self._shard.append(batch).results
        if (results != Result.OK).any():
            raise BatchRefused(f"the ledger refused an entry: {Result(results[results != Result.OK][0]).name}")

    def find(self, entry_id: bytes) -> bytes | None:
        index = self._shard.find(entry_id)
        return None if index is None else self._shard.read_entries(index, index + 1)

    def root(self) -> bytes:
        return self._newest().root

    def prove(self, index: int) -> None:
        checkpoint = self._newest()
        proof = inclusion_proof(index, checkpoint.tree_size, Nodes(checkpoint.tree_size, self._shard.read_hashes))
        leaf = leaf_hash(self._shard.read_entries(index, index + 1))
        verify_inclusion(index, checkpoint.tree_size, leaf, proof, checkpoint.root)

    def check_receipt(self, index: int) -> None:
        """Make a receipt, with entry and checkpoint, and verify it as a third party does."""
        verified = verify(self._shard.receipt(index), [self._verifier_key])
        assert verified.index == index, "the receipt is another entry's"

    @contextmanager
    def committing(self) -> Iterator[AppendOne]:
        """The writer threads that the engine has, too."""
        with closing(Committer(self._shard)) as committer:

            async def append(entry: bytes) -> None:
                answer = await committer.append(entry)
                if answer.result is not Result.OK:
                    raise BatchRefused(f"the ledger refused an entry: {answer.result.name}")

            yield append

    def open_accounts(self, accounts: Accounts) -> None:
        rows = zeros(len(accounts.ids))
        rows["kind"], rows["currency"], rows["id"] = Kind.ACCOUNT, CURRENCY, accounts.ids
        rows["flags"] = np.where(accounts.limited, int(Flag.DEBITS_WITHIN_CREDITS), 0)
        for begin in range(0, len(rows), TRANSFER_BATCH):
            self.append(rows[begin : begin + TRANSFER_BATCH])
        self._accounts += cut(accounts.ids.tobytes(), ID_BYTES)

    def prepare_transfers(self, transfers: Transfers) -> Prepared:
        return money_entries(transfers)

    def settle(self, batch: Prepared) -> None:
        self.append(batch)

    def balances(self) -> dict[bytes, tuple[int, int]]:
        balances = {account: self._shard.balance(account) for account in self._accounts}
        return {account: (balance.debits_posted, balance.credits_posted) for account, balance in balances.items()}

    def bytes_on_disk(self) -> int:
        """With the write-ahead log, once there is one."""
        return bytes_on_disk(self._path)

    def close(self) -> None:
        self._shard.close()

    def _newest(self) -> Checkpoint:
        """A verified checkpoint of all entries; verified once while there are no more of them."""
        if self._checkpoint is None or self._checkpoint.tree_size != self._shard.tree_size:
            key = parse_verifier_key(self._verifier_key)
            self._checkpoint = open_checkpoint(self._shard.checkpoint(), [key])
        return self._checkpoint


def open_shard(folder: Path, number: int) -> Shard:
    """A shard of the benchmark's log."""
    signer = open_keys(folder, LOG_NAME, NUM_SHARDS).signers[number]
    return Shard.open(
        shard_path(folder, number), number, signer, time.time_ns, entropy=os.urandom, publishing=PUBLISHING
    )


def money_entries(batch: Transfers) -> Entries:
    """An entry for each transfer."""
    rows = zeros(len(batch))
    rows["kind"], rows["currency"] = Kind.MONEY, CURRENCY
    for name in ("id", "debit", "credit", "amount"):
        rows[name] = batch[name]
    return rows


def bytes_on_disk(folder: Path) -> int:
    """What all files below a folder take."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())
