"""A ledger of two shards with its settlement, in this process or as if behind handles: accounts, assets, sales."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from briefs import NOW_MS, commit, open_keepers, policies
from stub_handle import StubHandle

from actors.gatekeeper import Gatekeeper
from actors.hop import RemoteStages, answering, encode
from engine.admission import converted
from engine.calls import decode_call
from engine.embedded import LocalStages
from engine.money import AccountsBody, ExchangeBody, Exchanged, TransfersBody
from engine.records import ShardKeeper
from engine.request import shard_of
from engine.settling import Settlement
from gate.assess import Gate
from ledger.log import LogKeys

EUR, GBP, USD = 978, 826, 840
NUM_SHARDS = 2
SECOND_NS = 10**9


class Clock:
    """Unix time in ns, as a test sets it."""

    def __init__(self) -> None:
        self.now_ns = NOW_MS * 10**6

    def __call__(self) -> int:
        return self.now_ns


class ShardActor:
    """A shard behind a handle: `LedgerShard` without its clock."""

    def __init__(self, keeper: ShardKeeper) -> None:
        self.keeper = keeper
        self.threads = ThreadPoolExecutor(max_workers=2)

    @answering
    async def call(self, data: bytes) -> bytes:
        return encode(await decode_call(data).done(self.keeper, self.threads))

    async def commit(self) -> None:
        raise AssertionError("nothing is minted here")

    find = checkpoint = read = read_super = commit


class World:
    """A ledger of two shards with its settlement, local or behind handles."""

    def __init__(self, path: Path, *, remote: bool) -> None:
        self.path = path
        self.clock = Clock()
        self.keys: LogKeys
        self.keys, self.keepers = open_keepers(path, num_shards=NUM_SHARDS, now_ns=self.clock)
        handles = [StubHandle(ShardActor(keeper)) for keeper in self.keepers]
        self.local = LocalStages(Gate(policies()), self.keepers)
        self.shards: Any = RemoteStages(StubHandle(Gatekeeper(policies())), handles) if remote else self.local
        self.settlement = Settlement(self.shards, self.clock)

    def close(self) -> None:
        self.local.close()

    async def accounts(self, tenant: str, *keys: str, currency: int = EUR, limit: str = "none") -> list[str]:
        """The ids of new accounts."""
        body = {"tenant": tenant, "currency": currency, "accounts": [{"key": key, "limit": limit} for key in keys]}
        entered = await self.settlement.open_accounts(converted(body, AccountsBody))
        assert [each.result for each in entered] == ["ok"] * len(keys)
        return [each.id for each in entered]

    async def move(self, *transfers: dict[str, Any], currency: int = EUR) -> list[str]:
        """The results of a batch of transfers."""
        body = {"tenant": "bank", "currency": currency, "transfers": transfers}
        return [each.result for each in await self.settlement.transfer(converted(body, TransfersBody))]

    async def posted(self, account: str) -> tuple[int, int]:
        status = await self.settlement.account(account)
        return status.debits_posted, status.credits_posted

    async def pending(self, account: str) -> tuple[int, int]:
        status = await self.settlement.account(account)
        return status.debits_pending, status.credits_pending

    def asset(self, home: int, tenant: str = "acme") -> str:
        """The id of a new asset in a shard."""
        number = next(n for n in range(1, 100) if shard_of(f"{n:032x}", NUM_SHARDS) == home)
        (outcome,) = self.keepers[home].commit([commit(number, tenant=tenant)])
        assert outcome.recorded is not None
        return outcome.recorded.asset.asset_id

    async def sell(self, asset: str, payer: str | None, payee: str, **fields: Any) -> Exchanged:
        return await self.settlement.exchange(self.sale(asset, payer, payee, **fields))

    def sale(self, asset: str, payer: str | None, payee: str, **fields: Any) -> ExchangeBody:
        given = {
            "key": "sale",
            "asset": asset,
            "seller": "acme",
            "buyer": "bob",
            "currency": EUR,
            "price": 100,
            "payer": payer,
            "payee": payee,
            "deadline_ms": NOW_MS + 60_000,
        }
        return converted(given | fields, ExchangeBody)

    async def funded(self) -> tuple[str, str, str]:
        """Accounts of bob, who has 150 and may not owe, of acme, and of an artist."""
        (bob,) = await self.accounts("bob", "main", limit="debits_within_credits")
        (acme,) = await self.accounts("acme", "main")
        bank, artist = await self.accounts("bank", "main", "artist")
        assert await self.move({"key": "fund", "debit": bank, "credit": bob, "amount": 150}) == ["ok"]
        return bob, acme, artist
