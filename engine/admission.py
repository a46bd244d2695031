"""Admission: from bytes somebody sent to a request the engine will stand by, or one clear error.

The same rules for HTTP, Python and Serve handles, because all of them come through here.
"""

import hashlib
import math
import unicodedata
import uuid
from collections.abc import Collection
from typing import Annotated, Any, TypeVar

import msgspec

from engine.errors import InvalidRequest, NotFound
from engine.request import ASSET_ID_BYTES, BRIEF_BYTES_MAX, VALUE_MICROS_MAX, AssetRequest, Brief, Name
from engine.tiers import TERMS, Tier

FACT_CHARS_MAX = 200
NOT_PLAIN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})  # Unicode categories
STYLE_CHARS_MAX = 500
NUM_FACTS_MAX = 32
DEADLINE_MS_MAX = 10**14  # the year 5138; an integer of any length would not fit a timeout
FACT_NAME = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$(?!\n)")]
IDEMPOTENCY_KEY = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
R = TypeVar("R")


class RequestBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request as a client writes it; what it leaves out comes from its tier.

    `value_micros` is what an on-time asset is worth, in millionths of the currency; `deadline_ms` is Unix time in
    milliseconds. Two bodies that differ only in `idempotency_key` are the same request.
    """

    brief: Brief
    tier: Tier = Tier.STANDARD
    value_micros: int | None = None
    deadline_ms: Annotated[int, msgspec.Meta(ge=0, le=DEADLINE_MS_MAX)] | None = None
    tenant: Name = "public"
    idempotency_key: IDEMPOTENCY_KEY | None = None


decoder = msgspec.json.Decoder(RequestBody)


def decode(data: bytes) -> RequestBody:
    """The body of a request from JSON; see `decoded`."""
    return decoded(data, decoder)


def decoded(data: bytes, decoder: msgspec.json.Decoder[R]) -> R:
    """What a client wrote as JSON.

    Raises:
        InvalidRequest: not JSON, or not of this form; `where` is the path of the field.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise malformed(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"the body is not JSON: {error}", where="body", fix="Send one JSON object, UTF-8, as in /docs."
        ) from error


def convert(data: Any) -> RequestBody:
    """The body of a request from a Python mapping; see `converted`."""
    return converted(data, RequestBody)


def converted(data: Any, kind: type[R]) -> R:
    """What a client wrote as a Python mapping; as `decoded`."""
    try:
        body = msgspec.convert(data, kind)
        msgspec.json.encode(body)  # a string of Python, unlike one of JSON, can hold half a character
    except msgspec.ValidationError as error:
        raise malformed(error) from error
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{error.object[:64]!r} is not Unicode text", where="body", fix="Send text without lone surrogates."
        ) from error
    return body


def malformed(error: msgspec.ValidationError) -> InvalidRequest:
    """msgspec says `what - at $.path`; we keep the two apart."""
    what, _, path = str(error).partition(" - at `")
    where = path.rstrip("`").removeprefix("$").removeprefix(".") or "body"
    if "tier" in where:
        what += f" (tiers: {', '.join(Tier)})"
    return InvalidRequest(what, where=where, fix="Send the field as the API's schema says (see /docs).")


