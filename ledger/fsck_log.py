"""The part of a check that is about a log as a whole: which shards it should have, what they say of each other."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ledger.adoptions import recorded_adoptions
from ledger.fsck_exchanges import NO_RECORDS, Records, compare, read_newest
from ledger.fsck_files import Keys, check_begun, check_no_other_begun
from ledger.fsck_process import Checked, Job, ask_apart
from ledger.fsck_report import Tell
from ledger.head import Head
from ledger.log import ADOPTED_DIR, shard_of_origin, shard_path, shard_paths
from ledger.note import VerifierKey, read_checkpoint
from ledger.peer import Peer
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
    return jobs + [Job(path, name_of(path), key_for(path, keys)) for path in adopted]


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
    paths = {shard: place_of(log, shard) for shard in sorted(furthest)}
    for (shard, path), size in zip(paths.items(), sizes(list(paths.values())), strict=True):
        if furthest[shard] >= size:
            tell(name_of(path), f"entry {furthest[shard]} is missing, but is an entry's parent elsewhere")


def check_exchanges(jobs: Sequence[Job], results: Sequence[Checked], is_whole: bool, tell: Tell) -> None:
    """Exchanges are carried out as they were decided, in every shard.

    Args:
        is_whole: whether these are all the shards; else nothing is missed that another one may have.
    """
    collected = [checked.seen.exchanges for checked in results]
    begins = [0 if checked.seen.exchanges is None else checked.seen.num_entries for checked in results]

    def read_all() -> list[Records | None]:
        shards = [(job.path, begin) for job, begin in zip(jobs, begins, strict=True)]
        return ask_apart(read_newest, shards, None) if is_whole else [None]

    compare([NO_RECORDS if each is None else each for each in collected], [job.name for job in jobs], read_all, tell)


def check_adopted(log: Path, jobs: Sequence[Job], results: Sequence[Checked], tell: Tell) -> None:
    """Whatever a shard of this log has recorded as adopted is there, in the tree that it has recorded. What is there
    has the number it was adopted under, and its checkpoint was recorded.

    Records are read before the copies: a copy is there before its record, while the owner adopts.
    """
    homes = [job.path for job in jobs if job.path.parent == log]
    nothing: tuple[Peer, ...] = ()
    recorded = [peer for peers in ask_apart(_recorded, homes, nothing) for peer in peers]
    behind = _behind(log, recorded, tell)
    notes = {peer.note for peer in recorded}
    for job, checked in zip(jobs, results, strict=True):
        if job.path.parent != log / ADOPTED_DIR or job.path in behind or not checked.seen.note:
            continue
        checkpoint = read_checkpoint(checked.seen.note)
        if shard_path(job.path.parent, shard_of_origin(checkpoint.origin)) != job.path:
            tell(job.name, f"it is the shard of {checkpoint.origin[:80]!r}")
        if checked.seen.note not in notes:
            tell(job.name, "no shard of the log has recorded its checkpoint; adopt it again if that was cut short")


def _behind(log: Path, recorded: Sequence[Peer], tell: Tell) -> set[Path]:
    """Which adopted copies lack, or have otherwise, what was recorded of them; that is told."""
    largest = {peer.shard: peer.checkpoint for peer in sorted(recorded, key=lambda peer: peer.checkpoint.tree_size)}
    claims = {shard_path(log / ADOPTED_DIR, shard): checkpoint for shard, checkpoint in sorted(largest.items())}
    roots = ask_apart(root_of, [(path, claim.tree_size) for path, claim in claims.items()], b"")
    behind = {path for (path, claim), root in zip(claims.items(), roots, strict=True) if root != claim.root}
    for path in sorted(behind):
        num_entries = claims[path].tree_size
        tell(name_of(path), f"it does not have the {num_entries} entries that the log has recorded; adopt it again")
    return behind


def sizes(shards: Sequence[Path]) -> list[int]:
    """How many entries their heads say; 0 where one cannot be read, which the check of the shard tells."""
    return ask_apart(_size, shards, 0)


def _size(shard: Path) -> int:
    with closing(Store.open_readonly(shard)) as store, store.read() as snapshot:
        return Head.of(snapshot).tree_size


def _recorded(home: Path) -> tuple[Peer, ...]:
    """What a shard has recorded as adopted."""
    with Reader.open(home) as reader:
        return tuple(recorded_adoptions(reader))


def root_of(shard_and_size: tuple[Path, int]) -> bytes:
    """The root of a shard's first entries."""
    shard, size = shard_and_size
    with Reader.open(shard) as reader:
        return reader.tree(size).root


def place_of(log: Path, shard: int) -> Path:
    """Where a shard is: the log's own, or one that was adopted."""
    own, adopted = shard_path(log, shard), shard_path(log / ADOPTED_DIR, shard)
    return adopted if adopted.is_dir() and not own.is_dir() else own


def name_of(path: Path) -> str:
    """What an adopted shard is called, or one of the log's own."""
    return f"{ADOPTED_DIR}/{path.name}" if path.parent.name == ADOPTED_DIR else path.name
