"""Weight masks on the network without its removed blocks and units, so that all together meets a budget exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from prunus.budget import Limit
from prunus.methods.reduction import Reduction
from prunus.methods.weights import maskable, weights_that_stay
from prunus.surgery.tensors import slice_tensors

Choose = Callable[[Mapping[str, Tensor], int], Mapping[str, Tensor]]


def masks_left(
    reduction: Reduction, keep: Mapping[str, np.ndarray], scores: Mapping[str, Tensor], limit: Limit, choose: Choose
) -> dict[str, np.ndarray]:
    """Mask weights of a reduced network with the kept units, until a limit holds.

    Args:
        reduction: the dropped branches.
        keep: axis id → units that stay.
        scores: weight name → scores in the shape of the original weight; higher = keep.
        limit: limit of parameters, or of bytes in packed storage.
        choose: (scores of the remaining weights, number that stays) → masks of the same names and shapes.

    Returns:
        Weight name → mask in the shape of the original weight; True where a weight is removed anyway.

    Raises:
        BudgetError: the parameters that cannot be masked and one weight of every tensor exceed the limit.
    """
    coupling, bare = reduction.analysis.coupling, reduction.as_plan(keep)
    if limit.holds(bare.after):
        return {}
    live = {node.tensor for node in reduction.graph.nodes if node.tensor}
    names = [name for name in maskable(reduction.analysis) if name in live]
    left = slice_tensors({name: scores[name] for name in names}, coupling, bare)
    count = weights_that_stay(limit, bare.after, left)
    masks = {}
    for name, mask in choose(left, count).items():
        alive = np.ones((), bool)
        for expr in coupling.tensors[name]:
            alive = np.logical_and.outer(alive, coupling.mask(expr, bare.axes))
        full = np.ones(alive.shape, bool)
        full[alive] = mask.cpu().numpy().reshape(-1)
        if not full.all():
            masks[name] = full
    return masks
