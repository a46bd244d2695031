"""Minting a list of products through an engine's HTTP gateway, and what the terminal shows of it."""

import asyncio
import hashlib
import statistics
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.admission import RequestBody
from engine.catalogue import Product, brief_facts
from engine.client import HttpBackend
from engine.errors import ErrorBody, MintageError, Refused, Unavailable
from engine.request import Asset, Brief, Reason, Status
from engine.service import unix_ms
from engine.tiers import Tier
from ledger.errors import ReceiptInvalid
from ledger.receipt import verify

IN_FLIGHT_DEFAULT = 64
WAIT_S = 600.0
NAME_BYTES_MAX = 200  # of a file name without its suffix; file systems take 255 in all


class Minted(msgspec.Struct, frozen=True):
    """What came of one product. Exactly one of `asset` and `error` is there; `verified` is about its receipt."""

    sku: str
    tier: Tier
    latency_s: float
    asset: Asset | None = None
    error: ErrorBody | None = None
    reasons: tuple[Reason, ...] = ()
    verified: bool = False

    @property
    def state(self) -> Literal["released", "refused", "failed"]:
        """Refused is the gate's work; everything else that is no asset is a failure."""
        if self.asset is not None:
            return "released"
        return "refused" if self.error is not None and self.error.code == Refused.code else "failed"


class Tally:
    """Counts for a table and a summary."""

    def __init__(self, num_products: int) -> None:
        self.num_products = num_products
        self.minted: list[Minted] = []
        self.start_s = time.monotonic()

    @property
    def released(self) -> list[Asset]:
        return [row.asset for row in self.minted if row.asset is not None]

    @property
    def num_tokens(self) -> int:
        return sum(asset.num_tokens for asset in self.released)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / max(time.monotonic() - self.start_s, 1e-9)

    @property
    def num_unverified(self) -> int:
        return sum(row.asset is not None and not row.verified for row in self.minted)

    @property
    def faults(self) -> list[str]:
        """Why the whole is no success, a line each; none where something was released, all of it verifies, and what
        was not released was refused by the gate."""
        failures = [row.error for row in self.minted if row.state == "failed" and row.error is not None]
        found = []
        if failures:
            found.append(f"requests that failed: {len(failures)}; the first: {failures[0]}")
        if self.num_unverified:
            found.append(f"receipts that do not verify: {self.num_unverified}")
        if not self.released:
            found.append("nothing was released")
        return found

    def summary(self) -> dict[str, Any]:
        """The counts as one JSON object."""
        released = self.released
        latencies = {
            tier.value: [row.latency_s for row in self.minted if row.tier == tier and row.asset is not None]
            for tier in Tier
        }
        return {
            "num_products": self.num_products,
            "num_released": len(released),
            "num_first_try": sum(asset.num_attempts == 1 for asset in released),
            "num_retried": sum(asset.num_attempts > 1 for asset in released),
            "num_constrained": sum(asset.constrained for asset in released),
            "num_refused": sum(row.state == "refused" for row in self.minted),
            "num_failed": sum(row.state == "failed" for row in self.minted),
            "num_receipts_verified": sum(row.verified for row in self.minted),
            "num_tokens": self.num_tokens,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "latency_s_median": {
                tier: round(statistics.median(values), 2) for tier, values in latencies.items() if values
            },
        }

    def render(self, bar: Progress) -> Group:
        """The live view: the bar, the tiers, the last few copies."""
        tiers = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("tier", "released", "first try", "retried", "constrained", "refused", "failed", "median s"):
            tiers.add_column(name, justify="left" if name == "tier" else "right")
        for tier in Tier:
            rows = [row for row in self.minted if row.tier == tier]
            assets = [row.asset for row in rows if row.asset is not None]
            latencies = [row.latency_s for row in rows if row.asset is not None]
            cells = (
                len(assets),
                sum(asset.num_attempts == 1 for asset in assets),
                sum(asset.num_attempts > 1 for asset in assets),
                sum(asset.constrained for asset in assets),
                sum(row.state == "refused" for row in rows),
                sum(row.state == "failed" for row in rows),
            )
            median = f"{statistics.median(latencies):.1f}" if latencies else "-"
            tiers.add_row(tier.value, *map(str, cells), median)
        last = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for row in self.minted[-4:]:
            said = row.asset.content if row.asset else f"{row.error.code}: {row.error.what}" if row.error else ""
            colour = "green" if row.asset else "red"
            last.add_row(row.sku.replace("[", r"\["), f"[{colour}]{row.state}[/]", said.replace("[", r"\["))
        return Group(bar, tiers, last)


