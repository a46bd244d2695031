"""Any sequence of batches: the shard behaves as a dictionary with an order, and everything it says verifies."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.entry import Entry, Kind, decode, encode
from ledger.errors import ReceiptInvalid
from ledger.fsck import check
from ledger.log import open_keys, shard_path
from ledger.merkle import leaf_hash, node_hash
from ledger.note import encode_base64
from ledger.receipt import verify
from ledger.shard import NewEntry, Shard

ITEMS = st.builds(
    NewEntry,
    kind=st.sampled_from(Kind),
    asset_id=st.integers(0, 20).map(lambda number: number.to_bytes(16, "big")),
    content=st.binary(max_size=40),
    request_hash=st.sampled_from([b"a" * 32, b"b" * 32]),
    tenant=st.text("abc", min_size=1, max_size=3),
    value_micros=st.integers(0, 2**63 - 1),
    tier=st.integers(0, 3),
    meta=st.dictionaries(st.text(max_size=4), st.integers(-(2**63), 2**64 - 1) | st.text(max_size=4), max_size=2),
)

ENTRIES = st.builds(
    Entry,
    kind=st.sampled_from(Kind),
    tier=st.integers(0, 255),
    shard=st.integers(0, 2**16 - 1),
    time_ms=st.integers(0, 2**64 - 1),
    asset_id=st.binary(min_size=16, max_size=16),
    content_hash=st.binary(min_size=32, max_size=32),
    request_hash=st.binary(min_size=32, max_size=32),
    meta_hash=st.binary(min_size=32, max_size=32),
    owner=st.binary(min_size=16, max_size=16),
    value_micros=st.integers(0, 2**63 - 1),
    content_bytes=st.integers(0, 2**64 - 1),
    parents=st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1)), max_size=4, unique=True).map(
        tuple
    ),
)


def naive_root(leaves: list[bytes]) -> bytes:
    """The root by the bottom-up reading of the tree: pair up neighbours, carry an odd one."""
    if not leaves:
        return hashlib.sha256().digest()
    while len(leaves) > 1:
        pairs = [node_hash(*leaves[place : place + 2]) for place in range(0, len(leaves) - 1, 2)]
        leaves = pairs + leaves[len(leaves) & ~1 :]
    return leaves[0]


@given(ENTRIES)
def test_an_entry_comes_back_from_its_bytes(entry: Entry) -> None:
    assert decode(encode(entry)) == entry


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(ITEMS, max_size=6), max_size=6), st.data())
def test_any_batches_give_one_entry_an_id_and_proofs_that_verify(
    batches: list[list[NewEntry]], data: st.DataObject
) -> None:
    first: dict[bytes, NewEntry] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        keys = open_keys(path, "mintage.local", 1)
        with Shard.open(shard_path(path, 0), shard=0, signer=keys.signers[0], now_ms=lambda: 5) as shard:
            for batch in batches:
                for item, answer in zip(batch, shard.append(batch), strict=True):
                    holder = first.setdefault(item.asset_id, item)
                    same = "committed" if holder is item else "exists"
                    assert answer.status == (same if holder.request_hash == item.request_hash else "conflict")
                    assert answer.index == list(first).index(item.asset_id)
                assert_shard_holds(shard, list(first.values()), keys.verifier_keys)
                if first:
                    assert_flip_is_refused(shard, keys.verifier_keys, data)
        report = check(path)
        assert (report.num_entries, report.problems) == (len(first), ())


def assert_shard_holds(shard: Shard, items: list[NewEntry], verifier_keys: tuple[str, ...]) -> None:
    """The shard holds exactly these items in this order, under the naive root, each with a receipt that verifies."""
    assert shard.size() == len(items)
    leaves = []
    for index, item in enumerate(items):
        assert shard.find(item.asset_id) == index
        assert shard.meta(index) == item.meta
        verified = verify(shard.receipt(index), verifier_keys, item.content)
        assert (verified.index, verified.entry.asset_id) == (index, item.asset_id)
        leaves.append(leaf_hash(encode(verified.entry)))
    text = shard.checkpoint().partition("\n\n")[0].split("\n")
    assert text[1] == str(len(items))
    assert text[2] == encode_base64(naive_root(leaves))


def assert_flip_is_refused(shard: Shard, verifier_keys: tuple[str, ...], data: st.DataObject) -> None:
    """One bit of one receipt, anywhere in it."""
    text = shard.receipt(data.draw(st.integers(0, shard.size() - 1))).encode()
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    changed = bytearray(text)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ReceiptInvalid):
        verify(changed.decode(errors="surrogateescape"), verifier_keys)
