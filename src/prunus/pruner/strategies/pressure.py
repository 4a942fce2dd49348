"""Pressure: a penalty drives units towards zero before they are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.producers_consumers import find_places
from prunus.pruner.options import Moment
from prunus.pruner.strategies.units import check_units, prune_units_, unit_scores
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy, check_range


class Lanes:
    """For every axis, the dims of weights that write it, as dim position → unit."""

    def __init__(self, scene: Scene) -> None:
        coupling, named = scene.parts.coupling, dict(scene.model.named_parameters())
        self.rows: dict[str, list[tuple[torch.nn.Parameter, int, Tensor]]] = {}
        for axis, members in find_places(coupling).writes.items():
            if axis in scene.parts.free:
                self.rows[axis] = [
                    (named[m.tensor], m.dim, torch.from_numpy(where).to(named[m.tensor].device))
                    for m in members
                    if m.tensor in named
                    for where in coupling.positions(m.expr, coupling.axes[axis])
                ]
        self.sizes = {axis: coupling.axes[axis].size for axis in self.rows}

    def norms(self, axis: str) -> Tensor:
        """Return ‖W_u‖₂ of every unit. Shapes: → (units,)."""
        device = next((where.device for _, _, where in self.rows[axis]), None)
        total = torch.zeros(self.sizes[axis], device=device)
        for weight, dim, where in self.rows[axis]:
            squares = weight.detach().to(total).movedim(dim, 0).flatten(1).square().sum(1)
            total = total.index_add(0, where.clamp(min=0), squares * (where >= 0))
        return total.sqrt()

    def scale_(self, axis: str, factors: Tensor) -> None:
        """Multiply the weights of every unit by its factor. Shapes: factors (units,)."""
        for weight, dim, where in self.rows[axis]:
            line = torch.where(where >= 0, factors.to(weight)[where.clamp(min=0)], 1.0)
            weight.mul_(line.reshape([-1 if d == dim else 1 for d in range(weight.dim())]))


@dataclass(frozen=True, slots=True)
class GroupLassoSettings:
    """The shrinkage of a unit over the whole pruning without opposing gradients, in mean norms."""

    strength: float = 0.3

    def __post_init__(self) -> None:
        check_range("group-lasso", "strength", self.strength, 0.0, 100.0)


@STRATEGIES.register("group-lasso")
class GroupLasso(Strategy):
    """Penalise Σ_u ‖W_u‖₂ by a proximal step after every optimizer step; remove the smallest units along the schedule.

    W_u ← W_u·max(0, 1 − (λ/n)·m/‖W_u‖₂), m the mean norm of the axis's units, n the steps of the pruning: one λ suits
    layers of any scale and trainings of any length.
    Source: Wen et al., "Learning Structured Sparsity in Deep Neural Networks", arXiv:1608.03665.
    """

    structural = True
    reads = ("metric", "allocator")
    Settings = GroupLassoSettings

    def __init__(self, scene: Scene, settings: GroupLassoSettings) -> None:
        super().__init__(scene, settings)
        self._lanes = Lanes(scene)

    def check(self) -> None:
        """Refuse a budget that no choice of units can meet."""
        check_units(self.scene)

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """Shrink every unit of an axis by the same length."""
        if not moment.steps_left or moment.t <= 0:
            return
        steps = moment.steps_left / (1 - moment.t)
        for axis, rows in self._lanes.rows.items():
            if rows:
                norms = self._lanes.norms(axis)
                length = self.settings.strength / steps * norms.mean()
                self._lanes.scale_(axis, (1 - length / norms.clamp(min=1e-12)).clamp(min=0))

    def update(self, moment: Moment) -> Masks | None:
        """Prune down to the schedule."""
        prune_units_(self.scene, unit_scores(self.scene, "magnitude"), moment.kept)
        return self.scene.parts.masks(self.scene.model)

    def forget(self) -> None:
        """Find the weights of the cut network."""
        self._lanes = Lanes(self.scene)


@dataclass(frozen=True, slots=True)
class GrowingSettings:
    """The strength of the penalty; 1 shrinks the chosen units to zero along a straight line."""

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_range("growing-regularisation", "strength", self.strength, 0.0, 100.0)


@STRATEGIES.register("growing-regularisation")
class GrowingRegularisation(Strategy):
    """Choose units by their norm at the beginning, let an L2 penalty on them alone grow, remove them at the end.

    W_u ← W_u·r/(r + s), r the steps until removal: a penalty of s/(r + s) of the weight, which grows as r falls.
    Source: Wang et al., "Neural Pruning via Growing Regularization", arXiv:2012.09243 (GReg-1).
    """

    structural = True
    reads = ("metric", "allocator")
    schedule = "one_shot"
    Settings = GrowingSettings

    def __init__(self, scene: Scene, settings: GrowingSettings) -> None:
        super().__init__(scene, settings)
        self._lanes = Lanes(scene)
        self._chosen: dict[str, np.ndarray] = {}

    def check(self) -> None:
        """Refuse a budget that no choice of units can meet."""
        check_units(self.scene)

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """Shrink the chosen units."""
        if not moment.steps_left or moment.t <= 0:
            return
        self._chosen = self._chosen or self._choice()
        factor = moment.steps_left / (moment.steps_left + self.settings.strength)
        for axis, keep in self._chosen.items():
            if axis in self._lanes.rows and not keep.all():
                self._lanes.scale_(axis, torch.where(torch.from_numpy(keep), 1.0, factor))

    def update(self, moment: Moment) -> Masks | None:
        """Remove the chosen units at the end."""
        if not moment.final:
            return None
        self.scene.parts.keep = self._chosen or self._choice()
        return self.scene.parts.masks(self.scene.model)

    def _choice(self) -> dict[str, np.ndarray]:
        parts = self.scene.parts
        return parts.fit(
            unit_scores(self.scene, "magnitude"),
            parts.limit(self.scene.options.kept),
            self.scene.options.allocator,
        )

    def state(self) -> dict[str, Any]:
        """Return the kept units."""
        return {"chosen": {axis: keep.tolist() for axis, keep in self._chosen.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the kept units."""
        self._chosen = {axis: np.asarray(keep, bool) for axis, keep in state["chosen"].items()}

    def forget(self) -> None:
        """Choose units again in the cut network."""
        self._lanes, self._chosen = Lanes(self.scene), {}
