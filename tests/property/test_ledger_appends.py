"""Any use of a shard: it answers as an ordered dictionary and a ledger of dictionaries do, and it never forgets."""

import copy
import hashlib
import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from settling import NS_PER_S, account, money, ownership
from shards import NOW_NS, columns, content_of, id_of, keys_of, open_shard, root_of
from test_settlement_model import DRAWS, FIRST_ASSET, FIRST_TRANSFER, LIMITS, Draw, Model, assert_same, write

from ledger import writer as writer_module
from ledger.entry import Entry, Flag, Kind, encode
from ledger.errors import LedgerFull
from ledger.index import Sizes
from ledger.note import open_checkpoint
from ledger.payload import Payload
from ledger.receipt import verify
from ledger.result import Result
from ledger.runs import Family
from ledger.shard import Publishing, Shard
from ledger.store import Batch

SIZES = Sizes(block_entries=16, batch_entries_max=8, segment_items=4, fan_in=3)
"""A run after every other batch, and a merge of every three."""

OTHER_SIZES = Sizes(block_entries=64, batch_entries_max=16, segment_items=7, fan_in=5)
SNAPSHOT_ENTRIES_MIN = 10
FOREIGN_SHARD = 1
FIRST_PLAIN = 200
PLAIN_KINDS = (Kind.MODEL, Kind.ASSET, Kind.DERIVATION, Kind.KEY)
ASSETS = (Kind.ASSET, Kind.DERIVATION)
COMPARED = (
    ("kind", Result.EXISTS_WITH_DIFFERENT_KIND),
    ("flags", Result.EXISTS_WITH_DIFFERENT_FLAGS),
    ("subject", Result.EXISTS_WITH_DIFFERENT_SUBJECT),
    ("debit", Result.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID),
    ("credit", Result.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID),
    ("num_bytes", Result.EXISTS_WITH_DIFFERENT_TIMEOUT),
    ("amount", Result.EXISTS_WITH_DIFFERENT_AMOUNT),
    ("owner", Result.EXISTS_WITH_DIFFERENT_OWNER),
    ("currency", Result.EXISTS_WITH_DIFFERENT_CURRENCY),
    ("code", Result.EXISTS_WITH_DIFFERENT_CODE),
    ("parents", Result.EXISTS_WITH_DIFFERENT_PARENTS),
    ("tier", Result.EXISTS_WITH_DIFFERENT_TIER),
    ("meta_hash", Result.EXISTS_WITH_DIFFERENT_METADATA),
    ("request_hash", Result.EXISTS_WITH_DIFFERENT_REQUEST),
)


class ShardModel(Model):
    """The settlement model, whose entries by id are in the order of the log, with a shard's rules before its own."""

    def __init__(self) -> None:
        super().__init__()
        self.num_covered = 0
        self.may_expire = False

    def __deepcopy__(self, _: object) -> "ShardModel":
        """Fast: what the dictionaries hold never changes."""
        twin = ShardModel()
        twin.__dict__ = {name: copy.copy(value) for name, value in self.__dict__.items()}
        return twin

    def objections(self, entry: Entry) -> Iterator[Result]:
        is_settled = entry.kind in (Kind.ACCOUNT, Kind.MONEY, Kind.OWNERSHIP)
        reserved = (Flag(0) if self.may_expire else Flag.EXPIRED) if is_settled else ~Flag.LINKED
        if entry.flags & reserved:
            yield Result.RESERVED_FLAG
        if not any(entry.id):
            yield Result.ID_MUST_NOT_BE_ZERO
        if entry.id in self.entries:
            is_new = self.before is not None and entry.id not in self.before
            same = next(differences(self.entries[entry.id], entry), Result.EXISTS)
            yield Result.ID_TWICE_IN_CHAIN if is_new else same
        if any(index >= (self.num_covered if shard else len(self.entries)) for shard, index in entry.parents):
            yield Result.UNKNOWN_PARENT
        if entry.kind == Kind.ERASURE:
            erased = self.entries.get(entry.subject)
            if erased is None or erased.kind not in ASSETS:
                yield Result.ASSET_NOT_FOUND
        yield from super().objections(entry)

    def objections_to_end(self, entry: Entry) -> Iterator[Result]:
        if entry.subject == entry.id:
            yield Result.PENDING_ID_MUST_BE_DIFFERENT
        yield from super().objections_to_end(entry)

    def record(self, entry: Entry) -> None:
        super().record(entry)
        if entry.kind == Kind.DERIVATION:
            self.owners[entry.id] = entry.owner

    def contents(self) -> dict[int, bytes]:
        """What is not erased, by index; every asset that names a content came with it."""
        erased = {entry.subject for entry in self.entries.values() if entry.kind == Kind.ERASURE}
        return {
            index: CONTENTS[entry.content_hash]
            for index, entry in enumerate(self.entries.values())
            if entry.id not in erased and entry.content_hash in CONTENTS
        }

    def due(self, now_ns: int) -> list[Entry]:
        """What the ledger is to record of transfers whose time is over, the longest over first."""
        over = []
        for index, entry in enumerate(self.entries.values()):
            ends_ns = entry.time_ns + entry.num_bytes * NS_PER_S
            is_timed = entry.kind in (Kind.MONEY, Kind.OWNERSHIP) and entry.num_bytes > 0
            if is_timed and entry.id not in self.fates and ends_ns <= now_ns:
                over.append((ends_ns, index, entry))
        return [
            Entry(kind=entry.kind, id=expiry_id(entry.id, now_ns), subject=entry.id, flags=Flag.EXPIRED)
            for _, _, entry in sorted(over, key=lambda row: row[:2])
        ]


