"""Gate and ledger in memory, with the promises of the real ones and doors that a test can hold shut; and a client."""

import asyncio
import hashlib

from briefs import policies

from engine.intake import Intake
from engine.records import Commit, Outcome, Recorded, conflict
from engine.request import Asset, AssetRequest, Status
from gate.verdict import Case, Finding, Verdict


async def send(intake: Intake, wanted: AssetRequest, wait_s: float) -> Status:
    """Hand in a request whose client chose the key, in the two steps of `Service.submit`."""
    known = await intake.repeat(wanted.asset_id, wanted.body_hash, wait_s)
    return known if known is not None else await intake.submit(wanted, wait_s)


class Door:
    """Where calls wait while a test holds it shut; open at first."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.event.set()
        self.num_waiting = 0

    def shut(self) -> None:
        self.event.clear()

    def open(self) -> None:
        self.event.set()

    async def __call__(self) -> None:
        self.num_waiting += 1
        try:
            await self.event.wait()
        finally:
            self.num_waiting -= 1


class MemoryStages:
    """Accepts the drafts whose text starts with "good"; commits an asset id once, for ever. As this ledger, like the
    real one, answers a repeat with what it has, `num_records` counts how often each id came."""

    def __init__(self) -> None:
        self.policy_hashes = {name: policy.hash for name, policy in policies().items()}
        self.recorded: dict[str, Recorded] = {}
        self.num_records: dict[str, int] = {}
        self.gate_door, self.record_door, self.find_door = Door(), Door(), Door()

    async def assess(self, case: Case) -> Verdict:
        await self.gate_door()
        accepted = case.text.startswith("good")
        findings = () if accepted else (Finding("form", "it does not start well"),)
        return Verdict(accepted, findings, float(accepted), case.policy, self.policy_hashes[case.policy])

    async def record(self, commit: Commit) -> Outcome:
        self.num_records[commit.asset_id] = self.num_records.get(commit.asset_id, 0) + 1
        await self.record_door()
        found = self.recorded.get(commit.asset_id)
        if found is None:
            found = self.recorded[commit.asset_id] = Recorded(self.asset(commit), commit.request_hash)
        if found.request_hash != commit.request_hash:
            return Outcome(error=conflict(commit.asset_id).body)
        return Outcome(recorded=found)

    async def find(self, asset_id: str) -> Outcome:
        await self.find_door()
        return Outcome(recorded=self.recorded.get(asset_id))

    async def checkpoints(self) -> list[str]:
        return [f"{len(self.recorded)} entries"]

    def asset(self, commit: Commit) -> Asset:
        """The asset of a commit, at the next place."""
        return Asset(
            asset_id=commit.asset_id,
            content=commit.content,
            content_hash=hashlib.sha256(commit.content.encode()).hexdigest(),
            shard=0,
            index=len(self.recorded),
            receipt="",
            tier=commit.tier,
            policy=commit.policy_name,
            model=commit.model.name,
            num_attempts=commit.num_attempts,
            num_tokens=commit.num_tokens,
            constrained=commit.constrained,
            latency_ms=commit.latency_ms,
            reasons=commit.reasons,
        )
