"""A plain Serve handle, from a second driver in the same Ray cluster."""

import json
import subprocess
import sys

import msgspec
import pytest
from running import DEADLINE_MS, REQUEST_S_MAX, ROOT, RunningEngine

from engine.request import Status

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

DRIVER = """
import asyncio, json, logging, sys

from actors import app  # before ray, whose environment it sets

import msgspec
import ray


async def main():
    handle = app.handle()
    statuses = await handle.mint.remote(json.loads(sys.argv[2]))
    again = [await handle.asset.remote(status.asset_id) for status in statuses if status.asset is not None]
    health = await handle.health.remote()
    sys.stdout.write(msgspec.json.encode([statuses, again, health]).decode())


ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
asyncio.run(main())
"""


def test_a_handle_mints_what_is_right_and_says_what_is_wrong_with_the_rest(engine: RunningEngine) -> None:
    brief = {"facts": {"article": "Scarf", "colour": "Teal", "material": "Wool"}, "policy": "quick"}
    good = [{"brief": brief, "idempotency_key": f"handle {n}", "deadline_ms": DEADLINE_MS} for n in range(2)]
    bodies = [good[0], {"brief": brief, "tier": "gold"}, good[1], {"brief": {"facts": {}}}, good[0]]
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, engine.ray_address(), json.dumps(bodies)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=REQUEST_S_MAX,
    )
    assert ran.returncode == 0, ran.stderr
    told, again, health = json.loads(ran.stdout)
    statuses = msgspec.convert(told, list[Status])
    assert [status.state for status in statuses] == ["released", "failed", "released", "failed", "released"]
    assert statuses[0].asset_id == statuses[4].asset_id != statuses[2].asset_id
    errors = [status.error for status in (statuses[1], statuses[3])]
    assert [error.where if error else None for error in errors] == ["tier", "brief.facts"]
    assets = [engine.acknowledge(status.asset) for status in statuses if status.asset is not None]
    assert [row["content"] for row in again] == [asset.content for asset in assets]
    assert health["ok"] is True
