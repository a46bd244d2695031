"""fsck on a shard whose owner was killed with entries in the write-ahead log: they are counted, and damage is found."""

import random
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fsck_logs import append, entries_of, item, open_shard

from ledger.entry import Flag
from ledger.errors import LedgerCorrupt
from ledger.fsck import Report, check
from ledger.fsck_report import Findings
from ledger.fsck_wal import check_wal
from ledger.log import shard_path
from ledger.payload import Payload
from ledger.result import Result
from ledger.shard import Shard
from ledger.store import Store
from ledger.wal import BLOCK_BYTES, FILE_NAMES, left_over, packed, secret_of

NUM_STORED, NUM_PENDING, HEADER_BYTES = 5, 9, 32
SECTOR_BYTES = 512


def sequence(shard: Shard, *numbers: int) -> None:
    pairs = [item(number) for number in numbers]
    appended = shard.sequence(entries_of(*(entry for entry, _ in pairs)), [payload for _, payload in pairs])
    assert set(appended.results.tolist()) == {Result.OK}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of one shard, as it is after a kill: 5 entries in the store, and three records of 3 entries beside it."""
    with open_shard(tmp_path / "living", num_shards=1) as shard:
        append(shard, *(item(number) for number in range(1, NUM_STORED + 1)))
        for first in (11, 14, 17):
            sequence(shard, first, first + 1, first + 2)
        shutil.copytree(tmp_path / "living", tmp_path / "log")
    return tmp_path / "log"


def wal_of(log: Path) -> Path:
    """The file that has the records."""
    return next(path for name in FILE_NAMES if any((path := shard_path(log, 0) / name).read_bytes()))


def lines(log: Path) -> list[str]:
    return [str(problem).removeprefix("shard-000 ") for problem in check(log).problems]


def test_what_a_killed_owner_left_in_its_write_ahead_log_is_counted_and_no_problem(log: Path) -> None:
    assert check(log) == Report(1, NUM_STORED, (), num_pending=NUM_PENDING)
    open_shard(log, num_shards=1).close()
    assert check(log) == Report(1, NUM_STORED + NUM_PENDING, ())


def test_any_bit_of_a_record_that_is_still_needed_is_found(log: Path) -> None:
    """All of each header, and every twelfth byte of the rest."""
    file, chance = wal_of(log), random.Random(5)
    whole = file.read_bytes()
    begin = BLOCK_BYTES  # after the head of the file
    with closing(Store.open_readonly(shard_path(log, 0))) as store:
        for record in left_over(shard_path(log, 0), NUM_STORED):
            data = packed(record, secret_of(file))
            assert whole[begin : begin + len(data)] == data
            body_end = len(data[:-HEADER_BYTES].rstrip(b"\0"))
            for place in (*range(HEADER_BYTES), *range(HEADER_BYTES, body_end, 12)):
                flipped = bytearray(whole)
                flipped[begin + place] ^= 1 << chance.randrange(8)
                file.write_bytes(flipped)
                findings = Findings()
                check_wal(store, 0, findings.add, sleep=lambda _: None)
                assert [problem.where for problem in findings.problems] == ["write-ahead log"], (
                    f"{record.first}: {place}"
                )
            begin += len(data)
    assert lines(log)[0].startswith("write-ahead log: "), "as part of the whole check"


@pytest.mark.parametrize("filler", [b"\0", b"\xa5"])
@pytest.mark.parametrize("lost", [0, -1], ids=["its first sector", "its last sector"])
@pytest.mark.parametrize("number", range(3))
def test_a_sector_that_the_disk_lost_at_either_end_of_a_record_is_no_place_never_written_to(
    log: Path, number: int, lost: int, filler: bytes
) -> None:
    file = wal_of(log)
    data = bytearray(file.read_bytes())
    begin = (1 + number) * BLOCK_BYTES + lost % (BLOCK_BYTES // SECTOR_BYTES) * SECTOR_BYTES
    data[begin : begin + SECTOR_BYTES] = filler * SECTOR_BYTES
    file.write_bytes(data)
    found = lines(log)
    if lost == 0:
        assert found and found[0].startswith("write-ahead log: ")
    else:
        assert check(log) == Report(1, NUM_STORED, (), num_pending=NUM_PENDING), "it holds without it"


@pytest.mark.parametrize("names", [FILE_NAMES, FILE_NAMES[:1], FILE_NAMES[1:]])
def test_a_write_ahead_log_that_is_gone_is_found_and_the_shard_refused(log: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (shard_path(log, 0) / name).unlink()
    assert lines(log) == [
        f"write-ahead log: it is gone ({', '.join(names)}), and what was recorded last may be nowhere else"
    ]
    with pytest.raises(LedgerCorrupt, match="a copy of a shard is a copy of its whole directory"):
        open_shard(log, num_shards=1)


def test_a_shard_that_was_never_sequenced_into_needs_no_write_ahead_log(tmp_path: Path) -> None:
    with open_shard(tmp_path / "log", num_shards=1) as shard:
        append(shard, item(1))
    assert not any((shard_path(tmp_path / "log", 0) / name).exists() for name in FILE_NAMES)
    assert check(tmp_path / "log") == Report(1, 1, ())


def test_a_record_that_is_missing_between_others_is_found(log: Path) -> None:
    file = wal_of(log)
    data = bytearray(file.read_bytes())
    data[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    file.write_bytes(data)
    assert lines(log) == ["write-ahead log: its next record is of entry 11, and 8 entries are there without it"]


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("version", 1, "entry 5: its version is not 2"),
        ("shard", 3, "entry 5: it says that it belongs to another shard"),
        ("time_ns", 1, "entry 5: its time is not after that of the entry before it"),
        ("kind", 99, "entry 5: it is not in canonical form"),
        ("flags", int(Flag.PENDING), "entry 5: it has a flag that its kind does not have"),
    ],
)
def test_an_entry_that_no_shard_would_sequence_is_found_though_its_record_holds(
    log: Path, field: str, value: int, found: str
) -> None:
    record, *_ = left_over(shard_path(log, 0), NUM_STORED)
    entries = entries_of(*(item(number)[0] for number in (11, 12, 13)))
    rows = np.array(record.rows)
    columns = rows.view(entries.dtype).reshape(len(rows))
    columns[field][0] = value
    file = wal_of(log)
    data = bytearray(file.read_bytes())
    data[BLOCK_BYTES : 2 * BLOCK_BYTES] = packed(record._replace(rows=rows), secret_of(file))
    file.write_bytes(data)
    assert lines(log) == [found]


def test_a_payload_that_is_not_its_entrys_is_found_though_its_record_holds(log: Path) -> None:
    record, *_ = left_over(shard_path(log, 0), NUM_STORED)
    changed = record._replace(payloads={**record.payloads, 6: Payload(b"something else", record.payloads[6].meta)})
    file = wal_of(log)
    data = bytearray(file.read_bytes())
    data[BLOCK_BYTES : 2 * BLOCK_BYTES] = packed(changed, secret_of(file))
    file.write_bytes(data)
    assert lines(log) == ["write-ahead log, entries 5 to 7: entry 1 does not name the hash of its payload"]


def test_what_an_owner_has_gone_on_from_is_not_looked_at_any_more(log: Path) -> None:
    """A record that a power cut tore is told until then."""
    file = wal_of(log)
    data = bytearray(file.read_bytes())
    data[3 * BLOCK_BYTES + 100] ^= 1
    file.write_bytes(data)
    (found,) = lines(log)
    assert found == (
        f"write-ahead log: the record of entry 11 does not hold ({file.name}, byte {3 * BLOCK_BYTES}): "
        "torn by a power cut, or damaged since"
    )
    with open_shard(log, num_shards=1) as shard:
        append(shard, item(30))
    assert check(log) == Report(1, 12, ())
