"""The offline verifier of a ledger on disk: re-derives everything from the entries up and compares it with what is
stored. It changes nothing and pins no pages for long, so it may run beside the shard's owner (in another process). All
that it writes is its place in LMDB's table of readers; who may not write it, or looks at a bare copy, writes nothing
(`Store.open_readonly`).

    0. files       a directory for each shard that there is a key for, and no other; keys, and what says that a shard
                   was begun, byte for byte; the pages of each shard's file
    1. head        there is one of this layout; its checkpoint is signed under this shard's origin, with this shard's
                   key, and covers every entry; the root and the signed root are those of the entries; size and time
                   are those of the last one
    2. entries     rows without gap or overlap; canonical form; of this shard; times strictly increasing; no chain left
                   open; parents that exist and come before
    3. tree        every hash of every stored level is the one over the entries; none missing, none too many
    4. ids         no id twice
    5. index       every item of every run is one of the entries', and every entry's is there; no segment without reason
    6. settlement  the whole log replayed breaks no rule; debits are credits; an asset's first owner is the one its own
                   entry names; the stored balances are those of a replay
    7. exchanges   the legs of each are posted in all shards or voided in all, as it was decided; what is decided to
                   happen has every leg held
    8. payloads    every content and metadata has the hash and the length that its entry names; what an entry names is
                   there, unless it was erased, and then it is gone
    9. super       the super-log is a log for which all this holds; each record of a checkpoint, there and elsewhere, is
                   that of the note beside it; every shard has the entries that the newest moment has recorded
   10. wal         what is durable in the write-ahead log and not in the store yet holds, and follows what is

What was found is data, not an exception: one damaged shard must not hide another's damage. `ledger.fsck_shard` has the
parts of a shard's check, and why they hold beside a busy owner.

Adopted shards (`ledger.adopt`) belong to the log, too. Their keys need not be at hand: a home that believed them has
recorded their checkpoints, and that record is part of a tree that this log's own key has signed.

A shard that was put back to what it once was is found by what the super-log has recorded of it. What no check of a
directory can find is that all of it was put back. Whoever has kept a checkpoint finds that (`mintage audit`), and a
witness does.
Cost: about 0.7 us an entry on one core, and 8 bytes of memory; 10 us for a record of a checkpoint. Shards are checked
at once on all cores.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ledger.fsck_files import check_begun, check_key_file, given_keys, own_keys
from ledger.fsck_log import (
    check_adopted,
    check_begun_files,
    check_exchanges,
    check_foreign_parents,
    job_of_shard,
    jobs_of_log,
    key_for,
    sizes,
)
from ledger.fsck_process import Checked, CheckFailed, Job, check_apart
from ledger.fsck_report import Findings, Problem, Report
from ledger.fsck_super import check_moment, check_super_files, job_of_super
from ledger.note import VerifierKey
from ledger.store import DATA_FILE

__all__ = ["CheckFailed", "Problem", "Progress", "Report", "check", "check_shard"]

Progress = Callable[[int, int], None]
"""(entries done, entries in all), after every block. Neither ever falls; the second grows if a shard does meanwhile."""


def check(
    path: Path,
    verifier_keys: Sequence[str] | None = None,
    progress: Progress = lambda done, total: None,
    *,
    entropy: Callable[[int], bytes] = os.urandom,
    num_at_once: int | None = None,
) -> Report:
    """Verify one shard's directory, or a log's directory (or an edge's) with all its shards.

    A parent in another shard is looked up when the whole log is checked, and taken as given for one shard alone.
    Args:
        verifier_keys: whom to believe: the log's own shards, and perhaps adopted ones. Without them the log's own
            `verifier.keys` is read from the directory: that finds damage, but not a ledger that was replaced together
            with its keys.
        entropy: random bytes, so that nobody can prepare a forged index or slow tables. No finding depends on them.
        num_at_once: how many shards at a time, each in a process; as many as there are cores for this one if None.
    Raises:
        CheckFailed: the check itself has a defect. What it found until then is in its `report`.
    """
    findings, path = Findings(), path.resolve()
    is_shard = (path / DATA_FILE).exists()
    log = path.parent if is_shard else path
    keys = own_keys(log, findings.add) if verifier_keys is None else given_keys(verifier_keys, findings.add)
    jobs = [job_of_shard(path, keys)] if is_shard else jobs_of_log(log, keys, findings.add)
    super_keys, super_jobs = ({}, []) if is_shard else job_of_super(log, findings.add)
    count = _Count(progress, sum(sizes([job.path for job in jobs + super_jobs])))
    failed: CheckFailed | None = None
    results: Sequence[Checked] = ()
    try:
        results = check_apart(jobs + super_jobs, num_at_once or len(os.sched_getaffinity(0)), count.step, entropy)
    except CheckFailed as error:
        results, failed = error.results, error
    for checked in results:
        findings.extend(checked.findings)
    own, others = results[: len(jobs)], results[len(jobs) :]
    is_checked = failed is None and not findings.not_checked  # else nobody knows what shards say of each other
    try:
        if is_checked:
            check_exchanges(jobs, own, not is_shard, findings.add)
        if not is_shard:
            check_key_file(log, keys if verifier_keys is None else {}, findings.add)
            check_begun_files(log, keys, jobs, own, findings.add)
            check_super_files(log, super_keys, super_jobs, others, findings.add)
        elif key := key_for(path, keys):
            check_begun(path, key[0], 0, findings.add)  # a copy of the directory alone may lack it
        if is_checked and not is_shard:
            check_foreign_parents(log, own, findings.add)
            check_adopted(log, jobs, own, findings.add)
            check_moment(log, keys, super_jobs, findings.add)
    except CheckFailed as error:
        failed = error
    report = _report(own, findings, others)
    if failed is not None:
        raise CheckFailed(str(failed), results, report) from failed
    return report


def check_shard(path: Path, key: VerifierKey, *, entropy: Callable[[int], bytes] = os.urandom) -> Report:
    """Verify one shard's directory, whatever its name, with the key that it has to be signed with: that of an edge,
    say, which no list of keys has on the line of its number. Otherwise as `check`."""
    results = check_apart([Job(path, path.name, [key])], 1, lambda num_entries: None, entropy)
    return _report(results, results[0].findings)


def _report(results: Sequence[Checked], findings: Findings, others: Sequence[Checked] = ()) -> Report:
    """`others`: of the super-log."""
    return Report(
        len(results),
        sum(checked.seen.num_entries for checked in results),
        tuple(findings.problems),
        findings.truncated,
        sum(checked.seen.num_orphans for checked in (*results, *others)),
        sum(checked.seen.num_pending for checked in (*results, *others)),
        sum(checked.seen.num_entries for checked in others),
        tuple(findings.not_checked),
    )


class _Count:
    """How many entries are done, of how many."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._done = 0
        self._total = total

    def step(self, num_entries: int) -> None:
        self._done += num_entries
        self._total = max(self._total, self._done)
        self._progress(self._done, self._total)
