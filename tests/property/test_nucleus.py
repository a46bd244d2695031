"""The nucleus of every row: large enough, no larger, and the same whoever shares the batch."""

from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp

from engine.generators import nucleus
from engine.generators.nucleus import keep_nucleus

ROUNDING = 1e-5
BATCHES = hnp.arrays("float32", st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-12, 12, width=32))
TOP_PS = st.floats(0.01, 1.0)


@pytest.fixture(autouse=True, scope="module")
def narrow() -> Iterator[None]:
    """Widths small enough for every pass to be made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nucleus, "WIDTHS", (2, 8))
        yield


@given(BATCHES, TOP_PS)
def test_what_stays_is_the_smallest_set_of_most_probable_tokens_with_the_mass_asked_for(
    batch: "np.typing.NDArray[np.float32]", top_p: float
) -> None:
    logits = torch.tensor(batch)
    probs = logits.double().softmax(dim=-1)
    kept = keep_nucleus(logits.clone(), top_p)
    for row, row_probs, row_kept in zip(logits, probs, kept, strict=True):
        stays = row_kept > -torch.inf
        assert torch.equal(row_kept[stays], row[stays])
        assert row_probs[stays].sum() >= top_p - ROUNDING
        assert row[stays].min() > row[~stays].max() if (~stays).any() else stays.all()
        least = row[stays].min()
        assert row_probs[row > least].sum() < top_p + ROUNDING


@given(BATCHES, TOP_PS)
def test_a_row_has_the_same_nucleus_alone_and_in_any_batch(
    batch: "np.typing.NDArray[np.float32]", top_p: float
) -> None:
    logits = torch.tensor(batch)
    together = keep_nucleus(logits.clone(), top_p)
    alone = torch.cat([keep_nucleus(row[None].clone(), top_p) for row in logits])
    assert torch.equal(together > -torch.inf, alone > -torch.inf)


@given(st.integers(1, 39), TOP_PS)
def test_a_token_that_a_grammar_forbids_is_never_brought_back(num_forbidden: int, top_p: float) -> None:
    logits = torch.zeros(1, 40)
    logits[0, :num_forbidden] = -torch.inf
    kept = keep_nucleus(logits, top_p)[0]
    assert (kept[:num_forbidden] == -torch.inf).all()
    assert (kept[num_forbidden:] == 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_without_a_nucleus_harms_no_other_row(value: float) -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0, 2.0], [value] * 4, [3.0, 1.0, 8.0, 0.0]])
    kept = keep_nucleus(logits.clone(), 0.5)
    assert [row.argmax().item() for row in (kept[0], kept[2])] == [1, 2]
    assert (kept[[0, 2]] > -torch.inf).sum().item() == 2
    assert torch.equal(kept[1].isnan(), logits[1].isnan())
