"""Super-checkpoints: one signed commitment to the checkpoints of all shards, and a log of all there ever were.

The super-log is a log like any other, with an origin and a key of its own and a single shard, in `DIR/super` beside
the shards it watches. Its entries are PEER entries: at one moment one for every shard, in the order of their numbers,
linked, so that a moment is recorded whole or not at all. Its checkpoint after a moment is that moment's
super-checkpoint. Thus what holds of every log holds of super-checkpoints: each is consistent with all before, they can
be served as tiles, be cosigned by witnesses and be checked by fsck; and one cosigned super-checkpoint stands for a
cosigned checkpoint of every shard.

    asset entry -> root of its shard          a receipt of the shard, under the checkpoint that the moment has
    root of its shard -> super-checkpoint     a receipt of the PEER entry, under the super-checkpoint

Both are tlog-proofs; together, one after the other, they are a chain (`Chain`) that is verified offline with nothing
but the super-log's key, or a policy with witnesses.
Turned down: a Merkle tree of its own over each moment, whose root would be the entry. A proof format more, for nothing:
the log's own tree proves single shards already.

`DIR/super.begun` has the super-log's key, and says that it must not be begun again: one begun anew would be a second
history of the same name. It lies beside the directory, so that whoever loses that still has it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ledger.entry import Flag, from_bytes
from ledger.errors import EntryNotFound, LedgerCorrupt, LogMismatch, ReceiptInvalid, UnknownOrigin
from ledger.files import create_once
from ledger.growth import check_growth
from ledger.log import KEY_FILE, begun_path, open_keys, shard_of_origin, shard_path
from ledger.merkle import EMPTY_ROOT
from ledger.note import Checkpoint, Policy, VerifierKey, Witnessed, read_checkpoint
from ledger.peer import Peer, open_peer, peer_entries, recorded_peer, says
from ledger.prove import receipt_under
from ledger.receipt import HEADER, Verified, check_entry, parse, verify_with_policy
from ledger.result import Result
from ledger.shard import Shard
from ledger.store import MAP_BYTES_DEFAULT, has_data
from ledger.stored import StoredLog
from ledger.tiles import Source

SUPER_DIR = "super"
"""Of the directory in the log's, and at the end of the name."""

NUM_WATCHED_MAX = 4096
"""Shards in a moment: what one batch and one look at the end of the log take."""


class View(msgspec.Struct, frozen=True):
    """A shard as it shows itself: a signed checkpoint, and the proof (bytes[32] each) that it is consistent with the
    shard's checkpoint of the newest moment; none if that has no entries or as many."""

    note: str
    proof: tuple[bytes, ...] = ()


class Chain(msgspec.Struct, frozen=True):
    """Two receipts: an entry's in its shard, and the shard's checkpoint's in the super-log."""

    entry: str
    shard: str

    def text(self) -> str:
        """Both, with an empty line between them."""
        return f"{self.entry}\n{self.shard}"


class ChainVerified(msgspec.Struct, frozen=True):
    """What a chain has proved: the entry is in its shard's tree, and that tree in the super-checkpoint."""

    entry: Verified
    super_checkpoint: Witnessed


