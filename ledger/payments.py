"""What paid for a transfer: everything that stood or fell with it, and what became of it.

A transfer is bound to its payment in one of three ways, and all three are in the entries:

    a linked chain      entries next to each other in the log, all but the last flagged LINKED: recorded together or not
    a pending pair      the transfer was held, and an entry that names it posted, voided or expired it; what was held in
                        the same chain, or ended in the same chain, belongs to it
    an exchange         legs in one or more shards and one decision (`ledger.legs`); the terms, whose hash every leg has
                        as its request hash, lie beside the decision and beside the first leg of every shard

Terms that were erased bind no more than a shard at a time: then the answer is what the chains say.
"""

from collections.abc import Iterator, Mapping
from enum import Enum

import msgspec
import numpy as np

from ledger import exchange as exchanges
from ledger.decision import Request, Stage
from ledger.entry import Entry, Flag, Kind, Parent, from_bytes
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.exchange import Exchange
from ledger.index import BATCH_ENTRIES_MAX
from ledger.legs import decision_id, holds, is_leg, items
from ledger.queries import ENDS, end_of
from ledger.reader import PAGE_MAX, Found, Reader

CHAIN_MAX = BATCH_ENTRIES_MAX
"""A chain is part of one batch."""

_TRANSFERS = (Kind.MONEY, Kind.OWNERSHIP)


class State(Enum):
    """What became of a transfer."""

    HAPPENED = "happened"
    HELD = "held"
    VOIDED = "voided"
    EXPIRED = "expired"


class Transfer(msgspec.Struct, frozen=True):
    """A transfer, and how it stands. `amount`: what moved, or is or was held (of money, in micro-units).

    `debit`, `credit`: accounts; of an asset its old and its new owner. `asset`: None for money.
    `ended_by`: the place of the entry that ended what was held.
    """

    place: Parent
    id: bytes
    state: State
    debit: bytes
    credit: bytes
    currency: int
    amount: int
    asset: bytes | None
    ended_by: Parent | None


class Decision(msgspec.Struct, frozen=True):
    """What the home of an exchange has recorded: whether it happens."""

    place: Parent
    is_commit: bool


class Paid(msgspec.Struct, frozen=True):
    """A transfer, and all that it stood or fell with, by shard and index.

    `exchange`: its id, if there was one. `decision`: None if there is none yet, or it needs none. `absent`: shards of
    the exchange that were not at hand.
    """

    transfer: Transfer
    others: tuple[Transfer, ...]
    exchange: bytes | None
    decision: Decision | None
    absent: tuple[int, ...]


def paid_for(shards: Mapping[int, Reader], shard: int, transfer_id: bytes) -> Paid:
    """What paid for a transfer of an asset; or of a transfer of money, what it was for.

    Args:
        shards: those at hand; `shard`, of the transfer, is one of them.
        transfer_id: of the transfer, or of the entry that ended it.
    Raises:
        EntryNotFound: no transfer there has the id, or its shard is not at hand.
        LedgerCorrupt: the entries do not belong together as the rules demand.
    Cost: a few look-ups for each entry of the chains.
    """
    if shard not in shards:
        raise EntryNotFound(f"shard {shard} is not at hand", where="shard", fix="Open that shard, too.")
    reader = shards[shard]
    begun = _begun(reader, transfer_id)
    together = _together(reader, begun)
    exchange = _exchange_of(reader, together)
    transfers = {(shard, found.index): _transfer(shard, reader, found) for found in together if _begins(found.entry)}
    decision, absent = None, []
    if exchange is not None:
        decision = _decision(shards, exchange)
        absent = [number for number in exchange.shards if number not in shards]
        for number in exchange.shards:
            if number in shards:
                legs = list(_legs(shards[number], exchange, number))
                transfers |= {(number, leg.index): _transfer(number, shards[number], leg) for leg in legs}
    transfer = transfers.pop((shard, begun.index))
    others = tuple(transfers[place] for place in sorted(transfers))
    return Paid(transfer, others, exchange.id if exchange else None, decision, tuple(absent))


def chain_of(reader: Reader, index: int) -> list[Found]:
    """The linked chain that an entry is part of; alone if it is linked to nothing.

    Raises:
        EntryNotFound: there is no such entry.
        LedgerCorrupt: an entry of the chain, or the one before it, is damaged.
    """
    begin, end = max(index - CHAIN_MAX, 0), min(index + CHAIN_MAX, reader.tree_size)
    if not begin <= index < end:
        raise EntryNotFound(f"no entry {index}", where="ledger", fix="Ask for an index that the shard has reached.")
    is_linked = from_bytes(reader.read_entries(begin, end))["flags"] & int(Flag.LINKED) != 0
    ends = np.flatnonzero(~is_linked) + begin  # of chains
    first = int(ends[ends < index].max(initial=begin - 1)) + 1
    last = int(ends[ends >= index].min(initial=end - 1))
    found = []
    if first > begin:
        reader.entry(first - 1)  # unchanged, it says that the chain begins after it
    for start in range(first, last + 1, PAGE_MAX):
        found += reader.entries(range(start, min(start + PAGE_MAX, last + 1)))
    return found


