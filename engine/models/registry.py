"""From the name of a model in a configuration to a directory with weights and a digest for the ledger.

A name is either `reference` (the model that comes with Mintage) or a Hugging Face directory on this machine. Nothing is
ever downloaded: what is served must be there before the start, and its digest says which weights those were.

Anyone can check a digest with coreutils alone, in the model's directory, `FILES` being those of MODEL_FILES there are:

    LC_ALL=C; sha256sum $(ls FILES | sort) | sha256sum
"""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from engine.errors import StartFailed
from engine.models import reference

REFERENCE_NAMES = ("reference", reference.NAME)
DIGESTS = "digests.json"
DIGESTS_MAX = 128
# File times are as coarse as a kernel tick (4 ms), or 2 s on FAT: a file that changed this recently can change again
# and keep its stamp, so its digest is not remembered yet. (Git has the same rule, for its "racily clean" files.)
SETTLED_NS = 3 * 10**9

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# Either of these is a whole tokenizer; vocab.json needs merges.txt, but never comes without it.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Every file that decides what the model answers; a README or a licence does not.
MODEL_FILES = (
    CONFIG,
    "generation_config.json",
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.*",
    WEIGHTS,
    WEIGHTS_INDEX,
)
# "organisation/name", as on a model hub.
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelSource(msgspec.Struct, frozen=True):
    """Weights that can be served: a name to show, their directory, and the SHA-256 (hex) of what is in it."""

    name: str
    path: Path
    digest: str


class _FileStamp(msgspec.Struct, frozen=True, array_like=True):
    """What changes whenever a file does; the change time also tells a copy that kept its modification time."""

    name: str
    size: int
    modified_ns: int
    changed_ns: int


class _KnownDigest(msgspec.Struct, frozen=True):
    """The digest of a directory whose files had these stamps."""

    stamps: tuple[_FileStamp, ...]
    digest: str


class _WeightsIndex(msgspec.Struct, frozen=True):
    """The part of a safetensors index that matters here: parameter name to file name."""

    weight_map: dict[str, str]


