"""Gradient threshold: weights whose mean |g| lies below a threshold go, and the threshold falls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.budget.counts import Threshold
from prunus.budget.useful import check_threshold
from prunus.masks import resolve_count, top_masks
from prunus.masks.selection import comparable, find_cut
from prunus.pruner.gradient_statistics import Gathered
from prunus.pruner.options import Moment
from prunus.pruner.strategies.falling_threshold import FallingThreshold, ThresholdSettings
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy


@STRATEGIES.register("gradient-threshold")
class GradientThreshold(Strategy):
    """Remove the weights with E|g| < τ, the mean over the steps since the last change; then τ ← 0.9·τ.

    With ``per: part`` τ falls after every single weight, in order of tensor and index. A given ``threshold`` alone
    decides how many go; without one τ begins at the value that the schedule's first change divides by, and the weights
    of lowest E|g| go where τ removes fewer or more than the budget allows. Each tensor keeps its best weight.

    Source: own.
    """

    reads = ()
    Settings = ThresholdSettings

    def __init__(self, scene: Scene, settings: ThresholdSettings) -> None:
        super().__init__(scene, settings)
        self.falling = FallingThreshold(settings)
        self._gathered = Gathered(scene, "gradient")

    def observe(self, moment: Moment) -> None:
        """Add |g| of the step, as long as masks still change."""
        if moment.updates_left:
            self._gathered.observe()

    @torch.no_grad()
    def update(self, moment: Moment) -> Masks | None:
        """Remove the weights below τ, then lower it."""
        scores = comparable(self._gathered.scores())
        have, total = self.scene.kept_count(), sum(score.numel() for score in scores.values())
        low, high = self.falling.bounds(moment, self.scene.options.kept)
        least, most = resolve_count(total, low, None), resolve_count(total, high, None)
        self._begin(scores, min(have, least))
        below = {name: self._below(name, score) for name, score in scores.items()}
        removed = sum(int(torch.count_nonzero(mask)) for mask in below.values())
        count = min(have, most, max(least, have - removed))
        masks = {name: self.scene.mask(name) & ~gone for name, gone in below.items()}
        if count != have - removed or not all(bool(mask.any()) for mask in masks.values()):
            masks = top_masks(scores, keep_count=count, within=self.scene.masks)
        self.falling.pruned(count < have)
        return masks

    def _begin(self, scores: Mapping[str, Tensor], count: int) -> None:
        if self.falling.tau is None:
            live = [(score, self.scene.masks.get(name)) for name, score in scores.items()]
            self.falling.tau = find_cut(live, max(1, count)).least
        elif not self.falling.checked:
            given = Threshold(self.falling.tau, inclusive=True)
            layers = {name: (score.cpu().numpy().reshape(-1), given) for name, score in scores.items()}
            check_threshold(layers, "weights", "mean |gradient|")
        self.falling.checked = True

    def _below(self, name: str, score: Tensor) -> Tensor:
        live = self.scene.mask(name)
        if self.falling.settings.per == "change":
            assert self.falling.tau is not None
            return (score < self.falling.tau) & live
        values = torch.where(live, score, torch.inf).cpu().numpy()
        taken = self.falling.below(np.ascontiguousarray(values).reshape(-1))
        return torch.from_numpy(taken.reshape(values.shape)).to(score.device)

    def evidence(self) -> list[Tensor]:
        """Return the sums of |g|."""
        return self._gathered.tensors()

    def state(self) -> dict[str, Any]:
        """Return τ and the sums."""
        return {"falling": self.falling.state(), "gathered": self._gathered.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore τ and the sums."""
        self.falling.restore(state["falling"])
        self._gathered.restore(state["gathered"])
