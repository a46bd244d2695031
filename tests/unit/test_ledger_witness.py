"""A witness: it signs what grew out of what it signed before, and nothing else, whoever asks at the same time."""

import base64
import hashlib
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from memory_log import SIGNER, MemoryLog, some_entries

from ledger import witness as witness_module
from ledger.errors import (
    CheckpointRefused,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerLocked,
    LogMismatch,
    NotConsistent,
    SizeConflict,
    SplitView,
    UnknownOrigin,
    UnknownSigner,
)
from ledger.files import hold_lock
from ledger.merkle import EMPTY_ROOT, consistency_proof
from ledger.note import Checkpoint, Policy, Signer, add_cosignatures, open_checkpoint_with_policy
from ledger.replace import replace_file
from ledger.witness import PROOF_LINES_MAX, Witness, build_request, parse_request

NOW_S = 1_700_000_000
WITNESS = Signer("witness.example/w1", b"w" * 32)
LOG = MemoryLog(some_entries(40))
FORKED = MemoryLog(some_entries(8) + some_entries(32, first=100))
"""The same log up to 8 entries, then another one, signed with the same key."""

POLICY = Policy((SIGNER.key,), (WITNESS.witness_key,), 1)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path, WITNESS, [SIGNER.key])


def request(old: int, new: int, log: MemoryLog = LOG) -> str:
    proof = consistency_proof(old, new, log.read_node) if 0 < old < new else []
    return build_request(old, proof, log.note(new))


def file_of(directory: Path, origin: str, kind: str = "checkpoint") -> Path:
    return directory / f"{hashlib.sha256(origin.encode()).hexdigest()}.{kind}"


def checkpoint_of(log: MemoryLog, size: int) -> Checkpoint:
    return Checkpoint(SIGNER.name, size, log.root(size))


# ---- the way it should go


def test_a_request_has_the_lines_of_the_specification_and_comes_back_from_them() -> None:
    text = request(8, 13)
    parsed = parse_request(text)
    head, _, note = text.partition("\n\n")
    first, *proof = head.split("\n")
    assert (first, note) == ("old 8", LOG.note(13))
    assert [base64.b64decode(line) for line in proof] == consistency_proof(8, 13, LOG.read_node)
    assert (parsed.old_size, parsed.note, parsed.checkpoint) == (8, LOG.note(13), checkpoint_of(LOG, 13))
    assert list(parsed.proof) == consistency_proof(8, 13, LOG.read_node)
    assert request(0, 13) == f"old 0\n\n{LOG.note(13)}"


def test_every_checkpoint_of_a_growing_log_is_cosigned_at_its_time(witness: Witness) -> None:
    old = 0
    for place, new in enumerate([0, 1, 2, 8, 8, 13, 40]):
        answer = witness.add_checkpoint(request(old, new), NOW_S + place)
        note = add_cosignatures(LOG.note(new), answer, [WITNESS.witness_key])
        witnessed = open_checkpoint_with_policy(note, POLICY)
        assert witnessed.checkpoint == witness.latest(SIGNER.name) == checkpoint_of(LOG, new)
        assert [cosignature.time_s for cosignature in witnessed.cosignatures] == [NOW_S + place]
        old = new


def test_a_witness_remembers_after_a_restart(witness: Witness, tmp_path: Path) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    again = Witness(tmp_path, WITNESS, [SIGNER.key])
    assert again.latest(SIGNER.name) == checkpoint_of(LOG, 13)
    with pytest.raises(SizeConflict):
        again.add_checkpoint(request(0, 8), NOW_S)
    again.add_checkpoint(request(13, 40), NOW_S)


def test_logs_do_not_mix(tmp_path: Path) -> None:
    other = MemoryLog(some_entries(20), Signer("example.org/log/shard-1", b"o" * 32))
    witness = Witness(tmp_path, WITNESS, [SIGNER.key, other.signer.key])
    witness.add_checkpoint(request(0, 13), NOW_S)
    witness.add_checkpoint(request(0, 5, other), NOW_S)
    witness.add_checkpoint(request(13, 14), NOW_S)
    assert (witness.latest(SIGNER.name).tree_size, witness.latest(other.signer.name).tree_size) == (14, 5)
    assert witness.latest("example.org/never") == Checkpoint("example.org/never", 0, EMPTY_ROOT)


def test_the_logs_signature_is_kept_beside_ours_and_strangers_are_not(witness: Witness, tmp_path: Path) -> None:
    stranger = Signer("example.org/stranger", b"x" * 32).sign(checkpoint_of(LOG, 13).text()).split("\n\n")[1]
    repeated = LOG.note(13).split("\n\n")[1] * 30  # with our own line one more than a note may have, if all were kept
    line = witness.add_checkpoint(request(0, 13) + stranger + repeated, NOW_S)
    file = file_of(tmp_path, SIGNER.name)
    assert file.read_text() == LOG.note(13) + line


# ---- refusals, each with the status of the specification

