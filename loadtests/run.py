"""Run the locust users headless and print the percentiles per tier; the last line is one JSON object.

    python -m loadtests.run [--url URL] [--seconds 30] [--users 96]

Without --url an engine is started for the purpose, on a free port with a temporary ledger, and stopped afterwards.
With fewer users than the generator has places (text.capacity, 64) nothing waits, and the tiers differ little.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from actors.ports import free_port
from engine.tiers import Tier

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
START_S_MAX = 300.0
DRAIN_S = 300  # as long as a user waits: were a request given up, the slowest would be missing in the percentiles
PERCENTILES = (50, 90, 95, 99)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run")
    parser.add_argument("--url", default=None, help="an engine that runs already")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--users", type=int, default=96)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(own_engine())
        rows = run_locust(url, options.users, options.seconds)
    result = {"users": options.users, "seconds": options.seconds, "tiers": [tier_row(tier, rows) for tier in Tier]}
    print_table(result["tiers"])
    print(msgspec.json.encode(result).decode())
    if any(row["num_failures"] for row in result["tiers"]) or not all(row["num_requests"] for row in result["tiers"]):
        raise SystemExit(1)


@contextlib.contextmanager
def own_engine() -> Iterator[str]:
    """An engine with a temporary ledger; its URL."""
    with tempfile.TemporaryDirectory(prefix="mintage-load-") as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        log = Path(folder, "log")
        with log.open("wb") as output:
            engine = subprocess.Popen(
                [sys.executable, "-m", "actors.cli", "run", "--port", str(port), "--data", str(Path(folder, "data"))],
                stdout=output,
                stderr=output,
            )
        try:
            wait_healthy(engine, url, log)
            yield url
        finally:
            engine.send_signal(signal.SIGINT)
            engine.wait(120)


def wait_healthy(engine: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Until the engine serves."""
    until_s = time.monotonic() + START_S_MAX
    while time.monotonic() < until_s and engine.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.2)
    raise SystemExit(f"the engine did not start; its log ends: {log.read_text()[-2000:]}")


def run_locust(url: str, num_users: int, seconds: int) -> list[dict[str, Any]]:
    """Locust's own statistics of a headless run, one row a request name; answers still awaited are waited for."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", url, "--headless", "--json"]
    command += ["-u", str(num_users), "-r", str(num_users), "-t", f"{seconds}s", "--stop-timeout", str(DRAIN_S)]
    command += ["--loglevel", "ERROR", "--exit-code-on-error", "0"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(finished.stdout, type=list[dict[str, Any]])


def tier_row(tier: Tier, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One tier: requests, failures, and latency percentiles in seconds."""
    found = [row for row in rows if row["name"] == f"mint {tier.value}"]
    times = sorted(
        float(time_ms) for row in found for time_ms, count in row["response_times"].items() for _ in range(count)
    )
    percentiles = {
        f"p{percent}_s": round(times[min(len(times) - 1, len(times) * percent // 100)] / 1000, 2) if times else None
        for percent in PERCENTILES
    }
    counts = {key: sum(row[key] for row in found) for key in ("num_requests", "num_failures")}
    return {"tier": tier.value, **counts, **percentiles}


def print_table(rows: list[dict[str, Any]]) -> None:
    """For a person."""
    table = Table(*rows[0], title="loadtests")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
