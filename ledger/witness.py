"""A witness: it cosigns a log's checkpoints, each only after a proof that nothing it saw before was taken back.

Who asks for its cosignature is sure that everybody else who does sees the same log: one who was shown another one
holds a checkpoint that this witness would not have signed. The request and the refusals are those of C2SP tlog-witness
(`add-checkpoint`); HTTP is somebody else's: every refusal is an error that carries its status.

    DIR/<SHA-256 of the origin>.checkpoint   the log's newest checkpoint, signed by the log and cosigned by us
    DIR/<SHA-256 of the origin>.lock         held from looking at it to having replaced it

What is kept is the very promise that was given, so that a later start can check it with its own key.
Turned down: one database for all logs. A file a log needs no format, and logs do not wait for each other.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ledger.errors import (
    CheckpointRefused,
    LedgerCorrupt,
    LogMismatch,
    ReceiptInvalid,
    SizeConflict,
    UnknownOrigin,
    UnknownSigner,
)
from ledger.files import hold_lock
from ledger.growth import check_growth
from ledger.merkle import EMPTY_ROOT, HASH_BYTES
from ledger.note import (
    NOTE_BYTES_MAX,
    Checkpoint,
    Policy,
    Signer,
    VerifierKey,
    decode_base64,
    encode_base64,
    open_checkpoint,
    open_checkpoint_with_policy,
    parse_decimal,
    read_checkpoint,
    without_strangers,
)
from ledger.replace import replace_file

PROOF_LINES_MAX = 63
REQUEST_CHARS_MAX = NOTE_BYTES_MAX + 4 * 1024
LOCK_WAIT_S = 5.0


class Request(msgspec.Struct, frozen=True):
    """An add-checkpoint request in parts, nothing verified but their form.

    `old_size` is what the log believes the witness has; `proof` is bytes[32] each; `note` is the signed checkpoint.
    """

    old_size: int
    proof: tuple[bytes, ...]
    note: str
    checkpoint: Checkpoint


class Witness:
    """Watches some logs and cosigns for them, with one key.

    Args:
        directory: its memory; must exist. A witness without its memory would sign anything: retire its key with it.
        signer: the witness's key.
        log_keys: the keys of the logs it watches; a key's name is the origin it may sign for. A log that changes its
            key: name both until it has signed with the new one.
        lock_wait_s: how long to wait while another thread or process handles the same log.
    Raises:
        LogMismatch: there is no such directory.
    Concurrency: any number of witnesses, threads and processes may share a directory and a key.
    """

    def __init__(
        self, directory: Path, signer: Signer, log_keys: Sequence[VerifierKey], lock_wait_s: float = LOCK_WAIT_S
    ) -> None:
        if not directory.is_dir():
            raise LogMismatch(
                "no such directory", where=str(directory), fix="Make it once; if it was lost, retire the witness's key."
            )
        self._directory = directory
        self._signer = signer
        self._log_keys = tuple(log_keys)
        self._lock_wait_s = lock_wait_s

    def add_checkpoint(self, request_text: str, now_s: int) -> str:
        """The cosignature line for a checkpoint that proves itself.

        1. parse: the text is a request.
        2. origin: the log is one of ours.
        3. signature: the log has signed the checkpoint.
        4. order: the old size is not the larger one.
        5. size: the old size is what we last cosigned.
        6. growth: the new tree is the old one, or grew out of it.
        7. store: what we are about to say is durable before it is said.

        Steps 5 to 7 are one: nobody else looks at this log's file between them. Otherwise two requests could both be
        checked against the old size, and the smaller be stored last.
        Args:
            now_s: Unix time in seconds, for the cosignature.
        Raises:
            CheckpointRefused: step 1 or 4; UnknownOrigin: 2; UnknownSigner: 3; SizeConflict: 5; NotConsistent and
                SplitView: 6. Nothing has changed.
            LedgerLocked, LedgerFull: step 5 or 7 could not be done; nothing has changed, try again.
            LedgerCorrupt: what we stored is not what we signed.
        Cost: four Ed25519 operations, about 0.5 ms, and two disk flushes.
        """
        request = parse_request(request_text)  # 1
        checkpoint = request.checkpoint
        keys = [key for key in self._log_keys if key.name == checkpoint.origin]
        if not keys:  # 2
            raise UnknownOrigin(
                f"{checkpoint.origin[:80]!r} is not watched here", where="origin", fix="Ask the witness to watch it."
            )
        _check_signature(request.note, keys)  # 3
        if request.old_size > checkpoint.tree_size:  # 4
            raise _refused(f"the old size {request.old_size} is larger than the new one {checkpoint.tree_size}")
        with self._locked(checkpoint.origin):
            _check_follows(self.latest(checkpoint.origin), request)  # 5, 6
            line = self._signer.cosign(checkpoint.text(), now_s)
            signed = without_strangers(request.note, keys) + line
            replace_file(self._file(checkpoint.origin), signed.encode())  # 7
        return line

    def latest(self, origin: str) -> Checkpoint:
        """What this witness last cosigned for a log; the empty tree if it never did.

        Raises:
            LedgerCorrupt: the file does not hold a checkpoint of this log with this witness's own cosignature.
        """
        file = self._file(origin)
        try:
            note = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Checkpoint(origin, 0, EMPTY_ROOT)
        except UnicodeDecodeError:
            raise _corrupt(file, "the file is not text") from None
        witness = self._signer.witness_key
        keys = tuple(key for key in self._log_keys if key.name == origin)
        try:
            return open_checkpoint_with_policy(note, Policy(keys, (witness,), 1)).checkpoint
        except ReceiptInvalid as error:
            raise _corrupt(file, error.what) from error

    def _file(self, origin: str) -> Path:
        return self._directory / f"{hashlib.sha256(origin.encode()).hexdigest()}.checkpoint"

    @contextmanager
    def _locked(self, origin: str) -> Iterator[None]:
        """Alone with a log's file, among all threads and processes."""
        descriptor = hold_lock(self._file(origin).with_suffix(".lock"), self._lock_wait_s)
        try:
            yield
        finally:
            os.close(descriptor)


