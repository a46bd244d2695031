"""The peer PostgreSQL: a server of our own in a temporary folder, driven by psycopg.

fsync and synchronous_commit are on, as they come; so is everything else but `shared_buffers`, said in the notes. Rows
travel by COPY in PostgreSQL's binary format, made from columns by numpy: the driver costs next to nothing, as it should
where the server is measured. A batch of transfers goes into a temporary table and from there, by two set-based
statements, into the real ones; measured faster than a trigger with a transition table (0.8 of the rate) and than
summing up in the client (0.4).

One connection writes all. With a connection for each of 64 callers, in threads or in asyncio, a single append took
three times as long as with one that commits the callers' appends together.

The server refuses to run as root, so under root it runs as the user `postgres`, in the nearest folder above the one
asked for that this user can enter. It dies with the process that started it.
"""

import importlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.ledger_peers_work import Accounts, BatchRefused, PeerMissing, Prepared, Rows, Transfers, id_column
from ledger.entry import ENTRY_BYTES

USER = "postgres"
BINARIES = Path("/usr/lib/postgresql")  # Debian's: a folder a major version
SHARED_BUFFERS = "1GB"
START_S_MAX = 30.0
STOP_S_MAX = 30.0
POLL_S = 0.05
LOG_CHARS = 1_000

SCHEMA = """
CREATE TABLE entries (
    place bigint PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    entry bytea NOT NULL
);
CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    limited boolean NOT NULL,
    debits bigint NOT NULL DEFAULT 0,
    credits bigint NOT NULL DEFAULT 0,
    CHECK (NOT limited OR debits <= credits)
) WITH (fillfactor = 50);
CREATE TABLE transfers (
    id uuid PRIMARY KEY,
    debit uuid NOT NULL,
    credit uuid NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0)
);
CREATE TEMP TABLE batch (LIKE transfers) ON COMMIT DELETE ROWS;
"""
UPDATE = """
WITH moved AS (
    SELECT account, sum(debit)::bigint AS debits, sum(credit)::bigint AS credits FROM (
        SELECT debit AS account, amount AS debit, 0 AS credit FROM batch
        UNION ALL
        SELECT credit, 0, amount FROM batch
    ) AS side GROUP BY account
), updated AS (
    UPDATE accounts SET debits = accounts.debits + moved.debits, credits = accounts.credits + moved.credits
    FROM moved WHERE accounts.id = moved.account
    RETURNING 1
)
SELECT (SELECT count(*) FROM moved) = (SELECT count(*) FROM updated)
"""
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"


