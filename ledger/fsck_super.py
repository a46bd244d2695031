"""The part of a check that looks at the super-log (`ledger.superlog`): it is a log like any other, and it is evidence.
Each shard has the entries that the newest moment has recorded of it.

The super-log is held to the key in its own directory, which `super.begun` beside it repeats; whoever got that key
elsewhere checks the directory `super` with it. A moment is believed as far as the shards' keys have signed what it has.
"""

from collections.abc import Sequence
from pathlib import Path

from ledger.errors import LedgerCorrupt, ReceiptInvalid
from ledger.fsck_files import Keys, check_key_file, own_keys
from ledger.fsck_log import check_begun_files, key_for, name_of, place_of, root_of
from ledger.fsck_process import Checked, Job, ask_apart
from ledger.fsck_report import Tell
from ledger.log import begun_path, shard_path
from ledger.note import open_checkpoint
from ledger.peer import Peer
from ledger.stored import StoredLog
from ledger.superlog import SUPER_DIR, newest_moment


def job_of_super(log: Path, tell: Tell) -> tuple[Keys, list[Job]]:
    """The super-log's key and its one shard; neither if there never was a super-log. What is missing is told."""
    directory = log / SUPER_DIR
    path = shard_path(directory, 0)
    if not path.is_dir():
        if begun_path(directory).exists():
            tell(name_in_super(path), f"missing, though {begun_path(directory).name} says that it was begun")
        return {}, []
    keys = own_keys(directory, tell)
    return keys, [Job(path, name_in_super(path), key_for(path, keys) or [])]


def check_super_files(log: Path, keys: Keys, jobs: Sequence[Job], results: Sequence[Checked], tell: Tell) -> None:
    """The small files of the super-log's directory, and what says beside it that it was begun.

    Args:
        keys, jobs: what `job_of_super` gave.
    """
    directory = log / SUPER_DIR
    if not jobs:
        return

    def told(where: str, what: str) -> None:
        tell(f"{SUPER_DIR}/{where}", what)

    check_key_file(directory, keys, told)
    check_begun_files(directory, keys, jobs, results, told)
    begun = begun_path(directory)
    expected = "".join(f"{key}\n" for key in keys.values()).encode()
    try:
        data = begun.read_bytes()
    except FileNotFoundError:
        if any(checked.seen.num_entries for checked in results):
            tell(begun.name, "missing, so that the super-log might be begun anew, under another key")
    except OSError as error:
        tell(begun.name, f"it cannot be read: {error.strerror}")
    else:
        if keys and data != expected:
            tell(begun.name, "it is not the super-log's key, and nothing else")


def check_moment(log: Path, keys: Keys, jobs: Sequence[Job], tell: Tell) -> None:
    """Every shard has the entries that the newest moment of the super-log has recorded of it, in that order.

    Args:
        keys: those of the shards.
        jobs: what `job_of_super` gave.
    """
    unread: tuple[Peer, ...] | str = "it cannot be read"
    for job, moment in zip(jobs, ask_apart(_moment, [job.path for job in jobs], unread), strict=True):
        if isinstance(moment, str):
            tell(job.name, f"its newest moment was not held against the shards: {moment}")
            continue
        for peer in moment:
            if what := _disbelieved(log, peer, keys):
                tell(job.name, f"its newest moment has shard {peer.shard}, {what}")
        places = [(place_of(log, peer.shard), peer.checkpoint) for peer in moment]
        roots = ask_apart(root_of, [(path, claim.tree_size) for path, claim in places], b"")
        for (path, claim), root in zip(places, roots, strict=True):
            if claim.tree_size and claim.root != root:
                tell(name_of(path), f"it does not have the {claim.tree_size} entries that the super-log has recorded")


def name_in_super(path: Path) -> str:
    """What the super-log's shard is called in the findings."""
    return f"{SUPER_DIR}/{path.name}"


def _moment(path: Path) -> tuple[Peer, ...] | str:
    """The checkpoints of the newest moment; or why there is none to be had."""
    try:
        with StoredLog(path) as log:
            return tuple(peer for _, peer in newest_moment(log).values())
    except LedgerCorrupt as error:
        return error.what


def _disbelieved(log: Path, peer: Peer, keys: Keys) -> str:
    """Why nobody needs to believe what a moment says of a shard; empty if it is the shard's own word."""
    key = keys.get(peer.shard)
    if key is None:
        is_adopted = place_of(log, peer.shard).parent != log
        return "" if is_adopted else "which no verifier key is for"
    try:
        open_checkpoint(peer.note, [key])
    except ReceiptInvalid as error:
        return f"and that shard has not signed it: {error.what}"
    return ""
