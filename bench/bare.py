"""Bare vLLM as the baseline of bench.text: a process that loads `vllm.LLM` with our engine arguments, waits, and
generates the attempts it is given, all at once.

    python -m bench.bare NUM_IN_FLIGHT

Speaks JSON lines: prints {"ready_s"} when loaded; reads one line, the path of a file of encoded attempts; prints its
rates, as `bench.text.Rates` has them, and writes the texts beside that file, by attempt id, as FILE.texts.
"""

import io
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from engine.config import load
from engine.generators.contract import Attempt
from engine.models.registry import resolve


def main() -> None:
    start_s = time.monotonic()
    from vllm import LLM, TokensPrompt

    from engine.generators.text import engine_args, sampling_params

    config = load(None)
    args = engine_args(resolve(config.text.model, config.cache_path).path, config.text)
    given = {field.name for field in fields(args) if getattr(args, field.name) != field.default}
    args.max_num_seqs = int(sys.argv[1])
    given.add("max_num_seqs")
    llm = LLM(**{name: value for name, value in vars(args).items() if name in given})
    tokenizer = llm.get_tokenizer()
    say({"ready_s": time.monotonic() - start_s})

    file = Path(sys.stdin.readline().strip())
    attempts = msgspec.msgpack.decode(file.read_bytes(), type=list[Attempt])
    start_s = time.monotonic()
    prompts = []
    for attempt in attempts:
        chat = [{"role": role, "content": content} for role, content in attempt.messages]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompts.append(TokensPrompt(prompt_token_ids=tokenizer.encode(text, add_special_tokens=False)))
    finished_s: list[float] = []
    outputs = llm.generate(prompts, list(map(sampling_params, attempts)), use_tqdm=partial(Stopwatch, finished_s))
    wall_s = time.monotonic() - start_s
    texts = {
        attempt.attempt_id: output.outputs[0].text.strip() for attempt, output in zip(attempts, outputs, strict=True)
    }
    file.with_suffix(".texts").write_bytes(msgspec.msgpack.encode(texts))
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    num_full = max(len(outputs) - args.max_num_seqs, 1)  # when so many have finished, nothing waits any more
    say(
        {
            "full_drafts_per_s": num_full / (finished_s[num_full - 1] - start_s),
            "drafts_per_s": len(outputs) / wall_s,
            "tokens_per_s": num_tokens / wall_s,
            "num_drafts": len(outputs),
        }
    )


class Stopwatch(tqdm):
    """In the place of vLLM's progress bars, for what the one of the drafts is told: when each is done."""

    def __init__(self, finished_s: list[float], *prompts: Any, **options: Any) -> None:
        self.finished_s = [] if prompts else finished_s  # another bar goes over the prompts while they are added
        super().__init__(*prompts, **options | {"file": io.StringIO(), "mininterval": 3600.0})

    def update(self, n: float | None = 1) -> bool | None:
        self.finished_s += [time.monotonic()] * int(n or 0)
        return super().update(n)


def say(data: dict[str, float]) -> None:
    """One JSON line."""
    print(msgspec.json.encode(data).decode(), flush=True)


if __name__ == "__main__":
    main()
