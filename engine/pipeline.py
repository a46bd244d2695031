"""The way of one request: generate, judge, record. The stages are ports, so the same lines run in one process, across
Serve handles, and in a simulation on a virtual clock.

A rejected draft is written anew as its policy says: first freely with a new seed, then within a grammar built from the
brief, and after the last try the request is refused with every reason. Where time is short the grammar comes first: a
draft within it is nearly always accepted.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import msgspec

from engine.errors import DeadlineExceeded, InvalidRequest, Refused, Unavailable, rebuild
from engine.generators.contract import Attempt, Draft
from engine.grammar import GrammarImpossible, copy_grammar
from engine.prompt import instructions, messages
from engine.records import Commit, Outcome, source_of
from engine.request import Asset, AssetRequest, Brief, Reason
from engine.tiers import TERMS, Tier
from gate.policy import Policy
from gate.verdict import Case, Verdict

TIMES_LEFT_MIN = 3.0  # of the slowest try so far: for a free retry, and for the constrained one, which is longer
NOT_DRAFTED = ("grammar", "generator")  # the checks of reasons for which there is no draft

Generate = Callable[[Attempt, int], Awaitable[Draft]]
"""(attempt, deadline_ms) -> its draft: `Pool.generate`."""


class Stages(Protocol):
    """What comes after generation. Each call may travel in one batch with those of other requests."""

    async def assess(self, case: Case) -> Verdict: ...

    async def record(self, commit: Commit) -> Outcome: ...

    async def find(self, asset_id: str) -> Outcome: ...

    async def checkpoints(self) -> list[str]: ...


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How drafts are sampled, freely and within a grammar. A free draft that runs past `tokens_max` is of no use; a
    constrained one must be let finish."""

    tokens_max: int = 80
    temperature: float = 0.3
    tokens_max_constrained: int = 256
    temperature_constrained: float = 0.8


class Try(NamedTuple):
    """One line of the retry plan."""

    number: int
    constrained: bool


def retry_plan(policy: Policy) -> Iterator[Try]:
    """The tries a policy allows: one, `retries.free` more with new seeds, `retries.constrained` within the grammar."""
    num_free = 1 + policy.retries.free
    for number in range(num_free + policy.retries.constrained):
        yield Try(number, number >= num_free)


def seed_of(asset_id: str, number: int) -> int:
    """The seed of a try: 31 bits from its asset and number, so that a request run again writes the same drafts."""
    return int.from_bytes(hashlib.sha256(f"{asset_id}/{number}".encode()).digest()[:4], "big") >> 1


