"""The part of a check that looks at the write-ahead log: entries that are durable, and not in the store yet.

There are some beside a busy owner, or after a crash; the next owner puts them into the store, where they are in the
tree. Here their records have to hold and to follow each other without a gap, and the entries to have the right form,
times and payloads; all else is checked once they are in the store.

A record that does not hold may be the last one before a power cut, which nobody has acknowledged, or one that was
damaged since. Nothing on disk tells these apart, so it is told in both cases, as long as one of its two ends is left.
It is forgotten once the shard was opened and has gone on. What the owner is just writing is told from it by a second
look.
"""

import time
from collections.abc import Callable

from ledger.errors import EntryInvalid, LedgerCorrupt
from ledger.fsck_form import Forms
from ledger.fsck_report import Findings, Tell
from ledger.head import Head
from ledger.payload import Payload, check_payloads
from ledger.store import Store
from ledger.wal import WAL_STATE, Record, broken, left_over, missing

LOOKS_MAX = 20
PAUSE_S = 0.05

_NAME = "write-ahead log"


def check_wal(store: Store, shard: int, tell: Tell, sleep: Callable[[float], None] = time.sleep) -> int:
    """Look at what is left over in the write-ahead log of a shard; how many entries.

    Cost: reads two files of a few MiB; some looks if something is wrong, 50 ms apart.
    """
    before = Findings()
    for _ in range(LOOKS_MAX):
        findings = Findings()
        num_entries = _look(store, shard, findings.add)
        if findings.problems == before.problems:
            break
        before = findings
        sleep(PAUSE_S)
    for problem in findings.problems:
        tell(problem.where, problem.what)
    return num_entries


def _look(store: Store, shard: int, tell: Tell) -> int:
    """What there is at this moment; how many entries. The owner may be writing."""
    with store.read() as snapshot:
        head = Head.of(snapshot)
        is_named = snapshot.state(WAL_STATE) is not None
    if is_named and (names := missing(store.path)):
        tell(_NAME, f"it is gone ({', '.join(names)}), and what was recorded last may be nowhere else")
        return 0
    try:
        records = left_over(store.path, head.tree_size)
    except LedgerCorrupt as error:
        tell(_NAME, error.what)
        return 0
    end = records[-1].end if records else head.tree_size
    for place in broken(store.path, end):
        tell(_NAME, f"the record of entry {end} does not hold ({place}): torn by a power cut, or damaged since")
    forms = Forms(shard, tell)
    forms.last_ns = head.time_ns
    for record in records:
        forms.check(record.rows.copy(), record.first)
        _check_payloads(record, tell)
    forms.finish(end)
    return end - head.tree_size


def _check_payloads(record: Record, tell: Tell) -> None:
    """What lies beside the entries is what they name."""
    payloads = [record.payloads.get(record.first + place, Payload()) for place in range(len(record.rows))]
    try:
        check_payloads(record.rows.tobytes(), payloads)
    except EntryInvalid as error:
        tell(f"{_NAME}, entries {record.first} to {record.end - 1}", error.what)
