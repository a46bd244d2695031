"""What the audit commands share: a ledger's shards opened beside their owner, what the user named, plain answers.

They see what is in the shards' trees. What an owner has acknowledged and not integrated yet, a moment ago or before it
died, is only in its write-ahead log: nothing can be proved of it until the owner goes on.
Who asks must be allowed to write LMDB's table of readers (`lock.mdb`), unless the file system is mounted read-only.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from actors.terminal import out, plain, read_file
from engine.errors import InvalidRequest
from ledger.entry import ID_BYTES
from ledger.errors import EntryNotFound, KeyInvalid, LogMismatch
from ledger.log import ADOPTED_DIR, VERIFIER_FILE, shard_of_origin, shard_paths
from ledger.note import Checkpoint, Policy, VerifierKey, open_checkpoint, parse_verifier_key
from ledger.policy import parse_policy
from ledger.reader import Found, Reader

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NS_PER_S = 10**9

LedgerArgument = Annotated[Path, typer.Argument(help="A ledger directory. It may be in use.")]
ShardOption = Annotated[int | None, typer.Option("--shard", help="Which shard; needless if there is one.")]
WhereOption = Annotated[int | None, typer.Option("--shard", help="Which shard it is in; needless if one has the id.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="File of verifier keys; by default the ledger's own.")]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="Policy file (C2SP tlog-policy): how many of which witnesses.")
]
UnderOption = Annotated[
    Path | None, typer.Option("--under", help="A checkpoint, say a cosigned one; by default the newest stored one.")
]


class Shards(Mapping[int, Reader]):
    """The shards of a ledger's directory by their numbers, adopted ones too, each opened when it is first asked for.

    Raises:
        InvalidRequest: there are none.
        LogMismatch: on opening one: it is not the shard that its directory says.
    """

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger
        paths = [*shard_paths(ledger / ADOPTED_DIR), *shard_paths(ledger)]
        self._paths = {int(path.name.removeprefix("shard-")): path for path in paths}
        self._open: dict[int, Reader] = {}
        if not self._paths:
            raise InvalidRequest("no shard is there", where=str(ledger), fix="Name a ledger's directory.")

    def __getitem__(self, number: int) -> Reader:
        if number not in self._open:
            self._open[number] = open_shard(self._paths[number], number)
        return self._open[number]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._paths))

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

    def with_id(self, id_: bytes, shard: int | None) -> tuple[int, Found]:
        """The shard and the entry that have an id, in all shards or in the one that is named.

        Raises:
            EntryNotFound: none has it.
            InvalidRequest: there is no such shard; or none was named, and several have it: an id has one entry in each.
        """
        readers = dict(self) if shard is None else {shard: self.one(shard)}
        having = {number: found for number, reader in readers.items() if (found := reader.by_id(id_)) is not None}
        if len(having) > 1:
            raise InvalidRequest(
                f"the shards {', '.join(map(str, having))} have entries with this id",
                where=id_.hex(),
                fix="Say which is meant with --shard.",
            )
        if not having:
            raise EntryNotFound(
                f"no entry of the shards {', '.join(map(str, readers))} has this id",
                where=id_.hex(),
                fix="Give the id as the engine returned it, 32 hexadecimal digits.",
            )
        return next(iter(having.items()))


def open_shard(path: Path, number: int) -> Reader:
    """The shard in a directory, which is the one with this number.

    Raises:
        LogMismatch: it is another one. LedgerCorrupt, LedgerError: see `Reader.open`.
    """
    reader = Reader.open(path)
    try:
        if shard_of_origin(reader.origin) != number:
            raise LogMismatch(
                f"the shard there is {reader.origin[:80]!r}",
                where=str(path),
                fix="Put every shard back into its own directory.",
            )
    except BaseException:
        reader.close()
        raise
    return reader


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


def policy_of(key: Path | None, policy: Path | None, ledger: Path | None = None) -> Policy:
    """Whom to believe: the logs of the policy's file, or those of a file of verifier keys if that names none; and the
    policy's witnesses, or none.

    Args:
        ledger: its own keys are taken where no others are given.
    Raises:
        InvalidRequest: no file of keys, or two, or one that cannot be read.
        KeyInvalid: a line of one is not what it should be.
    """
    parsed = parse_policy(read_file(policy, "the policy")) if policy is not None else None
    if parsed is not None and parsed.log_keys:
        if key is not None:
            raise InvalidRequest(
                "the policy names the logs to believe, and so does --key", where=str(policy), fix="Leave --key out."
            )
        return parsed.policy()
    if key is None and ledger is not None:
        key = ledger / VERIFIER_FILE
    if key is None:
        raise InvalidRequest(
            "whose signature is to be believed is not said",
            where="--key",
            fix="Give the log's verifier keys, or a policy that names them.",
        )
    keys = keys_in(key)
    return Policy(keys) if parsed is None else parsed.policy(keys)


def keys_in(path: Path) -> tuple[VerifierKey, ...]:
    """The verifier keys of a file, one a line."""
    keys = []
    for number, line in enumerate(read_text(path, "the verifier keys").splitlines(), start=1):
        try:
            keys.append(parse_verifier_key(line))
        except KeyInvalid as error:
            raise KeyInvalid(error.what, where=f"{path}, line {number}", fix=error.fix) from error
    return tuple(keys)


class Named(NamedTuple):
    """A checkpoint that a user named; `note` is the log's signed one, None if it is of a tree that nobody signed."""

    checkpoint: Checkpoint
    note: str | None


def checkpoint_of(named: str | None, reader: Reader, policy: Policy, where: str) -> Named:
    """The checkpoint that a user named, with its note if the log has signed it.

    Args:
        named: a file with a checkpoint; a number of entries, for the tree that the stored nodes give; or None, for the
            newest checkpoint that is stored.
    Raises:
        InvalidRequest: it is neither. EntryNotFound: there are fewer entries.
        ReceiptInvalid: the file's checkpoint is not signed by a key of the policy.
    """
    if named is not None and _SIZE.fullmatch(named):
        return Named(reader.tree(int(named)), None)
    try:
        note = reader.checkpoint() if named is None else read_text(Path(named), "the checkpoint")
    except InvalidRequest as error:
        raise InvalidRequest(
            f"{str(named)[:80]!r} is neither a number of entries nor a file that can be read",
            where=where,
            fix="Give a checkpoint's file, or a tree size.",
        ) from error
    return Named(open_checkpoint(note, policy.log_keys), note)


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
