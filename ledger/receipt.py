"""Receipts: what a third party needs, and all it needs beside a public key, to check that an entry is in the ledger.

The text is a C2SP tlog-proof, so tools that we did not write can check it too:

    c2sp.org/tlog-proof@v1
    extra <base64 of the entry's canonical bytes>
    index <decimal>
    <base64 of a sibling hash>        (none or more, from the leaf up)

    <the signed checkpoint, to the end>
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ledger.entry import Entry, decode
from ledger.errors import LedgerError, ReceiptInvalid
from ledger.log import shard_of_origin
from ledger.merkle import LEVELS_MAX, leaf_hash, verify_inclusion
from ledger.note import (
    NOTE_BYTES_MAX,
    Checkpoint,
    Policy,
    Witnessed,
    decode_base64,
    encode_base64,
    open_checkpoint_with_policy,
    open_note,
    parse_checkpoint,
    parse_decimal,
    parse_verifier_key,
)

HEADER = "c2sp.org/tlog-proof@v1"
RECEIPT_BYTES_MAX = NOTE_BYTES_MAX + 4 * 1024
VERIFIER_KEYS_MAX = 1024


class Receipt(msgspec.Struct, frozen=True):
    """A receipt in parts, nothing verified. `proof` is bytes[32] each; `checkpoint` is the signed note."""

    entry_bytes: bytes
    index: int
    proof: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        lines = [HEADER, f"extra {encode_base64(self.entry_bytes)}", f"index {self.index}"]
        lines += [encode_base64(sibling) for sibling in self.proof]
        return "\n".join([*lines, "", self.checkpoint])


class Verified(msgspec.Struct, frozen=True):
    """What a receipt has proved: this entry is at this index of the tree that its log has signed."""

    entry: Entry
    origin: str
    index: int
    tree_size: int
    root: bytes


def parse(text: str) -> Receipt:
    """The parts of a receipt; strict, so that one receipt has one text.

    Raises:
        ReceiptInvalid: too long, or any line is not what its place demands.
    """
    if len(text) > RECEIPT_BYTES_MAX:
        raise _invalid(f"more than {RECEIPT_BYTES_MAX} bytes", "receipt")
    head, separator, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != HEADER or not 3 <= len(lines) <= 3 + LEVELS_MAX:
        raise _invalid(f"a receipt is {HEADER}, extra, index, hashes, an empty line and a checkpoint", "receipt")
    return Receipt(
        entry_bytes=decode_base64(_value_of(lines[1], "extra ")),
        index=parse_decimal(_value_of(lines[2], "index ")),
        proof=tuple(decode_base64(line) for line in lines[3:]),
        checkpoint=checkpoint,
    )


def verify(text: str, verifier_keys: Sequence[str], content: bytes | None = None) -> Verified:
    """Check a receipt offline, trusting nothing but the verifier keys.

    1. parse: the text is a receipt.
    2. signature: the checkpoint is signed by one of the keys, and by none of them badly.
    3. origin: the checkpoint names that key as its origin, and the origin is a shard's.
    4. leaf: the entry is in canonical form; its bytes are the leaf.
    5. inclusion: the leaf is at the index of the signed tree.
    6. shard: the entry says it belongs to the shard that signed.
    7. content: where given, it has the entry's hash, and its length if it names one.

    Args:
        verifier_keys: lines of `verifier.keys`, got from the log by a way that you trust.
    Raises:
        ReceiptInvalid: `where` names the step that failed, `what` says why.
    Cost: about 0.2 ms, nearly all of it the signature.
    """
    with _step("1 parse"):
        receipt = parse(text)
    with _step("2 signature"):
        if len(verifier_keys) > VERIFIER_KEYS_MAX:
            raise _invalid(f"more than {VERIFIER_KEYS_MAX} verifier keys", "verifier keys")
        note_text, signed_by = open_note(receipt.checkpoint, [parse_verifier_key(key) for key in verifier_keys])
    with _step("3 origin"):
        checkpoint = parse_checkpoint(note_text)
        if checkpoint.origin not in signed_by:
            raise _invalid(f"{checkpoint.origin} has not signed the checkpoint", "checkpoint")
    return check_entry(receipt, checkpoint, content)


def verify_with_policy(text: str, policy: Policy, content: bytes | None = None) -> tuple[Verified, Witnessed]:
    """Check a receipt offline as `verify` does, but against a policy: with it, at least so many witnesses have to have
    cosigned the checkpoint. Steps 2 and 3 are one here; the others are the same.

    Returns:
        What was proved, and the checkpoint with the witnesses' cosignatures, which say when.
    Raises:
        ReceiptInvalid: `where` names the step that failed, `what` says why.
    """
    with _step("1 parse"):
        receipt = parse(text)
    with _step("2 policy"):
        witnessed = open_checkpoint_with_policy(receipt.checkpoint, policy)
    return check_entry(receipt, witnessed.checkpoint, content), witnessed


def check_entry(receipt: Receipt, checkpoint: Checkpoint, content: bytes | None = None) -> Verified:
    """What is left of `verify`'s steps, from the shard's number in the origin on, with a checkpoint that is believed.

    Raises:
        ReceiptInvalid: `where` names the step that failed, `what` says why.
    """
    with _step("3 origin"):
        shard = shard_of_origin(checkpoint.origin)
    with _step("4 leaf"):
        entry = decode(receipt.entry_bytes)
        leaf = leaf_hash(receipt.entry_bytes)
    with _step("5 inclusion"):
        verify_inclusion(receipt.index, checkpoint.tree_size, leaf, receipt.proof, checkpoint.root)
    with _step("6 shard"):
        if entry.shard != shard:
            raise _invalid(f"an entry of shard {entry.shard} in the log of shard {shard}", "entry")
    with _step("7 content"):
        if content is not None:
            _check_content(entry, content)
    return Verified(entry, checkpoint.origin, receipt.index, checkpoint.tree_size, checkpoint.root)


def _check_content(entry: Entry, content: bytes) -> None:
    """An entry whose content is kept elsewhere names no length; the hash alone tells."""
    has_length = entry.num_bytes in (0, len(content))
    if not has_length or hashlib.sha256(content).digest() != entry.content_hash:
        raise _invalid("the content is not the one that was recorded", "content")


def _value_of(line: str, start: str) -> str:
    if not line.startswith(start):
        raise _invalid(f"a line does not start with {start.rstrip()!r}", "receipt")
    return line.removeprefix(start)


@contextmanager
def _step(step: str) -> Iterator[None]:
    """Name the verification step in whatever is raised inside it."""
    try:
        yield
    except LedgerError as error:
        raise ReceiptInvalid(error.what, where=f"step {step}, {error.where}", fix=error.fix) from error


def _invalid(what: str, where: str) -> ReceiptInvalid:
    return ReceiptInvalid(what, where=where, fix="Do not trust it; ask the log for a new receipt.")
