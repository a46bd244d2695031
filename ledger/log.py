"""A log's directory: which shards it has, the key that signs for them, and the names they sign under.

    DIR/key             the secret key, mode 0600; signs for every shard
    DIR/verifier.keys   one public verifier key a line, line n for shard n: all that a third party needs
    DIR/shard-000/      a shard's own directory (`ledger.store`)
    DIR/shard-000.begun says that the shard was begun, and must not be begun again (`ledger.shard`)
    DIR/super/          the log of super-checkpoints, with a key of its own (`ledger.superlog`)
    DIR/super.begun     its key: it must not be begun again
    DIR/adopted/        shards that were written elsewhere, with keys of their own (`ledger.adopt`)

Every shard is a log of its own, with the origin `<log name>/shard-<n>`. One Ed25519 key signs for all: the key name
goes into the key id, and the origin into the signed text, so a signature for one shard is none for another.
The number of shards is fixed when the log is made: a request finds its shard by the XXH3 of its asset id modulo that
number, and with another number the same id could be written twice.
"""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from ledger.entry import SHARD_MAX
from ledger.errors import KeyInvalid, LogMismatch, ReceiptInvalid
from ledger.files import create_once, make_directory
from ledger.note import KEY_BYTES, Signer, parse_secret

KEY_FILE = "key"
VERIFIER_FILE = "verifier.keys"
ADOPTED_DIR = "adopted"
NUM_SHARDS_MAX = 256

_SHARD_DIR = re.compile(r"shard-([0-9]{3}|[1-9][0-9]{3,4})")
_ORIGIN = re.compile(r".+/shard-(0|[1-9][0-9]{0,4})")


class LogKeys:
    """The signers of a log, one per shard, all with the log's one key."""

    def __init__(self, log_name: str, signers: tuple[Signer, ...]) -> None:
        self.log_name = log_name
        self.signers = signers

    @property
    def verifier_keys(self) -> tuple[str, ...]:
        """The public keys, as in the file `verifier.keys`."""
        return tuple(str(signer.key) for signer in self.signers)


def open_keys(path: Path, log_name: str, num_shards: int, *, entropy: Callable[[int], bytes] = os.urandom) -> LogKeys:
    """The keys of the log in a directory; makes directory, key and `verifier.keys` on first use.

    Raises:
        LogMismatch: the directory holds a log of another name or number of shards.
        KeyInvalid: the key file is malformed or others may read it, or `log_name` cannot be a key name.
        LedgerFull: no room for the files.
    Concurrency: safe from any number of processes at once; all get the same keys.
    """
    if not 0 < num_shards <= NUM_SHARDS_MAX:
        raise LogMismatch(
            f"{num_shards} shards", where="num_shards", fix=f"Ask for a number from 1 to {NUM_SHARDS_MAX}."
        )
    make_directory(path)
    fresh = Signer(log_name, entropy(KEY_BYTES))
    create_once(path / KEY_FILE, f"{fresh.secret()}\n".encode(), 0o600)
    signer = read_key(path / KEY_FILE)
    if signer.name != log_name:
        raise LogMismatch(
            f"the log is {signer.name}, not {log_name}", where=str(path), fix="Use its own name, or another directory."
        )
    signers = tuple(signer.renamed(origin(log_name, shard)) for shard in range(num_shards))
    keys = LogKeys(log_name, signers)
    _publish_verifier_keys(path, keys)
    return keys


def shard_path(path: Path, shard: int) -> Path:
    """Where a shard of the log in `path` lives."""
    return path / f"shard-{shard:03d}"


def begun_path(shard_dir: Path) -> Path:
    """The file that says that a shard was begun. It lies beside the shard's directory, so that whoever loses that
    directory, or the disk that was mounted there, still has it."""
    return shard_dir.with_name(f"{shard_dir.name}.begun")


def shard_paths(path: Path) -> list[Path]:
    """The directories of all shards that exist in the log in `path`, in order. A copy beside them under another name,
    say `shard-000.old`, is none of them."""
    found = (each for each in path.glob("shard-*") if _SHARD_DIR.fullmatch(each.name) and each.is_dir())
    return sorted(found, key=lambda each: (len(each.name), each.name))


def origin(log_name: str, shard: int) -> str:
    """The origin, and key name, of a shard."""
    return f"{log_name}/shard-{shard}"


def shard_of_origin(name: str) -> int:
    """The shard number that an origin ends in.

    Raises:
        ReceiptInvalid: it is not `<log name>/shard-<n>`.
    """
    match = _ORIGIN.fullmatch(name)
    if match is None or int(match[1]) > SHARD_MAX:
        raise ReceiptInvalid(
            f"{name[:80]!r} is not <log name>/shard-<n>", where="origin", fix="Ask the shard itself for a checkpoint."
        )
    return int(match[1])


def read_verifier_keys(path: Path) -> tuple[str, ...]:
    """The lines of a `verifier.keys` file; not yet checked to be keys."""
    return tuple(path.read_text(encoding="utf-8").splitlines())


def read_key(path: Path) -> Signer:
    """The signer of a secret key file.

    Raises:
        KeyInvalid: it is malformed, or others may read it.
    """
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise KeyInvalid(
            "others may read the secret key", where=str(path), fix="Run chmod 600 on it, or make a new log."
        )
    return parse_secret(path.read_text(encoding="utf-8").removesuffix("\n"))


def _publish_verifier_keys(path: Path, keys: LogKeys) -> None:
    """Write `verifier.keys` before the first shard exists, and refuse to call a log with shards by other keys."""
    file = path / VERIFIER_FILE
    if shard_paths(path) and not file.exists():  # in this order: another process may be making both just now
        raise LogMismatch(
            "shards without the file that says how many there are",
            where=str(file),
            fix=f"Put {VERIFIER_FILE} back; it has one line for each shard of the log.",
        )
    create_once(file, "".join(f"{key}\n" for key in keys.verifier_keys).encode(), 0o644)
    published = read_verifier_keys(file)
    if published != keys.verifier_keys:
        raise LogMismatch(
            f"the log has {len(published)} shards with keys of its own, not {len(keys.signers)} with this key",
            where=str(file),
            fix="Use the log's own number of shards; it cannot change once a log is made.",
        )
