"""The reference model as it really is converted: once, by whoever comes first, into something that can speak."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import StartFailed
from engine.models import reference, registry

# A conversion takes 17 s on two idle cores and minutes on busy ones; it stops itself at CONVERT_SECONDS_MAX.
WAIT_SECONDS_MAX = reference.CONVERT_SECONDS_MAX + 30
pytestmark = [pytest.mark.model, pytest.mark.timeout(WAIT_SECONDS_MAX + 30)]

ROOT = Path(reference.__file__).parents[2]
# Prints the directory, and a list of the stages, as one JSON line.
ENSURE = """
import json, sys
from pathlib import Path
from engine.models import reference

stages = []
path = reference.ensure(Path(sys.argv[1]), progress=lambda stage, fraction: stages.append((stage, fraction)))
print(json.dumps([str(path), stages]))
"""


def start_ensure(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", ENSURE, str(cache)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, list[tuple[str, float]]]]:
    """What two processes report that asked for the model, at once, of one empty cache."""
    cache = tmp_path_factory.mktemp("cache")
    processes = [start_ensure(cache) for _ in range(2)]
    try:
        printed = [process.communicate(timeout=WAIT_SECONDS_MAX)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0]
    reports = [json.loads(text) for text in printed]
    return [(Path(path), [(stage, fraction) for stage, fraction in stages]) for path, stages in reports]


@pytest.fixture(scope="module")
def directory(outcomes: list[tuple[Path, list[tuple[str, float]]]]) -> Path:
    return outcomes[0][0]


def test_two_processes_at_once_convert_exactly_once(outcomes: list[tuple[Path, list[tuple[str, float]]]]) -> None:
    (one, first), (other, second) = outcomes
    assert one == other
    converted = [any(stage.startswith("dequantising") for stage, _ in stages) for stages in (first, second)]
    assert sorted(converted) == [False, True]
    waiter = first if converted[1] else second
    assert any(stage.startswith("waiting for another process") for stage, _ in waiter)
    assert {path.name for path in one.parent.iterdir()} == {one.name, f"{one.name}.lock"}


def test_progress_only_grows_and_ends_at_one(outcomes: list[tuple[Path, list[tuple[str, float]]]]) -> None:
    for _, stages in outcomes:
        fractions = [fraction for _, fraction in stages]
        assert fractions == sorted(fractions)
        assert (fractions[0], stages[-1]) == (0.0, ("ready", 1.0))


def test_the_converted_directory_passes_its_own_check_and_has_a_digest(directory: Path) -> None:
    assert reference.find_damage(directory, "bfloat16") is None
    assert "quantization_config" not in json.loads((directory / "config.json").read_bytes())
    by_name = registry.resolve("reference", directory.parent)
    by_path = registry.resolve(str(directory), directory.parent)
    assert by_name.path == by_path.path == directory
    assert by_name.digest == by_path.digest


def test_the_weights_are_those_of_the_gguf_to_the_last_bit_of_their_dtype(directory: Path) -> None:
    # Imported here, as below: collecting the tests must not cost the seconds that torch and transformers take.
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    tensors = {tensor.name: tensor for tensor in GGUFReader(reference.locate().gguf).tensors}
    source = tensors["blk.7.ffn_up.weight"]
    expected = torch.from_numpy(dequantize(source.data, source.tensor_type)).to(torch.bfloat16)
    with safe_open(directory / "model.safetensors", framework="pt") as weights:
        assert torch.equal(weights.get_tensor("model.layers.7.mlp.up_proj.weight"), expected)
        assert sum(weights.get_tensor(name).numel() for name in weights.keys()) == reference.NUM_PARAMETERS  # noqa: SIM118


def test_the_converted_model_knows_the_capital_of_france(directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    completed = model.generate(**prompt, do_sample=False, max_new_tokens=2)
    assert tokenizer.decode(completed[0]) == "The capital of France is Paris."
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_a_conversion_that_cannot_be_done_ends_with_the_childs_own_words(tmp_path: Path) -> None:
    gguf = tmp_path / "broken.gguf"
    gguf.write_bytes(b"not a GGUF")
    out = tmp_path / "out"
    out.mkdir()
    stages: list[str] = []
    with pytest.raises(StartFailed, match=r"the conversion failed: .*Error: .+") as caught:
        reference.convert_in_child(gguf, out, "bfloat16", lambda stage, _: stages.append(stage))
    assert caught.value.body.where == str(out)
    assert stages == ["loading torch and transformers", "dequantising the weights"]
    assert list(out.iterdir()) == []


def run_command(cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.models.reference", "--cache", str(cache)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command_prints_the_directory_and_nothing_else_to_standard_output(directory: Path) -> None:
    ran = run_command(directory.parent)
    assert (ran.returncode, ran.stdout) == (0, f"{directory}\n")
    assert "checking the cache" in ran.stderr


def test_the_command_says_what_is_wrong_and_fails(directory: Path) -> None:
    ran = run_command(directory / "config.json")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "start_failed at" in ran.stderr
