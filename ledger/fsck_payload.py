"""The part of a check that looks at contents and metadata: each has the hash and the length that its entry names.

What an entry names (`ledger.payload`) must be there, unless a later entry erases it; then it must not be. A shard
refuses whatever comes without a payload that it names; so one that is not there was lost.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, Kind, from_bytes
from ledger.fsck_report import PROBLEMS_MAX, Tell
from ledger.payload import CONTENT, META, named_payloads
from ledger.store import Store

PAYLOAD_BYTES_A_LOOK = 64 * 1024 * 1024
"""Hashed in one snapshot, about 50 ms."""

LOOKS_MAX = 4096
"""Erased entries, or entries that may erase, looked at in one snapshot."""

_TABLES = {"contents": ("content", "content_hash", CONTENT), "metas": ("metadata", "meta_hash", META)}
_KEY_BYTES = 8


class Payloads:
    """The payloads of the entries so far, and which are not there."""

    def __init__(self, store: Store, tell: Tell) -> None:
        self._store = store
        self._tell = tell
        self._missing: list[NDArray[np.uint64]] = []  # uint64[n, 2]: index, and what is missing

    def check(self, rows: NDArray[np.uint8], begin: int) -> None:
        """Whatever is stored for uint8[n, 240], the entries from index `begin` on.

        Cost: about 10 ns an entry, and 1 us and the hashing for each payload; 64 MiB of them in a snapshot.
        """
        missing = named_payloads(rows.data)
        for table in _TABLES:
            start: bytes | None = _key(begin) if begin else b""
            while start is not None:
                start = self._check_some(table, start, rows, begin, missing)
        places = np.flatnonzero(missing)
        if len(places):
            indices = np.uint64(begin) + places.astype(np.uint64)
            self._missing.append(np.column_stack([indices, missing[places].astype(np.uint64)]))

    def _check_some(
        self, table: str, start: bytes, rows: NDArray[np.uint8], begin: int, missing: NDArray[np.uint8]
    ) -> bytes | None:
        """Check the rows of a table from a key on; where to go on, None after the last of this block."""
        num_bytes, stop = 0, _key(begin + len(rows))
        _, _, bit = _TABLES[table]
        with self._store.read() as snapshot:
            for key_view, data in snapshot.rows(table, start):
                key = bytes(key_view)
                if key >= stop:
                    return None
                if len(key) != _KEY_BYTES:
                    self._tell(f"{table} row {key[:32].hex()}", "it is no index of an entry")
                    continue
                place = int.from_bytes(key, "big") - begin
                missing[place] &= ~np.uint8(bit)
                self._check_one(table, begin + place, rows[place], data)
                num_bytes += len(data)
                if num_bytes > PAYLOAD_BYTES_A_LOOK:
                    return key + b"\0"
        return None

    def _check_one(self, table: str, index: int, row: NDArray[np.uint8], data: memoryview) -> None:
        name, field, bit = _TABLES[table]
        entry = row.view(ENTRY_DTYPE)[0]
        if hashlib.sha256(data).digest() != entry[field].tobytes():
            self._tell(f"entry {index}", f"its {name} does not have the hash that it names")
        elif bit == CONTENT and len(data) != int(entry["num_bytes"]):
            self._tell(f"entry {index}", f"its content has {len(data)} bytes, and it says {entry['num_bytes']}")

    def finish(self, erased: NDArray[np.uint64], size: int, newest_size: int) -> None:
        """After the last of `size` entries.

        Args:
            erased: ascending, the indices of the entries that others erase.
            newest_size: how many entries there are by now.
        """
        missing = np.concatenate([np.empty((0, 2), np.uint64), *self._missing])
        missing = missing[~np.isin(missing[:, 0], erased)]
        if len(missing) and newest_size > size:
            missing = self._not_erased_since(missing, size, newest_size)
        for index, bits in missing[: PROBLEMS_MAX + 1].tolist():
            for name, _, bit in _TABLES.values():
                if bits & bit:
                    self._tell(f"entry {index}", f"its {name} is missing, and no entry erases it")
        self._check_erased(erased)

    def _not_erased_since(self, missing: NDArray[np.uint64], size: int, newest_size: int) -> NDArray[np.uint64]:
        """Without what the owner has erased while this check ran, by entries that came after those checked."""
        erased: set[bytes] = set()
        for begin in range(size, newest_size, LOOKS_MAX):
            with self._store.read() as snapshot:
                data = snapshot.entries(begin, min(begin + LOOKS_MAX, newest_size), ENTRY_BYTES)
            entries = from_bytes(data)
            erased.update(entries["subject"][entries["kind"] == Kind.ERASURE].tolist())
        if not erased:
            return missing
        kept = np.zeros(len(missing), np.bool_)
        for begin in range(0, len(missing), LOOKS_MAX):
            with self._store.read() as snapshot:
                for place, index in enumerate(missing[begin : begin + LOOKS_MAX, 0].tolist(), begin):
                    entry = from_bytes(snapshot.entries(index, index + 1, ENTRY_BYTES))
                    kept[place] = entry["id"][0].tobytes() not in erased
        return missing[kept]

    def _check_erased(self, erased: NDArray[np.uint64]) -> None:
        """What was erased is gone."""
        for begin in range(0, len(erased), LOOKS_MAX):
            with self._store.read() as snapshot:
                for index in erased[begin : begin + LOOKS_MAX].tolist():
                    if snapshot.content(index) is not None or snapshot.meta(index) is not None:
                        self._tell(f"entry {index}", "it was erased, and its content or metadata is still here")


def _key(index: int) -> bytes:
    return index.to_bytes(_KEY_BYTES, "big")
