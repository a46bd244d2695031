"""Super-checkpoints: every moment holds all shards, no shard ever goes back, and one key verifies an entry of any."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from memory_log import MemoryLog, some_entries

from ledger import superlog as superlog_module
from ledger.entry import ENTRY_BYTES, Flag, Kind, as_bytes, from_bytes
from ledger.errors import (
    EntryNotFound,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LogMismatch,
    NotConsistent,
    ReceiptInvalid,
    SplitView,
    UnknownOrigin,
)
from ledger.fsck import check
from ledger.merkle import consistency_proof, verify_consistency
from ledger.note import Policy, Signer, add_cosignatures, open_checkpoint, parse_verifier_key
from ledger.peer import recorded_peer
from ledger.prove import receipt_under
from ledger.receipt import verify, verify_with_policy
from ledger.superlog import Chain, SuperLog, View, is_chain, parse_chain, stored_chain, stored_newest, verify_chain
from ledger.tile_client import VerifiedTiles
from ledger.tiles import serve
from ledger.witness import Witness, build_request

NUM_SHARDS = 3
NOW_S = 1_700_000_000
WITNESS = Signer("witness.example/w1", b"w" * 32)
SIGNERS = [Signer(f"example.org/log/shard-{number}", b"s" * 32) for number in range(NUM_SHARDS + 1)]


def log_of(number: int, num_entries: int = 40, first: int = 0) -> MemoryLog:
    """A shard with entries of its own."""
    entries = from_bytes(memoryview(bytearray(some_entries(num_entries, first + 1000 * number))))
    entries["shard"] = number
    return MemoryLog(as_bytes(entries).tobytes(), SIGNERS[number])


LOGS = [log_of(number) for number in range(NUM_SHARDS + 1)]
FORKED = MemoryLog(LOGS[1].entries[: 8 * ENTRY_BYTES] + log_of(1, 32, first=500).entries, SIGNERS[1])
"""Shard 1 up to 8 entries, then another history, signed with the same key."""


def view(number: int, old: int, new: int, log: MemoryLog | None = None) -> View:
    log = log or LOGS[number]
    return View(log.note(new), tuple(consistency_proof(old, new, log.read_node) if 0 < old < new else ()))


def moment(old: list[int], new: list[int]) -> list[View]:
    return [view(number, old[number] if number < len(old) else 0, size) for number, size in enumerate(new)]


@pytest.fixture
def open_super(tmp_path: Path) -> Callable[[int], SuperLog]:
    def opener(num_keys: int = NUM_SHARDS) -> SuperLog:
        keys = [signer.key for signer in SIGNERS[:num_keys]]
        return SuperLog.open(tmp_path, "example.org/log", keys, lambda: NOW_S * 10**9, entropy=os.urandom)

    return opener


@pytest.fixture
def superlog(open_super: Callable[..., SuperLog]) -> Iterator[SuperLog]:
    opened = open_super()
    yield opened
    opened.close()


@pytest.fixture
def policy(superlog: SuperLog, tmp_path: Path) -> Policy:
    """The super-log's own key, as a third party gets it."""
    return Policy((parse_verifier_key((tmp_path / "super/verifier.keys").read_text().strip()),))


# ---- moments


def test_a_moment_holds_every_shards_checkpoint_in_order_of_the_shards(superlog: SuperLog, policy: Policy) -> None:
    views = moment([], [13, 0, 7])
    checkpoint = open_checkpoint(superlog.commit([views[2], views[0], views[1]]), policy.log_keys)
    assert (checkpoint.origin, checkpoint.tree_size) == ("example.org/log/super/shard-0", NUM_SHARDS)
    for number, size in enumerate([13, 0, 7]):
        entry = superlog.log.entry(number)
        assert (entry.kind, entry.code, entry.amount) == (Kind.PEER, number, size)
        assert entry.content_hash == LOGS[number].root(size)
        assert bool(entry.flags & Flag.LINKED) == (number < NUM_SHARDS - 1)
        peer = recorded_peer(entry, superlog.log.meta(number))
        assert (peer.checkpoint.origin, peer.note) == (SIGNERS[number].name, LOGS[number].note(size))
    assert superlog.sizes() == {0: 13, 1: 0, 2: 7}


