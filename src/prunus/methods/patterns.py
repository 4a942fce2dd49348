"""Weight level: strips of weights, and at most n of every 8 inputs, both with the exact count."""

from __future__ import annotations

import math

import torch

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.criteria import CRITERIA, CriterionLike, Evidence
from prunus.foundation.defaults import DEFAULTS
from prunus.masks import contracted_dims, nm_masks, top_masks
from prunus.masks.window import Strip
from prunus.methods.method import method
from prunus.methods.weights import maskable, masked_plan, weights_to_keep, windows_plan
from prunus.plans import Plan

STRIP = 8
"""Weights in a strip: a 256-bit vector of float32."""
GROUP = 8


@method(
    "window-strip",
    "weight",
    "keep the 1×8 strips of consecutive inputs with the largest mean |w|",
    counts="windows",
    options=("criterion",),
    criteria="weights",
    window=Strip(STRIP, "input"),
)
def window_strip(analysis: Analysis, limits: Limits, *, criterion: CriterionLike | None = DEFAULTS.criterion) -> Plan:
    """Keep whole strips of 8 consecutive inputs of one unit, at one kernel position.

    Source: Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks",
    arXiv:1705.08922.

    Raises:
        BudgetError: the parameters that cannot be masked and the best strip of every weight exceed the budget.
    """
    return windows_plan(analysis, limits, Strip(STRIP, "input"), "strip", criterion)


@method(
    "window-strip-column",
    "weight",
    "keep the 8×1 strips of consecutive units with the largest mean |w|",
    counts="windows",
    options=("criterion",),
    criteria="weights",
    window=Strip(STRIP, "unit"),
)
def window_strip_column(
    analysis: Analysis, limits: Limits, *, criterion: CriterionLike | None = DEFAULTS.criterion
) -> Plan:
    """Keep whole strips of one input of 8 consecutive units, at one kernel position.

    Source: Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks",
    arXiv:1705.08922.

    Raises:
        BudgetError: the parameters that cannot be masked and the best strip of every weight exceed the budget.
    """
    return windows_plan(analysis, limits, Strip(STRIP, "unit"), "strip", criterion)


@method("n-of-eight", "weight", "keep at most n of every 8 consecutive inputs, n the least that the budget needs")
def n_of_eight(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the n largest of 8 consecutive inputs, then as many of these as the budget allows: 4:8 at half.

    n = ⌈8 · share of the weights that may stay⌉. Norms and biases count too and short groups keep more, so the
    pattern alone exceeds the budget, and the smallest remaining weights are masked as well. No group keeps more than n,
    some keep fewer, and the count is exact.
    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378, for N:M.

    Raises:
        BudgetError: the parameters that cannot be masked exceed the budget.
    """
    weights = maskable(analysis)
    count = weights_to_keep(analysis, weights, limits)
    n = max(1, math.ceil(GROUP * count / max(1, sum(w.numel() for w in weights.values()))))
    scores = _magnitudes(analysis, weights)
    dims = {name: dim for name, dim in contracted_dims(analysis.model).items() if name in weights}
    pattern = nm_masks(scores, n=n, m=GROUP, input_dims=dims)
    # Magnitudes are not negative, so all weights outside the pattern rank below those in it.
    allowed = {name: torch.where(pattern[name], s, -torch.ones_like(s)) for name, s in scores.items()}
    reason = f"not of the {n} largest of {GROUP}, or of the smallest of all that these left"
    return masked_plan(analysis, top_masks(allowed, keep_count=count), reason)


def _magnitudes(analysis: Analysis, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return CRITERIA.get("magnitude")(Evidence(weights=weights, seed=analysis.seed))
