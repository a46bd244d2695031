"""TCP ports of this machine, each taken by one engine at most.

Between choosing a port and listening there, seconds pass, and HAProxy then binds with SO_REUSEPORT, which two engines
can do at once: each would answer half of the other's requests. So an engine claims its ports first, by an abstract Unix
socket named after the port, which the kernel gives to one process and takes back when that process is gone.
"""

import errno
import random
import socket

# Below the ephemeral ports (from 32768), where any program may get one at any time, and Serve's own (from 30000).
FREE_PORTS = range(20_000, 30_000)
TRIES_MAX = 1000

claims: dict[int, socket.socket] = {}  # held until they are released or this process ends


def claim_port(port: int, host: str = "127.0.0.1") -> None:
    """Take a port for this process; taking it once more is allowed.

    Raises:
        OSError: another engine has it, or something listens there; neither has changed.
    """
    claim = claims.get(port) or claimed(port)
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        if port not in claims:
            claim.close()
        raise
    claims[port] = claim


def claimed(port: int) -> socket.socket:
    """The socket that says that the port is ours."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0mintage-port-{port}")
    except OSError as error:
        claim.close()
        raise OSError(error.errno, "another engine has taken it") from error
    return claim


def claim_free_port() -> int:
    """Take a port that was free."""
    for port in random.sample(FREE_PORTS, TRIES_MAX):
        if port not in claims:
            try:
                claim_port(port)
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"of {TRIES_MAX} ports from {FREE_PORTS[0]} to {FREE_PORTS[-1]} none is free")


def free_port() -> int:
    """A port that is free now, for another process to claim."""
    port = claim_free_port()
    claims.pop(port).close()
    return port
