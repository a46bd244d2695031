"""Money as clients write it: accounts, transfers, and an asset for money; and the entries that they become.

The ledger names everything by 16 bytes that are given once, for ever. Clients name things by keys of their own, and the
bytes are a hash of who asks and what the key says (the functions `..._id` below): so nobody can take a name that the
ledger, or another tenant, will need, and a request sent again is the same request.

All accounts of a currency live in one shard (`shard_of_currency`). So every transfer is an entry of one shard, a batch
of them is one durable step with linked chains wherever one likes, and no money is ever between two shards.
Turned down: an account's shard by its id. Half of all transfers would be two-phase commits.
"""

import hashlib
from typing import Annotated, Literal

import msgspec
import xxhash

from engine.admission import IDEMPOTENCY_KEY
from engine.errors import InvalidRequest
from engine.request import AssetId, Name, shard_of
from ledger.entry import AMOUNT_MAX, ID_BYTES, ZERO_ID, Entries, Entry, Flag, Kind, owner_of
from ledger.errors import EntryInvalid
from ledger.exchange import BASIS_POINTS, ROYALTIES_MAX, Account, Exchange, Royalty, draw_up
from ledger.legs import columns

BATCH_MAX = 1024
"""Accounts or transfers in one request: some 20 ms of work."""

HOLD_S_MAX = 3600
"""How long an exchange may hold money and asset before it is decided."""

DEADLINE_MS_MAX = 2**63 // 10**6 - 1

AccountId = AssetId
Currency = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
Micros = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MAX)]
Code = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
TimeoutS = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Mode = Literal["at_once", "hold", "post", "void"]
Limit = Literal["none", "debits_within_credits", "credits_within_debits"]

_LIMITS = {"none": Flag(0), **{flag.name.lower(): flag for flag in Flag if flag.name and "_WITHIN_" in flag.name}}
_MODES = {"at_once": Flag(0), "hold": Flag.PENDING, "post": Flag.POST, "void": Flag.VOID}


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The root of what clients write."""


class NewAccount(Strict, frozen=True, kw_only=True):
    """An account to be opened. `limit`: it may not spend what it has not got, or not receive more than it has given."""

    key: IDEMPOTENCY_KEY
    limit: Limit = "none"
    code: Code = 0


class AccountsBody(Strict, frozen=True, kw_only=True):
    """Accounts of a tenant in one currency (a number: ISO 4217 has 978 for the euro)."""

    accounts: Annotated[tuple[NewAccount, ...], msgspec.Meta(min_length=1, max_length=BATCH_MAX)]
    currency: Currency
    tenant: Name = "public"


class NewTransfer(Strict, frozen=True, kw_only=True):
    """A transfer of money.

    `debit`, `credit`: the accounts it takes from and gives to, by their ids; to post or void they may be left out.
    `mode`: `hold` keeps the money until it is posted or voided, or `timeout_s` is over (0: never); `post` and `void`
    end the transfer with the key `pending`, a post of at most its amount (0: all of it).
    `linked`: it stands or falls with the next one of the batch. `code`: the client's own number.
    """

    key: IDEMPOTENCY_KEY
    debit: AccountId | None = None
    credit: AccountId | None = None
    amount: Micros = 0
    mode: Mode = "at_once"
    pending: IDEMPOTENCY_KEY | None = None
    timeout_s: TimeoutS = 0
    linked: bool = False
    code: Code = 0


class TransfersBody(Strict, frozen=True, kw_only=True):
    """Transfers in one currency, in millionths of it. `tenant`: whose keys these are."""

    transfers: Annotated[tuple[NewTransfer, ...], msgspec.Meta(min_length=1, max_length=BATCH_MAX)]
    currency: Currency
    tenant: Name = "public"


class Share(Strict, frozen=True, kw_only=True):
    """A royalty: to which account, and how many hundredths of a percent of the price."""

    payee: AccountId
    basis_points: Annotated[int, msgspec.Meta(ge=0, le=BASIS_POINTS)]


class ExchangeBody(Strict, frozen=True, kw_only=True):
    """An asset for money, royalties included: all of it happens or nothing.

    `key`: stands for one exchange of this asset by this seller, for ever. `price` 0 makes it a gift, which needs no
    accounts. `payer`, `payee`: the accounts. `deadline_ms`: Unix time; what is not decided by then is called off.
    """

    key: IDEMPOTENCY_KEY
    asset: AssetId
    seller: Name
    buyer: Name
    deadline_ms: Annotated[int, msgspec.Meta(ge=0, le=DEADLINE_MS_MAX)]
    price: Micros = 0
    currency: Currency | None = None
    payer: AccountId | None = None
    payee: AccountId | None = None
    royalties: Annotated[tuple[Share, ...], msgspec.Meta(max_length=ROYALTIES_MAX)] = ()


class Entered(msgspec.Struct, frozen=True):
    """What became of an account or a transfer. `result`: `ok`, `exists` for a repeat, else why not
    (ledger/result.py has every code); `shard` and `index`: where what has the id is, None if nothing has."""

    key: str
    id: str
    result: str
    shard: int
    index: int | None


class AccountStatus(msgspec.Struct, frozen=True):
    """An account, in millionths of its currency. `owner`: the tenant's owner id, as entries have it."""

    id: str
    owner: str
    currency: int
    limit: Limit
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    shard: int
    index: int


