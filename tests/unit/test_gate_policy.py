"""Policies: what loads, what is refused and where, and what the hash depends on."""

import pickle
from pathlib import Path

import pytest

from gate.errors import PolicyError
from gate.policy import POLICY_BYTES_MAX, Policy, load_policies, load_policy, parse_policy

FOLDER = Path(__file__).parents[2] / "configs" / "policies"
SMALL = """\
name: small
version: 1
words:
  min: 5
  max: 50
sentences: {min: 1, max: 4}
"""


def small(text: str = SMALL) -> Policy:
    return parse_policy(text.encode(), "small.yaml")


def test_the_policies_of_the_house_load_by_name() -> None:
    policies = load_policies(FOLDER)
    assert {"default", "luxury"} <= set(policies)
    assert policies["default"].facts.must_state == ("article", "colour", "material", "price", "size", "gender")
    assert policies["default"].retries.free == 2


def test_comments_key_order_and_layout_do_not_change_the_hash() -> None:
    lines = SMALL.splitlines()
    shuffled = "\n".join(["# a comment", lines[5], *lines[2:5], lines[1], lines[0]])
    assert small(shuffled).hash == small().hash
    assert len(small().hash) == 64


def test_any_changed_rule_changes_the_hash() -> None:
    changed = [SMALL.replace("max: 50", "max: 51"), SMALL + "banned_terms: [cheap]\n", SMALL + "tone: calm\n"]
    assert len({small().hash, *(small(text).hash for text in changed)}) == 4


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (SMALL + "wrods: 3\n", 7, "wrods"),
        (SMALL.replace("  max: 50", "  mxa: 50\n  max: 50"), 5, "mxa"),
        (SMALL.replace("min: 5", "min: five"), 4, "words.min"),
        (SMALL.replace("min: 5", "min: 0"), 4, "words.min"),
        (SMALL.replace("min: 5", "min: 60"), 4, "greater than max"),
        (SMALL.replace("version: 1", "version: 1.5"), 2, "version"),
        (SMALL.replace("name: small", "name: 'no spaces'"), 1, "name"),
        (SMALL + "languages: [en, de]\n", 7, "languages"),
        (SMALL + "banned_terms:\n  - cheap\n  - 3\n", 9, "banned_terms"),
        (SMALL + "facts: {may_not_contradict: [colour, mood]}\n", 7, "may_not_contradict"),
        (SMALL + "version: 2\n", 7, "stands twice"),
        (SMALL + "tone: [unclosed\n", 8, "not YAML"),
        ("- a\n- b\n", 1, "key: value"),
        ("", 1, "key: value"),
        (SMALL + "tone: !!python/object:os.system x\n", 7, "constructor"),
        ("version: 1\n", 1, "missing"),
    ],
)
def test_a_fault_is_reported_with_file_and_line(text: str, line: int, what: str) -> None:
    with pytest.raises(PolicyError) as caught:
        small(text)
    error = caught.value
    assert error.code == "invalid_policy"
    assert error.where == f"small.yaml, line {line}"
    assert what in error.what
    assert error.fix.endswith(".")


def test_a_missing_file_a_huge_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read"):
        load_policy(tmp_path / "none.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (POLICY_BYTES_MAX + 1))
    with pytest.raises(PolicyError, match="larger than"):
        load_policy(tmp_path / "huge.yaml")
    (tmp_path / "huge.yaml").unlink()
    with pytest.raises(PolicyError, match="no policy file"):
        load_policies(tmp_path)


def test_two_files_may_not_hold_one_name(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(SMALL, encoding="utf-8")
    with pytest.raises(PolicyError, match="already taken") as caught:
        load_policies(tmp_path)
    assert caught.value.where.endswith("b.yaml")


def test_a_policy_error_survives_pickling() -> None:
    error = PolicyError("unknown_policy", "no such policy", where="brief.policy", fix="Use another.")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.what, copy.where, copy.fix) == (error.code, error.what, error.where, error.fix)
    assert str(copy) == "unknown_policy at brief.policy: no such policy. Use another."
