"""No two engines of a machine may have one port, not even those that start at the same moment."""

import errno
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from actors import ports

CLAIM = "import sys; from actors.ports import claim_port; claim_port(int(sys.argv[1])); print('taken')"


@pytest.fixture(autouse=True)
def no_claims_left() -> Iterator[None]:
    yield
    while ports.claims:
        ports.claims.popitem()[1].close()


def claim_elsewhere(port: int) -> "subprocess.CompletedProcess[str]":
    """Another process claims the port, and ends."""
    return subprocess.run([sys.executable, "-c", CLAIM, str(port)], capture_output=True, text=True, check=False)


def test_a_claimed_port_cannot_be_claimed_by_another_process_before_anything_listens() -> None:
    port = ports.claim_free_port()
    refused = claim_elsewhere(port)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "another engine has taken it" in refused.stderr


def test_a_claim_ends_with_its_process() -> None:
    port = ports.free_port()
    assert [claim_elsewhere(port).stdout for _ in range(2)] == ["taken\n"] * 2
    ports.claim_port(port)


def test_a_process_may_claim_its_own_port_again() -> None:
    port = ports.claim_free_port()
    ports.claim_port(port)
    assert list(ports.claims) == [port]


def test_a_port_where_something_listens_cannot_be_claimed_and_leaves_no_claim() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(OSError) as caught:
            ports.claim_port(port)
    assert caught.value.errno == errno.EADDRINUSE
    assert not ports.claims
    ports.claim_port(port)


def test_a_claimed_port_can_be_listened_on() -> None:
    port = ports.claim_free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()


def test_free_ports_are_below_the_ephemeral_ones_and_not_given_twice_while_claimed() -> None:
    mine = {ports.claim_free_port() for _ in range(50)}
    assert len(mine) == 50
    assert mine < set(range(20_000, 30_000))
    assert ports.free_port() not in mine


def test_when_no_port_is_free_it_says_which_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.claim_free_port()
    monkeypatch.setattr(ports, "FREE_PORTS", range(port, port + 1))
    monkeypatch.setattr(ports, "TRIES_MAX", 1)
    with pytest.raises(OSError, match=f"ports from {port} to {port} none is free"):
        ports.claim_free_port()
