"""The engine: from a request to a released asset. Knows nothing of Ray.

    from engine import Engine, connect

The names are loaded when first used: most of our processes need a few modules of the engine, not all of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.client import Client, connect
    from engine.embedded import Engine

__all__ = ["Client", "Engine", "connect"]

HOMES = {"Client": "engine.client", "Engine": "engine.embedded", "connect": "engine.client"}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
