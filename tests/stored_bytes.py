"""Damage to what a shard has stored, one item at a time."""

from pathlib import Path
from typing import Any

import lmdb

from ledger.entry import ENTRY_BYTES
from ledger.merkle import leaf_hash


def damage(path: Path, index: int, place: int, *, with_leaf: bool = False) -> None:
    """Flip a bit of a stored entry; `with_leaf`: and let its stored leaf hash agree."""
    environment = lmdb.open(str(path), max_dbs=6)
    with environment.begin(write=True) as transaction:
        entry = bytearray(stored(transaction, environment, b"entries", b"", index, ENTRY_BYTES))
        entry[place] ^= 1
        replace_stored(transaction, environment, b"entries", b"", index, bytes(entry))
        if with_leaf:
            replace_stored(transaction, environment, b"hashes", b"\0", index, leaf_hash(bytes(entry)))
    environment.close()


def row_of(transaction: Any, table: Any, prefix: bytes, index: int, width: int) -> tuple[bytes, bytearray, int]:
    """Key and bytes of the row of a table that has an item, and where in it the item begins."""
    for key, data in transaction.cursor(table):
        first = int.from_bytes(key[len(prefix) :], "big")
        if key.startswith(prefix) and first <= index < first + len(data) // width:
            return key, bytearray(data), (index - first) * width
    raise AssertionError(f"no item {index}")


def stored(transaction: Any, environment: Any, name: bytes, prefix: bytes, index: int, width: int) -> bytes:
    _, row, begin = row_of(transaction, environment.open_db(name, txn=transaction), prefix, index, width)
    return bytes(row[begin : begin + width])


def replace_stored(transaction: Any, environment: Any, name: bytes, prefix: bytes, index: int, item: bytes) -> None:
    table = environment.open_db(name, txn=transaction)
    key, row, begin = row_of(transaction, table, prefix, index, len(item))
    row[begin : begin + len(item)] = item
    transaction.put(key, bytes(row), db=table)
