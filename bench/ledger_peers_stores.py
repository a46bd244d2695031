"""Peers that are embedded stores without SQL: LMDB twice, RocksDB, and pymerkle's tree.

None of them settles: they have no notion of a balance, and one written on top would be ours, not theirs.
"""

import importlib
from importlib.metadata import version
from pathlib import Path

import lmdb
import numpy as np

from bench.ledger_peers_work import BatchRefused, Prepared, Rows, cut, entries_of, ids_of
from ledger.merkle import EMPTY_ROOT

INDEX_BYTES = 8
MAP_BYTES = 1 << 40  # address space, not disk: LMDB's file grows as it is written
BLOOM_BITS_PER_KEY = 10  # RocksDB's own recommendation: 1% of false positives


class RawLmdb:
    """py-lmdb alone: one put for each entry in index order, one durable transaction for each batch.

    The baseline of `append_ratio_lmdb`: it does the least that can be called storing entries. No index of ids, so it
    refuses nothing. `putmulti` is a loop of puts in C, with a tenth to a quarter less CPU than the same loop in Python.
    """

    def __init__(self, folder: Path) -> None:
        self.version = lmdb_version()
        self.notes = "sequential puts by index, append=True, sync at every commit; no ids, no deduplication"
        self._env = lmdb.open(str(folder), map_size=MAP_BYTES)

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        return index_keys(first_index, len(rows)), entries_of(rows)

    def append(self, batch: Prepared) -> None:
        keys, values = batch
        with self._env.begin(write=True) as txn:
            txn.cursor().putmulti(zip(keys, values, strict=True), append=True)

    def bytes_on_disk(self) -> int:
        return lmdb_bytes(self._env)

    def close(self) -> None:
        self._env.close()


class IndexedLmdb:
    """py-lmdb with an index of ids: entries by index as above, and id -> index, which refuses an id it has."""

    def __init__(self, folder: Path) -> None:
        self.version = lmdb_version()
        self.notes = "sequential puts by index and a second database id -> index; sync at every commit"
        self._env = lmdb.open(str(folder), map_size=MAP_BYTES, max_dbs=2)
        self._entries = self._env.open_db(b"entries")
        self._ids = self._env.open_db(b"ids")

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        return index_keys(first_index, len(rows)), ids_of(rows), entries_of(rows)

    def append(self, batch: Prepared) -> None:
        keys, ids, values = batch
        with self._env.begin(write=True) as txn:
            _, num_added = txn.cursor(self._ids).putmulti(zip(ids, keys, strict=True), overwrite=False)
            if num_added < len(ids):
                raise BatchRefused("an id is there already, or twice in the batch")
            txn.cursor(self._entries).putmulti(zip(keys, values, strict=True), append=True)

    def find(self, entry_id: bytes) -> bytes | None:
        with self._env.begin() as txn:
            key = txn.get(entry_id, db=self._ids)
            return None if key is None else txn.get(key, db=self._entries)

    def bytes_on_disk(self) -> int:
        return lmdb_bytes(self._env)

    def close(self) -> None:
        self._env.close()


class RocksDb:
    """RocksDB by rocksdict: entries by index, and a column family id -> index; one synced write for each batch.

    RocksDB has no unique keys. The ids of a batch are looked up before it is written, which is right as long as there
    is one writer.
    """

    def __init__(self, folder: Path) -> None:
        rocksdict = self._rocksdict = importlib.import_module("rocksdict")
        self.version = f"rocksdict {version('rocksdict')}"
        self.notes = f"WriteOptions sync=True, a bloom filter of {BLOOM_BITS_PER_KEY} bits a key, defaults otherwise"
        table = rocksdict.BlockBasedOptions()
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_block_based_table_factory(table)
        self._entries = rocksdict.Rdict(str(folder / "rocksdb"), options, column_families={"ids": options})
        self._ids = self._entries.get_column_family("ids")
        self._ids_handle = self._entries.get_column_family_handle("ids")
        self._durably = rocksdict.WriteOptions()
        self._durably.sync = True

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        return index_keys(first_index, len(rows)), ids_of(rows), entries_of(rows)

    def append(self, batch: Prepared) -> None:
        keys, ids, values = batch
        if len(set(ids)) < len(ids) or any(key is not None for key in self._ids.get(ids)):
            raise BatchRefused("an id is there already, or twice in the batch")
        writes = self._rocksdict.WriteBatch(raw_mode=True)
        put = writes.put
        for key, entry_id, entry in zip(keys, ids, values, strict=True):
            put(key, entry)
            put(entry_id, key, self._ids_handle)
        self._entries.write(writes, self._durably)

    def find(self, entry_id: bytes) -> bytes | None:
        key = self._ids.get(entry_id)
        return None if key is None else self._entries.get(key)

    def bytes_on_disk(self) -> int:
        self._entries.flush()
        self._ids.flush()
        return sum(file["size"] for file in self._entries.live_files())

    def close(self) -> None:
        self._ids.close()
        self._entries.close()


class PymerkleTree:
    """pymerkle's SqliteTree: entries and leaf hashes in SQLite, and the root after each batch. The Merkle part only.

    It keeps no inner nodes on disk: roots and proofs are computed from the leaves, with a cache of subtrees in memory
    that proofs fill as they come by. So a proof costs what of its path no earlier proof has asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._pymerkle = importlib.import_module("pymerkle")
        self.version = f"pymerkle {version('pymerkle')}"
        self.notes = "SqliteTree, the Merkle part only: no ids, no deduplication, no checkpoints; WAL, synchronous=FULL"
        self._tree = self._pymerkle.SqliteTree(str(folder / "tree.db"))
        self._tree.con.execute("PRAGMA journal_mode = WAL")
        self._tree.con.execute("PRAGMA synchronous = FULL")
        self._root = EMPTY_ROOT

    def prepare(self, first_index: int, rows: Rows) -> Prepared:
        return entries_of(rows)

    def append(self, batch: Prepared) -> None:
        self._tree.append_entries(batch)
        self._root = self._tree.get_root()

    def root(self) -> bytes:
        return self._root

    def prove(self, index: int) -> None:
        proof = self._tree.prove_inclusion(index + 1)
        self._pymerkle.verify_inclusion(self._tree.get_leaf(index + 1), self._root, proof)

    def bytes_on_disk(self) -> int:
        self._tree.con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(self._tree.dbfile).stat().st_size

    def close(self) -> None:
        self._tree.close()


def index_keys(first_index: int, num: int) -> list[bytes]:
    """Big-endian, so that they sort as numbers do."""
    return cut(np.arange(first_index, first_index + num, dtype=">u8").tobytes(), INDEX_BYTES)


def lmdb_version() -> str:
    """Of the binding and of the library in it."""
    return f"py-lmdb {lmdb.__version__}, LMDB {'.'.join(map(str, lmdb.version()))}"


def lmdb_bytes(env: "lmdb.Environment") -> int:
    """The pages in use: the file itself may be longer."""
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]
