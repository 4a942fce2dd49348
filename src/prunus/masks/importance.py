"""Importance masks: keep exactly the n weights with the highest gradient scores."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria import CriterionLike, Evidence, weight_criterion_of
from prunus.masks.ranking import top_masks


def importance_masks(
    evidence: Evidence,
    *,
    variant: CriterionLike = "importance",
    kept: float | None = None,
    keep_count: int | None = None,
    floor: bool = True,
) -> dict[str, Tensor]:
    """Keep exactly the top n weights by a gradient score; ties are broken by index.

    "importance" is E[g²], "importance-weighted" E[g²]·w², "taylor-weight" (E[g]·w)²; any other weight criterion of
    the registry works too.
    Source: LeCun et al., "Optimal Brain Damage", NIPS 1989 (E[g²]·w² with the Fisher diagonal for the Hessian);
    Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771 (Taylor).

    Args:
        evidence: weights and gradient statistics, see `prunus.criteria.collect_gradients`.
        variant: a name in `prunus.criteria.CRITERIA`, or a function (name, weight) → scores.
        kept: share of all weights to keep.
        keep_count: exact number of weights to keep; give this or ``kept``.
        floor: keep the best weight of every tensor; the count stays exact.

    Returns:
        Name → boolean mask of the same shape, True = keep.

    Raises:
        OptionError: an unknown variant, a budget out of range, or evidence without the statistic it needs.
        DataError: no tensors, or a score is not finite.
        BudgetError: ``floor`` needs more weights than the budget has.
    """
    return top_masks(weight_criterion_of(variant)(evidence), kept=kept, keep_count=keep_count, floor=floor)
