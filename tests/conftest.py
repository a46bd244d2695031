"""What holds for every test: pure tests cannot load Ray or vLLM, and hypothesis does not judge a slow machine."""

import sys
from pathlib import Path

import hypothesis
import pytest

# Folders whose tests run on the pure core alone.
PURE = frozenset({"unit", "property", "interleaving", "simulation"})

pytest.register_assert_rewrite("contract_generator", "crash_checks")

# The machine's speed is not under test; `print_blob` says how to replay a failure.
hypothesis.settings.register_profile("mintage", deadline=None, print_blob=True)
hypothesis.settings.load_profile("mintage")


@pytest.fixture(autouse=True)
def pure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pure test, `import ray` and `import vllm` raise ImportError."""
    folder = Path(request.path).relative_to(Path(__file__).parent).parts[0]
    if folder in PURE:
        for name in ("ray", "vllm"):
            monkeypatch.setitem(sys.modules, name, None)
