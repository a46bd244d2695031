"""The gateway actor: HTTP and handle calls in front of the service, and the pool that the generators pull from."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI

from actors.api import build_api
from actors.hop import Handle, RemoteStages, answering, encode
from engine.admission import convert, converted
from engine.config import Config
from engine.errors import InvalidRequest, MintageError
from engine.generators.contract import Draft
from engine.money import AccountsBody, Entered, ExchangeBody, Exchanged, TransfersBody
from engine.request import Asset, Status
from engine.service import Service
from engine.settling import Settlement
from engine.upkeep import Upkeep
from gate.policy import Policy

EXPIRE_EVERY_S = 1.0
MINT_SIZE_MAX = 1024  # its answer, some 10 KiB an asset, is one message (actors.environment)


class Gateway:
    """One replica holds the open requests and the pool, so there is exactly one until intake is durable.

    Args:
        config: the engine's configuration.
        policies: by name; the gatekeeper has the same ones.
        verifier_keys: public keys of the ledger.
        gatekeeper, shards: handles of the stages. Generators need none: they come to us.
    """

    def __init__(
        self,
        config: Config,
        policies: Mapping[str, Policy],
        verifier_keys: tuple[str, ...],
        gatekeeper: Handle,
        shards: list[Handle],
    ) -> None:
        stages = RemoteStages(gatekeeper, shards)
        self.logs = stages.logs
        self.settlement = Settlement(stages, time.time_ns)
        self.upkeep = Upkeep(stages, self.settlement, config.ledger.upkeep_s)
        self.service = Service(config, policies, stages, verifier_keys)
        self.drafts_decoder = msgspec.msgpack.Decoder(list[Draft])
        self.background: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The HTTP application; Serve asks for it once, inside the replica's event loop."""
        loop = asyncio.get_running_loop()
        self.background = {loop.create_task(self.expire_for_ever()), loop.create_task(self.upkeep.for_ever())}
        return build_api(self.service, self.settlement, self.logs)

    async def expire_for_ever(self) -> None:
        """Give the claims of dead generators to the living, once a second."""
        while True:
            self.service.pool.expire()
            await asyncio.sleep(EXPIRE_EVERY_S)

    @answering
    async def pull(self, worker_id: str, capacity: int, wait_s: float, number: int) -> bytes:
        """A generator asks for work (see `Pool.pull`); an encoded `Inbox`."""
        return encode(await self.service.pool.pull(worker_id, capacity, wait_s, number))

    @answering
    async def complete(self, worker_id: str, drafts: bytes) -> bytes:
        """A generator hands in encoded drafts (see `Pool.complete`); an encoded nothing."""
        self.service.pool.complete(worker_id, self.drafts_decoder.decode(drafts))
        return encode(None)

    @answering
    async def leave(self, worker_id: str) -> bytes:
        """A generator goes in good order (see `Pool.leave`); an encoded nothing."""
        self.service.pool.leave(worker_id)
        return encode(None)

    async def mint(self, bodies: list[dict[str, Any]], wait_s: float = 600.0) -> list[Status]:
        """The plain Serve handle's call: requests as in the HTTP API, all at once; one status each, in order.

        A body that breaks a rule gets a `failed` status with the error; the others go on.

        Raises:
            InvalidRequest: more than MINT_SIZE_MAX bodies; nothing was started.
        """
        if len(bodies) > MINT_SIZE_MAX:
            raise InvalidRequest(
                f"{len(bodies)} requests in one call, at most {MINT_SIZE_MAX} are taken",
                where="bodies",
                fix="Send them in several calls.",
            )
        return list(await asyncio.gather(*(self.mint_one(body, wait_s) for body in bodies)))

    async def mint_one(self, body: dict[str, Any], wait_s: float) -> Status:
        """One request of a handle call."""
        try:
            return await self.service.submit(convert(body), wait_s)
        except MintageError as error:
            return Status("", "failed", error=error.body)

    async def status(self, asset_id: str, wait_s: float = 0.0) -> Status:
        """How a request stands."""
        return await self.service.status(asset_id, wait_s)

    async def asset(self, asset_id: str) -> Asset:
        """A released asset with a fresh receipt."""
        return await self.service.asset(asset_id)

    async def open_accounts(self, body: dict[str, Any]) -> list[Entered]:
        """As `POST /v1/accounts`."""
        return await self.settlement.open_accounts(converted(body, AccountsBody))

    async def transfer(self, body: dict[str, Any]) -> list[Entered]:
        """As `POST /v1/transfers`."""
        return await self.settlement.transfer(converted(body, TransfersBody))

    async def exchange(self, body: dict[str, Any]) -> Exchanged:
        """As `POST /v1/exchanges`."""
        return await self.settlement.exchange(converted(body, ExchangeBody))

    async def checkpoints(self) -> list[str]:
        """The newest checkpoint of every shard."""
        return await self.service.checkpoints()

    async def health(self) -> dict[str, Any]:
        """See `Service.health`."""
        return self.service.health()
