"""A log of several real shards, on a clock that stands still between batches, and short ways to fill them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ledger.entry import Entries, Entry, Kind, encode, from_bytes, zeros
from ledger.log import open_keys, shard_path
from ledger.note import Policy
from ledger.payload import Payload
from ledger.reader import Reader
from ledger.result import Result
from ledger.shard import Publishing, Shard

START_NS = 1_700_000_000 * 10**9
LOG = "example.org/log"
EVERY_BATCH = Publishing()


class Ledger:
    """All shards of a log, owned by this process."""

    def __init__(self, path: Path, num_shards: int = 2, publishing: Publishing = EVERY_BATCH) -> None:
        self.path = path
        self.now_ns = START_NS
        self.keys = open_keys(path, LOG, num_shards, entropy=lambda size: b"k" * size)
        self.shards = {
            number: Shard.open(
                shard_path(path, number),
                number,
                self.keys.signers[number],
                lambda: self.now_ns,
                entropy=lambda size: b"e" * size,
                publishing=publishing,
            )
            for number in range(num_shards)
        }

    @property
    def readers(self) -> dict[int, Reader]:
        return {number: shard.reader() for number, shard in self.shards.items()}

    @property
    def policy(self) -> Policy:
        """Who believes this log, and asks no witness."""
        return Policy(tuple(signer.key for signer in self.keys.signers))

    def record(self, shard: int, *entries: Entry, payloads: Sequence[Payload] | None = None) -> list[int]:
        """Append entries that are in order, a nanosecond or more after the last; where they are."""
        self.now_ns += 1_000
        appended = self.shards[shard].append(from_bytes(b"".join(map(encode, entries))), payloads)
        assert not appended.results.any(), [Result(code).name for code in appended.results.tolist()]
        return appended.indices.tolist()

    def cover(self) -> None:
        """Every shard may name the entries of every other as parents."""
        for shard in self.shards.values():
            for number, other in self.shards.items():
                shard.cover(number, other.tree_size)

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()


def plain(num_entries: int, first: int) -> Entries:
    """Assets without anything special: ids from `first`, each with an owner and a content of its own."""
    numbers = np.arange(first + 1, first + num_entries + 1, dtype=np.uint64)
    entries = zeros(num_entries)
    entries["kind"] = Kind.ASSET
    for name, salt, words in (("id", 1, 2), ("owner", 2, 2), ("content_hash", 3, 4)):
        mixed = (numbers * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(salt)
        entries[name] = np.repeat(mixed, words).reshape(-1, words).view(f"V{8 * words}").reshape(-1)
    return entries
