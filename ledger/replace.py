"""A file that is replaced as a whole: a reader, or the next start after a crash, finds the old bytes or the new ones.

For files that are created once and never change, see `ledger.files`.
"""

import os
import tempfile
from pathlib import Path

from ledger.files import refusal_is_named, sync_directory


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content, durably, in one step. Mode 0644.

    Raises:
        LedgerFull: no room for it; the old file stays.
        OSError: the directory cannot be written; the old file stays. If only its last flush failed, the new file is
            there, but may be gone after a power cut.
    Concurrency: of several writers the last one wins; who must not lose an update holds a lock around this.
    """
    with refusal_is_named(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        sync_directory(path.parent)
