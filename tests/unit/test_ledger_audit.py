"""The auditor's questions: every answer is the log's own, and an answer that cannot be proved is not given."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from busy_log import DOLLARS, EUROS, PICTURE, SONG, make_busy
from settling import ALICE, BOB, CAROL, account, asset, ending, id_of, money
from stored_bytes import damage
from whole_log import LOG, Ledger, plain

from ledger.audit import (
    NS_PER_S,
    Moved,
    OwnerChange,
    Totals,
    changes,
    kept,
    kept_text,
    prove_existence,
    trial_balance,
    verify_existence,
    verify_kept,
)
from ledger.entry import Flag, Kind
from ledger.errors import (
    CheckpointRefused,
    EntryNotFound,
    LedgerCorrupt,
    LogMismatch,
    NotConsistent,
    ReceiptInvalid,
    SplitView,
)
from ledger.log import shard_path
from ledger.note import Checkpoint, Policy, Signer, add_cosignatures, read_checkpoint
from ledger.reader import Reader
from ledger.sequence import Sequencer

SEED = b"seed of a table."
WITNESSES = [Signer(f"witness.example/w{number}", bytes([number]) * 32) for number in range(1, 4)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def busy(ledger: Ledger) -> Ledger:
    return make_busy(ledger)


def tree(ledger: Ledger, size: int | None = None, shard: int = 0) -> Checkpoint:
    """The checkpoint that the shard would sign of so many entries; of all, by default."""
    return ledger.readers[shard].tree(ledger.shards[shard].tree_size if size is None else size)


# ---- trial balance


def test_a_trial_balance_is_the_books_and_is_balanced(busy: Ledger) -> None:
    balance = trial_balance(busy.readers[0], tree(busy), SEED, accounts_max=10)
    assert balance.currencies == {EUROS: Totals(125, 125, 0, 0), DOLLARS: Totals(4, 4, 0, 0)}
    assert balance.is_balanced
    book = busy.shards[0].book
    assert {currency: msgspec.structs.astuple(sums) for currency, sums in balance.currencies.items()} == (
        book.trial_balance()
    )
    assert balance.accounts == tuple(
        (id_of(number), book.balance(id_of(number))) for number in (ALICE, BOB, CAROL, 7, 8)
    )


@pytest.mark.parametrize(
    ("size", "posted", "pending", "num_accounts"),
    [(0, None, None, 0), (5, 0, 0, 5), (8, 100, 0, 5), (12, 100, 43, 5), (14, 125, 8, 5)],
)
def test_a_trial_balance_is_as_of_its_checkpoint(
    busy: Ledger, size: int, posted: int | None, pending: int | None, num_accounts: int
) -> None:
    balance = trial_balance(busy.readers[0], tree(busy, size), SEED)
    totals = balance.currencies.get(EUROS)
    assert totals == (None if posted is None else Totals(posted, posted, pending, pending))
    assert (balance.num_accounts, balance.accounts) == (num_accounts, ())


def test_a_balance_does_not_depend_on_the_seed(busy: Ledger) -> None:
    balances = [
        trial_balance(busy.readers[0], tree(busy), seed, accounts_max=10) for seed in (SEED, b"another seed....")
    ]
    assert balances[0] == balances[1]


def test_a_sum_that_is_off_is_not_balanced() -> None:
    assert not Totals(2, 1, 0, 0).is_balanced
    assert not Totals(1, 1, 3, 4).is_balanced


def test_a_checkpoint_with_another_root_or_log_or_more_entries_gives_no_balance(busy: Ledger) -> None:
    reader, checkpoint = busy.readers[0], tree(busy)
    with pytest.raises(LedgerCorrupt, match="do not lead to the root"):
        trial_balance(reader, Checkpoint(checkpoint.origin, checkpoint.tree_size, bytes(32)), SEED)
    with pytest.raises(LogMismatch, match="shard-1"):
        trial_balance(reader, Checkpoint(f"{LOG}/shard-1", checkpoint.tree_size, checkpoint.root), SEED)
    with pytest.raises(EntryNotFound, match="a checkpoint of 19 entries; there are 18"):
        trial_balance(reader, Checkpoint(checkpoint.origin, 19, checkpoint.root), SEED)


def test_progress_is_told_until_everything_is_done(ledger: Ledger) -> None:
    for first in range(0, 70_000, 7_000):
        ledger.shards[0].append(plain(7_000, first))
    told: list[tuple[int, int]] = []
    trial_balance(ledger.readers[0], tree(ledger), SEED, progress=lambda done, num: told.append((done, num)))
    assert told == [(65_536, 70_000), (70_000, 70_000)]


def test_a_balance_over_a_changed_entry_is_not_given_even_if_it_would_add_up(busy: Ledger) -> None:
    checkpoint = tree(busy)
    busy.close()
    damage(shard_path(busy.path, 0), 15, 80)  # the dollars: 5 instead of 4, on both sides
    with Reader.open(shard_path(busy.path, 0)) as reader:
        with pytest.raises(LedgerCorrupt, match="do not lead to the root"):
            trial_balance(reader, checkpoint, SEED)
        with pytest.raises(LedgerCorrupt, match="do not lead to the root"):
            changes(reader, reader.tree(10), checkpoint)


# ---- what changed


def test_changes_count_entries_money_and_owners(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy, 0), tree(busy))
    assert told.num_entries == {Kind.ASSET: 2, Kind.OWNERSHIP: 3, Kind.MONEY: 8, Kind.ACCOUNT: 5}
    assert told.money == {EUROS: Moved(125, 43, 8), DOLLARS: Moved(4, 0, 0)}
    picture = OwnerChange(8, id_of(PICTURE), id_of(ALICE), id_of(BOB))
    assert told.owners == (picture, OwnerChange(17, id_of(SONG), id_of(BOB), id_of(CAROL)))
    assert (told.num_owner_changes, told.proof) == (2, ())


def test_changes_between_two_sizes_are_of_the_entries_between_them(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy, 12), tree(busy, 15))
    assert told.num_entries == {Kind.MONEY: 3}
    assert told.money == {EUROS: Moved(25, 0, 8)}, "posts and expiries of what was held before"
    assert told.num_owner_changes == 0
    assert told.proof == tuple(busy.readers[0].consistency(12, 15))


def test_the_money_of_all_stretches_together_is_that_of_the_whole(busy: Ledger) -> None:
    reader, size = busy.readers[0], busy.shards[0].tree_size
    totals: dict[int, list[int]] = {}
    for begin_ in range(0, size, 5):
        told = changes(reader, tree(busy, begin_), tree(busy, min(begin_ + 5, size)))
        for currency, moved in told.money.items():
            sums = totals.setdefault(currency, [0, 0, 0])
            totals[currency] = [a + b for a, b in zip(sums, msgspec.structs.astuple(moved), strict=True)]
    whole = changes(reader, tree(busy, 0), tree(busy)).money
    assert totals == {currency: list(msgspec.structs.astuple(moved)) for currency, moved in whole.items()}


def test_nothing_changes_between_a_checkpoint_and_itself(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy), tree(busy))
    assert (told.num_entries, told.money, told.owners, told.num_owner_changes) == ({}, {}, (), 0)


def test_more_changes_of_owner_than_asked_for_are_counted_and_not_listed(busy: Ledger) -> None:
    told = changes(busy.readers[0], tree(busy, 0), tree(busy), moves_max=1)
    assert (len(told.owners), told.num_owner_changes) == (1, 2)


def test_posts_of_more_than_a_page_of_transfers_add_up(ledger: Ledger) -> None:
    num = 1_500
    ledger.record(0, account(ALICE), account(BOB))
    ledger.record(0, *(money(1000 + number, ALICE, BOB, number + 1, Flag.PENDING) for number in range(num)))
    ledger.record(0, *(ending(5000 + number, 1000 + number, Flag.POST) for number in range(num)))
    sum_ = num * (num + 1) // 2
    assert changes(ledger.readers[0], tree(ledger, 0), tree(ledger)).money == {EUROS: Moved(sum_, sum_, 0)}


@pytest.mark.parametrize("with_leaf", [False, True])
def test_what_was_held_before_and_was_changed_since_is_not_told(ledger: Ledger, with_leaf: bool) -> None:
    """Even if its leaf hash was made to agree: the nodes above it do not."""
    ledger.record(0, account(ALICE), account(BOB), money(60, BOB, ALICE, 100, Flag.PENDING))
    ledger.shards[0].append(plain(600, 0))
    old = tree(ledger)
    ledger.record(0, ending(61, 60, Flag.POST))
    new = tree(ledger)
    assert changes(ledger.readers[0], old, new).money == {EUROS: Moved(100, 0, 0)}
    ledger.close()
    damage(shard_path(ledger.path, 0), 2, 80, with_leaf=with_leaf)
    expected = "not under the checkpoint of 603" if with_leaf else "not its leaf"
    with Reader.open(shard_path(ledger.path, 0)) as reader, pytest.raises(LedgerCorrupt, match=expected):
        changes(reader, old, new)


# ---- nothing was removed


def test_what_lies_beyond_the_new_checkpoint_is_not_believed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.record(0, account(ALICE), account(BOB), money(60, ALICE, BOB, 100, Flag.PENDING))
    old = tree(ledger)
    ledger.record(0, ending(61, 60, Flag.POST))
    new = tree(ledger)
    honest = changes(ledger.readers[0], old, new)
    monkeypatch.setattr(Sequencer, "mark_repeats", lambda *_: None)
    ledger.record(0, msgspec.structs.replace(asset(60, 3), amount=7, currency=99))
    assert changes(ledger.readers[0], old, new) == honest


@pytest.mark.parametrize("index", [3, 4])
def test_an_end_whose_transfer_is_not_pending_before_it_is_damage(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    ledger.record(0, account(ALICE), account(BOB), money(60, ALICE, BOB, 100, Flag.PENDING))
    old = tree(ledger)
    ledger.record(0, money(59, ALICE, BOB, 1), ending(61, 60, Flag.POST), money(62, ALICE, BOB, 1, Flag.PENDING))
    monkeypatch.setattr(Reader, "indices_of", lambda _, ids: np.full(len(ids), index))
    with pytest.raises(LedgerCorrupt, match="which is not pending before it"):
        changes(ledger.readers[0], old, tree(ledger))


def test_a_third_party_verifies_that_nothing_was_removed_with_the_old_checkpoint_and_the_keys(busy: Ledger) -> None:
    note = busy.shards[0].checkpoint()
    text = kept_text(kept(busy.readers[0], tree(busy, 7), read_checkpoint(note)), note)
    assert text.startswith("old 7\n")
    verified = verify_kept(text, tree(busy, 7), busy.policy)
    assert (verified.old, verified.new) == (tree(busy, 7), tree(busy))


def test_another_old_tree_is_not_believed_to_have_been_kept(busy: Ledger) -> None:
    note = busy.shards[0].checkpoint()
    text = kept_text(kept(busy.readers[0], tree(busy, 7), read_checkpoint(note)), note)
    forged = Checkpoint(tree(busy, 7).origin, 7, bytes(32))
    with pytest.raises(NotConsistent):
        kept(busy.readers[0], forged, tree(busy))
    with pytest.raises(NotConsistent):
        verify_kept(text, forged, busy.policy)
    with pytest.raises(LogMismatch, match="from 7 entries"):
        verify_kept(text, tree(busy, 8), busy.policy)


def test_two_trees_of_one_size_are_a_split_view(busy: Ledger) -> None:
    with pytest.raises(SplitView):
        kept(busy.readers[0], Checkpoint(tree(busy).origin, 18, bytes(32)), tree(busy))


def test_checkpoints_in_the_wrong_order_or_of_another_shard_are_refused(busy: Ledger) -> None:
    with pytest.raises(LogMismatch, match="the old checkpoint has 18 entries"):
        kept(busy.readers[0], tree(busy), tree(busy, 3))
    with pytest.raises(LogMismatch, match="shard-1"):
        kept(busy.readers[0], tree(busy, 0, shard=1), tree(busy))


def test_a_proof_that_was_changed_or_signed_by_a_stranger_is_refused(busy: Ledger) -> None:
    note = busy.shards[0].checkpoint()
    text = kept_text(kept(busy.readers[0], tree(busy, 7), read_checkpoint(note)), note)
    lines = text.split("\n")
    with pytest.raises((NotConsistent, CheckpointRefused)):
        verify_kept("\n".join([lines[0], *lines[2:]]), tree(busy, 7), busy.policy)
    stranger = Signer(f"{LOG}/shard-0", b"x" * 32)
    with pytest.raises(ReceiptInvalid, match="no known key"):
        verify_kept(text, tree(busy, 7), Policy((stranger.key,)))


# ---- existence


def cosigned(ledger: Ledger, *times_s: int) -> str:
    """The newest checkpoint, cosigned by the first witnesses at these times."""
    note = ledger.shards[0].checkpoint()
    text = note.partition("\n\n")[0] + "\n"
    for witness, time_s in zip(WITNESSES, times_s, strict=False):
        note = add_cosignatures(note, witness.cosign(text, time_s), [witness.witness_key])
    return note


def policy_of(ledger: Ledger, threshold: int) -> Policy:
    return Policy(ledger.policy.log_keys, tuple(witness.witness_key for witness in WITNESSES), threshold)


def test_without_witnesses_existence_is_the_logs_own_word(busy: Ledger) -> None:
    receipt = prove_existence(busy.readers[0], id_of(PICTURE))
    recorded_ns = busy.shards[0].entry(5).time_ns
    shown = verify_existence(receipt, busy.policy, recorded_ns + 1)
    assert (shown.index, shown.recorded_ns, shown.witnessed_s) == (5, recorded_ns, None)
    with pytest.raises(ReceiptInvalid, match="the log says") as refused:
        verify_existence(receipt, busy.policy, recorded_ns)
    assert refused.value.where == "step 8 time"


@pytest.mark.parametrize(("threshold", "by_s"), [(1, 100), (2, 200), (3, 300)])
def test_with_k_witnesses_existence_is_proved_by_the_kth_earliest_cosignature(
    busy: Ledger, threshold: int, by_s: int
) -> None:
    receipt = prove_existence(busy.readers[0], id_of(PICTURE), cosigned(busy, 200, 100, 300))
    shown = verify_existence(receipt, policy_of(busy, threshold), (by_s + 1) * NS_PER_S)
    assert (shown.witnessed_s, len(shown.cosignatures)) == (by_s, 3)
    with pytest.raises(ReceiptInvalid, match="witnesses say"):
        verify_existence(receipt, policy_of(busy, threshold), (by_s + 1) * NS_PER_S - 1)


@pytest.mark.parametrize("times_s", [(100, 100), (100, 101), (101, 100)])
def test_a_witness_that_cosigns_twice_is_one_witness(busy: Ledger, times_s: tuple[int, int]) -> None:
    note = busy.shards[0].checkpoint()
    text = note.partition("\n\n")[0] + "\n"
    lines = [WITNESSES[0].cosign(text, time_s) for time_s in times_s] + [WITNESSES[1].cosign(text, 500)]
    receipt = prove_existence(busy.readers[0], id_of(PICTURE), note + "".join(lines))
    assert verify_existence(receipt, policy_of(busy, 1), 10**18).witnessed_s == 100
    assert verify_existence(receipt, policy_of(busy, 2), 10**18).witnessed_s == 500
    with pytest.raises(ReceiptInvalid, match="2 witnesses say"):
        verify_existence(receipt, policy_of(busy, 2), 499 * NS_PER_S)


def test_too_few_witnesses_prove_nothing(busy: Ledger) -> None:
    receipt = prove_existence(busy.readers[0], id_of(PICTURE), cosigned(busy, 100))
    with pytest.raises(ReceiptInvalid, match="1 of the 2 witnesses"):
        verify_existence(receipt, policy_of(busy, 2), 10**18)


def test_an_entry_after_the_cosigned_checkpoint_is_not_proved_by_it(busy: Ledger) -> None:
    note = cosigned(busy, 100)
    busy.record(0, asset(99, ALICE))
    with pytest.raises(EntryNotFound, match="under a checkpoint of 18 entries"):
        prove_existence(busy.readers[0], id_of(99), note)
    with pytest.raises(EntryNotFound, match="no entry has this id"):
        prove_existence(busy.readers[0], id_of(98), note)
