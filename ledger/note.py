"""Signed notes, checkpoints and cosignatures, as C2SP signed-note, tlog-checkpoint and tlog-cosignature define them.

All signatures are Ed25519. A log's (algorithm 0x01) is over the note's text; a witness's (0x04) is over the time and
the text, and says that at that time this was the largest tree it had seen of the log, and that it grew out of all
earlier ones. The two kinds of key are two types, so that nobody's witness passes for a log.
Parsing is strict: one text has one meaning, every number and base64 string one spelling, and every size a limit.
The secret key string has the form of golang.org/x/mod/sumdb/note (`PRIVATE+KEY+name+id+base64`), because the tools
that read these notes read those keys.
Turned down: JWS and COSE. No transparency-log tool verifies them, and both let the message choose the algorithm.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import KeyInvalid, ReceiptInvalid
from ledger.merkle import HASH_BYTES

ALGORITHM_ED25519 = b"\x01"
ALGORITHM_COSIGNATURE = b"\x04"
KEY_BYTES = 32
KEY_ID_BYTES = 4
TIME_BYTES = 8
TIME_S_MAX = 2**63 - 1
NAME_CHARS_MAX = 255
NOTE_BYTES_MAX = 256 * 1024
SIGNATURES_MAX = 32
"""signed-note asks for at least 16, and warns of post-quantum signatures of 5 kB: both fit."""

_SIGNATURE_START = "\u2014 "
_SECRET_START = "PRIVATE+KEY+"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


class VerifierKey(msgspec.Struct, frozen=True):
    """Whom to believe: a key's name, its id (bytes[4]) and the Ed25519 public key (bytes[32])."""

    name: str
    key_id: bytes
    public_key: bytes

    def __str__(self) -> str:
        encoded = encode_base64(ALGORITHM_ED25519 + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


class WitnessKey(msgspec.Struct, frozen=True):
    """Whose cosignatures to believe: a witness's name, its key's id (bytes[4]) and Ed25519 public key (bytes[32])."""

    name: str
    key_id: bytes
    public_key: bytes

    def __str__(self) -> str:
        encoded = encode_base64(ALGORITHM_COSIGNATURE + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


_Key = TypeVar("_Key", VerifierKey, WitnessKey)


class Checkpoint(msgspec.Struct, frozen=True):
    """A log's commitment: its origin, how many entries it has, and the Merkle root (bytes[32]) over them."""

    origin: str
    tree_size: int
    root: bytes

    def text(self) -> str:
        """The note text that is signed."""
        return f"{self.origin}\n{self.tree_size}\n{encode_base64(self.root)}\n"


class Cosignature(msgspec.Struct, frozen=True):
    """A verified statement of a witness: its name, and when it made it (Unix time in seconds)."""

    name: str
    time_s: int


class Witnessed(msgspec.Struct, frozen=True):
    """A checkpoint that satisfied a policy, with every cosignature of the policy's witnesses."""

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]


class Policy(msgspec.Struct, frozen=True):
    """Whom a verifier believes: any of the logs' keys, and with it at least `threshold` of the witnesses.

    Raises:
        KeyInvalid: more are asked for than there are, or two witnesses share a name or a key. What a witness signs does
            not hold its name, so one key under two names would count twice.
    """

    log_keys: tuple[VerifierKey, ...]
    witness_keys: tuple[WitnessKey, ...] = ()
    threshold: int = 0

    def __post_init__(self) -> None:
        num_witnesses = len(self.witness_keys)
        if not 0 <= self.threshold <= num_witnesses:
            raise _bad_key(f"{self.threshold} of {num_witnesses} witnesses cannot be asked for")
        names, public_keys = {key.name for key in self.witness_keys}, {key.public_key for key in self.witness_keys}
        if not len(names) == len(public_keys) == num_witnesses:
            raise _bad_key("two witnesses of the policy share a name or a key")


class Signer:
    """A named Ed25519 key, a log's that signs notes or a witness's that cosigns them; use no key for both.

    Never printed with its secret, never pickled.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        check_name(name)
        if len(seed) != KEY_BYTES:
            raise _bad_key(f"the seed has {len(seed)} bytes instead of {KEY_BYTES}")
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._private.public_key().public_bytes_raw()
        self.key = VerifierKey(name, _key_id(name, ALGORITHM_ED25519, public), public)
        self.witness_key = WitnessKey(name, _key_id(name, ALGORITHM_COSIGNATURE, public), public)

    @property
    def name(self) -> str:
        return self.key.name

    def renamed(self, name: str) -> "Signer":
        """The same key under another name, and therefore another key id."""
        return Signer(name, self._seed)

    def secret(self) -> str:
        """`PRIVATE+KEY+name+id+base64`: who has it can sign as this log."""
        encoded = encode_base64(ALGORITHM_ED25519 + self._seed)
        return f"{_SECRET_START}{self.name}+{self.key.key_id.hex()}+{encoded}"

    def sign(self, text: str) -> str:
        """The signed note of a text that ends in a newline. Cost: one signature, about 40 us."""
        assert text.endswith("\n"), "a note's text ends in a newline"
        return f"{text}\n{self._line(self.key.key_id + self._private.sign(text.encode()))}"

    def cosign(self, text: str, time_s: int) -> str:
        """The cosignature line, with its newline, of a checkpoint's text; `time_s` is Unix time in seconds."""
        assert 0 <= time_s <= TIME_S_MAX, time_s
        signature = self._private.sign(_cosigned_message(text, time_s))
        return self._line(self.witness_key.key_id + time_s.to_bytes(TIME_BYTES, "big") + signature)

    def _line(self, data: bytes) -> str:
        return f"{_SIGNATURE_START}{self.name} {encode_base64(data)}\n"


def parse_secret(text: str) -> Signer:
    """The signer of a secret key string.

    Raises:
        KeyInvalid: it is none, or its id is not that of its key.
    """
    if not text.startswith(_SECRET_START):
        raise _bad_key(f"the text does not start with {_SECRET_START}")
    name, key_id, seed = _parse_key(text.removeprefix(_SECRET_START), ALGORITHM_ED25519)
    signer = Signer(name, seed)
    if signer.key.key_id != key_id:
        raise _bad_key("the id is not that of the key")
    return signer


def parse_verifier_key(text: str) -> VerifierKey:
    """The key of `name+hex8(id)+base64(algorithm and public key)`.

    Raises:
        KeyInvalid: it is none, its algorithm is not Ed25519, or its id is not that of its key.
    """
    name, key_id, public = _parse_key(text, ALGORITHM_ED25519)
    if _key_id(name, ALGORITHM_ED25519, public) != key_id:
        raise _bad_key("the id is not that of the key")
    return VerifierKey(name, key_id, public)


def parse_witness_key(text: str) -> WitnessKey:
    """The key of a witness: as a verifier key, with the algorithm of cosignatures.

    Raises:
        KeyInvalid: it is none, its algorithm is another, or its id is not that of its key.
    """
    name, key_id, public = _parse_key(text, ALGORITHM_COSIGNATURE)
    if _key_id(name, ALGORITHM_COSIGNATURE, public) != key_id:
        raise _bad_key("the id is not that of the key")
    return WitnessKey(name, key_id, public)


def open_note(note: str, keys: Sequence[VerifierKey]) -> tuple[str, frozenset[str]]:
    """The text of a note and the names of the known keys that signed it (at least one).

    Signatures of unknown keys are ignored; a bad signature of a known key condemns the note.
    Raises:
        ReceiptInvalid: malformed, badly signed, or signed by no known key.
    Cost: one verification, about 130 us, for each signature of a known key.
    """
    text, lines = _split_note(note)
    signed_by = set()
    for key, signature, _ in _known(lines, keys):
        _verify_signature(key, signature, text.encode())
        signed_by.add(key.name)
    if not signed_by:
        raise _bad_note("no known key has signed the note")
    return text, frozenset(signed_by)


def open_checkpoint(note: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """The checkpoint in a note that a known key has signed under the checkpoint's own origin.

    Raises:
        ReceiptInvalid: the note does not open, holds no checkpoint, or is signed under other names only.
    """
    text, signed_by = open_note(note, keys)
    checkpoint = parse_checkpoint(text)
    if checkpoint.origin not in signed_by:
        raise _bad_note(f"the origin {checkpoint.origin} has not signed it")
    return checkpoint


def open_checkpoint_with_policy(note: str, policy: Policy) -> Witnessed:
    """The checkpoint in a note that a log and enough witnesses have signed.

    Raises:
        ReceiptInvalid: `open_checkpoint` refuses it, a cosignature of a known witness is bad, or too few have cosigned;
            `what` names those that are missing.
    Cost: one verification, about 130 us, for each signature of a known key.
    """
    checkpoint = open_checkpoint(note, policy.log_keys)
    text, lines = _split_note(note)
    found = tuple(_verify_cosignature(key, signature, text) for key, signature, _ in _known(lines, policy.witness_keys))
    names = {cosignature.name for cosignature in found}
    if len(names) < policy.threshold:
        missing = ", ".join(key.name for key in policy.witness_keys if key.name not in names)
        raise _bad_note(f"{len(names)} of the {policy.threshold} witnesses needed have cosigned it; missing: {missing}")
    return Witnessed(checkpoint, found)


def add_cosignatures(note: str, lines: str, keys: Sequence[WitnessKey]) -> str:
    """The note with those of a witness's lines that are cosignatures of known keys; other lines are dropped.

    Raises:
        ReceiptInvalid: one of a known key is bad, none is of a known key, or there are too many for a note.
    """
    text, own = _split_note(note)
    joined_text, joined = _split_note(note + lines)
    if joined_text != text:
        raise _bad_note("more than signature lines")
    kept = []
    for key, signature, line in _known(joined[len(own) :], keys):
        _verify_cosignature(key, signature, text)
        kept.append(f"{line}\n")
    if not kept:
        raise _bad_note("no known witness has cosigned the note")
    return note + "".join(kept)


def is_signed_with(note: str, key: VerifierKey) -> bool:
    """Whether a note has a signature line of a key. Does not verify it.

    Raises:
        ReceiptInvalid: malformed.
    """
    return any(_known(_split_note(note)[1], [key]))


def without_strangers(note: str, keys: Sequence[VerifierKey]) -> str:
    """The note with one signature line of each of these keys that has any, the last. Verifies none of them.

    Raises:
        ReceiptInvalid: malformed.
    """
    text, lines = _split_note(note)
    kept = {key: line for key, _, line in _known(lines, keys)}
    return f"{text}\n" + "".join(f"{line}\n" for line in kept.values())


def read_checkpoint(note: str) -> Checkpoint:
    """What a note claims, before or without verifying any signature.

    Raises:
        ReceiptInvalid: malformed, in its signature lines too, or no checkpoint.
    """
    text, lines = _split_note(note)
    for line in lines:
        _parse_signature(line)
    return parse_checkpoint(text)


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint of a note's text: exactly three lines, no extensions.

    Raises:
        ReceiptInvalid: anything else.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise _bad_note("a checkpoint is three lines: origin, tree size, root hash")
    root = decode_base64(lines[2])
    if len(root) != HASH_BYTES:
        raise _bad_note(f"the root has {len(root)} bytes instead of {HASH_BYTES}")
    return Checkpoint(lines[0], parse_decimal(lines[1]), root)


def parse_decimal(text: str) -> int:
    """A decimal number below 10^19 in its one spelling: ASCII digits, no leading zero.

    Raises:
        ReceiptInvalid: any other spelling.
    """
    if _DECIMAL.fullmatch(text) is None:
        raise _bad_note(f"{text[:24]!r} is not a decimal number")
    return int(text)


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 string in its one spelling: standard alphabet, padded, spare bits zero.

    Raises:
        ReceiptInvalid: any other spelling.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_note(f"not base64: {error}") from None
    if encode_base64(data) != text:
        raise _bad_note("base64 in another than its canonical spelling")
    return data


def check_name(name: str) -> None:
    """Refuse what cannot be a key name: empty, too long, or with a space, a plus or a control character.

    Raises:
        KeyInvalid: the name is one of these.
    """
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable() or any(c.isspace() or c == "+" for c in name):
        raise _bad_key(f"{name[:40]!r} cannot be a key name")


def _split_note(note: str) -> tuple[str, list[str]]:
    """The text, and the signature lines without their newlines."""
    if len(note) > NOTE_BYTES_MAX or len(note.encode(errors="replace")) > NOTE_BYTES_MAX:
        raise _bad_note(f"more than {NOTE_BYTES_MAX} bytes")
    if any((c < " " and c != "\n") or "\ud800" <= c <= "\udfff" for c in note):
        raise _bad_note("a control character, or text that is not UTF-8")
    text, separator, signatures = note.rpartition("\n\n")
    lines = signatures.split("\n")
    if not separator or lines.pop() or not 0 < len(lines) <= SIGNATURES_MAX:
        raise _bad_note(f"a note is a text, an empty line and 1 to {SIGNATURES_MAX} signature lines")
    return text + "\n", lines


def _parse_signature(line: str) -> tuple[str, bytes, bytes]:
    """Key name, key id and signature of a signature line."""
    name, separator, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not line.startswith(_SIGNATURE_START) or not separator or not name:
        raise _bad_note("a signature line is: em dash, space, key name, space, base64")
    data = decode_base64(encoded)
    if len(data) <= KEY_ID_BYTES:
        raise _bad_note("a signature line without a signature")
    return name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:]


def _known(lines: Sequence[str], keys: Sequence[_Key]) -> Iterator[tuple[_Key, bytes, str]]:
    """The signature lines of known keys: key, signature, line. Every line must be well-formed, known or not."""
    known = {(key.name, key.key_id): key for key in keys}
    for line in lines:
        name, key_id, signature = _parse_signature(line)
        key = known.get((name, key_id))
        if key is not None:
            yield key, signature, line


def _cosigned_message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _verify_cosignature(key: WitnessKey, signature: bytes, text: str) -> Cosignature:
    time_s = int.from_bytes(signature[:TIME_BYTES], "big")
    if time_s > TIME_S_MAX:
        raise _bad_note(f"the cosignature of {key.name} is of no time")
    _verify_signature(key, signature[TIME_BYTES:], _cosigned_message(text, time_s))
    return Cosignature(key.name, time_s)


def _verify_signature(key: VerifierKey | WitnessKey, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except InvalidSignature:
        raise _bad_note(f"the signature of {key.name} is not of this text") from None


def _parse_key(text: str, algorithm: bytes) -> tuple[str, bytes, bytes]:
    """Name, key id and the 32 key bytes of `name+hex8+base64`; the caller checks that the id belongs to the key."""
    parts = text.split("+", 2)  # base64 may hold a plus of its own
    if len(parts) != 3 or re.fullmatch("[0-9a-f]{8}", parts[1]) is None:
        raise _bad_key("a key string is: name, plus, eight hex digits, plus, base64")
    check_name(parts[0])
    try:
        data = decode_base64(parts[2])
    except ReceiptInvalid as error:
        raise _bad_key(error.what) from None
    if len(data) != 1 + KEY_BYTES or data[:1] != algorithm:
        raise _bad_key(f"the key is not one of algorithm 0x{algorithm.hex()} and {KEY_BYTES} bytes")
    return parts[0], bytes.fromhex(parts[1]), data[1:]


def _key_id(name: str, algorithm: bytes, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + algorithm + public_key).digest()[:KEY_ID_BYTES]


def _bad_note(what: str) -> ReceiptInvalid:
    return ReceiptInvalid(what, where="signed note", fix="Do not trust it; ask the log for it again.")


def _bad_key(what: str) -> KeyInvalid:
    return KeyInvalid(what, where="key", fix="Give the key string exactly as the log published it.")
