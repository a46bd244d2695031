"""Policy files: which logs a verifier believes, and how many of which witnesses must have cosigned (C2SP tlog-policy).

    log <verifier key> [<url>]
    witness <name> <witness key> [<url>]
    group <name> <k | any | all> <witness name>...
    quorum <name of a witness or a group | none>

A line each, items separated by spaces or tabs; empty lines and lines that start with # are ignored; a name is defined
before it is used. Exactly one quorum. The names are of this file alone. URLs are for who talks to witnesses: there it
is the submission prefix, to which `/add-checkpoint` is appended.

Two limits of ours: a group has witnesses as members, not groups (k of n says what we need), and the file is UTF-8.
A file may name no log, where the keys come from elsewhere, say from `verifier.keys`.
"""

import re

import msgspec

from ledger.errors import KeyInvalid, LedgerError
from ledger.note import Policy, VerifierKey, WitnessKey, parse_verifier_key, parse_witness_key

POLICY_BYTES_MAX = 64 * 1024

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,3}")
_NONE = "none"


class WitnessLine(msgspec.Struct, frozen=True):
    """A witness as a policy file names it; `url` is empty where none is given."""

    name: str
    key: WitnessKey
    url: str


class PolicyFile(msgspec.Struct, frozen=True):
    """What a policy file says. `witnesses` are those of the quorum, in the order of the file."""

    log_keys: tuple[VerifierKey, ...]
    witnesses: tuple[WitnessLine, ...]
    threshold: int

    def policy(self, log_keys: tuple[VerifierKey, ...] = ()) -> Policy:
        """The policy for a verifier; the keys given are believed if the file names no log.

        Raises:
            KeyInvalid: there is no log to believe, or two witnesses have the same key name.
        """
        believed = self.log_keys or log_keys
        if not believed:
            raise _bad("no log is named", "policy")
        return Policy(believed, tuple(witness.key for witness in self.witnesses), self.threshold)


class _Group(msgspec.Struct, frozen=True):
    """At least so many of these witnesses."""

    threshold: int
    members: tuple[str, ...]


class _Reader:
    """What the lines so far have defined."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, WitnessLine] = {}
        self.groups: dict[str, _Group] = {}
        self.grouped: set[str] = set()
        self.quorum: _Group | None = None

    def read(self, items: list[str]) -> None:
        """One line."""
        match items:
            case ["log", key] | ["log", key, _]:
                self.add_log(parse_verifier_key(key))
            case ["witness", name, key] | ["witness", name, key, _]:
                self.add_witness(WitnessLine(name, parse_witness_key(key), items[3] if len(items) > 3 else ""))
            case ["group", name, threshold, *members] if members:
                self.add_group(name, threshold, members)
            case ["quorum", name]:
                self.set_quorum(name)
            case _:
                raise _bad("a line is a log, a witness, a group or the quorum, with its items", "policy")

    def add_log(self, key: VerifierKey) -> None:
        if key.public_key in {known.public_key for known in self.logs}:
            raise _bad("another log has this key", key.name)
        self.logs.append(key)

    def add_witness(self, witness: WitnessLine) -> None:
        self.check_new(witness.name)
        if witness.key.public_key in {known.key.public_key for known in self.witnesses.values()}:
            raise _bad("another witness has this key", witness.name)
        self.witnesses[witness.name] = witness

    def add_group(self, name: str, threshold: str, members: list[str]) -> None:
        self.check_new(name)
        for member in members:
            if member not in self.witnesses:
                what = (
                    "is a group, and groups of groups are not understood" if member in self.groups else "is no witness"
                )
                raise _bad(f"the member {member[:80]!r} {what}", name)
            if member in self.grouped:
                raise _bad(f"the witness {member[:80]!r} is a member already", name)
            self.grouped.add(member)
        numbers = {"any": 1, "all": len(members)}
        if threshold not in numbers and _THRESHOLD.fullmatch(threshold) is None:
            raise _bad(f"{threshold[:24]!r} is not a number, any or all", name)
        number = numbers.get(threshold) or int(threshold)
        if number > len(members):
            raise _bad(f"{number} of {len(members)} cannot be asked for", name)
        self.groups[name] = _Group(number, tuple(members))

    def set_quorum(self, name: str) -> None:
        if self.quorum is not None:
            raise _bad("there is a second quorum", "quorum")
        if name == _NONE:
            self.quorum = _Group(0, ())
        elif name in self.witnesses:
            self.quorum = _Group(1, (name,))
        elif name in self.groups:
            self.quorum = self.groups[name]
        else:
            raise _bad(f"{name[:80]!r} is not defined before it", "quorum")

    def check_new(self, name: str) -> None:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise _bad("the name is taken", name[:80])


def parse_policy(data: bytes) -> PolicyFile:
    """What a policy file says.

    Raises:
        KeyInvalid: a line is not what the format asks for; `where` has its number.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise _bad(f"more than {POLICY_BYTES_MAX} bytes", "policy")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _bad("it is not UTF-8", "policy") from None
    reader = _Reader()
    for number, line in enumerate(text.split("\n"), start=1):
        items = re.split(r"[ \t]+", line.strip(" \t"))
        if items == [""] or items[0].startswith("#"):
            continue
        try:
            if _CONTROL.search(line):
                raise _bad("a control character", "policy")
            reader.read(items)
        except LedgerError as error:
            raise _bad(error.what, f"policy line {number}, {error.where}") from error
    if reader.quorum is None:
        raise _bad("there is no quorum; without witnesses it is none", "policy")
    members = tuple(reader.witnesses[name] for name in reader.quorum.members)
    return PolicyFile(tuple(reader.logs), members, reader.quorum.threshold)


def _bad(what: str, where: str) -> KeyInvalid:
    return KeyInvalid(what, where=where, fix="Write the policy as c2sp.org/tlog-policy says.")
