"""What verifies our logs that is not ours: a Go program on golang.org/x/mod's note and tlog, and how it gets a log.

Needs Debian's golang-go and golang-golang-x-mod-dev (or any `go`, and x/mod in $GOPATH/src): nothing is downloaded.
Without them its tests are skipped; with MINTAGE_GO_REQUIRED=1 in the environment they fail.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.merkle import consistency_proof, inclusion_proof, leaf_hash
from ledger.note import Signer, decode_base64, encode_base64
from ledger.tiles import Source, export
from ledger.tree import Nodes
from ledger.witness import Witness, build_request

PROGRAM = Path(__file__).parent / "integration/interop"
GOPATH = os.pathsep.join(filter(None, [os.environ.get("GOPATH"), "/usr/share/gocode"]))  # the latter is Debian's
HAS_LIBRARY = any((Path(root) / "src/golang.org/x/mod/sumdb/tlog").is_dir() for root in GOPATH.split(os.pathsep))
REQUIRED_VARIABLE = "MINTAGE_GO_REQUIRED"
BUILD_S_MAX = 240.0
RUN_S_MAX = 60.0

WITNESS = Signer("witness.example/w1", b"w" * 32)
COSIGNED_S = 1_700_000_000


def need_go() -> None:
    """Skip without Go and its library, or fail where they are required."""
    if shutil.which("go") is None:
        missing = "no go in PATH (Debian: golang-go)"
    elif not HAS_LIBRARY:
        missing = f"no golang.org/x/mod in {GOPATH} (Debian: golang-golang-x-mod-dev)"
    else:
        return
    if os.environ.get(REQUIRED_VARIABLE) == "1":
        pytest.fail(missing)
    pytest.skip(missing)


def build_verifier(build: Path) -> Path:
    """The Go program, built from sources on this machine alone."""
    need_go()
    offline = {"GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    environment = {**os.environ, **offline, "GOPATH": GOPATH, "GOCACHE": str(build / "cache")}
    command = ["go", "build", "-o", str(build / "interop"), "."]
    built = subprocess.run(
        command, cwd=PROGRAM, env=environment, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
    )
    assert built.returncode == 0, built.stderr
    return build / "interop"


def prepare(
    directory: Path,
    log: Source,
    signer: Signer,
    witness: Witness,
    cosigned_size: int,
    indices: Sequence[int],
    roots: Mapping[int, bytes],
) -> None:
    """A log as the Go program takes it: static files, cosigned, and beside them keys, proofs, and what they prove.

    Args:
        cosigned_size: how many entries the witness knows of.
        roots: of its trees, by size, the newest included: what the log was once.
    """
    size = log.tree_size
    nodes = Nodes(size, log.read_hashes)
    proof = consistency_proof(cosigned_size, size, nodes) if cosigned_size else []
    cosignature = witness.add_checkpoint(build_request(cosigned_size, proof, log.checkpoint()), COSIGNED_S)
    export(directory / "log", log)
    with (directory / "log/checkpoint").open("a", encoding="utf-8") as file:
        file.write(cosignature)
    case = {
        "VerifierKey": str(signer.key),
        "SecretKey": signer.secret(),
        "WitnessKey": str(WITNESS.witness_key),
        "Inclusion": [
            {
                "Index": index,
                "Leaf": encode_base64(leaf_hash(log.read_entries(index, index + 1))),
                "Proof": texts(inclusion_proof(index, size, nodes)),
            }
            for index in indices
        ],
        "Consistency": [
            {"Size": old_size, "Root": encode_base64(root), "Proof": texts(consistency_proof(old_size, size, nodes))}
            for old_size, root in roots.items()
        ],
    }
    (directory / "case.json").write_text(json.dumps(case))


class Report(msgspec.Struct, rename="pascal"):
    """What the Go program prints."""

    failures: dict[str, str]
    paths: list[str] | None
    inclusion: list[list[str] | None] | None
    consistency: list[list[str] | None] | None
    signed: str
    time_s: int


def below(end: int, numbers: list[int]) -> list[int]:
    return [number for number in numbers if number < end]


def texts(hashes: list[bytes]) -> list[str]:
    return [encode_base64(value) for value in hashes]


def hashes(proof: list[str] | None) -> list[bytes]:
    return [decode_base64(text) for text in proof or []]


def verify(verifier: Path, directory: Path) -> Report:
    done = run(verifier, "log", directory)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Report)


def run(verifier: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([verifier, *arguments], capture_output=True, text=True, timeout=RUN_S_MAX, check=False)


Edit = Callable[[Path], None]


def rewrite(file: Path, data: bytes) -> None:
    """New content for a file, not for the others that are links to it."""
    file.unlink()
    file.write_bytes(data)


def flip(path: str, place: int) -> Edit:
    """One bit of one byte of a file of the log."""

    def edit(directory: Path) -> None:
        file = directory / "log" / path
        data = bytearray(file.read_bytes())
        data[place] ^= 1
        rewrite(file, bytes(data))

    return edit


def replace_line(number: int, change: Callable[[str], str]) -> Edit:
    """A line of the checkpoint: 0 origin, 1 size, 2 root, 4 the log's signature, 5 the witness's."""

    def edit(directory: Path) -> None:
        file = directory / "log/checkpoint"
        lines = file.read_text(encoding="utf-8").split("\n")
        lines[number] = change(lines[number])
        rewrite(file, "\n".join(lines).encode())

    return edit


def flip_line(number: int, place: int) -> Edit:
    """One bit of the base64 data that ends a line of the checkpoint."""

    def change(line: str) -> str:
        start, space, encoded = line.rpartition(" ")
        return start + space + flipped_text(encoded, place)

    return replace_line(number, change)


def flipped_text(encoded: str, place: int) -> str:
    data = bytearray(decode_base64(encoded))
    data[place] ^= 1
    return encode_base64(bytes(data))


def change_case(change: Callable[[Any], None]) -> Edit:
    def edit(directory: Path) -> None:
        file = directory / "case.json"
        case = json.loads(file.read_text())
        change(case)
        rewrite(file, json.dumps(case).encode())

    return edit


def flip_proof(kind: str, number: int) -> Edit:
    """One bit of the middle hash of a proof."""

    def change(case: Any) -> None:
        proof = case[kind][number]["Proof"]
        proof[len(proof) // 2] = flipped_text(proof[len(proof) // 2], 0)

    return change_case(change)


def flip_hash(kind: str, number: int, field: str) -> Edit:
    def change(case: Any) -> None:
        case[kind][number][field] = flipped_text(case[kind][number][field], 31)

    return change_case(change)
