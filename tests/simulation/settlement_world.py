"""A seeded world of shards, coordinators and clients that exchange assets for money, on a virtual clock, under faults.

The shards are real ones, on LMDB in a directory of tmpfs; half of their batches go through the write-ahead log. Between
them and the coordinators lies a network that loses, repeats, delays and reorders messages. Shards crash before, within
and after a commit, or when a batch is in the write-ahead log alone, and come back with what is durable; coordinators
forget everything. All chance comes from one seed, so a failure is replayed by its seed.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
from settlement_checker import Checker, demand

from ledger import decision
from ledger.coordinator import unfinished
from ledger.decision import Answer, Progress, Request
from ledger.entry import ID_BYTES, Entries, Entry, Flag, Kind
from ledger.exchange import Account, Exchange, Royalty, clearing_account, draw_up
from ledger.legs import Appends, answers, columns
from ledger.log import open_keys, shard_path
from ledger.note import Signer
from ledger.payload import Payload
from ledger.shard import Appended, Shard

START_NS = 1_700_000_000 * 10**9
TICK_NS = 10**8
CURRENCY = 1
MAP_BYTES = 1 << 33
REQUESTS_MAX = 400
"""So many requests of two moves and more fit into one batch."""

CRASHES = ("before a commit", "within a commit", "after a commit", "before it was integrated")

RESEND_TICKS = 15
SCAN_TICKS = 12
DEADLINE_TICKS = 80
END_TICKS = 3_000
LATE_TICKS_MAX = 200
OLD_TERMS_MAX = 200


class Crash(Exception):
    """The process that had a shard is gone."""


class Message(NamedTuple):
    """On its way. `number`: messages are numbered as they are sent."""

    receiver: int
    sender: int
    number: int
    content: Request | Answer


class FrailSigner(Signer):
    """Signs until it is told to fail: inside the commit, when all else is done."""

    is_failing = False

    def sign(self, text: str) -> str:
        if self.is_failing:
            raise Crash
        return super().sign(text)


@dataclass(frozen=True)
class Faults:
    """Probabilities, of each message or of each tick."""

    loss: float = 0.02
    repeat: float = 0.03
    delay_ticks_max: int = 5
    shard_crash: float = 0.01
    coordinator_crash: float = 0.01
    id_reuse: float = 0.003
    hold: float = 0.1


NO_FAULTS = Faults(0, 0, 1, 0, 0, 0, 0)


@dataclass(frozen=True)
class Size:
    """Of a world."""

    num_shards: int = 5
    num_owners: int = 100
    num_assets: int = 8_000
    num_coordinators: int = 3
    num_asked_per_tick: int = 50
    funds: int = 200_000


@dataclass(frozen=True)
class Protocol:
    """The parts of the protocol that a world is to run on; a test puts a broken one in their place."""

    after: Callable[[Progress, Answer], Progress] = decision.after
    give_up: Callable[[Progress], Progress] = decision.give_up
    resume: Callable[[Exchange], Progress] = decision.resume
    answers: Callable[[Appends, list[Request]], list[Answer]] = answers


@dataclass(frozen=True)
class Logging:
    """A shard whose batches go into the write-ahead log first."""

    shard: Shard

    def append(self, entries: Entries, payloads: Sequence[Payload] | None = None) -> Appended:
        return self.shard.sequence(entries, payloads)


@dataclass
class Host:
    """The process of a shard. Down: until that tick it hears nothing."""

    number: int
    path: Path
    signer: FrailSigner
    now_ns: Callable[[], int]
    entropy: Callable[[int], bytes]
    inbox: list[tuple[int, Request]] = field(default_factory=list)
    down_until: int = 0
    shard: Shard | None = None

    def open(self) -> Shard:
        self.signer.is_failing = False
        self.shard = Shard.open(
            self.path, self.number, self.signer, self.now_ns, entropy=self.entropy, map_bytes=MAP_BYTES, lock_wait_s=0
        )
        return self.shard

    def close(self) -> None:
        if self.shard is not None:
            self.shard.close()
            self.shard = None

    def kill(self) -> None:
        """It ends without a word: nothing that is in the write-ahead log alone is integrated any more."""
        assert self.shard is not None
        self.shard._writer._wal.close()
        self.shard._store.close()
        self.shard = None


def id_of(number: int, what: bytes) -> bytes:
    return what.ljust(8, b".") + number.to_bytes(ID_BYTES - 8, "big")


class World:
    """Everything, and the loop. `run` until so many exchanges are committed, then until nothing is left to do."""

    def __init__(self, seed: int, path: Path, *, size: Size, faults: Faults, protocol: Protocol) -> None:
        self.dice = random.Random(seed)
        self.size, self.faults, self.protocol = size, faults, protocol
        self.tick = 0
        self.checker = Checker(size.num_shards)
        self.mail: dict[int, list[Message]] = defaultdict(list)
        self.num_sent = 0
        self.newest: dict[tuple[type, int, int], int] = defaultdict(int)
        self.coordinators: list[dict[bytes, Progress]] = [{} for _ in range(size.num_coordinators)]
        self.alarms: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.believed: list[int] = []
        self.old_terms: list[Exchange] = []
        self.committed: set[bytes] = set()
        self.wanted: set[int] = set()
        self.outcomes: dict[str, int] = defaultdict(int)
        entropy = self.dice.randbytes
        keys = open_keys(path, "simulated.log", size.num_shards, entropy=entropy)
        seeds = [FrailSigner(signer.name, keys.signers[0]._seed) for signer in keys.signers]
        self.hosts = [
            Host(number, shard_path(path, number), signer, self.now_ns_of(number), entropy)
            for number, signer in enumerate(seeds)
        ]

    def now_ns_of(self, number: int) -> Callable[[], int]:
        """A shard's clock: its own seconds off."""
        skew_ns = self.dice.randint(-2, 2) * 10**9
        return lambda: START_NS + self.tick * TICK_NS + skew_ns

    @property
    def now_ns(self) -> int:
        return START_NS + self.tick * TICK_NS

    def owner(self, number: int) -> bytes:
        return id_of(number, b"owner")

    def account(self, owner: int) -> Account:
        return Account(owner % self.size.num_shards, self.owner(owner))

    def home(self, asset: int) -> int:
        return asset % self.size.num_shards

    def asset(self, number: int) -> bytes:
        return id_of(number, b"asset")

    def open(self) -> None:
        """Accounts with money on them, clearing accounts, assets."""
        for host in self.hosts:
            shard = host.open()
            for entries in (self.first_entries(host.number), self.assets_of(host.number)):
                results = shard.append(columns(entries)).results
                demand(not results.any(), f"the world cannot begin: {results[results != 0]}")
            self.checker.observe(host.number, shard)
        self.believed = [asset % self.size.num_owners for asset in range(self.size.num_assets)]

    def first_entries(self, number: int) -> list[Entry]:
        bank = id_of(number, b"bank")
        entries = [Entry(kind=Kind.ACCOUNT, id=bank, currency=CURRENCY)]
        for other in range(self.size.num_shards):
            if other != number:
                entries.append(clearing_account(number, other, CURRENCY))
                entries.append(clearing_account(other, number, CURRENCY))
        for owner in range(number, self.size.num_owners, self.size.num_shards):
            account = self.owner(owner)
            limited = Flag.DEBITS_WITHIN_CREDITS
            entries.append(Entry(kind=Kind.ACCOUNT, id=account, currency=CURRENCY, flags=limited))
            entries.append(self.transfer(id_of(owner, b"fund"), bank, account, self.size.funds))
        return entries

    def transfer(self, id_: bytes, debit: bytes, credit: bytes, amount: int, timeout_s: int = 0) -> Entry:
        flags = Flag.PENDING if timeout_s else Flag(0)
        return Entry(
            kind=Kind.MONEY,
            id=id_,
            flags=flags,
            currency=CURRENCY,
            amount=amount,
            num_bytes=timeout_s,
            content_hash=debit + credit,
        )

    def assets_of(self, number: int) -> list[Entry]:
        assets = range(number, self.size.num_assets, self.size.num_shards)
        return [
            Entry(kind=Kind.ASSET, id=self.asset(asset), owner=self.owner(asset % self.size.num_owners))
            for asset in assets
        ]

    def opened(self) -> dict[int, list[bytes]]:
        """The accounts of each shard, but for the clearing accounts."""
        found = {number: [id_of(number, b"bank")] for number in range(self.size.num_shards)}
        for owner in range(self.size.num_owners):
            found[owner % self.size.num_shards].append(self.owner(owner))
        return found

    def run(self, num_committed: int) -> None:
        self.open()
        while len(self.committed) < num_committed:
            self.step()
            for _ in range(self.size.num_asked_per_tick):
                self.ask()
        self.faults = NO_FAULTS
        end = self.tick + END_TICKS
        while self.is_busy():
            self.step()
            demand(self.tick < end, "it does not come to an end")
        shards = [host.shard for host in self.hosts if host.shard is not None]
        demand(self.checker.check_end_of_world(shards, self.opened()) >= num_committed, "fewer are recorded than told")

    def close(self) -> None:
        for host in self.hosts:
            host.close()

    def roots(self) -> list[str]:
        """What every shard signs."""
        return [host.shard.checkpoint() for host in self.hosts if host.shard is not None]

    def is_busy(self) -> bool:
        is_held = any(host.shard is None or host.shard.live() for host in self.hosts)
        return is_held or bool(self.mail) or any(self.coordinators)

    def step(self) -> None:
        """A tenth of a second."""
        self.tick += 1
        self.revive()
        for message in self.mail.pop(self.tick, ()):
            self.deliver(message)
        self.crash()
        for host in self.hosts:
            self.work(host)
        for number, digest in self.alarms.pop(self.tick, ()):
            self.ask_again(number, digest)
        if self.tick % SCAN_TICKS == 0:
            self.scan(self.hosts[self.tick // SCAN_TICKS % len(self.hosts)])

    # The network.

    def post(self, receiver: int, sender: int, content: Request | Answer) -> None:
        """Bring a request to a shard, or an answer to a coordinator: late, twice, or not at all."""
        dice, faults = self.dice, self.faults
        self.num_sent += 1
        message = Message(receiver, sender, self.num_sent, content)
        if dice.random() >= faults.loss:
            self.mail[self.tick + 1 + int(dice.random() * faults.delay_ticks_max)].append(message)
        else:
            self.outcomes["lost"] += 1
        if dice.random() < faults.repeat:
            self.mail[self.tick + dice.randint(1, LATE_TICKS_MAX)].append(message)
            self.outcomes["repeated"] += 1

    def deliver(self, message: Message) -> None:
        receiver, sender, number, content = message
        link = type(content), receiver, sender
        self.outcomes["overtaken"] += number < self.newest[link]
        self.newest[link] = max(self.newest[link], number)
        if isinstance(content, Answer):
            self.hear(receiver, content)
        elif self.hosts[receiver].shard is not None:
            self.hosts[receiver].inbox.append((sender, content))
        else:
            self.outcomes["lost"] += 1

    # Shards.

    def revive(self) -> None:
        for host in self.hosts:
            if host.shard is None and self.tick >= host.down_until:
                self.checker.reopened(host.number, host.open())

    def crash(self) -> None:
        for host in self.hosts:
            if host.shard is not None and self.dice.random() < self.faults.shard_crash:
                self.bring_down(host)
        for progresses in self.coordinators:
            if self.dice.random() < self.faults.coordinator_crash:
                self.outcomes["a coordinator crashed"] += 1
                progresses.clear()

    def bring_down(self, host: Host) -> None:
        """What was asked is lost, or what was done is not told."""
        assert host.shard is not None
        batch = host.inbox[:REQUESTS_MAX]
        moment = self.dice.choice(CRASHES) if batch else CRASHES[0]
        self.outcomes[f"crashed {moment}"] += 1
        if moment != CRASHES[0]:
            host.signer.is_failing = moment == "within a commit"
            way_in = Logging(host.shard) if moment == "before it was integrated" else host.shard
            with suppress(Crash):
                self.protocol.answers(way_in, [request for _, request in batch])
        host.signer.is_failing = False
        self.checker.closed(host.number, host.shard)
        host.kill()
        host.inbox.clear()
        host.down_until = self.tick + self.dice.randint(1, 20)

    def work(self, host: Host) -> None:
        """One batch of what has come, one call of `expire`, and what others do with the shard's money."""
        if host.shard is None:
            return
        batch, host.inbox = host.inbox[:REQUESTS_MAX], host.inbox[REQUESTS_MAX:]
        if batch:
            self.dice.shuffle(batch)
            way_in = Logging(host.shard) if self.dice.random() < 0.5 else host.shard
            told = self.protocol.answers(way_in, [request for _, request in batch])
            for (sender, _), answer in zip(batch, told, strict=True):
                self.post(sender, host.number, answer)
        if self.dice.random() < self.faults.hold:
            self.hold_for_a_while(host.shard, host.number)
        self.outcomes["expired"] += len(host.shard.expire().results)
        self.checker.observe(host.number, host.shard)

    def hold_for_a_while(self, shard: Shard, number: int) -> None:
        """A pending transfer that is no exchange's: it runs out after a second or two."""
        debit, credit = (self.owner(number + k * self.size.num_shards) for k in self.dice.sample(range(5), 2))
        shard.append(columns([self.transfer(self.dice.randbytes(16), debit, credit, 100, self.dice.randint(1, 2))]))

    # Clients and coordinators.

    def ask(self) -> None:
        """A client wants an asset, as far as it knows from whom; sometimes under an id that it has used before."""
        dice, size = self.dice, self.size
        if self.old_terms and dice.random() < self.faults.id_reuse:
            old = dice.choice(self.old_terms)
            self.start(msgspec.structs.replace(old, deadline_ns=old.deadline_ns + dice.randint(0, 1)))
            return
        asset, buyer = dice.randrange(size.num_assets), dice.randrange(size.num_owners)
        seller = self.believed[asset]
        if seller == buyer or (asset in self.wanted and dice.random() < 0.95):
            return
        royalties = [
            Royalty(self.account(self.believed[dice.randrange(size.num_assets)]), dice.randrange(1, 1_500))
            for _ in range(dice.choice((0, 0, 1, 2)))
        ]
        exchange = draw_up(
            exchange_id=dice.randbytes(ID_BYTES),
            home=self.home(asset),
            asset=self.asset(asset),
            seller=self.owner(seller),
            buyer=self.owner(buyer),
            currency=CURRENCY,
            price=dice.randint(0, 2_000),
            payer=self.account(buyer),
            payee=self.account(seller),
            royalties=royalties,
            deadline_ns=self.now_ns + DEADLINE_TICKS * TICK_NS,
        )
        if len(self.old_terms) < OLD_TERMS_MAX:
            self.old_terms.append(exchange)
        self.wanted.add(asset)
        self.start(exchange)

    def start(self, exchange: Exchange) -> None:
        """Hand an exchange to some coordinator."""
        self.checker.expect(exchange)
        self.take_up(self.dice.randrange(self.size.num_coordinators), decision.begin(exchange))

    def scan(self, host: Host) -> None:
        """Look on a shard for what others have left, and have it finished by anybody."""
        for exchange in unfinished(host.shard, self.now_ns).exchanges if host.shard is not None else ():
            self.outcomes["found unfinished"] += 1
            self.take_up(self.dice.randrange(self.size.num_coordinators), self.protocol.resume(exchange))

    def take_up(self, number: int, progress: Progress) -> None:
        """A coordinator begins to work on an exchange, unless it does already."""
        if progress.exchange.digest not in self.coordinators[number]:
            self.coordinators[number][progress.exchange.digest] = progress
            self.send(number, progress)

    def send(self, number: int, progress: Progress) -> None:
        for request in decision.requests(progress):
            self.post(request.shard, number, request)
        self.alarms[self.tick + RESEND_TICKS].append((number, progress.exchange.digest))

    def ask_again(self, number: int, digest: bytes) -> None:
        """Answers are late; and after the deadline it is time to give up."""
        progress = self.coordinators[number].get(digest)
        if progress is None:
            return
        if progress.exchange.deadline_ns < self.now_ns:
            progress = self.coordinators[number][digest] = self.protocol.give_up(progress)
        self.send(number, progress)

    def hear(self, number: int, answer: Answer) -> None:
        """An answer comes to a coordinator, which may have forgotten what it asked."""
        before = self.coordinators[number].get(answer.digest)
        if before is None:
            return
        progress = self.coordinators[number][answer.digest] = self.protocol.after(before, answer)
        if before.is_committed is None and progress.is_committed is not None:
            self.tell(progress)
        if not progress.waiting:
            del self.coordinators[number][answer.digest]
        elif progress.stage != before.stage:
            self.send(number, progress)

    def tell(self, progress: Progress) -> None:
        """The client learns what became of its exchange, and looks whose the asset is now."""
        exchange = progress.exchange
        self.checker.tell(exchange, bool(progress.is_committed))
        if progress.is_committed:
            self.committed.add(exchange.digest)
        refusal = progress.refusal.name if progress.refusal is not None else "late"
        self.outcomes["committed" if progress.is_committed else f"refused: {refusal}"] += 1
        recorded = self.checker.views[exchange.home].owners[exchange.asset]
        owner = exchange.buyer if progress.is_committed else recorded
        asset = int.from_bytes(exchange.asset[8:])
        self.wanted.discard(asset)
        self.believed[asset] = int.from_bytes(owner[8:])
