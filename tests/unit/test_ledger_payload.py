"""What lies beside an entry is what the entry says, by hash and by length; metadata has one text for a value."""

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from settling import id_of
from shards import asset, columns, content_of, open_shard, payloads_of

from ledger.entry import KINDS_WITH_CONTENT, Entry, Kind, as_bytes, encode
from ledger.errors import EntryInvalid, EntryNotFound
from ledger.payload import CONTENT, META_BYTES_MAX, MetaValue, Payload, canonical_json, check_payloads, named_payloads
from ledger.payload import META as META_NAMED
from ledger.result import Result
from ledger.shard import Shard

META = canonical_json({"policy": "strict", "score": 0.5})


def with_meta(number: int) -> Entry:
    return asset(number, meta_hash=hashlib.sha256(META).digest())


def elsewhere(number: int) -> Entry:
    """With metadata that comes with it, and a content that does not."""
    return asset(number, num_bytes=0, meta_hash=hashlib.sha256(META).digest())


def data_of(*entries: Entry) -> bytes:
    return b"".join(map(encode, entries))


def test_payloads_that_are_what_their_entries_say_pass() -> None:
    entries = [asset(1), with_meta(2), asset(3, num_bytes=0), elsewhere(4)]
    payloads = [Payload(content_of(1)), Payload(content_of(2), META), Payload(), Payload(None, META)]
    check_payloads(data_of(*entries), payloads)
    check_payloads(as_bytes(columns(*entries)).data.cast("B"), payloads)


def test_a_payload_of_no_bytes_is_one_all_the_same() -> None:
    empty = asset(1, content_hash=hashlib.sha256().digest(), num_bytes=0)
    check_payloads(data_of(empty), [Payload(b"")])
    with pytest.raises(EntryInvalid, match="content_hash"):
        check_payloads(data_of(asset(1, num_bytes=0)), [Payload(b"")])


def test_an_entry_whose_content_is_kept_elsewhere_names_its_hash_and_no_length() -> None:
    check_payloads(data_of(asset(1, num_bytes=0)), None)
    check_payloads(data_of(asset(1, num_bytes=0)), [Payload()])


@pytest.mark.parametrize("kind", Kind)
def test_an_entry_names_a_content_by_its_length_if_its_kind_has_one_and_metadata_by_its_hash(kind: Kind) -> None:
    entry = Entry(kind=kind, id=id_of(1), content_hash=b"c" * 32)
    has_content = kind in KINDS_WITH_CONTENT or kind == Kind.DECISION
    entries = [
        entry,
        *(msgspec.structs.replace(entry, num_bytes=number) for number in (1, 2**8, 2**32, 2**63)),
        *(msgspec.structs.replace(entry, meta_hash=bytes(place) + b"m" + bytes(31 - place)) for place in range(32)),
        msgspec.structs.replace(entry, num_bytes=9, meta_hash=b"m" * 32),
    ]
    content = CONTENT if has_content else 0
    assert named_payloads(data_of(*entries)).tolist() == [0, *[content] * 4, *[META_NAMED] * 32, content | META_NAMED]


