"""The process environment a CPU text generator wants. It must be set before the process starts (LD_PRELOAD, OpenMP),
so it is computed here, without importing torch or vLLM, by whoever starts that process.
"""

import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, Literal

Dtype = Literal["bfloat16", "float32"]


def preload_libraries() -> list[Path]:
    """OpenMP runtime and allocator that vLLM recommends on x86, where the installed packages carry them."""
    found = [Path(sys.prefix, "lib", "libiomp5.so")]
    spec = importlib.util.find_spec("vllm")
    if spec is not None and spec.submodule_search_locations:
        found = sorted(Path(spec.submodule_search_locations[0], "libs").glob("libtcmalloc_minimal*.so*")) + found
    return [path for path in found if path.exists()]


def text_environment(num_threads: int) -> dict[str, str]:
    """Environment variables of a text generator's process.

    One process (the engine core steps in our own thread, start-up halves), `num_threads` OpenMP threads that sleep
    instead of spinning soon after a parallel region, because the other actors share these cores.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "KMP_BLOCKTIME": "1",
        "LD_PRELOAD": ":".join(map(str, preload_libraries())),
        "OMP_NUM_THREADS": str(num_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # it takes another kind of logits processor; off by default on a CPU
    }


def hide_llvm_names() -> None:
    """Let vLLM start in a process that has numba, and so the ledger.

    While vLLM 0.32 starts on a CPU it looks for "kernel" in the `__dict__` of every attribute of every module. The
    handle that llvmlite has of its library answers any name with a function, `__dict__` too, which has no `get`. Names
    with two underscores at both ends are no symbols of a library, so from now on they are refused. Calling it again
    does nothing.
    """
    ffi = sys.modules.get("llvmlite.binding.ffi")
    if ffi is None:
        return
    library = type(ffi.lib)
    symbol = library.__getattr__
    if hasattr(symbol, "__wrapped__"):
        return

    @functools.wraps(symbol)
    def public_symbol(lib: Any, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return symbol(lib, name)

    library.__getattr__ = public_symbol


@functools.cache
def native_dtype() -> Dtype:
    """The dtype this CPU is fast in: bfloat16 needs AVX-512 (or AMX), without it vLLM's kernels fall back to a path
    that does not batch (measured on an AVX2 machine: 27 tokens/s in bfloat16, 132 in float32, at 64 in flight)."""
    cpuinfo = Path("/proc/cpuinfo")
    return "bfloat16" if cpuinfo.exists() and "avx512f" in cpuinfo.read_text() else "float32"
