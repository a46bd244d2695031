"""Delivery against payment: an asset for money, royalties included. What is agreed, before any of it is recorded.

    the price        goes from the payer's account to the payee's, less the royalties
    each royalty     floor(price x basis points / 10,000), to an owner of what the asset was made from
    the asset        from the seller to the buyer

All of it happens or nothing (`ledger.decision`). Rounding loses nothing: every royalty is rounded down and the payee
gets what remains. What would be nothing, or go back to the account it comes from, is left out.

Double entry holds in every shard by itself, so money that changes shards goes through two clearing accounts with one
id: in the payer's shard it is credited with what leaves for the other shard, there it is debited with what has come.
As an exchange settles in all shards or in none, the two always end equal: an auditor compares them, nobody reconciles.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated

import msgspec

from ledger.entry import AMOUNT_MAX, ID_BYTES, SHARD_MAX, ZERO_ID, Entry, Kind
from ledger.errors import EntryInvalid

BASIS_POINTS = 10_000
"""So many are the whole price."""

ROYALTIES_MAX = 16
"""Of one exchange: four parents, and some of theirs."""

MOVES_MAX = 2 * (ROYALTIES_MAX + 1)

Id = Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
ShardNumber = Annotated[int, msgspec.Meta(ge=0, le=SHARD_MAX)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_MAX)]


class Account(msgspec.Struct, frozen=True):
    """An account, and the shard that keeps it."""

    shard: int
    id: bytes


class Royalty(msgspec.Struct, frozen=True):
    """Of one edge to a parent: the account of the parent's owner, and its share of the price."""

    payee: Account
    basis_points: int


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money from one account to another of the same shard."""

    shard: ShardNumber
    debit: Id
    credit: Id
    amount: Amount


class Exchange(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    dict=True,
    tag_field="terms",
    tag="exchange-1",
    forbid_unknown_fields=True,
):
    """What happens, all or nothing. `home` is the asset's shard, where it is decided whether it happens.

    `id`: the caller's, once for ever in its home. After `deadline_ns` (Unix time) whoever works on it, or finds it, and
    does not know it to be decided calls it off.
    """

    id: Id
    home: ShardNumber
    asset: Id
    seller: Id
    buyer: Id
    currency: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
    deadline_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    moves: Annotated[tuple[Move, ...], msgspec.Meta(max_length=MOVES_MAX)]

    @cached_property
    def shards(self) -> tuple[int, ...]:
        """Every shard in which something happens, ascending."""
        return tuple(sorted({self.home, *(move.shard for move in self.moves)}))

    @cached_property
    def terms(self) -> bytes:
        """All of it as canonical JSON: sorted keys, no spaces, ids in base64."""
        return msgspec.json.encode(self, order="sorted")

    @cached_property
    def digest(self) -> bytes:
        """bytes[32], the SHA-256 of the terms, which stands for all of it: two exchanges may claim one id."""
        return hashlib.sha256(self.terms).digest()


def decode(terms: bytes) -> Exchange | None:
    """The exchange of some metadata or content; None if that is anything else, or not in the canonical form."""
    try:
        exchange = msgspec.json.decode(terms, type=Exchange)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return exchange if exchange.terms == terms else None


def draw_up(
    *,
    exchange_id: bytes,
    home: int,
    asset: bytes,
    seller: bytes,
    buyer: bytes,
    currency: int,
    price: int,
    payer: Account,
    payee: Account,
    royalties: Sequence[Royalty] = (),
    deadline_ns: int,
) -> Exchange:
    """The terms of an exchange.

    Args:
        home: the asset's shard.
        seller, buyer: bytes[16], the owners, before and after.
        price: in micro-units; 0 makes it a gift.
        payer, payee: the buyer's and the seller's account.
        royalties: whose they are is looked up by the caller, and holds as of then: a parent that is sold meanwhile
            still pays the owner named here.
    Raises:
        EntryInvalid: a number out of range, an id of another width, owners that are equal, or royalties of more than
            the price.
    """
    shares = [price * royalty.basis_points // BASIS_POINTS for royalty in royalties]
    _check(price, currency, royalties, {"exchange_id": exchange_id, "asset": asset, "seller": seller, "buyer": buyer})
    if seller == buyer:
        raise _invalid("buyer", "the buyer is the seller")
    payees = [payee, *(royalty.payee for royalty in royalties)]
    payments = zip(payees, [price - sum(shares), *shares], strict=True)
    moves = [move for to, amount in payments if amount for move in _moves(payer, to, currency, amount)]
    exchange = Exchange(
        id=exchange_id,
        home=home,
        asset=asset,
        seller=seller,
        buyer=buyer,
        currency=currency,
        deadline_ns=deadline_ns,
        moves=tuple(moves),
    )
    if decode(exchange.terms) != exchange:  # msgspec checks widths and ranges when it reads
        raise _invalid("terms", "a shard, an account, an amount or the deadline is out of range")
    return exchange


def _check(price: int, currency: int, royalties: Sequence[Royalty], ids: dict[str, bytes]) -> None:
    if not 0 <= price <= AMOUNT_MAX:
        raise _invalid("price", f"{price} is not an amount from 0 to {AMOUNT_MAX}")
    if price and not 0 < currency < 2**32:
        raise _invalid("currency", f"{currency} is no currency")
    if len(royalties) > ROYALTIES_MAX:
        raise _invalid("royalties", f"{len(royalties)} are more than {ROYALTIES_MAX}")
    basis_points = [royalty.basis_points for royalty in royalties]
    if min(basis_points, default=0) < 0 or sum(basis_points) > BASIS_POINTS:
        raise _invalid("royalties", f"{basis_points} basis points are negative, or more than the price")
    for name, id_ in ids.items():
        if len(id_) != ID_BYTES or id_ == ZERO_ID:
            raise _invalid(name, f"{id_!r} is not {ID_BYTES} bytes that say something")


def _moves(payer: Account, payee: Account, currency: int, amount: int) -> Iterator[Move]:
    """One payment; none if it would go back to where it comes from."""
    if payer.shard != payee.shard:
        between = clearing_id(payer.shard, payee.shard, currency)
        yield Move(payer.shard, payer.id, between, amount)
        yield Move(payee.shard, between, payee.id, amount)
    elif payer.id != payee.id:
        yield Move(payer.shard, payer.id, payee.id, amount)


def clearing_id(source: int, target: int, currency: int) -> bytes:
    """bytes[16], of the account, in both shards, for money of a currency that goes from one to the other."""
    return hashlib.sha256(f"mintage clearing\n{source} {target} {currency}".encode()).digest()[:ID_BYTES]


def clearing_account(source: int, target: int, currency: int) -> Entry:
    """The entry that opens that account, to be recorded in both shards before the first exchange."""
    return Entry(kind=Kind.ACCOUNT, id=clearing_id(source, target, currency), currency=currency)


def _invalid(field: str, what: str) -> EntryInvalid:
    return EntryInvalid(what, where=field, fix="Correct the terms and draw them up again; nothing was recorded.")
