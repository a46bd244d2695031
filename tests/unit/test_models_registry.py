"""Names of models to directories and digests, with made-up directories: no weights, no transformers."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from engine.errors import StartFailed
from engine.models import reference, registry


def long_after() -> int:
    """A clock for which every file has settled."""
    return time.time_ns() + 10 * registry.SETTLED_NS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with everything a model server asks for."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(range(256)))
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read to be hashed, in order."""
    names: list[str] = []
    sha256_of = reference.sha256_of

    def watched(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(reference, "sha256_of", watched)
    return names


def test_a_complete_directory_resolves_to_its_name_path_and_digest(model: Path, cache: Path) -> None:
    source = registry.resolve(str(model), cache)
    assert (source.name, source.path) == ("tiny", model)
    assert len(bytes.fromhex(source.digest)) == 32


def test_the_digest_is_what_coreutils_print(model: Path, cache: Path) -> None:
    command = "sha256sum $(ls config.json tokenizer.json *.safetensors | sort) | sha256sum"
    ran = subprocess.run(
        ["sh", "-c", command], cwd=model, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=True
    )
    assert registry.resolve(str(model), cache).digest == ran.stdout.split()[0]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_digest_changes_with_every_file_that_decides_the_answer(model: Path, cache: Path, name: str) -> None:
    before = registry.resolve(str(model), cache).digest
    content = bytearray((model / name).read_bytes())
    content[0] ^= 1
    (model / name).write_bytes(content)
    assert registry.resolve(str(model), cache).digest != before


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "model-2.safetensors"])
def test_the_digest_changes_when_such_a_file_is_added(model: Path, cache: Path, name: str) -> None:
    before = registry.resolve(str(model), cache).digest
    (model / name).write_text("{}")
    assert registry.resolve(str(model), cache).digest != before


def test_the_digest_does_not_depend_on_the_place_or_on_a_readme(model: Path, cache: Path, tmp_path: Path) -> None:
    before = registry.resolve(str(model), cache).digest
    moved = model.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("hello")
    assert registry.resolve(str(moved), cache).digest == before


def test_a_directory_is_hashed_once_and_never_written_to(model: Path, cache: Path, hashed: list[str]) -> None:
    files = sorted(path.name for path in model.iterdir())
    first = registry.resolve(str(model), cache, now_ns=long_after)
    assert hashed == ["config.json", "model.safetensors", "tokenizer.json"]
    assert registry.resolve(str(model), cache, now_ns=long_after) == first
    assert len(hashed) == 3
    assert sorted(path.name for path in model.iterdir()) == files
    assert [path.name for path in cache.iterdir()] == ["digests.json"]


def test_a_directory_that_has_just_changed_is_not_remembered(model: Path, cache: Path, hashed: list[str]) -> None:
    newest_ns = max(path.stat().st_ctime_ns for path in model.iterdir())
    registry.resolve(str(model), cache, now_ns=lambda: newest_ns + registry.SETTLED_NS)
    assert not (cache / "digests.json").exists()
    registry.resolve(str(model), cache, now_ns=lambda: newest_ns + registry.SETTLED_NS + 1)
    assert (cache / "digests.json").exists()
    assert len(hashed) == 6


def test_other_weights_of_the_same_size_and_modification_time_are_noticed(model: Path, cache: Path) -> None:
    weights = model / "model.safetensors"
    before, times = registry.resolve(str(model), cache, now_ns=long_after).digest, weights.stat()
    while weights.stat().st_ctime_ns == times.st_ctime_ns:  # until the kernel's clock ticks
        weights.write_bytes(bytes(reversed(range(256))))
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert registry.resolve(str(model), cache, now_ns=long_after).digest != before


def test_a_damaged_digest_cache_is_made_anew(model: Path, cache: Path, hashed: list[str]) -> None:
    digest = registry.resolve(str(model), cache, now_ns=long_after).digest
    (cache / "digests.json").write_bytes(b'{"\xff')
    assert registry.resolve(str(model), cache, now_ns=long_after).digest == digest
    assert len(hashed) == 6
    assert registry.resolve(str(model), cache, now_ns=long_after).digest == digest
    assert len(hashed) == 6


def test_a_digest_cache_keeps_the_newest_and_stays_bounded(
    model: Path, cache: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "DIGESTS_MAX", 2)
    copies = [tmp_path / f"copy-{number}" for number in range(3)]
    for copy in copies:
        shutil.copytree(model, copy)
        registry.resolve(str(copy), cache, now_ns=long_after)
    assert list(json.loads((cache / "digests.json").read_bytes())) == [str(copies[1]), str(copies[2])]
    hashed.clear()
    registry.resolve(str(copies[2]), cache, now_ns=long_after)
    assert hashed == []
    registry.resolve(str(copies[0]), cache, now_ns=long_after)
    assert len(hashed) == 3


