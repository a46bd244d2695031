"""`njit` whose compiled code on disk is used only while nothing has changed that it was made of.

numba keeps compiled code beside the source and takes it up as long as the function's own file is unchanged. But the
code also contains what other modules gave: their constants, their functions, inlined. After an update that changes
only those, numba alone would go on with old numbers and old layouts. Here the stamp of the code on disk is that of
the function's file and of every module of ours that it imports, directly or not.
"""

import ast
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit as numba_njit


def njit(**options: Any) -> Callable[[Any], Any]:
    """numba's `njit`; `cache` is on unless told otherwise, and looks at imported modules, too."""
    options.setdefault("cache", True)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba_njit(**options)(function)
        if options["cache"]:
            restamp(dispatcher)
        return dispatcher

    return decorate


def restamp(dispatcher: Any) -> None:
    """Tie the code on disk to all sources. numba (0.65) has no public hook for it: `FunctionCache` compares what its
    index file was written with to `_source_stamp`."""
    file = dispatcher._cache._cache_file
    assert hasattr(file, "_source_stamp"), "numba keeps the stamp of its cache elsewhere: adapt ledger/compiled.py"
    file._source_stamp = stamp(Path(dispatcher.py_func.__code__.co_filename))


@cache
def stamp(path: Path) -> str:
    """A digest of a module's source and of all modules of its own tree that it imports."""
    digest = hashlib.sha256()
    for source in sorted(reachable(path)):
        digest.update(source.as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def reachable(path: Path) -> set[Path]:
    """The module's file and those of the modules that it imports from its own tree, and they from it."""
    found: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        source = waiting.pop()
        if source not in found:
            found.add(source)
            waiting.extend(imported(source))
    return found


@cache
def imported(source: Path) -> tuple[Path, ...]:
    """Files of the modules of our own tree that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    files = (file_of(name) for name in sorted(names))
    return tuple(file for file in files if file is not None)


def file_of(name: str) -> Path | None:
    """The source of a module of our own tree; None if it is none (another's package, or a name within a module)."""
    place = ROOT.joinpath(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


ROOT = Path(__file__).resolve().parents[1]
"""Where our packages lie."""
