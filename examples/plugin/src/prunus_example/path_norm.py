"""A unit criterion: the norm of all paths through a unit."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.criteria import UnitEvidence, UnitRule, groups_of


def _score(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the weights into it times the weights out of it: s_u = ‖P_u‖₂ · ‖R_u‖₂.

    P_u are the weights that produce unit u, R_u those that read it. Scaling one by c and the other by 1/c, which a ReLU
    network does not notice, leaves the score as it is. A side without weights counts as one.

    Source: own; products along paths: Neyshabur et al., "Path-SGD: Path-Normalized Optimization in Deep Neural
    Networks", arXiv:1506.02617.

    Shapes: axis id → (units,), float64.
    """
    return {
        group.id: _norm(dict(group.producers), group.size) * _norm(dict(group.readers), group.size)
        for group in groups_of(evidence.coupling, evidence.weights)
    }


def _norm(matrices: dict[str, Tensor], units: int) -> Tensor:
    if not matrices:
        return torch.ones(units, dtype=torch.float64)
    return torch.linalg.vector_norm(torch.cat(list(matrices.values()), 1), dim=1)


path_norm = UnitRule(_score, scale="norm")
