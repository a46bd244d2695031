"""What every generator offers: four verbs, so that one loop drives text, pictures and students alike.

    credits()   how many more attempts fit now
    add()       admit one into the running batch
    step()      advance everything once; the drafts that finished
    abort()     free an attempt's place

The verbs are synchronous and belong to one thread: a generator owns its hardware, and its caller owns the clock.
Turned down: `async generate(prompt)`, as most model servers offer. It hides the queue inside the backend, and then a
later, more valuable request cannot overtake.
"""

from typing import Literal, Protocol

import msgspec

from engine.errors import ErrorBody


class ModelInfo(msgspec.Struct, frozen=True):
    """Which weights a generator serves: its name in the configuration and the digest that goes into the ledger."""

    name: str
    digest: str
    backend: str


class Attempt(msgspec.Struct, frozen=True):
    """One try at a brief: everything a text generator needs, and nothing about who asked.

    `messages` are (role, content) pairs; the generator applies its own chat template. `grammar`, where given, is a
    Lark grammar that decoding may not leave. `priority`: lower is served first.
    """

    attempt_id: str
    messages: tuple[tuple[str, str], ...]
    seed: int
    tokens_max: int
    temperature: float
    priority: int
    grammar: str | None = None


class Draft(msgspec.Struct, frozen=True):
    """What came of an attempt, not yet judged, and which model made it.

    `finish_reason`: `stop` the model ended; `length` tokens_max cut it; `error` the backend could not serve it, and
    `error` says why.
    """

    attempt_id: str
    text: str
    finish_reason: Literal["stop", "length", "error"]
    num_prompt_tokens: int
    num_tokens: int
    model: ModelInfo
    error: ErrorBody | None = None


class Generator(Protocol):
    """The contract. Implementations: `TextGenerator` (vLLM), `FakeGenerator` (unit tests only)."""

    info: ModelInfo
    capacity: int

    def credits(self) -> int:
        """How many more attempts fit now; never negative, never above `capacity`."""
        ...

    def add(self, attempt: Attempt) -> None:
        """Admit an attempt.

        Raises:
            InvalidRequest: it can never be served (prompt too long, grammar does not compile). Nothing was admitted.
        """
        ...

    def step(self) -> list[Draft]:
        """Advance everything once and return what finished; empty when idle. An attempt yields at most one draft."""
        ...

    def abort(self, attempt_id: str) -> None:
        """Free an attempt's place; it yields no draft any more. Unknown ids are ignored."""
        ...

    def close(self) -> None:
        """Give back the hardware. No verb may be called afterwards."""
        ...