def _begun(reader: Reader, transfer_id: bytes) -> Found:
    """The entry that began a transfer, given its id or that of its end."""
    found = reader.by_id(transfer_id)
    if found is not None and found.entry.kind in _TRANSFERS and found.entry.flags & ENDS:
        found = reader.by_id(found.entry.subject)
    if found is None or found.entry.kind not in _TRANSFERS:
        raise EntryNotFound(
            "no transfer has this id", where=transfer_id.hex(), fix="Give the id of a transfer of this shard."
        )
    return found


def _together(reader: Reader, begun: Found) -> list[Found]:
    """What began in the chain of a transfer, or was ended in the chain of its end; the chains themselves, too."""
    found = {each.index: each for each in chain_of(reader, begun.index)}
    end = end_of(reader, begun.entry.id) if begun.entry.flags & Flag.PENDING else None
    if end is not None:
        found |= {each.index: each for each in chain_of(reader, end.index)}
    for each in list(found.values()):
        if each.entry.kind in _TRANSFERS and each.entry.flags & ENDS:
            pending = _begun(reader, each.entry.id)
            found[pending.index] = pending
    return [found[index] for index in sorted(found)]


def _begins(entry: Entry) -> bool:
    return entry.kind in _TRANSFERS and not entry.flags & ENDS


def _transfer(shard: int, reader: Reader, begun: Found) -> Transfer:
    """A transfer, with what its end says."""
    entry = begun.entry
    end = end_of(reader, entry.id) if entry.flags & Flag.PENDING else None
    if end is not None and end.entry.kind != entry.kind:
        raise LedgerCorrupt(
            f"an entry of the kind {end.entry.kind.name} ends one of {entry.kind.name} at {begun.index}",
            where=f"entry {shard}/{end.index}",
            fix="Run fsck on the shard and restore it from a copy.",
        )
    is_money = entry.kind == Kind.MONEY
    return Transfer(
        place=(shard, begun.index),
        id=entry.id,
        state=_state(entry, end),
        debit=entry.debit,
        credit=entry.credit if is_money else entry.owner,
        currency=entry.currency,
        amount=end.entry.amount if end is not None and end.entry.amount else entry.amount,
        asset=None if is_money else entry.subject,
        ended_by=None if end is None else (shard, end.index),
    )


def _state(entry: Entry, end: Found | None) -> State:
    if not entry.flags & Flag.PENDING:
        return State.HAPPENED
    if end is None:
        return State.HELD
    if end.entry.flags & Flag.POST:
        return State.HAPPENED
    return State.VOIDED if end.entry.flags & Flag.VOID else State.EXPIRED


def _exchange_of(reader: Reader, together: list[Found]) -> Exchange | None:
    """The exchange whose terms lie beside one of some entries that belong together. Anyone can put terms beside an
    entry: they count beside the decision about them, or a leg of theirs."""
    for found in together:
        entry = found.entry
        if entry.kind == Kind.DECISION:
            terms = reader.content(found.index)
        elif entry.kind in _TRANSFERS and entry.meta_hash == entry.request_hash:
            terms = reader.meta(found.index)
        else:
            continue
        exchange = None if terms is None else exchanges.decode(terms)
        if exchange is not None and (_decides(entry, exchange) or holds(entry, exchange)):
            return exchange
    return None


def _decides(entry: Entry, exchange: Exchange) -> bool:
    """Whether an entry is the decision about exactly these terms."""
    is_decision = entry.kind == Kind.DECISION and entry.id == decision_id(exchange.id)
    return is_decision and entry.content_hash == exchange.digest


def _decision(shards: Mapping[int, Reader], exchange: Exchange) -> Decision | None:
    """What was decided about exactly these terms."""
    if exchange.home not in shards:
        return None
    found = shards[exchange.home].by_id(decision_id(exchange.id))
    if found is None or not _decides(found.entry, exchange):
        return None
    return Decision((exchange.home, found.index), found.entry.amount == 1)


def _legs(reader: Reader, exchange: Exchange, shard: int) -> Iterator[Found]:
    """What was recorded of an exchange's legs in a shard."""
    for leg, _ in items(Request(exchange, shard, Stage.PREPARE)):
        found = reader.by_id(leg.id)
        if found is not None and is_leg(found.entry, exchange):
            yield found
