"""The configuration: one YAML file with few keys; every key has a default, so an empty file is valid."""

import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
import platformdirs
import yaml

from engine.errors import InvalidRequest
from engine.generators.runtime import native_dtype
from engine.models.reference import default_cache_dir
from engine.models.registry import name_of
from engine.pipeline import Sampling
from engine.worker import STEP_S_MAX

CONFIGS = Path(str(resources.files("configs")))
Positive = Annotated[int, msgspec.Meta(ge=1)]
UPKEEP_S_MAX = 86_400.0
LEASE_S_MIN = 3.0  # a living generator pulls every second (engine.worker.PULL_WAIT_S); one late pull is no death


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The root of the parts of a configuration."""


class HttpConfig(Strict, frozen=True):
    """Where the gateway listens, and how long a POST waits when the client does not say."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8000
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 60.0


class TextConfig(Strict, frozen=True):
    """The text generator. `model` is `reference` or a Hugging Face directory; `dtype` auto is what the CPU is fast in;
    `num_threads` 0 takes every core; `capacity` is sequences at once, `model_len_max` tokens of prompt and copy;
    a step that takes longer than `step_s_max` hangs, and its generator is started anew."""

    model: str = "reference"
    dtype: str = "auto"
    num_replicas: Positive = 1
    num_threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    capacity: Positive = 64
    model_len_max: Positive = 1024
    kv_cache_gib: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    step_s_max: Annotated[float, msgspec.Meta(gt=0)] = STEP_S_MAX

    @property
    def model_name(self) -> str:
        """What a brief calls the model, and the ledger: `reference` by its full name, a directory by its own name."""
        return name_of(self.model)

    @property
    def threads(self) -> int:
        """OpenMP threads of one replica."""
        return self.num_threads or len(os.sched_getaffinity(0))

    @property
    def resolved_dtype(self) -> str:
        """The dtype, `auto` resolved for this machine."""
        return native_dtype() if self.dtype == "auto" else self.dtype


class PoolConfig(Strict, frozen=True):
    """The queue in front of the generators; see `engine.pool.Pool`. `lease_s` is at least LEASE_S_MIN."""

    lease_s: Annotated[float, msgspec.Meta(ge=LEASE_S_MIN)] = 10.0


class IntakeConfig(Strict, frozen=True):
    """Open and remembered requests; see `engine.intake.Intake`."""

    num_open_max: Positive = 20_000
    num_done_max: Positive = 20_000


class LedgerConfig(Strict, frozen=True):
    """The ledger's log: the name it signs with, the number of shards (fixed when the log is made), and the largest size
    of one shard (a sparse file). Every `upkeep_s` seconds (0: never) what is over expires, and a super-checkpoint
    commits to all shards; see `engine.upkeep`."""

    name: str = "mintage.local"
    num_shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    map_gib: Annotated[float, msgspec.Meta(gt=0)] = 64.0
    upkeep_s: Annotated[float, msgspec.Meta(ge=0, le=UPKEEP_S_MAX)] = 10.0


class Config(Strict, frozen=True):
    """Everything. `data_dir` holds the ledger, `cache_dir` converted models, `policies_dir` the brand policies; empty
    means the user's own directories and the policies that come with Mintage.

    Raises:
        InvalidRequest: two keys contradict each other; `where` is the one to mend.
    """

    data_dir: str = ""
    cache_dir: str = ""
    policies_dir: str = ""
    http: HttpConfig = HttpConfig()
    text: TextConfig = TextConfig()
    sampling: Sampling = Sampling()
    pool: PoolConfig = PoolConfig()
    intake: IntakeConfig = IntakeConfig()
    ledger: LedgerConfig = LedgerConfig()

    def __post_init__(self) -> None:
        tokens_max = max(self.sampling.tokens_max, self.sampling.tokens_max_constrained)
        if self.text.model_len_max <= tokens_max:
            raise InvalidRequest(
                f"{self.text.model_len_max} tokens of prompt and copy leave no room for a prompt, since a copy may "
                f"take {tokens_max}",
                where="text.model_len_max",
                fix="Raise it, or lower sampling.tokens_max and sampling.tokens_max_constrained.",
            )

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir).expanduser() if self.data_dir else platformdirs.user_data_path("mintage")

    @property
    def cache_path(self) -> Path:
        return Path(self.cache_dir).expanduser() if self.cache_dir else default_cache_dir()

    @property
    def policies_path(self) -> Path:
        return Path(self.policies_dir).expanduser() if self.policies_dir else CONFIGS / "policies"

    @property
    def ledger_path(self) -> Path:
        return self.data_path / "ledger"


def load(path: Path | None) -> Config:
    """The configuration of a file, or the defaults of configs/local.yaml.

    Raises:
        InvalidRequest: the file cannot be read, is not YAML, or has an unknown key, a wrong value, or two values that
            contradict each other.
    """
    path = path or CONFIGS / "local.yaml"
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"cannot read the configuration: {error}", where=str(path), fix="Check the path and its rights."
        ) from error
    except yaml.YAMLError as error:
        raise InvalidRequest(f"not YAML: {error}", where=str(path), fix="Mend the layout.") from error
    try:
        return msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise InvalidRequest(
            what, where=f"{path}, key {where.strip('.`') or '(top)'}", fix="Compare with configs/local.yaml."
        ) from error
    except InvalidRequest as error:
        body = error.body
        raise InvalidRequest(body.what, where=f"{path}, key {body.where}", fix=body.fix) from error
