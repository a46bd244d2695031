"""Look-ups in a shard: by content, owner, tenant, subject; and whose an asset is, was, and became when.

An entry's `owner` field never changes, so whose an asset is now has to be derived: it belongs to the owner that its own
entry names, and from each transfer of ownership that happened to the new owner. A transfer that is pending has not
happened; it happens with the entry that posts it. All of an asset's transfers are in the asset's own shard.

Everything comes in pages, each from one short look at the shard (`ledger.reader`); an index is never reused and entries
never change, so pages taken one after another belong together.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from ledger.entry import ID_BYTES, Entry, Flag, Kind, owner_of
from ledger.errors import EntryNotFound, LedgerCorrupt
from ledger.reader import PAGE_MAX, Found, Page, Reader
from ledger.runs import Family

ENDS = Flag.POST | Flag.VOID | Flag.EXPIRED
ASSET_KINDS = (Kind.ASSET, Kind.DERIVATION)


class Change(msgspec.Struct, frozen=True):
    """From entry `index` on an asset belongs to `owner`.

    `named_by`: the entry that names the owner: the asset's own, a transfer, or the pending transfer that `index` posts.
    """

    index: int
    time_ns: int
    owner: bytes
    named_by: int


class Owned(msgspec.Struct, frozen=True):
    """An asset, and the change by which it belongs to the owner that was asked for."""

    asset: bytes
    change: Change


class OwnedPage(msgspec.Struct, frozen=True):
    """Some of an owner's assets; `next_begin` as in `Page`. A page may have none and not be the last."""

    owned: tuple[Owned, ...]
    next_begin: int | None


def by_content(reader: Reader, content_hash: bytes, *, begin: int = 0, limit: int = PAGE_MAX) -> Page:
    """The entries of a content, by its SHA-256 (bytes[32]); raises as `Reader.find` does, like the next three."""
    return reader.find(Family.CONTENT, content_hash, begin=begin, limit=limit)


def by_owner(reader: Reader, owner: bytes, *, begin: int = 0, limit: int = PAGE_MAX) -> Page:
    """The entries whose `owner` field it is: what was made for it, its accounts, and the transfers to it. For what
    belongs to it now, see `assets_of`."""
    return reader.find(Family.OWNER, owner, begin=begin, limit=limit)


def by_tenant(reader: Reader, tenant: str, *, begin: int = 0, limit: int = PAGE_MAX) -> Page:
    """`by_owner` of a tenant's name."""
    return by_owner(reader, owner_of(tenant), begin=begin, limit=limit)


def by_subject(reader: Reader, id_: bytes, *, begin: int = 0, limit: int = PAGE_MAX) -> Page:
    """The entries about another one: an asset's transfers and erasures; what ended a pending transfer."""
    return reader.find(Family.SUBJECT, id_, begin=begin, limit=limit)


def asset(reader: Reader, asset_id: bytes) -> Found:
    """An asset's own entry.

    Raises:
        EntryNotFound: no asset of this shard has the id.
    """
    found = reader.by_id(asset_id)
    if found is None or found.entry.kind not in ASSET_KINDS:
        raise EntryNotFound(
            "no asset has this id"
            if found is None
            else f"the entry with this id is of the kind {found.entry.kind.name}",
            where=asset_id.hex(),
            fix="Give the id that the request for the asset returned, and the shard that it is in.",
        )
    return found


def end_of(reader: Reader, transfer_id: bytes) -> Found | None:
    """The entry that posted, voided or expired a pending transfer; None if it is live, or there is none."""
    for found in reader.find_all(Family.SUBJECT, transfer_id):
        if found.entry.flags & ENDS:
            return found
    return None


def history(reader: Reader, asset_id: bytes) -> Iterator[Change]:
    """Every owner that an asset has had, from the first on.

    Raises:
        EntryNotFound: no asset of this shard has the id.
    Cost: a look for each transfer that was pending, and one for a page of the others.
    """
    yield _first_owner(asset(reader, asset_id))
    for found in reader.find_all(Family.SUBJECT, asset_id):
        if found.entry.kind == Kind.OWNERSHIP and not found.entry.flags & ENDS:
            happened = _happened(reader, found)
            if happened is not None:
                yield Change(happened.index, happened.entry.time_ns, found.entry.owner, found.index)


