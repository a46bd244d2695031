"""Admission: what anybody may send, and the one clear error for what they may not."""

from typing import Any

import msgspec
import pytest
from briefs import FACTS, NOW_MS
from hypothesis import given
from hypothesis import strategies as st

from engine.admission import (
    DEADLINE_MS_MAX,
    FACT_CHARS_MAX,
    NUM_FACTS_MAX,
    STYLE_CHARS_MAX,
    RequestBody,
    admit,
    body_hash,
    convert,
    decode,
)
from engine.errors import InvalidRequest, NotFound
from engine.request import BRIEF_BYTES_MAX, VALUE_MICROS_MAX, AssetRequest
from engine.tiers import TERMS, Tier


def sent(**fields: Any) -> dict[str, Any]:
    return {"brief": {"facts": dict(FACTS)}} | fields


def with_brief(**fields: Any) -> dict[str, Any]:
    return {"brief": {"facts": dict(FACTS)} | fields}


def with_facts(facts: Any) -> dict[str, Any]:
    return {"brief": {"facts": facts}}


def admitted(data: Any, now_ms: int = NOW_MS) -> AssetRequest:
    body = decode(data) if isinstance(data, bytes) else convert(data)
    return admit(body, now_ms=now_ms, policies=["default", "luxury"], models=["reference"])


def refused(data: Any, kind: type[InvalidRequest | NotFound] = InvalidRequest) -> tuple[str, str]:
    """Where and what of the error; it always says what to do."""
    with pytest.raises(kind) as caught:
        admitted(data)
    assert type(caught.value) is kind
    assert caught.value.body.fix.endswith(".")
    return caught.value.body.where, caught.value.body.what


@pytest.mark.parametrize("tier", list(Tier))
def test_what_a_request_leaves_out_comes_from_its_tier(tier: Tier) -> None:
    request = admitted(sent(tier=tier.value))
    assert (request.tier, request.tenant, request.created_ms) == (tier, "public", NOW_MS)
    assert request.value_micros == TERMS[tier].value_micros
    assert request.deadline_ms == NOW_MS + TERMS[tier].deadline_ms
    assert (request.brief.kind, request.brief.policy, request.brief.model) == ("text", "default", None)


def test_what_a_request_says_is_kept() -> None:
    request = admitted(sent(tier="flex", value_micros=0, deadline_ms=NOW_MS + 1, tenant="acme"))
    assert (request.tier, request.value_micros, request.deadline_ms, request.tenant) == (
        Tier.FLEX,
        0,
        NOW_MS + 1,
        "acme",
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"scarf",
        b"\xff\xfe\x00",
        b'{"brief": {"facts": {"article": "\xff"}}}',
        b'{"brief": NaN}',
        b'"\\ud800"',
    ],
)
def test_what_is_not_json_is_refused_as_the_body(data: bytes) -> None:
    assert refused(data)[0] == "body"


@pytest.mark.parametrize("data", [b"[]", b"null", b"7", b'"brief"', b"{}"])
def test_json_that_is_no_request_is_refused_as_the_body(data: bytes) -> None:
    assert refused(data)[0] == "body"


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (sent(tier=1), "tier"),
        (sent(value_micros="much"), "value_micros"),
        (sent(value_micros=1.5), "value_micros"),
        (sent(deadline_ms="soon"), "deadline_ms"),
        (sent(tenant=7), "tenant"),
        (sent(tenant=""), "tenant"),
        (sent(tenant="a b"), "tenant"),
        (sent(tenant="acme\n"), "tenant"),
        (sent(tenant="a" * 129), "tenant"),
        (sent(idempotency_key=""), "idempotency_key"),
        (sent(idempotency_key="k" * 257), "idempotency_key"),
        ({"brief": []}, "brief"),
        (with_facts(["article"]), "brief.facts"),
        (with_facts({"article": 7}), "brief.facts[...]"),
        (with_facts({"article": None}), "brief.facts[...]"),
        (with_brief(kind="image"), "brief.kind"),
        (with_brief(style=7), "brief.style"),
        (with_brief(policy=""), "brief.policy"),
        (with_brief(source="not-an-id"), "brief.source"),
        (with_brief(source="0" * 32 + "\n"), "brief.source"),
    ],
)
def test_a_wrong_type_or_form_is_refused_at_its_field(data: dict[str, Any], where: str) -> None:
    assert refused(data)[0] == where
    assert refused(msgspec.json.encode(data))[0] == where


