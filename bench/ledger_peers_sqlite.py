"""The peer SQLite, by Python's own sqlite3 module: entries, accounts and transfers in one file.

Write-ahead log and synchronous=FULL, so a commit is on the disk when it returns. A page cache of 256 MiB and a log of
up to 64 MiB between checkpoints, against 2 MiB and 4 MiB by default, because random ids would otherwise read and write
the same pages over and over; everything else as it comes.

A batch of transfers goes into a table in memory and from there, by three set-based statements, into the two real ones.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.ledger_peers_work import Accounts, BatchRefused, Prepared, Rows, Transfers, cut, entries_of, ids_of
from ledger.entry import ID_BYTES

CACHE_KIB = 256 * 1024
CHECKPOINT_PAGES = 16_384

SETTINGS = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -{CACHE_KIB};
PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
"""
SCHEMA = """
CREATE TABLE entries (
    place INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    entry BLOB NOT NULL
);
CREATE TABLE accounts (
    id BLOB PRIMARY KEY,
    limited INTEGER NOT NULL,
    debits INTEGER NOT NULL DEFAULT 0,
    credits INTEGER NOT NULL DEFAULT 0,
    CHECK (NOT limited OR debits <= credits)
) WITHOUT ROWID;
CREATE TABLE transfers (
    id BLOB PRIMARY KEY,
    debit BLOB NOT NULL,
    credit BLOB NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0)
) WITHOUT ROWID;
CREATE TEMP TABLE batch (id BLOB, debit BLOB, credit BLOB, amount INTEGER);
CREATE TEMP TABLE moved (account BLOB PRIMARY KEY, debits INTEGER, credits INTEGER) WITHOUT ROWID;
"""
MOVED = """
INSERT INTO moved
SELECT account, sum(debits), sum(credits) FROM (
    SELECT debit AS account, amount AS debits, 0 AS credits FROM batch
    UNION ALL
    SELECT credit, 0, amount FROM batch
) GROUP BY account
"""
UPDATE = """
UPDATE accounts SET debits = accounts.debits + moved.debits, credits = accounts.credits + moved.credits
FROM moved WHERE accounts.id = moved.account
"""


class Sqlite:
    """One connection, which is the one writer; it may be used from one thread after another."""

    def __init__(self, folder: Path) -> None:
        self.version = f"SQLite {sqlite3.sqlite_version}"
        self.notes = (
            f"WAL, synchronous=FULL, cache {CACHE_KIB // 1024} MiB, checkpoint every {CHECKPOINT_PAGES} pages; "
            "balances are checked at the end of a batch, which stands or falls as a whole"
        )
        self._file = folder / "ledger.db"
        self._db = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        self._db.executescript(SETTINGS + SCHEMA)

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        places = range(first_index, first_index + len(rows))
        return list(zip(places, ids_of(rows), entries_of(rows), strict=True))

    def append(self, batch: Prepared) -> None:
        with self._transaction():
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?)", batch)

    def find(self, entry_id: bytes) -> bytes | None:
        row = self._db.execute("SELECT entry FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return row and row[0]

    def open_accounts(self, accounts: Accounts) -> None:
        ids = cut(accounts.ids.tobytes(), ID_BYTES)
        with self._transaction():
            self._db.executemany(
                "INSERT INTO accounts (id, limited) VALUES (?, ?)", zip(ids, accounts.limited.tolist(), strict=True)
            )

    def prepare_transfers(self, transfers: Transfers) -> Prepared:
        ids, debits, credits = (cut(transfers[name].tobytes(), ID_BYTES) for name in ("id", "debit", "credit"))
        return list(zip(ids, debits, credits, transfers["amount"].tolist(), strict=True))

    def settle(self, batch: Prepared) -> None:
        with self._transaction():
            self._db.executemany("INSERT INTO batch VALUES (?, ?, ?, ?)", batch)
            self._db.execute("INSERT INTO transfers SELECT * FROM batch ORDER BY id")
            num_moved = self._db.execute(MOVED).rowcount
            if self._db.execute(UPDATE).rowcount != num_moved:
                raise BatchRefused("an account of the batch is unknown")
            self._db.execute("DELETE FROM batch")
            self._db.execute("DELETE FROM moved")

    def balances(self) -> dict[bytes, tuple[int, int]]:
        rows = self._db.execute("SELECT id, debits, credits FROM accounts")
        return {account: (debits, credits) for account, debits, credits in rows}

    def bytes_on_disk(self) -> int:
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._file.stat().st_size

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it durable, or none of it there."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError):
                raise BatchRefused(str(error)) from error
            raise
