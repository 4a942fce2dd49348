"""The weight level of a plan: masks over what the unit level leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from prunus.budget import Limit
from prunus.budget.weights import WEIGHT_ALLOCATORS, fit_weights
from prunus.criteria import CriterionLike, Evidence, weight_criterion_of
from prunus.errors import BudgetError
from prunus.graph.coupling import Coupling
from prunus.masks import prunable_weights, top_masks
from prunus.planning import make_plan
from prunus.plans import Cost
from prunus.selectors import matching_modules, tensors_below
from prunus.surgery.tensors import slice_tensors


def unit_share(limit: Limit, before: Cost) -> Limit:
    """Return the unit level's part when the weight level shares the budget: the geometric mean of all and the limit."""
    return Limit(limit.metric, int((limit.value * limit.of(before)) ** 0.5))


def weight_masks(
    model: nn.Module,
    coupling: Coupling,
    keep: Mapping[str, np.ndarray],
    limits: Sequence[Limit],
    ignore: Sequence[str],
    allocator: str | None,
    criterion: CriterionLike = "magnitude",
) -> dict[str, np.ndarray]:
    """Mask the weights of least score in what the unit level left, until the non-zero parameters meet the limit."""
    temporary = make_plan(coupling, keep)
    assert temporary.after is not None
    weights = {n: w for n, w in prunable_weights(model).items() if n in coupling.tensors}
    if ignore:
        spared = tensors_below(coupling, matching_modules(coupling, ignore))
        weights = {n: w for n, w in weights.items() if n not in spared}
    alive = {n: torch.from_numpy(_alive(coupling, keep, n)) for n in weights}
    rest = temporary.after.params - sum(int(a.sum()) for a in alive.values())
    count = limits[0].value - rest
    if count < len(weights):
        raise BudgetError(
            f"Budget params ≤ {limits[0].value:,} cannot be met by masks: {rest:,} parameters are no maskable weights. "
            "Raise the budget or add the level 'unit'."
        )
    small = slice_tensors({n: w.detach() for n, w in weights.items()}, coupling, temporary)
    count = min(count, sum(w.numel() for w in small.values()))
    scores = weight_criterion_of(criterion)(Evidence(small))
    if allocator is not None and allocator in WEIGHT_ALLOCATORS:
        found = fit_weights({n: s.double().cpu().numpy() for n, s in scores.items()}, count, allocator)
        chosen = {n: torch.from_numpy(mask) for n, mask in found.items()}
    else:
        chosen = top_masks(scores, keep_count=count)
    masks = {}
    for name, mask in chosen.items():
        whole = np.ones(tuple(weights[name].shape), bool)
        whole[alive[name].numpy()] = mask.cpu().numpy().reshape(-1)
        masks[name] = whole
    return masks


def _alive(coupling: Coupling, keep: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    out = np.ones((), bool)
    for expr in coupling.tensors[name]:
        out = np.logical_and.outer(out, coupling.mask(expr, keep))
    return out
