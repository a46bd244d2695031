"""The Python client: the same calls against an engine over HTTP and against one embedded in this process.

    from engine import connect

    with connect("http://127.0.0.1:8000") as mint:
        asset = mint.mint({"article": "Scarf", "colour": "Teal"}, tier="priority")

Every call has an async form (`mint_async`, ...). Errors are the engine's named errors in both cases.
"""

import asyncio
import math
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from engine.admission import RequestBody, convert
from engine.embedded import Engine, LoopThread
from engine.errors import ErrorBody, Refused, Unavailable, rebuild
from engine.request import Asset, Reason, Status
from engine.service import WAIT_S_MAX

HTTP_TIMEOUT_MARGIN_S = 30.0
CONNECTIONS_MAX = 512
POLL_S_MAX = 60.0
# While the gateway starts anew, the ingress before it answers in its own words.
NOT_OURS = "Send it again with its idempotency key; if that does not help, check that the address is Mintage's."
R = TypeVar("R")


class Backend(Protocol):
    """What a client needs of an engine; `Service` has these verbs."""

    async def submit(self, body: RequestBody, wait_s: float) -> Status: ...

    async def status(self, asset_id: str, wait_s: float = 0.0) -> Status: ...

    async def checkpoints(self) -> list[str]: ...

    async def close(self) -> None: ...


