"""A real engine as a user runs it, `mintage run` in a session of its own, and what tests ask of it from outside."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import yaml

from actors.ports import free_port
from engine.config import CONFIGS
from engine.request import Asset, Status
from gate.policy import RETRIES_MAX
from ledger.entry import ENTRY_BYTES, Entry, decode
from ledger.log import shard_paths
from ledger.queries import ASSET_KINDS
from ledger.reader import Reader
from ledger.receipt import verify

ROOT = Path(__file__).parents[2]
START_S_MAX = 600.0  # a first start converts the model, which takes minutes on a busy machine
STOP_S_MAX = 90.0
REQUEST_S_MAX = 300.0
PATIENCE_S = 60.0
POLL_S = 0.1
LOG_CHARS_MAX = 4_000
EVERYDAY_WORDS = ["a", "an", "and", "for", "in", "is", "it", "of", "the", "this", "to", "with"]
DEADLINE_MS = time.time_ns() // 1_000_000 + 3_600_000
"""A deadline that is not under test: always the same, so that a request sent again is the same request."""


def mintage(*args: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command line, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "actors.cli", *map(str, args)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=REQUEST_S_MAX,
    )


def write_config(folder: Path) -> Path:
    """A configuration with two policies more: `quick`, which is `default` without its free retries, and `never`, which
    no English text passes, so that a request stays open for as long as a test looks at it."""
    policies = folder / "policies"
    shutil.copytree(CONFIGS / "policies", policies)
    quick = yaml.safe_load((policies / "default.yaml").read_text())
    quick |= {"name": "quick", "retries": {"free": 0, "constrained": 1}}
    (policies / "quick.yaml").write_text(yaml.safe_dump(quick))
    never = quick | {"name": "never", "banned_terms": EVERYDAY_WORDS}
    never["retries"] = {"free": RETRIES_MAX, "constrained": 0}
    (policies / "never.yaml").write_text(yaml.safe_dump(never))
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"policies_dir": str(policies)}))
    return config


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll until it holds."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)


def command_line(process: psutil.Process) -> list[str]:
    """Its arguments; none if it has just ended."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


async def until(condition: Callable[[], bool], what: str) -> None:
    """`wait_until` beside the event loop."""
    await asyncio.to_thread(wait_until, condition, what, PATIENCE_S)


class RunningEngine:
    """`mintage run` and everything it starts, which is what carries its session id.

    Args:
        folder: for its ledger and its log; `data` and `run.log`.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "data"
        self.log = folder / "run.log"
        self.acknowledged: dict[str, Asset] = {}
        self.haproxy_configs: list[Path] = []
        command = [sys.executable, "-m", "actors.cli", "run", "--config", str(write_config(folder))]
        command += ["--port", str(self.port), "--data", str(self.data)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self.session = self.process.pid

    def wait_healthy(self) -> None:
        """Until it can generate."""
        wait_until(self.is_healthy, f"{self.url} is healthy", START_S_MAX)

    def is_healthy(self) -> bool:
        assert self.process.poll() is None, f"the engine ended by itself: {self.log_tail()}"
        try:
            return httpx.get(f"{self.url}/healthz").is_success
        except httpx.HTTPError:
            return False

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_CHARS_MAX:]

    def health(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/healthz").json())

    def verifier_keys(self) -> list[str]:
        return httpx.get(f"{self.url}/v1/verifier-keys").text.splitlines()

    def acknowledge(self, asset: Asset) -> Asset:
        """Remember an asset that the engine said is released. Its receipt must prove it, then and for ever."""
        verified = verify(asset.receipt, self.verifier_keys(), asset.content.encode())
        assert verified.entry.id.hex() == asset.asset_id
        known = self.acknowledged.setdefault(asset.asset_id, asset)
        assert (known.content_hash, known.shard, known.index) == (asset.content_hash, asset.shard, asset.index)
        return asset

    def released(self, response: httpx.Response) -> Asset:
        """The asset of an answer that must have one."""
        assert response.status_code == 200, response.text
        status = msgspec.json.decode(response.content, type=Status)
        assert (status.state, status.error) == ("released", None)
        assert status.asset is not None
        return self.acknowledge(status.asset)

    def processes(self) -> list[psutil.Process]:
        """What runs in the engine's session, itself included."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.session and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def ray_address(self) -> str:
        """Where its Ray cluster is joined."""
        arguments = [argument for process in self.processes() for argument in command_line(process)]
        return next(each.partition("=")[2] for each in arguments if each.startswith("--gcs-address="))

    def replica(self, deployment: str) -> psutil.Process | None:
        """The process of a deployment's only replica, told by the title that Serve gives it; None while it has none."""
        for process in self.processes():
            title = next(iter(command_line(process)), "")
            if title.startswith("ray::ServeReplica:") and title.split(":")[4].split(".")[0] == deployment:
                return process
        return None

    def kill_replica(self, deployment: str) -> int:
        """`kill -9`; the process id that is no more."""
        process = self.replica(deployment)
        assert process is not None, f"{deployment} has no replica"
        process.kill()
        return int(process.pid)

    def stop(self) -> None:
        """Ctrl-C, as a terminal sends it: to the whole foreground process group. Waits for the end."""
        arguments = [argument for process in self.processes() for argument in command_line(process)]
        self.haproxy_configs = [Path(each) for each in arguments if each.endswith("/haproxy.cfg")]
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(STOP_S_MAX)

    def kill(self) -> None:
        """End whatever is left, however the tests went."""
        for process in self.processes():
            process.kill()

    def asset_entries(self) -> list[Entry]:
        """Every asset's entry, read from the files."""
        found = []
        for path in shard_paths(self.data / "ledger"):
            with Reader.open(path) as reader:
                data = reader.read_entries(0, reader.tree_size)
            found += [decode(data[begin : begin + ENTRY_BYTES]) for begin in range(0, len(data), ENTRY_BYTES)]
        return [entry for entry in found if entry.kind in ASSET_KINDS]