def test_every_super_checkpoint_is_consistent_with_all_before(superlog: SuperLog, policy: Policy) -> None:
    sizes = [[0, 0, 0], [1, 0, 0], [1, 2, 3], [40, 2, 4], [40, 40, 40]]
    notes = [superlog.commit(moment(old, new)) for old, new in zip([[], *sizes], sizes, strict=False)]
    checkpoints = [open_checkpoint(note, policy.log_keys) for note in notes]
    assert [checkpoint.tree_size for checkpoint in checkpoints] == [3, 6, 9, 12, 15]
    for place, old in enumerate(checkpoints):
        for new in checkpoints[place:]:
            proof = superlog.log.consistency(old.tree_size, new.tree_size)
            verify_consistency(old.tree_size, new.tree_size, old.root, new.root, proof)


def test_a_moment_in_which_nothing_grew_is_the_newest_one_still(superlog: SuperLog) -> None:
    first = superlog.commit(moment([], [13, 0, 7]))
    assert superlog.commit(moment([13, 0, 7], [13, 0, 7])) == first
    assert superlog.log.tree_size == NUM_SHARDS


def test_the_newest_moment_is_remembered(open_super: Callable[..., SuperLog]) -> None:
    superlog = open_super()
    superlog.commit(moment([], [13, 0, 7]))
    before = superlog.commit(moment([13, 0, 7], [13, 5, 9]))
    superlog.close()
    again = open_super()
    assert again.sizes() == {0: 13, 1: 5, 2: 9}
    assert again.checkpoint() == before
    with pytest.raises(NotConsistent):
        again.commit(moment([], [13, 5, 8]))
    again.commit(moment([13, 5, 9], [14, 5, 9]))
    again.close()


def test_a_shard_may_join_and_none_may_leave(open_super: Callable[..., SuperLog]) -> None:
    superlog = open_super()
    superlog.commit(moment([], [13, 0, 7]))
    superlog.close()
    wider = open_super(NUM_SHARDS + 1)
    wider.commit(moment([13, 0, 7], [13, 0, 7, 0]))
    assert wider.sizes() == {0: 13, 1: 0, 2: 7, 3: 0}
    wider.close()
    with pytest.raises(LogMismatch, match="3"):
        open_super(NUM_SHARDS)
    open_super(NUM_SHARDS + 1).close()  # what was refused did not stay open


def test_a_shard_that_does_not_show_itself_stays_as_it_was(superlog: SuperLog, policy: Policy) -> None:
    superlog.commit(moment([], [13, 0, 7]))
    note = superlog.commit([view(2, 7, 9)])
    assert superlog.sizes() == {0: 13, 1: 0, 2: 9}
    assert open_checkpoint(note, policy.log_keys).tree_size == 2 * NUM_SHARDS
    assert superlog.commit([]) == note
    superlog.commit(moment([13, 0, 9], [14, 2, 9]))
    assert superlog.sizes() == {0: 14, 1: 2, 2: 9}