class SuperLog:
    """The log of super-checkpoints of some shards; this process owns it.

    Args:
        shard: the log's only shard.
        keys: the public keys of the shards it watches. It may have more of them than at the last opening, not fewer.
    Raises:
        LogMismatch: two keys are for one number or too many are given, or the newest moment has a shard that no key is
            for.
        LedgerCorrupt: what is stored is no sequence of moments.
    Concurrency: any number of threads.
    """

    def __init__(self, shard: Shard, keys: Sequence[VerifierKey]) -> None:
        self._shard = shard
        self._keys = {shard_of_origin(key.name): key for key in keys}
        self._newest = newest_moment(shard)
        self._turn = threading.Lock()
        strangers = self._newest.keys() - self._keys.keys()
        if len(self._keys) != len(keys) or len(keys) > NUM_WATCHED_MAX or strangers:
            raise LogMismatch(
                f"more than {NUM_WATCHED_MAX} keys, two for one number, or none for the shards {sorted(strangers)}",
                where="keys of the shards",
                fix="Give each shard that was ever watched, and its one key.",
            )

    @classmethod
    def open(
        cls,
        path: Path,
        log_name: str,
        keys: Sequence[VerifierKey],
        now_ns: Callable[[], int],
        *,
        entropy: Callable[[int], bytes],
        map_bytes: int = MAP_BYTES_DEFAULT,
    ) -> "SuperLog":
        """The super-log of the log in `path`; made, with a key of its own, on first use.

        Raises:
            LogMismatch, KeyInvalid, LedgerLocked, LedgerFull, LedgerCorrupt: see `open_keys`, `Shard.open` and above;
                or it was begun before, and is gone or has another key.
        """
        refuse_lost_super(path)
        signer = open_keys(path / SUPER_DIR, f"{log_name}/{SUPER_DIR}", 1, entropy=entropy).signers[0]
        shard = Shard.open(shard_path(path / SUPER_DIR, 0), 0, signer, now_ns, entropy=entropy, map_bytes=map_bytes)
        try:
            begun, line = begun_path(path / SUPER_DIR), f"{signer.key}\n".encode()
            if not create_once(begun, line, 0o644) and begun.read_bytes() != line:
                raise _not_begun_again("the super-log was begun with another key than it has now", begun)
            return cls(shard, keys)
        except BaseException:
            shard.close()
            raise

    def close(self) -> None:
        """Give the log back. Calling it again does nothing."""
        self._shard.close()

    @property
    def log(self) -> Shard:
        """The log itself, to be served, exported, witnessed; only `commit` appends to it."""
        return self._shard

    def checkpoint(self) -> str:
        """The newest super-checkpoint, a signed note."""
        return self._shard.checkpoint()

    def newest(self) -> Mapping[int, Checkpoint]:
        """Each shard's checkpoint in the newest moment, by the shard's number, in order."""
        return {number: peer.checkpoint for number, (_, peer) in self._newest.items()}

    def sizes(self) -> Mapping[int, int]:
        """How many entries of each shard the newest moment covers, by the shard's number, in order."""
        return {number: checkpoint.tree_size for number, checkpoint in self.newest().items()}

    def commit(self, views: Sequence[View]) -> str:
        """Record a moment; its super-checkpoint. If no shard has grown, the moment is the newest one still.

        1. signature: each checkpoint is signed with the key of its shard; no shard comes twice.
        2. growth: each tree grew out of the one in the newest moment. None ever goes backwards.
        3. whole: a shard that does not show itself is as it was in the newest moment.
        4. record: all in one durable step.

        Raises:
            ReceiptInvalid, UnknownOrigin: step 1. NotConsistent, SplitView: step 2.
            LedgerFull, LedgerCorrupt: step 4 could not be done. In every case nothing has changed.
        Cost: a signature check a shard, and one commit.
        """
        with self._turn:
            before = {number: peer for number, (_, peer) in self._newest.items()}
            peers = dict(sorted((before | self._opened(views)).items()))
            if {number: peer.checkpoint.tree_size for number, peer in peers.items()} != self.sizes():
                self._record(peers)
            return self._shard.checkpoint()

    def _opened(self, views: Sequence[View]) -> dict[int, Peer]:
        """Steps 1 and 2: what the views show, by the shards' numbers."""
        peers: dict[int, Peer] = {}
        for view in views:
            number = shard_of_origin(read_checkpoint(view.note).origin)
            if number not in self._keys or number in peers:
                raise UnknownOrigin(
                    f"shard {number} is not watched, or comes twice",
                    where="moment",
                    fix="Give one checkpoint of each shard that the super-log was opened with.",
                )
            peer = open_peer(view.note, self._keys[number])
            check_growth(self._known(number), peer.checkpoint, view.proof)
            peers[number] = peer
        return peers

    def _known(self, number: int) -> Checkpoint:
        """A shard's checkpoint of the newest moment; the empty tree if it is in none."""
        if number in self._newest:
            return self._newest[number][1].checkpoint
        return Checkpoint(self._keys[number].name, 0, EMPTY_ROOT)

    def _record(self, peers: dict[int, Peer]) -> None:
        """Step 4."""
        first = self._shard.tree_size
        entries, payloads = peer_entries(list(peers.values()), str(first).encode())
        appended = self._shard.append(entries, payloads)
        if (appended.results != Result.OK).any():
            raise _corrupt(f"a moment was not recorded: {[Result(result).name for result in appended.results]}")
        self._newest = dict(zip(peers, zip(appended.indices.tolist(), peers.values(), strict=True), strict=True))

    def chain(self, source: Source, index: int) -> Chain:
        """The receipts that lead from an entry of a shard to the newest super-checkpoint.

        Args:
            source: the shard.
        Raises:
            EntryNotFound: the newest moment does not cover the entry.
            LedgerCorrupt: what is stored does not lead to the roots.
        """
        return _chain(self._shard, self._newest, source, index)


def stored_chain(path: Path, source: Source, index: int) -> Chain:
    """`SuperLog.chain` out of the directory of the log in `path`, beside whoever owns its super-log.

    Raises:
        EntryNotFound, LedgerCorrupt: as there; or no super-log is there.
    """
    with StoredLog(shard_path(path / SUPER_DIR, 0)) as log:
        return _chain(log, newest_moment(log), source, index)


