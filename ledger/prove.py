"""Receipts under a checkpoint of one's choice: one that witnesses have cosigned, or the one that a super-checkpoint
commits to. A shard itself gives receipts under its newest checkpoint only (`Shard.receipt`).

Works on whatever can be served as tiles: a shard, a stored log that is only read, a verified mirror.
"""

from ledger.errors import EntryNotFound, LedgerCorrupt, ReceiptInvalid
from ledger.merkle import inclusion_proof
from ledger.note import read_checkpoint
from ledger.receipt import Receipt, check_entry
from ledger.tiles import Source
from ledger.tree import Nodes


def receipt_under(source: Source, index: int, note: str) -> str:
    """The receipt of an entry under a signed checkpoint of the same log, which may be an older one.

    The signatures are the verifier's business; that the tree has the root that was signed is checked here, so a
    receipt that would not verify is never given out.
    Raises:
        EntryNotFound: the checkpoint does not cover the entry, or is of more entries than the log has here.
        ReceiptInvalid: the note is no checkpoint, or another log's.
        LedgerCorrupt: what is stored does not lead to the root.
    Cost: less than a tile for each level read and hashed.
    """
    checkpoint = read_checkpoint(note)
    own = read_checkpoint(source.checkpoint())
    if checkpoint.origin != own.origin:
        raise ReceiptInvalid(
            f"a checkpoint of {checkpoint.origin[:80]!r}",
            where=own.origin,
            fix="Give one of the entry's own log.",
        )
    if checkpoint.tree_size > source.tree_size or not 0 <= index < checkpoint.tree_size:
        raise EntryNotFound(
            f"entry {index} under a checkpoint of {checkpoint.tree_size} entries; there are {source.tree_size}",
            where=own.origin,
            fix="Ask for an entry that the checkpoint covers.",
        )
    data = bytes(source.read_entries(index, index + 1))
    proof = inclusion_proof(index, checkpoint.tree_size, Nodes(checkpoint.tree_size, source.read_hashes))
    receipt = Receipt(data, index, tuple(proof), note)
    try:
        check_entry(receipt, checkpoint)
    except ReceiptInvalid as error:
        raise LedgerCorrupt(
            f"the receipt of entry {index} would not verify: {error.what}",
            where=own.origin,
            fix="Run fsck on the log and restore it from a copy; or the checkpoint is of another history.",
        ) from error
    return receipt.text()
