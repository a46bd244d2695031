"""Cosignatures: what a witness says, under a key that is never a log's, and how many a policy asks for."""

import hashlib

import pytest

from ledger.errors import KeyInvalid, ReceiptInvalid
from ledger.note import (
    TIME_S_MAX,
    Checkpoint,
    Cosignature,
    Policy,
    Signer,
    WitnessKey,
    add_cosignatures,
    decode_base64,
    encode_base64,
    open_checkpoint,
    open_checkpoint_with_policy,
    open_note,
    parse_verifier_key,
    parse_witness_key,
    read_checkpoint,
    without_strangers,
)

LOG = Signer("example.org/log", b"l" * 32)
W1, W2, W3 = (Signer(f"witness.example/w{number}", bytes([number]) * 32) for number in (1, 2, 3))
WITNESS_KEYS = (W1.witness_key, W2.witness_key, W3.witness_key)
CHECKPOINT = Checkpoint("example.org/log", 12, b"r" * 32)
TEXT = CHECKPOINT.text()
NOTE = LOG.sign(TEXT)
TIME_S = 1_679_315_147


def policy(threshold: int) -> Policy:
    return Policy((LOG.key,), WITNESS_KEYS, threshold)


def test_a_cosignature_line_is_key_id_time_and_a_signature_of_time_and_text() -> None:
    start, name, encoded = W1.cosign(TEXT, TIME_S).removesuffix("\n").split(" ")
    data = decode_base64(encoded)
    assert (start, name, len(data)) == ("—", "witness.example/w1", 4 + 8 + 64)
    public = W1.witness_key.public_key
    assert data[:4] == hashlib.sha256(b"witness.example/w1\n\x04" + public).digest()[:4]
    assert int.from_bytes(data[4:12], "big") == TIME_S
    # The same signature as of a log's key over the message that the specification spells out.
    signed = W1.sign(f"cosignature/v1\ntime {TIME_S}\n{TEXT}").rsplit(" ", 1)[1]
    assert data[12:] == decode_base64(signed.strip())[4:]


def test_a_cosigned_checkpoint_opens_and_says_when_each_witness_signed() -> None:
    note = NOTE + W2.cosign(TEXT, TIME_S + 5) + W1.cosign(TEXT, TIME_S)
    witnessed = open_checkpoint_with_policy(note, policy(2))
    assert witnessed.checkpoint == CHECKPOINT
    assert witnessed.cosignatures == (
        Cosignature("witness.example/w2", TIME_S + 5),
        Cosignature("witness.example/w1", TIME_S),
    )
    assert open_checkpoint(note, [LOG.key]) == CHECKPOINT


@pytest.mark.parametrize(
    ("witnesses", "threshold", "complaint"),
    [
        ((), 1, "0 of the 1 .* missing: witness.example/w1, witness.example/w2, witness.example/w3"),
        ((W2,), 2, "1 of the 2 .* missing: witness.example/w1, witness.example/w3"),
        ((W1, W1), 2, "1 of the 2"),
        ((W1, W2), 3, "2 of the 3 .* missing: witness.example/w3"),
    ],
)
def test_too_few_cosignatures_are_refused_and_the_missing_ones_named(
    witnesses: tuple[Signer, ...], threshold: int, complaint: str
) -> None:
    note = NOTE + "".join(witness.cosign(TEXT, TIME_S + place) for place, witness in enumerate(witnesses))
    with pytest.raises(ReceiptInvalid, match=complaint):
        open_checkpoint_with_policy(note, policy(threshold))


def test_a_policy_without_witnesses_asks_for_the_log_alone() -> None:
    assert open_checkpoint_with_policy(NOTE, Policy((LOG.key,))).cosignatures == ()
    with pytest.raises(ReceiptInvalid, match="no known key"):
        open_checkpoint_with_policy(W1.sign(TEXT) + W1.cosign(TEXT, TIME_S), policy(1))


def test_strangers_and_same_names_with_other_keys_count_for_nothing() -> None:
    stranger, impostor = Signer("witness.example/w9", b"9" * 32), Signer(W1.name, b"i" * 32)
    note = NOTE + stranger.cosign(TEXT, TIME_S) + impostor.cosign(TEXT, TIME_S)
    assert open_checkpoint_with_policy(note, policy(0)).cosignatures == ()
    with pytest.raises(ReceiptInvalid, match="0 of the 1"):
        open_checkpoint_with_policy(note, policy(1))


def line_of_w1(data: bytes) -> str:
    """A well-formed signature line under the first witness's name and key id, whatever its signature."""
    return f"— {W1.name} {encode_base64(W1.witness_key.key_id + data)}\n"


@pytest.mark.parametrize("place", [0, 7, 8, 71])
def test_a_flipped_bit_of_time_or_signature_condemns_the_note(place: int) -> None:
    data = bytearray(decode_base64(W1.cosign(TEXT, TIME_S).split()[2])[4:])
    assert line_of_w1(bytes(data)) == W1.cosign(TEXT, TIME_S)
    data[place] ^= 1
    with pytest.raises(ReceiptInvalid, match=W1.name):
        open_checkpoint_with_policy(NOTE + line_of_w1(bytes(data)), policy(0))


