"""Three shards with accounts, money and an asset, and an exchange between them."""

from pathlib import Path

import numpy as np

from ledger.entry import ID_BYTES, Entry, Flag, Kind
from ledger.exchange import Account, Exchange, Royalty, clearing_account, draw_up
from ledger.legs import columns
from ledger.log import open_keys, shard_path
from ledger.result import Result
from ledger.shard import Shard

START_NS = 1_700_000_000 * 10**9
NS_PER_S = 10**9
DEADLINE_NS = START_NS + 60 * NS_PER_S
CURRENCY = 7
FUNDS = 10_000
NUM_SHARDS = 3


def id_of(name: str) -> bytes:
    return name.encode().ljust(ID_BYTES, b".")


BUYER, SELLER, ARTIST, BANK = (id_of(name) for name in ("buyer", "seller", "artist", "bank"))
ASSET = id_of("picture")
PLAIN = Flag(0)
PAYER, PAYEE, ARTISTS = Account(0, BUYER), Account(1, SELLER), Account(2, ARTIST)
HOME = 1


def agreed(**fields: object) -> Exchange:
    """The picture, in shard 1, for 1,001 from shard 0; 3.33% of it to the artist in shard 2."""
    given = {
        "exchange_id": id_of("exchange"),
        "home": HOME,
        "asset": ASSET,
        "seller": SELLER,
        "buyer": BUYER,
        "currency": CURRENCY,
        "price": 1001,
        "payer": PAYER,
        "payee": PAYEE,
        "royalties": [Royalty(ARTISTS, 333)],
        "deadline_ns": DEADLINE_NS,
    }
    return draw_up(**(given | fields))  # type: ignore[arg-type]


def agreed_at_home(**fields: object) -> Exchange:
    """The same, with everybody's accounts in the asset's shard."""
    here = {"payer": Account(HOME, BUYER), "royalties": [Royalty(Account(HOME, ARTIST), 333)]}
    return agreed(**(here | fields))


def account(id_: bytes, flags: Flag = PLAIN) -> Entry:
    return Entry(kind=Kind.ACCOUNT, id=id_, currency=CURRENCY, flags=flags)


def money(name: str, debit: bytes, credit: bytes, amount: int, flags: Flag = PLAIN, timeout_s: int = 0) -> Entry:
    return Entry(
        kind=Kind.MONEY,
        id=id_of(name),
        flags=flags,
        currency=CURRENCY,
        amount=amount,
        num_bytes=timeout_s,
        content_hash=debit + credit,
    )


class Market:
    """The shards; in each, every account there is, 10,000 for the buyer, who cannot spend more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ns = START_NS
        self.keys = open_keys(path, "example.org/log", NUM_SHARDS, entropy=lambda size: b"k" * size)
        self.shards = {number: self.open(number) for number in range(NUM_SHARDS)}
        for number, shard in self.shards.items():
            others = [other for other in range(NUM_SHARDS) if other != number]
            self.record(
                shard,
                *(account(id_) for id_ in (SELLER, ARTIST, BANK)),
                account(BUYER, Flag.DEBITS_WITHIN_CREDITS),
                money("funds", BANK, BUYER, FUNDS),
                *(clearing_account(number, other, CURRENCY) for other in others),
                *(clearing_account(other, number, CURRENCY) for other in others),
            )
        self.record(self.shards[HOME], Entry(kind=Kind.ASSET, id=ASSET, owner=SELLER))

    def open(self, number: int) -> Shard:
        signer = self.keys.signers[number]
        return Shard.open(
            shard_path(self.path, number), number, signer, lambda: self.now_ns, entropy=lambda size: b"e" * size
        )

    def reopen(self, number: int) -> None:
        self.shards[number].close()
        self.shards[number] = self.open(number)

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()

    def record(self, shard: Shard, *entries: Entry) -> None:
        results = shard.append(columns(entries)).results
        assert not results.any(), [Result(code) for code in np.unique(results)]

    def offer(self, number: int, *entries: Entry) -> list[Result]:
        return [Result(code) for code in self.shards[number].append(columns(entries)).results.tolist()]

    def books(self) -> list[bytes]:
        """The whole state of every shard."""
        return [shard.book.snapshot() for shard in self.shards.values()]

    def posted(self, number: int, account_id: bytes) -> int:
        """What an account has got, less what it has given."""
        balance = self.shards[number].book.balance(account_id)
        return balance.credits_posted - balance.debits_posted

    def owner(self) -> bytes:
        """Whose the picture is."""
        return self.shards[HOME].book.owner(ASSET) or SELLER