def test_a_full_moment_is_found_again_after_another_one(
    open_super: Callable[..., SuperLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many shards as there may be: nothing but the entry before the moment says where it begins."""
    monkeypatch.setattr(superlog_module, "NUM_WATCHED_MAX", NUM_SHARDS)
    superlog = open_super()
    superlog.commit(moment([], [13, 0, 7]))
    superlog.commit(moment([13, 0, 7], [13, 5, 9]))
    superlog.close()
    again = open_super()
    assert again.sizes() == {0: 13, 1: 5, 2: 9}
    again.close()


def test_a_super_log_may_grow_as_large_as_its_owner_says(tmp_path: Path) -> None:
    keys = [signer.key for signer in SIGNERS]
    with (
        closing(
            SuperLog.open(tmp_path, "example.org/log", keys, lambda: 1, entropy=os.urandom, map_bytes=1 << 16)
        ) as superlog,
        pytest.raises(LedgerFull, match="map is full"),
    ):
        for size in range(1, 40):
            superlog.commit(moment([size - 1] * NUM_SHARDS, [size] * NUM_SHARDS))


# ---- what was begun is not begun again


@pytest.mark.parametrize("part", ["super", "super/key", "super/shard-000"])
def test_a_super_log_that_was_lost_is_not_begun_anew(
    open_super: Callable[..., SuperLog], tmp_path: Path, part: str
) -> None:
    superlog = open_super()
    superlog.commit(moment([], [13, 0, 7]))
    superlog.close()
    (tmp_path / "super").rename(tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", tmp_path / "super")
    lost = tmp_path / part
    if lost.is_dir():
        shutil.rmtree(lost)
    else:
        lost.unlink()
    for read in (open_super, lambda: stored_newest(tmp_path)):
        with pytest.raises(LedgerCorrupt, match="second history") as caught:
            read()
        assert caught.value.where == str(tmp_path / "super.begun")
    assert not lost.exists(), "nothing was made in its place"
    shutil.rmtree(tmp_path / "super", ignore_errors=True)
    (tmp_path / "copy").rename(tmp_path / "super")
    restored = open_super()
    assert restored.sizes() == {0: 13, 1: 0, 2: 7}
    restored.close()


def test_a_super_log_in_the_place_of_another_is_refused(open_super: Callable[..., SuperLog], tmp_path: Path) -> None:
    open_super().close()
    begun = tmp_path / "super.begun"
    assert begun.read_text() == (tmp_path / "super/verifier.keys").read_text()
    shutil.rmtree(tmp_path / "super")
    line = begun.read_text()
    begun.unlink()
    open_super().close()
    begun.write_text(line)
    with pytest.raises(LedgerCorrupt, match="another key"):
        open_super()


def test_a_super_log_that_lost_the_word_that_it_was_begun_gets_it_again(
    open_super: Callable[..., SuperLog], tmp_path: Path
) -> None:
    open_super().close()
    line = (tmp_path / "super.begun").read_text()
    (tmp_path / "super.begun").unlink()
    open_super().close()
    assert (tmp_path / "super.begun").read_text() == line


def test_the_newest_moment_is_read_beside_the_owner_and_there_may_be_none(
    open_super: Callable[..., SuperLog], tmp_path: Path
) -> None:
    assert stored_newest(tmp_path) == {}
    superlog = open_super()
    superlog.commit(moment([], [13, 0, 7]))
    newest = superlog.newest()
    superlog.close()
    assert stored_newest(tmp_path) == newest
    assert [(each.tree_size, each.root) for each in newest.values()] == [
        (size, LOGS[number].root(size)) for number, size in enumerate([13, 0, 7])
    ]


# ---- refusals

REFUSALS: list[tuple[str, Callable[[], list[View]], type[LedgerError]]] = [
    ("a shard that went back", lambda: moment([13, 8, 7], [13, 7, 7]), NotConsistent),
    ("a shard that went back while others grew", lambda: moment([13, 8, 7], [20, 7, 9]), NotConsistent),
    ("one size, two trees", lambda: [view(0, 13, 13), view(1, 13, 13, FORKED), view(2, 7, 7)], SplitView),
    ("a fork", lambda: [view(0, 13, 13), view(1, 13, 20, FORKED), view(2, 7, 7)], NotConsistent),
    ("growth without a proof", lambda: [view(0, 0, 14), view(1, 13, 13), view(2, 7, 7)], NotConsistent),
    ("a proof where none is needed", lambda: [view(0, 13, 13), view(1, 13, 13), proved_anyway()], NotConsistent),
    ("a shard twice", lambda: [*moment([13, 13, 7], [14, 14, 8]), view(1, 13, 14)], UnknownOrigin),
    ("a shard that is not watched", lambda: [*moment([13, 13, 7], [14, 14, 8]), view(3, 0, 8)], UnknownOrigin),
    ("another key", lambda: [resigned(), *moment([13, 13, 7], [14, 14, 8])[1:]], ReceiptInvalid),
    ("the name of a shard only", lambda: [View("x\n"), *moment([13, 13, 7], [14, 14, 8])[1:]], ReceiptInvalid),
]


def proved_anyway() -> View:
    return View(LOGS[2].note(7), (bytes(32),))


def resigned() -> View:
    stranger = MemoryLog(LOGS[0].entries, Signer(SIGNERS[0].name, b"x" * 32))
    return view(0, 13, 14, stranger)


@pytest.mark.parametrize(("make", "kind"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_does_not_follow_is_refused_and_changes_nothing(
    superlog: SuperLog, make: Callable[[], list[View]], kind: type[LedgerError]
) -> None:
    before = superlog.commit(moment([], [13, 13, 7]))
    with pytest.raises(LedgerError) as caught:
        superlog.commit(make())
    assert type(caught.value) is kind
    assert superlog.checkpoint() == before
    assert superlog.sizes() == {0: 13, 1: 13, 2: 7}
    superlog.commit(moment([13, 13, 7], [14, 14, 8]))


def test_a_super_log_without_a_key_for_each_number_does_not_open(tmp_path: Path) -> None:
    twice = [SIGNERS[0].key, Signer(SIGNERS[0].name, b"x" * 32).key]
    with pytest.raises(LogMismatch):
        SuperLog.open(tmp_path, "example.org/log", twice, lambda: 1, entropy=os.urandom)


def test_a_moment_whose_evidence_was_swapped_is_noticed_on_opening(superlog: SuperLog, tmp_path: Path) -> None:
    superlog.commit(moment([], [13, 0, 7]))
    entry, meta = superlog.log.entry(0), superlog.log.meta(1)
    with pytest.raises(LedgerCorrupt, match="another checkpoint"):
        recorded_peer(entry, meta)
    with pytest.raises(LedgerCorrupt, match="no checkpoint"):
        recorded_peer(entry, b'{"checkpoint":"13"}')


# ---- chains


def test_an_entry_of_any_shard_is_verified_with_the_super_logs_key_alone(superlog: SuperLog, policy: Policy) -> None:
    superlog.commit(moment([], [13, 1, 7]))
    superlog.commit(moment([13, 1, 7], [13, 1, 9]))
    for number, index in [(0, 0), (0, 12), (1, 0), (2, 8)]:
        text = superlog.chain(LOGS[number], index).text()
        assert is_chain(text)
        verified = verify_chain(text, policy)
        assert (verified.entry.origin, verified.entry.index) == (SIGNERS[number].name, index)
        assert verified.entry.tree_size == superlog.sizes()[number]
        assert verified.super_checkpoint.checkpoint.tree_size == 2 * NUM_SHARDS


def test_both_halves_of_a_chain_are_receipts_of_the_known_form(superlog: SuperLog, policy: Policy) -> None:
    superlog.commit(moment([], [13, 1, 7]))
    chain = superlog.chain(LOGS[2], 3)
    assert parse_chain(chain.text()) == chain
    assert verify(chain.entry, [str(SIGNERS[2].key)]).index == 3
    assert verify(chain.shard, [str(policy.log_keys[0])]).index == 2
    assert not is_chain(chain.entry)


def test_a_chain_out_of_the_directory_is_the_super_logs_own(superlog: SuperLog, policy: Policy, tmp_path: Path) -> None:
    superlog.commit(moment([], [13, 1, 7]))
    superlog.commit(moment([13, 1, 7], [13, 1, 9]))
    told = superlog.chain(LOGS[2], 8)
    superlog.close()
    assert stored_chain(tmp_path, LOGS[2], 8) == told
    assert verify_chain(told.text(), policy).entry.index == 8
    with pytest.raises(EntryNotFound, match="entry 9"):
        stored_chain(tmp_path, LOGS[2], 9)
    with pytest.raises(EntryNotFound, match="in no moment"):
        stored_chain(tmp_path, LOGS[3], 0)
    with pytest.raises(EntryNotFound):
        stored_chain(tmp_path / "nothing", LOGS[2], 8)


def test_what_the_newest_moment_does_not_cover_has_no_chain_yet(superlog: SuperLog) -> None:
    with pytest.raises(EntryNotFound, match="in no moment"):
        superlog.chain(LOGS[0], 0)
    superlog.commit(moment([], [13, 1, 7]))
    with pytest.raises(EntryNotFound, match="entry 13"):
        superlog.chain(LOGS[0], 13)


def test_a_chain_of_a_forked_shard_does_not_verify(superlog: SuperLog, policy: Policy) -> None:
    """The fork signs well and proves well; but the super-log has never seen it."""
    superlog.commit(moment([], [13, 20, 7]))
    forged = Chain(receipt_under(FORKED, 9, FORKED.note(20)), superlog.chain(LOGS[1], 9).shard)
    assert verify(forged.entry, [str(SIGNERS[1].key)]).index == 9
    with pytest.raises(ReceiptInvalid, match="step 3 link"):
        verify_chain(forged.text(), policy)


def test_halves_of_different_shards_or_moments_are_no_chain(superlog: SuperLog, policy: Policy) -> None:
    superlog.commit(moment([], [13, 13, 7]))
    old, other = superlog.chain(LOGS[0], 3), superlog.chain(LOGS[1], 3)
    superlog.commit(moment([13, 13, 7], [20, 13, 7]))
    new = superlog.chain(LOGS[0], 3)
    verify_chain(old.text(), policy)
    for mixed in (Chain(old.entry, other.shard), Chain(old.entry, new.shard), Chain(new.entry, old.shard)):
        with pytest.raises(ReceiptInvalid, match="step 3 link"):
            verify_chain(mixed.text(), policy)


def test_a_chain_with_any_line_changed_does_not_verify(superlog: SuperLog, policy: Policy) -> None:
    superlog.commit(moment([], [13, 13, 7]))
    text = superlog.chain(LOGS[0], 3).text()
    lines = text.split("\n")
    shard_signature = next(place for place, line in enumerate(lines) if line.startswith("— example.org/log/shard-0"))
    for place, line in enumerate(lines):
        if not line or place == shard_signature:
            continue  # an empty line has nothing to change, and the shard's own signature is not looked at
        middle = len(line) // 2
        changed = [*lines[:place], line[:middle] + chr(ord(line[middle]) ^ 1) + line[middle + 1 :], *lines[place + 1 :]]
        with pytest.raises(LedgerError):
            verify_chain("\n".join(changed), policy)


def test_content_that_was_not_recorded_does_not_verify(superlog: SuperLog, policy: Policy) -> None:
    superlog.commit(moment([], [13, 13, 7]))
    with pytest.raises(ReceiptInvalid, match="step 7 content"):
        verify_chain(superlog.chain(LOGS[0], 3).text(), policy, b"something else")


@pytest.mark.parametrize("text", ["", "\n\n", "c2sp.org/tlog-proof@v1\n" * 2])
def test_what_is_not_two_receipts_is_no_chain(policy: Policy, text: str) -> None:
    with pytest.raises(ReceiptInvalid):
        verify_chain(text, policy)


# ---- what every log can do, the super-log can


def test_a_witnessed_super_checkpoint_stands_for_every_shard(
    superlog: SuperLog, policy: Policy, tmp_path: Path
) -> None:
    (tmp_path / "witness").mkdir()
    witness = Witness(tmp_path / "witness", WITNESS, policy.log_keys)
    note = superlog.commit(moment([], [13, 13, 7]))
    line = witness.add_checkpoint(build_request(0, [], note), NOW_S)
    cosigned = add_cosignatures(note, line, [WITNESS.witness_key])
    chain = superlog.chain(LOGS[2], 6)
    witnessed = Chain(chain.entry, receipt_under(superlog.log, 2, cosigned))
    strict = Policy(policy.log_keys, (WITNESS.witness_key,), 1)
    assert verify_chain(witnessed.text(), strict).super_checkpoint.cosignatures[0].time_s == NOW_S
    with pytest.raises(ReceiptInvalid, match="0 of the 1 witnesses"):
        verify_chain(chain.text(), strict)


def test_the_super_log_is_served_as_tiles(superlog: SuperLog, policy: Policy) -> None:
    superlog.commit(moment([], [13, 13, 7]))
    superlog.commit(moment([13, 13, 7], [14, 13, 7]))
    tiles = VerifiedTiles(lambda path: serve(path, superlog.log), policy)
    amounts = from_bytes(tiles.read_entries(0, 6))["amount"]
    assert np.array_equal(amounts, [13, 13, 7, 14, 13, 7])


def test_fsck_re_derives_the_super_log_and_finds_it_clean(open_super: Callable[..., SuperLog], tmp_path: Path) -> None:
    superlog = open_super()
    superlog.commit(moment([], [13, 13, 7]))
    superlog.commit(moment([13, 13, 7], [14, 13, 7]))
    superlog.close()
    report = check(tmp_path / "super")
    assert (report.problems, report.num_entries) == ((), 6)


def test_a_super_log_into_which_somebody_else_wrote_does_not_open(open_super: Callable[..., SuperLog]) -> None:
    superlog = open_super()
    superlog.commit(moment([], [13, 13, 7]))
    entries = from_bytes(memoryview(bytearray(superlog.log.read_entries(0, 1))))
    entries["id"] = np.void(b"i" * 16)
    entries["meta_hash"], entries["flags"] = np.void(bytes(32)), 0
    superlog.log.append(entries)
    superlog.close()
    with pytest.raises(LedgerCorrupt, match="no whole moment"):
        open_super()


# ---- receipts under a checkpoint of one's choice


def test_a_receipt_can_be_had_under_every_checkpoint_that_covers_the_entry() -> None:
    for size in (4, 8, 13, 40):
        verified, _ = verify_with_policy(receipt_under(LOGS[1], 3, LOGS[1].note(size)), Policy((SIGNERS[1].key,)))
        assert (verified.index, verified.tree_size) == (3, size)


def test_a_receipt_that_would_not_verify_is_not_given_out() -> None:
    with pytest.raises(LedgerCorrupt, match="would not verify"):
        receipt_under(LOGS[1], 3, FORKED.note(13))
    with pytest.raises(ReceiptInvalid, match="shard-0"):
        receipt_under(LOGS[1], 3, LOGS[0].note(13))
    with pytest.raises(EntryNotFound):
        receipt_under(LOGS[1], 13, LOGS[1].note(13))
    smaller = log_of(1, 10)
    with pytest.raises(EntryNotFound, match="there are 10"):
        receipt_under(smaller, 3, LOGS[1].note(13))


def test_a_policy_asks_for_cosignatures_and_a_plain_key_does_not(tmp_path: Path) -> None:
    witness = Witness(tmp_path, WITNESS, [SIGNERS[0].key])
    line = witness.add_checkpoint(build_request(0, [], LOGS[0].note(13)), NOW_S)
    strict = Policy((SIGNERS[0].key,), (WITNESS.witness_key,), 1)
    plain = receipt_under(LOGS[0], 5, LOGS[0].note(13))
    verified, witnessed = verify_with_policy(plain + line, strict)
    assert (verified.index, [cosignature.time_s for cosignature in witnessed.cosignatures]) == (5, [NOW_S])
    with pytest.raises(ReceiptInvalid, match=r"step 2 policy.*0 of the 1"):
        verify_with_policy(plain, strict)
    assert verify(plain + line, [str(SIGNERS[0].key)]).index == 5
