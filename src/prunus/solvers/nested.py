"""The best weights at several levels of one order of removal: the units of a level are among those of larger ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from prunus.errors import OptionError
from prunus.solvers.consumers import Consumer
from prunus.solvers.problem import DAMPING, damped, factor


def nested_refits(
    consumer: Consumer, order: Sequence[int] | Tensor, units: int, counts: Iterable[int], *, damping: float = DAMPING
) -> dict[int, Tensor]:
    """Return, for each number of kept units, the weights as `refit` finds them, all from one factorisation.

    The inputs are sorted so that the last removed come first; then the factor of H_SS of every level is the upper left
    part of the factor of the largest level.

    Args:
        consumer: the layer.
        order: units in the order of removal; units that are not in it stay.
        units: number of units.
        counts: numbers of kept units.
        damping: as in `refit`.

    Shapes: each weight (O, I), in the dtype of the consumer's weight, zero where its unit is removed.

    Raises:
        OptionError: more units than there are, or fewer than stay.
    """
    removed = torch.as_tensor(order, dtype=torch.int64)
    levels = sorted(set(counts))
    if levels and not units - len(removed) <= levels[0] <= levels[-1] <= units:
        raise OptionError(f"counts are {levels}; allowed is {units - len(removed)} to {units} units.")
    if not levels:
        return {}
    weight = consumer.weight.detach().to(consumer.dtype)
    moment = damped(consumer.moment.detach().to(consumer.dtype), damping)
    rank = torch.full((units + 1,), -1, dtype=torch.int64)  # the last entry is for inputs that no unit feeds
    rank[removed] = torch.arange(units - 1, units - 1 - len(removed), -1)
    place = rank[consumer.unit.cpu()].to(moment.device)  # input → the least count at which it stays, less one
    sorted_inputs = torch.argsort(place, stable=True)
    sizes = {count: int((place < count).sum()) for count in levels}
    widest = sorted_inputs[: sizes[levels[-1]]]
    lower, target = factor(moment[widest][:, widest]), weight @ moment[:, widest]
    weights = {}
    for count in levels:
        size = sizes[count]
        own = torch.zeros_like(weight)
        if size:
            own[:, widest[:size]] = torch.cholesky_solve(target[:, :size].mT, lower[:size, :size]).mT
        weights[count] = own.to(consumer.weight.dtype)
    return weights