def resolve(
    model: str,
    cache_dir: Path,
    *,
    progress: reference.Progress | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> ModelSource:
    """The weights behind a model's name.

    Args:
        model: one of REFERENCE_NAMES, or the path of a Hugging Face directory (`~` is understood). To name a directory
            that is called `reference`, write `./reference`.
        cache_dir: for the reference model and for known digests; a user's own directory is never written to.
        progress: told the stages of a conversion or a first hashing.
        now_ns: Unix time on the clock that stamps the files.
    Raises:
        StartFailed: no such directory; a file is missing, which the message names; the cache cannot be used.
    Cost: the reference model, see `reference.ensure`; a directory is hashed until its files are SETTLED_NS old, and
        costs one stat a file from then on.
    """
    name = name_of(model)
    if model in REFERENCE_NAMES:
        path = reference.ensure(cache_dir, progress=progress)
        files = reference.read_manifest(path).files
        hashes = {name: record.sha256 for name, record in files.items() if is_model_file(name)}
        return ModelSource(name, path, digest_of(hashes))
    path = _directory(model)
    if not path.is_dir():
        raise _no_such_directory(model)
    try:
        _check_complete(path)
        return ModelSource(name, path, _directory_digest(path, cache_dir, progress, now_ns()))
    except OSError as error:
        raise StartFailed(
            f"the model cannot be read: {error}", where=str(path), fix="Check its files and permissions."
        ) from error


def name_of(model: str) -> str:
    """The name that `resolve` gives a model, and that the ledger has: the directory's own, with no path before it."""
    return reference.NAME if model in REFERENCE_NAMES else _directory(model).name


def is_model_file(name: str) -> bool:
    """Whether a file of this name decides what a model answers."""
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def digest_of(hashes: Mapping[str, str]) -> str:
    """The digest of a model from its files' SHA-256: that of their list, sorted by name, as `sha256sum` prints it."""
    listing = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256(listing.encode()).hexdigest()


def _directory(model: str) -> Path:
    """Where a model that is not the reference model lies; a link is followed."""
    return Path(model).expanduser().resolve()


def _no_such_directory(model: str) -> StartFailed:
    if HUB_ID.fullmatch(model):
        return StartFailed(
            "this looks like the name of a model on a hub, and nothing is downloaded",
            where=f"model {model}",
            fix="Download it yourself and give the path of its directory, or use `reference`.",
        )
    return StartFailed(
        "there is no such directory",
        where=f"model {model}",
        fix="Give the path of a Hugging Face model directory, or use `reference`.",
    )


def _check_complete(directory: Path) -> None:
    """Refuse a directory that no model server could load, and say what it lacks."""
    names = {path.name for path in directory.iterdir() if path.is_file()}
    missing = [] if CONFIG in names else [CONFIG]
    if names.isdisjoint(TOKENIZERS):
        missing.append(f"a tokenizer ({' or '.join(TOKENIZERS)})")
    if not any(fnmatchcase(name, WEIGHTS) for name in names):
        missing.append(f"weights ({WEIGHTS})")
    if WEIGHTS_INDEX in names:
        missing += sorted(_indexed_files(directory / WEIGHTS_INDEX) - names)
    if missing:
        raise StartFailed(
            f"the directory lacks {', '.join(missing)}",
            where=str(directory),
            fix="Give a complete Hugging Face directory; weights in other formats must be saved as safetensors first.",
        )


def _indexed_files(index: Path) -> set[str]:
    """The weight files that a sharded model's index names."""
    try:
        return set(msgspec.json.decode(index.read_bytes(), type=_WeightsIndex).weight_map.values())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartFailed(
            f"the index of the weights cannot be understood: {error}",
            where=str(index),
            fix="Fetch the model again; this file seems damaged.",
        ) from error


def _directory_digest(directory: Path, cache_dir: Path, progress: reference.Progress | None, now_ns: int) -> str:
    """The digest of a user's directory, from the cache if no file's stamp changed."""
    stamps = _stamps(directory)
    known = _read_digests(cache_dir).get(str(directory))
    if known is not None and known.stamps == stamps:
        return known.digest
    hashes = {}
    for done, stamp in enumerate(stamps):
        if progress is not None:
            progress(f"hashing {stamp.name}", done / len(stamps))
        hashes[stamp.name] = reference.sha256_of(directory / stamp.name)
    if _stamps(directory) != stamps:
        raise StartFailed(
            "the files changed while they were read", where=str(directory), fix="Start again when the copy is complete."
        )
    digest = digest_of(hashes)
    if max(stamp.changed_ns for stamp in stamps) < now_ns - SETTLED_NS:
        _remember(cache_dir, directory, _KnownDigest(stamps, digest))
    return digest


def _stamps(directory: Path) -> tuple[_FileStamp, ...]:
    names = sorted(path.name for path in directory.iterdir() if is_model_file(path.name) and path.is_file())
    return tuple(_stamp(directory / name) for name in names)


def _stamp(path: Path) -> _FileStamp:
    status = path.stat()
    return _FileStamp(path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read_digests(cache_dir: Path) -> dict[str, _KnownDigest]:
    """The known digests by directory. A file that cannot be understood counts as none: it can all be hashed again."""
    try:
        return msgspec.json.decode((cache_dir / DIGESTS).read_bytes(), type=dict[str, _KnownDigest])
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    except OSError as error:
        raise reference.cache_failed(error, cache_dir) from error


def _remember(cache_dir: Path, directory: Path, known: _KnownDigest) -> None:
    """Add a digest to the cache; the oldest beyond DIGESTS_MAX are dropped.

    Concurrency: readers see a whole file, old or new. Of two writers at once the later one may drop what the earlier
        one added, which costs a hashing, never a wrong digest.
    """
    digests = _read_digests(cache_dir)
    digests.pop(str(directory), None)
    newest = [*digests.items(), (str(directory), known)][-DIGESTS_MAX:]
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _replace(cache_dir / DIGESTS, msgspec.json.encode(dict(newest)))
    except OSError as error:
        raise reference.cache_failed(error, cache_dir) from error


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
