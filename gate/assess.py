"""The gate: every check on every draft, and one verdict. What cannot be judged is rejected, never waved through."""

from collections.abc import Iterator, Mapping
from itertools import islice

from gate.checks import CHECKS, Check
from gate.errors import PolicyError
from gate.policy import Policy
from gate.reading import Draft, read
from gate.verdict import Case, Finding, Verdict

TEXT_CHARS_MAX = 8 * 1024
FACTS_CHARS_MAX = 16 * 1024
FINDINGS_PER_CHECK_MAX = 10
DETAIL_CHARS_MAX = 200


def assess(policy: Policy, case: Case) -> Verdict:
    """Judge one draft. Pure: the same policy and case always give the same verdict.

    Cost: a few hundred microseconds for a short copy; a text or facts above the limits are rejected unread.
    """
    return _verdict(policy, policy.hash, case)


class Gate:
    """Judges drafts by the policies it was built with.

    Concurrency: stateless after construction; may be shared by threads.
    """

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self._policies = {name: (policy, policy.hash) for name, policy in policies.items()}

    def assess_batch(self, cases: list[Case]) -> list[Verdict]:
        """The verdicts, in the order of the cases.

        Raises:
            PolicyError: a case names a policy that is not loaded; nothing of the batch was judged.
        """
        chosen = [self._policy(case.policy) for case in cases]
        return [_verdict(policy, digest, case) for (policy, digest), case in zip(chosen, cases, strict=True)]

    def _policy(self, name: str) -> tuple[Policy, str]:
        if name not in self._policies:
            raise PolicyError(
                "unknown_policy",
                f"there is no policy {name!r}",
                where="brief.policy",
                fix=f"Use one of: {', '.join(sorted(self._policies))}.",
            )
        return self._policies[name]


def _verdict(policy: Policy, digest: str, case: Case) -> Verdict:
    """Run the checks that apply and count those that found nothing."""
    outcomes = list(_outcomes(policy, case))
    findings = tuple(finding for found in outcomes for finding in found)
    passed = sum(not found for found in outcomes)
    score = passed / len(outcomes)
    return Verdict(not findings, findings, score, policy.name, digest)


def _outcomes(policy: Policy, case: Case) -> Iterator[list[Finding]]:
    """The findings of each check that ran; at least one outcome."""
    num_facts_chars = sum(len(key) + len(value) for key, value in case.facts.items())
    if len(case.text) > TEXT_CHARS_MAX:
        yield [Finding("length", f"{len(case.text)} characters; the gate reads at most {TEXT_CHARS_MAX}")]
        return
    if num_facts_chars > FACTS_CHARS_MAX:
        yield [Finding("length", f"facts of {num_facts_chars} characters; the gate reads at most {FACTS_CHARS_MAX}")]
        return
    try:
        draft = read(case)
    except Exception as error:
        yield [_broken("reading", error)]
        return
    for name, check in CHECKS:
        yield _run(name, check, policy, draft)


def _run(name: str, check: Check, policy: Policy, draft: Draft) -> list[Finding]:
    """The findings of one check. A check that breaks rejects its case: the gate must not open by failing."""
    try:
        return [
            Finding(name, detail[:DETAIL_CHARS_MAX]) for detail in islice(check(policy, draft), FINDINGS_PER_CHECK_MAX)
        ]
    except Exception as error:
        return [_broken(name, error)]


def _broken(name: str, error: Exception) -> Finding:
    """The finding for a defect of the gate itself."""
    return Finding("error", f"the check {name!r} failed with {type(error).__name__}: {error}"[:DETAIL_CHARS_MAX])
