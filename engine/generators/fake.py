"""A generator without a model, for unit tests and simulations only; no configuration can name it.

It passes the same contract tests as the real one (tests/unit/test_generator_contract.py). A draft takes as many steps
as the writer's copy has words, so that requests join and leave the running batch as they do in a real one.
"""

from collections.abc import Callable

from engine.errors import InvalidRequest
from engine.generators.contract import Attempt, Draft, ModelInfo

PROMPT_WORDS_MAX = 2_000


def echo(attempt: Attempt) -> str:
    """The last user message as the copy."""
    return attempt.messages[-1][1]


class FakeGenerator:
    """The contract with a `writer` in place of a model."""

    def __init__(self, *, capacity: int = 8, writer: Callable[[Attempt], str] = echo) -> None:
        self.info = ModelInfo(name="fake", digest="00" * 32, backend="fake")
        self.capacity = capacity
        self.writer = writer
        self.running: dict[str, tuple[Attempt, list[str], int]] = {}
        self.num_steps = 0

    def credits(self) -> int:
        return self.capacity - len(self.running)

    def add(self, attempt: Attempt) -> None:
        assert self.credits() > 0, "admitted beyond the credits"
        assert attempt.attempt_id not in self.running, "an attempt id is used once"
        num_prompt_words = sum(len(text.split()) for _, text in attempt.messages)
        if num_prompt_words > PROMPT_WORDS_MAX:
            raise InvalidRequest(
                f"the prompt has {num_prompt_words} words, at most {PROMPT_WORDS_MAX} fit",
                where="brief.facts",
                fix="Shorten the facts or the style.",
            )
        self.running[attempt.attempt_id] = (attempt, self.writer(attempt).split(), 0)

    def step(self) -> list[Draft]:
        self.num_steps += 1
        finished = []
        for attempt, words, done in list(self.running.values()):
            limit = min(len(words), attempt.tokens_max)
            if done + 1 < limit:
                self.running[attempt.attempt_id] = (attempt, words, done + 1)
                continue
            del self.running[attempt.attempt_id]
            text = " ".join(words[:limit])
            num_prompt_tokens = sum(len(content.split()) for _, content in attempt.messages)
            finished.append(
                Draft(
                    attempt.attempt_id,
                    text,
                    "length" if limit < len(words) else "stop",
                    num_prompt_tokens,
                    limit,
                    self.info,
                )
            )
        return finished

    def abort(self, attempt_id: str) -> None:
        self.running.pop(attempt_id, None)

    def close(self) -> None:
        self.running.clear()
