"""The log's side of witnessing: ask each witness for its cosignature, from wherever it last was."""

from collections.abc import Callable
from typing import Protocol

from ledger.errors import NotConsistent, SizeConflict
from ledger.note import WitnessKey, add_cosignatures, read_checkpoint
from ledger.witness import build_request

TRIES_MAX = 3
"""One to learn the witness's size, one to go on from there, one more if another asked it meanwhile."""

Ask = Callable[[str], str]
"""An add-checkpoint request -> the witness's cosignature lines; raises `CheckpointRefused`."""


class Provable(Protocol):
    """A log that proves how it grew to its checkpoint."""

    def consistency(self, old: int) -> list[bytes]:
        """bytes[32] each: the proof from the first `old` entries to the checkpoint."""


def cosign(log: Provable, note: str, key: WitnessKey, ask: Ask) -> str:
    """The note with the cosignature of a witness.

    Args:
        note: the log's checkpoint, with its own signature.
        key: the witness's; the answer is verified with it.
    Raises:
        NotConsistent: the witness has seen more of the log than this.
        SizeConflict: it has seen another size at every try.
        CheckpointRefused: it refuses otherwise.
        ReceiptInvalid: what it answers is no cosignature of this checkpoint with this key.
    """
    size, old = read_checkpoint(note).tree_size, 0
    for tries_left in reversed(range(TRIES_MAX)):
        try:
            return add_cosignatures(note, ask(build_request(old, log.consistency(old), note)), [key])
        except SizeConflict as conflict:
            if conflict.size > size:
                raise NotConsistent(
                    f"the witness {key.name} has seen {conflict.size} entries, and here are {size}",
                    where="checkpoint",
                    fix="Ask with a newer checkpoint; if there is none, entries were lost here.",
                ) from conflict
            if not tries_left:
                raise
            old = conflict.size
    raise AssertionError("the last try returns or raises")