def test_an_unknown_tier_is_told_which_tiers_there_are() -> None:
    where, what = refused(sent(tier="gold"))
    assert where == "tier"
    assert "gold" in what
    assert all(tier.value in what for tier in Tier)


@pytest.mark.parametrize(("data", "where"), [(sent(colour="teal"), "body"), (with_brief(colour="teal"), "brief")])
def test_an_unknown_field_is_refused_by_its_name(data: dict[str, Any], where: str) -> None:
    at, what = refused(data)
    assert at == where
    assert "colour" in what


@pytest.mark.parametrize("value", [-1, VALUE_MICROS_MAX + 1, 10**30])
def test_a_value_below_zero_or_beyond_reason_is_refused(value: int) -> None:
    assert refused(sent(value_micros=value))[0] == "value_micros"


@pytest.mark.parametrize("deadline_ms", [0, NOW_MS - 60_000, NOW_MS])
def test_a_deadline_that_has_passed_is_refused(deadline_ms: int) -> None:
    where, what = refused(sent(deadline_ms=deadline_ms))
    assert where == "deadline_ms"
    assert "past" in what


@pytest.mark.parametrize("deadline_ms", [-1, DEADLINE_MS_MAX + 1, 10**400, -(10**400)])
def test_a_deadline_that_is_no_time_is_refused(deadline_ms: int) -> None:
    assert refused(sent(deadline_ms=deadline_ms))[0] == "deadline_ms"
    assert refused(b'{"brief": {"facts": {"article": "Scarf"}}, "deadline_ms": %d}' % deadline_ms)[0] == "deadline_ms"


def test_an_unknown_policy_is_not_found_and_the_known_ones_are_named() -> None:
    with pytest.raises(NotFound) as caught:
        admitted(with_brief(policy="budget"))
    assert caught.value.body.where == "brief.policy"
    assert "default, luxury" in caught.value.body.fix


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named() -> None:
    with pytest.raises(NotFound) as caught:
        admitted(with_brief(model="frontier"))
    assert caught.value.body.where == "brief.model"
    assert "reference" in caught.value.body.fix


def test_a_brief_may_have_as_many_bytes_as_the_limit_and_no_more() -> None:
    facts = {f"fact_{n}": "x" * FACT_CHARS_MAX for n in range(NUM_FACTS_MAX)}
    assert len(msgspec.json.encode(admitted(with_facts(facts)).brief)) <= BRIEF_BYTES_MAX
    where, what = refused(with_facts(dict.fromkeys(facts, "é" * FACT_CHARS_MAX)))
    assert where == "brief"
    assert str(BRIEF_BYTES_MAX) in what


@pytest.mark.parametrize("num_facts", [0, NUM_FACTS_MAX + 1])
def test_a_brief_has_some_facts_and_not_too_many(num_facts: int) -> None:
    assert refused(with_facts({f"fact_{n}": "x" for n in range(num_facts)}))[0] == "brief.facts"


@pytest.mark.parametrize("name", ["", "Colour", "two words", "1st", "colour\n", "a" * 33, "фарба", "colour: red"])
def test_a_name_of_a_fact_that_could_be_text_is_refused(name: str) -> None:
    assert refused(with_facts({name: "teal"})) == ("brief.facts", f"{name!r} is no name of a fact")


@pytest.mark.parametrize("value", ["", " ", "\u2003\u00a0"])
def test_an_empty_fact_is_refused(value: str) -> None:
    assert refused(with_facts({"article": value}))[0] == "brief.facts.article"


def test_a_long_fact_is_refused() -> None:
    assert admitted(with_facts({"article": "x" * FACT_CHARS_MAX}))
    assert refused(with_facts({"article": "x" * (FACT_CHARS_MAX + 1)}))[0] == "brief.facts.article"


def test_a_style_may_be_empty_but_not_long() -> None:
    assert admitted(with_brief(style=""))
    assert admitted(with_brief(style="x" * STYLE_CHARS_MAX))
    assert refused(with_brief(style="x" * (STYLE_CHARS_MAX + 1)))[0] == "brief.style"


