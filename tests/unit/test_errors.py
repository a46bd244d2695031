"""Errors: four fields that survive every crossing, and an HTTP status for each code."""

import pickle
from typing import get_args

import pytest

from engine.errors import (
    BY_CODE,
    RETRY_LATER,
    ErrorBody,
    MintageError,
    Refused,
    Unavailable,
    describe,
    http_status,
    rebuild,
)
from gate.errors import PolicyCode, PolicyError
from ledger import errors as ledger_errors

KINDS = sorted(BY_CODE.values(), key=lambda kind: kind.code)


def made(kind: type[MintageError]) -> MintageError:
    return kind("the scarf is red", where="brief.facts.colour", fix="Send a teal one.")


def test_every_kind_of_error_is_found_by_its_own_code() -> None:
    assert set(BY_CODE.values()) == {MintageError, *MintageError.__subclasses__()}
    assert all(kind.code == code for code, kind in BY_CODE.items())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_an_error_keeps_its_kind_and_its_four_fields_through_pickling(kind: type[MintageError]) -> None:
    error = made(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.body == error.body == ErrorBody(kind.code, "the scarf is red", "brief.facts.colour", "Send a teal one.")
    assert str(copy) == str(error)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_an_error_is_rebuilt_from_what_described_it(kind: type[MintageError]) -> None:
    body = describe(made(kind))
    error = rebuild(body)
    assert type(error) is kind
    assert describe(error) == body


def test_an_unknown_code_is_rebuilt_as_the_root_and_keeps_its_code() -> None:
    body = ErrorBody("brand_new", "what", "where", "Fix.")
    error = rebuild(body)
    assert type(error) is MintageError
    assert describe(error) == body
    assert describe(pickle.loads(pickle.dumps(error))) == body


def test_the_text_of_an_error_says_code_place_fault_and_remedy() -> None:
    assert str(made(Refused)) == "refused at brief.facts.colour: the scarf is red. Send a teal one."


@pytest.mark.parametrize(
    "error",
    [
        ledger_errors.LedgerFull("no room", where="shard-000", fix="Make room."),
        ledger_errors.ReceiptInvalid("a bad signature", where="step 2", fix="Do not trust it."),
        PolicyError("invalid_policy", "unknown key 'wrods'", where="brand.yaml, line 3", fix="Compare."),
    ],
    ids=lambda error: error.code,
)
def test_errors_of_ledger_and_gate_are_described_by_their_own_fields(
    error: ledger_errors.LedgerError | PolicyError,
) -> None:
    assert describe(error) == ErrorBody(error.code, error.what, error.where, error.fix)


def test_a_foreign_error_is_internal_and_names_its_type() -> None:
    body = describe(ValueError("seven is no colour"))
    assert body.code == "internal"
    assert "ValueError" in body.what
    assert "seven is no colour" in body.what
    assert body.where and body.fix


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_code_has_the_http_status_of_its_kind(kind: type[MintageError]) -> None:
    status = http_status(made(kind).body)
    assert status == kind.http_status
    assert 400 <= status <= 599


LEDGER_CODES = [kind.code for kind in (ledger_errors.LedgerError, *ledger_errors.LedgerError.__subclasses__())]


@pytest.mark.parametrize("code", [*LEDGER_CODES, *get_args(PolicyCode)])
def test_an_error_of_another_package_is_rebuilt_with_the_status_of_its_body(code: str) -> None:
    body = ErrorBody(code, "what", "where", "Fix.")
    error = rebuild(body)
    assert error.body == body
    assert error.http_status == http_status(body)
    assert isinstance(error, Unavailable) == (code in RETRY_LATER)
    assert type(pickle.loads(pickle.dumps(error))) is type(error)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ledger_errors.LedgerFull, 503),
        (ledger_errors.LedgerReadOnly, 503),
        (ledger_errors.LedgerLocked, 503),
        (ledger_errors.EntryNotFound, 404),
        (ledger_errors.LedgerCorrupt, 500),
        (ledger_errors.ReceiptInvalid, 500),
    ],
)
def test_an_error_of_the_ledger_has_a_status_that_says_whether_to_try_again(
    kind: type[ledger_errors.LedgerError], status: int
) -> None:
    assert http_status(describe(kind("what", where="where", fix="Fix."))) == status
