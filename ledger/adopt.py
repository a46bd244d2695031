"""Shards that were written offline, elsewhere, and join the ledger later: an edge's log is adopted as a whole.

What makes this free of conflicts is decided before the edge goes offline: it is handed a shard number that nobody else
has, for ever, and a key of its own is bound to that number. An entry is named by (shard, index), an id by (shard, id);
the edge names everything under its number, so nothing that it writes can collide with what others write meanwhile, and
nothing has to be renumbered, reordered or merged: its receipts stay valid, byte for byte.

    DIR/adopted/key                 signs what was adopted: the home is a witness of its edges
    DIR/adopted/memory/             its memory (`ledger.witness`)
    DIR/adopted/shard-017/data.mdb  the adopted copy, which anybody may read (`ledger.reader`)

An edge may come back any number of times. Each time it has to have grown out of what was adopted before; one that was
set back, or that wrote two histories, is refused for good.
Turned down: to append the edge's entries to a shard of the home. They would get other indices, times and proofs, and
whatever was said offline about them would be void.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from ledger.entry import PARENTS_MAX, SHARD_MAX, from_bytes
from ledger.errors import LedgerCorrupt, LogMismatch, UnknownOrigin, UnknownParent
from ledger.files import create_once, hold_lock, make_directory, refusal_is_named, sync_directory
from ledger.fsck import check_shard
from ledger.growth import check_growth
from ledger.log import (
    ADOPTED_DIR,
    KEY_FILE,
    VERIFIER_FILE,
    origin,
    read_key,
    read_verifier_keys,
    shard_of_origin,
    shard_path,
)
from ledger.note import KEY_BYTES, Checkpoint, Signer, VerifierKey, WitnessKey
from ledger.peer import ADOPTED, open_peer, peer_entries, peer_id
from ledger.result import Result
from ledger.shard import Shard
from ledger.store import DATA_FILE
from ledger.stored import StoredLog
from ledger.witness import Witness, build_request

MEMORY_DIR = "memory"
INCOMING_DIR = "incoming"
BLOCK_ENTRIES = 65_536


class Adoption(msgspec.Struct, frozen=True):
    """What was adopted: the checkpoint, where the home has its PEER entry, and the home's cosignature line, which the
    edge may keep: it proves that the home has everything up to there."""

    checkpoint: Checkpoint
    peer_index: int
    cosignature: str


def edge_signer(path: Path, log_name: str, shard: int, *, entropy: Callable[[int], bytes] = os.urandom) -> Signer:
    """The signer of an edge that has this shard number of a log; makes the edge's directory and key on first use.

    `Shard.open(shard_path(path, shard), shard, signer, ...)` then is its shard. What the home needs to know of it is
    the line in `verifier.keys`.
    Raises:
        LogMismatch: the directory is another log's or another number's.
        KeyInvalid: the key file is malformed or others may read it, or `log_name` cannot be a key name.
        LedgerFull: no room for the files.
    """
    make_directory(path)
    fresh = Signer(log_name, entropy(KEY_BYTES))
    create_once(path / KEY_FILE, f"{fresh.secret()}\n".encode(), 0o600)
    signer = read_key(path / KEY_FILE).renamed(origin(log_name, shard))
    create_once(path / VERIFIER_FILE, f"{signer.key}\n".encode(), 0o644)
    if read_verifier_keys(path / VERIFIER_FILE) != (str(signer.key),):
        raise LogMismatch(
            f"it is not that of {signer.name}", where=str(path), fix="Use its own name and number, or a new directory."
        )
    return signer


class Adopter:
    """Adopts edges into a log. One of the log's shards, the home, records what was adopted.

    Args:
        path: the log's directory.
        home: a shard of it, owned by this process.
        edge_keys: the edges' keys; the numbers in their names are those that were handed out.
        sizes: how many entries each of the log's own shards has, by number: what an edge may name as parents.
    Raises:
        LogMismatch: a number was handed out twice, or is one of the log's own; or the memory is gone.
        KeyInvalid, LedgerFull: see `Signer`, `create_once`.
    Concurrency: any number of threads; edges are adopted one at a time.
    An edge is to be trusted so far that it does not attack: LMDB reads its file, and is not made for hostile ones. What
    it says is not trusted at all.
    """

    def __init__(
        self,
        path: Path,
        home: Shard,
        edge_keys: Sequence[VerifierKey],
        sizes: Callable[[], Mapping[int, int]],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._path = path / ADOPTED_DIR
        self._home = home
        self._keys = {shard_of_origin(key.name): key for key in edge_keys}
        if len(self._keys) != len(edge_keys) or self._keys.keys() & sizes().keys():
            raise LogMismatch(
                "a number was handed out twice, or is one of the log's own",
                where="keys of the edges",
                fix="Hand out each number once, to one key.",
            )
        self._sizes = sizes
        self._witness, self.witness_key = _witness(self._path, list(edge_keys), home, entropy)
        self._cover()

    def adopted(self) -> dict[int, int]:
        """How many entries of each adopted shard are part of the ledger, by number. Who owns another shard of the log
        lets it know with `Shard.cover`."""
        latest = {number: self._witness.latest(key.name) for number, key in self._keys.items()}
        return {number: each.tree_size for number, each in latest.items() if self._peer_index(each) is not None}

    def adopt(self, edge: Path, now_s: int) -> Adoption:
        """Adopt an edge's shard, or what it has grown by since the last time.

        1. number: the checkpoint's origin ends in a number that was handed out, and that number's key has signed it.
        2. copy: everything that follows looks at the copy, which nobody else can change.
        3. fsck: entries, tree, ids, signature, balances and all else are re-derived from the copy's bytes.
        4. parents: those in other shards are there.
        5. growth: the tree grew out of the one that was adopted last.
        6. keep: the copy takes the place of the older one.
        7. promise: the home cosigns the checkpoint, and from now on refuses any other history.
        8. record: the home's PEER entry is durable; the edge's entries may be named as parents.

        After a crash in between the same call finishes what was begun.
        Args:
            edge: the shard's directory; closed, or at least at rest: a copy in which a writer was caught is refused.
            now_s: Unix time in seconds, for the cosignature.
        Raises:
            UnknownOrigin, ReceiptInvalid: step 1. LedgerFull: step 2 or later. LedgerCorrupt: step 3.
            UnknownParent: step 4. NotConsistent, SplitView: step 5. LedgerLocked: another adoption is running. Nothing
            was adopted.
        Cost: a copy of the file and what fsck costs; the whole of it every time.
        """
        with _locked(self._path), _copied(edge, self._path / INCOMING_DIR) as copy:
            with StoredLog(copy) as log:
                claim, note = log.claim(), log.checkpoint()
                key = self._key_of(claim.origin)
                peer = open_peer(note, key)  # 1
            found = check_shard(copy, key)  # 3
            if not found.ok:
                raise LedgerCorrupt(
                    f"{found.problems[0]}; {len(found.problems)} problems in all",
                    where=str(edge),
                    fix="Run fsck on the edge's shard; close its engine before it is copied.",
                )
            with StoredLog(copy) as log:
                self._check_parents(log, peer.shard)  # 4
                latest = self._witness.latest(claim.origin)
                proof = log.consistency(latest.tree_size) if latest.tree_size <= claim.tree_size else []
                check_growth(latest, claim, proof)  # 5
            _keep(copy, shard_path(self._path, peer.shard))  # 6
            cosignature = self._witness.add_checkpoint(build_request(latest.tree_size, proof, peer.note), now_s)  # 7
            answer = self._home.append(*peer_entries([peer], ADOPTED)).answer(0)  # 8
            assert answer.result in (Result.OK, Result.EXISTS), answer
            self._home.cover(peer.shard, claim.tree_size)
            return Adoption(claim, answer.index, cosignature)

    def _key_of(self, name: str) -> VerifierKey:
        for key in self._keys.values():
            if key.name == name:
                return key
        raise UnknownOrigin(
            f"no number was handed out to {name[:80]!r}",
            where="origin",
            fix="Name the edge's key among the edges' keys.",
        )

    def _check_parents(self, log: StoredLog, own: int) -> None:
        """Step 4. Which entries of its own shard an entry may name, fsck has seen."""
        known = {**self._sizes(), **self.adopted()}
        for shard, index in furthest_parents(log).items():
            if shard != own and index >= known.get(shard, 0):
                raise UnknownParent(
                    f"an entry has the parent {shard}/{index}, and {known.get(shard, 0)} of its entries are here",
                    where=log.claim().origin,
                    fix="Adopt the shard with the parent first, or wait until it is here.",
                )

    def _cover(self) -> None:
        """Let the home know, after a start, what was adopted before."""
        for number, tree_size in self.adopted().items():
            self._home.cover(number, tree_size)

    def _peer_index(self, checkpoint: Checkpoint) -> int | None:
        """Where the home has recorded a checkpoint; None if a crash came between promise and record."""
        return self._home.find(peer_id(checkpoint, ADOPTED))


def furthest_parents(log: StoredLog) -> dict[int, int]:
    """The largest index that an entry of a log names as its parent in each shard, by the shard's number.

    Cost: reads all entries, about 0.1 us each.
    """
    ends = np.zeros(SHARD_MAX + 1, np.uint64)
    for begin in range(0, log.tree_size, BLOCK_ENTRIES):
        entries = from_bytes(log.read_entries(begin, min(begin + BLOCK_ENTRIES, log.tree_size)))
        for place in range(PARENTS_MAX):
            chosen = entries["num_parents"] > place
            indices = entries["parent_indices"][chosen, place]
            np.maximum.at(ends, entries["parent_shards"][chosen, place], indices + np.uint64(1))
    return {shard: int(ends[shard]) - 1 for shard in np.flatnonzero(ends).tolist()}


def _witness(
    path: Path, keys: list[VerifierKey], home: Shard, entropy: Callable[[int], bytes]
) -> tuple[Witness, WitnessKey]:
    """The home as a witness of its edges; key and memory are made on first use, and never one without the other."""
    name = f"{home.checkpoint().partition(chr(10))[0]}/adopter"
    if not (path / KEY_FILE).exists():
        make_directory(path / MEMORY_DIR)
        create_once(path / KEY_FILE, f"{Signer(name, entropy(KEY_BYTES)).secret()}\n".encode(), 0o600)
    signer = read_key(path / KEY_FILE)
    if signer.name != name:
        raise LogMismatch(
            f"the adopter there is {signer.name}, not {name}",
            where=str(path),
            fix="Adopt with the same home as before.",
        )
    return Witness(path / MEMORY_DIR, signer, keys), signer.witness_key


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all threads and processes that adopt into this log."""
    lock = hold_lock(path / "adopt.lock", wait_s=0)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _copied(edge: Path, incoming: Path) -> Iterator[Path]:
    """A durable copy of a shard's file, which is removed at the end unless it was moved away."""
    if not (edge / DATA_FILE).is_file():
        raise LogMismatch("no shard is there", where=str(edge), fix="Name the edge's shard directory.")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        with refusal_is_named(incoming):
            incoming.mkdir()
            shutil.copyfile(edge / DATA_FILE, incoming / DATA_FILE)
        descriptor = os.open(incoming / DATA_FILE, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield incoming
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _keep(copy: Path, home: Path) -> None:
    """Step 6: in one step, so that readers find the old file or the new one."""
    make_directory(home)
    os.replace(copy / DATA_FILE, home / DATA_FILE)
    sync_directory(home)
