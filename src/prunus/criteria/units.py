"""Every unit criterion, enrolled by importing it, and sums of weight scores over units."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from prunus.criteria.activity import apoz, mean_activation, unit_contribution, unit_sensitivity
from prunus.criteria.bn_scale import bn_scale
from prunus.criteria.fisher import fisher, worst_class
from prunus.criteria.fpgm import fpgm
from prunus.criteria.movement import movement_unit
from prunus.criteria.random import unit_random
from prunus.criteria.redundancy import redundancy
from prunus.criteria.unit_criterion import finite
from prunus.criteria.unit_norm import unit_l1, unit_magnitude
from prunus.criteria.unit_taylor import snip_unit, taylor_batch, taylor_sample, unit_taylor
from prunus.criteria.wanda import wanda_unit
from prunus.graph.coupling import Coupling

__all__ = [
    "apoz",
    "bn_scale",
    "fisher",
    "fpgm",
    "mean_activation",
    "movement_unit",
    "redundancy",
    "snip_unit",
    "taylor_batch",
    "taylor_sample",
    "unit_contribution",
    "unit_l1",
    "unit_magnitude",
    "unit_random",
    "unit_scores",
    "unit_sensitivity",
    "unit_taylor",
    "wanda_unit",
    "worst_class",
]


def unit_scores(coupling: Coupling, axis: str, weight_scores: Mapping[str, Tensor]) -> Tensor:
    """Sum any weight criterion over everything a unit owns, e.g. Σ E[g²] with the scores of "importance".

    Shapes: weight_scores name → shape of the weight; → (units,), float64.

    Raises:
        SelectorError: no such axis.
        DataError: a sum is not finite.
    """
    return finite(axis, coupling.unit_sums(axis, weight_scores))
