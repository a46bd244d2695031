"""Lineage: what an entry was made from, and what was made from it, over all shards; and proofs of the whole path.

Every entry names its parents by (shard, index), so the edges are part of what its shard has signed: a receipt for each
entry proves the path, and nothing has to be said about the edges.

A proof of lineage is receipts (C2SP tlog-proof), one after another with an empty line between them: the entry in
question first, then the others, breadth first. All receipts of a shard are under one checkpoint. Each can be checked
alone with tools that we did not write; `verify_lineage` checks that together they are a lineage.
Ancestors are proved completely: an entry says how many parents it has. Of descendants a proof shows that they are
some; that there are no others is in the nature of a log that still grows.
Turned down: one multi-proof for all entries of a shard. It would be half as long, and nobody else's tool can read it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Protocol

import msgspec

from ledger.entry import Entry, Parent
from ledger.errors import EntryInvalid, EntryNotFound, KeyInvalid, LedgerError, ReceiptInvalid
from ledger.log import shard_of_origin
from ledger.note import Policy, Witnessed, open_checkpoint_with_policy, read_checkpoint
from ledger.prove import receipt_under
from ledger.reader import Page
from ledger.receipt import HEADER, check_entry, parse
from ledger.tiles import Source

DEPTH_MAX = 64
"""Generations that one question goes up or down at most."""

NODES_MAX = 4096
"""Entries in one answer, and in one proof."""

CHILDREN_PAGE = 256

LINEAGE_BYTES_MAX = 16 * 1024 * 1024


class Way(Enum):
    """Up: towards what an entry was made from. Down: towards what was made from it."""

    UP = "ancestors"
    DOWN = "descendants"


class Kin(Protocol):
    """The part of a shard that lineage needs; a `Reader` has it."""

    def entry(self, index: int) -> Entry:
        """The entry at an index; EntryNotFound if there is none."""

    def children(self, shard: int, index: int, *, begin: int, limit: int) -> Page:
        """The entries of this shard that name (shard, index) as a parent, by index, from `begin` on."""


class Node(msgspec.Struct, frozen=True):
    """An entry, its place, and how many generations it is away."""

    place: Parent
    depth: int
    entry: Entry


class Lineage(msgspec.Struct, frozen=True):
    """Entries breadth first, the one in question first; each once.

    `edges`: (child, parent) for every such pair among them. `absent`: of ancestors, parents in shards that were not at
    hand. `is_truncated`: there are more generations, or more entries, than were asked for.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[Parent, Parent], ...]
    absent: tuple[Parent, ...]
    is_truncated: bool