def stored_newest(path: Path) -> Mapping[int, Checkpoint]:
    """`SuperLog.newest` out of the directory of the log in `path`, beside whoever owns its super-log; nothing where
    none was begun yet.

    Raises:
        LedgerCorrupt: it was begun and is gone, or what is stored is no sequence of moments.
        LedgerError: see `StoredLog`.
    """
    refuse_lost_super(path)
    shard = shard_path(path / SUPER_DIR, 0)
    if not begun_path(shard).exists():
        return {}
    with StoredLog(shard) as log:
        return {number: peer.checkpoint for number, (_, peer) in newest_moment(log).items()}


def refuse_lost_super(path: Path) -> None:
    """Refuse a log whose super-log was begun and is gone, before another one is begun in its place.

    Raises:
        LedgerCorrupt: it is so.
    """
    begun, directory = begun_path(path / SUPER_DIR), path / SUPER_DIR
    if begun.exists() and not ((directory / KEY_FILE).exists() and has_data(shard_path(directory, 0))):
        raise _not_begun_again("the super-log was begun before, and its key or what was in it is gone", begun)


def verify_chain(text: str, policy: Policy, content: bytes | None = None) -> ChainVerified:
    """Check a chain offline, trusting nothing but the super-log's key, or a policy with it and witnesses.

    1. parse: the text is two receipts.
    2. super-checkpoint: the second receipt verifies under the policy (`receipt.verify_with_policy`).
    3. link: its entry is the record of exactly the checkpoint that the first receipt is under.
    4. entry: the first receipt's entry is in that checkpoint's tree; its content, where given, is the one recorded.

    The shard's own signature is not looked at: the super-log has checked it, and answers for it with its own.
    Args:
        policy: its log keys are super-logs'.
    Raises:
        ReceiptInvalid: `where` names the step that failed, `what` says why.
    """
    chain = parse_chain(text)
    recorded, witnessed = verify_with_policy(chain.shard, policy)
    inner = parse(chain.entry)
    checkpoint = read_checkpoint(inner.checkpoint)
    if not says(recorded.entry, checkpoint):
        raise ReceiptInvalid(
            f"the super-log does not say that {checkpoint.origin[:80]!r} had this tree",
            where="step 3 link",
            fix="Do not trust it; ask for a new chain.",
        )
    return ChainVerified(check_entry(inner, checkpoint, content), witnessed)


def is_chain(text: str) -> bool:
    """Whether a text, which may be anything, is to be read as a chain."""
    return text.count(f"{HEADER}\n") > 1


def parse_chain(text: str) -> Chain:
    """The two receipts of a chain, not yet looked at.

    Raises:
        ReceiptInvalid: it is not two receipts with an empty line between them.
    """
    first, separator, second = text.partition(f"\n\n{HEADER}\n")
    if not separator:
        raise ReceiptInvalid(
            "a chain is two receipts with an empty line between them",
            where="step 1 parse",
            fix="Give the whole file, as it was issued.",
        )
    return Chain(f"{first}\n", f"{HEADER}\n{second}")


def _chain(log: Shard | StoredLog, newest: Mapping[int, tuple[int, Peer]], source: Source, index: int) -> Chain:
    """The receipts from an entry of a shard to the checkpoint of a super-log with this newest moment."""
    number = shard_of_origin(read_checkpoint(source.checkpoint()).origin)
    place, peer = newest.get(number, (0, None))
    if peer is None:
        raise EntryNotFound(
            f"shard {number} is in no moment", where="super-log", fix="Commit a moment with this shard first."
        )
    return Chain(receipt_under(source, index, peer.note), receipt_under(log, place, log.checkpoint()))


def newest_moment(log: Shard | StoredLog) -> dict[int, tuple[int, Peer]]:
    """Index and checkpoint of each shard in the last chain of a super-log, by the shard's number.

    Raises:
        LedgerCorrupt: the last entries are no whole moment.
    """
    end = log.tree_size
    begin = max(0, end - NUM_WATCHED_MAX - 1)  # the end of the moment before says where a full one begins
    linked = from_bytes(log.read_entries(begin, end))["flags"] & int(Flag.LINKED) != 0
    ends = np.flatnonzero(~linked)  # of chains: the entries that are linked to nothing
    if end and (not len(ends) or ends[-1] != end - begin - 1 or (len(ends) == 1 and begin)):
        raise _corrupt("the last entries are no whole moment")
    first = begin + (int(ends[-2]) + 1 if len(ends) > 1 else 0)
    try:
        peers = [recorded_peer(log.entry(index), log.meta(index)) for index in range(first, end)]
    except EntryNotFound as error:
        raise _corrupt(f"the last entries are no whole moment: {error.what}") from error
    newest = {peer.shard: (first + place, peer) for place, peer in enumerate(peers)}
    if len(newest) != len(peers):
        raise _corrupt("a shard comes twice in a moment")
    return newest


def _not_begun_again(what: str, begun: Path) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"{what}; a new one would be a second history of the same name",
        where=str(begun),
        fix="Restore the super-log's directory from a copy.",
    )


def _corrupt(what: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where="super-log", fix="Run fsck on the super-log and restore it from a copy.")
