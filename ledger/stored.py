"""A log on disk as anybody may read it, at its newest stored checkpoint: it never grows while it is looked at.

It is a `ledger.tiles.Source`: it can be exported, give receipts (`ledger.prove`) and prove how it grew.
Turned down: to sign a checkpoint of whatever entries there are. Who only reads has no key; the owner stores a new
checkpoint often enough.
"""

from pathlib import Path

from ledger.entry import Entry
from ledger.errors import EntryNotFound
from ledger.note import Checkpoint, read_checkpoint
from ledger.reader import Reader


class StoredLog:
    """A shard's directory, read only, beside its owner. Each read is a short transaction.

    Not in a process that has the shard open otherwise: LMDB forbids that.
    Raises:
        EntryNotFound, LedgerCorrupt, LedgerError: see `Reader.open`.
        ReceiptInvalid: what it stores is no checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._reader = Reader.open(path)
        try:
            self._note = self._reader.checkpoint()
            self._claim = read_checkpoint(self._note)
        except BaseException:
            self._reader.close()
            raise

    def __enter__(self) -> "StoredLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Calling it again does nothing."""
        self._reader.close()

    @property
    def tree_size(self) -> int:
        """How many entries the checkpoint covers; there may be more."""
        return self._claim.tree_size

    def checkpoint(self) -> str:
        """The checkpoint, a signed note."""
        return self._note

    def claim(self) -> Checkpoint:
        """What the checkpoint says; its signature is for the caller to verify."""
        return self._claim

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """The complete nodes `begin` to `end` of a tree level that is a multiple of 8, 32 bytes each, unchecked."""
        return self._reader.read_hashes(level, begin, end)

    def read_entries(self, begin: int, end: int) -> bytes:
        """The entries `begin` to `end`, 240 bytes each, unchecked."""
        return self._reader.read_entries(begin, end)

    def entry(self, index: int) -> Entry:
        """The entry at an index, checked against its leaf hash.

        Raises:
            EntryNotFound: there is none yet. LedgerCorrupt: the stored bytes are not those that were recorded.
        """
        return self._reader.entry(index)

    def meta(self, index: int) -> bytes:
        """The metadata of an entry, unchecked.

        Raises:
            EntryNotFound: it has none, or it was erased.
        """
        data = self._reader.meta(index)
        if data is None:
            raise EntryNotFound(
                f"no metadata of entry {index}", where=self._claim.origin, fix="Ask for an entry that has some."
            )
        return data

    def consistency(self, old: int) -> list[bytes]:
        """bytes[32] each: the proof that the checkpoint's tree grew out of its first `old` entries; none for 0 or all.

        Raises:
            EntryNotFound: the checkpoint covers fewer.
        """
        return self._reader.consistency(old, self.tree_size)
