"""Dynamic threshold: every tensor has a threshold that follows its gradients and falls after each removal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.criteria.weight_statistics import precise
from prunus.masks import resolve_count, top_masks
from prunus.pruner.options import Moment
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy, check_range
from prunus.training.schedules import linear

DECAY = 0.9
SWING = 4.0


@dataclass(frozen=True, slots=True)
class DynamicThresholdSettings:
    """The first value of a threshold's factor, and its limits."""

    start: float = 0.5
    least: float = 0.05
    most: float = 2.0

    def __post_init__(self) -> None:
        check_range("dynamic-threshold", "least", self.least, 1e-6, self.most)
        check_range("dynamic-threshold", "most", self.most, self.least, 1e6)
        check_range("dynamic-threshold", "start", self.start, self.least, self.most)


@STRATEGIES.register("dynamic-threshold")
class DynamicThreshold(Strategy):
    """Remove the weights with |w| ≤ τ_l, where τ_l = c_l · mean|w|_l · √(G/G_l) follows the gradients of tensor l.

    G_l = E[g²] per weight of the tensor over the steps since the last change, G their geometric mean, the root kept in
    [1/4, 4]: where the loss is steep, the threshold is low. c_l ← max(least, 0.9·c_l) each time it removes weights, and
    min(most, c_l/0.9) when it does not. The kept share is bounded from below by the schedule and from above by the
    straight line to the same end; weights of lowest |w|/τ_l leave first.

    Source: own.
    """

    reads = ()
    Settings = DynamicThresholdSettings

    def __init__(self, scene: Scene, settings: DynamicThresholdSettings) -> None:
        super().__init__(scene, settings)
        self.factors = dict.fromkeys(scene.weights, settings.start)
        self._sizes = torch.tensor([weight.numel() for weight in scene.weights.values()])
        self._steepness = torch.zeros(len(scene.weights), dtype=torch.float64)

    @torch.no_grad()
    def observe(self, moment: Moment) -> None:
        """Add E[g²] of each tensor, as long as masks still change."""
        if not moment.updates_left:
            return
        grads = [weight.grad for weight in self.scene.weights.values()]
        norms = [torch.zeros(()) if g is None else torch.linalg.vector_norm(g) for g in grads]
        # One transfer for all tensors, not one each.
        where = next((g.device for g in grads if g is not None), torch.device("cpu"))
        found = torch.stack([norm.to(where, torch.float64) for norm in norms]).cpu().square()
        if bool(torch.isfinite(found).all()):
            self._steepness += found / self._sizes

    @torch.no_grad()
    def update(self, moment: Moment) -> Masks | None:
        """Apply every threshold, then lower or raise it."""
        logs = self._steepness.clamp(min=1e-300).log()
        pull = ((logs.mean() - logs) / 2).exp().clamp(1 / SWING, SWING).tolist()
        self._steepness = torch.zeros_like(self._steepness)
        ratios = {name: self._ratio(name, pull[i]) for i, name in enumerate(self.scene.weights)}
        before = {name: int(torch.count_nonzero(self.scene.mask(name))) for name in ratios}
        have, total = sum(before.values()), sum(r.numel() for r in ratios.values())
        bitten = sum(int(torch.count_nonzero((r <= 1).logical_and_(self.scene.mask(n)))) for n, r in ratios.items())
        least = resolve_count(total, moment.kept, None)
        most = resolve_count(total, max(moment.kept, linear(moment.t, self.scene.options.kept)), None)
        count = min(have, most, max(least, have - bitten))
        masks = top_masks(ratios, keep_count=count, within=self.scene.masks)
        for name, mask in masks.items():
            bites = int(torch.count_nonzero(mask)) < before[name]
            factor = self.factors[name] * DECAY if bites else self.factors[name] / DECAY
            self.factors[name] = min(self.settings.most, max(self.settings.least, factor))
        return masks

    def _ratio(self, name: str, pull: float) -> Tensor:
        size = precise(self.scene.weights[name]).abs()
        # Masked weights are zero and add nothing to the sum.
        mean = float(size.sum(dtype=torch.float64)) / max(1, int(torch.count_nonzero(self.scene.mask(name))))
        return size.div_(max(self.factors[name] * pull * mean, torch.finfo(size.dtype).tiny))

    def evidence(self) -> list[Tensor]:
        """Return the sums of squared gradients."""
        return [self._steepness]

    def state(self) -> dict[str, Any]:
        """Return factors and sums."""
        return {"factors": dict(self.factors), "steepness": self._steepness.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore factors and sums."""
        self.factors = {name: float(value) for name, value in state["factors"].items()}
        self._steepness = state["steepness"].clone()
