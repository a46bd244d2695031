"""Receipts: a true one verifies with the public key alone, and nothing else does."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from shards import append_assets, asset, content_of, keys_of, open_shard, some_bytes

from ledger.entry import ENTRY_BYTES, Entry, encode
from ledger.errors import ReceiptInvalid
from ledger.log import LogKeys, open_keys
from ledger.merkle import leaf_hash
from ledger.note import Checkpoint, Signer, encode_base64
from ledger.receipt import HEADER, Receipt, parse, verify
from ledger.shard import Shard

NUM_ENTRIES = 6
INDEX = 4
CONTENT = content_of(1 + INDEX)
ENTRY = asset(1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def keys(path: Path) -> LogKeys:
    return keys_of(path)


@pytest.fixture(scope="module")
def shard(path: Path) -> Iterator[Shard]:
    with open_shard(path) as opened:
        append_assets(opened, range(1, 1 + NUM_ENTRIES))
        yield opened


@pytest.fixture(scope="module")
def text(shard: Shard) -> str:
    return shard.receipt(INDEX)


def receipt_for(entry: Entry, signer: Signer, origin: str) -> str:
    """A receipt for a log of one entry, whatever the entry says."""
    checkpoint = Checkpoint(origin, 1, leaf_hash(encode(entry)))
    return Receipt(encode(entry), 0, (), signer.sign(checkpoint.text())).text()


def test_a_receipt_verifies_with_the_verifier_keys_and_the_content(shard: Shard, keys: LogKeys, text: str) -> None:
    verified = verify(text, keys.verifier_keys, CONTENT)
    assert verified.entry == shard.entry(INDEX)
    assert (verified.origin, verified.index, verified.tree_size) == ("mintage.local/shard-0", INDEX, NUM_ENTRIES)
    assert encode_base64(verified.root) in shard.checkpoint()


def test_a_receipt_has_the_lines_of_a_tlog_proof(shard: Shard, text: str) -> None:
    lines = text.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == f"extra {encode_base64(encode(shard.entry(INDEX)))}"
    assert lines[2] == f"index {INDEX}"
    assert lines[lines.index("") + 1 :] == shard.checkpoint().split("\n")


def test_a_receipt_comes_back_from_its_text(text: str) -> None:
    assert parse(text).text() == text


def test_every_single_bit_flip_of_a_receipt_is_refused(keys: LogKeys, text: str) -> None:
    data = text.encode()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ReceiptInvalid):
            verify(flipped.decode(errors="surrogateescape"), keys.verifier_keys)


def test_a_receipt_of_another_log_does_not_verify(keys: LogKeys, text: str, tmp_path: Path) -> None:
    others = open_keys(
        tmp_path, "mintage.local", 2, entropy=lambda num_bytes: some_bytes(num_bytes)[::-1]
    ).verifier_keys
    with pytest.raises(ReceiptInvalid) as caught:
        verify(text, others)
    assert caught.value.where.startswith("step 2 signature")


def test_a_receipt_does_not_verify_with_the_key_of_another_shard(keys: LogKeys, text: str) -> None:
    with pytest.raises(ReceiptInvalid) as caught:
        verify(text, keys.verifier_keys[1:])
    assert caught.value.where.startswith("step 2 signature")


def test_a_checkpoint_signed_under_another_name_than_its_origin_is_refused(keys: LogKeys) -> None:
    forged = receipt_for(ENTRY, keys.signers[1], "mintage.local/shard-0")
    with pytest.raises(ReceiptInvalid) as caught:
        verify(forged, keys.verifier_keys)
    assert caught.value.where.startswith("step 3 origin")


def test_an_origin_that_is_no_shards_is_refused() -> None:
    signer = Signer("mintage.local", b"s" * 32)
    with pytest.raises(ReceiptInvalid) as caught:
        verify(receipt_for(ENTRY, signer, "mintage.local"), [str(signer.key)])
    assert caught.value.where.startswith("step 3 origin")


def test_a_leaf_that_is_no_entry_is_refused(keys: LogKeys) -> None:
    signer = keys.signers[0]
    stray = bytearray(encode(ENTRY))
    stray[-1] = 1
    for leaf in (b"", bytes(ENTRY_BYTES), bytes(stray), encode(ENTRY)[:-1], encode(ENTRY) + b"\0"):
        note = signer.sign(Checkpoint(signer.name, 1, leaf_hash(leaf)).text())
        with pytest.raises(ReceiptInvalid) as caught:
            verify(Receipt(leaf, 0, (), note).text(), keys.verifier_keys)
        assert caught.value.where.startswith("step 4 leaf")


def test_an_entry_with_the_proof_of_another_is_refused(shard: Shard, keys: LogKeys, text: str) -> None:
    other = parse(shard.receipt(INDEX - 1))
    forged = msgspec.structs.replace(parse(text), entry_bytes=other.entry_bytes)
    with pytest.raises(ReceiptInvalid) as caught:
        verify(forged.text(), keys.verifier_keys)
    assert caught.value.where.startswith("step 5 inclusion")


def test_an_entry_of_another_shard_than_the_signing_one_is_refused(keys: LogKeys) -> None:
    stray = msgspec.structs.replace(ENTRY, shard=1)
    with pytest.raises(ReceiptInvalid) as caught:
        verify(receipt_for(stray, keys.signers[0], "mintage.local/shard-0"), keys.verifier_keys)
    assert caught.value.where.startswith("step 6 shard")


@pytest.mark.parametrize("content", [b"", content_of(2 + INDEX), CONTENT + b" ", CONTENT[:-1]])
def test_another_content_is_refused(keys: LogKeys, text: str, content: bytes) -> None:
    with pytest.raises(ReceiptInvalid) as caught:
        verify(text, keys.verifier_keys, content)
    assert caught.value.where.startswith("step 7 content")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text + "\n",
        lambda text: text[:-1],
        lambda text: "\n" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(HEADER, "c2sp.org/tlog-proof@v2"),
        lambda text: text.replace("extra ", "extra  "),
        lambda text: text.replace("index 4", "index 04"),
        lambda text: text.replace("index 4", "index 4 "),
        lambda text: text.replace("index 4\n", ""),
        lambda text: text.replace("index 4\n", "index 4\nAAAA\n"),
        lambda text: text.replace("index 4\n", "index 4\n" + f"{'A' * 43}=\n" * 65),
        lambda text: text.replace("\n\n", "\n\n\n", 1),
        lambda text: text + "A" * 300_000,
    ],
)
def test_a_malformed_receipt_is_refused(keys: LogKeys, text: str, change: Callable[[str], str]) -> None:
    assert change(text) != text
    with pytest.raises(ReceiptInvalid):
        verify(change(text), keys.verifier_keys)


@pytest.mark.parametrize("num_bytes", [1, 10**6])
def test_a_content_of_another_length_than_the_entry_says_is_refused(keys: LogKeys, num_bytes: int) -> None:
    """Even if its hash is right: no shard records such an entry."""
    lying = msgspec.structs.replace(ENTRY, num_bytes=num_bytes)
    receipt = receipt_for(lying, keys.signers[0], "mintage.local/shard-0")
    assert hashlib.sha256(content_of(1)).digest() == lying.content_hash
    assert verify(receipt, keys.verifier_keys).entry == lying
    with pytest.raises(ReceiptInvalid) as caught:
        verify(receipt, keys.verifier_keys, content_of(1))
    assert caught.value.where.startswith("step 7 content")


def test_a_content_that_is_kept_elsewhere_is_known_by_its_hash_alone(keys: LogKeys) -> None:
    elsewhere = msgspec.structs.replace(ENTRY, num_bytes=0)
    receipt = receipt_for(elsewhere, keys.signers[0], "mintage.local/shard-0")
    assert verify(receipt, keys.verifier_keys, content_of(1)).entry == elsewhere
    with pytest.raises(ReceiptInvalid) as caught:
        verify(receipt, keys.verifier_keys, content_of(2))
    assert caught.value.where.startswith("step 7 content")


@pytest.mark.parametrize("index", [-1, NUM_ENTRIES, 2**63, 2**64])
def test_an_index_outside_of_the_tree_is_refused(keys: LogKeys, text: str, index: int) -> None:
    with pytest.raises(ReceiptInvalid):
        verify(text.replace(f"index {INDEX}", f"index {index}"), keys.verifier_keys)


def test_a_verifier_key_that_is_none_is_named_in_the_refusal(text: str) -> None:
    with pytest.raises(ReceiptInvalid) as caught:
        verify(text, ["no key"])
    assert caught.value.where == "step 2 signature, key"


def test_too_many_verifier_keys_are_refused(keys: LogKeys, text: str) -> None:
    with pytest.raises(ReceiptInvalid, match="more than 1024"):
        verify(text, keys.verifier_keys * 513)