def owner_at(reader: Reader, asset_id: bytes, index: int) -> Change:
    """Whose an asset was once the entry at `index` was recorded, and since when.

    The entries of the answer can be proved with receipts. That there is no later transfer up to `index` can be proved
    by nothing less than the whole log: it is what fsck finds when it replays it.

    Raises:
        EntryNotFound: no asset of this shard has the id; or it, or the entry at `index`, was not recorded by then.
    Cost: as `history`, up to `index`.
    """
    _check_reached(index, reader.tree_size)
    last: Change | None = None
    for change in history(reader, asset_id):
        if change.index > index:
            break
        last = change
    if last is None:
        raise EntryNotFound(
            f"at index {index} there was no such asset yet", where=asset_id.hex(), fix="Ask for a later index."
        )
    return last


def assets_of(
    reader: Reader, owner: bytes, *, at: int | None = None, begin: int = 0, limit: int = PAGE_MAX
) -> OwnedPage:
    """The assets that belonged to an owner once the entry `at` was recorded; now, if it is None. Each once.

    Args:
        begin, limit: of the entries that name the owner, of which `limit` are looked at for a page.
    Raises:
        EntryNotFound: no entry `at` yet. EntryInvalid: see `Reader.find`.
    Cost: that of `by_owner`; and that of `owner_at` for each asset of the page that a transfer or an erasure is about.
    """
    size = reader.tree_size
    if at is not None:
        _check_reached(at, size)
    index = size - 1 if at is None else at
    page = by_owner(reader, owner, begin=begin, limit=limit)
    named = [(found, given) for found in page.found if found.index <= index and (given := _given(found.entry))]
    ids = np.frombuffer(b"".join(asset_id for _, asset_id in named), np.uint8).reshape(-1, ID_BYTES)
    changes: dict[bytes, Change] = {}
    owned = []
    for (found, asset_id), is_subject in zip(named, reader.are_subjects(ids).tolist(), strict=True):
        if not is_subject:  # then it is the asset's own entry
            changes[asset_id] = _first_owner(found)
        elif asset_id not in changes:
            changes[asset_id] = owner_at(reader, asset_id, index)
        if changes[asset_id].named_by == found.index:
            owned.append(Owned(asset_id, changes[asset_id]))
    is_last = page.next_begin is None or page.next_begin > index
    return OwnedPage(tuple(owned), None if is_last else page.next_begin)


def tenants_assets(
    reader: Reader, tenant: str, *, at: int | None = None, begin: int = 0, limit: int = PAGE_MAX
) -> OwnedPage:
    """`assets_of` a tenant's name."""
    return assets_of(reader, owner_of(tenant), at=at, begin=begin, limit=limit)


def _check_reached(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise EntryNotFound(f"no entry {index}; there are {size}", where="index", fix="Ask for one that was recorded.")


def _first_owner(asset_: Found) -> Change:
    """Whose an asset was when its own entry was recorded."""
    return Change(asset_.index, asset_.entry.time_ns, asset_.entry.owner, asset_.index)


def _given(entry: Entry) -> bytes | None:
    """The asset that an entry gives, or may give once it is posted, to the owner it names."""
    if entry.kind in ASSET_KINDS:
        return entry.id
    return entry.subject if entry.kind == Kind.OWNERSHIP and not entry.flags & ENDS else None


def _happened(reader: Reader, transfer: Found) -> Found | None:
    """The entry with which a transfer of ownership happened: itself, or what posted it."""
    if not transfer.entry.flags & Flag.PENDING:
        return transfer
    end = end_of(reader, transfer.entry.id)
    if end is not None and end.entry.kind != transfer.entry.kind:
        raise LedgerCorrupt(
            f"an entry of the kind {end.entry.kind.name} ends the transfer of ownership at {transfer.index}",
            where=f"entry {end.index}",
            fix="Run fsck on the shard and restore it from a copy.",
        )
    return end if end is not None and end.entry.flags & Flag.POST else None