def differences(recorded: Entry, offered: Entry) -> Iterator[Result]:
    is_transfer = recorded.kind in (Kind.MONEY, Kind.OWNERSHIP)
    for name, code in COMPARED:
        if getattr(recorded, name) != getattr(offered, name):
            is_content = name in ("debit", "credit", "num_bytes") and not is_transfer
            yield Result.EXISTS_WITH_DIFFERENT_CONTENT if is_content else code


def expiry_id(transfer: bytes, now_ns: int) -> bytes:
    return hashlib.sha256(b"mintage expired\n" + transfer + now_ns.to_bytes(8)).digest()[:16]


CONTENTS = {hashlib.sha256(content_of(number)).digest(): content_of(number) for number in range(3)}


class Plain(NamedTuple):
    """An entry that moves nothing; parents by how far they are before it, and by index in the foreign shard."""

    kind: Kind
    number: int
    content: int
    backs: list[int]
    foreign: list[int]
    is_linked: bool


class Again(NamedTuple):
    """A recorded entry, or an earlier one of the batch, once more; with another tier or request if so."""

    back: int
    tier: int
    request: bytes


class Erase(NamedTuple):
    back: int
    is_linked: bool


Step = Draw | Plain | Again | Erase
STEPS = st.one_of(
    DRAWS,
    st.builds(
        Plain,
        kind=st.sampled_from(PLAIN_KINDS),
        number=st.integers(0, 30),
        content=st.integers(0, 2),
        backs=st.lists(st.integers(-1, 4), unique=True, max_size=2),
        foreign=st.lists(st.integers(0, 6), unique=True, max_size=2),
        is_linked=st.integers(0, 5).map(lambda drawn: drawn == 5),
    ),
    st.builds(Again, back=st.integers(0, 12), tier=st.sampled_from([0, 0, 0, 1]), request=st.sampled_from([b"", b"r"])),
    st.builds(Erase, back=st.integers(0, 4), is_linked=st.booleans()),
)
BATCHES = st.lists(STEPS, min_size=1, max_size=SIZES.batch_entries_max)


def random_step(source: random.Random) -> Step:
    """Much like `STEPS`, at less cost and with more entries in order."""
    is_linked = source.random() < 0.15
    what = source.randrange(10)
    if what < 5:
        return Draw(
            what=source.choice(["money", "money", "ownership", "end", "end"]),
            debit=source.randint(1, 3),
            step=source.choice([1, 1, 1, 2, 0]),
            amount=source.randint(1, 9),
            mode=source.choice([Flag.PENDING, Flag.POST, Flag.VOID]),
            is_linked=is_linked,
            back=source.randrange(4),
            currency=1,
            code=0,
            timeout_s=source.randrange(3),
            is_repeat=source.random() < 0.1,
            wait_ns=0,
        )
    if what < 8:
        backs = source.sample(range(6), source.choice([0, 0, 1, 2])) if source.random() < 0.9 else [-1]
        foreign = source.sample(range(7), source.choice([0, 0, 0, 1]))
        return Plain(source.choice(PLAIN_KINDS), source.randint(1, 400), source.randrange(3), backs, foreign, is_linked)
    if what < 9:
        return Again(source.randrange(60), source.choice([0, 0, 0, 1]), source.choice([b"", b"r"]))
    return Erase(source.randrange(9), is_linked)


