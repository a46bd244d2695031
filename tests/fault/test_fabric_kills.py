"""Processes that use the fabric are killed at any instruction: no message is lost or dealt with twice, no slot and
no block of a queue leaks.

MINTAGE_STRESS_S says for how many seconds each (a long run: 60).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STRESS = Path(__file__).parents[1] / "fabric_stress.py"
STRESS_S = float(os.environ.get("MINTAGE_STRESS_S", "5"))
START_S_MAX = 180.0


@pytest.mark.timeout(START_S_MAX + 3 * STRESS_S)
@pytest.mark.parametrize("kind", ["mailbox", "router"])
def test_whoever_is_killed_every_message_is_finished_exactly_once(kind: str) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    command = [sys.executable, str(STRESS), kind, str(STRESS_S), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S_MAX + 2 * STRESS_S, check=False)
    assert done.returncode == 0, f"seed {seed}\n{done.stderr}"
    found = json.loads(done.stdout)
    print(kind, found)
    assert found["num_kills"] > 5 * STRESS_S, "the machine is too slow for this to say anything"
    assert found["num_sent"] == found["num_done"] > 100_000, f"seed {seed}: {found}"
    for what in ("lost", "finished_twice", "finished_unsent"):
        assert found[what] == [], f"seed {seed}: {found}"
    assert (found["slots_not_free"], found["blocks_lost"]) == (0, 0), f"seed {seed}: {found}"
    assert found["slots_usable"] == 512