def admit(body: RequestBody, *, now_ms: int, policies: Collection[str], models: Collection[str]) -> AssetRequest:
    """A request the engine will stand by, with defaults filled in.

    Raises:
        InvalidRequest: a rule is broken; nothing was started.
        NotFound: no such policy or model.
    """
    check_brief(body.brief)
    terms = TERMS[body.tier]
    value_micros = terms.value_micros if body.value_micros is None else body.value_micros
    if not 0 <= value_micros <= VALUE_MICROS_MAX:
        raise InvalidRequest(
            f"{value_micros} is not between 0 and {VALUE_MICROS_MAX}",
            where="value_micros",
            fix="Send what an on-time asset is worth in millionths of the currency.",
        )
    deadline_ms = now_ms + terms.deadline_ms if body.deadline_ms is None else body.deadline_ms
    if deadline_ms <= now_ms:
        raise InvalidRequest(
            f"the deadline is {math.ceil((now_ms - deadline_ms) / 1000)} s in the past",
            where="deadline_ms",
            fix="Send Unix time in milliseconds, later than now, or leave it out.",
        )
    if body.brief.policy not in policies:
        raise NotFound(
            f"no policy is called {body.brief.policy!r}",
            where="brief.policy",
            fix=f"Use one of: {', '.join(sorted(policies))}.",
        )
    if body.brief.model is not None and body.brief.model not in models:
        raise NotFound(
            f"no model is called {body.brief.model!r}",
            where="brief.model",
            fix=f"Use one of: {', '.join(sorted(models))}, or leave it out.",
        )
    return AssetRequest(
        asset_id=asset_id(body.tenant, body.idempotency_key or uuid.uuid4().hex),
        tenant=body.tenant,
        brief=body.brief,
        tier=body.tier,
        value_micros=value_micros,
        deadline_ms=deadline_ms,
        created_ms=now_ms,
        body_hash=body_hash(body),
    )


def check_brief(brief: Brief) -> None:
    """The rules of a brief that its types cannot say."""
    num_bytes = len(msgspec.json.encode(brief))
    if num_bytes > BRIEF_BYTES_MAX:
        raise InvalidRequest(
            f"the brief has {num_bytes} bytes, at most {BRIEF_BYTES_MAX} are taken",
            where="brief",
            fix="Send fewer or shorter facts.",
        )
    if not 1 <= len(brief.facts) <= NUM_FACTS_MAX:
        raise InvalidRequest(
            f"{len(brief.facts)} facts; 1 to {NUM_FACTS_MAX} are taken",
            where="brief.facts",
            fix="Send at least the article, as in {'article': 'Scarf', 'colour': 'Teal'}.",
        )
    for name, value in brief.facts.items():
        try:
            msgspec.convert(name, FACT_NAME)
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"{name!r} is no name of a fact",
                where="brief.facts",
                fix="Use lower-case letters, digits and underscores, at most 32.",
            ) from error
        check_text(value, where=f"brief.facts.{name}", chars_max=FACT_CHARS_MAX, may_be_empty=False)
    check_text(brief.style, where="brief.style", chars_max=STYLE_CHARS_MAX, may_be_empty=True)


def check_text(text: str, *, where: str, chars_max: int, may_be_empty: bool) -> None:
    """No control characters, chat markup or line breaks that could pass for instructions; a sane length."""
    if not text.strip() and not may_be_empty:
        raise InvalidRequest("the text is empty", where=where, fix="Send a value, or leave the fact out.")
    if len(text) > chars_max:
        raise InvalidRequest(
            f"{len(text)} characters, at most {chars_max} are taken", where=where, fix="Shorten the text."
        )
    bad = control_character(text)
    if bad is not None:
        raise InvalidRequest(
            f"control character U+{ord(text[bad]):04X} at position {bad}",
            where=where,
            fix="Send plain text in one line.",
        )
    if has_markup(text):
        raise InvalidRequest("chat markup in the text", where=where, fix="Send the fact without '<|' and '|>'.")


def control_character(text: str) -> int | None:
    """Where the first character is that a line of plain text does not have: controls, invisible marks, line breaks."""
    return next((place for place, char in enumerate(text) if unicodedata.category(char) in NOT_PLAIN), None)


def has_markup(text: str) -> bool:
    """Whether it could end the brief's turn in a model's chat."""
    return "<|" in text or "|>" in text


def asset_id(tenant: str, idempotency_key: str) -> str:
    """The id of the one asset a tenant can get for a key: the same in every process, so that a repeat finds it."""
    digest = hashlib.sha256(b"mintage asset id v1\0" + tenant.encode() + b"\0" + idempotency_key.encode())
    return digest.hexdigest()[: 2 * ASSET_ID_BYTES]


def body_hash(body: RequestBody) -> bytes:
    """SHA-256 of what makes two requests the same: everything the client sent but the key."""
    return hashlib.sha256(
        msgspec.json.encode(msgspec.structs.replace(body, idempotency_key=None), order="sorted")
    ).digest()
