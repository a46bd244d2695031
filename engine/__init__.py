"""The engine: from a request to a released asset. Knows nothing of Ray.

from engine import Engine, connect
"""

from engine.client import Client, connect
from engine.embedded import Engine

__all__ = ["Client", "Engine", "connect"]
