"""Units: remove neurons and filters with everything coupled to them, by scores from the running training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.criteria import UNIT_CRITERIA, CriterionLike, UnitEvidence, criterion_of, needs_of
from prunus.errors import OptionError
from prunus.pruner.gradient_statistics import zeros_for
from prunus.pruner.options import Moment
from prunus.pruner.strategy import STRATEGIES, Masks, NoSettings, Scene, Strategy


@STRATEGIES.register("units")
class Units(Strategy):
    """Remove the units of lowest score until the network costs what the schedule says.

    Scores: ``criterion`` on weights and on the mean gradient since the last change, "taylor" by default:
    s_u = (Σ_{w writes u} w·E[g])².

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.
    """

    structural = True
    reads = ("criterion", "metric", "allocator")
    Settings = NoSettings

    def __init__(self, scene: Scene, settings: NoSettings) -> None:
        super().__init__(scene, settings)
        self._criterion = scene.options.criterion or "taylor"
        _check_shown(self._criterion)
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def check(self) -> None:
        """Refuse a budget that no choice of units can meet, and a criterion that this network cannot be scored by."""
        check_units(self.scene, self._criterion)

    @torch.no_grad()
    def observe(self, moment: Moment) -> None:
        """Add the gradients of one step, if the criterion reads them."""
        if callable(self._criterion) or self._criterion in ("magnitude", "random") or not moment.updates_left:
            return
        grads = {n: p.grad for n, p in self.scene.model.named_parameters() if p.grad is not None}
        if not all(bool(torch.isfinite(g.sum())) for g in grads.values()):
            return
        for name, grad in grads.items():
            if name not in self._sums:
                self._sums[name] = zeros_for(grad)
            self._sums[name].add_(grad)
        self._count += 1

    def update(self, moment: Moment) -> Masks | None:
        """Prune down to the schedule."""
        prune_units_(self.scene, unit_scores(self.scene, self._criterion, self._sums, self._count), moment.kept)
        self.forget()
        return self.scene.parts.masks(self.scene.model)

    def evidence(self) -> list[Tensor]:
        """Return the sums over gradients."""
        return list(self._sums.values())

    def state(self) -> dict[str, Any]:
        """Return the sums over gradients."""
        return {"sums": dict(self._sums), "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._sums, self._count = self.scene.placed(state["sums"]), int(state["count"])

    def forget(self) -> None:
        """Reset the sums."""
        self._sums, self._count = {}, 0


def unit_scores(
    scene: Scene, criterion: CriterionLike, sums: Mapping[str, Tensor] | None = None, count: int = 0
) -> dict[str, np.ndarray]:
    """Score the units of every axis that may be cut, by weights and mean gradients."""
    weights = {name: p.detach() for name, p in scene.model.named_parameters()}
    grad = None
    if sums is not None:
        grad = {n: sums[n] / max(1, count) if n in sums else torch.zeros_like(w) for n, w in weights.items()}
    found = criterion_of(criterion)(UnitEvidence(scene.parts.coupling, weights, grad=grad, seed=scene.options.seed))
    return {axis: found[axis].numpy() for axis in scene.parts.free}


def check_units(scene: Scene, criterion: CriterionLike = "magnitude") -> None:
    """Raise BudgetError if even the fewest units exceed the final budget."""
    parts = scene.parts
    parts.fit(unit_scores(scene, criterion, {}), parts.limit(scene.options.kept), scene.options.allocator)


def _check_shown(criterion: CriterionLike) -> None:
    """Refuse a criterion that reads more than weights and gradients."""
    criterion_of(criterion)
    missing = set(needs_of(criterion)) - {"grad"}
    if missing:
        able = [name for name in UNIT_CRITERIA if set(needs_of(name)) <= {"grad"}]
        raise OptionError(
            f"criterion {criterion!r} needs {', '.join(sorted(missing))}, which a running training does not show; "
            f"allowed: {', '.join(able)}."
        )


def prune_units_(scene: Scene, scores: Mapping[str, np.ndarray], kept: float) -> None:
    """Keep the units of highest score that fit the budget, among those that are left."""
    parts = scene.parts
    parts.keep = parts.fit(scores, parts.limit(kept), scene.options.allocator)
