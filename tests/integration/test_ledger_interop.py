"""The log against code that is not ours: golang.org/x/mod's note and tlog verify it, and refuse what was tampered with.

Needs Debian's golang-go and golang-golang-x-mod-dev (or any `go`, and x/mod in $GOPATH/src): nothing is downloaded.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_log import SIGNER, MemoryLog, some_entries

from ledger.merkle import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion
from ledger.note import Checkpoint, Signer, decode_base64, encode_base64, open_checkpoint, parse_secret
from ledger.tiles import export
from ledger.witness import Witness, build_request

PROGRAM = Path(__file__).parent / "interop"
GOPATH = os.pathsep.join(filter(None, [os.environ.get("GOPATH"), "/usr/share/gocode"]))  # the latter is Debian's
HAS_LIBRARY = any((Path(root) / "src/golang.org/x/mod/sumdb/tlog").is_dir() for root in GOPATH.split(os.pathsep))
BUILD_S_MAX = 240.0
RUN_S_MAX = 60.0

WITNESS = Signer("witness.example/w1", b"w" * 32)
COSIGNED_S = 1_700_000_000
SIZES = [700, 65_920]  # two and three levels of tiles, each with a partial one
INDICES = [0, 1, 255, 256, 32_767, 65_535, 65_536, 65_919]
OLD_SIZES = [1, 2, 255, 256, 257, 700, 65_536, 65_537, 65_919, 65_920]
# tlog before x/mod 0.40 (CVE-2026-56865) leaves a tile unchecked for every subtree of the root beyond one in a tile of
# the right edge. 65,920 = 2^16 + 2^8 + 2^7 has one in each, so there every version checks every tile.
TAMPERED_SIZE = 65_920

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="no go in PATH (Debian: golang-go)"),
    pytest.mark.skipif(not HAS_LIBRARY, reason=f"no golang.org/x/mod in {GOPATH} (Debian: golang-golang-x-mod-dev)"),
]


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built from sources on this machine alone."""
    build = tmp_path_factory.mktemp("go")
    offline = {"GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    environment = {**os.environ, **offline, "GOPATH": GOPATH, "GOCACHE": str(build / "cache")}
    command = ["go", "build", "-o", str(build / "interop"), "."]
    built = subprocess.run(
        command, cwd=PROGRAM, env=environment, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
    )
    assert built.returncode == 0, built.stderr
    return build / "interop"


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    return MemoryLog(some_entries(max(SIZES)))


@pytest.fixture(scope="module")
def directories(log: MemoryLog, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By size, the log as static files, cosigned, and beside it keys and proofs for the Go program."""
    witness = Witness(tmp_path_factory.mktemp("witness"), WITNESS, [SIGNER.key])
    directories, old_size = {}, 0
    for size in SIZES:
        log.tree_size = size
        proof = consistency_proof(old_size, size, log.read_node) if old_size else []
        cosignature = witness.add_checkpoint(build_request(old_size, proof, log.checkpoint()), COSIGNED_S)
        directories[size] = tmp_path_factory.mktemp("interop")
        export(directories[size] / "log", log)
        with (directories[size] / "log/checkpoint").open("a", encoding="utf-8") as file:
            file.write(cosignature)
        (directories[size] / "case.json").write_text(json.dumps(case_of(log, size)))
        old_size = size
    return directories


def case_of(log: MemoryLog, size: int) -> dict[str, object]:
    """What the Go program gets beside the log: keys, proofs, and what they prove."""
    return {
        "VerifierKey": str(SIGNER.key),
        "SecretKey": SIGNER.secret(),
        "WitnessKey": str(WITNESS.witness_key),
        "Inclusion": [
            {
                "Index": index,
                "Leaf": encode_base64(log.leaves[index]),
                "Proof": texts(inclusion_proof(index, size, log.read_node)),
            }
            for index in below(size, INDICES)
        ],
        "Consistency": [
            {
                "Size": old_size,
                "Root": encode_base64(log.root(old_size)),
                "Proof": texts(consistency_proof(old_size, size, log.read_node)),
            }
            for old_size in below(size + 1, OLD_SIZES)
        ],
    }


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
    done = subprocess.run([verifier, directory], capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Report)


@pytest.mark.parametrize("size", SIZES)
def test_every_check_of_the_other_implementation_passes(
    verifier: Path, directories: dict[int, Path], size: int
) -> None:
    report = verify(verifier, directories[size])
    assert report.failures == {}
    assert report.time_s == COSIGNED_S


@pytest.mark.parametrize("size", SIZES)
def test_the_other_implementation_has_the_same_tiles(verifier: Path, directories: dict[int, Path], size: int) -> None:
    log = directories[size] / "log"
    ours = {path.relative_to(log).as_posix() for path in (log / "tile").rglob("*") if path.is_file()}
    assert ours == set(verify(verifier, directories[size]).paths or [])


@pytest.mark.parametrize("size", SIZES)
def test_we_verify_the_proofs_that_the_other_implementation_makes_from_our_tiles(
    verifier: Path, directories: dict[int, Path], log: MemoryLog, size: int
) -> None:
    report, root = verify(verifier, directories[size]), log.root(size)
    assert report.inclusion is not None and report.consistency is not None
    for index, proof in zip(below(size, INDICES), report.inclusion, strict=True):
        verify_inclusion(index, size, log.leaves[index], hashes(proof), root)
    for old_size, proof in zip(below(size + 1, OLD_SIZES), report.consistency, strict=True):
        verify_consistency(old_size, size, log.root(old_size), root, hashes(proof))


def test_the_other_implementation_signs_with_our_secret_key_as_we_do(
    verifier: Path, directories: dict[int, Path], log: MemoryLog
) -> None:
    size = SIZES[0]
    signed = verify(verifier, directories[size]).signed
    assert signed == log.note(size)
    assert open_checkpoint(signed, [parse_secret(SIGNER.secret()).key]) == Checkpoint(SIGNER.name, size, log.root(size))


# ---- tampering

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


TAMPERED: dict[str, tuple[Edit, set[str]]] = {
    "the origin": (replace_line(0, lambda line: line + "1"), {"note", "cosignature"}),
    "the size": (replace_line(1, lambda line: "65921"), {"note", "cosignature"}),
    "the root": (flip_line(2, 0), {"note", "cosignature"}),
    "the log's signature": (flip_line(4, 20), {"note"}),
    "the cosignature": (flip_line(5, 40), {"cosignature"}),
    "the time of the cosignature": (flip_line(5, 11), {"cosignature"}),
    "a full tile": (flip("tile/0/000", 100), {"entries", "compute"}),
    "a partial tile": (flip("tile/0/257.p/128", 0), {"root", "entries", "compute"}),
    "an upper tile": (flip("tile/1/000", 32 * 200), {"entries", "compute"}),
    "the uppermost tile": (flip("tile/2/000.p/1", 0), {"root", "entries", "compute"}),
    "an entry": (flip("tile/entries/100", 2 + 242 * 7), {"entries"}),
    "the length of an entry": (flip("tile/entries/100", 1), {"entries"}),
    "a leaf": (flip_hash("Inclusion", 3, "Leaf"), {"inclusion"}),
    "an inclusion proof": (flip_proof("Inclusion", 4), {"inclusion"}),
    "an old root": (flip_hash("Consistency", 3, "Root"), {"consistency"}),
    "a consistency proof": (flip_proof("Consistency", 6), {"consistency"}),
}


@pytest.mark.parametrize("part", TAMPERED)
def test_the_other_implementation_refuses_one_flipped_bit(
    verifier: Path, directories: dict[int, Path], tmp_path: Path, part: str
) -> None:
    edit, failing = TAMPERED[part]
    tampered = tmp_path / "tampered"
    shutil.copytree(directories[TAMPERED_SIZE], tampered, copy_function=os.link)
    edit(tampered)
    assert verify(verifier, tampered).failures.keys() == failing
