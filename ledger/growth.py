"""Whether a log's new checkpoint grew out of one that is known: the question of everybody who keeps a log honest.

A witness asks it before it cosigns, the super-log before it takes a shard's checkpoint, a home before it adopts.
"""

from collections.abc import Sequence

from ledger.errors import NotConsistent, ReceiptInvalid, SplitView
from ledger.merkle import verify_consistency
from ledger.note import Checkpoint


def check_growth(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """Check that the tree of `new` is that of `old`, or grew out of it. Both are the same log's, and believed.

    Args:
        old: of 0 entries if nothing is known: then there is nothing to prove, and no proof may be given.
        proof: bytes[32] each, a consistency proof; empty if the sizes are equal.
    Raises:
        SplitView: one size, two roots.
        NotConsistent: the new tree is smaller, or the proof does not prove it.
    """
    assert old.origin == new.origin, (old.origin, new.origin)
    if new.tree_size == old.tree_size and new.root != old.root:
        raise SplitView(
            f"{new.origin} signed two trees of {new.tree_size} entries: {new.root.hex()}, before {old.root.hex()}",
            where="root",
            fix="Do not trust this log; keep both checkpoints, they prove it.",
        )
    if new.tree_size < old.tree_size:
        raise _not_consistent(f"{new.origin} went back from {old.tree_size} to {new.tree_size} entries")
    if old.tree_size == 0:
        if proof:
            raise _not_consistent("from nothing there is nothing to prove, but there is a proof")
        return
    try:
        verify_consistency(old.tree_size, new.tree_size, old.root, new.root, proof)
    except ReceiptInvalid as error:
        raise _not_consistent(error.what) from error


def _not_consistent(what: str) -> NotConsistent:
    return NotConsistent(what, where="consistency proof", fix="Send the proof from the last known size to this one.")
