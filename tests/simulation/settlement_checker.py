"""Watches the logs of a settlement world entry by entry, and says what must never be seen there.

It believes the entries and nothing else: owners, holds, decisions and ends are worked out anew in dictionaries, and in
the end the balances from the terms of what was committed.
"""

from collections import defaultdict
from typing import NamedTuple

from ledger.entry import ID_BYTES, Entries, Flag, Kind, from_bytes
from ledger.exchange import Exchange, clearing_id
from ledger.legs import decision_id
from ledger.shard import Shard

ENDS = Flag.POST | Flag.VOID | Flag.EXPIRED
NO_BALANCE = (0, 0)


class Violation(AssertionError):
    """Something that must never be seen; the message says what."""


class Row(NamedTuple):
    """What is looked at of an entry."""

    kind: int
    flags: int
    amount: int
    id: bytes
    subject: bytes
    owner: bytes
    halves: bytes
    digest: bytes


class Hold(NamedTuple):
    """A pending transfer: of money (no asset), or of an asset."""

    asset: bytes
    heir: bytes
    amount: int
    halves: bytes
    digest: bytes


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


def rows_of(entries: Entries) -> list[Row]:
    columns = (entries[name].tolist() for name in ("kind", "flags", "amount"))
    names = ("id", "subject", "owner", "content_hash", "request_hash")
    return [Row(*values) for values in zip(*columns, *(entries[name].tolist() for name in names), strict=True)]


