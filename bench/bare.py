"""Bare vLLM as the baseline of bench.text: a process that loads `vllm.LLM` with our engine arguments, waits, and
generates the attempts it is given, all at once.

    python -m bench.bare NUM_IN_FLIGHT

Speaks JSON lines: prints {"ready_s"} when loaded; reads one line, the path of a file of encoded attempts; prints
{"num_drafts", "num_tokens", "wall_s"} and writes the texts beside that file, by attempt id, as FILE.texts.
"""

import sys
import time
from dataclasses import fields
from pathlib import Path

import msgspec

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
    outputs = llm.generate(prompts, [sampling_params(attempt) for attempt in attempts], use_tqdm=False)
    wall_s = time.monotonic() - start_s
    texts = {
        attempt.attempt_id: output.outputs[0].text.strip() for attempt, output in zip(attempts, outputs, strict=True)
    }
    file.with_suffix(".texts").write_bytes(msgspec.msgpack.encode(texts))
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    say({"num_drafts": len(outputs), "num_tokens": num_tokens, "wall_s": wall_s})


def say(data: dict[str, float]) -> None:
    """One JSON line."""
    print(msgspec.json.encode(data).decode(), flush=True)


if __name__ == "__main__":
    main()