def test_a_cosignature_of_another_checkpoint_condemns_the_note() -> None:
    other = Checkpoint("example.org/log", 13, b"r" * 32).text()
    with pytest.raises(ReceiptInvalid, match="not of this text"):
        open_checkpoint_with_policy(NOTE + W1.cosign(other, TIME_S), policy(0))


def test_a_cosignature_is_of_a_time_that_the_format_can_hold() -> None:
    note = NOTE + W1.cosign(TEXT, TIME_S_MAX) + W2.cosign(TEXT, 0)
    found = open_checkpoint_with_policy(note, policy(2)).cosignatures
    assert [cosignature.time_s for cosignature in found] == [TIME_S_MAX, 0]
    for time_s in (-1, TIME_S_MAX + 1):
        with pytest.raises(AssertionError):
            W1.cosign(TEXT, time_s)
    with pytest.raises(ReceiptInvalid, match="of no time"):
        open_checkpoint_with_policy(NOTE + line_of_w1(b"\xff" * 72), policy(0))


@pytest.mark.parametrize("length", [1, 7, 8, 71, 73])
def test_a_cosignature_of_another_length_is_a_bad_one(length: int) -> None:
    with pytest.raises(ReceiptInvalid, match="not of this text"):
        open_checkpoint_with_policy(NOTE + line_of_w1(bytes(length)), policy(0))


# ---- keys


def test_a_witness_key_comes_back_from_its_string() -> None:
    text = str(W1.witness_key)
    assert parse_witness_key(text) == W1.witness_key
    assert decode_base64(text.split("+", 2)[2])[:1] == b"\x04"


def test_a_logs_key_is_no_witness_and_a_witness_no_log() -> None:
    with pytest.raises(KeyInvalid, match="algorithm 0x04"):
        parse_witness_key(str(W1.key))
    with pytest.raises(KeyInvalid, match="algorithm 0x01"):
        parse_verifier_key(str(W1.witness_key))
    with pytest.raises(KeyInvalid, match="not that of the key"):
        parse_witness_key(str(W1.witness_key).replace("w1", "w2"))
    # A cosignature under the log's own name and key does not make it the log's checkpoint.
    with pytest.raises(ReceiptInvalid, match="no known key"):
        open_checkpoint(f"{TEXT}\n{LOG.cosign(TEXT, TIME_S)}", [LOG.key])


@pytest.mark.parametrize(
    ("keys", "threshold", "complaint"),
    [
        (WITNESS_KEYS, 4, "4 of 3"),
        (WITNESS_KEYS, -1, "-1 of 3"),
        ((), 1, "1 of 0"),
        ((W1.witness_key, W1.witness_key), 1, "share"),
        ((W1.witness_key, W1.renamed("witness.example/again").witness_key), 2, "share"),
        ((W1.witness_key, Signer(W1.name, b"x" * 32).witness_key), 2, "share"),
    ],
)
def test_a_policy_that_counts_wrongly_is_refused(keys: tuple[WitnessKey, ...], threshold: int, complaint: str) -> None:
    with pytest.raises(KeyInvalid, match=complaint):
        Policy((LOG.key,), keys, threshold)


# ---- what a log does with the answers of witnesses


def test_a_log_adds_the_cosignatures_of_its_witnesses_and_drops_other_lines() -> None:
    stranger = Signer("witness.example/w9", b"9" * 32).cosign(TEXT, TIME_S)
    note = add_cosignatures(NOTE, stranger + W1.cosign(TEXT, TIME_S), WITNESS_KEYS)
    note = add_cosignatures(note, W3.cosign(TEXT, TIME_S + 1), WITNESS_KEYS)
    assert note == NOTE + W1.cosign(TEXT, TIME_S) + W3.cosign(TEXT, TIME_S + 1)
    open_checkpoint_with_policy(note, policy(2))


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "\n",
        "garbage\n",
        W1.cosign(TEXT, TIME_S)[:-1],
        Signer("witness.example/w9", b"9" * 32).cosign(TEXT, TIME_S),
        W1.cosign("another text\n", TIME_S),
        "\n" + W1.cosign(TEXT, TIME_S),
        W2.cosign(TEXT, TIME_S) + "\n" + W1.cosign(TEXT, TIME_S),
        "\n" + W2.cosign(TEXT, TIME_S) + W1.cosign(TEXT, TIME_S),
        W1.cosign(TEXT, TIME_S) * 32,
    ],
)
def test_an_answer_that_is_no_cosignature_of_a_known_witness_is_refused(lines: str) -> None:
    with pytest.raises(ReceiptInvalid):
        add_cosignatures(NOTE, lines, WITNESS_KEYS)


def test_a_note_without_strangers_has_one_line_a_known_key() -> None:
    note = NOTE + W1.sign(TEXT).removeprefix(f"{TEXT}\n") + NOTE.removeprefix(f"{TEXT}\n") * 3
    assert without_strangers(note, [LOG.key]) == NOTE
    assert open_note(without_strangers(note, [W1.key, LOG.key]), [W1.key])[0] == TEXT


def test_a_checkpoint_can_be_read_before_anybody_is_believed() -> None:
    assert read_checkpoint(W1.sign(TEXT)) == CHECKPOINT
    with pytest.raises(ReceiptInvalid):
        read_checkpoint(TEXT)
    with pytest.raises(ReceiptInvalid, match="signature line"):
        read_checkpoint(NOTE.replace("—", "-"))
