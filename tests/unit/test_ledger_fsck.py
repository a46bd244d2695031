"""fsck on ledgers that are whole, absent, signed by somebody else, or signed over entries that break the rules.

Damage is in tests/fault.
"""

import hashlib
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from fsck_logs import NAME, START_NS, append, entropy_of, fill, forge, item, keys_of_log, open_shard, open_store
from settling import account, asset, ending, id_of, money, ownership

from ledger import fsck_report, runs
from ledger.entry import Entry, Flag, Kind
from ledger.fsck import CheckFailed, Report, check
from ledger.fsck_shard import ShardCheck
from ledger.head import Head
from ledger.log import VERIFIER_FILE, begun_path, open_keys, shard_path
from ledger.payload import Payload
from ledger.runs import Family
from ledger.store import DATA_FILE

PLAIN = [asset(1, 7), asset(2, 7), asset(3, 7)]
FUNDED = [account(1, Flag.DEBITS_WITHIN_CREDITS), account(2), money(10, 2, 1, 100)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two shards: 7 and 3 entries; one of the second has a parent in the first."""
    path = tmp_path / "log"
    with open_shard(path, 0) as shard:
        append(shard, item(1), *(item(2 + place, parents=((0, place),)) for place in range(6)))
    with open_shard(path, 1) as shard:
        shard.cover(0, 7)
        append(shard, item(11), item(12, parents=((0, 6),)), item(13))
    return path


def lines(report: Report) -> list[str]:
    return [str(problem) for problem in report.problems]


def test_a_whole_log_has_no_problems(log: Path) -> None:
    assert check(log) == Report(2, 10, ())


def test_one_shard_can_be_checked_alone(log: Path) -> None:
    assert check(shard_path(log, 1)) == Report(1, 3, ())


def test_an_empty_shard_has_no_problems(tmp_path: Path) -> None:
    open_shard(tmp_path, num_shards=1).close()
    assert check(tmp_path) == Report(1, 0, ())


def test_a_log_with_everything_in_it_has_no_problems(tmp_path: Path) -> None:
    fill(tmp_path, num_rounds=60)
    report = check(tmp_path)
    assert lines(report) == []
    assert report.num_entries > 3072, "so many make a merge"


def test_progress_counts_the_entries_of_all_shards(log: Path) -> None:
    seen: list[tuple[int, int]] = []
    check(log, progress=lambda *counts: seen.append(counts), num_at_once=1)
    assert seen == [(7, 10), (10, 10)]


def test_a_checkpoint_of_fewer_entries_than_there_are_is_checked_at_its_size(tmp_path: Path) -> None:
    with open_shard(tmp_path, num_shards=1) as shard:
        for number in range(1, 121):
            append(shard, item(number))
        assert shard.tree_size == 120
    assert check(tmp_path) == Report(1, 120, ())


def test_entries_that_nobody_has_signed_are_told(tmp_path: Path) -> None:
    """Whoever can write into the file, and has no key, can append to it and keep the old checkpoint."""
    with open_shard(tmp_path, num_shards=1) as shard:
        append(shard, item(1), item(2))
        note = shard.checkpoint()
    with open_shard(tmp_path, num_shards=1) as shard:
        append(shard, *(item(number) for number in range(3, 10)))
    with closing(open_store(tmp_path)) as store:
        with store.read() as snapshot:
            head = Head.of(snapshot)
        with store.write() as batch:
            batch.put_state("head", msgspec.structs.replace(head, checkpoint=note).pack())
    expected = [
        "shard-000 head: nobody has signed the last 7 of 9 entries; "
        "an owner that signs seldom does so when it closes the shard"
    ]
    assert lines(check(tmp_path)) == lines(check(tmp_path, keys_of_log(tmp_path, 1).verifier_keys)) == expected


def test_a_check_with_a_defect_is_told_with_what_the_others_found(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ShardCheck.run

    def failing(self: ShardCheck) -> None:
        self._at("its index")
        if self._store.path.name == "shard-000":
            raise AssertionError("a defect of the check")
        run(self)

    monkeypatch.setattr(ShardCheck, "run", failing)
    (log / "shard-001" / DATA_FILE).write_bytes(
        (log / "shard-001" / DATA_FILE).read_bytes().replace(b"content of 12", b"content of XX")
    )
    with pytest.raises(CheckFailed, match="a defect of its own") as caught:
        check(log, num_at_once=1)
    assert caught.value.report is not None
    assert lines(caught.value.report) == [
        "shard-000 its index: not checked to the end: the check ended with a defect of its own; see its traceback",
        "shard-001 entry 1: its content does not have the hash that it names",
    ]


def test_a_forged_manifest_of_the_index_is_damage_and_no_defect(log: Path) -> None:
    rows = b"".join(runs._RUN.pack(family, 1, *row) for family in Family for row in ((0, 1 << 50, 0), (1 << 50, 1, 0)))
    data = runs._MANIFEST.pack(runs._MAGIC, 8188, 2 * len(Family), bytes(16)) + rows
    with closing(open_store(log)) as store, store.write() as batch:
        batch.put_state("index", data + runs._CHECKSUM.pack(runs._checksum(data)))
    (told,) = lines(check(log))
    assert told.startswith("shard-000 manifest of the index: a run has more entries or items than there may be")


def test_a_bare_copy_is_checked_without_a_trace(log: Path, tmp_path: Path) -> None:
    copy = shard_path(tmp_path / "copy", 0)
    copy.mkdir(parents=True)
    for name in (VERIFIER_FILE, begun_path(copy).name):
        shutil.copy(log / name, tmp_path / "copy")
    shutil.copy(shard_path(log, 0) / DATA_FILE, copy)
    assert check(copy) == Report(1, 7, ())
    assert [file.name for file in copy.iterdir()] == [DATA_FILE]


def test_who_may_not_write_checks_what_nobody_owns_and_is_told_else(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert check(log) == Report(2, 10, ())
    with open_shard(log, 1):
        report = check(log)
    assert (report.ok, report.problems) == (False, ())
    (refused,) = report.not_checked
    assert refused.where.startswith("shard-001 ")
    assert refused.what.startswith("an owner has it open, and this user may not be entered among its readers. Let ")


def test_the_callers_keys_are_believed_and_not_the_directorys(log: Path, tmp_path: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    others = open_keys(tmp_path / "other", NAME, 2, entropy=entropy_of(9)).verifier_keys
    assert check(log, own).ok
    assert lines(check(log, others)) == [
        "shard-000 head: no known key has signed the note; it says that it is of 'mintage.local/shard-0'",
        "shard-001 head: no known key has signed the note; it says that it is of 'mintage.local/shard-1'",
    ]


def test_a_shard_that_is_missing_is_a_problem(log: Path) -> None:
    shutil.rmtree(shard_path(log, 1))
    report = check(log)
    assert lines(report) == ["shard-001: missing, though mintage.local/shard-1 is in the verifier keys"]
    assert (report.num_shards, report.num_entries) == (1, 7)


def test_shards_that_are_all_missing_are_each_a_problem(tmp_path: Path) -> None:
    keys_of_log(tmp_path)
    assert [str(problem.where) for problem in check(tmp_path).problems] == ["shard-000", "shard-001"]


def test_a_copy_of_a_shard_in_anothers_place_is_a_problem(log: Path) -> None:
    shutil.rmtree(shard_path(log, 1))
    shutil.copytree(shard_path(log, 0), shard_path(log, 1))
    expected = "shard-001 head: no known key has signed the note; it says that it is of 'mintage.local/shard-0'"
    assert lines(check(log)) == [expected]
    assert lines(check(shard_path(log, 1))) == [expected]


def test_shards_in_each_others_place_are_problems(log: Path, tmp_path: Path) -> None:
    shard_path(log, 0).rename(tmp_path / "aside")
    shard_path(log, 1).rename(shard_path(log, 0))
    (tmp_path / "aside").rename(shard_path(log, 1))
    found = check(log)
    assert [problem.where for problem in found.problems] == ["shard-000 head", "shard-001 head", "shard-000"]
    assert "'mintage.local/shard-1'" in found.problems[0].what
    assert "entry 6 is missing" in found.problems[2].what


@pytest.mark.parametrize("name", ["shard-002", "shard-65535"])
def test_a_shard_that_no_key_is_for_is_a_problem(log: Path, name: str) -> None:
    shutil.copytree(shard_path(log, 0), log / name)
    assert lines(check(log)) == [f"{name} head: no verifier key is for a shard of this name"]


def test_a_copy_of_a_shard_under_another_name_can_be_checked_alone(log: Path, tmp_path: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    shutil.copytree(shard_path(log, 1), tmp_path / "copy")
    assert check(tmp_path / "copy", own) == Report(1, 3, ())


def test_verifier_keys_in_another_order_are_not_believed(log: Path) -> None:
    first, second = (log / "verifier.keys").read_text().splitlines()
    (log / "verifier.keys").write_text(f"{second}\n{first}\n")
    assert lines(check(log)) == [
        f"{log / 'verifier.keys'}: no verifier keys: mintage.local/shard-1 is not on the line of its shard",
        "shard-000 head: no verifier key is for a shard of this name",
        "shard-001 head: no verifier key is for a shard of this name",
    ]


def test_a_line_that_is_no_key_makes_the_given_keys_useless(log: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    found = lines(check(log, [own[0], "no key"]))
    assert found[0].startswith("the given keys: no verifier keys: ")
    assert len(found) == 3


def test_a_log_without_its_verifier_file_is_a_problem_unless_keys_are_given(log: Path) -> None:
    own = (log / "verifier.keys").read_text().splitlines()
    (log / "verifier.keys").unlink()
    assert check(log, own).ok
    assert lines(check(log))[0].endswith("verifier.keys: no verifier keys: No such file or directory")


def test_an_empty_directory_is_a_problem(tmp_path: Path) -> None:
    assert f"{tmp_path}: no shard is here" in lines(check(tmp_path))


def test_a_parent_in_a_shard_that_lost_it_is_a_problem(log: Path) -> None:
    """Begun anew by somebody who did away with what forbids it."""
    shutil.rmtree(shard_path(log, 0))
    begun_path(shard_path(log, 0)).unlink()
    with open_shard(log, 0) as shard:
        append(shard, item(1))
    assert lines(check(log)) == ["shard-000: entry 6 is missing, but is an entry's parent elsewhere"]
    assert check(shard_path(log, 1)).ok


def test_the_list_of_problems_has_a_limit(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck_report, "PROBLEMS_MAX", 1)
    report = check(log, [])
    assert len(report.problems) == 1
    assert report.truncated


def test_a_check_whose_process_dies_is_a_problem_and_the_other_shards_are_checked(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ShardCheck.run

    def dies_at_the_first(check_: ShardCheck) -> None:
        if check_._store.path.name == "shard-000":
            os.kill(os.getpid(), signal.SIGBUS)
        run(check_)

    monkeypatch.setattr(ShardCheck, "run", dies_at_the_first)
    report = check(log)
    assert lines(report) == ["shard-000 data.mdb: its pages are damaged: who reads its pages dies of SIGBUS"]
    assert (report.num_shards, report.num_entries) == (2, 3)


def test_a_defect_of_the_check_is_not_taken_for_a_sound_shard(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShardCheck, "run", lambda check_: 1 // 0)
    with pytest.raises(RuntimeError, match="a defect of its own"):
        check(log)


def problems(log: Path, *entries: Entry, payloads: dict[int, Payload] | None = None, **changed: dict) -> list[str]:
    """What is found when somebody has signed whatever he liked."""
    forge(log, entries, payloads, **changed)
    return [line.removeprefix("shard-000 ") for line in lines(check(log))]


def test_what_the_forger_writes_is_sound_if_the_entries_are(tmp_path: Path) -> None:
    assert problems(tmp_path, *PLAIN, account(4), account(5), money(10, 4, 5, 100)) == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"version": {1: 1}}, "entry 1: its version is not 2"),
        ({"shard": {2: 1}}, "entry 2: it says that it belongs to another shard"),
        ({"time_ns": {1: START_NS}}, "entry 1: its time is not after that of the entry before it"),
        ({"kind": {1: 13}}, "entry 1: it is not in canonical form"),
        ({"kind": {1: 0}}, "entry 1: it is not in canonical form"),
        ({"num_parents": {1: 5}}, "entry 1: it is not in canonical form"),
        ({"parent_shards": {1: (0, 0, 0, 1)}}, "entry 1: it is not in canonical form"),
        ({"amount": {1: 2**63}}, "entry 1: it is not in canonical form"),
        ({"flags": {1: int(Flag.PENDING)}}, "entry 1: it has a flag that its kind does not have"),
        ({"id": {1: bytes(16)}}, "entry 1: its id is zero"),
        ({"num_parents": {1: 1}, "parent_indices": {1: (1, 0, 0, 0)}},
         "entry 1: a parent of it does not come before it"),
        ({"flags": {2: int(Flag.LINKED)}}, "entry 2: it is linked to an entry that is not there"),
        ({"id": {2: id_of(1)}}, "entry 2: it has the id of entry 0"),
        ({"num_bytes": {1: 3}}, "entry 1: its content is missing, and no entry erases it"),
        ({"meta_hash": {1: b"m" * 32}}, "entry 1: its metadata is missing, and no entry erases it"),
    ],
)  # fmt: skip
def test_an_entry_that_no_shard_would_record_is_found_though_it_is_signed(
    tmp_path: Path, changed: dict[str, dict[int, object]], found: str
) -> None:
    assert problems(tmp_path, *PLAIN, **changed) == [found]


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([*FUNDED, money(11, 1, 2, 101)], "EXCEEDS_CREDITS"),
        ([*FUNDED, money(11, 1, 3, 1)], "CREDIT_ACCOUNT_NOT_FOUND"),
        ([*FUNDED, money(11, 1, 2, 1, currency=2)], "CURRENCY_MUST_MATCH"),
        ([*FUNDED, money(11, 1, 2, 9, Flag.PENDING), ending(12, 11, Flag.POST), ending(13, 11, Flag.VOID)],
         "PENDING_TRANSFER_ALREADY_POSTED"),
        ([*FUNDED, money(11, 1, 2, 9, Flag.PENDING, num_bytes=9), ending(12, 11, Flag.EXPIRED)],
         "PENDING_TRANSFER_NOT_DUE"),
        ([asset(1, 7), ownership(2, 1, 7, 8), ownership(3, 1, 7, 9)], "OWNER_MISMATCH"),
        ([asset(1, 7), ownership(2, 1, 7, 8, Flag.PENDING), ownership(3, 1, 7, 9)], "ASSET_IS_HELD"),
        ([account(1), account(1)], "EXISTS"),
    ],
)  # fmt: skip
def test_a_rule_of_settlement_that_was_broken_is_found_at_the_entry(
    tmp_path: Path, entries: list[Entry], code: str
) -> None:
    where = f"entry {len(entries) - 1}"
    found = problems(tmp_path, *entries)
    assert found[0].startswith(f"{where}: the entry breaks a rule of settlement, {code}, and yet is recorded"), found


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([asset(1, 7), ownership(2, 1, 8, 9)], "entry 1: the asset does not belong to the owner it is taken from"),
        ([ownership(2, 1, 7, 9), asset(1, 7)], "entry 0: the asset that it is about does not come before it"),
        ([asset(1, 7), ownership(2, 5, 7, 9)], "entry 1: the asset that it is about does not come before it"),
        ([account(1), ownership(2, 1, 7, 9)], "entry 1: the asset that it is about does not come before it"),
        ([asset(1, 7), Entry(kind=Kind.ERASURE, id=id_of(2), subject=id_of(9))],
         "entry 1: the asset that it is about does not come before it"),
        ([asset(1, 7), asset(2, 7), ownership(3, 1, 7, 8), ownership(4, 1, 8, 7), ownership(5, 2, 8, 7)],
         "entry 4: the asset does not belong to the owner it is taken from"),
    ],
)  # fmt: skip
def test_whose_an_asset_was_is_taken_from_its_own_entry(tmp_path: Path, entries: list[Entry], found: str) -> None:
    assert problems(tmp_path, *entries) == [found]


def with_content(number: int, content: bytes, **fields: object) -> tuple[Entry, Payload]:
    digest = hashlib.sha256(content).digest()
    plain = msgspec.structs.replace(asset(number, 7), content_hash=digest, num_bytes=len(content))
    return msgspec.structs.replace(plain, **fields), Payload(content)


def test_a_content_of_another_length_than_its_entry_says_is_found(tmp_path: Path) -> None:
    entry, payload = with_content(1, b"content", num_bytes=6)
    assert problems(tmp_path, entry, payloads={0: payload}) == ["entry 0: its content has 7 bytes, and it says 6"]


def test_a_content_that_was_erased_is_not_missed_and_must_not_be_there(tmp_path: Path) -> None:
    entry, payload = with_content(1, b"content")
    erasure = Entry(kind=Kind.ERASURE, id=id_of(2), subject=id_of(1))
    assert problems(tmp_path / "gone", entry, erasure) == []
    found = problems(tmp_path / "kept", entry, erasure, payloads={0: payload})
    assert found == ["entry 0: it was erased, and its content or metadata is still here"]


def test_a_content_that_its_entry_says_is_kept_elsewhere_is_not_missed(tmp_path: Path) -> None:
    entry, _ = with_content(1, b"content", num_bytes=0)
    assert problems(tmp_path, entry) == []


def test_a_payload_of_an_entry_that_has_none_is_found(tmp_path: Path) -> None:
    found = problems(tmp_path, *FUNDED, payloads={2: Payload(b"content", b"meta"), 5: Payload(b"content")})
    assert found == [
        "entry 2: its content does not have the hash that it names",
        "entry 2: its metadata does not have the hash that it names",
        "contents row 0000000000000005: there is no entry that it belongs to",
    ]
