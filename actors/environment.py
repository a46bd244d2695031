"""Ray's and Serve's environment. They read it when they are imported and hand it to every process they start, so this
module is imported before ray, and sets it on import. What the user has set stays.
"""

import os
import socket
import tempfile
from pathlib import Path


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_environment() -> dict[str, str]:
    """HAProxy ingress and throughput mode, and HAProxy's own files and ports apart from those of other engines here."""
    folder = Path(tempfile.gettempdir(), f"mintage-haproxy-{os.getpid()}")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Serve's control loop wakes ten times a second, which costs a small machine several percent of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # An ingress replica would linger for 30 s after it was told to go.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


for name, value in serve_environment().items():
    os.environ.setdefault(name, value)