REFUSALS: list[tuple[str, Callable[[], str], type[CheckpointRefused], int]] = [
    ("another log", lambda: request(13, 20, MemoryLog(LOG.entries, WITNESS)), UnknownOrigin, 404),
    ("no signature of the log", lambda: request(13, 20).replace(LOG.note(20), stranger_note()), UnknownSigner, 403),
    ("a bad signature of the log", lambda: request(13, 20).replace("\n20\n", "\n21\n"), UnknownSigner, 403),
    ("an old size above the new one", lambda: request(20, 13), CheckpointRefused, 400),
    ("a rollback", lambda: request(8, 12), SizeConflict, 409),
    ("a start from nothing", lambda: request(0, 20), SizeConflict, 409),
    ("a start from a size never seen", lambda: request(14, 20), SizeConflict, 409),
    ("one size, two trees", lambda: request(13, 13, FORKED), SplitView, 409),
    ("a tree that grew out of another", lambda: request(13, 20, FORKED), NotConsistent, 422),
    ("no proof", lambda: build_request(13, [], LOG.note(20)), NotConsistent, 422),
    ("a proof too many", lambda: build_request(13, [bytes(32)], LOG.note(13)), NotConsistent, 422),
    ("the proof of another size", lambda: build_request(13, proof_of(13, 21), LOG.note(20)), NotConsistent, 422),
    ("a long proof", lambda: build_request(13, [*proof_of(13, 20), bytes(32)], LOG.note(20)), NotConsistent, 422),
]


def stranger_note() -> str:
    return Signer(SIGNER.name, b"x" * 32).sign(checkpoint_of(LOG, 20).text())


def proof_of(old: int, new: int) -> list[bytes]:
    return consistency_proof(old, new, LOG.read_node)


@pytest.mark.parametrize(("make", "kind", "status"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_does_not_follow_is_refused_and_changes_nothing(
    witness: Witness, tmp_path: Path, make: Callable[[], str], kind: type[CheckpointRefused], status: int
) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointRefused) as caught:
        witness.add_checkpoint(make(), NOW_S + 1)
    assert type(caught.value) is kind
    assert caught.value.http_status == status
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_conflict_says_the_size_to_go_on_from_even_in_another_process(witness: Witness) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    with pytest.raises(SizeConflict) as caught:
        witness.add_checkpoint(request(8, 20), NOW_S)
    assert caught.value.size == pickle.loads(pickle.dumps(caught.value)).size == 13
    witness.add_checkpoint(request(caught.value.size, 20), NOW_S)


def test_the_first_tree_needs_no_proof_and_takes_none(witness: Witness) -> None:
    with pytest.raises(NotConsistent):
        witness.add_checkpoint(build_request(0, [bytes(32)], LOG.note(13)), NOW_S)
    empty = SIGNER.sign(Checkpoint(SIGNER.name, 0, bytes(32)).text())
    with pytest.raises(SplitView):
        witness.add_checkpoint(build_request(0, [], empty), NOW_S)
    witness.add_checkpoint(request(0, 13), NOW_S)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text.removeprefix("old 8\n"),
        lambda text: text.replace("old 8", "old 08"),
        lambda text: text.replace("old 8", "old  8"),
        lambda text: text.replace("old 8", "Old 8"),
        lambda text: text.replace("old 8", "old -8"),
        lambda text: text.replace("old 8", f"old {10**19}"),
        lambda text: text.replace("old 8\n", "old 8\n\n"),
        lambda text: text.replace("old 8\n", "old 8\nAAAA\n"),
        lambda text: text.replace("old 8\n", "old 8\n?\n"),
        lambda text: text.replace("old 8\n", "old 8\r\n"),
        lambda text: text.replace("\n\n", "\n", 1),
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: text.replace("\n13\n", "\n13 \n"),
        lambda text: text.replace("—", "-"),
        lambda text: text + "x" * 300_000,
        lambda text: text.replace("old 8\n", "old 8\n" + "A" * 43 + "=\n" * (PROOF_LINES_MAX + 1)),
    ],
)
def test_a_malformed_request_is_refused_before_anything_else(witness: Witness, change: Callable[[str], str]) -> None:
    text = request(8, 13)
    assert change(text) != text
    with pytest.raises(CheckpointRefused) as caught:
        witness.add_checkpoint(change(text), NOW_S)
    assert type(caught.value) is CheckpointRefused
    assert caught.value.http_status == 400


def test_as_many_hashes_as_a_request_may_have_are_read() -> None:
    text = build_request(8, [bytes(32)] * PROOF_LINES_MAX, LOG.note(13))
    assert len(parse_request(text).proof) == PROOF_LINES_MAX
    with pytest.raises(CheckpointRefused, match="at most 63"):
        parse_request(build_request(8, [bytes(32)] * (PROOF_LINES_MAX + 1), LOG.note(13)))


# ---- memory


def test_a_witness_does_not_start_without_its_memory(tmp_path: Path) -> None:
    with pytest.raises(LogMismatch, match="no such directory"):
        Witness(tmp_path / "lost", WITNESS, [SIGNER.key])


