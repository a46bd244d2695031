"""What the README promises is there, and what is there is in the README."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


def test_every_subcommand_is_in_the_readme() -> None:
    commands = subcommands()
    assert {"run", "verify", "fsck", "export", "super"} <= commands
    readme = text_of("README.md")
    assert [command for command in sorted(commands) if f"mintage {command}" not in readme] == []


def test_the_example_of_the_ledger_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", text_of("README.md"), re.DOTALL) if "zeros(" in block
    ]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "['OK', 'OK', 'OK', 'EXCEEDS_CREDITS']\n500\n"