MISSING = {
    "no content": (asset(2), Payload(), "num_bytes"),
    "metadata alone": (with_meta(2), Payload(None, META), "num_bytes"),
    "no metadata": (with_meta(2), Payload(content_of(2)), "meta_hash"),
    "no metadata of what is elsewhere": (elsewhere(2), Payload(), "meta_hash"),
    "a description that is not there": (Entry(kind=Kind.MODEL, id=id_of(2), num_bytes=1), Payload(), "num_bytes"),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_payload_that_an_entry_names_comes_with_it(what: str) -> None:
    entry, payload, field = MISSING[what]
    with pytest.raises(EntryInvalid, match="entry 1 names") as caught:
        check_payloads(data_of(asset(1), entry), [Payload(content_of(1)), payload])
    assert caught.value.where == field
    with pytest.raises(EntryInvalid, match="entry 1 names"):
        check_payloads(data_of(asset(1, num_bytes=0), entry), None)


WRONG = {
    "another content": (with_meta(2), Payload(b"another", META), "content_hash"),
    "another metadata": (with_meta(2), Payload(content_of(2), META + b" "), "meta_hash"),
    "a longer content": (asset(2, num_bytes=len(content_of(2)) + 1), Payload(content_of(2)), "num_bytes"),
    "a length beyond 32 bits": (asset(2, num_bytes=len(content_of(2)) + 2**32), Payload(content_of(2)), "num_bytes"),
    "metadata where the entry names none": (asset(2), Payload(content_of(2), META), "meta_hash"),
    "content and metadata exchanged": (with_meta(2), Payload(META, content_of(2)), "content_hash"),
    "content of a transfer": (Entry(kind=Kind.MONEY, id=id_of(2)), Payload(b""), "content_hash"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_payload_that_is_not_what_its_entry_says_is_refused_and_the_entry_named(what: str) -> None:
    entry, payload, field = WRONG[what]
    others = [asset(1), entry, asset(3)]
    with pytest.raises(EntryInvalid, match="entry 1 does not name") as caught:
        check_payloads(data_of(*others), [Payload(content_of(1)), payload, Payload(content_of(3))])
    assert caught.value.where == field


@pytest.mark.parametrize("num_payloads", [0, 1, 3])
def test_there_is_a_payload_for_each_entry_or_none_at_all(num_payloads: int) -> None:
    with pytest.raises(EntryInvalid, match=f"{num_payloads} for 2 entries"):
        check_payloads(data_of(asset(1), asset(2)), [Payload()] * num_payloads)


def test_payloads_of_no_entries_are_none() -> None:
    check_payloads(b"", [])


def test_a_payload_counts_its_bytes() -> None:
    assert Payload().num_bytes == 0
    assert Payload(b"abc").num_bytes == 3
    assert Payload(b"abc", b"{}").num_bytes == 5


@pytest.mark.parametrize("append", [Shard.append, Shard.sequence], ids=["append", "sequence"])
def test_a_wrong_payload_keeps_its_whole_batch_out(append: object, tmp_path: Path) -> None:
    assert callable(append)
    with open_shard(tmp_path) as shard:
        with pytest.raises(EntryInvalid, match="entry 1"):
            append(shard, columns(asset(1), asset(2)), payloads_of([1, 3]))
        assert shard.tree_size == 0
        assert append(shard, columns(asset(1), asset(2)), payloads_of([1, 2])).results.tolist() == [Result.OK] * 2


@pytest.mark.parametrize("append", [Shard.append, Shard.sequence], ids=["append", "sequence"])
def test_the_payload_of_a_repeat_is_not_stored(append: object, tmp_path: Path) -> None:
    """What was recorded without its content, as kept elsewhere, stays so: only new entries bring theirs."""
    assert callable(append)
    with open_shard(tmp_path) as shard:
        append(shard, columns(elsewhere(1)), [Payload(None, META)])
        again = append(shard, columns(with_meta(1), asset(2)), [Payload(content_of(1), META), Payload(content_of(2))])
        assert again.results.tolist() == [Result.EXISTS_WITH_DIFFERENT_CONTENT, Result.OK]
        with pytest.raises(EntryNotFound):
            shard.content(0)
        assert (shard.meta(0), shard.content(1)) == (META, content_of(2))


def test_metadata_is_one_text_for_a_value() -> None:
    text = '{"a":1,"b":0.5,"z":-9223372036854775808,"ä":"Zoë\\n"}'.encode()
    values: dict[str, MetaValue] = {"z": -(2**63), "ä": "Zoë\n", "b": 0.5, "a": 1}
    assert canonical_json(values) == text
    assert canonical_json(dict(sorted(values.items()))) == text
    assert json.loads(text) == values
    assert canonical_json({}) == b"{}"


@pytest.mark.parametrize("number", [0.1, 1e300, 5e-324, -0.0, 2**53 + 1, 2**64 - 1, -(2**63)])
def test_numbers_are_read_back_as_they_were(number: float) -> None:
    read = json.loads(canonical_json({"number": number}))["number"]
    assert (read, type(read), str(read)) == (number, type(number), str(number))


NO_VALUES = {
    "nothing": None,
    "a truth value": True,
    "bytes": b"text",
    "a list": [1],
    "a dictionary": {"a": 1},
    "no number": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "an integer of 65 bits": 2**64,
    "a negative integer of 65 bits": -(2**63) - 1,
    "half a character": "\ud800",
    "an enumeration": Kind.ASSET,
    "a subclass of str": type("Name", (str,), {})("name"),
}


@pytest.mark.parametrize("what", NO_VALUES)
def test_other_values_are_no_metadata(what: str) -> None:
    with pytest.raises(EntryInvalid, match="meta"):
        canonical_json({"good": 1, "bad": NO_VALUES[what]})  # type: ignore[dict-item]


@pytest.mark.parametrize("key", [1, None, b"key", "\udfff"], ids=repr)
def test_other_keys_are_no_metadata(key: object) -> None:
    with pytest.raises(EntryInvalid, match="meta"):
        canonical_json({key: 1})  # type: ignore[dict-item]


def test_metadata_is_bounded_in_bytes_as_they_are_written() -> None:
    room = META_BYTES_MAX - len(b'{"a":""}')
    assert len(canonical_json({"a": "x" * room})) == META_BYTES_MAX
    for too_long in ("x" * (room + 1), "ä" * (room // 2 + 1)):
        with pytest.raises(EntryInvalid, match=str(META_BYTES_MAX)):
            canonical_json({"a": too_long})


def test_a_payload_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Payload(b"abc").content = b""  # type: ignore[misc]
    assert msgspec.structs.replace(Payload(b"abc"), meta=META) == Payload(b"abc", META)
