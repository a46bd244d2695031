"""Imports run one way: ledger, gate <- engine <- actors <- loadtests; and the heavy packages each have their place."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("ledger", "gate", "engine", "actors", "loadtests", "bench", "configs")
FOLDERS = (*OURS, "tests")

# Who may not import what. A folder's own name is never listed.
FORBIDDEN = {
    "ledger": {"gate", "engine", "actors", "loadtests", "bench", "ray", "torch", "vllm", "transformers", "diffusers"},
    "gate": {"ledger", "engine", "actors", "loadtests", "bench", "ray", "torch", "vllm", "transformers", "diffusers"},
    "engine": {"actors", "loadtests", "bench", "ray"},
    "actors": {"loadtests", "bench"},
    "loadtests": {"bench"},
}
# Who alone may import what: files, or folders with all that is in them.
HOMES = {
    "lmdb": ("ledger/store.py", "bench/ledger_peers_stores.py", "tests/stored_bytes.py", "tests/unit", "tests/fault"),
    "vllm": ("engine/generators/text.py", "bench", "tests/integration"),
    "ray": ("actors", "loadtests", "bench", "tests/integration", "tests/fault"),
}


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """The top-level packages a file imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield (node.module or "").partition(".")[0], node.lineno


def test_there_is_something_to_check() -> None:
    for folder in ("ledger", "gate", "engine", "actors", "tests"):
        assert any((ROOT / folder).rglob("*.py")), folder
    assert "lmdb" in dict(imported(ROOT / "ledger/store.py"))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way_only(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources()
        if path.is_relative_to(ROOT / folder)
        for name, line in imported(path)
        if name in FORBIDDEN[folder]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", HOMES)
def test_a_heavy_package_is_imported_only_where_it_lives(package: str) -> None:
    homes = [ROOT / home for home in HOMES[package]]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        if not any(path.is_relative_to(home) for home in homes)
        for name, line in imported(path)
        if name == package
    ]
    assert wrong == []


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_client_and_the_embedded_engine_load_neither_ray_nor_torch_nor_vllm() -> None:
    modules = loaded_by("from engine import Client, Engine, connect; import gate.assess, ledger.fsck, actors.api")
    assert {"engine", "gate", "ledger"} <= modules
    assert modules.isdisjoint({"ray", "torch", "vllm", "transformers"})


def test_gate_and_ledger_load_nothing_of_the_engine() -> None:
    modules = loaded_by("import gate.assess, gate.policy, ledger.shard, ledger.fsck, ledger.receipt")
    assert modules.isdisjoint({"engine", "actors", "ray", "torch", "vllm"})
