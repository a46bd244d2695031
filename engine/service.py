"""The engine's service: what can be asked of it, by HTTP, by Python or by a Serve handle. Each of those is a thin shell
around this class; the stages behind it are local objects or deployments.
"""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from engine.admission import RequestBody, admit, asset_id, body_hash
from engine.config import Config
from engine.errors import NotFound
from engine.grammar import GrammarImpossible, copy_grammar
from engine.intake import Intake
from engine.pipeline import Pipeline, Stages
from engine.pool import Pool
from engine.request import Asset, Status
from gate.policy import Policy

WAIT_S_MAX = 600.0
WARM_UP_FACTS = {"article": "Scarf", "colour": "Teal"}


def unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Service:
    """One engine.

    Args:
        config: the configuration.
        policies: brand policies by name.
        stages: gate and ledger.
        verifier_keys: what third parties check receipts with, one line a shard.
    Concurrency: one event loop.
    """

    def __init__(
        self, config: Config, policies: Mapping[str, Policy], stages: Stages, verifier_keys: tuple[str, ...]
    ) -> None:
        self.config = config
        self.policies = policies
        self.stages = stages
        self.verifier_keys = verifier_keys
        for policy in policies.values():
            with contextlib.suppress(GrammarImpossible):
                copy_grammar(WARM_UP_FACTS, policy)  # a policy's first grammar takes a second, the next ones 13 ms
        self.pool = Pool(lease_s=config.pool.lease_s, now_s=time.monotonic)
        pipeline = Pipeline(self.pool.generate, stages, policies, config.sampling, unix_ms)
        self.intake = Intake(
            pipeline.mint,
            stages.find,
            num_open_max=config.intake.num_open_max,
            num_done_max=config.intake.num_done_max,
            now_s=time.monotonic,
        )

    @property
    def models(self) -> set[str]:
        """The names a brief may ask for."""
        text = self.config.text
        return {text.model_name, text.model} if text.model == "reference" else {text.model_name}

    async def submit(self, body: RequestBody, wait_s: float) -> Status:
        """Take a request and wait up to `wait_s` for its outcome; `pending` if it takes longer.

        Raises:
            InvalidRequest, NotFound, IdempotencyConflict, Overloaded: nothing was started.
            Unavailable: nor was it then; the engine is stopping, or the ledger does not say whether it has the key.
        """
        wait_s = min(wait_s, WAIT_S_MAX)
        if body.idempotency_key is not None:
            # Before the rules: a repeat gives the first answer even if its deadline has passed or its policy is gone.
            known = await self.intake.repeat(asset_id(body.tenant, body.idempotency_key), body_hash(body), wait_s)
            if known is not None:
                return known
        request = admit(body, now_ms=unix_ms(), policies=self.policies.keys(), models=self.models)
        return await self.intake.submit(request, wait_s)

    async def status(self, asset_id: str, wait_s: float = 0.0) -> Status:
        """How a request stands.

        Raises:
            NotFound: neither an open request nor an asset has this id.
            Overloaded, Unavailable: the ledger cannot be asked now.
        """
        status = await self.intake.status(asset_id, min(wait_s, WAIT_S_MAX))
        if status is None:
            raise NotFound(f"nothing has the id {asset_id}", where="asset_id", fix="Use an id that a request returned.")
        return status

    async def asset(self, asset_id: str) -> Asset:
        """A released asset, out of the ledger, with a receipt under the newest checkpoint.

        Raises:
            NotFound: it is not released.
            Overloaded, Unavailable: the ledger cannot be asked now.
        """
        outcome = await self.intake.look_up(asset_id)
        if outcome.recorded is None:
            raise NotFound(
                f"no released asset has the id {asset_id}",
                where="asset_id",
                fix="Ask for its status: it may be pending.",
            )
        return outcome.recorded.asset

    async def checkpoints(self) -> list[str]:
        """The newest signed checkpoint of every shard."""
        return await self.stages.checkpoints()

    def health(self) -> dict[str, Any]:
        """Whether there is anybody to generate, and how much is under way. `ok` is false while no generator pulls."""
        self.pool.expire()
        return {
            "ok": bool(self.pool.workers),
            "num_generators": len(self.pool.workers),
            "num_open": len(self.intake.jobs),
            "num_waiting": self.pool.num_waiting,
            "num_drafts": self.pool.num_drafts,
            "num_tokens": self.pool.num_tokens,
        }

    async def close(self) -> None:
        """Stop every open request."""
        await self.intake.close()
