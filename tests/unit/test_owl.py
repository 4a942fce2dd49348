"""OWL's shares: by hand, within their bounds, and what a layer reads is counted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from factories_analysis import analysis_of, planned_by
from prunus.budget.owl import SPREAD, outlier_share, owl_counts
from prunus.data.splits import Split
from prunus.errors import BudgetError, OptionError
from prunus.methods.solved_layers import owl_shares
from prunus.methods.weights import maskable


def with_outliers(size: int, count: int) -> np.ndarray:
    """Return scores of which ``count`` are far above the rest."""
    return np.where(np.arange(size) < count, 100.0, 1.0)


def test_by_hand() -> None:
    assert outlier_share(with_outliers(100, 4)) == 0.04
    assert outlier_share(np.full(9, -3.0)) == 0.0
    scores = {"a": with_outliers(100, 4), "b": with_outliers(100, 0), "c": with_outliers(200, 2)}
    # D = 0.04, 0, 0.01; their mean over 400 weights is 0.015: the first is 0.025 above it, the furthest away.
    wanted = {"a": 100 * (0.5 + 0.08), "b": 100 * (0.5 - 0.08 * 0.6), "c": 200 * (0.5 - 0.08 * 0.2)}
    found = owl_counts(scores, 200)
    assert sum(found.values()) == 200
    assert all(abs(found[name] - wanted[name]) < 1 for name in wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 0.3))
def test_the_count_is_exact_and_no_share_is_further_away_than_the_spread(seed: int, kept: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    scores = {str(i): np.exp(rng.normal(0, rng.uniform(0.1, 2), rng.integers(20, 200))) for i in range(5)}
    total = sum(s.size for s in scores.values())
    count = int(kept * total)
    found = owl_counts(scores, count, outlier=2.0, spread=spread)
    assert sum(found.values()) == count
    for name, number in found.items():
        assert 0 <= number <= scores[name].size
        assert abs(number / scores[name].size - count / total) <= spread + 1 / scores[name].size
    ranked = sorted(scores, key=lambda name: outlier_share(scores[name], 2.0))
    shares = [found[name] / scores[name].size for name in ranked]
    assert all(b - a > -1 / 20 for a, b in pairwise(shares))


def test_layers_without_outliers_share_alike() -> None:
    assert owl_counts({"a": np.ones(10), "b": np.ones(30)}, 20) == {"a": 5, "b": 15}


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(OptionError, match="above 0"):
        owl_counts({"a": np.ones(3)}, 1, outlier=0)
    with pytest.raises(OptionError, match="spread 2"):
        owl_counts({"a": np.ones(3)}, 1, spread=2)
    with pytest.raises(BudgetError, match="allowed: 0 to 3"):
        owl_counts({"a": np.ones(3)}, 4)


def test_the_size_of_inputs_makes_outliers_and_the_layer_keeps_more() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4)).eval()
    inputs = torch.randn(128, 40, generator=generator)
    inputs[:, :2] *= 100
    split = Split(inputs, torch.randint(4, (128,), generator=generator))
    subject = analysis_of(model, inputs[:2], split, split)
    weights = maskable(subject)
    counts = owl_shares(subject, weights, sum(w.numel() for w in weights.values()) // 2)
    # The weights alone are alike; two inputs of the first layer are a hundred times the others.
    assert counts["0.weight"] / 1600 == pytest.approx(0.5 + SPREAD, abs=0.01)
    assert counts["2.weight"] < counts["0.weight"]
    masks = planned_by("wanda-owl", subject, 0.5).masks
    assert masks["0.weight"].mean() > masks["2.weight"].mean()
    assert masks["0.weight"][:, :2].all()
