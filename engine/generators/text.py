"""The text generator: vLLM's `LLMEngine` in this process, stepped by our own loop. The only importer of vllm.

vLLM batches continuously; we keep its queue empty. Attempts are added only into free places, so what waits, waits in
our pool's order, and vLLM's own priority decides only who is preempted when KV blocks run out.
Turned down: `AsyncLLM` or vLLM's server. Both take the queue away from us, and cost two more processes.
"""

from pathlib import Path

import torch
from vllm import EngineArgs, SamplingParams, TokensPrompt
from vllm.config import VllmConfig
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from engine.config import TextConfig
from engine.errors import ErrorBody, InvalidRequest, StartFailed, Unavailable
from engine.generators.contract import Attempt, Draft, ModelInfo
from engine.generators.nucleus import keep_nucleus
from engine.generators.runtime import hide_llvm_names
from engine.models.registry import ModelSource

GIB = 1 << 30
CPU_BLOCK_TOKENS = 32  # vLLM takes 128 on CPU; 32 is the smallest its kernels like, and lets short brand prompts hit
TOP_P = 0.95
BATCHED_TOKENS_MAX = 2048  # of prompts prefilled in one step; more would hold up those that are decoding


def engine_args(model: Path, text: TextConfig) -> EngineArgs:
    """vLLM's arguments for a model directory; the benchmark gives the same ones to bare `vllm.LLM`. On a CPU the
    generator adds its own top-p."""
    return EngineArgs(
        model=str(model),
        dtype=text.resolved_dtype,
        enforce_eager=True,
        max_model_len=text.model_len_max,
        max_num_seqs=text.capacity,
        max_num_batched_tokens=max(text.model_len_max, BATCHED_TOKENS_MAX),
        # On CPU vLLM 0.32 cannot rewind a seeded generator after a partial prefill ("CPU Generator does not use
        # offset") and the whole engine dies, so prompts are prefilled whole.
        enable_chunked_prefill=False,
        block_size=CPU_BLOCK_TOKENS,
        kv_cache_memory_bytes=int(text.kv_cache_gib * GIB),
        scheduling_policy="priority",
        structured_outputs_config={"backend": "guidance"},
        disable_log_stats=True,
        seed=0,
    )


def sampling_params(attempt: Attempt) -> SamplingParams:
    """vLLM's parameters for an attempt; the benchmark gives the same ones to bare `vllm.LLM`. Where top-p is our own,
    the generator sets vLLM's to 1."""
    return SamplingParams(
        max_tokens=attempt.tokens_max,
        temperature=attempt.temperature,
        top_p=TOP_P,
        seed=attempt.seed,
        structured_outputs=StructuredOutputsParams(grammar=attempt.grammar) if attempt.grammar else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


class Nucleus(LogitsProcessor):
    """Top-p in vLLM's sampler, after the temperature, where vLLM's own would follow. All rows have the same `TOP_P`."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        """Nothing is kept: what it does depends on the logits only."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return keep_nucleus(logits, TOP_P)

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """No request differs from another."""


def ended(reason: str | None) -> ErrorBody:
    """The error of an attempt that vLLM ended by itself."""
    return Unavailable(f"vLLM ended the attempt: {reason}", where="generator", fix="Send the request again.").body


class TextGenerator:
    """The generator contract over one vLLM engine.

    Raises:
        StartFailed: vLLM cannot load the model; the cause is chained. There is no other backend to fall back to.
    """

    def __init__(self, source: ModelSource, text: TextConfig) -> None:
        self.info = ModelInfo(name=source.name, digest=source.digest, backend="vllm")
        self.capacity = text.capacity
        self.model_len_max = text.model_len_max
        self.running: set[str] = set()
        args = engine_args(source.path, text)
        self.own_nucleus = current_platform.is_cpu()  # GPUs sort faster than they would ask back
        if self.own_nucleus:
            args.logits_processors = [Nucleus]
        hide_llvm_names()
        try:
            self.engine = LLMEngine.from_engine_args(args)
        except Exception as error:
            raise StartFailed(
                f"vLLM cannot load the model: {type(error).__name__}: {error}",
                where=str(source.path),
                fix="Check that the directory holds a model vLLM supports and that memory suffices.",
            ) from error
        self.tokenizer = self.engine.get_tokenizer()
        try:
            self.prompt_ids((("system", "Be brief."), ("user", "Hello")))
        except Exception as error:
            raise StartFailed(
                f"the model's chat template does not work: {type(error).__name__}: {error}",
                where=str(source.path),
                fix="Use an instruction-tuned model whose tokenizer has a chat template with a system turn.",
            ) from error

    def prompt_ids(self, messages: tuple[tuple[str, str], ...]) -> list[int]:
        """The token ids of a chat, by the model's own template, ready for the assistant's turn."""
        text = self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def credits(self) -> int:
        return self.capacity - len(self.running)

    def add(self, attempt: Attempt) -> None:
        assert self.credits() > 0, "admitted beyond the credits"
        ids = self.prompt_ids(attempt.messages)
        if len(ids) + attempt.tokens_max > self.model_len_max:
            raise InvalidRequest(
                f"the prompt has {len(ids)} tokens; with {attempt.tokens_max} for the copy, "
                f"at most {self.model_len_max} fit",
                where="brief",
                fix="Shorten the facts or the style, or raise text.model_len_max in the configuration.",
            )
        params = sampling_params(attempt)
        if self.own_nucleus:
            params.top_p = 1.0
        try:
            self.engine.add_request(
                attempt.attempt_id,
                TokensPrompt(prompt_token_ids=ids),
                params,
                priority=attempt.priority,
            )
        except (ValueError, VLLMClientError) as error:
            raise InvalidRequest(
                f"vLLM refuses the attempt: {error}", where="brief", fix="Check the facts and the policy's limits."
            ) from error
        self.running.add(attempt.attempt_id)

    def step(self) -> list[Draft]:
        if not self.running:
            return []
        drafts = []
        for output in self.engine.step():
            if not output.finished or output.request_id not in self.running:
                continue
            self.running.discard(output.request_id)
            completion = output.outputs[0]
            reason = completion.finish_reason
            drafts.append(
                Draft(
                    attempt_id=output.request_id,
                    text=completion.text.strip(),
                    finish_reason=reason if reason in ("stop", "length") else "error",
                    num_prompt_tokens=len(output.prompt_token_ids or ()),
                    num_tokens=len(completion.token_ids),
                    model=self.info,
                    error=None if reason in ("stop", "length") else ended(reason),
                )
            )
        return drafts

    def abort(self, attempt_id: str) -> None:
        if attempt_id in self.running:
            self.running.discard(attempt_id)
            self.engine.abort_request([attempt_id])

    def close(self) -> None:
        self.running.clear()
        self.engine.engine_core.shutdown()