@pytest.mark.parametrize("place", [0, 20, 60, 100, 150, 200, 250, -2])
def test_a_flipped_byte_of_its_memory_is_noticed(witness: Witness, tmp_path: Path, place: int) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    file = file_of(tmp_path, SIGNER.name)
    data = bytearray(file.read_bytes())
    data[place] ^= 0x81
    file.write_bytes(bytes(data))
    with pytest.raises(LedgerCorrupt, match=file.name):
        witness.add_checkpoint(request(13, 20), NOW_S)
    assert file.read_bytes() == bytes(data)


def test_the_memory_of_another_log_or_witness_is_not_taken_for_ours(witness: Witness, tmp_path: Path) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    file = file_of(tmp_path, SIGNER.name)
    stranger = Witness(tmp_path, Signer("witness.example/w2", b"2" * 32), [SIGNER.key])
    with pytest.raises(LedgerCorrupt, match="0 of the 1"):
        stranger.latest(SIGNER.name)
    other = Signer("example.org/log/shard-1", b"o" * 32)
    both = Witness(tmp_path, WITNESS, [SIGNER.key, other.key])
    file.rename(file_of(tmp_path, other.name))
    with pytest.raises(LedgerCorrupt):
        both.latest(other.name)


def test_what_could_not_be_stored_is_not_said(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)

    def full(path: Path, data: bytes) -> None:
        raise LedgerFull("no room", where=str(path), fix="Make room.")

    with monkeypatch.context() as no_room:
        no_room.setattr(witness_module, "replace_file", full)
        with pytest.raises(LedgerFull):
            witness.add_checkpoint(request(13, 20), NOW_S)
    assert witness.latest(SIGNER.name) == checkpoint_of(LOG, 13)
    witness.add_checkpoint(request(13, 20), NOW_S)


def test_a_failed_write_leaves_the_old_memory_and_no_litter(
    witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness.add_checkpoint(request(0, 13), NOW_S)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(descriptor: int) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as no_disk:
        no_disk.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="disk is gone"):
            witness.add_checkpoint(request(13, 20), NOW_S)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- several at once


def test_while_another_holds_the_log_nothing_is_checked_or_stored(tmp_path: Path) -> None:
    witness = Witness(tmp_path, WITNESS, [SIGNER.key], lock_wait_s=0)
    lock = hold_lock(file_of(tmp_path, SIGNER.name, "lock"), 0)
    with pytest.raises(LedgerLocked):
        witness.add_checkpoint(request(0, 13), NOW_S)
    assert witness.latest(SIGNER.name).tree_size == 0
    os.close(lock)
    witness.add_checkpoint(request(0, 13), NOW_S)


def test_a_request_that_waits_is_checked_against_what_the_other_stored(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race of the specification: the smaller of two trees must not be stored, or cosigned, after the larger."""
    witness.add_checkpoint(request(0, 8), NOW_S)
    first_is_storing, second_is_answered = threading.Event(), threading.Event()

    def store_slowly(path: Path, data: bytes) -> None:
        if not first_is_storing.is_set():
            first_is_storing.set()
            second_is_answered.wait(0.3)  # in vain, because the second has to wait for us
        replace_file(path, data)

    def second() -> str:
        try:
            return witness.add_checkpoint(request(8, 13), NOW_S)
        finally:
            second_is_answered.set()

    monkeypatch.setattr(witness_module, "replace_file", store_slowly)
    with ThreadPoolExecutor(2) as pool:
        larger = pool.submit(witness.add_checkpoint, request(8, 20), NOW_S)
        assert first_is_storing.wait(10)
        smaller = pool.submit(second)
        assert larger.result(10)
        with pytest.raises(SizeConflict) as caught:
            smaller.result(10)
    assert caught.value.size == witness.latest(SIGNER.name).tree_size == 20


def race(directory: Path, requests: list[str], start: Barrier, answers: "multiprocessing.Queue[list[str]]") -> None:
    """Each request once, for the same log, together with the other process."""
    witness = Witness(directory, WITNESS, [SIGNER.key])
    start.wait(30)
    said = []
    for text in requests:
        try:
            said.append(witness.add_checkpoint(text, NOW_S))
        except LedgerError as error:
            said.append(error.code)
    answers.put(said)


def test_of_two_processes_with_a_split_view_one_is_refused_from_the_fork_on(tmp_path: Path) -> None:
    steps = [(0, 4), (4, 8), (8, 13), (13, 20), (20, 33)]
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(2), context.Queue()
    processes = []
    for log in (LOG, FORKED):
        requests = [request(old, new, log) for old, new in steps for _ in range(3)]
        processes.append(context.Process(target=race, args=(tmp_path, requests, start, answers)))
    for process in processes:
        process.start()
    said = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    after_the_fork = [any(answer.startswith("—") for answer in answers[6:]) for answers in said]
    assert sorted(after_the_fork) == [False, True]
    latest = Witness(tmp_path, WITNESS, [SIGNER.key]).latest(SIGNER.name)
    assert latest in (checkpoint_of(LOG, 33), checkpoint_of(FORKED, 33))
