"""The service: a repeat is answered before any rule of admission is asked."""

import asyncio
from pathlib import Path

import pytest
from briefs import FACTS, TRUE_COPY, Script, open_service

from engine.admission import RequestBody, convert
from engine.errors import InvalidRequest
from engine.generators.fake import FakeGenerator
from engine.service import unix_ms

SOON_MS = 3_000


def body(deadline_ms: int) -> RequestBody:
    return convert({"brief": {"facts": FACTS}, "deadline_ms": deadline_ms, "idempotency_key": "k"})


async def test_a_repeat_gives_the_released_asset_after_its_deadline_and_without_its_policy(tmp_path: Path) -> None:
    async with open_service(tmp_path, FakeGenerator(writer=Script(TRUE_COPY))) as service:
        deadline_ms = unix_ms() + SOON_MS
        first = await service.submit(body(deadline_ms), 30)
        assert first.asset is not None
        await asyncio.sleep((deadline_ms - unix_ms()) / 1000 + 0.1)
        service.policies = {}
        assert await service.submit(body(deadline_ms), 30) == first
        service.intake.done.clear()  # as after a restart: only the ledger remembers
        again = await service.submit(body(deadline_ms), 30)
        assert again.asset is not None
        assert again.asset.content_hash == first.asset.content_hash
        with pytest.raises(InvalidRequest, match="in the past"):
            await service.submit(RequestBody(brief=body(deadline_ms).brief, deadline_ms=deadline_ms), 30)
