"""Neurons by their sensitivity: below a falling threshold, at the pace of the loss, or in rounds of falling rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from prunus.budget import unit_problem
from prunus.budget.counts import Threshold
from prunus.budget.useful import check_threshold
from prunus.pruner.options import Moment
from prunus.pruner.strategies.adaptive import AdaptiveSettings, LossPace
from prunus.pruner.strategies.falling_threshold import FallingThreshold, ThresholdSettings, quantile
from prunus.pruner.strategies.rounds import FallingRate, RoundSettings
from prunus.pruner.strategies.unit_sensitivity import UnitSensitivity
from prunus.pruner.strategies.units import check_units, prune_units_
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy
from prunus.pruner.structure import emptied


class _Sensitive(Strategy):
    """Remove the units of least sensitivity; members decide how many go at a change."""

    structural = True
    reads = ("metric", "allocator")

    def __init__(self, scene: Scene, settings: Any) -> None:
        super().__init__(scene, settings)
        self._gathered = UnitSensitivity(scene)

    def check(self) -> None:
        """Refuse a budget that no choice of units can meet."""
        check_units(self.scene)

    def observe(self, moment: Moment) -> None:
        """Add the squared gradients of the step, as long as masks still change."""
        if moment.updates_left:
            self._gathered.observe()

    def evidence(self) -> list[Tensor]:
        """Return the sums of squared gradients."""
        return self._gathered.tensors()

    def state(self) -> dict[str, Any]:
        """Return the sums."""
        return {"gathered": self._gathered.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._gathered.restore(state["gathered"])

    def forget(self) -> None:
        """Find the weights of the cut network."""
        self._gathered = UnitSensitivity(self.scene)

    def _pruned_to(self, kept: float) -> Masks:
        prune_units_(self.scene, self._gathered.scores(), kept)
        return self.scene.parts.masks(self.scene.model)


@STRATEGIES.register("sensitivity-threshold")
class SensitivityThreshold(_Sensitive):
    """Remove the units with E[g²] < τ, the mean over the weights that write them; then τ ← 0.9·τ.

    With ``per: part`` τ falls after every single unit, in order of axis and index. A given ``threshold`` alone decides
    how many go; without one the units of least sensitivity go where τ removes fewer or more than the budget allows.
    Each axis keeps its best unit.

    Source: own; sensitivity: Mozer & Smolensky, "Skeletonization", NIPS 1988.
    """

    Settings = ThresholdSettings

    def __init__(self, scene: Scene, settings: ThresholdSettings) -> None:
        super().__init__(scene, settings)
        self.falling = FallingThreshold(settings)

    def update(self, moment: Moment) -> Masks | None:
        """Remove the units below τ, then lower it."""
        parts, scores = self.scene.parts, self._gathered.scores()
        before, empty = self._spent(parts.keep), emptied(parts.coupling, parts.dropped)
        low, high = (parts.limit(share) for share in self.falling.bounds(moment, self.scene.options.kept))
        alive = {axis: parts.keep.get(axis, np.ones(len(values), bool)) for axis, values in scores.items()}
        self._begin(scores, alive, moment.kept)
        below = {
            axis: alive[axis] & self.falling.below(np.where(alive[axis], values, np.inf))
            for axis, values in scores.items()
        }
        chosen = self._without(scores, below)
        if self._spent(chosen) < low.value:
            chosen = parts.fit(scores, low, self.scene.options.allocator)
        elif self._spent(chosen) > high.value:
            chosen = parts.fit(scores, high, self.scene.options.allocator)
        parts.keep = {axis: units for axis, units in chosen.items() if axis not in empty}
        self.falling.pruned(self._spent(parts.keep) < before)
        return parts.masks(self.scene.model)

    def _begin(self, scores: Mapping[str, np.ndarray], alive: Mapping[str, np.ndarray], kept: float) -> None:
        if self.falling.tau is None:
            self.falling.tau = quantile(np.concatenate([scores[axis][alive[axis]] for axis in scores]), kept)
        elif not self.falling.checked:
            given = Threshold(self.falling.tau, inclusive=True)
            check_threshold({axis: (values, given) for axis, values in scores.items()}, "units", "mean gradient²")
        self.falling.checked = True

    def _without(self, scores: Mapping[str, np.ndarray], below: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the kept units; tied units leave together where at least half of them lie below τ."""
        parts = self.scene.parts
        bounds = {axis: bound for axis, bound in parts.bounds.items() if axis in scores}
        # Units below the threshold rank behind all others, and the number of the others is kept.
        lifted = 1.0 + 2.0 * max(float(values.max()) for values in scores.values())
        ranked = {axis: np.where(below[axis], values, values + lifted) for axis, values in scores.items()}
        problem = unit_problem(parts.cost, ranked, (), base=parts.keep or None, bounds=bounds)
        counts = {}
        for axis, values in problem.scores.items():
            tied = sum(problem.groups.get(axis, {axis: 1}).values())
            counts[axis] = problem.snap(axis, int((np.asarray(values) / tied > lifted / 2).sum()))
        return problem.masks(counts)

    def _spent(self, keep: Mapping[str, np.ndarray]) -> int:
        parts = self.scene.parts
        return parts.limit(1.0).of(parts.cost.price(keep))

    def state(self) -> dict[str, Any]:
        """Return τ and the sums."""
        return {**super().state(), "falling": self.falling.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore τ and the sums."""
        super().restore(state)
        self.falling.restore(state["falling"])


@STRATEGIES.register("units-adaptive")
class UnitsAdaptive(_Sensitive):
    """Remove units of least sensitivity E[g²] on plateaus of the loss, and none while it rises.

    The share that goes at a change is a·(have − final)/(changes left), with a as in ``adaptive``.

    Source: own; sensitivity: Mozer & Smolensky, "Skeletonization", NIPS 1988.
    """

    needs_loss = True
    Settings = AdaptiveSettings

    def __init__(self, scene: Scene, settings: AdaptiveSettings) -> None:
        super().__init__(scene, settings)
        self.pace = LossPace("units-adaptive", settings)

    def observe(self, moment: Moment) -> None:
        """Follow the loss, and add the squared gradients."""
        self.pace.follow(moment)
        super().observe(moment)

    def update(self, moment: Moment) -> Masks | None:
        """Prune as many units as the phase allows."""
        share = self.pace.share(moment, self.scene.parts.share, self.scene.options.kept)
        return None if share is None else self._pruned_to(share)

    def evidence(self) -> list[Tensor]:
        """Return the running means of the loss and the sums."""
        return [self.pace.means, *super().evidence()]

    def state(self) -> dict[str, Any]:
        """Return running means and sums."""
        return {**super().state(), "means": self.pace.means.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore running means and sums."""
        super().restore(state)
        self.pace.means = state["means"].clone()


@STRATEGIES.register("fine-tuning-units")
class FineTuningUnits(_Sensitive):
    """Remove units of least sensitivity E[g²] in rounds, the network trained between them; each rate is 0.9 × the last.

    Round r removes the share p_r = p_0·0.9^r of what is left. p_0 follows from the budget, or is given as ``rate``;
    ``kept`` is then the least share that stays. The training between the rounds is that of the loop itself.

    Source: own; rounds of pruning and training: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626.
    """

    Settings = RoundSettings

    def __init__(self, scene: Scene, settings: RoundSettings) -> None:
        super().__init__(scene, settings)
        self._rate = FallingRate(settings, scene.options.kept)

    @property
    def changes(self) -> int:
        """The number of rounds."""
        return int(self.settings.rounds)

    def update(self, moment: Moment) -> Masks | None:
        """Prune at the rate of the round."""
        return self._pruned_to(self._rate.following(moment))

    def state(self) -> dict[str, Any]:
        """Return the round and the sums."""
        return {**super().state(), "round": self._rate.round}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the round and the sums."""
        super().restore(state)
        self._rate.round = int(state["round"])
