"""Locust users that post real briefs in four tiers and check every receipt offline.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000        (with locust's own web page)
    make load                                                             (headless, 30 s, percentiles per tier)

A refusal by the gate is an answer, not a failure; a receipt that does not verify is a failure.
"""

import random
from typing import Any, ClassVar

import msgspec
from locust import HttpUser, between, events, task

from engine.admission import RequestBody
from engine.catalogue import brief_facts, load
from engine.config import CONFIGS
from engine.request import Brief, Status
from engine.tiers import Tier
from ledger.errors import ReceiptInvalid
from ledger.receipt import verify

WAIT_S = 300
FACTS = [brief_facts(product) for product in load(CONFIGS / "catalogue.csv")]
KEYS: list[str] = []


@events.test_start.add_listener
def fetch_keys(environment: Any, **_: Any) -> None:
    """The engine's public keys, once, before the load."""
    import requests

    answer = requests.get(f"{environment.host}/v1/verifier-keys", timeout=10)
    answer.raise_for_status()
    KEYS[:] = answer.text.split()


class AssetUser(HttpUser):
    """A client that asks for one asset at a time."""

    abstract = True
    tier: ClassVar[Tier]
    wait_time = between(0.0, 0.5)

    @task
    def mint(self) -> None:
        """One brief, one answer, one receipt checked."""
        body = RequestBody(brief=Brief(facts=random.choice(FACTS)), tier=self.tier)
        with self.client.post(
            "/v1/assets",
            data=msgspec.json.encode(body),
            headers={"Content-Type": "application/json", "Prefer": f"wait={WAIT_S}"},
            name=f"mint {self.tier.value}",
            catch_response=True,
        ) as response:
            problem = check(response.status_code, response.content)
            if problem:
                response.failure(problem)
            else:
                response.success()


def check(status_code: int, content: bytes) -> str:
    """What is wrong with an answer; empty for a verified asset or a refusal with reasons."""
    if status_code not in (200, 422):
        return f"HTTP {status_code}: {content[:200]!r}"
    status = msgspec.json.decode(content, type=Status)
    if status.state == "refused":
        return "" if status.reasons else "refused without reasons"
    if status.asset is None:
        return f"HTTP 200 without an asset: {status.state}"
    try:
        entry = verify(status.asset.receipt, KEYS, status.asset.content.encode()).entry
    except ReceiptInvalid as error:
        return f"the receipt does not verify: {error}"
    return "" if entry.id.hex() == status.asset.asset_id else "the receipt is another asset's"


class PriorityUser(AssetUser):
    """Pays most, waits least."""

    tier = Tier.PRIORITY
    weight = 2


class StandardUser(AssetUser):
    """The usual customer."""

    tier = Tier.STANDARD
    weight = 3


class FlexUser(AssetUser):
    """Takes what is left over."""

    tier = Tier.FLEX
    weight = 3


class BatchUser(AssetUser):
    """Has until tomorrow."""

    tier = Tier.BATCH
    weight = 4
