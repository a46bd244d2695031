"""Signed notes and checkpoints: the published vector, and one spelling for everything."""

import pytest

from ledger.errors import KeyInvalid, ReceiptInvalid
from ledger.note import (
    Checkpoint,
    Signer,
    decode_base64,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_secret,
    parse_verifier_key,
)

# The vector of C2SP signed-note's reference implementation (golang.org/x/mod/sumdb/note).
KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
TEXT = "This is an example message.\n"
SIGNATURE = "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
NOTE = f"{TEXT}\n— example.com/foo {SIGNATURE}\n"

SIGNER = Signer("example.org/log", bytes(range(32)))
CHECKPOINT = Checkpoint("example.org/log", 12, b"r" * 32)


def test_the_published_note_opens_with_the_published_key() -> None:
    assert open_note(NOTE, [parse_verifier_key(KEY)]) == (TEXT, frozenset({"example.com/foo"}))
    assert str(parse_verifier_key(KEY)) == KEY


def test_what_a_signer_signs_opens_with_its_verifier_key() -> None:
    key = parse_verifier_key(str(SIGNER.key))
    assert open_note(SIGNER.sign(TEXT), [key]) == (TEXT, frozenset({"example.org/log"}))


def test_a_text_with_empty_lines_ends_at_the_last_one() -> None:
    assert open_note(SIGNER.sign("a\n\nb\n"), [SIGNER.key])[0] == "a\n\nb\n"


def test_signatures_of_unknown_keys_are_ignored_beside_a_known_one() -> None:
    stranger = Signer("witness.example/w", b"w" * 32).sign(TEXT).removeprefix(f"{TEXT}\n")
    post_quantum = f"— pq.example/w {'AAAA' * 1600}\n"
    assert open_note(NOTE + stranger + post_quantum, [parse_verifier_key(KEY)])[0] == TEXT


def test_a_note_that_only_strangers_signed_does_not_open() -> None:
    same_name_other_key = Signer("example.com/foo", b"x" * 32)
    with pytest.raises(ReceiptInvalid, match="no known key"):
        open_note(NOTE, [same_name_other_key.key, SIGNER.key])
    with pytest.raises(ReceiptInvalid, match="no known key"):
        open_note(NOTE, [])


def test_a_bad_signature_of_one_known_key_condemns_the_note() -> None:
    other_text = SIGNER.sign("Another text.\n").removeprefix("Another text.\n\n")
    with pytest.raises(ReceiptInvalid, match="not of this text"):
        open_note(NOTE + other_text, [parse_verifier_key(KEY), SIGNER.key])


def test_a_signature_of_another_length_is_a_bad_signature() -> None:
    short = "Uw2QOkn8"
    with pytest.raises(ReceiptInvalid, match="not of this text"):
        open_note(f"{TEXT}\n— example.com/foo {short}\n", [parse_verifier_key(KEY)])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        TEXT,
        TEXT + "\n",
        NOTE[:-1],
        NOTE + "\n",
        NOTE + "x",
        NOTE.replace("—", "-"),
        NOTE.replace("— ", "—"),
        NOTE.replace("example.com/foo ", ""),
        NOTE.replace("example.com/foo ", "example.com/foo  "),
        NOTE.replace("aQM=", "aQN="),
        NOTE.replace("aQM=", "aQM"),
        NOTE.replace("Uw2Q", "Uw2 "),
        NOTE.replace("This", "This\r"),
        NOTE.replace("This", "Th\0s"),
        NOTE.replace("This", "\udc80"),
        f"{TEXT}\n— example.com/foo Uw2QOg==\n",
        NOTE + NOTE.split("\n\n")[1] * 32,
        "x" * 300_000 + NOTE,
    ],
)
def test_a_malformed_note_does_not_open(note: str) -> None:
    with pytest.raises(ReceiptInvalid):
        open_note(note, [parse_verifier_key(KEY)])


@pytest.mark.parametrize(
    "key",
    [
        "",
        "example.com/foo",
        KEY.replace("530d903a", "530d903b"),
        KEY.replace("530d903a", "530D903A"),
        KEY.replace("foo", "bar"),
        KEY.replace("example.com/foo", ""),
        KEY.replace("example.com/foo", "example.com foo"),
        KEY.replace("+Aek", "+BOk"),
        KEY + "=",
        KEY[:-4],
        KEY + "\n",
    ],
)
def test_a_malformed_verifier_key_is_refused(key: str) -> None:
    with pytest.raises(KeyInvalid):
        parse_verifier_key(key)


def test_a_secret_key_string_gives_the_same_signer_back() -> None:
    assert parse_secret(SIGNER.secret()).sign(TEXT) == SIGNER.sign(TEXT)
    assert SIGNER.secret().startswith("PRIVATE+KEY+example.org/log+")


def test_a_secret_key_string_with_another_name_is_refused() -> None:
    with pytest.raises(KeyInvalid, match="id is not that of the key"):
        parse_secret(SIGNER.secret().replace("example.org", "example.com"))
    with pytest.raises(KeyInvalid, match="PRIVATE"):
        parse_secret(str(SIGNER.key))


def test_a_signer_does_not_show_its_secret_when_printed() -> None:
    assert SIGNER.secret().rsplit("+", 1)[1] not in f"{SIGNER!r} {SIGNER}"


def test_the_same_key_under_another_name_signs_for_that_name_only() -> None:
    renamed = SIGNER.renamed("example.org/other")
    assert renamed.key.public_key == SIGNER.key.public_key
    with pytest.raises(ReceiptInvalid, match="no known key"):
        open_note(renamed.sign(TEXT), [SIGNER.key])


def test_a_checkpoint_is_three_lines_and_comes_back_from_them() -> None:
    assert CHECKPOINT.text() == "example.org/log\n12\ncnJycnJycnJycnJycnJycnJycnJycnJycnJycnJycnI=\n"
    assert open_checkpoint(SIGNER.sign(CHECKPOINT.text()), [SIGNER.key]) == CHECKPOINT


def test_a_checkpoint_signed_under_another_name_than_its_origin_does_not_open() -> None:
    note = SIGNER.sign(Checkpoint("example.org/another", 12, b"r" * 32).text())
    with pytest.raises(ReceiptInvalid, match="another has not signed"):
        open_checkpoint(note, [SIGNER.key])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n12\n", "\n012\n"),
        ("\n12\n", "\n+12\n"),
        ("\n12\n", "\n-1\n"),
        ("\n12\n", "\n1_2\n"),
        ("\n12\n", "\n１２\n"),
        ("\n12\n", "\n\n"),
        ("\n12\n", f"\n{10**19}\n"),
        ("example.org/log", ""),
        ("cnJy", ""),
        ("cnI=\n", "cnI=\nextension\n"),
        ("cnI=\n", "cnI="),
    ],
)
def test_a_malformed_checkpoint_is_refused(old: str, new: str) -> None:
    assert old in CHECKPOINT.text()
    with pytest.raises(ReceiptInvalid):
        parse_checkpoint(CHECKPOINT.text().replace(old, new, 1))


@pytest.mark.parametrize("text", ["AA", "AA=", "AB==", "AA==\n", " AA==", "AA==AA==", "A-==", "é==="])
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(ReceiptInvalid):
        decode_base64(text)
