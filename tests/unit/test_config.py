"""The configuration: few keys, each with a default, and every mistake named with its place."""

from pathlib import Path

import pytest

import engine.config
from engine.config import CONFIGS, LEASE_S_MIN, Config, TextConfig, load
from engine.errors import InvalidRequest
from engine.models import reference
from engine.worker import PULL_WAIT_S
from gate.policy import load_policies


def written(path: Path, text: str) -> Path:
    file = path / "mintage.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_file_that_comes_with_mintage_says_the_defaults() -> None:
    assert load(None) == Config()


def test_an_empty_file_is_valid(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")) == Config()


def test_a_key_that_is_set_is_kept_and_the_others_stay_default(tmp_path: Path) -> None:
    config = load(written(tmp_path, "http:\n  port: 9000\nledger: {num_shards: 4}\n"))
    assert (config.http.port, config.ledger.num_shards) == (9000, 4)
    assert (config.http.host, config.pool) == (Config().http.host, Config().pool)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("htpp: {port: 1}", "key (top)"),
        ("http: {prot: 1}", "key http"),
        ("http: {port: 0}", "key http.port"),
        ("http: {port: 65536}", "key http.port"),
        ("http: {port: many}", "key http.port"),
        ("http: {wait_s: -1}", "key http.wait_s"),
        ("pool: {num_waiting_max: 9}", "key pool"),
        ("text: {step_s_max: 0}", "key text.step_s_max"),
        ("pool: {lease_s: 0}", "key pool.lease_s"),
        ("pool: {lease_s: 2.9}", "key pool.lease_s"),
        ("text: {model_len_max: 256}", "key text.model_len_max"),
        ("sampling: {tokens_max_constrained: 1024}", "key text.model_len_max"),
        ("sampling: {tokens_max: 1024}", "key text.model_len_max"),
        ("ledger: {num_shards: 257}", "key ledger.num_shards"),
        ("sampling: {tokens: 9}", "key sampling"),
        ("- a list", "key (top)"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_file_and_key(tmp_path: Path, text: str, where: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InvalidRequest) as caught:
        load(file)
    assert caught.value.body.where == f"{file}, {where}"


def test_a_lease_that_is_too_short_is_refused_with_the_least_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=f">= {LEASE_S_MIN}"):
        load(written(tmp_path, "pool: {lease_s: 1}"))
    assert load(written(tmp_path, "pool: {lease_s: 3}")).pool.lease_s == LEASE_S_MIN
    assert LEASE_S_MIN > 2 * PULL_WAIT_S


def test_lengths_that_contradict_each_other_are_refused_in_python_too() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Config(text=TextConfig(model_len_max=256))
    assert caught.value.body.where == "text.model_len_max"
    assert "256" in caught.value.body.what
    assert Config(text=TextConfig(model_len_max=257)).text.model_len_max == 257


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("reference", reference.NAME),
        (reference.NAME, reference.NAME),
        ("/models/my-model-1B", "my-model-1B"),
        ("models/my-model-1B/", "my-model-1B"),
        ("~/my-model-1B", "my-model-1B"),
        ("./reference", "reference"),
    ],
)
def test_a_model_is_named_as_the_ledger_names_it(model: str, name: str) -> None:
    assert TextConfig(model=model).model_name == name


def test_what_is_not_yaml_is_refused_with_its_file(tmp_path: Path) -> None:
    file = written(tmp_path, "http: {port: 1")
    with pytest.raises(InvalidRequest, match="not YAML") as caught:
        load(file)
    assert caught.value.body.where == str(file)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b"\xff"), lambda path: path.mkdir()])
def test_a_file_that_cannot_be_read_is_refused_with_its_path(tmp_path: Path, make: "object") -> None:
    file = tmp_path / "there"
    make(file)  # type: ignore[operator]
    with pytest.raises(InvalidRequest, match="cannot read") as caught:
        load(file)
    assert caught.value.body.where == str(file)


def test_an_empty_directory_means_the_users_own_and_a_tilde_is_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MINTAGE_CACHE", raising=False)
    config = Config()
    assert (config.data_path.name, config.cache_path.name) == ("mintage", "mintage")
    assert config.data_path != config.cache_path
    assert Config(data_dir="~/mint").ledger_path == Path("/home/ada/mint/ledger")


def test_the_cache_is_where_file_environment_or_system_say_in_that_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINTAGE_CACHE", "/from/environment")
    assert Config().cache_path == Path("/from/environment")
    assert Config(cache_dir="/from/file").cache_path == Path("/from/file")
    monkeypatch.setenv("MINTAGE_CACHE", "~/cache")
    monkeypatch.setenv("HOME", "/home/ada")
    assert Config().cache_path == reference.default_cache_dir() == Path("/home/ada/cache")


def test_the_policies_that_come_with_mintage_are_the_default_and_load() -> None:
    assert Config().policies_path == CONFIGS / "policies"
    assert {"default", "luxury"} <= load_policies(Config().policies_path).keys()
    assert Config(policies_dir="/brand").policies_path == Path("/brand")


def test_auto_and_zero_are_resolved_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.config.os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(engine.config, "native_dtype", lambda: "float32")
    text = Config().text
    assert (text.threads, text.resolved_dtype) == (3, "float32")
    config = load(None)
    assert config.text.num_threads == 0
