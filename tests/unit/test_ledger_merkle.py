"""The Merkle tree against RFC 6962's constants and the public proof vectors."""

import base64
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ledger.errors import ReceiptInvalid
from ledger.merkle import leaf_hash, node_hash, verify_consistency, verify_inclusion
from ledger.tree import Edge

LEAVES = [
    bytes.fromhex(text)
    for text in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
SHARED = Path(os.environ.get("MINTAGE_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "vectors" / "rfc6962"


def vectors(kind: str) -> list[Path]:
    return sorted((VECTORS / kind).rglob("*.json"))


def hashes(texts: list[str] | None) -> list[bytes]:
    return [base64.b64decode(text) for text in texts or []]


def root_of(leaves: list[bytes]) -> str:
    hashes = np.frombuffer(b"".join(map(leaf_hash, leaves)), np.uint8).reshape(-1, 32)
    return Edge(0, {}).extended(hashes)[0].root().hex()


def test_the_hashes_of_leaf_and_node_are_those_of_the_rfc() -> None:
    leaf = "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    node = "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    assert leaf_hash(b"L123456").hex() == leaf
    assert node_hash(b"N123", b"N456").hex() == node


def test_the_roots_of_the_test_inputs_are_the_published_ones() -> None:
    assert root_of([]) == hashlib.sha256().hexdigest()
    assert root_of(LEAVES[:1]) == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_of(LEAVES) == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no proof vectors in {VECTORS}")
def test_the_vectors_are_all_there() -> None:
    assert (len(vectors("inclusion")), len(vectors("consistency"))) == (98, 98)


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no proof vectors in {VECTORS}")
@pytest.mark.parametrize("path", vectors("inclusion"), ids=lambda path: str(path.relative_to(VECTORS)))
def test_every_inclusion_vector_comes_out_as_it_says(path: Path) -> None:
    case = json.loads(path.read_text())
    leaf, root = hashes([case["leafHash"], case["root"]])
    arguments = (case["leafIdx"], case["treeSize"], leaf, hashes(case["proof"]), root)
    if not case["wantErr"]:
        verify_inclusion(*arguments)
        return
    with pytest.raises(ReceiptInvalid):
        verify_inclusion(*arguments)


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no proof vectors in {VECTORS}")
@pytest.mark.parametrize("path", vectors("consistency"), ids=lambda path: str(path.relative_to(VECTORS)))
def test_every_consistency_vector_comes_out_as_it_says(path: Path) -> None:
    case = json.loads(path.read_text())
    old_root, new_root = hashes([case["root1"], case["root2"]])
    arguments = (case["size1"], case["size2"], old_root, new_root, hashes(case["proof"]))
    if not case["wantErr"]:
        verify_consistency(*arguments)
        return
    with pytest.raises(ReceiptInvalid):
        verify_consistency(*arguments)
