"""Real stores on disk against code that is not ours (tests/go_verifier.py): what a shard, the log of super-checkpoints
and an adopted edge give out is verified by it, and what was tampered with is refused.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from go_verifier import (
    COSIGNED_S,
    WITNESS,
    Edit,
    below,
    change_case,
    flip,
    flip_line,
    flipped_text,
    prepare,
    run,
    verify,
)
from whole_log import LOG, START_NS, Ledger, plain

from ledger.adopt import Adopter, edge_signer
from ledger.entry import Entries
from ledger.log import ADOPTED_DIR, KEY_FILE, VERIFIER_FILE, origin, read_key, shard_of_origin, shard_path
from ledger.note import Signer, open_checkpoint, read_checkpoint
from ledger.receipt import HEADER
from ledger.shard import Shard
from ledger.stored import StoredLog
from ledger.superlog import SUPER_DIR, SuperLog, View
from ledger.tiles import export
from ledger.witness import Witness

STORES = ["shard", "super-log", "adopted edge"]
BATCHES = [1, 255, 700, 3244]
UNCOVERED = (
    24  # after the last moment; with them 4,224 = 2^12 + 2^7, of which every tile is checked (test_ledger_interop)
)
EDGE = 17


class Issued(msgspec.Struct, frozen=True):
    """A receipt or a chain as a third party has it, and what it is to prove."""

    command: str
    keys: Path
    text: str
    origin: str
    index: int
    size: int
    entry: bytes


class Found(msgspec.Struct, rename="pascal"):
    """What the Go program says that it proves."""

    origin: str
    index: int
    size: int
    entry: bytes


class Stores:
    """What was written on disk: DIR/<name> is a store as the Go program takes it, `issued` what was given out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.issued: dict[str, Issued] = {}
        self._notes: dict[str, list[str]] = {name: [] for name in STORES}

    def write_edge(self) -> Signer:
        """An edge's log, written offline; its signer."""
        path = self.path / "edge"
        signer = edge_signer(path, LOG, EDGE)
        with Shard.open(shard_path(path, EDGE), EDGE, signer, lambda: START_NS, entropy=os.urandom) as edge:
            for first, num_entries in [(0, 20), (20, 300)]:
                record(edge, plain(num_entries, first))
                self._notes["adopted edge"].append(edge.checkpoint())
            for index in [0, 255, 319]:
                self.issued[f"receipt {index} of the edge"] = receipt_of(edge, path / VERIFIER_FILE, index)
        return signer

    def write_shard(self, shard: Shard, home: Shard, superlog: SuperLog) -> None:
        """All batches, an export before and a moment after each; what comes last is left to export from disk."""
        first = 0
        for place, num_entries in enumerate(BATCHES):
            export(self.path / "shard/log", shard)
            record(shard, plain(num_entries, first), is_sequenced=place == 1)
            superlog.commit([view_of(each, superlog) for each in (shard, home)])
            self._notes["shard"].append(shard.checkpoint())
            self._notes["super-log"].append(superlog.checkpoint())
            first += num_entries
        record(shard, plain(UNCOVERED, first))
        self._notes["shard"].append(shard.checkpoint())

    def issue(self, ledger: Ledger, superlog: SuperLog) -> None:
        """Receipts and chains of the shards and the super-log."""
        shard, home = ledger.shards[0], ledger.shards[1]
        keys, super_keys = ledger.path / VERIFIER_FILE, ledger.path / SUPER_DIR / VERIFIER_FILE
        for index in [0, 1, 255, 256, 4199]:
            self.issued[f"receipt {index} of the shard"] = receipt_of(shard, keys, index)
            self.issued[f"chain {index} of the shard"] = chain_of(superlog, shard, super_keys, index)
        self.issued["receipt of an uncovered entry"] = receipt_of(shard, keys, 4223)
        self.issued["receipt of the home"] = receipt_of(home, keys, 0)
        self.issued["chain of the home"] = chain_of(superlog, home, super_keys, 0)
        self.issued["receipt of the super-log"] = receipt_of(superlog.log, super_keys, superlog.log.tree_size - 2)

    def prepare(self, name: str, log_path: Path, signer: Signer) -> None:
        """A store as it lies on disk, with nobody who owns it."""
        witness_path = self.path / f"witness of the {name}"
        witness_path.mkdir()
        witness = Witness(witness_path, WITNESS, [signer.key])
        olds = [open_checkpoint(note, [signer.key]) for note in self._notes[name]]
        with StoredLog(log_path) as log:
            assert log.checkpoint() == self._notes[name][-1]
            indices = below(log.tree_size, [0, 3, 255, 256, 4095, 4223])
            roots = {old.tree_size: old.root for old in olds}
            prepare(self.path / name, log, signer, witness, 0, indices, roots)


