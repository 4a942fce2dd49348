"""Key path by a falling threshold on gradients, or at the pace of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from prunus.budget.counts import Threshold
from prunus.budget.useful import check_threshold
from prunus.errors import BudgetError
from prunus.pruner.options import Moment
from prunus.pruner.strategies.adaptive import AdaptiveSettings, LossPace
from prunus.pruner.strategies.falling_threshold import FallingThreshold, ThresholdSettings, quantile
from prunus.pruner.strategies.key_path import KeyPath
from prunus.pruner.strategy import STRATEGIES, Masks, Scene


@STRATEGIES.register("key-path-threshold")
class KeyPathThreshold(KeyPath):
    """Keep the branches with E|g| > τ as the key path and drop the others; then τ ← 0.9·τ.

    g = Σ w·∂L/∂w over the weights of the last layer of the branch, the gradient of a gate on its output. With
    ``per: part`` τ falls after every kept branch, in the order of the program. A given ``threshold`` alone decides; a
    branch without which no path is left stays. Without one, branches are dropped as in ``key-path`` where τ drops fewer
    than the budget needs.

    Source: own; importance: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.
    """

    Settings = ThresholdSettings

    def __init__(self, scene: Scene, settings: ThresholdSettings) -> None:
        super().__init__(scene, settings)
        self.falling = FallingThreshold(settings)

    def check(self) -> None:
        """Refuse a threshold on branches where there are none."""
        if self.falling.decides and not self._branches:
            raise BudgetError(
                f"threshold is {self.falling.settings.threshold:g}, and {type(self.scene.model).__name__} has no "
                "branch that may be dropped; leave threshold out, or use sensitivity-threshold for its units."
            )

    def importance(self, slopes: Tensor) -> Tensor:
        """Return |g|."""
        return slopes.abs()

    def update(self, moment: Moment) -> Masks | None:
        """Drop the branches at or below τ, lower it, and meet the budget where τ does not decide alone."""
        parts, before, worth = self.scene.parts, len(self.scene.parts.dropped), self.means()
        low, high = self.falling.bounds(moment, self.scene.options.kept)
        gone = {branch.id for branch in parts.dropped}
        alive = [name for name in worth if name not in gone]
        if alive:
            values = np.array([worth[name] for name in alive])
            self._begin(values, moment.kept)
            kept = {name for name, stays in zip(alive, self.falling.above(values), strict=True) if stays}
            self._drop(sorted(set(alive) - kept, key=lambda name: worth[name]), parts.limit(low).value)
        if not self.falling.decides:
            self.drop_to(replace(moment, kept=high), worth)
        self.falling.pruned(len(parts.dropped) > before)
        return parts.masks(self.scene.model)

    def _begin(self, values: np.ndarray, kept: float) -> None:
        if self.falling.tau is None:
            self.falling.tau = quantile(values, kept)
        elif not self.falling.checked:
            check_threshold({"": (values, Threshold(self.falling.tau))}, "branches", "mean |gradient|")
        self.falling.checked = True

    def _drop(self, names: list[str], limit: int) -> None:
        parts, by_name = self.scene.parts, {branch.id: branch for branch in self._branches}
        for name in names:
            dropped = (*parts.dropped, by_name[name])
            smaller = parts.without(dropped)
            if smaller is not None and parts.spent(smaller, dropped) >= limit:
                parts.dropped = dropped

    def state(self) -> dict[str, Any]:
        """Return τ and the sums."""
        return {**super().state(), "falling": self.falling.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore τ and the sums."""
        super().restore(state)
        self.falling.restore(state["falling"])


@STRATEGIES.register("key-path-adaptive")
class KeyPathAdaptive(KeyPath):
    """Drop branches beside the key path on plateaus of the loss, and none while it rises.

    The share that goes at a change is a·(have − final)/(changes left), with a as in ``adaptive``; the path is found
    anew at every change, as in ``key-path``.

    Source: own; importance: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.
    """

    needs_loss = True
    Settings = AdaptiveSettings

    def __init__(self, scene: Scene, settings: AdaptiveSettings) -> None:
        super().__init__(scene, settings)
        self.pace = LossPace("key-path-adaptive", settings)
        self._goal = 1.0

    def observe(self, moment: Moment) -> None:
        """Follow the loss, and add the gradients of the gates."""
        self.pace.follow(moment)
        super().observe(moment)

    def update(self, moment: Moment) -> Masks | None:
        """Drop as many branches as the phase allows."""
        # A branch that is too large waits, so the pace follows the goal and not what is left.
        share = self.pace.share(moment, self._goal, self.scene.options.kept)
        worth = self.means()
        if share is not None:
            self._goal = share
            self.drop_to(replace(moment, kept=share), worth)
        return self.scene.parts.masks(self.scene.model)

    def evidence(self) -> list[Tensor]:
        """Return the running means of the loss and the sums."""
        return [self.pace.means, *super().evidence()]

    def state(self) -> dict[str, Any]:
        """Return running means, the present goal and the sums."""
        return {**super().state(), "means": self.pace.means.clone(), "goal": self._goal}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore running means, the present goal and the sums."""
        super().restore(state)
        self.pace.means, self._goal = state["means"].clone(), float(state["goal"])
