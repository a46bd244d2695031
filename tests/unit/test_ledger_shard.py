"""The shard: one entry an id for ever, parents before children, and reads that check what they give."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from settling import id_of
from shards import NOW_NS, append_assets, asset, bare, columns, content_of, keys_of, open_shard, payloads_of, root_of

from ledger.entry import ENTRY_BYTES, Entries, Entry, Kind, encode, zeros
from ledger.errors import EntryInvalid, EntryNotFound, LedgerCorrupt, LedgerFull
from ledger.head import Head
from ledger.index import Sizes
from ledger.log import shard_path
from ledger.merkle import EMPTY_ROOT, verify_consistency
from ledger.note import open_checkpoint, read_checkpoint
from ledger.payload import BATCH_BYTES_MAX, Payload, canonical_json
from ledger.reader import Reader
from ledger.receipt import verify
from ledger.result import Result
from ledger.runs import Family
from ledger.shard import Publishing, Shard
from ledger.store import Store

MS = 1_000_000
SMALL = Sizes(block_entries=64, batch_entries_max=16, segment_items=8, fan_in=3)
"""A run every 48 entries, and a merge of every three."""

FOREIGN_SHARD = 7


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    with open_shard(tmp_path) as opened:
        yield opened


@pytest.fixture(params=["append", "sequence"])
def append(request: pytest.FixtureRequest, shard: Shard) -> Callable[..., list[tuple[int, Result]]]:
    """Both ways to record a batch, which answer alike: index and result of each entry, 0 where it has no meaning."""

    def call(*entries: Entry, payloads: list[Payload] | None = None) -> list[tuple[int, Result]]:
        answers = getattr(shard, request.param)(columns(*entries), payloads).answers()
        return [
            (
                answer.index if answer.result == Result.OK or answer.result.name.startswith("EXISTS") else 0,
                answer.result,
            )
            for answer in answers
        ]

    return call


Append = Callable[..., list[tuple[int, Result]]]


def commit_of(shard: Shard) -> int:
    """How many commits there have been."""
    with shard._store.read() as snapshot:
        return snapshot.commit


def test_a_new_shard_has_a_signed_checkpoint_of_the_empty_tree(shard: Shard, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(shard.checkpoint(), [keys_of(tmp_path).signers[0].key])
    assert (checkpoint.origin, checkpoint.tree_size, checkpoint.root) == ("mintage.local/shard-0", 0, EMPTY_ROOT)
    assert shard.tree_size == 0


def test_what_was_appended_is_read_back(shard: Shard) -> None:
    meta = canonical_json({"policy": "Zoë", "score": 0.5})
    model = Entry(kind=Kind.MODEL, id=id_of(1))
    made = asset(2, tier=3, amount=9, parents=((0, 0),), meta_hash=hashlib.sha256(meta).digest())
    shard.append(columns(model, made), [Payload(), Payload(content_of(2), meta)])
    assert shard.entry(1) == msgspec.structs.replace(made, time_ns=NOW_NS + 1)
    assert (shard.content(1), shard.meta(1)) == (content_of(2), meta)
    assert (shard.find(id_of(2)), shard.find(id_of(3))) == (1, None)
    assert shard.read_entries(0, 2) == encode(shard.entry(0)) + encode(shard.entry(1))


def test_version_shard_and_time_are_the_shards_own(shard: Shard) -> None:
    claimed = columns(bare(1, shard=5, time_ns=2**63)).copy()
    claimed["version"] = 1
    assert shard.append(claimed).results.tolist() == [Result.OK]
    entry = shard.entry(0)
    assert (entry.version, entry.shard, entry.time_ns) == (2, 0, NOW_NS)
    assert claimed["shard"].tolist() == [5], "the caller's columns stay as they were"


def test_a_repeat_is_answered_with_the_first_place_and_writes_nothing(shard: Shard, append: Append) -> None:
    assert append(bare(1)) == [(0, Result.OK)]
    before = shard.checkpoint(), commit_of(shard)
    assert append(bare(1)) == append(bare(1, time_ns=5, shard=9)) == [(0, Result.EXISTS)]
    assert (shard.checkpoint(), commit_of(shard), shard.num_pending) == (*before, 0)


def test_another_entry_under_a_used_id_is_told_what_differs_and_the_others_go_in(shard: Shard, append: Append) -> None:
    append(bare(1))
    assert append(bare(2), bare(1, request_hash=b"x" * 32), bare(1, kind=Kind.MODEL), bare(3)) == [
        (1, Result.OK),
        (0, Result.EXISTS_WITH_DIFFERENT_REQUEST),
        (0, Result.EXISTS_WITH_DIFFERENT_KIND),
        (2, Result.OK),
    ]
    assert shard.entry(0).kind == Kind.ASSET


def test_repeats_inside_one_batch_are_found(shard: Shard, append: Append) -> None:
    assert append(
        asset(1), asset(1), asset(1, amount=4), asset(2), asset(1), payloads=payloads_of([1, 1, 1, 2, 1])
    ) == [
        (0, Result.OK),
        (0, Result.EXISTS),
        (0, Result.EXISTS_WITH_DIFFERENT_AMOUNT),
        (1, Result.OK),
        (0, Result.EXISTS),
    ]
    assert [shard.content(index) for index in (0, 1)] == [content_of(1), content_of(2)]
    assert shard.tree_size == 2


def test_an_entry_that_was_refused_leaves_its_id_free(append: Append) -> None:
    assert append(bare(1, parents=((0, 9),)), bare(1), bare(1)) == [
        (0, Result.UNKNOWN_PARENT),
        (0, Result.OK),
        (0, Result.EXISTS),
    ]


def test_ids_are_remembered_for_ever_however_the_index_keeps_them(tmp_path: Path) -> None:
    """In memory, in the write-ahead log, in runs, in merged ones; after opening again; and new ones are never taken
    for old ones, though ids differ in one bit."""
    numbers = iter(range(1, 100_000))
    recorded: list[int] = []
    for life in range(5):
        with open_shard(tmp_path, sizes=SMALL, publishing=Publishing(50)) as shard:
            for turn in range(40):
                chosen = [next(numbers) for _ in range(16 - turn % 3)]
                append = shard.sequence if (turn + life) % 3 else shard.append
                assert set(append(columns(*map(bare, chosen))).results.tolist()) == {Result.OK}
                recorded += chosen
                again = [*recorded[-5:], *recorded[turn :: len(recorded) // 6]][: SMALL.batch_entries_max]
                repeated = append(columns(*map(bare, again)))
                assert set(repeated.results.tolist()) == {Result.EXISTS}
                assert repeated.indices.tolist() == [recorded.index(number) for number in again]
            assert shard.tree_size == len(recorded)
    runs = shard._writer.memory.index.runs.families[Family.ID]
    assert max(run.level for run in runs) >= 3
    with open_shard(tmp_path, sizes=SMALL) as shard:
        for begin in range(0, len(recorded), 16):
            chosen = recorded[begin : begin + 16]
            assert shard.append(columns(*map(bare, chosen))).indices.tolist() == list(range(begin, begin + len(chosen)))
        assert [shard.find(id_of(number)) for number in recorded[::37]] == list(range(len(recorded)))[::37]


def test_threads_that_append_the_same_ids_at_once_write_each_once(shard: Shard) -> None:
    def append_all(number: int) -> list[tuple[int, int]]:
        append = shard.sequence if number % 2 else shard.append
        answers = [append(columns(bare(1 + place))).answer(0) for place in range(40)]
        return [(answer.index, answer.result) for answer in answers]

    with ThreadPoolExecutor(4) as pool:
        by_thread = list(pool.map(append_all, range(4)))
    assert shard.tree_size == 40
    for answers in zip(*by_thread, strict=True):
        assert len({index for index, _ in answers}) == 1
        assert sorted(result for _, result in answers) == [Result.OK] + [Result.EXISTS] * 3


@pytest.mark.parametrize("payloads", [None, []])
def test_an_empty_batch_changes_nothing(shard: Shard, payloads: list[Payload] | None) -> None:
    before = shard.checkpoint(), commit_of(shard)
    assert len(shard.append(zeros(0), payloads).results) == len(shard.sequence(zeros(0), payloads).results) == 0
    assert (shard.checkpoint(), commit_of(shard)) == before


def test_a_parent_may_come_earlier_in_the_same_batch_but_not_later(append: Append) -> None:
    entries = bare(1), bare(2, parents=((0, 0),)), bare(3, parents=((0, 3),)), bare(4, parents=((0, 2),)), bare(5)
    assert [result for _, result in append(*entries)] == [
        Result.OK,
        Result.OK,
        Result.UNKNOWN_PARENT,
        Result.UNKNOWN_PARENT,
        Result.OK,
    ], "entry 3 was not recorded, so entry 4 has no index that it could name"


def test_an_entry_is_not_its_own_parent(append: Append) -> None:
    assert append(bare(1, parents=((0, 0),))) == [(0, Result.UNKNOWN_PARENT)]


def test_an_unknown_parent_refuses_its_entry_and_no_other(shard: Shard, append: Append) -> None:
    append(bare(1))
    entries = bare(2, parents=((0, 0), (0, 2**64 - 1))), bare(3, parents=((1, 0),)), bare(4, parents=((0, 0),))
    assert append(*entries) == [(0, Result.UNKNOWN_PARENT)] * 2 + [(1, Result.OK)]
    assert shard.find(id_of(2)) is shard.find(id_of(3)) is None


def test_a_parent_in_another_shard_needs_to_be_covered_by_its_checkpoint(shard: Shard, append: Append) -> None:
    shard.cover(FOREIGN_SHARD, 6)
    shard.cover(FOREIGN_SHARD, 3)  # an older checkpoint takes nothing back
    shard.cover(0, 100)  # of its own entries a shard knows itself which there are
    entries = [
        bare(1 + place, parents=(parent,)) for place, parent in enumerate(((7, 5), (7, 6), (6, 5), (8, 0), (0, 50)))
    ]
    assert append(*entries) == [(0, Result.OK)] + [(0, Result.UNKNOWN_PARENT)] * 4
    assert shard.entry(0).parents == ((FOREIGN_SHARD, 5),)


def test_a_repeat_is_answered_whatever_is_known_of_its_parents(tmp_path: Path) -> None:
    """After opening a shard knows nothing of the others, and a caller may ask again for what it has recorded."""
    derived = bare(1, parents=((FOREIGN_SHARD, 5),))
    with open_shard(tmp_path) as shard:
        shard.cover(FOREIGN_SHARD, 6)
        assert shard.append(columns(derived)).results.tolist() == [Result.OK]
    with open_shard(tmp_path) as shard:
        assert shard.append(columns(derived)).results.tolist() == [Result.EXISTS]
        other = msgspec.structs.replace(derived, id=id_of(2))
        assert shard.append(columns(other)).results.tolist() == [Result.UNKNOWN_PARENT]


@pytest.mark.parametrize("call", ["append", "sequence"])
def test_a_batch_has_limits(tmp_path: Path, call: str) -> None:
    half = bytes(BATCH_BYTES_MAX // 2 + 1)
    digest = hashlib.sha256(half).digest()
    with open_shard(tmp_path, sizes=SMALL) as shard:
        with pytest.raises(EntryInvalid, match="17 entries"):
            getattr(shard, call)(columns(*(bare(1 + place) for place in range(17))))
        with pytest.raises(EntryInvalid, match="bytes of payload"):
            large = [asset(1 + place, content_hash=digest, num_bytes=len(half)) for place in range(2)]
            getattr(shard, call)(columns(*large), [Payload(half)] * 2)
        assert shard.tree_size == 0
        assert (
            getattr(shard, call)(columns(*(bare(1 + place) for place in range(16)))).results.tolist()
            == [Result.OK] * 16
        )


@pytest.mark.parametrize("wrong", [np.concatenate([zeros(1), zeros(1)]), np.zeros((2, ENTRY_BYTES), np.uint8)])
@pytest.mark.parametrize("call", ["append", "sequence"])
def test_columns_of_something_else_are_refused(shard: Shard, call: str, wrong: Entries) -> None:
    with pytest.raises(EntryInvalid, match="no entries"):
        getattr(shard, call)(wrong)
    assert shard.tree_size == 0


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (Payload(b"another content"), "content_hash"),
        (Payload(content_of(1), b"unnamed"), "meta_hash"),
        (Payload(content_of(1)[:-1]), "content_hash"),
        (Payload(), "num_bytes"),
    ],
)
@pytest.mark.parametrize("call", ["append", "sequence"])
def test_a_payload_that_is_not_its_entrys_refuses_the_whole_batch(
    shard: Shard, call: str, payload: Payload, field: str
) -> None:
    with pytest.raises(EntryInvalid) as caught:
        getattr(shard, call)(columns(bare(2), asset(1)), [Payload(), payload])
    assert caught.value.where == field
    assert (shard.tree_size, shard.num_pending) == (0, 0)


def test_equal_contents_are_two_entries_each_with_its_own(shard: Shard) -> None:
    shard.append(columns(asset(1), asset(1, id=id_of(2))), payloads_of([1, 1]))
    shard.append(columns(Entry(kind=Kind.ERASURE, id=id_of(3), subject=id_of(1))))
    assert shard.content(1) == content_of(1)
    with pytest.raises(EntryNotFound):
        shard.content(0)


@pytest.mark.parametrize("is_bare", [True, False])
def test_a_content_that_is_lost_is_told_from_one_that_was_erased_or_is_kept_elsewhere(
    shard: Shard, is_bare: bool
) -> None:
    shard.append(columns(bare(1)) if is_bare else columns(asset(1)), None if is_bare else payloads_of([1]))
    shard.append(columns(Entry(kind=Kind.OWNERSHIP, id=id_of(2), subject=id_of(1), owner=id_of(8))))
    with shard._store.write() as batch:
        batch.erase_payload(0)
    with pytest.raises(EntryNotFound if is_bare else LedgerCorrupt, match="kept elsewhere" if is_bare else "is gone"):
        shard.content(0)


def test_a_content_that_was_erased_does_not_come_back_with_a_repeat(shard: Shard) -> None:
    append_assets(shard, [1])
    shard.append(columns(Entry(kind=Kind.ERASURE, id=id_of(2), subject=id_of(1))))
    assert append_assets(shard, [1, 3]) == [Result.EXISTS, Result.OK]
    with pytest.raises(EntryNotFound, match="erased, or is kept elsewhere"):
        shard.content(0)
    assert shard.content(2) == content_of(3)


def test_an_erased_content_is_gone_and_its_entry_is_proved_all_the_same(shard: Shard, tmp_path: Path) -> None:
    meta = b'{"name":"x"}'
    named = asset(1, meta_hash=hashlib.sha256(meta).digest())
    shard.append(columns(named), [Payload(content_of(1), meta)])
    before, proved = shard.entry(0), shard.receipt(0)
    erasure = Entry(kind=Kind.ERASURE, id=id_of(2), subject=id_of(1), owner=id_of(1))
    unknown = Entry(kind=Kind.ERASURE, id=id_of(3), subject=id_of(9))
    assert shard.append(columns(erasure, unknown)).results.tolist() == [Result.OK, Result.ASSET_NOT_FOUND]
    for read in (shard.content, shard.meta):
        with pytest.raises(EntryNotFound, match="erased"):
            read(0)
    assert shard.entry(0) == before
    keys = keys_of(tmp_path).verifier_keys
    assert verify(shard.receipt(0), keys, content_of(1)).entry == verify(proved, keys).entry == before


def test_an_asset_that_is_only_in_the_write_ahead_log_can_be_erased(shard: Shard) -> None:
    shard.sequence(columns(asset(1), asset(2)), payloads_of([1, 2]))
    shard.sequence(columns(Entry(kind=Kind.ERASURE, id=id_of(3), subject=id_of(1))))
    with pytest.raises(EntryNotFound):
        shard.content(0)
    assert shard.content(1) == content_of(2)


@pytest.mark.parametrize("index", [-1, 2, 2**64, 2**70])
def test_what_is_not_there_is_not_found(shard: Shard, index: int) -> None:
    append_assets(shard, [1, 2])
    for read in (shard.entry, shard.content, shard.meta, shard.receipt):
        with pytest.raises(EntryNotFound):
            read(index)


def test_an_id_of_another_width_is_refused(shard: Shard) -> None:
    with pytest.raises(EntryInvalid):
        shard.find(b"short")


def test_a_receipt_can_be_had_for_every_entry_at_every_size(shard: Shard, tmp_path: Path) -> None:
    keys = keys_of(tmp_path).verifier_keys
    for number in range(1, 8):
        append_assets(shard, [number])
        for index in range(number):
            verified = verify(shard.receipt(index), keys, content_of(1 + index))
            assert (verified.index, verified.tree_size) == (index, number)
            assert verified.entry == shard.entry(index)


def test_each_checkpoint_is_consistent_with_the_ones_before(shard: Shard, tmp_path: Path) -> None:
    roots = {}
    for number in range(1, 7):
        append_assets(shard, [number])
        checkpoint = open_checkpoint(shard.checkpoint(), [keys_of(tmp_path).signers[0].key])
        roots[checkpoint.tree_size] = checkpoint.root
    assert roots[6] == root_of(encode(shard.entry(index)) for index in range(6))
    for old in range(1, 7):
        for new in range(old, 7):
            verify_consistency(old, new, roots[old], roots[new], shard.consistency(old, new))
    for old, new in ((0, 1), (3, 2), (1, 7), (-1, 2)):
        with pytest.raises(EntryNotFound):
            shard.consistency(old, new)


def test_the_stored_checkpoint_is_signed_after_so_many_entries_or_so_long(tmp_path: Path) -> None:
    times = iter(NOW_NS + MS * ms for ms in [0, 1, 2, 3, 4, 500, 501])
    sizes = []
    with open_shard(tmp_path, lambda: next(times), publishing=Publishing(num_entries=4, interval_ms=100)) as shard:
        for number in range(1, 8):
            append_assets(shard, [number])
            sizes.append(int(shard.reader().checkpoint().splitlines()[1]))
            asked = open_checkpoint(shard.checkpoint(), [keys_of(tmp_path).signers[0].key])
            assert asked.tree_size == number, "who asks is told of all that is durable"
    assert sizes == [1, 1, 1, 1, 5, 6, 6], "the first, the fifth as the fourth since, the sixth as it was late"


@pytest.mark.parametrize("record", [Shard.append, Shard.sequence])
def test_what_no_checkpoint_covers_is_signed_when_the_shard_is_closed(
    tmp_path: Path, record: Callable[..., object]
) -> None:
    with open_shard(tmp_path, publishing=Publishing(100, 10**9)) as shard:
        append_assets(shard, [1])
        record(shard, columns(asset(2)), payloads_of([2]))
        record(shard, columns(asset(3)), payloads_of([3]))
        with shard._store.read() as snapshot:
            assert read_checkpoint(Head.of(snapshot).checkpoint).tree_size == 1
    with Reader.open(shard_path(tmp_path, 0)) as reader:
        signed = open_checkpoint(reader.checkpoint(), [keys_of(tmp_path).signers[0].key])
        assert (signed.tree_size, signed.root) == (3, reader.tree(3).root)
    open_shard(tmp_path).close()


def test_a_shard_that_cannot_be_signed_to_its_end_is_closed_and_whole_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = open_shard(tmp_path, publishing=Publishing(100, 10**9))
    append_assets(shard, [1])
    append_assets(shard, [2])

    def full(*_: object) -> None:
        raise LedgerFull("no room", where="disk", fix="Make some.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", full)
        shard.close()
    with open_shard(tmp_path) as again:
        assert (again.tree_size, append_assets(again, [2])) == (2, [Result.EXISTS])


def test_what_is_sequenced_is_seen_by_every_read_and_has_its_place_already(shard: Shard, tmp_path: Path) -> None:
    append_assets(shard, [1])
    assert shard.sequence(columns(asset(2), asset(3, parents=((0, 1),))), payloads_of([2, 3])).indices.tolist() == [
        1,
        2,
    ]
    assert shard.sequence(
        columns(asset(2), bare(4, parents=((0, 2),))), [*payloads_of([2]), Payload()]
    ).results.tolist() == [Result.EXISTS, Result.OK]
    assert shard.num_pending == 3
    with shard._store.read() as snapshot:
        assert Head.of(snapshot).tree_size == 1
    assert shard.find(id_of(3)) == 2
    assert (shard.tree_size, shard.num_pending) == (4, 0)
    assert shard.content(2) == content_of(3)
    assert verify(shard.receipt(3), keys_of(tmp_path).verifier_keys).tree_size == 4


def test_what_is_sequenced_survives_a_crash_at_its_place(tmp_path: Path) -> None:
    """A copy of the directory is what a process that is killed leaves behind."""
    with open_shard(tmp_path / "log") as shard:
        append_assets(shard, [1, 2])
        shard.sequence(columns(asset(3), asset(4)), payloads_of([3, 4]))
        shard.sequence(columns(bare(5)))
        times = [NOW_NS + place for place in range(5)]
        shutil.copytree(tmp_path / "log", tmp_path / "copy")
    with open_shard(tmp_path / "copy") as shard:
        assert shard.num_pending == 3
        assert shard.append(columns(asset(4), bare(6)), [*payloads_of([4]), Payload()]).answers()[0].index == 3
        assert [shard.find(id_of(number)) for number in range(1, 7)] == list(range(6))
        assert shard.content(2) == content_of(3)
        assert [shard.entry(index).time_ns for index in range(5)] == times


def test_a_batch_too_large_for_the_write_ahead_log_is_taken_all_the_same(shard: Shard) -> None:
    large = bytes(5 * 1024 * 1024)
    entry = asset(1, content_hash=hashlib.sha256(large).digest(), num_bytes=len(large))
    assert shard.sequence(columns(entry), [Payload(large)]).results.tolist() == [Result.OK]
    assert (shard.num_pending, shard.content(0)) == (0, large)


@pytest.mark.parametrize("table", ["entries", "contents", "metas", "hashes"])
def test_a_read_gives_nothing_out_that_is_not_what_was_recorded(tmp_path: Path, table: str) -> None:
    meta = b"{}"
    named = asset(1, meta_hash=hashlib.sha256(meta).digest())
    with open_shard(tmp_path) as shard:
        shard.append(columns(named, bare(2)), [Payload(content_of(1), meta), Payload()])
        damage(shard, table)
        reads = {
            "entries": (shard.entry, shard.content, shard.meta, shard.receipt),
            "contents": (shard.content,),
            "metas": (shard.meta,),
            "hashes": (shard.entry, shard.receipt),
        }
        for read in reads[table]:
            with pytest.raises(LedgerCorrupt):
                read(0)


def damage(shard: Shard, table: str) -> None:
    """Flip a bit of the first row."""
    with shard._store.write() as batch:
        key, data = next((bytes(key), bytearray(data)) for key, data in batch.rows(table))
        data[-1 if table == "contents" else 1] ^= 1
        batch._transaction.put(key, bytes(data), db=batch._tables[table])


def test_a_sibling_that_is_damaged_makes_no_receipt(shard: Shard) -> None:
    append_assets(shard, [1, 2])
    damage(shard, "hashes")
    with pytest.raises(LedgerCorrupt, match="root"):
        shard.receipt(1)


def test_two_shards_of_the_same_entries_at_the_same_times_have_the_same_root(tmp_path: Path) -> None:
    notes = []
    for name, sizes, byte in (("one", SMALL, 1), ("other", Sizes(), 2)):
        entropy = lambda num_bytes, byte=byte: bytes([byte]) * num_bytes  # noqa: E731
        with open_shard(tmp_path / name, entropy=entropy, sizes=sizes) as shard:
            for begin in range(1, 101, 10):
                shard.append(columns(*(bare(number) for number in range(begin, begin + 10))))
            notes.append(shard.checkpoint().splitlines()[:3])
    assert notes[0] == notes[1]
