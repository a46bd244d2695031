"""The logs over HTTP, as static resources (C2SP tlog-tiles), each under a prefix of its own:

    /log/<name>/checkpoint                      the newest signed checkpoint, never cached
    /log/<name>/tile/<level>/<N>[.p/<width>]    hashes of the tree
    /log/<name>/tile/entries/<N>[.p/<width>]    entries, gzipped where the client takes it; hashes would not get smaller

A full tile never changes, so every cache on the way may keep it for ever and the engine serves it once. A partial tile
never changes either, but is asked for only until the log has grown. A log is named by its shard's number, or `super`.
"""

import gzip
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from actors.answers import ErrorAnswer, json
from engine.errors import MintageError, NotFound, describe, http_status
from ledger.errors import LedgerError
from ledger.tiles import CHECKPOINT_PATH, Source, parse_path, serve
from ledger.tree import TILE_HASHES

PREFIX = "/log"
FOR_EVER = "public, max-age=31536000, immutable"
FOR_A_WHILE = "public, max-age=3600, immutable"
NEVER = "no-store"
GZIP_LEVEL = 1  # half the size already; the next levels cost a multiple for a few percent

ReadLog = Callable[[str], Awaitable[bytes]]
"""A path below a log's prefix -> what is served there (`ledger.tiles.serve`); raises EntryNotFound or NotFound."""


def local(source: Source) -> ReadLog:
    """The log of a source in this process. Reads run in threads: they may wait for the disk."""

    async def read(path: str) -> bytes:
        return await run_in_threadpool(serve, path, source)

    return read


def add_logs(api: FastAPI, logs: Mapping[str, ReadLog]) -> None:
    """Serve some logs, by name."""

    @api.get(f"{PREFIX}/{{name}}/{{path:path}}", response_class=Response)
    async def get_log(name: str, path: str, request: Request) -> Response:
        """A log's checkpoint, a tile of its tree, or a bundle of its entries (C2SP tlog-tiles)."""
        try:
            return await answer(read_of(logs, name), path, request.headers.get("Accept-Encoding", ""))
        except (LedgerError, MintageError) as error:
            body = describe(error)
            return json(ErrorAnswer(body), http_status(body), {"Cache-Control": NEVER})


def read_of(logs: Mapping[str, ReadLog], name: str) -> ReadLog:
    """How to read a log.

    Raises:
        NotFound: there is none of this name.
    """
    if name not in logs:
        raise NotFound(f"there is no log {name[:80]!r}", where="log", fix=f"Use one of: {', '.join(logs)}.")
    return logs[name]


async def answer(read: ReadLog, path: str, accept_encoding: str) -> Response:
    """What is served under a path, with the headers that belong to its kind.

    Raises:
        EntryNotFound: nothing is.
    """
    if path == CHECKPOINT_PATH:
        note = await read(path)
        return Response(note, headers={"Cache-Control": NEVER}, media_type="text/plain; charset=utf-8")
    tile = parse_path(path)
    data = await read(path)
    headers = {"Cache-Control": FOR_EVER if tile.width == TILE_HASHES else FOR_A_WHILE}
    if tile.level is None:
        headers["Vary"] = "Accept-Encoding"
        if accepts_gzip(accept_encoding):
            headers["Content-Encoding"] = "gzip"
            data = await run_in_threadpool(gzip.compress, data, GZIP_LEVEL, mtime=0)
    return Response(data, headers=headers, media_type="application/octet-stream")


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client takes gzip, from its Accept-Encoding header (RFC 9110, section 12.5.3)."""
    weights = {}
    for item in accept_encoding.split(","):
        coding, _, parameter = item.partition(";")
        name, _, value = parameter.partition("=")
        weight = value.strip() if name.strip().lower() == "q" else "1"
        weights[coding.strip().lower()] = weight.rstrip("0.") != ""  # 0, 0., 0.000: refused
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))
