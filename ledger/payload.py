"""What lies beside an entry, bound to it by hash: content and metadata. It can be erased; proofs go on verifying."""

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from ledger.entry import ENTRY_BYTES, ENTRY_DTYPE, HASH_BYTES
from ledger.errors import EntryInvalid

META_BYTES_MAX = 16 * 1024
BATCH_BYTES_MAX = 64 * 1024 * 1024
"""Of all payloads of a batch together."""

_FIELDS: Any = ENTRY_DTYPE.fields
_PLACES: dict[str, int] = {name: _FIELDS[name][1] for name in ("num_bytes", "content_hash", "meta_hash")}
_NUM_BYTES = struct.Struct("<Q")

MetaValue = str | int | float


class Payload(msgspec.Struct, frozen=True):
    """Content and metadata to be stored with an entry; None for what there is not, or is kept elsewhere."""

    content: bytes | None = None
    meta: bytes | None = None

    @property
    def num_bytes(self) -> int:
        return len(self.content or b"") + len(self.meta or b"")


def check_payloads(data: bytes | memoryview, payloads: Sequence[Payload]) -> None:
    """Check that payloads are what their entries (240 bytes each) say, by hash and by length.

    Raises:
        EntryInvalid: one is not, or there is not one for each entry.
    Cost: a hash for each content and metadata.
    """
    if len(payloads) * ENTRY_BYTES != len(data):
        raise _invalid("payloads", f"{len(payloads)} for {len(data) // ENTRY_BYTES} entries")
    for place, payload in enumerate(payloads):
        row = place * ENTRY_BYTES
        for name, blob in (("content_hash", payload.content), ("meta_hash", payload.meta)):
            if blob is not None:
                begin = row + _PLACES[name]
                if hashlib.sha256(blob).digest() != data[begin : begin + HASH_BYTES]:
                    raise _invalid(name, f"entry {place} does not name the hash of its payload")
        if payload.content is not None:
            (num_bytes,) = _NUM_BYTES.unpack_from(data, row + _PLACES["num_bytes"])
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


def _invalid(field: str, what: str) -> EntryInvalid:
    return EntryInvalid(what, where=field, fix="Correct the item and append it again.")
