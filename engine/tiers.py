"""The value tiers: OpenAI's `service_tier` names, and what each promises."""

from enum import StrEnum
from typing import NamedTuple


class Tier(StrEnum):
    """How urgent a request is. The names are those of OpenAI's `service_tier` and Batch API."""

    PRIORITY = "priority"
    STANDARD = "standard"
    FLEX = "flex"
    BATCH = "batch"


class TierTerms(NamedTuple):
    """What a tier means: the number vLLM schedules by (lower first), and defaults for what a request leaves out."""

    priority: int
    deadline_ms: int
    value_micros: int


TERMS: dict[Tier, TierTerms] = {
    Tier.PRIORITY: TierTerms(priority=0, deadline_ms=120_000, value_micros=50_000),
    Tier.STANDARD: TierTerms(priority=1, deadline_ms=300_000, value_micros=10_000),
    Tier.FLEX: TierTerms(priority=2, deadline_ms=900_000, value_micros=4_000),
    Tier.BATCH: TierTerms(priority=3, deadline_ms=86_400_000, value_micros=1_000),
}
