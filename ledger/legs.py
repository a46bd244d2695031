"""The entries of an exchange: what each stage of `ledger.decision` records in a shard, and what the answers mean.

    SETTLE   a MONEY entry for each move, OWNERSHIP of the asset, DECISION with the amount 1: one linked chain
    PREPARE  the shard's MONEY entries and, at home, OWNERSHIP: one linked chain, all PENDING, without a timeout
    COMMIT   DECISION with the amount 1            ABORT   DECISION with the amount 0
    POST     an entry POST for each leg: a chain   VOID    an entry VOID for each leg: a chain

Every entry has the SHA-256 of the terms as its request hash, so that an auditor sees what belongs together. The terms
themselves lie beside the decision as its content, and beside the first leg that a shard holds as its metadata: whoever
finds one of these has everything.

    id of the decision   SHA-256("mintage decision\\n" ‖ exchange id), cut to 16 bytes
    id of a leg          SHA-256("mintage leg\\n" ‖ SHA-256 of the terms ‖ number, big-endian in 2 bytes), cut likewise
    id of its end        SHA-256("mintage end\\n" ‖ id of the leg), cut likewise

So an exchange id is decided once, and no exchange can end the legs of another one, not even with the same id.

Whoever knows the terms can tell these ids beforehand, and an id is given once: a stranger who recorded something else
under the id of a leg's end would keep it from being posted. So a service that lets strangers name ids derives the
recorded ones from who they are and what they say (a hash of both); entries of the kind DECISION, and what ends a
pending transfer, are not for strangers at all.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.decision import Answer, Request, Stage
from ledger.entry import ID_BYTES, ZERO_HASH, ZERO_ID, Entries, Entry, Flag, Kind, zeros
from ledger.exchange import Exchange
from ledger.payload import Payload
from ledger.result import Result

_INTEGERS = ("kind", "tier", "flags", "code", "currency", "amount", "num_bytes")
_BYTES = ("id", "owner", "subject", "content_hash", "meta_hash", "request_hash")
_EMPTY = Payload()


class Columns(Protocol):
    """The answers to a batch; `results`: uint8[n], a `Result` each."""

    @property
    def results(self) -> NDArray[np.uint8]: ...


class Appends(Protocol):
    """The part of a shard that is needed here."""

    def append(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> Columns: ...


def answers(shard: Appends, requests: Sequence[Request]) -> list[Answer]:
    """Do what some requests to a shard ask for, in one append; an answer to each, durable.

    Raises:
        LedgerFull, LedgerCorrupt, LedgerError: see `Shard.append`; there are no answers, and asking again does no harm.
        EntryInvalid: more requests than fit into a batch (an exchange has `MOVES_MAX` + 2 entries at most).
    Cost: one commit, and some 10 us an entry.
    """
    entries, payloads = batch(requests)
    return told(requests, shard.append(entries, payloads).results.tolist())


def batch(requests: Sequence[Request]) -> tuple[Entries, list[Payload]]:
    """What some requests to a shard record, to be appended together."""
    rows = [row for request in requests for row in items(request)]
    return columns([entry for entry, _ in rows]), [payload for _, payload in rows]


def told(requests: Sequence[Request], results: Sequence[int]) -> list[Answer]:
    """The answers to requests, from the results of their `batch`."""
    remaining = iter(results)
    return [
        Answer(
            request.exchange.digest, request.shard, request.stage, outcome([next(remaining) for _ in items(request)])
        )
        for request in requests
    ]


def outcome(results: Sequence[int]) -> Result:
    """What became of a chain, from the result of each entry. It exists if all of it does; a part of it that does is
    none of this exchange's doing."""
    codes = set(results)
    reasons = (code for code in results if code not in (Result.OK, Result.EXISTS, Result.LINKED_EVENT_FAILED))
    done = Result.EXISTS if codes == {Result.EXISTS} else Result.OK
    return Result(next(reasons, done if len(codes) == 1 else Result.LINKED_EVENT_FAILED))


