"""The offline verifier of a ledger on disk: recomputes everything from the entries up and compares it with what is
stored. It takes no lock and writes nothing, so it may run beside the shard's owner (in another process).

    0. shards      one directory for each line of the verifier keys, and no other
    1. head        there is one, and its checkpoint is signed under this shard's origin, with this shard's key
    2. entries     indices without a gap; canonical form; of this shard; parents that exist and come before
    3. tree        every leaf and node recomputed; none missing, none too many; the root is the checkpoint's
    4. ids         every entry is found by its asset id, and no id leads elsewhere
    5. blobs       every content and metadata is there with its length, and every blob has its hash

What was found is data, not an exception: one damaged shard must not hide another's damage.
Cost: one pass over every table, O(log n) memory. It reads one snapshot throughout, which pins pages while it runs.
"""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from ledger.entry import Entry, decode
from ledger.errors import LedgerError, ReceiptInvalid
from ledger.log import VERIFIER_FILE, read_verifier_keys, shard_of_origin, shard_path, shard_paths
from ledger.merkle import Frontier, Node, leaf_hash
from ledger.note import Checkpoint, VerifierKey, open_checkpoint, parse_verifier_key
from ledger.store import DATA_FILE, Snapshot, Store, unpack_index

PROBLEMS_MAX = 1000


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """What a check saw. After `PROBLEMS_MAX` problems the rest are not listed, and `truncated` says so."""

    num_shards: int
    num_entries: int
    problems: tuple[Problem, ...]
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return not self.problems


def check(path: Path, verifier_keys: Sequence[str] | None = None) -> Report:
    """Verify one shard's directory, or a log's directory with all its shards.

    A parent in another shard is looked up when the whole log is checked, and taken as given for one shard alone.
    Args:
        verifier_keys: whom to believe, line n for shard n. Without them the log's own `verifier.keys` is read from the
            directory: that finds damage, but not a ledger that was replaced together with its keys.
    """
    findings = _Findings()
    one_shard = (path / DATA_FILE).exists()
    log = path.resolve().parent if one_shard else path
    keys = _parsed_keys(log / VERIFIER_FILE, verifier_keys, findings)
    if one_shard:
        checks = [_check_shard(path.resolve(), _keys_of_one(path.resolve(), keys), findings)]
    else:
        checks = _check_log(path, keys, findings)
    num_entries = sum(shard.num_entries for shard in checks)
    return Report(len(checks), num_entries, tuple(findings.problems), findings.truncated)


