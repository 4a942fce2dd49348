"""Score a weight by its size times the norm of its input, and a unit by the sum over the weights that read it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.producers_consumers import Edge, dim_sums, find_places, unit_line
from prunus.criteria.unit_criterion import UnitEvidence, finite, unit_rule
from prunus.criteria.weight_statistics import Evidence, needed, precise
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling


@CRITERIA.register("wanda")
def wanda(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by its size times the norm of its input: s_ij = |W_ij| · ‖x_j‖₂.

    The paper ranks within each output row; ranked over a whole tensor it is another method.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.

    Raises:
        OptionError: the evidence has no ``input_norm``.
    """
    norms = needed(evidence.input_norm, "input_norm", "wanda")
    return {name: precise(weight).abs() * precise(norms[name]) for name, weight in evidence.weights.items()}


@unit_rule("wanda", needs=("input_norm",), scale="norm")
def wanda_unit(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the weights that read it, times its norm: s_u = Σ_{w reads u} |w| · ‖x_u‖.

    ‖x_u‖ is the root mean square of the unit where the weight reads it, position by position of the dim. A consumer
    without weights (attention scores) adds ‖x_u‖ itself.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695 (the score
    of a weight, here summed over the weights that read a unit).

    Raises:
        OptionError: the evidence has no ``input_norm``.
        DataError: a score is not finite.
    """
    norms, coupling, scores = evidence.statistic("input_norm", "wanda"), evidence.coupling, {}
    for name, edges in find_places(coupling).edges.items():
        axis = coupling.axes[name]
        total = torch.zeros(axis.size, dtype=torch.float64)
        for edge in edges:
            total += _read(evidence, coupling, axis, edge, norms)
        scores[name] = finite(name, total)
    return scores


def edge_key(edge: Edge, dim: int) -> str:
    """Return the key of the input norms along one dim at an edge."""
    return f"{edge.node}/{edge.number}/{dim}"


def _read(evidence: UnitEvidence, coupling: Coupling, axis: Axis, edge: Edge, norms: Mapping[str, Tensor]) -> Tensor:
    total = torch.zeros(axis.size, dtype=torch.float64)
    for dim, expr in enumerate(coupling.values[edge.ref]):
        rms = norms.get(edge_key(edge, dim))
        if rms is None:
            continue
        alike = [m for m in edge.weights if m.expr == expr]
        for member in alike:
            size = dim_sums(precise(evidence.weights[member.tensor]).abs(), member.dim)
            total += unit_line(coupling, axis, expr, size * rms)
        if not alike:
            # The weight has other positions on the axis than the data (groups), or there is none: use the unit's mean.
            count = unit_line(coupling, axis, expr, torch.ones_like(rms)).clamp(min=1)
            mean = unit_line(coupling, axis, expr, rms) / count
            sizes = [
                unit_line(coupling, axis, m.expr, dim_sums(precise(evidence.weights[m.tensor]).abs(), m.dim))
                for m in edge.weights
            ]
            total += mean * (sum(sizes) if sizes else 1.0)
    return total
