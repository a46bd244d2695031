"""Shards that were written offline, elsewhere, and join the ledger later: an edge's log is adopted as a whole.

What makes this free of conflicts is decided before the edge goes offline: it is handed a shard number that nobody else
has, for ever, and a key of its own is bound to that number. An entry is named by (shard, index), an id by (shard, id);
the edge names everything under its number, so nothing that it writes can collide with what others write meanwhile, and
nothing has to be renumbered, reordered or merged: its receipts stay valid, byte for byte.

    DIR/adopted/key                 signs what was adopted: the home is a witness of its edges
    DIR/adopted/memory/             its memory (`ledger.witness`)
    DIR/adopted/shard-017/data.mdb  the adopted copy, which anybody may read (`ledger.reader`)
                          wal-*     empty, where the edge has them: only what is in its store is adopted

An edge may come back any number of times. Each time it has to have grown out of what was adopted before; one that was
set back, or that wrote two histories, is refused for good.
Turned down: to append the edge's entries to a shard of the home. They would get other indices, times and proofs, and
whatever was said offline about them would be void.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ledger.adoptions import recorded_adoptions
from ledger.errors import LedgerCorrupt, LedgerError, LogMismatch, UnknownOrigin, UnknownParent
from ledger.files import create_once, hold_lock, make_directory, refusal_is_named, sync_directory
from ledger.fsck_afresh import check_afresh
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
from ledger.peer import ADOPTED, Peer, open_peer, peer_entries, peer_id
from ledger.reader import Reader
from ledger.result import Result
from ledger.shard import Shard
from ledger.store import DATA_FILE
from ledger.stored import StoredLog
from ledger.wal import FILE_NAMES, Wal
from ledger.witness import Witness, build_request

MEMORY_DIR = "memory"
INCOMING_DIR = "incoming"


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
        now_s: Unix time in seconds, for the cosignature of an adoption that a crash cut off: it is finished here.
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
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._path = path / ADOPTED_DIR
        self._home = home
        self._entropy = entropy
        self._keys = {shard_of_origin(key.name): key for key in edge_keys}
        if len(self._keys) != len(edge_keys) or self._keys.keys() & sizes().keys():
            raise LogMismatch(
                "a number was handed out twice, or is one of the log's own",
                where="keys of the edges",
                fix="Hand out each number once, to one key.",
            )
        self._sizes = sizes
        self._witness, self.witness_key = _witness(self._path, list(edge_keys), home, entropy)
        for number, key in self._keys.items():
            with suppress(LedgerError):  # what is in its way, the next adoption meets again, and names
                self._finish(number, key, int(now_s()))
        for number, tree_size in self.adopted().items():
            home.cover(number, tree_size)

    def adopted(self) -> dict[int, int]:
        """How many entries of each adopted shard are part of the ledger, by number. Who owns another shard of the log
        lets it know with `Shard.cover`.

        Cost: a look-up for each; where an adoption was cut off, the home's entries are read back to the one before.
        """
        sizes = {number: self._recorded_size(key) for number, key in self._keys.items()}
        return {number: size for number, size in sizes.items() if size is not None}

    def adopt(self, edge: Path, now_s: int) -> Adoption:
        """Adopt an edge's shard, or what it has grown by since the last time.

        1. number: the checkpoint's origin ends in a number that was handed out, and that number's key has signed it.
        2. copy: everything that follows looks at the copy, which nobody else can change.
        3. fsck: entries, tree, ids, signature, balances and all else are re-derived from the copy's bytes; and the
           checkpoint covers all of it, so that no entry is left out, or kept unseen.
        4. parents: those in other shards are there.
        5. growth: the tree grew out of the one that was adopted last.
        6. keep: the copy takes the place of the older one.
        7. promise: the home cosigns the checkpoint, and from now on refuses any other history.
        8. record: the home's PEER entry is durable; the edge's entries may be named as parents.

        After a crash in between the same call finishes what was begun; from step 6 on the next start does.
        Args:
            edge: the shard's directory; closed, or at least at rest with all of it integrated and signed: a copy in
                which a writer was caught is refused, and so is what a crash left.
            now_s: Unix time in seconds, for the cosignature.
        Raises:
            UnknownOrigin, ReceiptInvalid: step 1. LedgerFull: step 2 or later. LedgerCorrupt: step 3.
            UnknownParent: step 4. NotConsistent, SplitView: step 5. LedgerLocked: another adoption is running. Nothing
            was adopted.
        Cost: a copy of the file and what fsck costs; the whole of it every time.
        """
        with _locked(self._path), _copied(edge, self._path / INCOMING_DIR) as copy:
            with StoredLog(copy) as log:
                claim, key = log.claim(), self._key_of(log.claim().origin)
                peer = open_peer(log.checkpoint(), key)  # 1
            furthest = _check(copy, key, claim, edge)  # 3
            self._check_parents(furthest, claim.origin)  # 4
            with StoredLog(copy) as log:
                growth = self._growth(log)  # 5
            _keep(copy, shard_path(self._path, peer.shard), self._entropy)  # 6
            return self._record(peer, growth, now_s)  # 7, 8

    def _growth(self, log: StoredLog) -> tuple[int, list[bytes]]:
        """Step 5: the size that was promised last, and the proof that a log has grown out of that tree."""
        claim, latest = log.claim(), self._witness.latest(log.claim().origin)
        proof = log.consistency(latest.tree_size) if latest.tree_size <= claim.tree_size else []
        check_growth(latest, claim, proof)
        return latest.tree_size, proof

    def _record(self, peer: Peer, growth: tuple[int, list[bytes]], now_s: int) -> Adoption:
        """Steps 7 and 8, which may be repeated."""
        cosignature = self._witness.add_checkpoint(build_request(*growth, peer.note), now_s)  # 7
        answer = self._home.append(*peer_entries([peer], ADOPTED)).answer(0)  # 8
        assert answer.result in (Result.OK, Result.EXISTS), answer
        self._home.cover(peer.shard, peer.checkpoint.tree_size)
        return Adoption(peer.checkpoint, answer.index, cosignature)

    def _finish(self, number: int, key: VerifierKey, now_s: int) -> None:
        """Promise and record the copy that a crash left kept. It was checked before it was kept."""
        with _locked(self._path), StoredLog(shard_path(self._path, number)) as log:
            peer = open_peer(log.checkpoint(), key)
            if self._peer_index(peer.checkpoint) is None:
                self._record(peer, self._growth(log), now_s)

    def _recorded_size(self, key: VerifierKey) -> int | None:
        """The size that the home has recorded last of an edge: what it promised last, or what it did before that if a
        crash came between promise and record. None if nothing was adopted."""
        latest = self._witness.latest(key.name)
        if self._peer_index(latest) is not None:
            return latest.tree_size
        peers = recorded_adoptions(self._home.reader()) if latest.tree_size else ()
        return next((peer.checkpoint.tree_size for peer in peers if peer.checkpoint.origin == key.name), None)

    def _key_of(self, name: str) -> VerifierKey:
        for key in self._keys.values():
            if key.name == name:
                return key
        raise UnknownOrigin(
            f"no number was handed out to {name[:80]!r}",
            where="origin",
            fix="Name the edge's key among the edges' keys.",
        )

    def _check_parents(self, furthest: Mapping[int, int], where: str) -> None:
        """Step 4. Which entries of its own shard an entry may name, fsck has seen."""
        known = {**self._sizes(), **self.adopted()}
        for shard, index in furthest.items():
            if index >= known.get(shard, 0):
                raise UnknownParent(
                    f"an entry has the parent {shard}/{index}, and {known.get(shard, 0)} of its entries are here",
                    where=where,
                    fix="Adopt the shard with the parent first, or wait until it is here.",
                )

    def _peer_index(self, checkpoint: Checkpoint) -> int | None:
        """Where the home has recorded a checkpoint; None if a crash came between promise and record."""
        return self._home.find(peer_id(checkpoint, ADOPTED))


def _check(copy: Path, key: VerifierKey, claim: Checkpoint, edge: Path) -> Mapping[int, int]:
    """Step 3: the copy is whole and nothing of it is beyond its checkpoint. Of each other shard in which an entry has a
    parent, the largest index named."""
    with Reader.open(copy) as reader:
        num_unsigned = reader.tree_size - claim.tree_size
    if num_unsigned > 0:
        raise _corrupt(edge, f"its checkpoint leaves out {num_unsigned} entries", "Open and close the edge first.")
    found = check_afresh(copy, key)
    if found.problems:
        raise _corrupt(
            edge,
            f"{found.problems[0]}; {len(found.problems)} problems in all",
            "Run fsck on the edge's shard; close its engine before it is copied.",
        )
    if found.num_pending:
        raise _corrupt(
            edge, f"{found.num_pending} entries are in its write-ahead log only", "Open and close the edge first."
        )
    return found.furthest


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
    """A copy of a shard's files, which is removed at the end unless it was moved away; the data is durable."""
    if not (edge / DATA_FILE).is_file():
        raise LogMismatch("no shard is there", where=str(edge), fix="Name the edge's shard directory.")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        with refusal_is_named(incoming):
            incoming.mkdir()
            for name in (DATA_FILE, *(name for name in FILE_NAMES if (edge / name).exists())):
                shutil.copyfile(edge / name, incoming / name)
        descriptor = os.open(incoming / DATA_FILE, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield incoming
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _keep(copy: Path, kept: Path, entropy: Callable[[int], bytes]) -> None:
    """Step 6: in one step, so that readers find the old file or the new one.

    The edge's write-ahead log is not kept: all of it is in its store, and beside an older store it would not be. A
    store that says that it has one has an empty one here.
    """
    make_directory(kept)
    if (copy / FILE_NAMES[0]).exists():
        with Wal(kept, entropy) as wal:
            wal.make()
    os.replace(copy / DATA_FILE, kept / DATA_FILE)
    sync_directory(kept)


def _corrupt(edge: Path, what: str, fix: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=str(edge), fix=fix)
