"""The router's benchmark measures what it says, and says what it could not measure."""

import json

import pytest

from bench import router as bench
from bench.router_peers import PEERS, PeerMissing, imported

KEYS = {
    "ring_msgs_per_s",
    "ring_ratio_best_peer",
    "router_ops_per_s",
    "router_ops_per_s_by_queued",
    "router_flatness",
    "python_submit_us",
    "python_claim_us",
    "python_finish_us",
    "round_trip_us_p50",
    "round_trip_us_p99",
    "idle_cpu_share",
}


def test_a_small_run_gives_every_figure_and_names_the_peers_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> float:
        raise PeerMissing("not here (make it)")

    peers = {"multiprocessing.Queue": (PEERS["multiprocessing.Queue"][0], 200_000), "absent": (missing, 1)}
    monkeypatch.setattr(bench, "PEERS", peers)
    monkeypatch.setattr(bench, "QUEUED", (10, 1_000))
    monkeypatch.setattr(bench, "IDLE_S", 0.2)
    figures = bench.run(0.01)
    assert set(figures) >= KEYS
    assert all(figures[key] > 0 for key in KEYS - {"router_ops_per_s_by_queued"})
    assert (
        figures["ring_ratio_best_peer"]
        == figures["ring_msgs_per_s"] / figures["peers_msgs_per_s"]["multiprocessing.Queue"]
    )
    assert figures["router_ops_per_s"] == figures["router_ops_per_s_by_queued"]["1000"]
    assert figures["peers_missing"] == {"absent": "not here (make it)"}
    assert figures["round_trip_us_p50"] <= figures["round_trip_us_p99"]
    bench.print_table(figures)
    json.dumps(figures)


def test_a_peer_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(PeerMissing, match="make bench-peers"):
        imported("no_such_peer_is_installed")


def test_the_peers_that_come_with_python_move_every_message() -> None:
    for name in ("multiprocessing.Queue", "queue.PriorityQueue"):
        assert PEERS[name][0](2_000) > 0
