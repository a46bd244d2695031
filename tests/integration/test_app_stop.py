"""After Ctrl-C: nothing runs any more, and the ledger holds what the engine said, once."""

import json
from collections import Counter

import pytest
from running import RunningEngine, mintage, wait_until

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

REAP_S_MAX = 20.0  # Ray's own daemons notice that their head is gone


def test_ctrl_c_ends_the_engine_politely(stopped_engine: RunningEngine) -> None:
    assert stopped_engine.process.returncode == 0, stopped_engine.log_tail()
    assert "Traceback" not in stopped_engine.log_tail()


def test_nothing_of_the_engine_is_left_behind(stopped_engine: RunningEngine) -> None:
    wait_until(lambda: not stopped_engine.processes(), "every process has ended", REAP_S_MAX)
    assert stopped_engine.haproxy_configs
    assert not any(config.parents[1].exists() for config in stopped_engine.haproxy_configs)


def test_the_ledger_of_the_stopped_engine_is_clean(stopped_engine: RunningEngine) -> None:
    ran = mintage("fsck", stopped_engine.data / "ledger", "--json")
    assert ran.returncode == 0, ran.stdout
    found = json.loads(ran.stdout)
    assert (found["num_shards"], found["problems"]) == (2, [])
    assert found["num_entries"] >= len(stopped_engine.acknowledged)


def test_everything_acknowledged_is_in_the_ledger_exactly_once(stopped_engine: RunningEngine) -> None:
    entries = stopped_engine.asset_entries()
    assert stopped_engine.acknowledged
    assert max(Counter(entry.id for entry in entries).values()) == 1
    recorded = {entry.id.hex(): entry.content_hash.hex() for entry in entries}
    told = {asset_id: asset.content_hash for asset_id, asset in stopped_engine.acknowledged.items()}
    assert {asset_id: recorded.get(asset_id) for asset_id in told} == told
    assert set(recorded) == set(told), "an asset that nobody was told of"
