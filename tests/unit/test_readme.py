"""What the README promises is there, and what is there is in the README."""

import ast
import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from briefs import TRUE_COPY, open_service

from actors.api import build_api
from engine.generators.fake import FakeGenerator
from engine.settling import Settlement

ROOT = Path(__file__).parents[2]
URL_DEFAULT = "http://127.0.0.1:8000"


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text_of("Makefile"), re.MULTILINE))


def subcommands() -> set[str]:
    """What actors/cli.py registers as commands, its own functions and others'; read, not imported, because tests here
    load no CLI."""
    found = set()
    for node in ast.walk(ast.parse(text_of("actors/cli.py"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= {command_name(call, node.name) for call in node.decorator_list if is_registration(call)}
        elif isinstance(node, ast.Call) and is_registration(node.func):
            found.add(command_name(node.func, ast.unparse(node.args[0]).rpartition(".")[2]))
    return found


def is_registration(node: ast.expr) -> bool:
    """Whether this is `app.command(...)`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "command"


def command_name(call: ast.expr, function: str) -> str:
    """The name that is given, or that of the function."""
    assert isinstance(call, ast.Call)
    named = [each.value for each in call.args if isinstance(each, ast.Constant)]
    return str(named[0]) if named else function.replace("_", "-")


@pytest.mark.parametrize("target", ["run", "test"])
def test_the_readme_names_the_two_commands_and_the_makefile_has_them(target: str) -> None:
    assert f"make {target}" in text_of("README.md")
    assert target in make_targets()


def test_every_make_target_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)\b", " ".join(code(text_of("README.md")))))
    assert named <= make_targets()


def code(markdown: str) -> list[str]:
    """Fenced blocks and inline code."""
    return re.findall(r"```.*?```|`[^`\n]+`", markdown, re.DOTALL)


def test_the_ci_runs_the_same_tests_as_a_person() -> None:
    script = ROOT / ".ci/run"
    assert "make test" in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o100, "it can be executed"


@pytest.mark.parametrize("has_go", [True, False])
def test_the_ci_fails_where_the_tests_that_need_go_would_be_skipped(tmp_path: Path, has_go: bool) -> None:
    """In a copy of its own, whose `make test` leaves a mark, by a user who may not install anything."""
    ci, programs = tmp_path / ".ci/run", tmp_path / "bin"
    ci.parent.mkdir()
    programs.mkdir()
    shutil.copy(ROOT / ".ci/run", ci)
    stubs = {"make": f"touch {tmp_path}/tested", "id": "echo 1000"} | ({"go": "exit 0"} if has_go else {})
    for name, command in stubs.items():
        (programs / name).write_text(f"#!/bin/sh\n{command}\n")
        (programs / name).chmod(0o755)
    for name in ("dirname", "touch"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "go/src/golang.org/x/mod/sumdb/tlog").mkdir(parents=True)
    environment = {"PATH": str(programs), "GOPATH": str(tmp_path / "go")}
    ran = subprocess.run(["/bin/sh", str(ci)], env=environment, capture_output=True, text=True)
    assert (ran.returncode == 0) == (tmp_path / "tested").exists() == has_go
    assert has_go or "golang-go" in ran.stderr


def test_every_subcommand_is_in_the_readme() -> None:
    commands = subcommands()
    assert {"run", "verify", "fsck", "export", "super"} <= commands
    readme = text_of("README.md")
    assert [command for command in sorted(commands) if f"mintage {command}" not in readme] == []


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[str]:
    """The engine with all of its API, and a generator whose copy is true of the README's scarf; its URL."""
    async with open_service(path, FakeGenerator(writer=lambda _: TRUE_COPY)) as service:
        api = build_api(service, Settlement(service.stages, time.time_ns))  # type: ignore[arg-type]
        server = uvicorn.Server(uvicorn.Config(api, log_level="error"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serving


async def test_the_example_of_money_runs_twice_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```sh\n\.venv/bin/python - <<'END'\n(.*?\n)END\n```", text_of("README.md"), re.DOTALL)
    client, clients = httpx.Client, ExitStack()
    async with served(tmp_path) as url:

        def here(base_url: str, timeout: float) -> httpx.Client:
            assert base_url == URL_DEFAULT
            return clients.enter_context(client(base_url=url, timeout=timeout))

        monkeypatch.setattr(httpx, "Client", here)
        for royalties in (1_750_000, 3_500_000):
            await asyncio.to_thread(exec, compile(example, "README.md", "exec"), {})
            assert capsys.readouterr().out == f"ok\nsettled\n{royalties}\n"
        clients.close()


def test_the_example_of_the_ledger_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", text_of("README.md"), re.DOTALL) if "zeros(" in block
    ]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "['OK', 'OK', 'OK', 'EXCEEDS_CREDITS']\n500\n"
