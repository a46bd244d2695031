"""The logs over HTTP: the paths and headers of tlog-tiles, one form of error, and a mirror that verifies all of it."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from memory_log import SIGNER, MemoryLog, some_entries

from actors.log_api import FOR_A_WHILE, FOR_EVER, PREFIX, accepts_gzip, add_logs, local
from engine.errors import ErrorBody
from ledger.entry import ENTRY_BYTES
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.merkle import verify_inclusion
from ledger.note import Policy
from ledger.tile_client import VerifiedTiles, fetch_from
from ledger.tiles import export, tiles_of, unbundle

LOG = MemoryLog(some_entries(600))
POLICY = Policy((SIGNER.key,))


async def broken(path: str) -> bytes:
    raise LedgerCorrupt("a row is missing", where=path, fix="Run fsck.")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    api = FastAPI()
    add_logs(api, {"0": local(LOG), "super": local(MemoryLog(some_entries(3))), "9": broken})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://mintage.test") as client:
        yield client


def error_of(response: httpx.Response) -> ErrorBody:
    return msgspec.convert(response.json()["error"], ErrorBody, strict=True)


async def test_a_checkpoint_is_text_and_never_cached(http: httpx.AsyncClient) -> None:
    response = await http.get("/log/0/checkpoint")
    assert (response.status_code, response.text) == (200, LOG.checkpoint())
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "num_bytes", "caching"),
    [
        ("tile/0/000", 256 * 32, FOR_EVER),
        ("tile/0/002.p/88", 88 * 32, FOR_A_WHILE),
        ("tile/0/002.p/7", 7 * 32, FOR_A_WHILE),
        ("tile/1/000.p/2", 2 * 32, FOR_A_WHILE),
        ("tile/entries/001", 256 * (2 + ENTRY_BYTES), FOR_EVER),
        ("tile/entries/002.p/88", 88 * (2 + ENTRY_BYTES), FOR_A_WHILE),
    ],
)
async def test_what_never_changes_may_be_kept(http: httpx.AsyncClient, path: str, num_bytes: int, caching: str) -> None:
    response = await http.get(f"/log/0/{path}")
    assert (response.status_code, len(response.content)) == (200, num_bytes)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["cache-control"] == caching


async def test_entries_are_gzipped_for_who_takes_it_and_hashes_never(http: httpx.AsyncClient) -> None:
    path = "/log/0/tile/entries/000"
    plain = await http.get(path, headers={"Accept-Encoding": "identity"})
    zipped = await http.get(path, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert zipped.headers["content-encoding"] == "gzip"
    assert plain.headers["vary"] == zipped.headers["vary"] == "Accept-Encoding"
    assert plain.content == zipped.content  # httpx has unzipped it
    assert unbundle(plain.content) == LOG.read_entries(0, 256)
    assert int(zipped.headers["content-length"]) < len(plain.content) // 2
    hashes = await http.get("/log/0/tile/0/000", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in hashes.headers
    again = gzip.compress(plain.content, 1, mtime=0)
    assert int(zipped.headers["content-length"]) == len(again), "equal content has equal bytes on the wire"


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0.001", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzippo", False),
    ],
)
def test_gzip_is_taken_as_the_header_says(header: str, takes: bool) -> None:
    assert accepts_gzip(header) is takes


@pytest.mark.parametrize(
    "path",
    [
        "0/tile/0/003",
        "0/tile/0/002",
        "0/tile/0/002.p/89",
        "0/tile/0/000.p/0",
        "0/tile/0/000.p/256",
        "0/tile/0/x000/000",
        "0/tile/00/000",
        "0/tile/1/000",
        "0/tile/entries/003",
        "0/tile/0/0",
        "0/tile/64/000",
        "0/tile",
        "0/",
        "0/checkpoint/",
        "0/%2e%2e/checkpoint",
        "00/checkpoint",
        "1/checkpoint",
        "-1/checkpoint",
    ],
)
async def test_what_is_not_there_is_404_in_the_one_form_and_not_kept(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(f"/log/{path}")
    assert response.status_code == 404
    assert error_of(response).code == "not_found"
    assert response.headers["cache-control"] == "no-store"


async def test_a_damaged_log_says_so_and_nobody_keeps_the_answer(http: httpx.AsyncClient) -> None:
    response = await http.get("/log/9/checkpoint")
    assert (response.status_code, error_of(response).code) == (500, "ledger_corrupt")
    assert response.headers["cache-control"] == "no-store"


async def test_logs_have_prefixes_of_their_own(http: httpx.AsyncClient) -> None:
    one, other = [await http.get(f"/log/{name}/tile/0/000.p/3") for name in ("0", "super")]
    assert one.content == other.content == LOG.read_hashes(0, 0, 3)
    assert (await http.get("/log/super/tile/0/000")).status_code == 404


async def test_a_slow_disk_does_not_stop_the_others() -> None:
    class SlowLog(MemoryLog):
        def read_hashes(self, level: int, begin: int, end: int) -> bytes:
            assert door.wait(20)
            return super().read_hashes(level, begin, end)

    door = threading.Event()
    api = FastAPI()
    add_logs(api, {"0": local(SlowLog(some_entries(300))), "1": local(LOG)})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://mintage.test") as client:
        slow = asyncio.create_task(client.get("/log/0/tile/0/000"))
        assert (await client.get("/log/1/tile/0/000")).status_code == 200
        assert not slow.done()
        door.set()
        assert (await slow).status_code == 200


def fetch_over(http: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> Callable[[str], bytes]:
    """A client of another thread, as a mirror is."""

    async def get(path: str) -> bytes:
        response = await http.get(f"{PREFIX}/0/{path}")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise EntryNotFound("no such tile", where=path, fix="Ask another copy.")
        response.raise_for_status()
        return response.content

    return lambda path: asyncio.run_coroutine_threadsafe(get(path), loop).result(20)


async def in_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def test_a_mirror_that_believes_nothing_copies_the_whole_log_over_http(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    fetch = fetch_over(http, asyncio.get_running_loop())

    def mirror() -> None:
        tiles = VerifiedTiles(fetch, POLICY)
        verify_inclusion(417, 600, LOG.leaves[417], tiles.inclusion_proof(417), LOG.root(600))
        export(tmp_path / "mirror", tiles)

    await in_thread(mirror)
    copy = VerifiedTiles(fetch_from(tmp_path / "mirror"), POLICY)
    assert copy.read_entries(0, 600) == LOG.entries


async def test_every_tile_of_the_tree_is_served_as_the_static_export_has_it(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    export(tmp_path / "static", LOG)
    get: Callable[[str], Awaitable[httpx.Response]] = http.get
    for tile in tiles_of(600):
        response = await get(f"/log/0/{tile.path}")
        assert response.content == (tmp_path / "static" / tile.path).read_bytes(), tile.path
