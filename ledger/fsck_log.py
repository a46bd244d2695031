"""The part of a check that is about a log as a whole: which shards it should have, what they say of each other."""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ledger.fsck_files import Keys, check_begun, check_no_other_begun
from ledger.fsck_process import Checked, Job, ask_apart
from ledger.fsck_report import Tell
from ledger.head import Head
from ledger.log import ADOPTED_DIR, shard_of_origin, shard_path, shard_paths
from ledger.note import VerifierKey, read_checkpoint
from ledger.payload import canonical_json
from ledger.peer import ADOPTED, peer_id
from ledger.reader import Reader
from ledger.store import Store


def jobs_of_log(log: Path, keys: Keys, tell: Tell) -> list[Job]:
    """Every shard that there is, with the one key for its number, so that none passes for another; what is missing is
    told. An adopted shard that there is no key for is looked at without."""
    own, adopted = shard_paths(log), shard_paths(log / ADOPTED_DIR)
    if not own and not keys:
        tell(str(log), "no shard is here")
    for shard, key in keys.items():
        if shard_path(log, shard) not in own and shard_path(log / ADOPTED_DIR, shard) not in adopted:
            tell(shard_path(log, shard).name, f"missing, though {key.name} is in the verifier keys")
    jobs = [Job(path, path.name, key_for(path, keys) or []) for path in own]
    return jobs + [Job(path, _name(path), key_for(path, keys)) for path in adopted]


def job_of_shard(path: Path, keys: Keys) -> Job:
    """A shard's directory. A copy under a name of its own may be any shard."""
    return Job(path, path.name, key_for(path, keys) or list(keys.values()))


def key_for(path: Path, keys: Keys) -> list[VerifierKey] | None:
    """The key for a shard by the name of its directory, if there is one."""
    return next(([key] for shard, key in keys.items() if shard_path(path.parent, shard) == path), None)


def check_begun_files(log: Path, keys: Keys, jobs: Sequence[Job], results: Sequence[Checked], tell: Tell) -> None:
    """What says that the shards were begun. Adopted ones were begun elsewhere."""
    for job, checked in zip(jobs, results, strict=True):
        if job.path.parent == log and (key := key_for(job.path, keys)):
            check_begun(job.path, key[0], checked.seen.num_entries, tell)
    expected = {shard_path(log, shard) for shard in keys}
    check_no_other_begun(log, expected.union(job.path for job in jobs), tell)


def check_foreign_parents(log: Path, results: Sequence[Checked], tell: Tell) -> None:
    """Parents in other shards exist. Sizes are read last: a parent is durable before its child is written."""
    furthest: dict[int, int] = {}
    for checked in results:
        for shard, index in checked.seen.furthest.items():
            furthest[shard] = max(index, furthest.get(shard, 0))
    paths = {shard: _place(log, shard) for shard in sorted(furthest)}
    for (shard, path), size in zip(paths.items(), sizes(list(paths.values())), strict=True):
        if furthest[shard] >= size:
            tell(_name(path), f"entry {furthest[shard]} is missing, but is an entry's parent elsewhere")


def check_adopted(log: Path, jobs: Sequence[Job], results: Sequence[Checked], tell: Tell) -> None:
    """What was adopted has the number it was adopted under, and a shard of this log has recorded its checkpoint."""
    homes = [job.path for job in jobs if job.path.parent == log]
    for job, checked in zip(jobs, results, strict=True):
        if job.path.parent == log or not checked.seen.note:
            continue
        checkpoint = read_checkpoint(checked.seen.note)
        if shard_path(job.path.parent, shard_of_origin(checkpoint.origin)) != job.path:
            tell(job.name, f"it is the shard of {checkpoint.origin[:80]!r}")
        if not any(ask_apart(_has_recorded, [(home, checked.seen.note) for home in homes], False)):
            tell(job.name, "no shard of the log has recorded its checkpoint; adopt it again if that was cut short")


def sizes(shards: Sequence[Path]) -> list[int]:
    """How many entries their heads say; 0 where one cannot be read, which the check of the shard tells."""
    return ask_apart(_size, shards, 0)


def _size(shard: Path) -> int:
    with closing(Store.open_readonly(shard)) as store, store.read() as snapshot:
        return Head.of(snapshot).tree_size


def _has_recorded(home_and_note: tuple[Path, str]) -> bool:
    """Whether a shard has recorded a checkpoint, to the byte: the entry names the hash of the metadata it is in."""
    home, note = home_and_note
    with Reader.open(home) as reader:
        found = reader.by_id(peer_id(read_checkpoint(note), ADOPTED))
    return found is not None and found.entry.meta_hash == hashlib.sha256(canonical_json({"checkpoint": note})).digest()


def _place(log: Path, shard: int) -> Path:
    """Where a shard is: the log's own, or one that was adopted."""
    own, adopted = shard_path(log, shard), shard_path(log / ADOPTED_DIR, shard)
    return adopted if adopted.is_dir() and not own.is_dir() else own


def _name(path: Path) -> str:
    """What an adopted shard is called, or one of the log's own."""
    return f"{ADOPTED_DIR}/{path.name}" if path.parent.name == ADOPTED_DIR else path.name