class Pipeline:
    """Requests in, assets out.

    Args:
        generate: the pool.
        stages: gate and ledger.
        policies: by name.
        now_ms: Unix time in milliseconds.
    """

    def __init__(
        self,
        generate: Generate,
        stages: Stages,
        policies: Mapping[str, Policy],
        sampling: Sampling,
        now_ms: Callable[[], int],
    ) -> None:
        self.generate = generate
        self.stages = stages
        self.policies = policies
        self.sampling = sampling
        self.now_ms = now_ms

    async def mint(self, request: AssetRequest) -> Asset:
        """Bring a request to a released asset.

        Raises:
            Refused: the gate rejected every try; nothing was recorded.
            DeadlineExceeded: time ran out first.
            MintageError: a stage cannot serve it.
        """
        left_s = (request.deadline_ms - self.now_ms()) / 1000
        try:
            async with asyncio.timeout(left_s):
                commit = await self.accepted(request)
        except TimeoutError:
            raise DeadlineExceeded(
                "the deadline passed before an asset could be released",
                where="deadline_ms",
                fix="Allow more time, or send the request with a higher tier.",
            ) from None
        return await self.record(commit)

    async def accepted(self, request: AssetRequest) -> Commit:
        """The tries, one after the other, until the gate accepts a draft."""
        policy = self.policies[request.brief.policy]
        source = await self.source(request)
        reasons: list[Reason] = []
        left = list(retry_plan(policy))
        num_tries, num_tokens, slowest_ms = 0, 0, 0
        while left:
            begun_ms = self.now_ms()
            if request.deadline_ms - begun_ms < TIMES_LEFT_MIN * slowest_ms:
                left.sort(key=lambda plan: not plan.constrained)
            plan = left.pop(0)
            try:
                attempt = attempt_of(request.asset_id, request.brief, request.tier, policy, self.sampling, plan, source)
            except GrammarImpossible as error:
                reasons.append(Reason(plan.number, "grammar", error.body.what))
                left = free_ones(left)
                continue
            draft = await self.generate(attempt, request.deadline_ms)
            num_tries += 1
            num_tokens += draft.num_tokens
            if draft.error is not None:
                if draft.error.code != InvalidRequest.code or not reasons:
                    raise rebuild(draft.error)
                reasons.append(Reason(plan.number, "generator", draft.error.what))
                left = free_ones(left)  # earlier tries fitted and were judged; this one, which is longer, does not fit
                continue
            verdict = await self.stages.assess(case_of(request, policy, draft))
            if verdict.policy_hash != policy.hash:
                raise Unavailable(
                    f"the gate judges by another version of the policy {policy.name!r}",
                    where="gate",
                    fix="Start the engine anew after editing a policy.",
                )
            if verdict.accepted:
                return self.commit(request, policy, plan, draft, num_tries, num_tokens, reasons, source)
            slowest_ms = max(slowest_ms, self.now_ms() - begun_ms)
            reasons += [Reason(plan.number, finding.check, finding.detail) for finding in verdict.findings]
        raise refusal(reasons)

    def commit(
        self,
        request: AssetRequest,
        policy: Policy,
        plan: Try,
        draft: Draft,
        num_tries: int,
        num_tokens: int,
        reasons: list[Reason],
        source: Asset | None,
    ) -> Commit:
        """What is recorded of an accepted draft."""
        return Commit(
            asset_id=request.asset_id,
            content=draft.text,
            request_hash=request.body_hash,
            tenant=request.tenant,
            value_micros=request.value_micros,
            tier=request.tier,
            priority=TERMS[request.tier].priority,
            model=draft.model,
            policy_name=policy.name,
            policy=msgspec.json.encode(policy, order="sorted"),
            num_attempts=num_tries,
            num_tokens=num_tokens,
            constrained=plan.constrained,
            latency_ms=self.now_ms() - request.created_ms,
            reasons=tuple(reasons),
            source=source.receipt if source else "",
        )

    async def record(self, commit: Commit) -> Asset:
        """Write the asset down. Once begun, neither a deadline nor a waiter who leaves stops it: the ledger's answer is
        the request's answer."""
        task = asyncio.ensure_future(self.stages.record(commit))
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        outcome = task.result()
        if outcome.error is not None:
            raise rebuild(outcome.error)
        assert outcome.recorded is not None, "the ledger answers a commit with an asset or an error"
        return outcome.recorded.asset

    async def source(self, request: AssetRequest) -> Asset | None:
        """The asset that the brief derives from, if it names one."""
        source_id = request.brief.source
        if source_id is None:
            return None
        return source_of(await self.stages.find(source_id), source_id).asset


def attempt_of(
    asset_id: str,
    brief: Brief,
    tier: Tier,
    policy: Policy,
    sampling: Sampling,
    plan: Try,
    source: Asset | None = None,
) -> Attempt:
    """What the generator is asked in a try; the same for the same arguments, in any process.

    Raises:
        GrammarImpossible: a constrained try at a brief that no text of the policy can state.
    """
    told = messages(brief.facts, tone=policy.tone, style=brief.style, source=source.content if source else "")
    return Attempt(
        attempt_id=f"{asset_id}/{plan.number}",
        messages=told,
        seed=seed_of(asset_id, plan.number),
        tokens_max=sampling.tokens_max_constrained if plan.constrained else sampling.tokens_max,
        temperature=sampling.temperature_constrained if plan.constrained else sampling.temperature,
        priority=TERMS[tier].priority,
        grammar=copy_grammar(brief.facts, policy) if plan.constrained else None,
    )


def free_ones(plans: list[Try]) -> list[Try]:
    """What is left where no constrained try can be made."""
    return [plan for plan in plans if not plan.constrained]


def case_of(request: AssetRequest, policy: Policy, draft: Draft) -> Case:
    """A draft as the gate sees it, with all that the writer was told besides the facts."""
    return Case(
        facts=request.brief.facts,
        prompt=instructions(request.brief.facts, tone=policy.tone, style=request.brief.style),
        text=draft.text,
        finish_reason=draft.finish_reason,
        policy=request.brief.policy,
    )


def refusal(reasons: list[Reason]) -> Refused:
    """The error of a request whose every draft was rejected."""
    num_tries = len({reason.attempt for reason in reasons if reason.check not in NOT_DRAFTED})
    last = [f"{reason.check}: {reason.detail}" for reason in reasons if reason.attempt == reasons[-1].attempt]
    error = Refused(
        f"the gate rejected all {num_tries} drafts; the last for {'; '.join(last)}",
        where="gate",
        fix="Check the facts against the policy, or allow more retries in it.",
    )
    error.reasons = tuple(reasons)
    return error