def items(request: Request) -> list[tuple[Entry, Payload]]:
    """What a request records: entries, with what lies beside each."""
    exchange, stage = request.exchange, request.stage
    if stage in (Stage.COMMIT, Stage.ABORT):
        return [_decision(exchange, is_commit=stage == Stage.COMMIT)]
    legs = list(_legs(exchange, request.shard))
    assert legs, f"shard {request.shard} has no part in the exchange"
    if stage == Stage.SETTLE:
        decision, payload = _decision(exchange, is_commit=True)
        chain = _chain([*legs, decision], Flag(0))
        return [*chain[:-1], (decision, payload)]
    if stage == Stage.PREPARE:
        first, *others = _chain(legs, Flag.PENDING)
        return [(msgspec.structs.replace(first[0], meta_hash=exchange.digest), Payload(meta=exchange.terms)), *others]
    mode = Flag.POST if stage == Stage.POST else Flag.VOID
    return _chain([_end(leg) for leg in legs], mode)


def decision_id(exchange_id: bytes) -> bytes:
    """bytes[16], the id under which an exchange's home records whether it happens: amount 1 or 0."""
    return hashlib.sha256(b"mintage decision\n" + exchange_id).digest()[:ID_BYTES]


def is_leg(entry: Entry, exchange: Exchange) -> bool:
    """Whether a recorded entry is a leg of an exchange, held or settled: not by its id alone, but in all it says."""
    leg = msgspec.structs.replace(entry, flags=0, shard=0, time_ns=0, meta_hash=ZERO_HASH)
    return leg in _legs(exchange, entry.shard)


def holds(entry: Entry, exchange: Exchange) -> bool:
    """Whether an entry is the leg of an exchange that has the terms beside it."""
    return entry.meta_hash == exchange.digest and is_leg(entry, exchange)


def columns(rows: Sequence[Entry]) -> Entries:
    """Entries without parents in columns; what the ledger fills in stays zero."""
    entries = zeros(len(rows))
    for name in _INTEGERS:
        entries[name] = [getattr(row, name) for row in rows]
    for name in _BYTES:
        entries[name] = np.frombuffer(b"".join([getattr(row, name) for row in rows]), entries[name].dtype)
    return entries


def _legs(exchange: Exchange, shard: int) -> Iterator[Entry]:
    """What happens in a shard. Legs are numbered over all shards: the moves, then the asset."""
    for number, move in enumerate(exchange.moves):
        if move.shard == shard:
            yield Entry(
                kind=Kind.MONEY,
                id=_leg_id(exchange, number),
                currency=exchange.currency,
                amount=move.amount,
                content_hash=move.debit + move.credit,
                request_hash=exchange.digest,
            )
    if shard == exchange.home:
        yield Entry(
            kind=Kind.OWNERSHIP,
            id=_leg_id(exchange, len(exchange.moves)),
            subject=exchange.asset,
            content_hash=exchange.seller + ZERO_ID,
            owner=exchange.buyer,
            request_hash=exchange.digest,
        )


def _end(leg: Entry) -> Entry:
    """What ends a leg; accounts, owners and amounts are those of the leg."""
    id_ = hashlib.sha256(b"mintage end\n" + leg.id).digest()[:ID_BYTES]
    return Entry(kind=leg.kind, id=id_, subject=leg.id, request_hash=leg.request_hash)


def _decision(exchange: Exchange, *, is_commit: bool) -> tuple[Entry, Payload]:
    entry = Entry(
        kind=Kind.DECISION,
        id=decision_id(exchange.id),
        amount=int(is_commit),
        num_bytes=len(exchange.terms),
        content_hash=exchange.digest,
        request_hash=exchange.digest,
    )
    return entry, Payload(content=exchange.terms)


def _chain(entries: Sequence[Entry], mode: Flag) -> list[tuple[Entry, Payload]]:
    """Entries that stand or fall together."""
    flags = [mode | Flag.LINKED] * (len(entries) - 1) + [mode]
    return [(msgspec.structs.replace(entry, flags=flag), _EMPTY) for entry, flag in zip(entries, flags, strict=True)]


def _leg_id(exchange: Exchange, number: int) -> bytes:
    return hashlib.sha256(b"mintage leg\n" + exchange.digest + number.to_bytes(2)).digest()[:ID_BYTES]
