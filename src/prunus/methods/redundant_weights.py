"""Redundant connections: of two weights of a unit whose inputs are nearly equal, one takes over the other."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.masks import top_masks
from prunus.methods.merging import Inputs, dense_sites, measured_inputs, paired_inputs
from prunus.methods.method import method
from prunus.methods.weights import maskable, masked_plan, weights_to_keep
from prunus.plans import Plan


@method("redundant-weights", "weight", "merge weights of a unit whose inputs are nearly equal, then drop", merges=True)
def redundant_weights(analysis: Analysis, limits: Limits) -> Plan:
    """Mask the weights whose removal changes their unit least, once a weight with a similar input has taken over.

    Inputs of a layer are paired by their correlation on calibration data, the closest first. Without a pair a weight
    costs w² E[a²], in a layer with a bias w² Var[a]. In a pair the weight of less cost may be merged into the other:
    it costs w_u² E(a_u − β a_s)² = w_u² E[a_u²] (1 − ρ²), with ρ the correlation. All weights stand in one ranking,
    each layer divided by its mean cost.

    Source: own; a removed unit's weights added to those of its twin: Srinivas & Babu, "Data-free Parameter Pruning for
    Deep Neural Networks", arXiv:1507.06149.

    Args:
        analysis: the network and its data.
        limits: limits of the analysis's metric.

    Raises:
        BudgetError: the parameters that cannot be masked exceed the budget.
    """
    weights = maskable(analysis)
    count = weights_to_keep(analysis, weights, limits)
    layers = measured_inputs(analysis, dense_sites(analysis.coupling, weights.keys()))
    measured = {layer.site.tensor: _costs(layer, weights[layer.site.tensor]) for layer in layers}
    # A layer whose inputs are not measured (a recurrent one, a depthwise one) is scored as if its inputs were alike.
    scores = {n: measured.get(n, _scaled(w.detach().double().square())) for n, w in weights.items()}
    masks = top_masks({n: s.to(weights[n].device) for n, s in scores.items()}, keep_count=count)
    return masked_plan(analysis, masks, "an input like this one stays, or low w² Var[a]")


def _costs(layer: Inputs, weight: Tensor) -> Tensor:
    """Return the increase of the squared error of the outputs when a weight goes, merged where it can be."""
    moment = layer.fit.moment(bool(layer.site.bias))
    power = moment.diagonal().clamp_min(0)
    rows = weight.detach().cpu().double().movedim(layer.dim, -1)
    costs = rows.square() * power
    merged = costs.clone()
    for one, other in paired_inputs(moment):
        left = 1 - moment[one, other].square() / (power[one] * power[other])
        less = costs[..., one] < costs[..., other]
        merged[..., one] = torch.where(less, costs[..., one] * left, costs[..., one])
        merged[..., other] = torch.where(less, costs[..., other], costs[..., other] * left)
    return _scaled(merged, costs).movedim(-1, layer.dim)


def _scaled(costs: Tensor, whole: Tensor | None = None) -> Tensor:
    total = (costs if whole is None else whole).mean()
    return costs / total if float(total) > 0 else costs