class LineageVerified(msgspec.Struct, frozen=True):
    """What a proof of lineage has proved.

    `nodes`, `edges`: as in `Lineage`. `others`: parents that its entries name and that are not in it; without
    any, the ancestors are complete. `checkpoints`: what was believed of each shard, by its number.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[Parent, Parent], ...]
    others: tuple[Parent, ...]
    checkpoints: dict[int, Witnessed]


def ancestors(
    shards: Mapping[int, Kin], start: Parent, *, depth_max: int = DEPTH_MAX, nodes_max: int = NODES_MAX
) -> Lineage:
    """What an entry was made from, breadth first; parents in the order in which an entry names them.

    Raises:
        EntryNotFound: there is no such entry, or its shard is not at hand; or an entry names a parent that its shard
            here has not, since it is an older copy than the others, or damaged. `where` is the place.
        EntryInvalid: a limit is not within `DEPTH_MAX` and `NODES_MAX`.
        LedgerCorrupt: a stored entry is damaged.
    Cost: a look at a shard for each entry, about 0.15 ms among 2 million.
    """
    return _walk(shards, start, lambda node: iter(node.entry.parents), depth_max, nodes_max)


def descendants(
    shards: Mapping[int, Kin], start: Parent, *, depth_max: int = DEPTH_MAX, nodes_max: int = NODES_MAX
) -> Lineage:
    """What was made from an entry, breadth first; children by shard and index.

    Raises and cost: as `ancestors`; every shard at hand is asked for the children of each entry, about 1 ms each.
    """

    def children(node: Node) -> Iterator[Parent]:
        return ((shard, index) for shard in sorted(shards) for index in _children(shards[shard], node.place))

    return _walk(shards, start, children, depth_max, nodes_max)


def _children(shard: Kin, parent: Parent) -> Iterator[int]:
    begin: int | None = 0
    while begin is not None:
        page = shard.children(*parent, begin=begin, limit=CHILDREN_PAGE)
        yield from (found.index for found in page.found)
        begin = page.next_begin


def _walk(
    shards: Mapping[int, Kin],
    start: Parent,
    neighbours: Callable[[Node], Iterator[Parent]],
    depth_max: int,
    nodes_max: int,
) -> Lineage:
    """Breadth first from an entry. Stops asking as soon as a limit is known to cut something off."""
    if not 0 <= depth_max <= DEPTH_MAX or not 1 <= nodes_max <= NODES_MAX:
        raise EntryInvalid(
            f"{depth_max} generations and {nodes_max} entries",
            where="limits",
            fix=f"Ask for 0 to {DEPTH_MAX} generations and 1 to {NODES_MAX} entries.",
        )
    if start[0] not in shards:
        raise EntryNotFound(f"shard {start[0]} is not at hand", where="lineage", fix="Open that shard, too.")
    nodes = {start: Node(start, 0, shards[start[0]].entry(start[1]))}
    absent: dict[Parent, None] = {}
    is_truncated = False
    waiting = deque([nodes[start]])
    while waiting:
        node = waiting.popleft()
        for place in neighbours(node):
            if place in nodes:
                continue
            if place[0] not in shards:
                absent[place] = None
                continue
            if node.depth == depth_max or len(nodes) == nodes_max:
                is_truncated = True
                break
            nodes[place] = Node(place, node.depth + 1, _named_entry(shards, place))
            waiting.append(nodes[place])
        if is_truncated and len(nodes) == nodes_max:
            break
    return Lineage(tuple(nodes.values()), _edges(nodes), tuple(absent), is_truncated)


def _named_entry(shards: Mapping[int, Kin], place: Parent) -> Entry:
    """An entry that another one names."""
    shard, index = place
    try:
        return shards[shard].entry(index)
    except EntryNotFound as error:
        raise EntryNotFound(
            error.what, where=f"{shard}/{index}", fix="Give a newer copy of that shard, or run fsck on it."
        ) from error


def _edges(nodes: Mapping[Parent, Node]) -> tuple[tuple[Parent, Parent], ...]:
    """(child, parent) for every pair of entries of which one names the other."""
    return tuple((node.place, parent) for node in nodes.values() for parent in node.entry.parents if parent in nodes)


def prove_lineage(lineage: Lineage, sources: Mapping[int, Source], notes: Mapping[int, str] | None = None) -> str:
    """The proof of a lineage: a receipt for each of its entries.

    Args:
        sources: the shards that its entries are in.
        notes: signed checkpoints of some of them, say cosigned ones; of the others the newest is taken.
    Raises:
        EntryInvalid: it would be longer than `LINEAGE_BYTES_MAX`, which no verifier takes.
        EntryNotFound: a checkpoint does not cover an entry, or a shard is not at hand. ReceiptInvalid, LedgerCorrupt:
            see `ledger.prove.receipt_under`.
    Cost: about 2 ms for each entry.
    """
    taken = dict(notes or {})
    receipts = []
    for shard, index in (node.place for node in lineage.nodes):
        if shard not in sources:
            raise EntryNotFound(f"shard {shard} is not at hand", where="lineage", fix="Give every shard of it.")
        if shard not in taken:
            taken[shard] = sources[shard].checkpoint()
        receipts.append(receipt_under(sources[shard], index, taken[shard]))
    text = "\n".join(receipts)
    if len(text) > LINEAGE_BYTES_MAX:
        raise EntryInvalid(
            f"{len(receipts)} receipts are {len(text)} bytes, more than {LINEAGE_BYTES_MAX}",
            where="proof",
            fix="Ask for fewer entries, or for checkpoints with fewer cosignatures.",
        )
    return text


def verify_lineage(text: str, way: Way, policy: Policy) -> LineageVerified:
    """Check a proof of lineage offline, trusting nothing but the policy.

    1. keys: the policy names one key for each shard number, so a place means one entry.
    2. parse: the text is at most `NODES_MAX` receipts.
    3. checkpoints: each is signed, and cosigned, as the policy demands; there is one for each shard.
    4. entries: every entry is in its checkpoint's tree, and none comes twice.
    5. lineage: every entry but the first is a parent (down: a child) of one before it, and they come breadth first.

    Args:
        way: what is to be proved; which entry it is about is in the result, for the caller to compare.
    Raises:
        KeyInvalid: step 1.
        ReceiptInvalid: `where` names the receipt, counted from 0, and what of it failed; `what` says why.
    Cost: a signature for each shard; about 0.3 ms for each entry.
    """
    numbers = [shard_of_origin(key.name) for key in policy.log_keys]
    if len(set(numbers)) != len(numbers):
        raise KeyInvalid(
            "the policy has two keys for one shard number", where="step 1 keys", fix="Give the keys of one ledger."
        )
    notes: dict[int, str] = {}
    checkpoints: dict[int, Witnessed] = {}
    path = _Path(way)
    for number, part in enumerate(_split(text)):
        with _of_receipt(number):
            receipt = parse(part)
            shard = shard_of_origin(read_checkpoint(receipt.checkpoint).origin)
            if notes.setdefault(shard, receipt.checkpoint) != receipt.checkpoint:
                raise _invalid(f"two checkpoints of shard {shard}", "step 3 checkpoints")
            if shard not in checkpoints:
                checkpoints[shard] = open_checkpoint_with_policy(receipt.checkpoint, policy)
            verified = check_entry(receipt, checkpoints[shard].checkpoint)
            path.add((shard, verified.index), verified.entry)
    others = dict.fromkeys(
        each for node in path.nodes.values() for each in node.entry.parents if each not in path.nodes
    )
    return LineageVerified(tuple(path.nodes.values()), _edges(path.nodes), tuple(others), checkpoints)


class _Path:
    """The entries of a proof so far, and what may come next."""

    def __init__(self, way: Way) -> None:
        self.nodes: dict[Parent, Node] = {}
        self._way = way
        self._depths: dict[Parent, int] = {}  # up: of every entry that one of the nodes names
        self._last_depth = 0

    def add(self, place: Parent, entry: Entry) -> None:
        """What remains of step 4, and step 5, for an entry."""
        if place in self.nodes:
            raise _invalid(f"entry {place[0]}/{place[1]} comes twice", "step 4 entries")
        depth = self._depth(place, entry)
        if depth is None or depth < self._last_depth:
            raise _invalid(
                f"entry {place[0]}/{place[1]} is not next among the {self._way.value} of those before it",
                "step 5 lineage",
            )
        self.nodes[place] = Node(place, depth, entry)
        self._last_depth = depth
        for parent in entry.parents:
            self._depths.setdefault(parent, depth + 1)

    def _depth(self, place: Parent, entry: Entry) -> int | None:
        """How far an entry is from the first; None if it has nothing to do with those before."""
        if not self.nodes:
            return 0
        if self._way == Way.UP:
            return self._depths.get(place)
        return min((self.nodes[parent].depth + 1 for parent in entry.parents if parent in self.nodes), default=None)


def _split(text: str) -> list[str]:
    """The receipts of a proof."""
    if len(text) > LINEAGE_BYTES_MAX:
        raise _invalid(f"more than {LINEAGE_BYTES_MAX} bytes", "step 2 parse")
    parts = text.split(f"\n\n{HEADER}\n")
    if len(parts) > NODES_MAX:
        raise _invalid(f"more than {NODES_MAX} receipts", "step 2 parse")
    last = len(parts) - 1
    return [
        (f"{HEADER}\n" if number else "") + part + ("\n" if number < last else "") for number, part in enumerate(parts)
    ]


@contextmanager
def _of_receipt(number: int) -> Iterator[None]:
    """Name the receipt in whatever is raised inside."""
    try:
        yield
    except LedgerError as error:
        raise ReceiptInvalid(error.what, where=f"receipt {number}, {error.where}", fix=error.fix) from error


def _invalid(what: str, where: str) -> ReceiptInvalid:
    return ReceiptInvalid(what, where=where, fix="Do not trust it; ask for a new proof.")
