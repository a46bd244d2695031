"""Entries of the kind PEER: one log's record of another log's signed checkpoint.

    code            the shard's number
    amount          its tree size
    content_hash    its root
    request_hash    SHA-256 of the checkpoint's text, which binds the origin, too
    meta            {"checkpoint": the note}, so that the evidence lies beside the entry
    id              SHA-256 over a context and the text, cut to 16 bytes: in one context one checkpoint is recorded once

The note is kept with its log's own signature only: who else signed may grow without limit, and is not needed here.
"""

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np

from ledger.entry import ID_BYTES, Entries, Entry, Flag, Kind, zeros
from ledger.errors import LedgerCorrupt, LedgerError
from ledger.log import shard_of_origin
from ledger.note import Checkpoint, VerifierKey, open_checkpoint, read_checkpoint, without_strangers
from ledger.payload import Payload, canonical_json

ADOPTED = b"adopted"
"""The context in which a home records the checkpoints of its edges."""


class Peer(msgspec.Struct, frozen=True):
    """A checkpoint of another log, believed: the note, and what it says."""

    note: str
    checkpoint: Checkpoint

    @property
    def shard(self) -> int:
        """The number in its origin."""
        return shard_of_origin(self.checkpoint.origin)


def open_peer(note: str, key: VerifierKey) -> Peer:
    """The peer's checkpoint in a note that its key has signed.

    Raises:
        ReceiptInvalid: the note does not open with this key, or its origin is no shard's.
    """
    checkpoint = open_checkpoint(note, [key])
    shard_of_origin(checkpoint.origin)
    return Peer(without_strangers(note, [key]), checkpoint)


def peer_entries(peers: Sequence[Peer], context: bytes) -> tuple[Entries, list[Payload]]:
    """An entry and its payload for each checkpoint; all linked, so that they are recorded together or not at all."""
    entries = zeros(len(peers))
    entries["kind"] = Kind.PEER
    entries["flags"][:-1] = Flag.LINKED
    payloads = []
    for place, peer in enumerate(peers):
        text = peer.checkpoint.text().encode()
        meta = canonical_json({"checkpoint": peer.note})
        entries["id"][place] = np.void(peer_id(peer.checkpoint, context))
        entries["code"][place], entries["amount"][place] = peer.shard, peer.checkpoint.tree_size
        entries["content_hash"][place] = np.void(peer.checkpoint.root)
        entries["request_hash"][place] = np.void(hashlib.sha256(text).digest())
        entries["meta_hash"][place] = np.void(hashlib.sha256(meta).digest())
        payloads.append(Payload(meta=meta))
    return entries, payloads


def peer_id(checkpoint: Checkpoint, context: bytes) -> bytes:
    """bytes[16], the id of the entry that records a checkpoint."""
    data = b"peer\n" + context + b"\n" + checkpoint.text().encode()
    return hashlib.sha256(data).digest()[:ID_BYTES]


def says(entry: Entry, checkpoint: Checkpoint) -> bool:
    """Whether an entry is the record of exactly this checkpoint."""
    return (entry.kind, entry.amount, entry.content_hash, entry.request_hash) == (
        Kind.PEER,
        checkpoint.tree_size,
        checkpoint.root,
        hashlib.sha256(checkpoint.text().encode()).digest(),
    ) and entry.code == shard_of_origin(checkpoint.origin)


def recorded_peer(entry: Entry, meta: bytes) -> Peer:
    """The checkpoint that an entry records, out of its metadata. The note was believed when it was recorded.

    Raises:
        LedgerCorrupt: the two do not belong together.
    """
    try:
        note = msgspec.json.decode(meta, type=dict[str, str])["checkpoint"]
        peer = Peer(note, read_checkpoint(note))
        if says(entry, peer.checkpoint):
            return peer
    except (msgspec.DecodeError, KeyError, LedgerError) as error:
        raise _corrupt(f"the metadata holds no checkpoint: {error}") from error
    raise _corrupt("the metadata holds another checkpoint than the entry")


def _corrupt(what: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where="peer entry", fix="Run fsck on the log and restore it from a copy.")
