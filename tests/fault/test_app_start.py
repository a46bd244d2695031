"""`mintage run` where it cannot: one named error and exit code 1, before Ray or anything else was started."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.log import open_keys

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RUN_S_MAX = 600.0  # the first run may convert the model


def error_of_run(tmp_path: Path, *args: str, **environment: str) -> dict[str, str]:
    """The error that `mintage run` ends with; Ray must have left nothing in its folder, not even a session."""
    ray = tmp_path / "ray"
    ray.mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "actors.cli", "run", *args, "--json"],
        cwd=ROOT,
        env=os.environ | {"RAY_TMPDIR": str(ray)} | environment,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
    )
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(ray.iterdir()) == []
    error: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])["error"]
    assert set(error) == {"code", "what", "where", "fix"}
    return error


def configured(tmp_path: Path, text: str) -> str:
    """A configuration file's path."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A regular file, below which nobody can make a folder, not even root."""
    path = tmp_path / "file"
    path.write_text("")
    return path


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path, file: Path) -> None:
    error = error_of_run(tmp_path, "--data", str(file / "data"))
    assert (error["code"], error["where"]) == ("start_failed", str(file / "data"))
    assert "cannot write" in error["what"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_directory_without_the_right_to_write_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o555)
    error = error_of_run(tmp_path, "--data", str(data))
    assert (error["code"], error["where"]) == ("start_failed", str(data))
    assert "Permission denied" in error["what"]


def test_a_cache_directory_that_cannot_be_made_is_named(tmp_path: Path, file: Path) -> None:
    error = error_of_run(tmp_path, "--data", str(tmp_path / "data"), MINTAGE_CACHE=str(file / "cache"))
    assert (error["code"], error["where"]) == ("start_failed", str(file / "cache"))
    assert "MINTAGE_CACHE" in error["fix"]


def test_a_model_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-model"
    config = configured(tmp_path, f"text: {{model: {missing}}}")
    error = error_of_run(tmp_path, "--config", config, "--data", str(tmp_path / "data"))
    assert error["code"] == "start_failed"
    assert str(missing) in error["where"]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = error_of_run(tmp_path, "--port", str(port), "--data", str(tmp_path / "data"))
    assert (error["code"], error["where"]) == ("start_failed", "http.port")
    assert f"port {port}" in error["what"]


def test_a_wrong_configuration_is_named_with_its_key(tmp_path: Path) -> None:
    error = error_of_run(tmp_path, "--config", configured(tmp_path, "ledger: {num_shards: 0}"))
    assert error["code"] == "invalid_request"
    assert "ledger.num_shards" in error["where"]


def test_a_ledger_of_another_number_of_shards_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    open_keys(data / "ledger", "mintage.local", 3)
    assert error_of_run(tmp_path, "--data", str(data))["code"] == "log_mismatch"
