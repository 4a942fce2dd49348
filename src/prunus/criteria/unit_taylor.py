"""Score a unit by the first-order change of the loss when it is removed; each estimator has its own name."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.criteria.producers_consumers import dim_sums, unit_line
from prunus.criteria.producing_weights import gate_parameters
from prunus.criteria.unit_criterion import UnitEvidence, collected, finite, unit_rule
from prunus.criteria.weight_statistics import precise


@unit_rule("taylor", needs=("grad",))
def unit_taylor(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the squared first-order change of the mean loss, from its parameters: s_u = (Σ_{w∈u} w · E[g])².

    w runs over the weights and biases that write the unit; where a batch, instance or group norm follows, over its
    scale and shift instead, which gives the same derivative behind the norm. E is the mean over *all* batches, so
    changes of opposite sign cancel between samples, and mostly noise is left at the end of training. It needs no
    captured program: the gradient of a running training is enough.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.

    Raises:
        OptionError: the evidence has no ``grad``.
        DataError: a score is not finite.
    """
    return {axis: total.square() for axis, total in _gate_sums(evidence, "taylor", absolute=False).items()}


@unit_rule("snip", needs=("grad",))
def snip_unit(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by its connections' sensitivities: s_u = Σ_{w∈u} |w · E[g]|, over the same parameters as taylor.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv:1810.02340.

    Raises:
        OptionError: the evidence has no ``grad``.
        DataError: a score is not finite.
    """
    return _gate_sums(evidence, "snip", absolute=True)


@unit_rule("taylor-sample", needs=("taylor_sample",), scale="loss")
def taylor_sample(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by per-sample squares: s_u = ½ E_samples[(Σ a·∂ℓ/∂a)²].

    Σ a·∂ℓ/∂a is the derivative of one sample's loss in a gate on the unit where consumers read it, behind norm and
    activation. Squares do not cancel between samples; with the labels of the data this is the empirical Fisher of the
    gates, so half of it estimates the rise of the loss, and scores of different axes can be compared.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.

    Raises:
        OptionError: the evidence has no ``taylor_sample``.
    """
    return collected(evidence, "taylor_sample", "taylor-sample")


@unit_rule("taylor-batch", needs=("taylor_batch",))
def taylor_batch(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by squared batch sums: s_u = E_batches[(mean over the batch of Σ a·∂ℓ/∂a)²].

    The gates are those of ``taylor-sample``, but samples of a batch cancel before the square is taken: scores fall with
    the batch size, and depend on which samples share a batch.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771 (their estimator).

    Raises:
        OptionError: the evidence has no ``taylor_batch``.
    """
    return collected(evidence, "taylor_batch", "taylor-batch")


def _gate_sums(evidence: UnitEvidence, criterion: str, absolute: bool) -> dict[str, Tensor]:
    grad, coupling, scores = evidence.statistic("grad", criterion), evidence.coupling, {}
    for name, members in gate_parameters(coupling).items():
        axis = coupling.axes[name]
        total = torch.zeros(axis.size, dtype=torch.float64)
        for member in members:
            if member.tensor in grad:
                product = precise(evidence.weights[member.tensor]).double() * grad[member.tensor]
                line = dim_sums(product.abs() if absolute else product, member.dim)
                total += unit_line(coupling, axis, member.expr, line)
        scores[name] = finite(name, total)
    return scores
