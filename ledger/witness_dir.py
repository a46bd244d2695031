"""A witness's directory: its key, the logs it watches, and its memory.

DIR/key          the secret key, mode 0600; cosigns, and never signs as a log
DIR/witness.key  its public key, a line: what goes into other people's policies
DIR/logs.keys    the verifier keys of the logs it watches, one a line; edit it, then start the witness again
DIR/memory/      what it has cosigned (`ledger.witness`); if that is lost, the key has to be retired with it
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ledger.errors import LogMismatch
from ledger.files import create_once, make_directory
from ledger.log import KEY_FILE, read_key
from ledger.note import KEY_BYTES, Signer, VerifierKey, WitnessKey, parse_verifier_key
from ledger.replace import replace_file
from ledger.witness import Witness

PUBLIC_FILE = "witness.key"
LOGS_FILE = "logs.keys"
MEMORY_DIR = "memory"


def make_witness(path: Path, name: str, log_keys: Sequence[VerifierKey], entropy: Callable[[int], bytes]) -> WitnessKey:
    """Make the directory of a new witness; its public key.

    Raises:
        LogMismatch: there is a witness in it already. It keeps its key and its memory.
        KeyInvalid: the name cannot be a key name.
        LedgerFull: no room for it.
    """
    signer = Signer(name, entropy(KEY_BYTES))
    make_directory(path / MEMORY_DIR)
    lines = "".join(f"{key}\n" for key in log_keys).encode()
    is_new = not (path / KEY_FILE).exists()
    if is_new:
        replace_file(path / LOGS_FILE, lines)
        is_new = create_once(path / KEY_FILE, f"{signer.secret()}\n".encode(), 0o600)
    if not is_new:
        raise LogMismatch("there is a witness already", where=str(path), fix="Use it, or choose another directory.")
    create_once(path / PUBLIC_FILE, f"{signer.witness_key}\n".encode(), 0o644)
    return signer.witness_key


def open_witness(path: Path) -> tuple[Witness, WitnessKey]:
    """The witness of a directory, and its public key.

    Raises:
        LogMismatch: there is none, or its memory is gone.
        KeyInvalid: the secret key may be read by others, or a key is malformed.
    """
    for name in (KEY_FILE, LOGS_FILE):
        if not (path / name).is_file():
            raise LogMismatch(f"there is no {name}", where=str(path), fix="Make a witness there: mintage witness init.")
    signer = read_key(path / KEY_FILE)
    lines = (path / LOGS_FILE).read_text(encoding="utf-8").splitlines()
    return Witness(path / MEMORY_DIR, signer, [parse_verifier_key(line) for line in lines]), signer.witness_key