class Server:
    """A PostgreSQL server on a Unix socket in a folder that only it and we can enter.

    Raises:
        PeerMissing: it does not start; the message has the end of its log.
    """

    def __init__(self, folder: Path) -> None:
        with ExitStack() as stack:
            place = reachable(folder) if os.geteuid() == 0 else folder
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgresql-", dir=place)))
            if os.geteuid() == 0:
                shutil.chown(self.folder, USER)
            self._log = stack.enter_context((self.folder / "log").open("w+"))
            data = str(self.folder / "data")
            initdb = self._start("initdb", "-D", data, "-U", USER, "--auth=trust", "--locale=C", "-E", "UTF8", "-N")
            if initdb.wait() != 0:
                raise self._missing("initdb failed")
            settings = [f"shared_buffers={SHARED_BUFFERS}", f"unix_socket_directories={self.folder}"]
            arguments = [part for setting in ("listen_addresses=", *settings) for part in ("-c", setting)]
            self._process = self._start("postgres", "-D", data, *arguments)
            stack.callback(self._stop)
            self._wait_ready()
            self._stack = stack.pop_all()

    def connect(self) -> Any:
        """A psycopg connection that commits every statement outside a transaction."""
        psycopg = importlib.import_module("psycopg")
        return psycopg.connect(host=str(self.folder), user=USER, dbname=USER, autocommit=True)

    def close(self) -> None:
        """Stop it and remove its folder."""
        self._stack.close()

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """As `postgres` if we are root; ended with us however we end (Linux's parent-death signal)."""
        as_user = [f"--reuid={USER}", f"--regid={USER}", "--init-groups"] if os.geteuid() == 0 else []
        folder = binaries()
        assert folder is not None, "missing() was not asked"
        command = ["setpriv", "--pdeathsig=QUIT", *as_user, str(folder / program), *arguments]
        return subprocess.Popen(command, cwd=self.folder, stdout=self._log, stderr=self._log)

    def _wait_ready(self) -> None:
        psycopg = importlib.import_module("psycopg")
        end_s = time.monotonic() + START_S_MAX
        while self._process.poll() is None and time.monotonic() < end_s:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                time.sleep(POLL_S)
        raise self._missing("the server did not start")

    def _stop(self) -> None:
        """SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint of what is thrown away anyway."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(STOP_S_MAX)

    def _missing(self, what: str) -> PeerMissing:
        self._log.seek(0)
        return PeerMissing(f"{what}: {self._log.read()[-LOG_CHARS:].strip()}")


class Postgresql:
    """One connection, which is the one writer."""

    def __init__(self, folder: Path) -> None:
        self._errors = importlib.import_module("psycopg.errors")
        with ExitStack() as stack:
            server = Server(folder)
            stack.callback(server.close)
            self._db = server.connect()
            stack.callback(self._db.close)
            self._db.execute(SCHEMA)
            self._find_cursor = self._db.cursor(binary=True)
            self._stack = stack.pop_all()
        self.version = f"PostgreSQL {self._db.execute('SHOW server_version').fetchone()[0]}"
        self.notes = (
            f"fsync and synchronous_commit on, shared_buffers {SHARED_BUFFERS}, defaults otherwise; binary COPY; "
            "balances are checked at the end of a batch, which stands or falls as a whole"
        )

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        places = np.arange(first_index, first_index + len(rows), dtype=">i8")
        return copy_rows(places, id_column(rows), rows.view(f"V{ENTRY_BYTES}")[:, 0])

    def append(self, batch: Prepared) -> None:
        with self._transaction() as cursor:
            copy(cursor, "entries", batch)

    def find(self, entry_id: bytes) -> bytes | None:
        query = "SELECT entry FROM entries WHERE id = %b"
        found = self._find_cursor.execute(query, (uuid.UUID(bytes=entry_id),), prepare=True).fetchone()
        return found and found[0]

    def open_accounts(self, accounts: Accounts) -> None:
        zero = np.zeros(len(accounts.ids), ">i8")
        with self._transaction() as cursor:
            copy(cursor, "accounts", copy_rows(accounts.ids, accounts.limited, zero, zero))

    def prepare_transfers(self, transfers: Transfers) -> Prepared:
        ids, debits, credits = (transfers[name] for name in ("id", "debit", "credit"))
        return copy_rows(ids, debits, credits, transfers["amount"].astype(">i8"))

    def settle(self, batch: Prepared) -> None:
        with self._transaction() as cursor:
            copy(cursor, "batch", batch)
            cursor.execute("INSERT INTO transfers SELECT * FROM batch")
            if not cursor.execute(UPDATE).fetchone()[0]:
                raise BatchRefused("an account of the batch is unknown")

    def balances(self) -> dict[bytes, tuple[int, int]]:
        rows = self._db.execute("SELECT id, debits, credits FROM accounts")
        return {account.bytes: (debits, credits) for account, debits, credits in rows}

    def bytes_on_disk(self) -> int:
        return int(self._db.execute("SELECT pg_total_relation_size('entries')").fetchone()[0])

    def close(self) -> None:
        self._stack.close()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor; all that it does is durable in the end, or none of it there."""
        try:
            with self._db.transaction(), self._db.cursor() as cursor:
                yield cursor
        except self._errors.IntegrityError as error:
            raise BatchRefused(str(error)) from error


def copy(cursor: Any, table: str, rows: bytes) -> None:
    """COPY what `copy_rows` has made into a table."""
    with cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as stream:
        stream.write(rows)


def copy_rows(*columns: NDArray[Any]) -> bytes:
    """Columns of equal length and fixed width, numbers big-endian, in a table's order, as COPY takes them.

    Source: PostgreSQL 15's documentation of COPY, "Binary Format": a row is the number of its fields (16 bits), and
    each field its length (32 bits) and its bytes.
    """
    fields: list[tuple[str, Any]] = [("num_fields", ">i2")]
    for place, column in enumerate(columns):
        fields += [(f"width_{place}", ">i4"), (f"value_{place}", column.dtype)]
    rows = np.empty(len(columns[0]), np.dtype(fields))
    rows["num_fields"] = len(columns)
    for place, column in enumerate(columns):
        rows[f"width_{place}"] = column.dtype.itemsize
        rows[f"value_{place}"] = column
    return COPY_HEADER + rows.tobytes() + COPY_TRAILER


def missing() -> str | None:
    """Why PostgreSQL cannot run here; None if it can."""
    if importlib.util.find_spec("psycopg") is None:
        return "the Python package psycopg is not installed (requirements-bench.txt)"
    if binaries() is None:
        return f"no server below {BINARIES} (Debian's package postgresql)"
    if shutil.which("setpriv") is None:
        return "no setpriv (Debian's package util-linux)"
    if os.geteuid() == 0 and USER not in {account.pw_name for account in pwd.getpwall()}:
        return f"we are root, which PostgreSQL refuses to run as, and there is no user {USER}"
    return None


def binaries() -> Path | None:
    """The folder of the newest server's programs; None if there is none."""
    found = [path for path in BINARIES.glob("*/bin") if (path / "postgres").is_file()]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def reachable(folder: Path) -> Path:
    """The nearest of `folder` and those above it that every user can enter, on the same disk.

    Raises:
        PeerMissing: only the root of the file system is, or another disk.
    """
    deepest = Path("/")
    for place in [*reversed(folder.resolve().parents), folder.resolve()]:
        if not place.stat().st_mode & stat.S_IXOTH:
            break
        deepest = place
    if deepest == Path("/") or deepest.stat().st_dev != folder.stat().st_dev:
        raise PeerMissing(f"the user {USER} can enter no folder above {folder} on its disk")
    return deepest
