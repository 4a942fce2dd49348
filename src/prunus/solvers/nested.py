"""The best weights at several levels of one order of removal: what stays at one level stays at every larger one."""

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

    With the inputs sorted so that what leaves last stands first, the factor of H_SS for every level is the upper left
    part of the factor of the largest.

    Args:
        consumer: the layer.
        order: units as they leave, the first one first; units that are not in it stay.
        units: how many there are.
        counts: of kept units.
        damping: as in `refit`.

    Shapes: each weight (O, I), in the dtype of the consumer's weight, zero where its unit is gone.

    Raises:
        OptionError: more units than there are, or fewer than stay.
    """
    gone = torch.as_tensor(order, dtype=torch.int64)
    levels = sorted(set(counts))
    if levels and not units - len(gone) <= levels[0] <= levels[-1] <= units:
        raise OptionError(f"counts are {levels}; allowed is {units - len(gone)} to {units} units.")
    if not levels:
        return {}
    weight = consumer.weight.detach().to(consumer.dtype)
    moment = damped(consumer.moment.detach().to(consumer.dtype), damping)
    rank = torch.full((units + 1,), -1, dtype=torch.int64)  # the last place is that of inputs that no unit feeds
    rank[gone] = torch.arange(units - 1, units - 1 - len(gone), -1)
    place = rank[consumer.unit.cpu()].to(moment.device)  # input → the least count at which it stays, less one
    sorted_inputs = torch.argsort(place, stable=True)
    sizes = {count: int((place < count).sum()) for count in levels}
    widest = sorted_inputs[: sizes[levels[-1]]]
    lower, target = factor(moment[widest][:, widest]), weight @ moment[:, widest]
    found = {}
    for count in levels:
        size = sizes[count]
        own = torch.zeros_like(weight)
        if size:
            own[:, widest[:size]] = torch.cholesky_solve(target[:, :size].mT, lower[:size, :size]).mT
        found[count] = own.to(consumer.weight.dtype)
    return found


__all__ = ["nested_refits"]
