"""The Makefile: the Python it installs for, and what `clean` leaves alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A Python that says it is of another version, and makes no virtual environment.
PYTHON = """#!{python}
import sys
if sys.argv[1] == "-c":
    sys.version_info = {version}
    exec(sys.argv[2])
else:
    sys.exit("asked for " + " ".join(sys.argv[1:]))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what `make` looks at."""
    for name in ("Makefile", "requirements.lock", "requirements-torch.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(project: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *args], cwd=project, capture_output=True, text=True, timeout=60)


def write_python(path: Path, version: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON.format(python=sys.executable, version=version))
    path.chmod(0o755)


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 12, 1), (3, 13, 0)])
@pytest.mark.parametrize("place", ["python", ".venv/bin/python"])
def test_another_python_than_the_locks_is_refused_with_what_to_do(
    project: Path, version: tuple[int, int, int], place: str
) -> None:
    write_python(project / place, version)
    made = make(project, "setup", f"PYTHON={project / 'python'}")
    assert made.returncode != 0
    assert "resolved for Python 3.11" in made.stdout
    assert "make PYTHON=python3.11" in made.stdout
    assert "asked for" not in made.stderr


def test_the_python_of_the_lock_is_asked_for_an_environment(project: Path) -> None:
    write_python(project / "python", (3, 11, 9))
    made = make(project, "setup", f"PYTHON={project / 'python'}")
    assert "resolved for" not in made.stdout
    assert "asked for -m venv .venv" in made.stderr


def test_clean_keeps_what_users_minted(project: Path) -> None:
    for name in ("out", "build"):
        (project / name).mkdir()
        (project / name / "A-1.receipt").touch()
    assert make(project, "clean").returncode == 0
    assert (project / "out" / "A-1.receipt").exists()
    assert not (project / "build").exists()
