"""The offline verifier of a ledger on disk: re-derives everything from the entries up and compares it with what is
stored. It takes no lock and writes nothing, and pins no pages for long, so it may run beside the shard's owner (in
another process).

    0. shards      one directory for each line of the verifier keys, and no other
    1. head        there is one of this layout; its checkpoint is signed under this shard's origin, with this shard's
                   key; the root and the signed root are those of the entries; size and time are those of the last batch
    2. entries     rows without gap or overlap; canonical form; of this shard; times strictly increasing; no chain left
                   open; parents that exist and come before
    3. tree        every hash of every stored level is the one over the entries; none missing, none too many
    4. ids         no id twice
    5. index       every item of every run is one of the entries', and every entry's is there; no segment without reason
    6. settlement  the whole log replayed breaks no rule; debits are credits; an asset's first owner is the one its own
                   entry names; the stored balances are those of a replay
    7. payloads    every content and metadata has the hash and the length that its entry names; what an entry names is
                   there, unless it was erased, and then it is gone

What was found is data, not an exception: one damaged shard must not hide another's damage. `ledger.fsck_shard` has the
parts of a shard's check, and why they hold beside a busy owner.
Cost: about 0.5 us an entry on one core, and 8 bytes of memory.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ledger.errors import LedgerError
from ledger.fsck_process import check_shard_apart
from ledger.fsck_report import Findings, Problem, Report
from ledger.fsck_shard import Seen
from ledger.head import Head
from ledger.log import VERIFIER_FILE, read_verifier_keys, shard_of_origin, shard_path, shard_paths
from ledger.note import VerifierKey, parse_verifier_key
from ledger.store import DATA_FILE, Store

__all__ = ["Problem", "Progress", "Report", "check", "check_shard"]

Progress = Callable[[int, int], None]
"""(entries done, entries in all), after every block. Neither ever falls; the second grows if a shard does meanwhile."""


def check(
    path: Path,
    verifier_keys: Sequence[str] | None = None,
    progress: Progress = lambda done, total: None,
    *,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Report:
    """Verify one shard's directory, or a log's directory with all its shards.

    A parent in another shard is looked up when the whole log is checked, and taken as given for one shard alone.
    Args:
        verifier_keys: whom to believe, line n for shard n. Without them the log's own `verifier.keys` is read from the
            directory: that finds damage, but not a ledger that was replaced together with its keys.
        entropy: random bytes, so that nobody can prepare a forged index or slow tables. No finding depends on them.
    """
    findings = Findings()
    one_shard = (path / DATA_FILE).exists()
    log = path.resolve().parent if one_shard else path
    keys = _parsed_keys(log / VERIFIER_FILE, verifier_keys, findings)
    shards = {path.resolve(): _keys_of_one(path.resolve(), keys)} if one_shard else _shards_of_log(path, keys, findings)
    count = _Count(progress, sum(map(_num_entries, shards)))
    checks = [_check_shard(shard, shards[shard], findings, count, entropy) for shard in shards]
    if not one_shard:
        _check_foreign_parents(path, checks, findings)
    return Report(
        len(checks),
        sum(shard.num_entries for shard in checks),
        tuple(findings.problems),
        findings.truncated,
        sum(shard.num_orphans for shard in checks),
    )


def check_shard(path: Path, key: VerifierKey, *, entropy: Callable[[int], bytes] = os.urandom) -> Report:
    """Verify one shard's directory, whatever its name, with the key that it has to be signed with: that of an edge,
    say, which no list of keys has on the line of its number. Otherwise as `check`."""
    findings = Findings()
    seen = _check_shard(path, [key], findings, _Count(lambda done, total: None, 0), entropy)
    return Report(1, seen.num_entries, tuple(findings.problems), findings.truncated, seen.num_orphans)


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


def _shards_of_log(path: Path, keys: Sequence[VerifierKey], findings: Findings) -> dict[Path, Sequence[VerifierKey]]:
    """Every shard that a key is for, with that key alone, so that none passes for another; what else is there, with no
    key."""
    found = shard_paths(path)
    expected = {shard_path(path, shard): key for shard, key in enumerate(keys)}
    if not found and not expected:
        findings.add(str(path), "no shard is here")
    for missing in sorted(expected.keys() - set(found)):
        findings.add(missing.name, f"missing, though {expected[missing].name} is in the verifier keys")
    return {each: [expected[each]] if each in expected else [] for each in found}


def _keys_of_one(path: Path, keys: Sequence[VerifierKey]) -> Sequence[VerifierKey]:
    """The key for a shard's directory by its name. A copy under a name of its own may be any shard."""
    by_name = {shard_path(path.parent, shard): [key] for shard, key in enumerate(keys)}
    return by_name.get(path, keys)


def _check_shard(
    path: Path, keys: Sequence[VerifierKey], findings: Findings, count: _Count, entropy: Callable[[int], bytes]
) -> Seen:
    return check_shard_apart(path, keys, findings.of(path.name), count.step, entropy)


def _check_foreign_parents(path: Path, checks: Sequence[Seen], findings: Findings) -> None:
    """Parents in other shards exist. Sizes are read last: a parent is durable before its child is written."""
    furthest: dict[int, int] = {}
    for check in checks:
        for shard, index in check.furthest.items():
            furthest[shard] = max(index, furthest.get(shard, 0))
    for shard, index in sorted(furthest.items()):
        if index >= _num_entries(shard_path(path, shard)):
            findings.add(shard_path(path, shard).name, f"entry {index} is missing, but is an entry's parent elsewhere")


def _num_entries(path: Path) -> int:
    """What the head says; 0 if it cannot be read, which the check of the shard tells."""
    try:
        with closing(Store.open_readonly(path)) as store, store.read() as snapshot:
            return Head.of(snapshot).tree_size
    except LedgerError:
        return 0


def _parsed_keys(file: Path, given: Sequence[str] | None, findings: Findings) -> list[VerifierKey]:
    """The keys to believe, key n for shard n; none, and a problem, when there is no usable list of them."""
    where = str(file) if given is None else "the given keys"
    try:
        keys = [parse_verifier_key(key) for key in (read_verifier_keys(file) if given is None else given)]
        misplaced = [key.name for shard, key in enumerate(keys) if shard_of_origin(key.name) != shard]
    except OSError as error:
        findings.add(where, f"no verifier keys: {error.strerror}")
    except (LedgerError, UnicodeDecodeError) as error:
        findings.add(where, f"no verifier keys: {error}")
    else:
        if not misplaced:
            return keys
        findings.add(where, f"no verifier keys: {misplaced[0]} is not on the line of its shard")
    return []
