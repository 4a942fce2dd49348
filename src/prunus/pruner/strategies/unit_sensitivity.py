"""The sensitivity of neurons in a running training: the mean square of the gradients that reach their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.pruner.strategies.pressure import Lanes
from prunus.pruner.strategy import Scene


class UnitSensitivity:
    """s_u = E[g²], the mean over the weights that write unit u and over the steps since the last change.

    Only the gradients of the training itself are read. A step whose gradients are not finite is ignored.
    """

    def __init__(self, scene: Scene) -> None:
        self._lanes = Lanes(scene)
        self._sums = {axis: torch.zeros(size, dtype=torch.float64) for axis, size in self._lanes.sizes.items()}
        self._sizes = {axis: self._number(axis) for axis in self._sums}
        self._count = 0

    def _number(self, axis: str) -> Tensor:
        """Return the number of weights that write each unit."""
        total = torch.zeros(self._lanes.sizes[axis], dtype=torch.float64)
        for weight, dim, where in self._lanes.rows[axis]:
            each = weight.numel() // weight.shape[dim]
            total.index_add_(0, where.clamp(min=0).cpu(), each * (where >= 0).cpu().double())
        return total.clamp(min=1)

    @torch.no_grad()
    def observe(self) -> None:
        """Add the squared gradients of one step."""
        found = [self._squares(axis) for axis in self._sums]
        if not found:
            return
        # One transfer for all axes, not one each.
        line = torch.cat([squares.to(found[0].device) for squares in found]).cpu().double()
        if bool(torch.isfinite(line).all()):
            for sums, squares in zip(self._sums.values(), torch.split(line, [len(one) for one in found]), strict=True):
                sums += squares
            self._count += 1

    def _squares(self, axis: str) -> Tensor:
        rows = self._lanes.rows[axis]
        device = next((where.device for _, _, where in rows), torch.device("cpu"))
        total = torch.zeros(self._lanes.sizes[axis], device=device)
        for weight, dim, where in rows:
            if weight.grad is not None:
                squares = weight.grad.movedim(dim, 0).flatten(1).to(total).square().sum(1)
                total.index_add_(0, where.clamp(min=0), squares * (where >= 0))
        return total

    def scores(self) -> dict[str, np.ndarray]:
        """Return the sensitivities and reset the sums; units that no weight writes count as the most sensitive."""
        found = {axis: (sums / self._sizes[axis] / max(1, self._count)).numpy() for axis, sums in self._sums.items()}
        most = max((float(values.max()) for axis, values in found.items() if self._lanes.rows[axis]), default=0.0)
        self.clear()
        return {axis: found[axis] if self._lanes.rows[axis] else np.full(len(found[axis]), most) for axis in found}

    def clear(self) -> None:
        """Reset the sums."""
        self._sums = {axis: torch.zeros_like(sums) for axis, sums in self._sums.items()}
        self._count = 0

    def tensors(self) -> list[Tensor]:
        """Return the sums, which are averaged over processes."""
        return list(self._sums.values())

    def state(self) -> dict[str, Any]:
        """Return sums and count."""
        return {"sums": {axis: sums.clone() for axis, sums in self._sums.items()}, "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore sums and count."""
        self._sums = {axis: sums.clone() for axis, sums in state["sums"].items()}
        self._count = int(state["count"])
