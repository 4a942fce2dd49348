"""Values of units and connections by weight, gradient and activation, and the network that is left so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.graph.recorder import named_tensors
from prunus.methods.layer_inputs import seen_inputs
from prunus.methods.masked_copy import masked_copy
from prunus.methods.reduction import Reduction
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import weight_scores
from prunus.tree.addresses import VALUES

WEIGHT, GRADIENT, ACTIVATION = VALUES
UNIT_CRITERIA = {WEIGHT: "magnitude", GRADIENT: "taylor-sample", ACTIVATION: "contribution"}
WEIGHT_CRITERIA = {WEIGHT: "magnitude", GRADIENT: "importance-weighted", ACTIVATION: "wanda"}
"""Strategy → its criterion of units, and of single weights."""
UNIT_VALUES = {WEIGHT: "magnitude", GRADIENT: "sensitivity", ACTIVATION: "mean-activation"}
WEIGHT_VALUES = {WEIGHT: "magnitude", GRADIENT: "gradient", ACTIVATION: "wanda"}
"""Value by which groups are formed → the criterion that measures it, of units and of single weights."""
_KEPT_MEMO = ("unlabelled samples", "branches", "calibration batches")


def connection_scores(analysis: Analysis, names: Sequence[str], criterion: str) -> dict[str, Tensor]:
    """Score single weights by a weight criterion, also by ``wanda``: |w|·√E[x²] of the input that a weight multiplies.

    Weights whose layer is no linear layer and no convolution have no such input; they are scored by |w|, as `has_input`
    tells.

    Shapes: as the weights.
    """
    if criterion != WEIGHT_CRITERIA[ACTIVATION]:
        key = f"connections:{criterion}"
        missing = [name for name in names if name not in analysis.remember(key, dict)]
        if missing:
            found = weight_scores(analysis, analysis.user_model, missing, criterion)
            analysis.memo[key].update({name: score.detach() for name, score in found.items()})
        return {name: analysis.memo[key][name] for name in names}
    norms = _input_norms(analysis)
    weights = named_tensors(analysis.model)
    return {name: weights[name].detach().abs() * norms.get(name, 1.0) for name in names}


def has_input(analysis: Analysis, name: str) -> bool:
    """Tell whether the inputs of a weight are known, so that activations can score it."""
    return name in _input_norms(analysis)


def _input_norms(analysis: Analysis) -> Mapping[str, Tensor]:
    """Return weight name → √E[x²] of the input of every weight, in the shape of the weight."""

    def measure() -> dict[str, Tensor]:
        found = {}
        for seen in seen_inputs(analysis).values():
            site, second = seen.site, seen.moments.second
            line = second.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
            rows = site.matrix(torch.empty(site.shape, device="meta")).shape[1]
            norm = site.weight(line[:, None, :].expand(-1, rows, -1).contiguous())
            weight = named_tensors(analysis.model)[site.tensor]
            found[site.tensor] = norm.to(weight.device, weight.dtype if weight.element_size() >= 4 else torch.float32)
        return found

    norms: Mapping[str, Tensor] = analysis.remember("input norms of weights", measure)
    return norms


def unit_values(analysis: Analysis, value: str) -> dict[str, np.ndarray]:
    """Return axis id → the value of every unit: norm of its weights, E[(∂L/∂a)²], or E|a|."""
    return unit_scores(analysis, UNIT_VALUES[value])


def weight_values(analysis: Analysis, names: Sequence[str], value: str) -> dict[str, np.ndarray]:
    """Return weight name → the value of every connection: |w|, E|g|, or |w|·√E[x²]."""
    found = connection_scores(analysis, names, WEIGHT_VALUES[value])
    return {name: score.double().cpu().numpy() for name, score in found.items()}


def network_left(reduction: Reduction, keep: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> Analysis:
    """Return the analysis of the network with dropped blocks, removed units and masked weights at zero.

    A model that was captured in parts, and one that lost nothing, is returned as it is.
    """
    analysis = reduction.analysis
    if analysis.parts or not (reduction.dropped or masks or any(not m.all() for m in keep.values())):
        return analysis
    model, _ = masked_copy(reduction, keep)
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            parameter.masked_fill_(~torch.from_numpy(mask).to(parameter.device), 0)
    return with_model(analysis, model.requires_grad_())


def with_model(analysis: Analysis, model: nn.Module) -> Analysis:
    """Return the analysis of the same network with other weights; its scores are measured anew."""
    memo = {key: value for key, value in analysis.memo.items() if key in _KEPT_MEMO}
    return replace(analysis.with_model(model), memo=memo)
