"""Weight level by one ranking: exactly the n weights of highest score in the whole network stay."""

from __future__ import annotations

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.criteria import CriterionLike, Evidence, weight_criterion_of
from prunus.masks import relative_masks, top_masks
from prunus.methods.method import method
from prunus.methods.weights import gradient_evidence, maskable, masked_plan, weights_to_keep
from prunus.plans import Plan


def ranked_plan(
    analysis: Analysis, limits: Limits, criterion: CriterionLike, reason: str, *, gradients: bool = False
) -> Plan:
    """Keep the weights of highest score by a weight criterion, in one ranking; every tensor keeps its best.

    Args:
        analysis: the network and its data.
        limits: limits of the analysis's metric.
        criterion: a name in `prunus.criteria.CRITERIA`, or a function (name, weight) → scores.
        reason: reason in the plan's decisions.
        gradients: the criterion reads E[g] on calibration data.

    Raises:
        BudgetError: the parameters that cannot be masked exceed the budget.
    """
    weights = maskable(analysis)
    count, grad = weights_to_keep(analysis, weights, limits), None
    if gradients:
        measured = gradient_evidence(analysis).grad or {}
        grad = {name: measured[name] for name in weights}
    scores = weight_criterion_of(criterion)(Evidence(weights=weights, grad=grad, seed=analysis.seed))
    return masked_plan(analysis, top_masks(scores, keep_count=count), reason)


@method(
    "relative-std-threshold",
    "weight",
    "keep |w| > τ·std(W) of its tensor, one τ for the network",
    counts="weights",
    scored_by="relative-std",
)
def relative_std_threshold(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the weights above a threshold relative to the spread of each tensor.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626.
    """
    weights = maskable(analysis)
    masks = relative_masks(weights, scale="std", keep_count=weights_to_keep(analysis, weights, limits))
    return masked_plan(analysis, masks, "|w| / std(W) at or below the threshold")


@method(
    "lamp",
    "weight",
    "keep exactly the n weights of highest w² / Σ of those of their tensor at least as large",
    counts="weights",
    scored_by="lamp",
)
def lamp(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the top n by LAMP scores.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.
    """
    return ranked_plan(analysis, limits, "lamp", "low share of the energy of its tensor that would be left")


@method("snip", "weight", "keep exactly the n weights of highest |w·E[g]|", counts="weights", scored_by="snip")
def snip(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the top n by connection sensitivity, on the trained network; Taylor's (w·E[g])² ranks the same.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv:1810.02340.
    """
    return ranked_plan(analysis, limits, "snip", "low |w·E[g]|", gradients=True)


@method("random-weights", "weight", "keep n weights drawn from the seed", counts="weights", scored_by="random")
def random_weights(analysis: Analysis, limits: Limits) -> Plan:
    """Keep weights drawn from the seed, the baseline of weight criteria.

    Source: own; a strong baseline: Mittal et al., "Recovering from Random Pruning: On the Plasticity of Deep
    Convolutional Neural Networks", arXiv:1801.10447.
    """
    return ranked_plan(analysis, limits, "random", "drawn")
