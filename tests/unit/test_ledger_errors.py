"""The errors of the ledger say what, where and what to do, and survive the way between processes."""

import pickle

import pytest

from ledger import errors
from ledger.errors import LedgerError, SizeConflict

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LedgerError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_kind_and_its_four_fields_when_pickled(kind: type[LedgerError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", where="entry 7", fix="Mend it.")))
    assert type(error) is kind
    assert (error.code, error.what, error.where, error.fix) == (kind.code, "it broke", "entry 7", "Mend it.")
    assert str(error) == f"{kind.code} at entry 7: it broke. Mend it."


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes) > 1


def test_an_error_keeps_what_a_kind_of_its_own_adds_when_pickled() -> None:
    error = pickle.loads(pickle.dumps(SizeConflict("it has grown", where="log", fix="Go on from there.", size=2**63)))
    assert (type(error), error.size, error.http_status) == (SizeConflict, 2**63, 409)
    assert error.what == "it has grown"


def test_who_catches_the_root_catches_every_kind() -> None:
    for kind in KINDS:
        with pytest.raises(LedgerError, match="mend it"):
            raise kind("it broke", where="here", fix="mend it")
