"""Compiled code on disk is used only while nothing has changed that it was made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import compiled

REPOSITORY = Path(__file__).parents[2]
PRINT = "from engine.middle import answer; print(answer())"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree like ours: a compiled function, a constant two imports away."""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "engine").mkdir()
    (tmp_path / "ledger/__init__.py").touch()
    (tmp_path / "engine/__init__.py").touch()
    (tmp_path / "ledger/compiled.py").write_bytes((REPOSITORY / "ledger/compiled.py").read_bytes())
    (tmp_path / "engine/numbers.py").write_text("ANSWER = 41\n")
    (tmp_path / "engine/names.py").write_text("from engine.numbers import ANSWER\n")
    (tmp_path / "engine/middle.py").write_text(
        "from engine.names import ANSWER\nfrom ledger.compiled import njit\n\n"
        "@njit()\ndef answer():\n    return ANSWER\n"
    )
    return tmp_path


def run(tree: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    command = [sys.executable, "-c", PRINT]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def written(tree: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (tree / "engine/__pycache__").glob("middle.*.nb*")}


def test_a_changed_constant_of_a_module_that_is_imported_indirectly_is_compiled_anew(tree: Path) -> None:
    assert run(tree) == "41"
    (tree / "engine/numbers.py").write_text("ANSWER = 42\n")
    assert run(tree) == "42"


def test_what_has_not_changed_is_not_compiled_again(tree: Path) -> None:
    run(tree)
    before = written(tree)
    assert len(before) == 2
    assert run(tree) == "41"
    assert written(tree) == before


def test_a_stamp_covers_the_modules_that_a_module_imports_and_no_others() -> None:
    found = {path.relative_to(REPOSITORY).as_posix() for path in compiled.reachable(REPOSITORY / "ledger/positions.py")}
    assert {"ledger/positions.py", "ledger/compiled.py"} <= found
    assert not any(name.startswith(("actors", "gate", ".venv")) for name in found)
