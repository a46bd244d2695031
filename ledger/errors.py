"""The named errors of the ledger. Every one says what was wrong, where, and what to do about it.

They carry the same four fields as the engine's error body, as plain strings, so that a caller can show any of them
without knowing this package; and they pickle, because they cross processes.
"""

from typing import ClassVar


class LedgerError(Exception):
    """The root; raised itself only for a failure of storage that has no better name.

    Args:
        what: what was wrong, one clause without a full stop.
        where: the file, field, line or step at fault.
        fix: what the caller can do about it, a full sentence.
    """

    code: ClassVar[str] = "ledger_error"

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.code} at {self.where}: {self.what}. {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(kind: type[LedgerError], what: str, where: str, fix: str) -> LedgerError:
    return kind(what, where=where, fix=fix)


class NotWritten(LedgerError):
    """A commit failed, and nothing of it is on disk. The shard goes on working; the call may be repeated."""

    code = "not_written"


class LedgerFull(NotWritten):
    """The disk, the quota or the map is full. Nothing of the batch was written; reads go on."""

    code = "ledger_full"


class LedgerReadOnly(NotWritten):
    """This user may not write there, or nobody may. Nothing was written; who only reads goes on."""

    code = "ledger_read_only"


class LedgerLocked(LedgerError):
    """Another owner has the shard open."""

    code = "ledger_locked"


class LedgerBusy(LedgerError):
    """More waits to be written than can be soon. Nothing of the call was written."""

    code = "ledger_busy"


class LedgerCorrupt(LedgerError):
    """What is stored contradicts its own hashes or its checkpoint."""

    code = "ledger_corrupt"


class LayoutUnsupported(LedgerError):
    """What is stored is whole, as far as can be told, but in the layout of another release. Nothing was written."""

    code = "layout_unsupported"


class LogMismatch(LedgerError):
    """The directory holds another log, or another number of shards, than was asked for."""

    code = "log_mismatch"


class KeyInvalid(LedgerError):
    """A key file or a key string cannot be used."""

    code = "key_invalid"


class UnknownParent(LedgerError):
    """An entry names a parent that is not in the ledger; nothing of its batch was written."""

    code = "unknown_parent"


class ReceiptInvalid(LedgerError):
    """A receipt, a checkpoint or a proof does not prove what it claims."""

    code = "receipt_invalid"


class EntryNotFound(LedgerError):
    """No entry, or no tree, of that index or size."""

    code = "not_found"


class EntryInvalid(LedgerError):
    """An entry breaks a rule of the format, or a limit; nothing of its batch was written."""

    code = "entry_invalid"


class CheckpointRefused(LedgerError):
    """A witness does not cosign a checkpoint; raised itself for a malformed request.

    Its kinds are the refusals of C2SP tlog-witness, `http_status` what that specification answers them with.
    """

    code = "checkpoint_refused"
    http_status: ClassVar[int] = 400


class UnknownOrigin(CheckpointRefused):
    """The witness does not watch this log."""

    code = "unknown_origin"
    http_status = 404


class UnknownSigner(CheckpointRefused):
    """No known key of the log has signed the checkpoint, or one has signed something else."""

    code = "unknown_signer"
    http_status = 403


class SizeConflict(CheckpointRefused):
    """The witness last cosigned another size, `size`, than the log believes; the log should try again from there."""

    code = "size_conflict"
    http_status = 409

    def __init__(self, what: str, *, where: str, fix: str, size: int = 0) -> None:
        super().__init__(what, where=where, fix=fix)
        self.size = size

    def __reduce__(self) -> tuple[object, ...]:
        return *super().__reduce__(), {"size": self.size}


class SplitView(CheckpointRefused):
    """The log has signed two different trees of one size."""

    code = "split_view"
    http_status = 409


class NotConsistent(CheckpointRefused):
    """The log does not prove that the new tree grew out of the one that the witness knows."""

    code = "not_consistent"
    http_status = 422
