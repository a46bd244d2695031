"""The part of a check that looks at the small files of a log's directory, every byte of which is known.

    verifier.keys    a line for each shard's key; or the one line of an edge, which has one shard of any number
    key              the secret key that the others are of; only where it is: who audits a copy has none
    shard-000.begun  the origin that the shard was begun under

The key of a witness or an adopter, and its memory, are its own to check: see `ledger.witness`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ledger.errors import LedgerError
from ledger.fsck_report import Tell
from ledger.log import KEY_FILE, VERIFIER_FILE, begun_path, read_key, read_verifier_keys, shard_of_origin
from ledger.note import VerifierKey, parse_verifier_key

Keys = Mapping[int, VerifierKey]
"""Whom to believe, by the number of the shard."""


def own_keys(log: Path, tell: Tell) -> Keys:
    """The keys that lie in a log's directory; none, and a problem told, if they cannot be used."""
    file = log / VERIFIER_FILE
    try:
        lines = read_verifier_keys(file)
        keys = _by_shard(lines)
        is_canonical = file.read_bytes() == "".join(f"{line}\n" for line in lines).encode()
    except OSError as error:
        tell(str(file), f"no verifier keys: {error.strerror}")
    except (LedgerError, UnicodeDecodeError) as error:
        tell(str(file), f"no verifier keys: {error}")
    else:
        if not is_canonical:
            tell(str(file), "there is more in it than a key a line")
        if len(keys) == 1 or list(keys) == list(range(len(keys))):
            return keys
        misplaced = next(key for line, key in enumerate(keys.values()) if shard_of_origin(key.name) != line)
        tell(str(file), f"no verifier keys: {misplaced.name} is not on the line of its shard")
    return {}


def given_keys(lines: Sequence[str], tell: Tell) -> Keys:
    """The keys that somebody brought, of any shards, in any order; none, and a problem told, if they cannot be used."""
    try:
        return _by_shard(lines)
    except LedgerError as error:
        tell("the given keys", f"no verifier keys: {error}")
        return {}


def _by_shard(lines: Sequence[str]) -> Keys:
    """Raises LedgerError: a line is no key of a shard, or two are of one."""
    keys: dict[int, VerifierKey] = {}
    for line in lines:
        key = parse_verifier_key(line)
        if (shard := shard_of_origin(key.name)) in keys:
            raise LedgerError(f"two keys are of shard {shard}", where="verifier keys", fix="Name one for each shard.")
        keys[shard] = key
    return keys


def check_key_file(log: Path, keys: Keys, tell: Tell) -> None:
    """The secret key, if there is one to be read, is whole, and that of the verifier keys."""
    file = log / KEY_FILE
    try:
        data = file.read_bytes()
        signer = read_key(file)
    except (FileNotFoundError, PermissionError):
        return
    except OSError as error:
        tell(KEY_FILE, f"it cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        tell(KEY_FILE, "it is no text")
    except LedgerError as error:
        tell(KEY_FILE, error.what)
    else:
        if data != f"{signer.secret()}\n".encode():
            tell(KEY_FILE, "there is more in it than a key")
        for key in keys.values():
            if not key.name.startswith(f"{signer.name}/") or signer.renamed(key.name).key != key:
                tell(KEY_FILE, f"it is not the key of {key.name}")


def check_begun(shard: Path, key: VerifierKey, num_entries: int, tell: Tell) -> None:
    """The file beside a shard that says that it was begun. A shard without entries may have been left before that."""
    file = begun_path(shard)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        if num_entries:
            tell(file.name, "missing, so that the shard might be begun anew, under the same key")
    except OSError as error:
        tell(file.name, f"it cannot be read: {error.strerror}")
    else:
        if data != f"{key.name}\n".encode():
            tell(file.name, f"it should say {key.name}, and nothing else")


def check_no_other_begun(log: Path, shards: Iterable[Path], tell: Tell) -> None:
    """Nothing else was begun than these shards, which are there or missed already."""
    known = {begun_path(shard).name for shard in shards}
    for file in sorted(log.glob("shard-*.begun")):
        if file.name not in known:
            tell(file.name, "no verifier key is for a shard of this name")
