"""Requests, copies and a small engine for tests: one scarf, a copy that is true of it and one that is not."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from engine.admission import RequestBody, admit, convert
from engine.config import CONFIGS, Config, HttpConfig, LedgerConfig
from engine.embedded import LocalPort, LocalStages
from engine.generators.contract import Attempt, Draft, Generator, ModelInfo
from engine.records import Commit, ShardKeeper
from engine.request import AssetRequest, Reason
from engine.service import Service
from engine.tiers import Tier
from engine.worker import work
from gate.assess import Gate
from gate.policy import Policy, load_policies
from ledger.log import LogKeys, open_keys

NOW_MS = 1_700_000_000_000
MAP_BYTES = 1 << 24
FACTS = {"article": "Scarf", "colour": "Teal", "material": "Wool"}
TRUE_COPY = "This teal wool scarf has a calm, simple look that is easy to like. Put it on and enjoy the day."
FALSE_COPY = "This red silk scarf has a calm, simple look that is easy to like. Put it on and enjoy the day."
ASSET_POLICY = b'{"name":"default"}'
MODEL = ModelInfo(name="fake", digest="00" * 32, backend="fake")


def policies() -> dict[str, Policy]:
    """The policies that come with Mintage."""
    return load_policies(CONFIGS / "policies")


def body(key: str | None = "key", facts: dict[str, str] | None = None, **fields: Any) -> RequestBody:
    """A request as a client writes it; `fields` of the brief go into the brief."""
    brief = {"facts": facts or FACTS}
    brief |= {name: fields.pop(name) for name in ("style", "policy", "model", "source") if name in fields}
    return convert({"brief": brief, "idempotency_key": key} | fields)


def request(key: str | None = "key", *, now_ms: int = NOW_MS, **fields: Any) -> AssetRequest:
    """A request as the engine admits it."""
    return admit(body(key, **fields), now_ms=now_ms, policies=["default", "luxury"], models=["reference"])


def attempt(attempt_id: str, copy: str = TRUE_COPY, *, priority: int = 1, tokens_max: int = 96) -> Attempt:
    """An attempt whose copy, from a generator that echoes, is `copy`."""
    return Attempt(attempt_id, (("user", copy),), seed=0, tokens_max=tokens_max, temperature=0.0, priority=priority)


def draft(attempt_id: str, text: str = TRUE_COPY, *, model: ModelInfo = MODEL) -> Draft:
    """What came of an attempt."""
    return Draft(attempt_id, text, "stop", 10, len(text.split()), model)


def commit(number: int = 1, **fields: Any) -> Commit:
    """An accepted draft; two of one number have the same asset id."""
    given: dict[str, Any] = {
        "asset_id": f"{number:032x}",
        "content": TRUE_COPY,
        "request_hash": hashlib.sha256(b"request %d" % number).digest(),
        "tenant": "acme",
        "value_micros": 50_000,
        "tier": Tier.FLEX,
        "priority": 2,
        "model": MODEL,
        "policy_name": "default",
        "policy": ASSET_POLICY,
        "num_attempts": 3,
        "num_tokens": 60,
        "constrained": True,
        "latency_ms": 123,
        "reasons": (Reason(0, "length", "too short"), Reason(1, "missing", "colour")),
    }
    return Commit(**(given | fields))


class Script:
    """A writer for `FakeGenerator`: one copy after the other, the last one for ever. Keeps the attempts it saw."""

    def __init__(self, *copies: str) -> None:
        self.copies = copies
        self.attempts: list[Attempt] = []

    def __call__(self, attempt: Attempt) -> str:
        self.attempts.append(attempt)
        return self.copies[min(len(self.attempts), len(self.copies)) - 1]


def small_config(path: Path, **parts: Any) -> Config:
    """A configuration with its data in `path` and a ledger of two small shards."""
    ledger = LedgerConfig(map_gib=MAP_BYTES / (1 << 30))
    return msgspec.structs.replace(Config(data_dir=str(path), ledger=ledger, http=HttpConfig(wait_s=30)), **parts)


def open_keepers(
    path: Path, *, num_shards: int = 2, map_bytes: int = MAP_BYTES, now_ns: Callable[[], int] = lambda: NOW_MS * 10**6
) -> tuple[LogKeys, list[ShardKeeper]]:
    """A ledger and its keepers."""
    keys = open_keys(path, "mintage.test", num_shards)
    return keys, [
        ShardKeeper(path, keys, number, map_bytes=map_bytes, now_ns=now_ns, entropy=os.urandom)
        for number in range(num_shards)
    ]


@asynccontextmanager
async def open_service(path: Path, generator: Generator, **parts: Any) -> AsyncIterator[Service]:
    """The whole engine in the running event loop: real gate, real ledger, one worker for `generator`."""
    config = small_config(path, **parts)
    keys, keepers = open_keepers(config.ledger_path)
    stages = LocalStages(Gate(policies()), keepers)
    service = Service(config, policies(), stages, keys.verifier_keys)
    worker = asyncio.create_task(work(generator, LocalPort(service.pool), "local"))
    try:
        await asyncio.sleep(0)  # the worker's first pull
        yield service
    finally:
        await service.close()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        stages.close()
