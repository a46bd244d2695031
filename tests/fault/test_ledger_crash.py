"""A writer killed at any moment: what it acknowledged is there, and the ledger is whole."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger.fsck import check
from ledger.log import open_keys, shard_path
from ledger.receipt import verify
from ledger.shard import Shard

ROOT = Path(__file__).parents[2]
NUM_KILLS = 8
DELAY_S_MAX = 0.004
"""A commit takes about a millisecond, so a kill after up to four falls anywhere inside one."""

WRITER = """
import random, sys
from pathlib import Path
from ledger.entry import Kind
from ledger.log import open_keys, shard_path
from ledger.shard import NewEntry, Shard

path, sizes = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
keys = open_keys(path, "mintage.local", 1)
with Shard.open(shard_path(path, 0), shard=0, signer=keys.signers[0], now_ms=lambda: 1) as shard:
    while True:
        size = shard.size()
        numbers = range(size, size + sizes.randint(1, 40))
        parents = ((0, size - 1),) if size else ()
        shard.append([
            NewEntry(Kind.ASSET, n.to_bytes(16, "big"), b"content %d" % n * 50, b"r" * 32, "acme", parents=parents)
            for n in numbers
        ])
        print(numbers.stop, flush=True)
"""


def killed_writer(path: Path, chance: random.Random) -> int:
    """Let a writer acknowledge a few batches, kill it, and return how many entries it had acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(chance.randrange(2**32))], cwd=ROOT, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(chance.randint(1, 30))]
        time.sleep(chance.uniform(0, DELAY_S_MAX))
        writer.kill()
        acknowledged += [int(line) for line in writer.stdout]
    assert writer.returncode == -signal.SIGKILL
    return acknowledged[-1]


@pytest.mark.parametrize("seed", [1])
def test_whatever_a_killed_writer_acknowledged_is_there_and_verifies(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(NUM_KILLS):
        acknowledged = killed_writer(tmp_path, chance)
        report = check(tmp_path)
        assert report.problems == (), seed
        assert report.num_entries >= acknowledged, seed
        assert_all_there(tmp_path, acknowledged, chance)


def assert_all_there(path: Path, num_entries: int, chance: random.Random) -> None:
    """Every acknowledged entry is found under its id with its content; a sample of receipts verifies."""
    keys = open_keys(path, "mintage.local", 1)
    with Shard.open(shard_path(path, 0), shard=0, signer=keys.signers[0], now_ms=lambda: 1) as shard:
        for number in range(num_entries):
            assert shard.find(number.to_bytes(16, "big")) == number
            assert shard.content(number) == b"content %d" % number * 50
        for number in chance.sample(range(num_entries), min(20, num_entries)):
            verify(shard.receipt(number), keys.verifier_keys, shard.content(number))
