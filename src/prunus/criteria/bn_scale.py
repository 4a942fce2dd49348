"""Score a unit by the scale that its norm layer gives it."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.criteria.producers_consumers import dim_sums, unit_line
from prunus.criteria.producing_weights import channel_norms
from prunus.criteria.unit_criterion import UnitEvidence, finite, unit_rule
from prunus.criteria.unit_norm import unit_magnitude
from prunus.criteria.weight_statistics import precise
from prunus.errors import OptionError


@unit_rule("bn-scale", scale="norm")
def bn_scale(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the scales of the batch (instance, group) norms on its way: s_u = Σ |γ_u|.

    Units of an axis without such a norm are ranked by ‖W_u‖₂.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", arXiv:1708.06519.

    Raises:
        OptionError: no axis meets such a norm.
        DataError: a weight is missing, or a score is not finite.
    """
    coupling, norms = evidence.coupling, channel_norms(evidence.coupling)
    if coupling.axes and not any(norms.values()):
        raise OptionError(
            "criterion 'bn-scale' needs batch, instance or group norms on an axis; this model has none there. "
            "Use magnitude."
        )
    without = unit_magnitude(evidence) if not all(norms.values()) else {}
    scores = {}
    for name, axis in coupling.axes.items():
        total = torch.zeros(axis.size, dtype=torch.float64)
        for member in norms[name]:
            gamma = precise(evidence.weights[member.tensor]).abs()
            total += unit_line(coupling, axis, member.expr, dim_sums(gamma, member.dim))
        scores[name] = finite(name, total) if norms[name] else without[name]
    return scores
