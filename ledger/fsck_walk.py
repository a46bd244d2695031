"""Reading a table from its first item to its last, in short snapshots, and nothing between that does not belong there.

Rows of entries and hashes are never changed and only ever added at the end, so what several snapshots show of them is
what one would.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ledger.errors import LedgerCorrupt
from ledger.store import Snapshot


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
        self._rest = np.empty((0, width), np.uint8)  # read, and not taken yet

    def take(self, snapshot: Snapshot, num_items: int) -> NDArray[np.uint8]:
        """uint8[num_items, width], a copy of the next items."""
        out = np.empty((num_items, self._width), np.uint8)
        done = min(num_items, len(self._rest))
        out[:done], self._rest = self._rest[:done], self._rest[done:]
        rows = self._rows(snapshot)
        while done < num_items:
            items = next(rows, None)
            if items is None:
                raise self._corrupt("it is missing")
            count = min(len(items), num_items - done)
            out[done : done + count] = items[:count]
            done += count
            self._rest = items[count:].copy()
        return out

    def skip(self, snapshot: Snapshot, num_rows_max: int) -> bool:
        """Count the items of the next rows; whether there are no more. Cost: about 0.5 us a row."""
        return sum(1 for _ in islice(self._rows(snapshot), num_rows_max)) < num_rows_max

    def finish(self, snapshot: Snapshot) -> int:
        """How many items there are. Cost: a look at every row that is left."""
        for _ in self._rows(snapshot):
            pass
        return self.num_items

    def _rows(self, snapshot: Snapshot) -> Iterator[NDArray[np.uint8]]:
        """The rows after the last one, valid as long as the snapshot."""
        for key_view, value in snapshot.rows(self._table, self._last_key or self._prefix):
            key = bytes(key_view)
            if not key.startswith(self._prefix):
                return
            if self._last_key and key == self._last_key:
                continue
            if key != self._prefix + self.num_items.to_bytes(8, "big"):
                raise self._corrupt(f"its row should come next, and not the row {key[:32].hex()}")
            if not len(value) or len(value) % self._width:
                raise self._corrupt(f"the row that begins with it has {len(value)} bytes")
            self._last_key = key
            self.num_items += len(value) // self._width
            yield np.frombuffer(value, np.uint8).reshape(-1, self._width)

    def _corrupt(self, what: str) -> LedgerCorrupt:
        return LedgerCorrupt(what, where=f"{self._name}{self.num_items}", fix="Restore the shard from a copy.")
