"""Ray's environment: its token guards every engine, and a user who turned that off is told, not obeyed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.hop import BATCH_BYTES_MAX

ROOT = Path(__file__).parents[2]
BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
PROGRAM = "import actors.environment, os; print(os.environ['{name}'])"


def imported(name: str, program: str = PROGRAM, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What a fresh interpreter that imports the module says of a variable."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-c", program.format(name=name)]
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True)


@pytest.mark.parametrize("environment", [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "TOKEN"}])
def test_rays_token_is_asked_for(environment: dict[str, str]) -> None:
    assert imported("RAY_AUTH_MODE", **environment).stdout.strip().lower() == "token"


def test_an_engine_that_nobody_would_guard_does_not_start() -> None:
    done = imported("RAY_AUTH_MODE", RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    assert "StartFailed: start_failed at RAY_AUTH_MODE in the environment: 'disabled' lets anybody" in done.stderr


def test_a_message_between_actors_may_be_larger_than_any_batch() -> None:
    bytes_max = int(imported("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH").stdout)
    assert bytes_max >= 4 * BATCH_BYTES_MAX


RUN = "import actors.environment, os, subprocess; subprocess.run([os.environ['{name}'], '-v'], check=True)"


@pytest.mark.parametrize("environment", [{}, {BINARY_VARIABLE: ""}], ids=["unset", "empty"])
def test_the_haproxy_that_comes_with_serve_runs_unless_another_is_named(environment: dict[str, str]) -> None:
    assert "HAProxy version" in imported(BINARY_VARIABLE, RUN, **environment).stdout


def test_a_haproxy_that_the_user_names_is_run_without_splicing(tmp_path: Path) -> None:
    haproxy = tmp_path / "own haproxy"
    haproxy.write_text('#!/bin/sh\necho "own" "$@"\n')
    haproxy.chmod(0o700)
    assert imported(BINARY_VARIABLE, RUN, **{BINARY_VARIABLE: str(haproxy)}).stdout == "own -dS -v\n"


def test_a_haproxy_that_is_not_there_is_a_named_error() -> None:
    done = imported(BINARY_VARIABLE, **{BINARY_VARIABLE: "/nowhere/haproxy"})
    assert done.returncode != 0
    assert f"StartFailed: start_failed at {BINARY_VARIABLE}: " in done.stderr


def test_the_ledgers_compiler_does_not_keep_vllm_from_starting() -> None:
    """vLLM reads `vars()` of every attribute of every module: whatever has a `__dict__` must have a real one."""
    script = """
import sys
import ledger.sha256
from engine.generators.runtime import hide_llvm_names
hide_llvm_names()
hide_llvm_names()
wrong = [
    f"{name}.{key}"
    for name, module in list(sys.modules.items())
    for key, value in list(getattr(module, "__dict__", {}).items())
    if hasattr(value, "__dict__") and not hasattr(vars(value), "get")
]
assert not wrong, wrong
import numpy
assert ledger.sha256.leaf_hashes(numpy.zeros((2, 240), numpy.uint8)).shape == (2, 32)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