def test_a_changed_directory_takes_the_place_of_its_old_entry(
    model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "DIGESTS_MAX", 2)
    other = Path(shutil.copytree(model, tmp_path / "other"))
    registry.resolve(str(model), cache, now_ns=long_after)
    registry.resolve(str(other), cache, now_ns=long_after)
    for changed, expected in ((other, [model, other]), (model, [other, model])):
        (changed / "chat_template.jinja").write_text("")
        registry.resolve(str(changed), cache, now_ns=long_after)
        assert list(json.loads((cache / "digests.json").read_bytes())) == [str(path) for path in expected]


def test_files_that_change_while_they_are_hashed_are_refused(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256_of = reference.sha256_of

    def disturbed(path: Path) -> str:
        digest = sha256_of(path)
        (model / "config.json").write_text('{"model_type": "other"}')
        return digest

    monkeypatch.setattr(reference, "sha256_of", disturbed)
    with pytest.raises(StartFailed, match="changed while they were read"):
        registry.resolve(str(model), cache)
    assert not (cache / "digests.json").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named_and_only_that_one(model: Path, cache: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(StartFailed) as caught:
        registry.resolve(str(model), cache)
    body = caught.value.body
    assert body.where == str(model)
    lacking = {"config.json": "config.json", "tokenizer.json": "a tokenizer", "model.safetensors": "weights"}
    assert [clause for clause in lacking.values() if clause in body.what] == [lacking[name]]


def test_everything_an_empty_directory_lacks_is_named_at_once(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"config\.json, a tokenizer .*, weights \(\*\.safetensors\)"):
        registry.resolve(str(tmp_path), cache)


def test_a_weight_file_that_the_index_names_and_is_not_there_is_named(model: Path, cache: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StartFailed) as caught:
        registry.resolve(str(model), cache)
    assert caught.value.body.what == "the directory lacks model-00002-of-00002.safetensors"


def test_an_index_that_is_not_json_is_refused(model: Path, cache: Path) -> None:
    (model / "model.safetensors.index.json").write_text("version https://git-lfs")
    with pytest.raises(StartFailed, match="index of the weights cannot be understood"):
        registry.resolve(str(model), cache)


def test_a_name_as_on_a_hub_is_refused_because_nothing_is_downloaded(cache: Path) -> None:
    with pytest.raises(StartFailed) as caught:
        registry.resolve("example-org/example-model-7B", cache)
    assert "nothing is downloaded" in caught.value.body.what
    assert "directory" in caught.value.body.fix


def test_a_directory_whose_path_looks_like_a_hub_name_is_taken(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent.parent)
    assert registry.resolve(f"{model.parent.name}/tiny", cache).path == model


def test_a_path_that_does_not_exist_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="no such directory"):
        registry.resolve(str(tmp_path / "absent"), cache)


def test_a_file_is_not_a_model(model: Path, cache: Path) -> None:
    with pytest.raises(StartFailed, match="no such directory"):
        registry.resolve(str(model / "config.json"), cache)


def test_a_cache_that_cannot_be_a_directory_is_refused_by_name(model: Path) -> None:
    cache = model / "config.json" / "cache"
    with pytest.raises(StartFailed) as caught:
        registry.resolve(str(model), cache)
    assert caught.value.body.where == str(cache)
    assert "MINTAGE_CACHE" in caught.value.body.fix


@pytest.mark.parametrize("name", ["reference", "smollm2-135m-instruct"])
def test_both_names_of_the_reference_model_mean_the_same_digest_as_its_directory(
    name: str, model: Path, cache: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {
        path.name: reference.FileRecord(path.stat().st_size, reference.sha256_of(path)) for path in model.iterdir()
    }
    manifest = reference.Manifest(records, reference.GGUF_SHA256, "0.1.2", "bfloat16", reference.CONVERTER_VERSION)
    (model / reference.MANIFEST).write_bytes(msgspec.json.encode(manifest))
    place = cache / "smollm2-135m-instruct-bfloat16"
    cache.mkdir()
    model.rename(place)
    by_name = registry.resolve(name, cache)
    assert (by_name.name, by_name.path) == ("smollm2-135m-instruct", place)
    assert by_name.name == registry.name_of(name)
    assert by_name.digest == registry.resolve(str(place), cache).digest


def test_the_name_of_a_model_is_known_before_it_is_resolved(model: Path, cache: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(model)
    for path in (str(model), f"{model}/", str(link)):
        assert registry.name_of(path) == registry.resolve(path, cache).name == model.name


def test_the_cache_directory_is_the_variable_or_the_users_own() -> None:
    assert reference.default_cache_dir({"MINTAGE_CACHE": "/somewhere/else"}) == Path("/somewhere/else")
    for environ in ({}, {"MINTAGE_CACHE": ""}):
        assert reference.default_cache_dir(environ).is_absolute()
        assert reference.default_cache_dir(environ).name == "mintage"