@pytest.fixture(scope="module")
def stores(verifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """A ledger of two shards, the edge that it has adopted, and a moment of its super-log for every commit."""
    stores = Stores(tmp_path_factory.mktemp("stores"))
    edge_key = stores.write_edge()
    ledger = Ledger(stores.path / "ledger")
    super_path = ledger.path / SUPER_DIR
    keys = [signer.key for signer in ledger.keys.signers]
    superlog = SuperLog.open(ledger.path, LOG, keys, lambda: START_NS, entropy=os.urandom)
    try:
        adopter = Adopter(ledger.path, ledger.shards[1], [edge_key.key], lambda: {0: 0, 1: 0})
        adopter.adopt(shard_path(stores.path / "edge", EDGE), COSIGNED_S)
        stores.write_shard(ledger.shards[0], ledger.shards[1], superlog)
        stores.issue(ledger, superlog)
    finally:
        superlog.close()
        ledger.close()
    stores.prepare("shard", shard_path(ledger.path, 0), ledger.keys.signers[0])
    super_key = read_key(super_path / KEY_FILE).renamed(origin(f"{LOG}/{SUPER_DIR}", 0))
    stores.prepare("super-log", shard_path(super_path, 0), super_key)
    stores.prepare("adopted edge", shard_path(ledger.path / ADOPTED_DIR, EDGE), edge_key)
    return stores


def record(shard: Shard, entries: Entries, is_sequenced: bool = False) -> None:
    """In one of the two ways to be durable."""
    appended = shard.sequence(entries) if is_sequenced else shard.append(entries)
    assert not appended.results.any()


def view_of(shard: Shard, superlog: SuperLog) -> View:
    note = shard.checkpoint()
    new = read_checkpoint(note)
    old_size = superlog.sizes().get(shard_of_origin(new.origin), 0)
    return View(note, tuple(shard.consistency(old_size, new.tree_size) if 0 < old_size < new.tree_size else ()))


def receipt_of(shard: Shard, keys: Path, index: int) -> Issued:
    new = read_checkpoint(shard.checkpoint())
    entry = shard.read_entries(index, index + 1)
    return Issued("receipt", keys, shard.receipt(index), new.origin, index, new.tree_size, entry)


def chain_of(superlog: SuperLog, shard: Shard, keys: Path, index: int) -> Issued:
    name = read_checkpoint(shard.checkpoint()).origin
    size = superlog.sizes()[shard_of_origin(name)]
    entry = shard.read_entries(index, index + 1)
    return Issued("chain", keys, superlog.chain(shard, index).text(), name, index, size, entry)


def read_issued(verifier: Path, issued: Issued, directory: Path) -> subprocess.CompletedProcess[str]:
    """What the Go program makes of a text, out of a file."""
    (directory / "proof.txt").write_text(issued.text, encoding="utf-8")
    return run(verifier, issued.command, issued.keys, directory / "proof.txt")


@pytest.mark.parametrize("name", STORES)
def test_the_other_implementation_verifies_what_a_store_on_disk_exports(
    verifier: Path, stores: Stores, name: str
) -> None:
    report = verify(verifier, stores.path / name)
    log = stores.path / name / "log"
    assert (report.failures, report.time_s) == ({}, COSIGNED_S)
    assert (log / "checkpoint").read_text(encoding="utf-8").startswith(report.signed)
    paths = {path.relative_to(log).as_posix() for path in (log / "tile").rglob("*") if path.is_file()}
    needed = set(report.paths or [])
    assert needed <= paths and all(".p/" in path for path in paths - needed)  # narrower tiles of earlier exports stay


def test_every_receipt_and_chain_of_a_store_proves_its_entry_to_the_other_implementation(
    verifier: Path, stores: Stores, tmp_path: Path
) -> None:
    for name, issued in stores.issued.items():
        done = read_issued(verifier, issued, tmp_path)
        assert done.returncode == 0, (name, done.stderr)
        found = msgspec.json.decode(done.stdout, type=Found)
        assert found == Found(issued.origin, issued.index, issued.size, issued.entry), name


# ---- tampering with what stores give


def another_key(case: Any) -> None:
    case["VerifierKey"] = str(Signer(case["VerifierKey"].split("+")[0], b"x" * 32).key)


TAMPERED_STORES: dict[str, tuple[str, Edit, set[str]]] = {
    "a full tile": ("shard", flip("tile/0/003", 32 * 255), {"entries", "compute"}),
    "a partial tile": ("shard", flip("tile/0/016.p/128", 0), {"root", "entries", "compute"}),
    "an upper tile": ("shard", flip("tile/1/000.p/16", 32 * 3), {"root", "entries", "compute"}),
    "an entry": ("shard", flip("tile/entries/001", 2 + 242 * 7), {"entries"}),
    "the root": ("shard", flip_line(2, 0), {"note", "cosignature"}),
    "the key": ("shard", change_case(another_key), {"note"}),
    "a tile of the super-log": ("super-log", flip("tile/0/000.p/8", 0), {"root", "entries", "compute"}),
    "an entry of the super-log": ("super-log", flip("tile/entries/000.p/8", 2), {"entries"}),
    "the super-log's key": ("super-log", change_case(another_key), {"note"}),
    "a tile of the edge": ("adopted edge", flip("tile/0/000", 0), {"entries", "compute"}),
    "an entry of the edge": ("adopted edge", flip("tile/entries/001.p/64", 2), {"entries"}),
    "the edge's key": ("adopted edge", change_case(another_key), {"note"}),
}


@pytest.mark.parametrize("part", TAMPERED_STORES)
def test_the_other_implementation_refuses_one_flipped_bit_or_another_key_of_a_store(
    verifier: Path, stores: Stores, tmp_path: Path, part: str
) -> None:
    name, edit, failing = TAMPERED_STORES[part]
    tampered = tmp_path / "tampered"
    shutil.copytree(stores.path / name, tampered, copy_function=os.link)
    edit(tampered)
    assert verify(verifier, tampered).failures.keys() == failing


def edit_line(text: str, proof: int, number: int, change: Callable[[str], str]) -> str:
    """A line of a receipt, or of the receipt `proof` of a chain.

    Args:
        number: 0 entry, 1 index, 2 the first hash; -5 origin, -4 size, -3 root, -1 the log's signature.
    """
    parts = text.split(f"{HEADER}\n")
    part = parts[1 + proof]
    lines = part.rstrip("\n").split("\n")
    lines[number] = change(lines[number])
    parts[1 + proof] = "\n".join(lines) + part[len(part.rstrip("\n")) :]
    return f"{HEADER}\n".join(parts)


def flip_word(line: str) -> str:
    """One bit of the base64 data that ends a line."""
    start, space, encoded = line.rpartition(" ")
    return start + space + flipped_text(encoded, 31)


BAD_PROOF = "invalid transparency proof"
BAD_SIGNATURE = "invalid signature"
NO_SIGNATURE = "no verifiable signatures"
BAD_LINK = "does not say"
RECEIPT, CHAIN = "receipt 256 of the shard", "chain 256 of the shard"
TAMPERED_TEXTS: dict[str, tuple[str, int, int, Callable[[str], str], str]] = {
    "the entry": (RECEIPT, 0, 0, flip_word, BAD_PROOF),
    "the index": (RECEIPT, 0, 1, lambda line: "index 257", BAD_PROOF),
    "a hash": (RECEIPT, 0, 2, flip_word, BAD_PROOF),
    "a hash too many": (RECEIPT, 0, 2, lambda line: f"{line}\n{line}", BAD_PROOF),
    "the size": (RECEIPT, 0, -4, lambda line: "4225", BAD_SIGNATURE),
    "the root": (RECEIPT, 0, -3, flip_word, BAD_SIGNATURE),
    "the signature": (RECEIPT, 0, -1, flip_word, BAD_SIGNATURE),
    "a hash of the super-log's": ("receipt of the super-log", 0, 2, flip_word, BAD_PROOF),
    "a hash of the edge's": ("receipt 0 of the edge", 0, 2, flip_word, BAD_PROOF),
    "a chain's entry": (CHAIN, 0, 0, flip_word, BAD_PROOF),
    "a chain's first hash": (CHAIN, 0, 2, flip_word, BAD_PROOF),
    "a chain's shard": (CHAIN, 0, -5, lambda line: f"{LOG}/shard-1", BAD_LINK),
    "a chain's log": (CHAIN, 0, -5, lambda line: "other.example/log/shard-0", BAD_LINK),
    "a chain's size": (CHAIN, 0, -4, lambda line: "4201", BAD_LINK),
    "a chain's root": (CHAIN, 0, -3, flip_word, BAD_LINK),
    "a chain's record": (CHAIN, 1, 0, flip_word, BAD_PROOF),
    "a chain's second hash": (CHAIN, 1, 2, flip_word, BAD_PROOF),
    "a chain's super-root": (CHAIN, 1, -3, flip_word, BAD_SIGNATURE),
    "a chain's signature": (CHAIN, 1, -1, flip_word, BAD_SIGNATURE),
}


def refusal(verifier: Path, issued: Issued, directory: Path) -> str:
    """Why the Go program refuses a text."""
    done = read_issued(verifier, issued, directory)
    assert done.returncode == 1, done.stdout
    return done.stderr


@pytest.mark.parametrize("part", TAMPERED_TEXTS)
def test_the_other_implementation_refuses_a_receipt_or_a_chain_with_one_part_changed(
    verifier: Path, stores: Stores, tmp_path: Path, part: str
) -> None:
    name, proof, number, change, why = TAMPERED_TEXTS[part]
    issued = stores.issued[name]
    changed = msgspec.structs.replace(issued, text=edit_line(issued.text, proof, number, change))
    assert why in refusal(verifier, changed, tmp_path)


def test_the_other_implementation_refuses_a_receipt_and_a_chain_under_the_key_of_another_log(
    verifier: Path, stores: Stores, tmp_path: Path
) -> None:
    receipt, chain = stores.issued[RECEIPT], stores.issued[CHAIN]
    same_name = tmp_path / VERIFIER_FILE
    same_name.write_text(f"{Signer(receipt.origin, b'x' * 32).key}\n")
    for issued, keys in [(receipt, chain.keys), (chain, receipt.keys), (receipt, same_name)]:
        assert NO_SIGNATURE in refusal(verifier, msgspec.structs.replace(issued, keys=keys), tmp_path)


def test_the_other_implementation_refuses_parts_that_do_not_belong_together(
    verifier: Path, stores: Stores, tmp_path: Path
) -> None:
    receipt, chain, other = (stores.issued[name] for name in (RECEIPT, CHAIN, "chain of the home"))
    proof = receipt.text.partition("\n\n")[0]
    first, between, _ = chain.text.partition(f"\n\n{HEADER}\n")
    older = first.partition("\n\n")[2]
    under_older = f"{proof}\n\n{older}\n"
    assert BAD_PROOF in refusal(verifier, msgspec.structs.replace(receipt, text=under_older), tmp_path)
    mixed = first + between + other.text.partition(between)[2]
    assert BAD_LINK in refusal(verifier, msgspec.structs.replace(chain, text=mixed), tmp_path)


def test_the_other_implementation_refuses_a_checkpoint_that_another_shard_of_the_log_has_signed(
    verifier: Path, stores: Stores, tmp_path: Path
) -> None:
    receipt = stores.issued[RECEIPT]
    neighbour = read_key(receipt.keys.with_name(KEY_FILE)).renamed(origin(LOG, 1))
    proof, _, note = receipt.text.partition("\n\n")
    signed = neighbour.sign(read_checkpoint(note).text())
    changed = msgspec.structs.replace(receipt, text=f"{proof}\n\n{signed}")
    assert "not a checkpoint of this log" in refusal(verifier, changed, tmp_path)
