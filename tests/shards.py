"""A shard as tests open it, short ways to write entries, and the Merkle tree by its definition."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from settling import id_of

from ledger.entry import Entries, Entry, Kind, encode, from_bytes
from ledger.log import LogKeys, open_keys, shard_path
from ledger.merkle import leaf_hash, node_hash
from ledger.payload import Payload
from ledger.shard import Shard

NOW_NS = 1_700_000_000_000_000_000
LOG_NAME = "mintage.local"
NUM_SHARDS = 2


def keys_of(path: Path) -> LogKeys:
    return open_keys(path, LOG_NAME, NUM_SHARDS, entropy=some_bytes)


def some_bytes(num_bytes: int) -> bytes:
    """What a test takes for randomness: nothing that is asserted may depend on it."""
    return bytes(range(num_bytes))


def open_shard(path: Path, now_ns: Callable[[], int] = lambda: NOW_NS, **options: object) -> Shard:
    """Shard 0 of the log in a directory, which is made; a locked one is not waited for."""
    given: dict[str, object] = {"entropy": some_bytes, "lock_wait_s": 0}
    return Shard.open(shard_path(path, 0), 0, keys_of(path).signers[0], now_ns, **(given | options))  # type: ignore[arg-type]


def columns(*entries: Entry) -> Entries:
    """Entries as a batch."""
    return from_bytes(b"".join(map(encode, entries)))


def content_of(number: int) -> bytes:
    return b"content %d " % number * 20


def asset(number: int, **fields: object) -> Entry:
    """An asset with `content_of` its number."""
    content = content_of(number)
    given = {"kind": Kind.ASSET, "id": id_of(number), "owner": id_of(1)}
    given |= {"content_hash": hashlib.sha256(content).digest(), "num_bytes": len(content)}
    return Entry(**(given | fields))  # type: ignore[arg-type]


def bare(number: int, **fields: object) -> Entry:
    """The same whose content is kept elsewhere, so that it is recorded without one."""
    return asset(number, **({"num_bytes": 0} | fields))


def payloads_of(numbers: Iterable[int]) -> list[Payload]:
    """What belongs to those assets."""
    return [Payload(content_of(number)) for number in numbers]


def append_assets(shard: Shard, numbers: Sequence[int]) -> list[int]:
    """Record assets with their contents; the `Result` of each."""
    batch = columns(*(asset(number) for number in numbers))
    return shard.append(batch, payloads_of(numbers)).results.tolist()


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word, over leaf hashes."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


def root_of(entries: Iterable[bytes]) -> bytes:
    """The root over the bytes of entries."""
    return naive_root([leaf_hash(data) for data in entries])