class Exchanged(msgspec.Struct, frozen=True):
    """What became of an exchange. `pending`: it was begun, and will be settled or refused; ask again.
    `result`: `ok`, or why it is refused (ledger/result.py; `deadline_exceeded`; `refused_before`)."""

    id: str
    state: Literal["settled", "refused", "pending"]
    result: str
    asset: str
    shard: int


class Ownership(msgspec.Struct, frozen=True):
    """Whose an asset is: the owner id (16 bytes of SHA-256 of the tenant's name, in hex), and since which entry.

    `receipts`: of the entry that names the owner, and of the one that posted it if that is another one. They prove that
    the asset became theirs; that it did not go on to somebody else is found by reading on (`mintage audit owner`)."""

    asset: str
    owner: str
    shard: int
    index: int
    time_ms: int
    receipts: tuple[str, ...]


class Relative(msgspec.Struct, frozen=True):
    """An entry of a lineage, `depth` generations away, at `shard/index`."""

    place: str
    depth: int
    kind: str
    id: str


class Lineage(msgspec.Struct, frozen=True):
    """Entries breadth first, the one in question first; (child, parent) for every edge among them; and whether there
    are more."""

    entries: tuple[Relative, ...]
    edges: tuple[tuple[str, str], ...]
    is_truncated: bool


def account_id(tenant: str, currency: int, key: str) -> bytes:
    """bytes[16], the id of a tenant's account."""
    return _id("account", tenant, str(currency), key)


def transfer_id(tenant: str, currency: int, key: str) -> bytes:
    """bytes[16], the id of a tenant's transfer."""
    return _id("transfer", tenant, str(currency), key)


def exchange_id(seller: str, asset: str, key: str) -> bytes:
    """bytes[16], the id of a seller's exchange of an asset."""
    return _id("exchange", seller, asset, key)


def _id(*parts: str) -> bytes:
    """Only the last part may hold anything; none of the others has a zero byte."""
    return hashlib.sha256("\0".join(["mintage id v1", *parts]).encode()).digest()[:ID_BYTES]


def shard_of_currency(currency: int, num_shards: int) -> int:
    """Where the accounts of a currency are: XXH3 of its number in 4 bytes, little-endian as in an entry. The common
    currencies have even numbers, almost all of them."""
    return xxhash.xxh3_64_intdigest(currency.to_bytes(4, "little")) % num_shards


def account_entries(body: AccountsBody) -> Entries:
    """The entries that open accounts."""
    return columns(
        [
            Entry(
                kind=Kind.ACCOUNT,
                id=account_id(body.tenant, body.currency, account.key),
                flags=_LIMITS[account.limit],
                currency=body.currency,
                code=account.code,
                owner=owner_of(body.tenant),
            )
            for account in body.accounts
        ]
    )


def transfer_entries(body: TransfersBody) -> Entries:
    """The entries of transfers."""
    return columns([_transfer(body, transfer) for transfer in body.transfers])


def _transfer(body: TransfersBody, transfer: NewTransfer) -> Entry:
    flags = _MODES[transfer.mode] | (Flag.LINKED if transfer.linked else Flag(0))
    ended = ZERO_ID if transfer.pending is None else transfer_id(body.tenant, body.currency, transfer.pending)
    return Entry(
        kind=Kind.MONEY,
        id=transfer_id(body.tenant, body.currency, transfer.key),
        flags=flags,
        currency=body.currency,
        amount=transfer.amount,
        num_bytes=transfer.timeout_s,
        code=transfer.code,
        subject=ended,
        content_hash=_bytes(transfer.debit) + _bytes(transfer.credit),
    )


def terms_of(body: ExchangeBody, num_shards: int) -> Exchange:
    """The terms of an exchange.

    Raises:
        InvalidRequest: they contradict themselves.
    """
    if body.price and None in (body.currency, body.payer, body.payee):
        raise InvalidRequest(
            "a price without currency, payer or payee", where="price", fix="Give all of them, or no price for a gift."
        )
    currency = body.currency or 0
    money = shard_of_currency(currency, num_shards)
    try:
        return draw_up(
            exchange_id=exchange_id(body.seller, body.asset, body.key),
            home=shard_of(body.asset, num_shards),
            asset=bytes.fromhex(body.asset),
            seller=owner_of(body.seller),
            buyer=owner_of(body.buyer),
            currency=currency,
            price=body.price,
            payer=Account(money, _bytes(body.payer)),
            payee=Account(money, _bytes(body.payee)),
            royalties=[Royalty(Account(money, _bytes(each.payee)), each.basis_points) for each in body.royalties],
            deadline_ns=body.deadline_ms * 10**6,
        )
    except EntryInvalid as error:
        raise InvalidRequest(error.what, where=error.where, fix=error.fix) from error


def _bytes(account: str | None) -> bytes:
    return ZERO_ID if account is None else bytes.fromhex(account)


def limit_of(flags: int) -> Limit:
    """The limit that an account's flags say."""
    found: list[Limit] = [name for name, flag in _LIMITS.items() if flags & flag]  # type: ignore[misc]
    return found[0] if found else "none"
