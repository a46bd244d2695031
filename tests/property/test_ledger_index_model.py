"""The index against a dictionary of lists: any appends, failed commits, crashes and merges leave it exact."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from index_shard import IndexShard, Items

from ledger.index import ITEMS_PER_ENTRY_MAX, Sizes
from ledger.runs import Family

SIZES = Sizes(block_entries=8, batch_entries_max=3, segment_items=3, fan_in=4)
"""Some 30 entries make a merge, 100 one of the second level."""

KEYS = [0, 1, 2**32, 2**63, 2**64 - 2, 2**64 - 1]


def random_items(source: random.Random, families: list[Family]) -> Items:
    """The items of an entry: few keys, so that many are equal, and families that it is not in."""
    items = []
    for family in families:
        for _ in range(source.randint(0, ITEMS_PER_ENTRY_MAX[family])):
            key = source.choice(KEYS) if source.random() < 0.5 else source.getrandbits(64)
            items.append((family, key))
    return items


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "fail", "crash"]),
        st.integers(1, 40),
        st.lists(st.sampled_from(Family), unique=True),
        st.integers(0, 2**32),
    ),
    max_size=12,
)


@settings(max_examples=100)
@given(STEPS)
def test_any_appends_failures_and_crashes_leave_the_index_exact(
    steps: list[tuple[str, int, list[Family], int]],
) -> None:
    shard = IndexShard(SIZES)
    for action, num_batches, families, seed in steps:
        source = random.Random(seed)
        if action == "crash":
            shard.reopen()
            stored = {blob for family in shard.index.runs.families for run in family for blob in run.blobs()}
            assert shard.blobs.keys() >= stored
            runs, made = shard.index.runs, {merge.id for merge in shard.index._merges.values()}
            left = {run for run, _ in runs.orphans(shard.blobs)}
            assert all(run in made or runs.covers(run) for run in left), "what a crash leaves goes on or goes away"
        for _ in range(num_batches if action != "crash" else 0):
            batch = [random_items(source, families) for _ in range(source.randint(0, SIZES.batch_entries_max))]
            shard.append(batch, is_stored=action == "append")
        shard.check()
    shard.reopen()
    shard.check()
