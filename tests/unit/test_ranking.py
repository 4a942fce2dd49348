"""The area under the ROC curve: against scikit-learn, on ties, and where there is nothing to rank."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from prunus.errors import DataError
from prunus.measurement.ranking import auc

SAMPLES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


@given(SAMPLES)
def test_it_is_what_scikit_learn_says_ties_included(samples: list[tuple[int, bool]]) -> None:
    scores, positive = torch.tensor([float(s) for s, _ in samples]), torch.tensor([p for _, p in samples])
    found = auc(scores, positive)
    if len(set(positive.tolist())) < 2:
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(positive.numpy(), scores.numpy()))
        assert found == pytest.approx(1 - (auc(-scores, positive) or 0.0))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match=r"scores \(3,\) and labels \(2,\); allowed: two of shape \(N,\)"):
        auc(torch.zeros(3), torch.zeros(2, dtype=torch.bool))
