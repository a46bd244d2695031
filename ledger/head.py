"""How far a shard has got: the one row that is written with every batch and that everything else is checked against."""

import struct

import msgspec

from ledger.errors import LedgerCorrupt
from ledger.store import Snapshot, layout_unsupported

LAYOUT = 2

_HEAD = struct.Struct("<HQQ32s")


class Head(msgspec.Struct, frozen=True):
    """How far the shard has got: how many entries, the time of the last one (0 if there is none), and their root; and
    the newest checkpoint that was stored, perhaps of fewer entries."""

    tree_size: int
    time_ns: int
    root: bytes
    checkpoint: str

    def pack(self) -> bytes:
        return _HEAD.pack(LAYOUT, self.tree_size, self.time_ns, self.root) + self.checkpoint.encode()

    @classmethod
    def unpack(cls, data: bytes) -> "Head":
        """Raises LedgerCorrupt: it is no head; LayoutUnsupported: it is one of another layout."""
        if len(data) < _HEAD.size:
            raise _corrupt("the head was cut off")
        layout, tree_size, time_ns, root = _HEAD.unpack_from(data)
        if layout != LAYOUT:
            raise layout_unsupported(f"the layout is {layout}, and this release has {LAYOUT}", "head")
        try:
            return cls(tree_size, time_ns, root, data[_HEAD.size :].decode())
        except UnicodeDecodeError:
            raise _corrupt("the checkpoint is not UTF-8") from None

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Head":
        """Raises LedgerCorrupt, LayoutUnsupported: there is none, or as `unpack` does."""
        data = snapshot.state("head")
        if data is None:
            raise _corrupt("there is no head")
        return cls.unpack(data)


def _corrupt(what: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where="head", fix="Run fsck on the shard and restore it from a copy.")
