"""Reading a table from its first item to its last, in short snapshots, and nothing between that does not belong there.

Rows of entries and hashes are never changed and only ever added at the end, so what several snapshots show of them is
what one would. Many rows are looked at together: a shard of single appends has as many rows as entries.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ledger.errors import LedgerCorrupt
from ledger.store import Snapshot

_ROWS_MAX = 8192
"""Looked at together."""

_INDEX_BYTES = 8
_Rows = Iterator[tuple[memoryview, memoryview]]


class Walk:
    """The items 0, 1, 2, ... of a table whose rows hold consecutive items.

    Args:
        table: entries or hashes.
        level: of the hashes; None for entries.
        width: bytes of an item.
    Raises:
        LedgerCorrupt: in every method: the next row does not begin with the next item, or holds no whole number of
            them; `where` says which. Nothing after that can be read.
    """

    def __init__(self, table: str, level: int | None, width: int) -> None:
        self._table = table
        self._prefix = b"" if level is None else bytes([level])
        self._name = "entry " if level is None else f"hash {level}/"
        self._width = width
        self.num_items = 0  # in the rows so far; the next one must begin with this item
        self._last_key = b""
        self._rest = b""  # read, and not taken yet

    def take(self, snapshot: Snapshot, num_items: int) -> NDArray[np.uint8]:
        """uint8[num_items, width], a copy of the next items. Cost: about 1 us a row, and the copy."""
        out = np.empty((num_items, self._width), np.uint8)
        room = out.reshape(-1).data
        num_kept = min(len(self._rest), len(room))
        room[:num_kept], self._rest = self._rest[:num_kept], self._rest[num_kept:]
        room, rows = room[num_kept:], self._rows_left(snapshot)
        while len(room):
            num_bytes, is_last = self._read(rows, room)
            room = room[num_bytes:]
            if is_last and len(room):
                raise self._corrupt("it is missing")
        return out

    def skip(self, snapshot: Snapshot, num_rows_max: int) -> bool:
        """Count the items of the next rows; whether there are no more. Cost: about 0.5 us a row."""
        rows = self._rows_left(snapshot)
        return any(self._read(rows, None)[1] for _ in range(0, num_rows_max, _ROWS_MAX))

    def finish(self, snapshot: Snapshot) -> int:
        """How many items there are. Cost: a look at every row that is left."""
        while not self.skip(snapshot, _ROWS_MAX):
            pass
        return self.num_items

    def _rows_left(self, snapshot: Snapshot) -> _Rows:
        """What follows the last row that was looked at."""
        rows = snapshot.rows(self._table, self._last_key or self._prefix)
        for key, value in rows if self._last_key else ():
            if key != self._last_key:
                return chain([(key, value)], rows)
            break
        return rows

    def _read(self, rows: _Rows, room: memoryview | None) -> tuple[int, bool]:
        """Read the next rows, as many as are looked at together, into some bytes until those are full.

        Returns:
            How many bytes were filled, and whether no row is left.
        """
        keys, sizes, num_bytes = [], [], 0  # in bytes, since views that are kept keep the garbage collector busy
        for key, value in rows:
            keys.append(bytes(key))
            sizes.append(len(value))
            if room is not None:
                num_taken = min(len(value), len(room) - num_bytes)
                room[num_bytes : num_bytes + num_taken] = value[:num_taken]
                num_bytes += num_taken
                if num_bytes == len(room):
                    self._rest = bytes(value[num_taken:])
                    break
            if len(keys) == _ROWS_MAX:
                break
        counts = np.array(sizes, np.int64)
        num_good = self._num_in_order(keys, counts)
        if num_good:
            self._last_key = keys[num_good - 1]
            self.num_items += int(counts[:num_good].sum()) // self._width
        if num_good < len(keys):
            self._refuse(keys[num_good], sizes[num_good])
        return num_bytes, num_good < len(keys) or not keys

    def _num_in_order(self, keys: list[bytes], sizes: NDArray[np.int64]) -> int:
        """How many rows begin where the one before ended."""
        key_bytes = len(self._prefix) + _INDEX_BYTES
        is_good = (sizes > 0) & (sizes % self._width == 0) & (np.array(list(map(len, keys)), np.int64) == key_bytes)
        num_good = int(np.argmin(np.append(is_good, False)))
        named = np.frombuffer(b"".join(keys[:num_good]), np.uint8).reshape(-1, key_bytes)
        expected = np.empty((num_good, key_bytes), np.uint8)
        expected[:, : len(self._prefix)] = np.frombuffer(self._prefix, np.uint8)
        begins = self.num_items + (np.cumsum(sizes) - sizes)[:num_good] // self._width
        expected[:, len(self._prefix) :] = begins.astype(">u8").view(np.uint8).reshape(-1, _INDEX_BYTES)
        return int(np.argmin(np.append((named == expected).all(axis=1), False)))

    def _refuse(self, key: bytes, num_bytes: int) -> None:
        """Raise LedgerCorrupt, unless a row that is not the next one is the first of another level."""
        if not key.startswith(self._prefix):
            return
        if key != self._prefix + self.num_items.to_bytes(_INDEX_BYTES, "big"):
            raise self._corrupt(f"its row should come next, and not the row {key[:32].hex()}")
        raise self._corrupt(f"the row that begins with it has {num_bytes} bytes")

    def _corrupt(self, what: str) -> LedgerCorrupt:
        return LedgerCorrupt(what, where=f"{self._name}{self.num_items}", fix="Restore the shard from a copy.")
