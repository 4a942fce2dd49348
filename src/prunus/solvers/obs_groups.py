"""Group OBS: remove the unit whose removal costs least, let the remaining weights compensate, and repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import OptionError
from prunus.solvers.consumers import Consumer
from prunus.solvers.problem import DAMPING
from prunus.solvers.removal import Leaving


@dataclass(frozen=True, slots=True)
class Removal:
    """The order in which units are removed and the error of each: the level database of an axis.

    Attributes:
        order: the removed units, the first one first.
        rises: what each adds to the error; their sum is the error of all together.
        units: number of units of the axis.
    """

    order: Tensor
    rises: Tensor
    units: int

    def kept(self, count: int) -> Tensor:
        """Return the units that stay when ``count`` do. Shapes: → (units,), bool.

        Raises:
            OptionError: more units than there are, or fewer than the removal left.
        """
        least = self.units - len(self.order)
        if not least <= count <= self.units:
            raise OptionError(f"count is {count}; allowed is {least} to {self.units} units.")
        mask = torch.ones(self.units, dtype=torch.bool)
        mask[self.order[: self.units - count]] = False
        return mask

    def damage(self) -> Tensor:
        """Return the error when 0, 1, … all units stay. Shapes: → (units + 1,), float64, falling to 0.

        Counts below the least measured one get its error.
        """
        total = torch.cumsum(self.rises.double(), 0)
        curve = torch.zeros(self.units + 1, dtype=torch.float64)
        curve[self.units - len(self.order) : self.units] = total.flip(0)
        curve[: self.units - len(self.order)] = total[-1] if len(total) else 0.0
        return curve


def remove_units(
    consumers: Sequence[Consumer], units: int, *, keep: int = 0, damping: float = DAMPING, at_once: int = 1
) -> Removal:
    """Remove units one after the other, each time the one of the least score.

    s_B = tr(S W_B (H⁻¹_BB)⁻¹ W_Bᵀ), summed over the consumers, then W ← W − W_B(H⁻¹_BB)⁻¹H⁻¹_{B,:} and
    H⁻¹ ← H⁻¹ − H⁻¹_{:,B}(H⁻¹_BB)⁻¹H⁻¹_{B,:} in each. A score is exactly the rise of the error.
    Source: Kurtić et al., "ZipLM", arXiv:2302.04089, algorithm 1; Hassibi and Stork, "Optimal Brain Surgeon", 1993.

    Args:
        consumers: all readers of the axis.
        units: number of units of the axis.
        keep: number of units at which to stop.
        damping: λ, as a share of the mean of the diagonal of each H.
        at_once: units that are chosen from the same scores; more than 1 is faster and approximates the order. The
            errors stay exact.

    Raises:
        OptionError: a number out of range.
        DataError: a consumer's moment is not positive semidefinite.
    """
    if not 0 <= keep <= units or at_once < 1:
        raise OptionError(f"keep is {keep} of {units} units, at_once {at_once}; allowed is 0 to {units}, at least 1.")
    states = [Leaving(c, units, damping) for c in consumers]
    alive = torch.ones(units, dtype=torch.bool)
    order: list[int] = []
    rises: list[Tensor] = []
    while len(order) < units - keep:
        scores = sum((s.scores().double().cpu() for s in states), torch.zeros(units, dtype=torch.float64))
        scores[~alive] = torch.inf
        count = min(at_once, units - keep - len(order))
        chosen = torch.argsort(scores, stable=True)[:count].tolist() if count > 1 else [int(scores.argmin())]
        rises.append(sum((s.remove(chosen).double().cpu() for s in states), torch.zeros(count, dtype=torch.float64)))
        order += chosen
        alive[chosen] = False
    return Removal(
        torch.tensor(order, dtype=torch.int64), torch.cat(rises) if rises else torch.zeros(0).double(), units
    )


__all__ = ["Consumer", "Removal", "remove_units"]