class _Findings:
    """The problems so far, up to the limit."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.truncated = False

    def add(self, where: str, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(where, what))
        else:
            self.truncated = True


class _ShardCheck:
    """One shard's check. `furthest` is, for each other shard, the largest index that an entry names as its parent."""

    def __init__(self, name: str, findings: _Findings) -> None:
        self.num_entries = 0
        self.furthest: dict[int, int] = {}
        self._name = name
        self._findings = findings

    def run(self, snapshot: Snapshot, keys: Sequence[VerifierKey]) -> None:
        """The five parts, as the top of this module lists them."""
        checkpoint = self._check_head(snapshot, keys)
        frontier = self._check_entries(snapshot, checkpoint)
        self._check_tree(snapshot, frontier, checkpoint)
        self._check_ids(snapshot)
        self._check_blobs(snapshot)

    def problem(self, where: str, what: str) -> None:
        self._findings.add(f"{self._name} {where}", what)

    def _check_head(self, snapshot: Snapshot, keys: Sequence[VerifierKey]) -> Checkpoint | None:
        """The checkpoint, if it can be believed."""
        try:
            head = snapshot.head()
        except LedgerError as error:
            self.problem("head", error.what)
            return None
        if head is None or not keys:
            self.problem("head", "there is none" if head is None else "no verifier key is for a shard of this name")
            return None
        try:
            checkpoint = open_checkpoint(head.checkpoint, keys)
        except ReceiptInvalid as error:
            claimed = head.checkpoint.partition("\n")[0]
            self.problem("head", f"{error.what}; it says that it is of {claimed[:80]!r}")
            return None
        if head.tree_size != checkpoint.tree_size:
            self.problem("head", f"size {head.tree_size}, but its checkpoint is of {checkpoint.tree_size} entries")
        return checkpoint

    def _check_entries(self, snapshot: Snapshot, checkpoint: Checkpoint | None) -> Frontier:
        """Every entry by itself, and its leaf and nodes; the frontier of the recomputed tree."""
        frontier = Frontier(0, {})
        shard = None if checkpoint is None else shard_of_origin(checkpoint.origin)
        for key, data in snapshot.rows("entries"):
            index = frontier.size
            if unpack_index(key) != index:
                self.problem(f"entry {index}", "missing; what comes after it was not checked")
                break
            for node in frontier.add(leaf_hash(data)):
                self._check_node(snapshot, node)
            try:
                self._check_entry(snapshot, index, decode(data), shard)
            except LedgerError as error:
                self.problem(f"entry {index}", error.what)
        self.num_entries = frontier.size
        return frontier

    def _check_node(self, snapshot: Snapshot, node: Node) -> None:
        try:
            if snapshot.node(node.level, node.index) != node.hash:
                self.problem(f"node {node.level}/{node.index}", "it is not the hash of what is below it")
        except LedgerError as error:
            self.problem(error.where, error.what)

    def _check_entry(self, snapshot: Snapshot, index: int, entry: Entry, shard: int | None) -> None:
        where = f"entry {index}"
        if shard is not None and entry.shard != shard:
            self.problem(where, f"it says that it belongs to shard {entry.shard}")
        for parent_shard, parent in entry.parents:
            if parent_shard != entry.shard:
                self.furthest[parent_shard] = max(parent, self.furthest.get(parent_shard, 0))
            elif parent >= index:
                self.problem(where, f"its parent {parent} does not come before it")
        found = snapshot.index_of(entry.asset_id)
        if found != index:
            self.problem(where, f"its asset id leads to {found}")
        content = snapshot.blob(entry.content_hash)
        if content is None or len(content) != entry.content_bytes:
            self.problem(where, "its content is missing or has another length")
        if snapshot.blob(entry.meta_hash) is None:
            self.problem(where, "its metadata is missing")

    def _check_tree(self, snapshot: Snapshot, frontier: Frontier, checkpoint: Checkpoint | None) -> None:
        num_nodes = 2 * frontier.size - frontier.size.bit_count()
        if snapshot.num_rows("nodes") != num_nodes:
            self.problem("nodes", f"{snapshot.num_rows('nodes')} instead of {num_nodes}")
        if checkpoint is None:
            return
        if checkpoint.tree_size != frontier.size:
            self.problem("head", f"signed for {checkpoint.tree_size} entries, but there are {frontier.size}")
        elif checkpoint.root != frontier.root():
            self.problem("head", "the signed root is not the root of the entries")

    def _check_ids(self, snapshot: Snapshot) -> None:
        """Every entry was found by its id, so as many rows as entries means that there are no others."""
        if snapshot.num_rows("ids") != self.num_entries:
            self.problem("ids", f"{snapshot.num_rows('ids')} ids for {self.num_entries} entries")

    def _check_blobs(self, snapshot: Snapshot) -> None:
        for digest, data in snapshot.rows("blobs"):
            if hashlib.sha256(data).digest() != digest:
                self.problem(f"blob {digest.hex()}", "its bytes do not have its hash")


def _check_log(path: Path, keys: Sequence[VerifierKey], findings: _Findings) -> list[_ShardCheck]:
    """Every shard that a key is for, with that key alone, so that none passes for another; what else is there, with no
    key."""
    found = shard_paths(path)
    expected = {shard_path(path, shard): key for shard, key in enumerate(keys)}
    if not found and not expected:
        findings.add(str(path), "no shard is here")
    for missing in sorted(expected.keys() - set(found)):
        findings.add(missing.name, f"missing, though {expected[missing].name} is in the verifier keys")
    checks = [_check_shard(each, [expected[each]] if each in expected else [], findings) for each in found]
    _check_foreign_parents(path, checks, findings)
    return checks


def _keys_of_one(path: Path, keys: Sequence[VerifierKey]) -> Sequence[VerifierKey]:
    """The key for a shard's directory by its name. A copy under a name of its own may be any shard."""
    by_name = {shard_path(path.parent, shard): [key] for shard, key in enumerate(keys)}
    return by_name.get(path, keys)


def _check_shard(path: Path, keys: Sequence[VerifierKey], findings: _Findings) -> _ShardCheck:
    check = _ShardCheck(path.name, findings)
    try:
        with closing(Store.open_readonly(path)) as store, store.read() as snapshot:
            check.run(snapshot, keys)
    except LedgerError as error:
        check.problem(error.where, error.what)
    return check


def _check_foreign_parents(path: Path, checks: Sequence[_ShardCheck], findings: _Findings) -> None:
    """Parents in other shards exist. Sizes are read last: a parent is durable before its child is written."""
    furthest: dict[int, int] = {}
    for check in checks:
        for shard, index in check.furthest.items():
            furthest[shard] = max(index, furthest.get(shard, 0))
    for shard, index in sorted(furthest.items()):
        if index >= _num_entries(shard_path(path, shard)):
            findings.add(shard_path(path, shard).name, f"entry {index} is missing, but is an entry's parent elsewhere")


def _num_entries(path: Path) -> int:
    try:
        with closing(Store.open_readonly(path)) as store, store.read() as snapshot:
            return snapshot.num_rows("entries")
    except LedgerError:
        return 0


def _parsed_keys(file: Path, given: Sequence[str] | None, findings: _Findings) -> list[VerifierKey]:
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