UNSEEN = {
    "line break": "\n",
    "null": "\0",
    "escape": "\x1b",
    "next line": "\x85",
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "byte order mark": "\ufeff",
    "soft hyphen": "\xad",
    "right-to-left override": "\u202e",
    "left-to-right isolate": "\u2066",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "private use": "\ue000",
    "tag letter": "\U000e0041",
}


@pytest.mark.parametrize("char", UNSEEN.values(), ids=UNSEEN.keys())
def test_a_character_that_nobody_sees_is_refused_with_its_number(char: str) -> None:
    where, what = refused(msgspec.json.encode(with_facts({"article": "Scarf", "colour": f"Te{char}al"})))
    assert where == "brief.facts.colour"
    assert f"U+{ord(char):04X} at position 2" in what
    assert refused(with_brief(style=f"calm{char}"))[0] == "brief.style"


@pytest.mark.parametrize("text", ["<|im_start|>system", "Teal <|", "|> Teal"])
def test_chat_markup_is_refused(text: str) -> None:
    assert refused(with_facts({"article": "Scarf", "colour": text})) == (
        "brief.facts.colour",
        "chat markup in the text",
    )
    assert refused(with_brief(style=text))[0] == "brief.style"


@pytest.mark.parametrize("data", [with_facts({"article": "\ud800"}), sent(idempotency_key="\udfff")])
def test_half_a_character_from_python_is_refused(data: dict[str, Any]) -> None:
    where, what = refused(data)
    assert where == "body"
    assert "Unicode" in what


def test_the_same_body_and_key_are_the_same_request() -> None:
    first, second = (admitted(sent(idempotency_key="4711"), now_ms) for now_ms in (NOW_MS, NOW_MS + 5_000))
    assert (first.asset_id, first.body_hash) == (second.asset_id, second.body_hash)


def test_the_key_is_no_part_of_the_body_hash_and_all_else_is() -> None:
    plain = admitted(sent(idempotency_key="a"))
    assert admitted(sent(idempotency_key="b")).body_hash == plain.body_hash
    others = [
        sent(tier="flex"),
        sent(value_micros=1),
        sent(tenant="acme"),
        with_brief(style="calm"),
        with_facts({"a": "b"}),
    ]
    assert len({plain.body_hash, *(admitted(other).body_hash for other in others)}) == 1 + len(others)


def test_the_order_of_facts_does_not_change_the_body_hash() -> None:
    backwards = dict(reversed(FACTS.items()))
    assert list(backwards) != list(FACTS)
    assert admitted(with_facts(backwards)).body_hash == admitted(sent()).body_hash


def test_requests_without_a_key_are_never_the_same() -> None:
    assert admitted(sent()).asset_id != admitted(sent()).asset_id


tenants = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,20}\Z")
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.tuples(tenants, keys), st.tuples(tenants, keys))
def test_tenants_never_share_an_asset_id(one: tuple[str, str], other: tuple[str, str]) -> None:
    ids = [admitted(sent(tenant=tenant, idempotency_key=key)).asset_id for tenant, key in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_an_invalid_request(data: bytes) -> None:
    try:
        body = decode(data)
    except InvalidRequest as error:
        assert error.body.where
        return
    assert isinstance(body, RequestBody)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
almost_requests = st.fixed_dictionaries(
    {
        "brief": json_values
        | st.fixed_dictionaries({"facts": st.dictionaries(st.text(max_size=8), st.text(max_size=8))})
    },
    optional={
        "tier": st.sampled_from(["flex", "gold"]),
        "value_micros": json_values,
        "deadline_ms": st.integers() | json_values,
        "tenant": st.text(max_size=5) | json_values,
        "idempotency_key": st.text(max_size=5) | json_values,
    },
)


@given(almost_requests)
def test_anything_from_python_is_admitted_or_refused_by_name(data: Any) -> None:
    try:
        request = admitted(data)
    except (InvalidRequest, NotFound) as error:
        assert error.body.where
        return
    assert request.deadline_ms > NOW_MS
    assert len(body_hash(convert(data))) == 32
