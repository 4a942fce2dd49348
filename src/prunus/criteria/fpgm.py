"""Score a unit by the distance of its weights to those of the other units: units near the median can be replaced."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.criteria.producers_consumers import find_places, unit_rows
from prunus.criteria.unit_criterion import UnitEvidence, finite, unit_rule
from prunus.errors import DataError


@unit_rule("fpgm", scale="norm")
def fpgm(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by its distances to all others of its axis: s_u = Σ_v ‖W_u − W_v‖₂.

    W_u joins all weights that write the unit; where none is known, all weights that lie on it. The units with the least
    sum are nearest to the geometric median and are removed first.

    Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    arXiv:1811.00250.

    Raises:
        DataError: a weight is missing, or a distance is not finite.
    """
    coupling, scores = evidence.coupling, {}
    writes = find_places(coupling).writes
    for name, axis in coupling.axes.items():
        gram = torch.zeros(axis.size, axis.size, dtype=torch.float64)
        for member in writes[name] or axis.members:
            if coupling.graph.tensors[member.tensor].kind != "parameter":
                continue
            if member.tensor not in evidence.weights:
                raise DataError(f"axis {name!r} is written by {member.tensor!r}, for which there is no value; add it.")
            for rows in unit_rows(coupling, axis, member, evidence.weights[member.tensor]):
                gram += rows @ rows.T
        norms = gram.diagonal()
        scores[name] = finite(name, (norms[:, None] + norms - 2 * gram).clamp(min=0).sqrt().sum(1))
    return scores
