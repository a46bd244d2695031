"""The index's parts: keys, the tables in memory, the filter, stored runs, merges that keep up, and what damage does."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from index_shard import SEED, IndexShard

from ledger import runs
from ledger.errors import LedgerCorrupt
from ledger.filter import Filter
from ledger.index import MERGE_ITEMS_PER_ITEM, Index, Sizes
from ledger.runs import Family, Runs
from ledger.tail import found, insert, insert_many, keys_of, new_tail, sorted_items, truncate

SMALL = Sizes(block_entries=8, batch_entries_max=2, segment_items=3, fan_in=4)
KEY_MAX = 2**64 - 1


def u64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def shard_of_owners(num_entries: int) -> IndexShard:
    """Every entry has an id of its own, and one of three owners."""
    shard = IndexShard(SMALL)
    source = random.Random(1)
    for number in range(num_entries):
        shard.append([[(Family.ID, source.getrandbits(64)), (Family.OWNER, number % 3)]])
    return shard


@pytest.mark.parametrize("width", [16, 32])
def test_keys_are_siphash_1_3_as_cpython_computes_it(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 256, (20, width), dtype=np.uint8)
    code = f"for row in {values.tolist()}: print(hash(bytes(row)) % 2**64)"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # its seed is then 16 zero bytes
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert sys.hash_info.algorithm == "siphash13"
    assert keys_of(values, bytes(16)).tolist() == [int(line) for line in answer.stdout.split()]


def test_another_seed_gives_other_keys() -> None:
    values = np.zeros((1, 16), np.uint8)
    assert keys_of(values, SEED)[0] != keys_of(values, bytes(15) + b"\1")[0]


def test_what_is_cut_off_a_table_was_never_there() -> None:
    tail = new_tail(100)
    insert_many(tail, u64(5, KEY_MAX, 5, 0), u64(10, 11, 12, 13))
    before = [column.copy() for column in (tail.heads, tail.num_items)]
    insert_many(tail, u64(5, 0, 9), u64(14, 15, 16))
    assert found(tail, 5).tolist() == [10, 12, 14]
    truncate(tail, 4)
    assert [column.tolist() for column in before] == [tail.heads.tolist(), tail.num_items.tolist()]
    assert found(tail, 5).tolist() == [10, 12]
    assert found(tail, 9).tolist() == []


def test_a_full_table_takes_no_more() -> None:
    tail = new_tail(2)
    insert_many(tail, u64(1, 2), u64(0, 1))
    with pytest.raises(AssertionError):
        insert(tail, np.uint64(3), np.uint64(2))


def test_items_are_sorted_by_key_and_equal_keys_by_index() -> None:
    source = np.random.default_rng(3)
    keys = np.concatenate([source.integers(0, 2**64, 3000, dtype=np.uint64), source.choice(u64(0, 7, KEY_MAX), 3000)])
    source.shuffle(keys)
    tail = new_tail(len(keys))
    insert_many(tail, keys, np.arange(1000, 1000 + len(keys), dtype=np.uint64))
    sorted_keys, offsets = sorted_items(tail, 1000)
    order = np.argsort(keys, kind="stable")
    assert sorted_keys.tolist() == keys[order].tolist()
    assert offsets.tolist() == order.tolist()


def test_the_filter_knows_every_key_and_few_others() -> None:
    source = np.random.default_rng(4)
    keys = source.integers(0, 2**64, 3_000_000, dtype=np.uint64)
    ids = Filter()
    for start in range(0, len(keys), 70_000):
        ids.add(keys[start : start + 70_000])
    assert ids.maybe(keys).all()
    assert ids.maybe(source.integers(0, 2**64, 1_000_000, dtype=np.uint64)).mean() < 3e-4  # 8e-5 in each full slice


def test_merges_are_done_long_before_the_next_of_their_level_is_due() -> None:
    """With all sizes divided by 64, until a run of level 3 is there: as 400 million entries of the real sizes."""
    sizes = Sizes(block_entries=1024, batch_entries_max=512, segment_items=128)
    blobs: dict[tuple[int, int], bytes] = {}
    source = np.random.default_rng(5)
    index = Index.open(None, lambda run, number: blobs[run, number], new_seed=SEED, sizes=sizes)
    counts_max, excess_max = np.zeros(4, np.int64), 0.0
    num_merges = 3
    num_segments_max = (num_merges * MERGE_ITEMS_PER_ITEM * 512 + sizes.block_entries) // sizes.segment_items
    for begin in range(0, 6500 * sizes.block_entries, 512):
        keys = source.integers(0, 2**64, 512, dtype=np.uint64)
        insert_many(index.tails[Family.ID], keys, np.arange(begin, begin + 512, dtype=np.uint64))
        writes = index.prepare(begin + 512, lambda run, number: blobs[run, number])
        rests = num_merges + 4  # of each credit, and fences of finished runs
        assert len(writes.puts) <= num_segments_max + rests
        for name in writes.deletes:
            del blobs[name]
        blobs.update(writes.puts)
        index.applied(writes)
        levels = [run.level for run in index.runs.families[Family.ID]]
        counts_max = np.maximum(counts_max, np.bincount(levels, minlength=4))
        num_live = sum(len(run.blobs()) for run in index.runs.families[Family.ID])
        excess_max = max(excess_max, len(blobs) / max(num_live, 1_000))
    assert excess_max <= 2.1, "what was replaced makes room for what comes: it is never more than there is"
    assert counts_max[3] == 1
    assert counts_max[:3].max() <= 16 + 8 + 1, "sixteen are merged before half as many more gather"


def test_a_failed_commit_changes_nothing_and_its_retry_writes_the_same() -> None:
    shard = shard_of_owners(150)
    batch = [[(Family.ID, 77), (Family.OWNER, 1)]]
    for _ in range(40):
        before = shard.index.runs
        shard.append(batch, is_stored=False)
        assert shard.index.runs is before
        shard.check()
        insert(shard.index.tails[Family.ID], np.uint64(77), np.uint64(len(shard.entries)))
        insert(shard.index.tails[Family.OWNER], np.uint64(1), np.uint64(len(shard.entries)))
        first = shard.index.prepare(len(shard.entries) + 1, shard.read)
        shard.index.discard()
        shard.append(batch)
        assert all(shard.blobs[name] == data for name, data in first.puts)
        assert first.manifest in (None, shard.manifest)
    shard.check()


def test_a_failure_right_after_opening_keeps_the_items_of_stored_entries() -> None:
    shard = shard_of_owners(5)
    shard.reopen()
    shard.append([[(Family.ID, 77)]], is_stored=False)
    shard.check()


def test_equal_keys_may_fill_many_segments_and_the_greatest_key_ends_them() -> None:
    shard = IndexShard(SMALL)
    for number in range(120):
        shard.append([[(Family.CONTENT, KEY_MAX if number % 4 else 0)]] if number % 5 else [[]])
    shard.check()
    assert shard.find(Family.CONTENT, 5) == []
    assert shard.find(Family.SUBJECT, KEY_MAX) == []


def test_a_part_of_what_is_found_is_read_without_the_rest() -> None:
    shard = shard_of_owners(300)
    everything = shard.model[Family.OWNER, 2]
    assert shard.index.find(Family.OWNER, 2, shard.read, begin=everything[7], limit=5) == everything[7:12]
    assert shard.index.find(Family.OWNER, 2, shard.read, begin=everything[-1]) == everything[-1:]
    assert shard.index.find(Family.OWNER, 2, shard.read, begin=everything[-1] + 1) == []
    shard.num_reads = 0
    shard.index.find(Family.OWNER, 2, shard.read, limit=1)
    assert shard.num_reads <= 2, "later segments and runs need not be read"


@pytest.mark.parametrize("every", [1, 3, 40])
def test_merges_go_on_after_a_restart_as_if_there_had_been_none(every: int) -> None:
    """Keys come again and again, over many segments and runs: the output so far says where each input is read next."""
    whole, restarted = IndexShard(SMALL), IndexShard(SMALL)
    source = random.Random(every)
    num_in_vain = 0
    for number in range(400):
        entry = [(Family.ID, source.getrandbits(64)), (Family.OWNER, source.choice([1, 1, 1, 2, 2**64 - 1]))]
        for shard in (whole, restarted):
            shard.append([entry])
        if number % every == 0:
            blobs = dict(restarted.blobs)
            restarted.reopen()
            num_in_vain += len(blobs) - len(restarted.blobs)
    assert num_in_vain == 0, "nothing of a merge was thrown away"
    runs = [run for family in restarted.index.runs.families for run in family]
    assert {run.level for run in runs} >= {1, 2}
    assert len(runs) <= sum(map(len, whole.index.runs.families)) + 2, "merges are not done much later"
    same = [name for run in runs for name in run.blobs() if name in whole.blobs]
    assert len(same) > 50
    assert all(restarted.blobs[name] == whole.blobs[name] for name in same)
    restarted.check()


@pytest.mark.parametrize("damage", ["a missing segment", "a damaged segment", "another merge's segment"])
def test_what_is_damaged_of_a_merge_is_named_and_the_merge_made_again(damage: str) -> None:
    shard = shard_of_owners(20)
    while len(orphans := shard.index.runs.orphans(shard.blobs)) < 2:
        shard.append([[(Family.ID, len(shard.entries))]])
    first = min(orphans)
    if damage == "a missing segment":
        del shard.blobs[first]
    elif damage == "a damaged segment":
        shard.blobs[first] = shard.blobs[first][:-1] + b"\xff"
    else:
        shard.blobs[first] = shard.blobs[max(orphans)]
    shard.reopen()
    assert first not in shard.index.runs.orphans(shard.blobs)
    for _ in range(100):
        shard.append([[(Family.ID, len(shard.entries))]])
    shard.check()


def test_what_merges_have_replaced_is_deleted_bit_by_bit_after_a_restart() -> None:
    shard = shard_of_owners(20)
    replaced = {
        (run.id, number): blob for run in shard.index.runs.families[Family.OWNER][:1] for number, blob in [(9, b"")]
    }
    while any(shard.index.runs.families[Family.OWNER][0].id == run for run, _ in replaced):
        shard.append([[(Family.OWNER, 1), (Family.ID, len(shard.entries))]])
    shard.blobs |= replaced
    shard.reopen()
    assert replaced.keys() <= shard.blobs.keys(), "not all at once"
    for _ in range(len(shard.blobs)):  # each append deletes one, and one more for each that it puts
        shard.append([[(Family.ID, len(shard.entries))]])
    assert replaced.keys().isdisjoint(shard.blobs)


def test_other_sizes_leave_the_stored_runs_readable() -> None:
    shard = shard_of_owners(100)
    shard.sizes = Sizes(block_entries=16, batch_entries_max=2, segment_items=5, fan_in=4)
    shard.reopen()
    for number in range(100):
        shard.append([[(Family.ID, number)]])
    shard.check()


@pytest.mark.parametrize("byte", [0, 8, 12, 16, 24, -1])
def test_a_damaged_segment_is_named_wherever_it_is_damaged(byte: int) -> None:
    shard = shard_of_owners(100)
    run = shard.index.runs.families[Family.OWNER][0]
    damaged = bytearray(shard.blobs[run.id, 1])
    damaged[byte] ^= 1
    shard.blobs[run.id, 1] = bytes(damaged)
    shard.reopen()
    with pytest.raises(LedgerCorrupt, match=f"{run.id:#018x}, segment 1"):
        for owner in range(3):
            shard.find(Family.OWNER, owner)


def test_damaged_ids_are_found_on_opening() -> None:
    shard = shard_of_owners(100)
    run = shard.index.runs.families[Family.ID][-1]
    shard.blobs[run.id, 0] = shard.blobs[run.id, 0][:-1] + b"\xff"
    with pytest.raises(LedgerCorrupt, match=f"{run.id:#018x}, segment 0"):
        shard.reopen()


def test_damaged_or_missing_fences_are_found_on_opening() -> None:
    shard = shard_of_owners(100)
    run = shard.index.runs.families[Family.OWNER][0]
    fences = shard.blobs.pop((run.id, len(run.fences)))
    with pytest.raises(LedgerCorrupt, match=f"{run.id:#018x}, segment {len(run.fences)}"):
        shard.reopen()
    shard.blobs[run.id, len(run.fences)] = fences[:-1] + bytes([fences[-1] ^ 1])
    with pytest.raises(LedgerCorrupt, match=f"{run.id:#018x}, segment {len(run.fences)}"):
        shard.reopen()


def test_exchanged_segments_are_found() -> None:
    shard = shard_of_owners(100)
    run = shard.index.runs.families[Family.ID][0]
    shard.blobs[run.id, 0], shard.blobs[run.id, 1] = shard.blobs[run.id, 1], shard.blobs[run.id, 0]
    with pytest.raises(LedgerCorrupt, match="another segment is in its place"):
        shard.reopen()


@pytest.mark.parametrize(
    ("first", "num_entries", "num_items"), [(0, 1 << 50, 0), (0, (1 << 48) + 1, 0), (0, 7, 1 << 63), (0, 7, 1 << 46)]
)
def test_a_manifest_with_more_in_it_than_there_may_be_is_refused_by_name(
    first: int, num_entries: int, num_items: int
) -> None:
    """Whoever can write it makes its checksum, too."""
    rows = [(family, 1, first, num_entries, num_items) for family in Family]
    rows += [(family, 1, num_entries, 1, num_items) for family in Family]
    data = runs._MANIFEST.pack(runs._MAGIC, 8188, len(rows), bytes(16))
    data += b"".join(runs._RUN.pack(*row) for row in sorted(rows))
    manifest = data + runs._CHECKSUM.pack(runs._checksum(data))
    with pytest.raises(LedgerCorrupt, match="more entries or items than there may be"):
        Runs.open(manifest, lambda run, number: b"")


def test_a_manifest_comes_back_as_it_went_and_any_damage_of_it_is_named() -> None:
    shard = shard_of_owners(100)
    manifest = shard.manifest
    assert manifest is not None and Runs.open(manifest, shard.read).manifest() == manifest
    for byte in range(len(manifest)):
        damaged = manifest[:byte] + bytes([manifest[byte] ^ 1]) + manifest[byte + 1 :]
        with pytest.raises(LedgerCorrupt, match="manifest of the index"):
            Runs.open(damaged, shard.read)
    for length in range(len(manifest)):
        with pytest.raises(LedgerCorrupt, match="manifest of the index"):
            Runs.open(manifest[:length], shard.read)
