"""What lies beside an entry, bound to it by hash: content and metadata. It can be erased; every proof goes on verifying."""

import msgspec
import orjson

from ledger.errors import EntryInvalid

META_BYTES_MAX = 16 * 1024

MetaValue = str | int | float


class Payload(msgspec.Struct, frozen=True):
    """Content and metadata to be stored with an entry; None for what there is not, or is kept elsewhere."""

    content: bytes | None = None
    meta: bytes | None = None


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