class ShardView:
    """What the entries of one shard say, as far as they were read."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.size = 0
        self.num_pending = 0
        self.root = ""
        self.snapshot = b""
        self.owners: dict[bytes, bytes] = {}
        self.heirs: dict[bytes, bytes] = {}
        self.holds: dict[bytes, Hold] = {}
        self.balances: dict[bytes, tuple[int, int]] = {}


class Checker:
    """Args: the exchanges that clients ask for are to be told in `expect` before anything of them is recorded."""

    def __init__(self, num_shards: int) -> None:
        self.views = [ShardView(number) for number in range(num_shards)]
        self.exchanges: dict[bytes, Exchange] = {}
        self.decisions: dict[tuple[int, bytes], tuple[bytes, int]] = {}
        self.ends: dict[bytes, dict[int, Flag]] = defaultdict(dict)
        self.others: dict[tuple[int, bytes], list[int]] = defaultdict(lambda: [0, 0])
        self.changed_hands: set[bytes] = set()
        self.told: dict[bytes, bool] = {}

    def expect(self, exchange: Exchange) -> None:
        self.exchanges[exchange.digest] = exchange

    def observe(self, number: int, shard: Shard) -> None:
        """After every append: all rules over the new entries, and what the shard believes of sums and owners."""
        view = self.views[number]
        touched: set[bytes] = set()
        if shard.tree_size == view.size:
            return
        for row in rows_of(from_bytes(shard.read_entries(view.size, shard.tree_size))):
            self.take(view, row, touched)
        view.size = shard.tree_size
        for currency, (debits, credits, held_debits, held_credits) in shard.book.trial_balance().items():
            demand(debits == credits and held_debits == held_credits, f"the sums of currency {currency} are not zero")
        for asset in touched:
            demand(shard.book.owner(asset) == view.owners[asset], "the shard has another owner than its entries")
        view.root = shard.checkpoint()

    def take(self, view: ShardView, row: Row, touched: set[bytes]) -> None:
        """One entry, in the order of the log."""
        if row.kind in (Kind.ASSET, Kind.DERIVATION):
            demand(row.id not in view.owners, "an asset is minted twice")
            view.owners[row.id] = row.owner
        elif row.kind == Kind.DECISION:
            demand((view.number, row.id) not in self.decisions, "an exchange is decided twice")
            self.decisions[view.number, row.id] = (row.digest, row.amount)
        elif row.kind in (Kind.MONEY, Kind.OWNERSHIP) and row.flags & ENDS:
            self.take_end(view, row, touched)
        elif row.kind == Kind.OWNERSHIP:
            self.take_ownership(view, row)
            touched.add(row.subject)
        elif row.kind == Kind.MONEY and row.flags & Flag.PENDING:
            view.holds[row.id] = Hold(b"", b"", row.amount, row.halves, row.digest)
        elif row.kind == Kind.MONEY:
            self.move(view, row.halves, row.amount, row.digest)

    def take_ownership(self, view: ShardView, row: Row) -> None:
        demand(view.owners.get(row.subject) == row.halves[:ID_BYTES], "an asset is taken from one who has it not")
        demand(row.subject not in view.heirs, "an asset is taken that is held")
        if row.flags & Flag.PENDING:
            view.holds[row.id] = Hold(row.subject, row.owner, 0, row.halves, row.digest)
            view.heirs[row.subject] = row.owner
        else:
            view.owners[row.subject] = row.owner
            self.changed_hands.add(row.digest)

    def take_end(self, view: ShardView, row: Row, touched: set[bytes]) -> None:
        hold = view.holds.pop(row.subject, None)
        if hold is None:
            raise Violation("something is ended that is not pending, or twice")
        end = Flag(row.flags) & ENDS
        if hold.digest in self.exchanges:
            self.check_end(view, hold.digest, end)
        if hold.asset:
            touched.add(hold.asset)
            del view.heirs[hold.asset]
            if end == Flag.POST:
                view.owners[hold.asset] = hold.heir
        elif end == Flag.POST:
            self.move(view, hold.halves, row.amount or hold.amount, hold.digest)

    def check_end(self, view: ShardView, digest: bytes, end: Flag) -> None:
        """A leg of an exchange ends as was decided before, and never by itself."""
        exchange = self.exchanges[digest]
        decision = self.decisions.get((exchange.home, decision_id(exchange.id)))
        demand(end != Flag.EXPIRED, "a leg of an exchange expires")
        demand(decision is not None, f"{end.name} before the decision")
        demand((end == Flag.POST) == (decision == (digest, 1)), f"{end.name} against the decision")
        earlier = self.ends[digest].setdefault(view.number, end)
        demand(earlier == end, "one shard posts and voids")

    def move(self, view: ShardView, halves: bytes, amount: int, digest: bytes) -> None:
        """Money that is no exchange's: what it did to the accounts is to be told from what the exchanges did."""
        if digest not in self.exchanges:
            self.others[view.number, halves[:ID_BYTES]][0] += amount
            self.others[view.number, halves[ID_BYTES:]][1] += amount

    def is_committed(self, digest: bytes) -> bool:
        exchange = self.exchanges[digest]
        return self.decisions.get((exchange.home, decision_id(exchange.id))) == (digest, 1)

    def closed(self, number: int, shard: Shard) -> None:
        """Before a shard is thrown away: what it must come back with. What is in the write-ahead log alone is not read,
        since that would integrate it."""
        view = self.views[number]
        view.num_pending = shard.num_pending
        view.snapshot = shard.book.snapshot()
        if not view.num_pending:
            self.observe(number, shard)

    def reopened(self, number: int, shard: Shard) -> None:
        """Nothing acknowledged is gone, nothing unacknowledged has come."""
        view = self.views[number]
        size = view.size + view.num_pending
        demand(shard.book.snapshot() == view.snapshot, "other balances or owners came back")
        demand(shard.tree_size == size, f"{shard.tree_size} entries came back of {size}")
        demand(view.num_pending > 0 or shard.checkpoint() == view.root, "another tree came back")
        self.observe(number, shard)

    def tell(self, exchange: Exchange, is_committed: bool) -> None:
        """A coordinator tells its client what became of its exchange: what is recorded then, and for ever."""
        self.told[exchange.digest] = is_committed
        demand(self.is_committed(exchange.digest) == is_committed, f"a client is told {is_committed}")

    def check_end_of_world(self, shards: list[Shard], opened: dict[int, list[bytes]]) -> int:
        """Nothing is half-settled, and every balance is what the committed terms say; how many were committed.

        Args:
            opened: the ids of the accounts of each shard, but for the clearing accounts.
        """
        for view, shard in zip(self.views, shards, strict=True):
            demand(not view.holds and not shard.live(), f"shard {view.number} still holds something")
        sums: dict[tuple[int, bytes], list[int]] = defaultdict(lambda: [0, 0])
        for account, (debits, credits) in self.others.items():
            sums[account] = [debits, credits]
        num_committed = 0
        for digest, exchange in self.exchanges.items():
            self.check_whole(digest, exchange)
            num_committed += self.is_committed(digest)
            for move in exchange.moves if self.is_committed(digest) else ():
                sums[move.shard, move.debit][0] += move.amount
                sums[move.shard, move.credit][1] += move.amount
        for view, shard in zip(self.views, shards, strict=True):
            for account in opened[view.number]:
                self.check_balance(shard, account, sums[view.number, account])
        for source in range(len(shards)):
            for target in range(len(shards)):
                if source != target:
                    self.check_clearing(shards, source, target)
        return num_committed

    def check_whole(self, digest: bytes, exchange: Exchange) -> None:
        """What is committed happened in every shard, what is not in none."""
        committed = self.is_committed(digest)
        demand(self.told.get(digest, committed) == committed, f"a client was told {not committed}")
        if len(exchange.shards) == 1:
            demand((digest in self.changed_hands) == committed, "the asset does not do as was decided")
        elif committed:
            posted = {shard for shard, end in self.ends[digest].items() if end == Flag.POST}
            demand(posted == set(exchange.shards), "half settled: committed, and not posted everywhere")

    def check_balance(self, shard: Shard, account: bytes, sums: list[int]) -> None:
        balance = shard.book.balance(account)
        demand([balance.debits_posted, balance.credits_posted] == sums, "a balance is not the sum of what was agreed")
        demand((balance.debits_pending, balance.credits_pending) == NO_BALANCE, "an account still has something held")

    def check_clearing(self, shards: list[Shard], source: int, target: int) -> None:
        """What left one shard for another has come there."""
        account = clearing_id(source, target, 1)
        left, come = (shards[number].book.balance(account) for number in (source, target))
        demand(left.credits_posted == come.debits_posted, f"money between shards {source} and {target} is lost")
        demand((left.debits_posted, come.credits_posted) == NO_BALANCE, "a clearing account went the wrong way")