class Use(RuleBasedStateMachine):
    """A shard and its model, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(writer_module, "SNAPSHOT_ENTRIES_MIN", SNAPSHOT_ENTRIES_MIN)
        self.directory = tempfile.TemporaryDirectory()
        self.now_ns = NOW_NS
        self.last_ns = 0
        self.model = ShardModel()
        self.number = FIRST_TRANSFER
        self.history: list[tuple[str, int, list[Entry]]] = []
        self.shard = self.open("log", SIZES)

    def open(self, name: str, sizes: Sizes, seed: int = 0) -> Shard:
        path, bytes_of = Path(self.directory.name) / name, itertools.count(seed)
        return open_shard(
            path,
            lambda: self.now_ns,
            entropy=lambda num_bytes: bytes(next(bytes_of) % 256 for _ in range(num_bytes)),
            sizes=sizes,
            publishing=Publishing(num_entries=5),
        )

    @initialize(limits=st.lists(st.sampled_from([Flag(0), *LIMITS]), min_size=4, max_size=4))
    def begin(self, limits: list[Flag]) -> None:
        self.offer([account(1 + place, flags, 1 + (place == 3)) for place, flags in enumerate(limits)])
        first, second = (
            Entry(kind=Kind.ASSET, id=id_of(FIRST_ASSET + place), owner=id_of(1 + place)) for place in (0, 1)
        )
        pending_money = money(FIRST_TRANSFER - 2, 2, 1, 9, Flag.PENDING, num_bytes=1)
        pending_asset = ownership(FIRST_TRANSFER - 1, FIRST_ASSET + 1, 2, 1, Flag.PENDING, num_bytes=1)
        self.offer([first, second, money(FIRST_TRANSFER - 3, 1, 2, 12), pending_money, pending_asset])

    @rule(seed=st.integers(0, 2**32), num_batches=st.integers(1, 12))
    def append_many(self, seed: int, num_batches: int) -> None:
        source = random.Random(seed)
        for _ in range(num_batches):
            steps = [random_step(source) for _ in range(source.randint(1, SIZES.batch_entries_max))]
            self.offer(self.written(steps), small=source.random() < 0.5)
            if source.random() < 0.2:
                self.shard.integrate()
        self.check()

    @rule(steps=BATCHES)
    def append(self, steps: list[Step]) -> None:
        self.offer(self.written(steps))
        self.check()

    @rule(steps=BATCHES)
    def append_in_vain(self, steps: list[Step]) -> None:
        """The disk is full: nothing happens, whatever was prepared."""
        batch = self.written(steps)
        before = self.shard.book.snapshot()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.shard._store, "write", lambda: full_disk(self.shard))
            with suppress(LedgerFull):
                self.shard.append(columns(*batch), payloads_of(batch))
        assert self.shard.book.snapshot() == before
        self.check()

    @rule(steps=BATCHES)
    def sequence_in_vain(self, steps: list[Step]) -> None:
        """There is no room for the write-ahead log: nothing happens."""
        batch = self.written(steps)
        before = self.shard.book.snapshot()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.shard._writer._wal, "write", no_room)
            patch.setattr(self.shard._store, "write", lambda: full_disk(self.shard))
            with suppress(LedgerFull):
                self.shard.sequence(columns(*batch), payloads_of(batch))
        assert self.shard.book.snapshot() == before
        self.check()

    @rule(num_entries=st.integers(0, 7))
    def cover(self, num_entries: int) -> None:
        self.shard.cover(FOREIGN_SHARD, num_entries)
        self.model.num_covered = max(self.model.num_covered, num_entries)
        self.history.append(("cover", num_entries, []))

    @rule(elapsed_ns=st.sampled_from([-NS_PER_S, 1, NS_PER_S // 2, NS_PER_S, 2 * NS_PER_S]))
    def clock(self, elapsed_ns: int) -> None:
        self.now_ns += elapsed_ns

    @rule()
    def expire(self) -> None:
        begin_ns = max(self.now_ns, self.last_ns + 1)
        expected = self.model.due(begin_ns)
        self.model.may_expire = True
        timed = [msgspec.structs.replace(entry, time_ns=begin_ns + place) for place, entry in enumerate(expected)]
        assert set(self.model.offer(timed, {})) <= {Result.OK}
        self.model.may_expire = False
        appended = self.shard.expire()
        assert appended.results.tolist() == [Result.OK] * len(expected)
        self.last_ns = begin_ns + len(timed) - 1 if timed else self.last_ns
        self.history.append(("expire", begin_ns, []))
        self.check()

    @precondition(lambda self: self.model.entries)
    @rule()
    def reopen(self) -> None:
        """What was covered is not stored: whoever knows says so again."""
        self.shard.close()
        self.begin_again()

    @rule(batches=st.lists(BATCHES, min_size=1, max_size=3))
    def crash(self, batches: list[list[Step]]) -> None:
        """Of what was sequenced nothing is lost, though nobody lived to integrate it."""
        for steps in batches:
            self.offer(self.written(steps), small=True)
        log, left = Path(self.directory.name) / "log", Path(self.directory.name) / "left"
        shutil.copytree(log, left)
        self.shard.close()
        shutil.rmtree(log)
        left.rename(log)
        self.begin_again()

    def begin_again(self) -> None:
        self.shard = self.open("log", SIZES)
        self.model.num_covered = 0
        self.history.append(("reopen", 0, []))
        self.check()

    @rule(place=st.integers(0, 2**16))
    def prove(self, place: int) -> None:
        index = place % self.shard.tree_size
        verified = verify(self.shard.receipt(index), keys_of(Path(self.directory.name) / "log").verifier_keys)
        assert verified.entry == list(self.model.entries.values())[index]
        assert verified.root == self.root()

    def teardown(self) -> None:
        try:
            self.repeat()
        finally:
            self.shard.close()
            self.directory.cleanup()
            self.patch.undo()

    def repeat(self) -> None:
        """The same calls at the same times, of a shard with other secrets and another index: the same root."""
        again = self.open("again", OTHER_SIZES, seed=99)
        for call, number, batch in self.history:
            if call == "cover":
                again.cover(FOREIGN_SHARD, number)
            elif call == "reopen":
                again.close()
                again = self.open("again", OTHER_SIZES, seed=77)
            else:
                self.now_ns = number
                again.append(columns(*batch), payloads_of(batch)) if call == "append" else again.expire()
        assert again.tree_size == self.shard.tree_size
        assert again.checkpoint() == self.shard.checkpoint()
        assert again.book.snapshot() == self.shard.book.snapshot()
        again.close()

    def written(self, steps: list[Step]) -> list[Entry]:
        """The entries of a batch; each may refer to those before it."""
        batch: list[Entry] = []
        for step in steps:
            batch.append(self.entry_of(step, [*self.model.entries.values(), *batch], len(batch)))
        return batch

    def entry_of(self, step: Step, earlier: list[Entry], place: int) -> Entry:
        if isinstance(step, Draw):
            transfers = [entry for entry in earlier if entry.kind in (Kind.MONEY, Kind.OWNERSHIP)]
            self.number += 1
            entry = write(step, self.number - step.is_repeat, transfers)
            return msgspec.structs.replace(entry, flags=entry.flags | step.is_linked)
        if isinstance(step, Again):
            known = earlier[-1 - step.back % len(earlier)]
            return msgspec.structs.replace(known, tier=step.tier, request_hash=step.request.ljust(32, b"\0"), time_ns=0)
        if isinstance(step, Erase):
            assets = [entry for entry in earlier if entry.kind in ASSETS]
            self.number += 1
            subject = assets[-1 - step.back % len(assets)].id
            return Entry(kind=Kind.ERASURE, id=id_of(self.number), subject=subject, flags=int(step.is_linked))
        own = [(0, max(len(self.model.entries) + place - back, 0)) for back in step.backs]
        content = content_of(step.content)
        return Entry(
            kind=step.kind,
            id=id_of(FIRST_PLAIN + step.number) if step.number else bytes(16),
            owner=id_of(1 + step.number % 2),
            flags=int(step.is_linked),
            content_hash=hashlib.sha256(content).digest(),
            num_bytes=len(content),
            parents=tuple(dict.fromkeys([*own, *((FOREIGN_SHARD, index) for index in step.foreign)])),
        )

    def offer(self, batch: list[Entry], *, small: bool = False) -> None:
        """To both; the answers are the same, and those to what is recorded name its place."""
        begin_ns = max(self.now_ns, self.last_ns + 1)
        timed = [msgspec.structs.replace(entry, time_ns=begin_ns + place) for place, entry in enumerate(batch)]
        expected = self.model.offer(timed, {})
        self.history.append(("append", begin_ns, batch))
        append = self.shard.sequence if small else self.shard.append
        appended = append(columns(*batch), payloads_of(batch))
        assert [Result(code) for code in appended.results.tolist()] == expected
        recorded = [place for place, result in enumerate(expected) if result == Result.OK]
        if recorded:
            self.last_ns = begin_ns + recorded[-1]
        places = {id_: index for index, id_ in enumerate(self.model.entries)}
        for entry, answer in zip(batch, appended.answers(), strict=True):
            if answer.result in (Result.OK, Result.EXISTS):
                assert answer.index == places[entry.id]

    def root(self) -> bytes:
        return root_of(map(encode, self.model.entries.values()))

    def check(self) -> None:
        """Everything that the shard says of itself is what the model says."""
        entries = list(self.model.entries.values())
        assert self.shard.tree_size == len(entries)
        assert self.shard.read_entries(0, len(entries)) == b"".join(map(encode, entries))
        key = keys_of(Path(self.directory.name) / "log").signers[0].key
        checkpoint = open_checkpoint(self.shard.checkpoint(), [key])
        assert (checkpoint.tree_size, checkpoint.root) == (len(entries), self.root())
        assert_same(SimpleNamespace(book=self.shard.book), self.model)  # type: ignore[arg-type]
        assert [self.shard.find(entry.id) for entry in entries] == list(range(len(entries)))
        assert self.shard.find(id_of(9999)) is None
        with self.shard._store.read() as snapshot:
            contents = {index: snapshot.content(index) for index in range(len(entries))}
        assert {index: content for index, content in contents.items() if content} == self.model.contents()


def no_room(data: bytes) -> None:
    raise LedgerFull("the disk is full", where="here", fix="None.")


@contextmanager
def full_disk(shard: Shard) -> Iterator[Batch]:
    """A write transaction for whose commit there is no room."""
    with type(shard._store).write(shard._store) as batch:
        yield batch
        raise LedgerFull("the disk is full", where="here", fix="None.")


def payloads_of(batch: list[Entry]) -> list[Payload]:
    return [Payload(CONTENTS.get(entry.content_hash)) for entry in batch]


TestAnyUse = Use.TestCase
TestAnyUse.pytestmark = [pytest.mark.timeout(900)]  # type: ignore[attr-defined]  # to make a failure small takes long
TestAnyUse.settings = settings(max_examples=20, stateful_step_count=12)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_long_life_with_many_merges_of_the_index_leaves_the_same(seed: int) -> None:
    source, use = random.Random(seed), Use()
    use.begin([Flag.DEBITS_WITHIN_CREDITS, Flag(0), Flag(0), Flag(0)])
    for _ in range(12):
        use.cover(source.randrange(7))
        use.append_many(source.getrandbits(32), 12)
        use.clock(source.choice([1, NS_PER_S // 2, 2 * NS_PER_S, -NS_PER_S]))
        batches = [[random_step(source) for _ in range(5)] for _ in range(3)]
        what_next = [use.expire, use.reopen, partial(use.crash, batches), partial(use.prove, source.getrandbits(16))]
        source.choice(what_next)()
    assert max(run.level for run in use.shard._writer.memory.index.runs.families[Family.ID]) >= 2, seed
    use.teardown()
