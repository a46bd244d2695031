"""One running engine for every test that needs one: starting it takes half a minute, and tests only add to it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from go_verifier import build_verifier
from running import REQUEST_S_MAX, RunningEngine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the engine stopped comes after everything that needs it running."""
    last = [item for item in items if "stopped_engine" in getattr(item, "fixturenames", ())]
    for item in last:
        items.remove(item)
    users = [place for place, item in enumerate(items) if "engine" in getattr(item, "fixturenames", ())]
    end = max(users, default=len(items) - 1) + 1
    items[end:end] = last


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("engine"))
    try:
        running.wait_healthy()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="session")
def stopped_engine(engine: RunningEngine) -> RunningEngine:
    """The engine after Ctrl-C."""
    engine.stop()
    return engine


@pytest.fixture
async def http(engine: RunningEngine) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Prefer": f"wait={REQUEST_S_MAX:.0f}"}
    async with httpx.AsyncClient(base_url=engine.url, headers=headers, timeout=2 * REQUEST_S_MAX) as client:
        yield client


@pytest.fixture(scope="session")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program that verifies our logs."""
    return build_verifier(tmp_path_factory.mktemp("go"))
