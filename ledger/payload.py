"""What lies beside an entry, bound to it by hash: content and metadata. It can be erased; proofs go on verifying.

An entry that names a payload comes with it: a content, by a length (`num_bytes`) above 0 of a kind that has content;
metadata, by a hash that is not zero. Where the content is kept elsewhere the length is 0. So what a shard has lost can
be told from what it never had (`ledger.fsck_payload`).
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, HASH_BYTES, KINDS_WITH_CONTENT, ZERO_HASH, Kind
from ledger.errors import EntryInvalid

META_BYTES_MAX = 16 * 1024
BATCH_BYTES_MAX = 64 * 1024 * 1024
"""Of all payloads of a batch together."""

_FIELDS: Any = ENTRY_DTYPE.fields
_PLACES: dict[str, int] = {name: _FIELDS[name][1] for name in ("num_bytes", "content_hash", "meta_hash")}
_NUM_BYTES = struct.Struct("<Q")
_WORD_BYTES = 8
_ZERO_WORD = bytes(_WORD_BYTES)
_KIND, _LENGTH, _META = _FIELDS["kind"][1], _PLACES["num_bytes"], _PLACES["meta_hash"]
_LENGTH_WORD, _META_WORD = _PLACES["num_bytes"] // _WORD_BYTES, _PLACES["meta_hash"] // _WORD_BYTES
_HASH_WORDS = HASH_BYTES // _WORD_BYTES
KINDS_WITH_PAYLOAD = frozenset(map(int, KINDS_WITH_CONTENT | {Kind.DECISION}))
"""Those whose length and hash are of a content that lies beside them."""

_NAMES_CONTENT = np.isin(np.arange(256), sorted(KINDS_WITH_PAYLOAD))  # by number of the kind

CONTENT, META = 1, 2
"""Which payloads: a sum of these."""

MetaValue = str | int | float


class Payload(msgspec.Struct, frozen=True):
    """Content and metadata to be stored with an entry; None for what there is not, or is kept elsewhere."""

    content: bytes | None = None
    meta: bytes | None = None

    @property
    def num_bytes(self) -> int:
        return len(self.content or b"") + len(self.meta or b"")

    @property
    def given(self) -> int:
        """Which there are: a sum of `CONTENT` and `META`."""
        return (CONTENT if self.content is not None else 0) | (META if self.meta is not None else 0)


@njit(nogil=True)
def _named_in(words: Any, names_content: Any) -> Any:
    out = np.zeros(len(words), np.uint8)
    for row in range(len(words)):
        kind = np.int64((words[row, 0] >> np.uint64(16)) & np.uint64(0xFF))
        if names_content[kind] and words[row, _LENGTH_WORD]:
            out[row] |= CONTENT
        for column in range(_META_WORD, _META_WORD + _HASH_WORDS):
            if words[row, column]:
                out[row] |= META
                break
    return out


def named_payloads(data: bytes | memoryview) -> NDArray[np.uint8]:
    """uint8[n], which payloads each of some entries (240 bytes each) names: a sum of `CONTENT` and `META`.

    Cost: 1 us, and 2 ns an entry.
    """
    words = np.frombuffer(memoryview(data).toreadonly(), np.uint64)  # of one type, so that there is one kernel
    named: NDArray[np.uint8] = _named_in(words.reshape(-1, ENTRY_BYTES // _WORD_BYTES), _NAMES_CONTENT)
    return named


def _named(data: bytes | memoryview) -> bytes:
    """`named_payloads`, a byte an entry; of one entry without a kernel, which would give up the interpreter.

    Callers who hand in an entry each, all at once (`ledger.group`), would each end the batch that gathers.
    """
    return bytes((_named_by(data),)) if len(data) == ENTRY_BYTES else named_payloads(data).tobytes()


def _named_by(data: bytes | memoryview) -> int:
    """Which payloads one entry names."""
    names_content = data[_KIND] in KINDS_WITH_PAYLOAD and data[_LENGTH : _LENGTH + _WORD_BYTES] != _ZERO_WORD
    return (CONTENT if names_content else 0) | (META if data[_META : _META + HASH_BYTES] != ZERO_HASH else 0)


def check_payloads(data: bytes | memoryview, payloads: Sequence[Payload] | None) -> None:
    """Check that payloads are what their entries (240 bytes each) say, by hash and by length, and that none is missing.

    Raises:
        EntryInvalid: one is not, or is missing, or there is not one for each entry.
    Cost: a hash for each content and metadata.
    """
    named = _named(data)
    if payloads is None:
        if named.count(0) < len(named):
            place = len(named) - len(named.lstrip(b"\0"))
            raise _missing(place, named[place])
        return
    if len(payloads) != len(named):
        raise _invalid("payloads", f"{len(payloads)} for {len(named)} entries")
    for place, (payload, names) in enumerate(zip(payloads, named, strict=True)):
        missing = names & ~payload.given
        if missing:
            raise _missing(place, missing)
        if payload.given:
            _check_given(data[place * ENTRY_BYTES : (place + 1) * ENTRY_BYTES], payload, place)


def _check_given(data: bytes | memoryview, payload: Payload, place: int) -> None:
    """Check the payload of one entry."""
    for name, blob in (("content_hash", payload.content), ("meta_hash", payload.meta)):
        begin = _PLACES[name]
        if blob is not None and hashlib.sha256(blob).digest() != data[begin : begin + HASH_BYTES]:
            raise _invalid(name, f"entry {place} does not name the hash of its payload")
    if payload.content is not None:
        (num_bytes,) = _NUM_BYTES.unpack_from(data, _PLACES["num_bytes"])
        if num_bytes != len(payload.content):
            raise _invalid("num_bytes", f"entry {place} does not name the length of its content")


def canonical_json(meta: dict[str, MetaValue]) -> bytes:
    """JSON with sorted keys and no spaces, of strings, 64-bit integers and finite floats: one text per value.

    Raises:
        EntryInvalid: another kind of value, or more than `META_BYTES_MAX` bytes.
    """
    for key, value in meta.items():
        if type(value) not in (str, int, float) or (type(value) is float and value - value != 0):
            raise _invalid(f"meta.{key}", f"{value!r} is not a string, an integer or a finite float")
    try:
        data = orjson.dumps(meta, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise _invalid("meta", str(error)) from None
    if len(data) > META_BYTES_MAX:
        raise _invalid("meta", f"{len(data)} bytes are more than {META_BYTES_MAX}")
    return data


def _missing(place: int, missing: int) -> EntryInvalid:
    if missing & CONTENT:
        return EntryInvalid(
            f"entry {place} names the length of a content that does not come with it",
            where="num_bytes",
            fix="Give the content, or set the length to 0 where the content is kept elsewhere.",
        )
    return EntryInvalid(
        f"entry {place} names the hash of metadata that does not come with it",
        where="meta_hash",
        fix="Give the metadata, or leave meta_hash zero.",
    )


def _invalid(field: str, what: str) -> EntryInvalid:
    return EntryInvalid(what, where=field, fix="Correct the item and append it again.")