def progress_bar(num_products: int) -> tuple[Progress, Any]:
    """A bar for that many products."""
    bar = Progress(
        TextColumn("minting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
    )
    return bar, bar.add_task("minting", total=num_products, speed="")


async def mint_products(
    url: str,
    products: Sequence[Product],
    tiers: Iterable[Tier],
    *,
    policy: str = "default",
    key_prefix: str | None = None,
    num_in_flight: int = IN_FLIGHT_DEFAULT,
    deadline_s: float | None = None,
) -> AsyncIterator[Minted]:
    """Mint one text per product, `num_in_flight` at once, yielding each as it is done, its receipt verified.

    Args:
        tiers: one for each product, in order.
        key_prefix: with one, a repeat gives the same assets instead of new ones.
        deadline_s: from now; the tier's own by default.
    Raises:
        Unavailable: nobody answers at the address.
    """
    backend = HttpBackend(url)
    try:
        keys = await backend.verifier_keys()
        places = asyncio.Semaphore(num_in_flight)

        async def one(product: Product, tier: Tier) -> Minted:
            body = RequestBody(
                brief=Brief(facts=brief_facts(product), policy=policy),
                tier=tier,
                deadline_ms=unix_ms() + int(deadline_s * 1000) if deadline_s is not None else None,
                idempotency_key=f"{key_prefix}/{product.sku}" if key_prefix else None,
            )
            async with places:
                return await mint_one(backend, keys, product.sku, body)

        tasks = [asyncio.ensure_future(one(*pair)) for pair in zip(products, tiers, strict=True)]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for pending in tasks:
                pending.cancel()
    finally:
        await backend.close()


async def mint_one(backend: HttpBackend, keys: Sequence[str], sku: str, body: RequestBody) -> Minted:
    """One product: its asset with a verified receipt, or the error."""
    start_s = time.monotonic()
    try:
        status = await backend.submit(body, WAIT_S)
        while status.state == "pending":
            status = await backend.status(status.asset_id, WAIT_S)
    except MintageError as error:
        reasons = tuple(reason for reason in getattr(error, "reasons", ()) if isinstance(reason, Reason))
        return Minted(sku, body.tier, time.monotonic() - start_s, error=error.body, reasons=reasons)
    assert status.asset is not None, "a released status carries its asset"
    return minted(sku, body.tier, time.monotonic() - start_s, status, keys)


def minted(sku: str, tier: Tier, latency_s: float, status: Status, keys: Sequence[str]) -> Minted:
    """A released asset, its receipt checked offline with the log's public keys."""
    asset = status.asset
    assert asset is not None
    try:
        verified = verify(asset.receipt, keys, asset.content.encode()).entry.id.hex() == asset.asset_id
    except ReceiptInvalid:
        verified = False
    return Minted(sku, tier, latency_s, asset=asset, reasons=status.reasons, verified=verified)


def write_asset(folder: Path, row: Minted) -> None:
    """A released asset's files, SKU.txt and SKU.receipt; else SKU.refused.json or SKU.failed.json.

    Raises:
        Unavailable: see `write_file`.
    """
    name = file_name(row.sku)
    if row.asset is not None:
        write_file(folder / f"{name}.txt", row.asset.content.encode())
        write_file(folder / f"{name}.receipt", row.asset.receipt.encode())
    else:
        write_file(folder / f"{name}.{row.state}.json", msgspec.json.format(msgspec.json.encode(row)))


def file_name(sku: str) -> str:
    """A name for a product's files, for each SKU its own: the SKU, or, where that is no file name, what can be kept of
    it and a hash. No SKU that is kept whole has the tilde."""
    name = "".join(char if char.isalnum() or char in "._-" else "_" for char in sku)
    name = name.encode()[:NAME_BYTES_MAX].decode(errors="ignore")
    return name if name == sku else f"{name}~{hashlib.sha256(sku.encode()).hexdigest()[:8]}"


def write_file(path: Path, data: bytes) -> None:
    """Write a file of the user's.

    Raises:
        Unavailable: it cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable(
            f"cannot write: {error.strerror}",
            where=str(path),
            fix="Make room, or choose another folder; what was released is in the ledger, and the same --key gives it "
            "again.",
        ) from error
