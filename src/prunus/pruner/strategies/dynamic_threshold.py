"""Dynamic threshold: every tensor has a threshold that follows the gradient signal and eases off when it bites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.masks import resolve_count, top_masks
from prunus.pruner.evidence import below
from prunus.pruner.strategy import STRATEGIES, Masks, Moment, Scene, Strategy, check_range
from prunus.schedules import linear

DECAY = 0.9
SWING = 4.0


@dataclass(frozen=True, slots=True)
class DynamicThresholdSettings:
    """Where a threshold's factor begins, and between what it stays."""

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
    [1/4, 4]: where the loss is steep, the threshold is low. c_l ← max(least, 0.9·c_l) each time it bites, and
    min(most, c_l/0.9) when it does not. How much is left is bounded from below by the schedule and from above by the
    straight line to the same end; the lowest |w|/τ_l go first.

    Source: own.
    """

    Settings = DynamicThresholdSettings

    def __init__(self, scene: Scene, settings: DynamicThresholdSettings) -> None:
        super().__init__(scene, settings)
        self.factors = dict.fromkeys(scene.weights, settings.start)
        self._steepness = torch.zeros(len(scene.weights), dtype=torch.float64)

    @torch.no_grad()
    def observe(self, moment: Moment) -> None:
        """Add how steep the loss is in each tensor, while it still decides something."""
        if not moment.updates_left:
            return
        grads = [weight.grad for weight in self.scene.weights.values()]
        norms = [0.0 if g is None else torch.linalg.vector_norm(g).square() / g.numel() for g in grads]
        found = torch.tensor([float(norm) for norm in norms])
        if bool(torch.isfinite(found).all()):
            self._steepness += found.double()

    @torch.no_grad()
    def update(self, moment: Moment) -> Masks | None:
        """Let every threshold bite, then ease it or tighten it."""
        logs = self._steepness.clamp(min=1e-300).log()
        pull = ((logs.mean() - logs) / 2).exp().clamp(1 / SWING, SWING).tolist()
        self._steepness = torch.zeros_like(self._steepness)
        ratios = {name: self._ratio(name, pull[i]) for i, name in enumerate(self.scene.weights)}
        have, total = self.scene.kept_count(), sum(r.numel() for r in ratios.values())
        bitten = sum(int(((r <= 1) & self.scene.mask(name)).sum()) for name, r in ratios.items())
        least = resolve_count(total, moment.kept, None)
        most = resolve_count(total, max(moment.kept, linear(moment.t, self.scene.options.kept)), None)
        count = min(have, most, max(least, have - bitten))
        masks = top_masks(below(ratios, self.scene.masks), keep_count=count)
        for name, mask in masks.items():
            bites = int((self.scene.mask(name) & ~mask).sum()) > 0
            factor = self.factors[name] * DECAY if bites else self.factors[name] / DECAY
            self.factors[name] = min(self.settings.most, max(self.settings.least, factor))
        return masks

    def _ratio(self, name: str, pull: float) -> Tensor:
        size, mask = self.scene.weights[name].detach().abs().double(), self.scene.mask(name)
        tau = self.factors[name] * pull * float(size[mask].mean()) if bool(mask.any()) else 0.0
        return size / max(tau, 1e-300)

    def evidence(self) -> list[Tensor]:
        """Return how steep the loss was."""
        return [self._steepness]

    def state(self) -> dict[str, Any]:
        """Return factors and sums."""
        return {"factors": dict(self.factors), "steepness": self._steepness.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over factors and sums."""
        self.factors = {name: float(value) for name, value in state["factors"].items()}
        self._steepness = state["steepness"].clone()
