"""The work that every peer of bench.ledger_peers gets, the ledger among them, and what it takes to take part.

All of it comes from one seed, so every peer, and every run, stores the same bytes: entries of 240 bytes as the ledger
writes them, with a random id and random hashes, and transfers between random accounts. Account 0 is the bank, which may
owe; all others may spend only what they have got, and the bank gives each of them `FUNDS` before the clock starts.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, ID_BYTES, Kind, as_bytes, zeros

SEED = 3
APPEND_BATCH = 4_096
TRANSFER_BATCH = 8_190  # TigerBeetle's largest batch
NUM_ACCOUNTS = 10_000  # as in TigerBeetle's own benchmark
AMOUNT_MAX = 1_000_000
FUNDS = 10**12
START_NS = 1_700_000_000 * 10**9
WARM_UP_ENTRIES = 64
WARM_UP_INDEX, SINGLES_INDEX = 1 << 48, 1 << 50
"""What is appended before the clock starts, and one by one, is made from here on, so that no id comes twice."""

Rows = NDArray[np.uint8]
"""uint8[n, 240]: entries as bytes, a row an entry."""
TRANSFER_DTYPE = np.dtype(
    [("id", f"V{ID_BYTES}"), ("debit", f"V{ID_BYTES}"), ("credit", f"V{ID_BYTES}"), ("amount", "<i8")]
)
Transfers = NDArray[np.void]
"""An array of `TRANSFER_DTYPE`."""
Prepared = Any
"""Entries or transfers in the form in which a store's own interface takes them."""
AppendOne = Callable[[bytes], Awaitable[object]]
"""Append an entry (bytes[240]); it is durable when this returns."""


class PeerMissing(Exception):
    """A peer cannot run here; the message says why, and what would help."""


class BatchRefused(Exception):
    """A peer refused a batch (an id it has, an overdraft, an unknown account) and kept nothing of it; the ledger, which
    answers for each entry, has kept the others."""


class Accounts(msgspec.Struct, frozen=True):
    """The accounts of the benchmark.

    Args:
        ids: V16[n].
        limited: bool[n]; such an account's debits may not exceed its credits.
    """

    ids: NDArray[np.void]
    limited: NDArray[np.bool_]


class Peer(Protocol):
    """A store. What it has taken when a call returns is on the disk.

    `prepare` and `prepare_transfers` are never in a batch's time, whoever the peer is. `notes` says in what its work
    differs from the others', and which settings it runs with.
    """

    version: str
    notes: str

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        """Entries for `append`, which stores them from `first_index` on."""
        ...

    def append(self, batch: Prepared) -> None:
        """Store entries at the next indices.

        Raises:
            BatchRefused: one of the ids is there already (if the peer has an index of ids).
        """
        ...

    def bytes_on_disk(self) -> int:
        """What entries and indexes take, after the peer has tidied up; without its write-ahead log."""
        ...

    def close(self) -> None:
        """End it; its files are the caller's to remove."""
        ...


@runtime_checkable
class Finds(Protocol):
    """A peer with an index of ids."""

    def find(self, entry_id: bytes) -> bytes | None:
        """bytes[240] of the entry with this id; None if there is none."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A peer that keeps balances."""

    def open_accounts(self, accounts: Accounts) -> None:
        """Open them, empty."""
        ...

    def prepare_transfers(self, transfers: Transfers) -> Prepared:
        """Transfers for `settle`."""
        ...

    def settle(self, batch: Prepared) -> None:
        """Apply all of a batch, or none of it.

        Raises:
            BatchRefused: an id is there already, an account is not, or a limited one would be overdrawn at the end of
                the batch.
        """
        ...

    def balances(self) -> dict[bytes, tuple[int, int]]:
        """Account id -> (sum of its debits, sum of its credits)."""
        ...


@runtime_checkable
class CommitsGroups(Protocol):
    """A peer that brings its own way of appending what many callers hand in, an entry each."""

    def committing(self) -> AbstractContextManager[AppendOne]:
        """The way, for as long as it is open; nobody else may append meanwhile."""
        ...


@runtime_checkable
class Proves(Protocol):
    """A peer with a Merkle tree."""

    def root(self) -> bytes:
        """bytes[32]: the root over all entries."""
        ...

    def prove(self, index: int) -> None:
        """Make an inclusion proof of an entry in the whole tree, and verify it."""
        ...


def entries(first_index: int, num: int) -> Rows:
    """The `num` entries from `first_index` on; their contents are kept elsewhere. Batches of equal first index are
    equal, others share no id."""
    random = np.random.default_rng([SEED, 0, first_index])
    rows = zeros(num)
    rows["kind"] = Kind.ASSET
    rows["time_ns"] = START_NS + first_index + np.arange(num)
    rows["amount"] = random.integers(1, AMOUNT_MAX, num)
    for field in ("id", "owner", "content_hash", "request_hash"):
        width = rows.dtype[field].itemsize
        rows[field] = np.frombuffer(random.bytes(num * width), f"V{width}")
    return as_bytes(rows)


def accounts() -> Accounts:
    """The bank and all others."""
    ids = np.frombuffer(np.random.default_rng([SEED, 1]).bytes(NUM_ACCOUNTS * ID_BYTES), f"V{ID_BYTES}")
    return Accounts(ids=ids, limited=np.arange(NUM_ACCOUNTS) > 0)


def funding(opened: Accounts) -> Transfers:
    """From the bank to everybody else: `FUNDS` each."""
    random = np.random.default_rng([SEED, 2])
    bank = np.zeros(len(opened.ids) - 1, np.int64)
    others = np.arange(1, len(opened.ids))
    return _transfers(random, opened, bank, others, np.full(len(others), FUNDS))


def transfers(opened: Accounts, number: int, num: int) -> Transfers:
    """Batch `number`: `num` transfers between two different random accounts each."""
    random = np.random.default_rng([SEED, 3, number])
    debit = random.integers(0, len(opened.ids), num)
    credit = (debit + random.integers(1, len(opened.ids), num)) % len(opened.ids)
    return _transfers(random, opened, debit, credit, random.integers(1, AMOUNT_MAX, num))


def id_column(rows: Rows) -> NDArray[np.void]:
    """V16[n]: the id of every entry."""
    return rows.view(ENTRY_DTYPE)[:, 0]["id"]


def rows_of(data: bytes) -> Rows:
    """The entries in `data`, which are 240 bytes each."""
    return np.frombuffer(data, np.uint8).reshape(-1, ENTRY_BYTES)


def ids_of(rows: Rows) -> list[bytes]:
    """The bytes[16] of every id."""
    return cut(id_column(rows).tobytes(), ID_BYTES)


def entries_of(rows: Rows) -> list[bytes]:
    """The bytes[240] of every entry."""
    return cut(rows.tobytes(), ENTRY_BYTES)


def cut(data: bytes, width: int) -> list[bytes]:
    """`data` in pieces of `width` bytes."""
    return [data[place : place + width] for place in range(0, len(data), width)]


def _transfers(
    random: np.random.Generator,
    opened: Accounts,
    debit: NDArray[np.int64],
    credit: NDArray[np.int64],
    amount: NDArray[np.int64],
) -> Transfers:
    """With a random id each; `debit` and `credit` are places in the accounts."""
    batch = np.empty(len(amount), TRANSFER_DTYPE)
    batch["id"] = np.frombuffer(random.bytes(len(amount) * ID_BYTES), f"V{ID_BYTES}")
    batch["debit"], batch["credit"], batch["amount"] = opened.ids[debit], opened.ids[credit], amount
    return batch
