"""Score a unit by its output, or by the slope of the loss in its output."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.unit_criterion import UnitEvidence, collected, unit_rule


@unit_rule("sensitivity", needs=("sensitivity",))
def unit_sensitivity(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the squared slope of the loss in its output: s_u = E[Σ_positions (∂L/∂a_u)²].

    Source: Mozer and Smolensky, "Skeletonization: A Technique for Trimming the Fat from a Network via Relevance
    Assessment", NIPS 1988 (the slope in a unit as its relevance; here squared).

    Raises:
        OptionError: the evidence has no ``sensitivity``.
    """
    return collected(evidence, "sensitivity", "sensitivity")


@unit_rule("contribution", needs=("contribution",))
def unit_contribution(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the energy of its output: s_u = E[a_u²].

    Source: own; the mean size of outputs as a score: Molchanov et al., "Pruning Convolutional Neural Networks for
    Resource Efficient Inference", arXiv:1611.06440.

    Raises:
        OptionError: the evidence has no ``contribution``.
    """
    return collected(evidence, "contribution", "contribution")


@unit_rule("mean-activation", needs=("mean_abs",), scale="norm")
def mean_activation(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the mean size of its output: s_u = E|a_u|.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    arXiv:1611.06440 (mean activation).

    Raises:
        OptionError: the evidence has no ``mean_abs``.
    """
    return collected(evidence, "mean_abs", "mean-activation")


@unit_rule("apoz", needs=("active",))
def apoz(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by how often its output is not zero: s_u = 1 − APoZ_u = share of a_u ≠ 0.

    APoZ is the average percentage of zeros; it is informative behind a ReLU only.

    Source: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures",
    arXiv:1607.03250.

    Raises:
        OptionError: the evidence has no ``active``.
    """
    return collected(evidence, "active", "apoz")
