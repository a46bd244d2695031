"""A log in memory against code that is not ours (tests/go_verifier.py): golang.org/x/mod's note and tlog verify it, and
refuse what was tampered with. It is large, and has any size one likes; real stores are in test_ledger_interop_stores.
"""

import os
import shutil
from pathlib import Path

import pytest
from go_verifier import (
    COSIGNED_S,
    REQUIRED_VARIABLE,
    WITNESS,
    Edit,
    below,
    flip,
    flip_hash,
    flip_line,
    flip_proof,
    hashes,
    need_go,
    prepare,
    replace_line,
    verify,
)
from memory_log import SIGNER, MemoryLog, some_entries

from ledger.merkle import verify_consistency, verify_inclusion
from ledger.note import Checkpoint, open_checkpoint, parse_secret
from ledger.witness import Witness

SIZES = [700, 65_920]  # two and three levels of tiles, each with a partial one
INDICES = [0, 1, 255, 256, 32_767, 65_535, 65_536, 65_919]
OLD_SIZES = [1, 2, 255, 256, 257, 700, 65_536, 65_537, 65_919, 65_920]
# tlog before x/mod 0.40 (CVE-2026-56865) leaves a tile unchecked for every subtree of the root beyond one in a tile of
# the right edge. 65,920 = 2^16 + 2^8 + 2^7 has one in each, so there every version checks every tile.
TAMPERED_SIZE = 65_920


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    return MemoryLog(some_entries(max(SIZES)))


@pytest.fixture(scope="module")
def directories(verifier: Path, log: MemoryLog, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By size, the log as static files, cosigned, and beside it keys and proofs for the Go program."""
    witness = Witness(tmp_path_factory.mktemp("witness"), WITNESS, [SIGNER.key])
    directories, old_size = {}, 0
    for size in SIZES:
        log.tree_size = size
        directories[size] = tmp_path_factory.mktemp("interop")
        roots = {old_size: log.root(old_size) for old_size in below(size + 1, OLD_SIZES)}
        prepare(directories[size], log, SIGNER, witness, old_size, below(size, INDICES), roots)
        old_size = size
    return directories


@pytest.mark.parametrize("required", ["", "1"])
def test_without_go_the_tests_are_skipped_and_where_it_is_required_they_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, required: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(REQUIRED_VARIABLE, required)
    with pytest.raises(pytest.fail.Exception if required else pytest.skip.Exception, match="golang-go"):
        need_go()


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
