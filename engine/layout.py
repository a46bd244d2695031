"""Where everything lies in a fabric's memory. The first page is the header; its words tell compiled code the rest.

    header   magic, version, offsets and numbers; from word 64 on the sizes as JSON
    members, mailboxes (one of each member, then those with names), areas of messages and of blocks with their hints,
    pools, records of messages, blocks, and the slabs: the bytes of the messages, class by class

Nothing is created or resized later: names and sizes are those that the segment was made with.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from engine import chain, mailbox, members, router, slots
from engine.atomics import WORD_BYTES, Words
from ledger.compiled import njit

MAGIC_WORD = int.from_bytes(b"mintfab1", "little")

MAGIC, NUM_CLASSES, NUM_MAILBOXES, NUM_POOLS = 0, 1, 2, 3
MEMBERS, MAILBOXES, MAILBOX_WORDS, AREAS, BLOCKS, POOLS, POOL_STRIDE, CLASSES = 8, 9, 10, 11, 12, 13, 14, 15
SIZES_BYTES, SIZES_FIRST = 63, 64
HEADER_WORDS = 512
LINE_WORDS = 8
PAGE_WORDS = 512
HINTS_PER_WORD = 64


class SizeClass(msgspec.Struct, frozen=True):
    """Messages of up to `num_bytes`, so many at once."""

    num_bytes: int
    num_slots: int


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """What a fabric has room for.

    Args:
        classes: by size, the smallest first.
        mailboxes: names of the mailboxes beside the members' own.
        mailbox_log2: log2 of the messages that one mailbox holds.
        pools: names of the pools, with the mean service time in ns that their grid begins with.
    """

    classes: tuple[SizeClass, ...] = (
        SizeClass(1024, 16_384),
        SizeClass(16_384, 1024),
        SizeClass(262_144, 64),
        SizeClass(8 << 20, 4),
    )
    mailboxes: tuple[str, ...] = ()
    mailbox_log2: int = 12
    pools: dict[str, int] = {}


class Layout:
    """The offsets of everything, in words, for some sizes.

    Args:
        num_blocks: of the chains; by default enough for every slot to wait and for every chain to keep one.
    """

    def __init__(self, sizes: Sizes, num_blocks: int = 0) -> None:
        self.sizes = sizes
        self.end = HEADER_WORDS
        num_mailboxes = members.NUM_MEMBERS + 1 + len(sizes.mailboxes)
        num_slots = sum(klass.num_slots for klass in sizes.classes)
        self.num_blocks = num_blocks or router.NUM_CHAINS * len(sizes.pools) + 2 * num_slots // chain.NUM_CELLS + 64
        self.members = self.take((members.NUM_MEMBERS + 1) * members.MEMBER_WORDS)
        self.mailbox_words = rounded(mailbox.num_words(sizes.mailbox_log2), LINE_WORDS)
        self.mailboxes = self.take(num_mailboxes * self.mailbox_words)
        self.num_mailboxes = num_mailboxes
        self.areas = self.take((len(sizes.classes) + 1) * slots.AREA_WORDS)
        self.hints = [self.take(rounded(num, HINTS_PER_WORD) // HINTS_PER_WORD) for num in self.nums()]
        self.pool_words = rounded(router.POOL_WORDS, LINE_WORDS)
        self.pools = self.take(len(sizes.pools) * self.pool_words)
        self.records = [self.take(klass.num_slots * mailbox.MESSAGE_WORDS) for klass in sizes.classes]
        self.blocks = self.take(self.num_blocks * chain.BLOCK_WORDS)
        self.slabs = [self.take(klass.num_slots * klass.num_bytes // WORD_BYTES) for klass in sizes.classes]
        self.num_words = rounded(self.end, PAGE_WORDS)
        self.pool_offsets = {name: self.pools + n * self.pool_words for n, name in enumerate(sizes.pools)}
        named = enumerate(sizes.mailboxes, members.NUM_MEMBERS + 1)
        self.mailbox_offsets = {name: self.mailboxes + number * self.mailbox_words for number, name in named}

    def nums(self) -> Iterator[int]:
        """Of every area how many slots: the classes, then the blocks."""
        yield from (klass.num_slots for klass in self.sizes.classes)
        yield self.num_blocks

    def take(self, num_words: int) -> int:
        """The next so many words, from the beginning of a cache line on."""
        first = rounded(self.end, LINE_WORDS)
        self.end = first + num_words
        return first

    def area(self, number: int) -> int:
        """The descriptor of a class, or of the blocks, which come last."""
        return self.areas + number * slots.AREA_WORDS

    def initialise(self, words: Words) -> None:
        """Make an empty fabric of zeros. Its magic is written last, and not here."""
        blocks = self.area(len(self.sizes.classes))
        words[NUM_CLASSES : NUM_POOLS + 1] = len(self.sizes.classes), self.num_mailboxes, len(self.sizes.pools)
        words[MEMBERS : CLASSES + 1] = (
            self.members, self.mailboxes, self.mailbox_words, self.areas, blocks, self.pools, self.pool_words, 0,
        )  # fmt: skip
        encoded = msgspec.json.encode(self.sizes)
        words[SIZES_BYTES] = len(encoded)
        page = words[SIZES_FIRST:HEADER_WORDS].view(np.uint8)
        assert len(encoded) <= len(page), "the names of mailboxes and pools do not fit into the header"
        page[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        for number in range(self.num_mailboxes):
            mailbox.initialise(words, self.mailboxes + number * self.mailbox_words, self.sizes.mailbox_log2)
        for number, klass in enumerate(self.sizes.classes):
            first, hints = self.records[number], self.hints[number]
            slots.initialise(words, self.area(number), first, mailbox.MESSAGE_WORDS, klass.num_slots, hints)
        slots.initialise(words, blocks, self.blocks, chain.BLOCK_WORDS, self.num_blocks, self.hints[-1])
        for name, mean_ns in self.sizes.pools.items():
            router.initialise(words, self.pool_offsets[name], blocks, mean_ns)


def read_sizes(words: Words) -> Sizes:
    """The sizes that a segment was made with."""
    num_bytes = int(words[SIZES_BYTES])
    return msgspec.json.decode(words[SIZES_FIRST:HEADER_WORDS].tobytes()[:num_bytes], type=Sizes)


def rounded(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step


@njit(nogil=True, inline="always")
def mailbox_at(words: Words, number: int) -> int:
    return words[MAILBOXES] + number * words[MAILBOX_WORDS]


@njit(nogil=True, inline="always")
def area_at(words: Words, number: int) -> int:
    return words[AREAS] + number * slots.AREA_WORDS


@njit(nogil=True, inline="always")
def pool_at(words: Words, number: int) -> int:
    return words[POOLS] + number * words[POOL_STRIDE]
