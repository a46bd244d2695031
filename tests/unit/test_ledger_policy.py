"""Policy files: what the format says is read, and nothing else."""

import pytest

from ledger.errors import KeyInvalid
from ledger.note import Signer
from ledger.policy import POLICY_BYTES_MAX, parse_policy

LOG = Signer("example.org/log/super/shard-0", b"l" * 32)
WITNESSES = [Signer(f"witness.example/w{number}", bytes([number]) * 32) for number in range(4)]
KEYS = [signer.witness_key for signer in WITNESSES]

FULL = f"""
# who is believed
log {LOG.key} https://log.example/super

witness w0\t{KEYS[0]}   https://w0.example/prefix/
  witness w1 {KEYS[1]}
witness w2 {KEYS[2]} https://w2.example
witness spare {KEYS[3]}
group some 2 w0 w1 w2
quorum some
"""


def lines(*more: str) -> bytes:
    """The first three witnesses, and more lines."""
    return "\n".join([*(f"witness w{number} {KEYS[number]}" for number in range(3)), *more, ""]).encode()


def test_a_policy_names_logs_witnesses_and_how_many_of_them() -> None:
    parsed = parse_policy(FULL.encode())
    assert parsed.log_keys == (LOG.key,)
    assert [witness.key for witness in parsed.witnesses] == KEYS[:3]
    assert [witness.url for witness in parsed.witnesses] == ["https://w0.example/prefix/", "", "https://w2.example"]
    policy = parsed.policy()
    assert (policy.log_keys, policy.witness_keys, policy.threshold) == ((LOG.key,), tuple(KEYS[:3]), 2)


@pytest.mark.parametrize(
    ("rule", "names", "threshold"),
    [
        (["quorum none"], [], 0),
        (["quorum w1"], ["w1"], 1),
        (["group g any w0 w2", "quorum g"], ["w0", "w2"], 1),
        (["group g all w0 w2", "quorum g"], ["w0", "w2"], 2),
        (["group g 3 w2 w1 w0", "quorum g"], ["w2", "w1", "w0"], 3),
        (["group g any w0", "group h any w1", "quorum h"], ["w1"], 1),
    ],
)
def test_the_quorum_is_a_witness_a_group_or_none(rule: list[str], names: list[str], threshold: int) -> None:
    parsed = parse_policy(lines(*rule))
    assert ([witness.name for witness in parsed.witnesses], parsed.threshold) == (names, threshold)


def test_keys_from_elsewhere_are_believed_only_if_the_policy_names_no_log() -> None:
    stranger = Signer("example.org/log/shard-3", b"x" * 32).key
    assert parse_policy(lines("quorum w1")).policy((stranger,)).log_keys == (stranger,)
    assert parse_policy(FULL.encode()).policy((stranger,)).log_keys == (LOG.key,)
    with pytest.raises(KeyInvalid, match="no log is named"):
        parse_policy(lines("quorum w1")).policy()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "there is no quorum"),
        (lines(), "there is no quorum"),
        (lines("quorum w1", "quorum w1"), "line 5, quorum: there is a second"),
        (lines("quorum w9"), "not defined before"),
        (b"quorum w0\n" + lines(), "line 1, quorum"),
        (lines("quorum"), "a line is a log"),
        (lines("quorum w0 w1"), "a line is a log"),
        (lines("group g 1", "quorum g"), "a line is a log"),
        (lines("group g 4 w0 w1 w2", "quorum g"), "4 of 3"),
        (lines("group g 0 w0", "quorum g"), "is not a number"),
        (lines("group g 01 w0", "quorum g"), "is not a number"),
        (lines("group g some w0", "quorum g"), "is not a number"),
        (lines("group g any w0 w0", "quorum g"), "a member already"),
        (lines("group g any w0", "group h any w0 w1", "quorum h"), "a member already"),
        (lines("group g any w9", "quorum g"), "is no witness"),
        (lines("group g any none", "quorum g"), "is no witness"),
        (lines("group g any w0", "group h all g w1", "quorum h"), "groups of groups"),
        (lines("group w0 any w1", "quorum w0"), "the name is taken"),
        (lines(f"witness none {KEYS[3]}", "quorum w0"), "the name is taken"),
        (lines(f"witness w0 {KEYS[3]}", "quorum w0"), "the name is taken"),
        (lines(f"witness again {KEYS[0]}", "quorum w0"), "another witness has this key"),
        (lines(f"log {LOG.key}", f"log {LOG.renamed('other').key}", "quorum w0"), "another log has this key"),
        (lines(f"log {KEYS[3]}", "quorum w0"), "algorithm 0x01"),
        (lines(f"witness w3 {LOG.key}", "quorum w0"), "algorithm 0x04"),
        (lines(f"witness w3 {KEYS[3]} url more", "quorum w0"), "a line is a log"),
        (lines("trust everybody", "quorum w0"), "a line is a log"),
        (lines("quorum w0").replace(b"\n", b"\r\n"), "control character"),
        (lines("quorum w\xff").replace("ÿ".encode(), b"\xff"), "UTF-8"),
        (lines("quorum w0") + b"#" * POLICY_BYTES_MAX, "more than"),
    ],
)
def test_anything_else_is_refused_with_its_line(data: bytes, what: str) -> None:
    with pytest.raises(KeyInvalid, match=what):
        parse_policy(data)