def build_request(old_size: int, proof: Sequence[bytes], note: str) -> str:
    """A log's add-checkpoint request: the witness's last size, a consistency proof from it, a signed checkpoint."""
    return "\n".join([f"old {old_size}", *map(encode_base64, proof), "", note])


def parse_request(text: str) -> Request:
    """The parts of a request; strict, so that one request has one text.

    Raises:
        CheckpointRefused: too long, or any line is not what its place demands.
    """
    if len(text) > REQUEST_CHARS_MAX:
        raise _refused(f"more than {REQUEST_CHARS_MAX} characters")
    head, separator, note = text.partition("\n\n")
    first, *proof_lines = head.split("\n")
    if not separator or not first.startswith("old ") or len(proof_lines) > PROOF_LINES_MAX:
        raise _refused(f"a request is: old size, at most {PROOF_LINES_MAX} hashes, an empty line, a checkpoint")
    try:
        old_size = parse_decimal(first.removeprefix("old "))
        proof = tuple(decode_base64(line) for line in proof_lines)
        checkpoint = read_checkpoint(note)
    except ReceiptInvalid as error:
        raise _refused(error.what) from error
    if any(len(value) != HASH_BYTES for value in proof):
        raise _refused(f"a hash of the proof is not {HASH_BYTES} bytes")
    return Request(old_size, proof, note, checkpoint)


def _check_signature(note: str, keys: Sequence[VerifierKey]) -> None:
    try:
        open_checkpoint(note, keys)
    except ReceiptInvalid as error:
        raise UnknownSigner(error.what, where=error.where, fix="Sign with a key that the witness knows.") from error


def _check_follows(latest: Checkpoint, request: Request) -> None:
    """Steps 5 and 6: the request starts from `latest` and proves that its checkpoint is, or grew out of, that tree."""
    if request.old_size != latest.tree_size:
        raise SizeConflict(
            f"the old size {request.old_size} is not the {latest.tree_size} that was last cosigned",
            where="old size",
            fix="Send a proof from the size that was last cosigned.",
            size=latest.tree_size,
        )
    check_growth(latest, request.checkpoint, request.proof)


def _refused(what: str) -> CheckpointRefused:
    return CheckpointRefused(what, where="request", fix="Send what C2SP tlog-witness asks for.")


def _corrupt(file: Path, what: str) -> LedgerCorrupt:
    return LedgerCorrupt(what, where=str(file), fix="Put the file back as it was, or retire the witness and its key.")