class HttpBackend:
    """An engine behind its HTTP gateway.

    Raises (every call):
        Unavailable: nobody answers at the address.
        MintageError: what the gateway answered.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.AsyncClient(
            base_url=url,
            trust_env=False,  # the address is the engine's own: a proxy of the environment would be asked for it
            timeout=httpx.Timeout(HTTP_TIMEOUT_MARGIN_S),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
        )

    async def submit(self, body: RequestBody, wait_s: float) -> Status:
        wait_s = math.ceil(min(wait_s, WAIT_S_MAX))  # RFC 7240 knows whole seconds only
        headers = {"Content-Type": "application/json", "Prefer": f"wait={wait_s}"}
        data = await self.call("POST", "/v1/assets", wait_s, content=msgspec.json.encode(body), headers=headers)
        return self.decoded(data, Status)

    async def status(self, asset_id: str, wait_s: float = 0.0) -> Status:
        wait_s = min(wait_s, WAIT_S_MAX)
        data = await self.call("GET", f"/v1/assets/{asset_id}", wait_s, params={"wait": f"{wait_s:.3f}"})
        return self.decoded(data, Status)

    async def checkpoints(self) -> list[str]:
        return self.decoded(await self.call("GET", "/v1/checkpoint", 0), list[str])

    async def verifier_keys(self) -> list[str]:
        """What receipts are checked with. Get it once, keep it, and compare it with what the operator published."""
        return (await self.call("GET", "/v1/verifier-keys", 0)).decode().split()

    async def call(self, method: str, path: str, wait_s: float, **options: Any) -> bytes:
        """One HTTP exchange; an error answer is raised as the error that it describes."""
        try:
            response = await self.http.request(method, path, timeout=wait_s + HTTP_TIMEOUT_MARGIN_S, **options)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"no answer: {type(error).__name__}: {error}",
                where=f"{self.url}{path}",
                fix="Check that the engine runs there (mintage run).",
            ) from error
        if response.is_success:
            return response.content
        try:
            body = msgspec.json.decode(response.content, type=dict[str, Any])
            answer = rebuild(msgspec.convert(body["error"], ErrorBody))
            if isinstance(answer, Refused):
                answer.reasons = msgspec.convert(body.get("reasons", ()), tuple[Reason, ...])
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise Unavailable(
                f"HTTP {response.status_code}: {response.text[:200]}", where=f"{self.url}{path}", fix=NOT_OURS
            ) from error
        raise answer

    def decoded(self, data: bytes, type_: type[R]) -> R:
        """An answer as what it must be."""
        try:
            return msgspec.json.decode(data, type=type_)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"not an answer of Mintage: {data[:80]!r}", where=self.url, fix=NOT_OURS) from error

    async def close(self) -> None:
        await self.http.aclose()


class Client:
    """Submit requests and get assets, from any thread or event loop."""

    def __init__(self, backend: Backend, thread: LoopThread, *, owns_thread: bool) -> None:
        self.backend = backend
        self.thread = thread
        self.owns_thread = owns_thread

    def submit(self, facts: Mapping[str, str], **options: Any) -> str:
        """Start a request; the id to ask for. `options` are the fields of `RequestBody`, and those of `Brief` that say
        more than its facts: style, policy, model, source."""
        return self.thread.run(self._submit(facts, options))

    def result(self, asset_id: str, timeout_s: float = 600.0) -> Asset:
        """Wait for a request's asset.

        Raises:
            Refused, DeadlineExceeded, Cancelled, NotFound, ...: why there is none.
            TimeoutError: it is still under way after `timeout_s`.
        """
        return self.thread.run(self._result(asset_id, timeout_s))

    def mint(self, facts: Mapping[str, str], *, timeout_s: float = 600.0, **options: Any) -> Asset:
        """Submit and wait. A call that is interrupted in its first WAIT_S_MAX seconds stops the request.

        Raises:
            Refused, DeadlineExceeded, Overloaded, ...: why there is no asset.
            TimeoutError: it is still under way after `timeout_s` (over HTTP rounded up to a second), and goes on.
        """
        return self.thread.run(self._mint(facts, options, timeout_s))

    def status(self, asset_id: str) -> Status:
        """How a request stands now."""
        return self.thread.run(self.backend.status(asset_id))

    def checkpoints(self) -> list[str]:
        """The newest signed checkpoint of every shard."""
        return self.thread.run(self.backend.checkpoints())

    async def submit_async(self, facts: Mapping[str, str], **options: Any) -> str:
        """`submit`, awaited."""
        return await self.awaited(self._submit(facts, options))

    async def result_async(self, asset_id: str, timeout_s: float = 600.0) -> Asset:
        """`result`, awaited."""
        return await self.awaited(self._result(asset_id, timeout_s))

    async def mint_async(self, facts: Mapping[str, str], *, timeout_s: float = 600.0, **options: Any) -> Asset:
        """`mint`, awaited."""
        return await self.awaited(self._mint(facts, options, timeout_s))

    async def awaited(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run on the client's loop, await on the caller's."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.thread.loop))

    async def _submit(self, facts: Mapping[str, str], options: Mapping[str, Any]) -> str:
        return (await self.backend.submit(body_of(facts, options), 0.0)).asset_id

    async def _result(self, asset_id: str, timeout_s: float) -> Asset:
        until_s = asyncio.get_running_loop().time() + timeout_s
        return await self._finished(Status(asset_id, "pending"), until_s)

    async def _mint(self, facts: Mapping[str, str], options: Mapping[str, Any], timeout_s: float) -> Asset:
        until_s = asyncio.get_running_loop().time() + timeout_s
        status = await self.backend.submit(body_of(facts, options), timeout_s)
        return await self._finished(status, until_s)

    async def _finished(self, status: Status, until_s: float) -> Asset:
        """Ask how a request stands until it is finished, or until the loop's clock says `until_s`."""
        try:
            async with asyncio.timeout_at(until_s):
                while status.state == "pending":
                    status = await self.backend.status(status.asset_id, POLL_S_MAX)
        except TimeoutError as error:
            raise TimeoutError(f"asset {status.asset_id} is still under way") from error
        return released(status)

    def close(self) -> None:
        """Give back connections and thread; an engine that was passed in stays open."""
        if self.owns_thread:
            self.thread.run(self.backend.close())
            self.thread.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(target: "str | Engine") -> Client:
    """A client of the engine at an HTTP address, or of an embedded engine (`Engine.open(path)`)."""
    if isinstance(target, Engine):
        return Client(target.service, target.thread, owns_thread=False)
    return Client(HttpBackend(target.rstrip("/")), LoopThread("mintage-client"), owns_thread=True)


def body_of(facts: Mapping[str, str], options: Mapping[str, Any]) -> RequestBody:
    """The request of a call: brief fields go into the brief, the others beside it."""
    brief_fields = ("style", "policy", "model", "source")
    brief = {"facts": dict(facts)} | {key: value for key, value in options.items() if key in brief_fields}
    rest = {key: value for key, value in options.items() if key not in brief_fields}
    return convert({"brief": brief} | rest)


def released(status: Status) -> Asset:
    """The asset of a status, or the error that stands in its place."""
    if status.asset is not None:
        return status.asset
    if status.error is not None:
        error = rebuild(status.error)
        if isinstance(error, Refused):
            error.reasons = status.reasons
        raise error
    raise Unavailable(f"asset {status.asset_id} is {status.state}", where="asset_id", fix="Wait for it with result().")


def read_keys(path: Path) -> list[str]:
    """The verifier keys in a file, one a line."""
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
