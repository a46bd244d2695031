"""What the audit commands share: a ledger's shards opened beside their owner, what the user named, plain answers."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import msgspec
import typer

from actors.terminal import out, plain, read_file
from engine.errors import InvalidRequest
from ledger.entry import ID_BYTES
from ledger.errors import EntryNotFound
from ledger.log import VERIFIER_FILE, shard_paths
from ledger.note import Checkpoint, Policy, open_checkpoint, parse_verifier_key
from ledger.policy import parse_policy
from ledger.reader import Found, Reader

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NS_PER_S = 10**9

LedgerArgument = Annotated[Path, typer.Argument(help="A ledger directory. It may be in use.")]
ShardOption = Annotated[int | None, typer.Option("--shard", help="Which shard; needless if there is one.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="File of verifier keys; by default the ledger's own.")]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="Policy file (C2SP tlog-policy): how many of which witnesses.")
]
UnderOption = Annotated[
    Path | None, typer.Option("--under", help="A checkpoint, say a cosigned one; by default the newest stored one.")
]


class Shards(Mapping[int, Reader]):
    """The shards of a ledger's directory by their numbers, each opened when it is first asked for.

    Raises:
        InvalidRequest: there are none.
    """

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger
        self._paths = {int(path.name.removeprefix("shard-")): path for path in shard_paths(ledger)}
        self._open: dict[int, Reader] = {}
        if not self._paths:
            raise InvalidRequest("no shard is there", where=str(ledger), fix="Name a ledger's directory.")

    def __getitem__(self, number: int) -> Reader:
        if number not in self._open:
            self._open[number] = Reader.open(self._paths[number])
        return self._open[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._paths)

    def __contains__(self, number: object) -> bool:
        return number in self._paths

    def __len__(self) -> int:
        return len(self._paths)

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for reader in self._open.values():
            reader.close()

    def one(self, number: int | None) -> Reader:
        """The shard that a question is about.

        Raises:
            InvalidRequest: there is no such shard, or there are several and none was named.
        """
        if number is None and len(self) == 1:
            return self[next(iter(self))]
        if number is None or number not in self:
            there = ", ".join(map(str, self))
            what = "which shard is not said" if number is None else f"there is no shard {number}"
            raise InvalidRequest(what, where="--shard", fix=f"Name one of {there}.")
        return self[number]

    def with_id(self, id_: bytes) -> tuple[int, Found]:
        """The shard and the entry that have an id.

        Raises:
            EntryNotFound: none has it.
        """
        for number, reader in self.items():
            found = reader.by_id(id_)
            if found is not None:
                return number, found
        raise EntryNotFound(
            f"no entry of the {len(self)} shards there has this id",
            where=id_.hex(),
            fix="Give the id as the engine returned it, 32 hexadecimal digits.",
        )


def parse_id(text: str, where: str) -> bytes:
    """The 16 bytes of an id or an owner in hexadecimal digits."""
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * ID_BYTES}}}", text) is None:
        raise InvalidRequest(f"{text[:40]!r} is no id", where=where, fix=f"Give {2 * ID_BYTES} hexadecimal digits.")
    return bytes.fromhex(text)


def parse_time_ns(text: str, where: str) -> int:
    """Unix time in nanoseconds of seconds, or of an ISO 8601 time with its offset from UTC."""
    if _SIZE.fullmatch(text):
        return int(text) * _NS_PER_S
    fix = "Give Unix seconds, or say 2026-11-23T12:00:00Z."
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text[:40]!r} is no time", where=where, fix=fix) from None
    if time.tzinfo is None:
        raise InvalidRequest(f"{text!r} does not say in which time zone", where=where, fix=fix)
    return int(time.timestamp()) * _NS_PER_S + time.microsecond * 1_000


def read_text(path: Path, what: str) -> str:
    return read_file(path, what).decode("utf-8", errors="replace")


def keys_of(ledger: Path, key: Path | None) -> list[str]:
    """The lines of a file of verifier keys."""
    return read_text(key or ledger / VERIFIER_FILE, "the verifier keys").splitlines()


def policy_of(ledger: Path, key: Path | None, policy: Path | None) -> Policy:
    """Whom to believe: the policy's logs, or the keys if it names none; and its witnesses, or none."""
    parsed = parse_policy(read_file(policy, "the policy")) if policy is not None else None
    if parsed is not None and parsed.log_keys:
        return parsed.policy()
    keys = tuple(parse_verifier_key(line) for line in keys_of(ledger, key))
    return Policy(keys) if parsed is None else parsed.policy(keys)


def checkpoint_of(named: str | None, reader: Reader, policy: Policy, where: str) -> tuple[Checkpoint, bool]:
    """The checkpoint that a user named, and whether the log has signed it.

    Args:
        named: a file with a checkpoint; a number of entries, for the tree that the stored nodes give; or None, for the
            newest checkpoint that is stored.
    Raises:
        InvalidRequest: it is neither. EntryNotFound: there are fewer entries.
        ReceiptInvalid: the file's checkpoint is not signed by a key of the policy.
    """
    if named is not None and _SIZE.fullmatch(named):
        return reader.tree(int(named)), False
    if named is not None and not Path(named).is_file():
        raise InvalidRequest(
            f"{named[:80]!r} is neither a file nor a number of entries",
            where=where,
            fix="Give a checkpoint's file, or a tree size.",
        )
    note = reader.checkpoint() if named is None else read_text(Path(named), "the checkpoint")
    return open_checkpoint(note, policy.log_keys), True


def as_plain(value: Any) -> Any:
    """An answer as JSON has it: structs as objects, bytes in hexadecimal digits, members of enumerations by name."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, msgspec.Struct):
        return {name: as_plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(as_plain(key)): as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, tuple | list) else value


def place_of(place: tuple[int, int] | list[int] | None) -> str:
    """shard/index."""
    return "-" if place is None else f"{place[0]}/{place[1]}"


def show_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Rows under headings, numbers to the right; nothing if there are none. Nothing is cut: ids are to be copied."""
    if not rows:
        return
    texts = [columns, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    is_number = [all(isinstance(value, int) for value in column) for column in zip(*rows, strict=True)]
    for text in texts:
        cells = zip(text, widths, is_number, strict=True)
        line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells)
        out.print(f"  {plain(line.rstrip())}", highlight=False, soft_wrap=True)
