"""What must hold of a shard whose writer or whose machine failed, for all that had been acknowledged until then."""

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from crash_load import (
    NAME,
    NUM_CALLERS,
    SETUP,
    SIZES,
    START_NS,
    Call,
    Name,
    call_of,
    content_of,
    erasure_of,
    has_content,
    id_of,
)
from crash_writer import BEGUN, DONE, FAILED, HEAD, Record
from numpy.typing import NDArray

from ledger.book import Book
from ledger.entry import ENTRY_BYTES, Entries, as_bytes, from_bytes
from ledger.errors import EntryNotFound
from ledger.log import open_keys, shard_path
from ledger.merkle import verify_consistency
from ledger.note import read_checkpoint
from ledger.receipt import verify
from ledger.result import Result
from ledger.sha256 import leaf_hashes
from ledger.shard import Shard
from ledger.tree import Edge

NUM_SAMPLES = 6
ASSIGNED = ((0, 2), (6, 16))
"""Bytes of an entry that the shard fills in: version; shard and time."""


class Acknowledged:
    """Everything that the writers of the log in a directory have promised."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first: dict[Name, int] = {}
        self.rows: dict[Name, NDArray[np.uint8]] = {}
        self.indices: dict[Name, NDArray[np.int64]] = {}
        self.roots: dict[int, bytes] = {}
        self.unanswered: list[Name] = []

    def add(self, life: int, records: list[Record]) -> None:
        begun = []
        for record in records:
            name = Name(life, record.stream, record.number)
            if record.kind == BEGUN:
                begun.append(name)
            elif record.kind == DONE:
                self.answer(name, record.first)
                assert record.num_entries == len(self.rows[name])
            elif record.kind == HEAD:
                assert self.roots.setdefault(record.first, record.root) == record.root
            assert record.kind != FAILED, record.root
        self.unanswered = [name for name in begun if name not in self.first]

    def copy(self) -> "Acknowledged":
        """As it is now."""
        other = Acknowledged(self.path)
        other.first, other.rows, other.indices = self.first.copy(), self.rows.copy(), self.indices.copy()
        other.roots = self.roots.copy()
        return other

    def give_out(self, shard: Shard) -> None:
        """Everybody may have the checkpoint of a shard."""
        checkpoint = read_checkpoint(shard.checkpoint())
        self.roots[checkpoint.tree_size] = checkpoint.root

    def answer(self, name: Name, first: int) -> None:
        """The entries of a call are recorded from this index on."""
        self.first[name] = first
        self.rows[name] = as_bytes(call_of(name).entries)
        self.indices[name] = np.arange(first, first + len(self.rows[name]))


def opened(path: Path) -> Shard:
    keys = open_keys(path, NAME, 1)
    return Shard.open(
        shard_path(path, 0), 0, keys.signers[0], lambda: START_NS, entropy=os.urandom, lock_wait_s=0, sizes=SIZES
    )


def check_whole(shard: Shard, acknowledged: Acknowledged, chance: random.Random, where: tuple[int, int]) -> None:
    """The tree, the ids and the balances are those of the entries; and what was promised is among them."""
    data = shard.read_entries(0, shard.tree_size)
    entries = from_bytes(data)
    assert Edge(0, {}).extended(leaf_hashes(as_bytes(entries)))[0].root() == root_of(shard), where
    assert len(np.unique(entries["id"].view("V16"))) == len(entries), where
    book = Book(b"another")
    book.replay(entries, 0)
    assert shard.book.snapshot() == book.snapshot(), where
    for debits, credits, held_debits, held_credits in book.trial_balance().values():
        assert (debits, held_debits) == (credits, held_credits), where
    check_entries(shard, entries, acknowledged, where)
    check_checkpoints(shard, acknowledged, chance, where)
    check_samples(shard, acknowledged, chance, where)


def root_of(shard: Shard) -> bytes:
    return read_checkpoint(shard.checkpoint()).root


def check_entries(shard: Shard, entries: Entries, acknowledged: Acknowledged, where: tuple[int, int]) -> None:
    """Every acknowledged entry is at its index with its bytes, but for what the shard fills in."""
    none = np.empty((0, ENTRY_BYTES), np.uint8)
    indices = np.concatenate([np.arange(0), *acknowledged.indices.values()])
    assert indices.max(initial=-1) < shard.tree_size, where
    expected = np.concatenate([none, *acknowledged.rows.values()])
    recorded = as_bytes(entries)[indices]
    for begin, end in ASSIGNED:
        expected[:, begin:end] = recorded[:, begin:end] = 0
    assert (expected == recorded).all(), where
    assert (np.diff(entries["time_ns"].astype(np.int64)) > 0).all(), where


def check_checkpoints(shard: Shard, acknowledged: Acknowledged, chance: random.Random, where: tuple[int, int]) -> None:
    """Checkpoints that were given out are of trees that this one grew out of; the newest always among them."""
    sizes = sorted(size for size in acknowledged.roots if size)
    for size in {*sizes[-1:], *chance.sample(sizes, min(NUM_SAMPLES, len(sizes)))}:
        proof = shard.consistency(size, shard.tree_size)
        verify_consistency(size, shard.tree_size, acknowledged.roots[size], root_of(shard), proof)


def check_samples(shard: Shard, acknowledged: Acknowledged, chance: random.Random, where: tuple[int, int]) -> None:
    """Some entries are found by id and their receipts verify; contents are there unless they were erased."""
    keys = open_keys(acknowledged.path, NAME, 1).verifier_keys
    names = list(acknowledged.first)
    for name in {*names[-NUM_CALLERS:], *chance.sample(names, min(NUM_SAMPLES, len(names)))}:
        if name.stream == SETUP:
            continue
        index = acknowledged.first[name]
        assert shard.find(id_of(name, 0)) == index, where
        assert verify(shard.receipt(index), keys).index == index
        if not has_content(name):
            continue
        if shard.find(id_of(erasure_of(name), 0)) is None:
            assert shard.content(index) == content_of(name), where
        else:
            with pytest.raises(EntryNotFound):
                shard.content(index)


def repeat(shard: Shard, acknowledged: Acknowledged, chance: random.Random, seen: Counter[str]) -> None:
    """Whoever had no answer asks again, and is told so; whoever had one gets the same."""
    answered = chance.sample(list(acknowledged.first), min(NUM_SAMPLES, len(acknowledged.first)))
    for name in answered:
        assert repeated(shard, call_of(name)) == (Result.EXISTS, acknowledged.first[name]), name
    if Name(0, SETUP, 0) not in acknowledged.first:
        acknowledged.unanswered.insert(0, Name(0, SETUP, 0))
    for name in acknowledged.unanswered:
        result, first = repeated(shard, call_of(name), alone=chance.random() < 0.5)
        assert result in (Result.OK, Result.EXISTS), name
        assert repeated(shard, call_of(name)) == (Result.EXISTS, first), name
        acknowledged.answer(name, first)
        seen[f"calls repeated that were {'not ' if result == Result.OK else ''}recorded"] += 1


def repeated(shard: Shard, call: Call, *, alone: bool = False) -> tuple[Result, int]:
    """The answer to the first entry of a call, and its index. It is recorded as a whole or not at all."""
    record = shard.sequence if alone else shard.append
    appended = record(call.entries, call.payloads)
    result, *others = map(Result, appended.results.tolist())
    assert set(others) <= {result}
    first = int(appended.indices[0])
    assert appended.indices.tolist() == list(range(first, first + len(call.entries)))
    return result, first
