"""The client over HTTP: what it sends and how long it waits, against a server that answers from a script."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from briefs import FACTS, body

from engine.admission import RequestBody
from engine.client import POLL_S_MAX, Client, HttpBackend
from engine.embedded import LoopThread
from engine.errors import Cancelled, Unavailable
from engine.request import Status
from engine.service import WAIT_S_MAX

ASSET_ID = "ab" * 16
PENDING = Status(ASSET_ID, "pending")
STOPPED = Status(ASSET_ID, "cancelled", error=Cancelled("stopped", where="intake", fix="Send it again.").body)


class Heads:
    """A gateway that answers every request with the same, `pending` by default, and keeps their heads."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []
        self.first_line = b"HTTP/1.1 202 Accepted"
        self.content = msgspec.json.encode(PENDING)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        self.lines.append(head)
        writer.write(self.first_line + b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(self.content))
        writer.write(self.content)
        await writer.drain()
        writer.close()

    def prefer(self) -> str:
        """The Prefer header of the last request."""
        (value,) = [line.partition(": ")[2] for line in self.lines[-1] if line.lower().startswith("prefer:")]
        return value

    def wait(self) -> str:
        """The parameter `wait` of the last request."""
        (value,) = parse_qs(urlsplit(self.lines[-1][0].split()[1]).query)["wait"]
        return value


@asynccontextmanager
async def gateway() -> AsyncIterator[tuple[Heads, HttpBackend]]:
    """The server, and a backend that asks it."""
    heads = Heads()
    server = await asyncio.start_server(heads.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    backend = HttpBackend(f"http://127.0.0.1:{port}")
    async with server:
        try:
            yield heads, backend
        finally:
            await backend.close()


WAITS = [
    (0.0, "0", "0"),
    (0.00002, "1", "0"),
    (0.01, "1", "0.01"),
    (0.5, "1", "0.5"),
    (59.2, "60", "59.2"),
    (1e6, "600", "600"),
]


@pytest.mark.parametrize(("wait_s", "prefer", "wait"), [*WAITS, (float("inf"), "600", "600")])
async def test_a_wait_is_sent_in_whole_seconds_as_prefer_and_as_a_plain_decimal_in_a_query(
    wait_s: float, prefer: str, wait: str
) -> None:
    async with gateway() as (heads, backend):
        assert await backend.submit(body(), wait_s) == PENDING
        assert heads.prefer() == f"wait={prefer}"
        assert await backend.status(ASSET_ID, wait_s) == PENDING
        assert heads.wait().replace(".", "").isdigit()
        assert float(heads.wait()) == float(wait)


@pytest.mark.parametrize("first_line", [b"HTTP/1.1 500 Internal Server Error", b"HTTP/1.1 200 OK"])
async def test_an_answer_that_is_not_the_engines_is_a_named_error_with_a_way_out(first_line: bytes) -> None:
    async with gateway() as (heads, backend):
        heads.first_line, heads.content = first_line, b"Internal Server Error"
        for question in (backend.submit(body(), 0.0), backend.status(ASSET_ID), backend.checkpoints()):
            with pytest.raises(Unavailable, match="again with its idempotency key"):
                await question


async def test_a_proxy_of_the_environment_is_not_asked_for_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens at the port of `discard`
    async with gateway() as (heads, backend):
        assert await backend.status(ASSET_ID) == PENDING
        assert len(heads.lines) == 1


class SlowBackend:
    """An engine that waits no longer than WAIT_S_MAX at once, as the real one, on a scale of a thousandth.

    Args:
        statuses: its answers, in order; the last one for ever.
    """

    def __init__(self, statuses: Sequence[Status]) -> None:
        self.statuses = statuses
        self.waits_s: list[float] = []

    async def submit(self, body: RequestBody, wait_s: float) -> Status:
        return await self.status(ASSET_ID, wait_s)

    async def status(self, asset_id: str, wait_s: float = 0.0) -> Status:
        self.waits_s.append(wait_s)
        status = self.statuses[min(len(self.waits_s), len(self.statuses)) - 1]
        if status.state == "pending":
            await asyncio.sleep(min(wait_s, WAIT_S_MAX) / 1000)
        return status

    async def checkpoints(self) -> list[str]:
        raise AssertionError("not asked for")

    async def close(self) -> None:
        return None


@asynccontextmanager
async def client_of(backend: SlowBackend) -> AsyncIterator[Client]:
    """A client of a backend, on a thread of its own."""
    client = Client(backend, LoopThread("test"), owns_thread=True)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.close)


async def test_mint_asks_on_when_the_engines_longest_wait_is_over() -> None:
    backend = SlowBackend([PENDING, PENDING, PENDING, STOPPED])
    async with client_of(backend) as client:
        with pytest.raises(Cancelled):
            await client.mint_async(FACTS, timeout_s=10 * WAIT_S_MAX)
    assert backend.waits_s == [10 * WAIT_S_MAX, POLL_S_MAX, POLL_S_MAX, POLL_S_MAX]


async def test_mint_gives_up_when_its_time_has_passed_and_says_which_asset_goes_on() -> None:
    backend = SlowBackend([PENDING])
    async with client_of(backend) as client:
        with pytest.raises(TimeoutError, match=ASSET_ID):
            await client.mint_async(FACTS, timeout_s=0.3)
    assert len(backend.waits_s) > 1
