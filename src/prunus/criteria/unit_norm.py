"""Score a unit by the norm of the weights that write it."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.producers_consumers import square_sums
from prunus.criteria.producing_weights import written
from prunus.criteria.unit_criterion import UnitEvidence, unit_rule
from prunus.criteria.weight_statistics import precise


@unit_rule("magnitude", scale="norm")
def unit_magnitude(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the L2 norm of the weights that write it, its filter norm: s_u = ‖W_u‖₂.

    The weights of several producers (all convolutions that add into one residual stream) are joined to one vector.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710 (with L2 for L1).

    Raises:
        DataError: a weight is missing, or a norm is not finite.
    """
    squares = written(evidence.coupling, evidence.weights, square_sums)
    return {axis: total.sqrt() for axis, total in squares.items()}


@unit_rule("l1", scale="norm")
def unit_l1(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the sum of the magnitudes of the weights that write it: s_u = ‖W_u‖₁.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710.

    Raises:
        DataError: a weight is missing, or a norm is not finite.
    """
    sizes = {name: precise(weight).abs() for name, weight in evidence.weights.items()}
    return written(evidence.coupling, sizes)
