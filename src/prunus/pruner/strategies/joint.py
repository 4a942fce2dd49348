"""Joint: branches, units and weights go in one training, under one budget that they share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from prunus.cost.price import cost_model
from prunus.errors import BudgetError, OptionError, nearest
from prunus.masks import top_masks
from prunus.pruner.options import Moment
from prunus.pruner.strategies.key_path import KeyPath, live_axes
from prunus.pruner.strategies.unit_sensitivity import UnitSensitivity
from prunus.pruner.strategies.units import unit_scores
from prunus.pruner.strategy import STRATEGIES, Masks, Scene
from prunus.pruner.structure import emptied

KINDS = ("structure", "units", "weights")
TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class JointSettings:
    """The shares of the reduction of structure, units and weights, and their order.

    Attributes:
        shares: kind → its part of the reduction −log kept, in any unit; a kind that is left out removes nothing.
        order: ``together`` for all at every change, or the kinds one after another in the schedule.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    order: str | list[str] | tuple[str, ...] = TOGETHER

    def __post_init__(self) -> None:
        if not isinstance(self.shares, Mapping) or not self.shares:
            raise OptionError(f"setting 'shares' of 'joint' is {self.shares!r}; allowed: such as {{units: 2}}.")
        for kind, share in self.shares.items():
            if kind not in KINDS:
                raise OptionError(
                    f"setting 'shares' of 'joint' names {kind!r}.{nearest(str(kind), KINDS)} Allowed: "
                    f"{', '.join(KINDS)}."
                )
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
                raise OptionError(f"setting 'shares' of 'joint' gives {kind} {share!r}; allowed: a number from 0 on.")
        if not any(self.shares.values()):
            raise OptionError("setting 'shares' of 'joint' gives every kind 0; give at least one of them more.")
        wanted = {kind for kind, share in self.shares.items() if share}
        if self.order != TOGETHER and (isinstance(self.order, str) or sorted(self.order) != sorted(wanted)):
            raise OptionError(
                f"setting 'order' of 'joint' is {self.order!r}; allowed: {TOGETHER}, or a list of "
                f"{', '.join(kind for kind in KINDS if kind in wanted)}, each once."
            )

    def reductions(self, total: float, now: float) -> dict[str, float]:
        """Return the part of a reduction −log kept that every kind has to make now.

        Args:
            total: the reduction in the end.
            now: the reduction that the schedule asks for.

        Example:
            >>> JointSettings(order=("weights", "units", "structure")).reductions(3.0, 1.5)
            {'structure': 0.0, 'units': 0.5, 'weights': 1.0}
        """
        sum_of = sum(self.shares.values())
        parts = {kind: self.shares.get(kind, 0) / sum_of for kind in KINDS}
        if self.order == TOGETHER:
            return {kind: part * now for kind, part in parts.items()}
        found, left = dict.fromkeys(KINDS, 0.0), now
        for kind in self.order:
            found[kind] = min(left, parts[kind] * total)
            left -= found[kind]
        return found


@STRATEGIES.register("joint")
class Joint(KeyPath):
    """Drop branches, remove units and mask weights in one schedule.

    The schedule asks for the reduction L = −log kept(t), which the kinds divide: structure makes share_s·L by the
    branches beside the key path, units share_u·L by least E[g²], and weights meet kept(t) exactly by least |w|. What a
    coarser kind cannot remove, because a branch is too large or none is left, the finer ones remove. Under a metric
    that zeros do not lower, units meet the schedule.

    Source: own; importance of branches: Molchanov et al., "Importance Estimation for Neural Network Pruning",
    arXiv:1906.10771.
    """

    masks_weights = True
    Settings = JointSettings

    def __init__(self, scene: Scene, settings: JointSettings) -> None:
        super().__init__(scene, settings)
        self._sensitivity = UnitSensitivity(scene)

    def check(self) -> None:
        """Refuse a share of units that the fewest units exceed."""
        parts, final = self.scene.parts, self.scene.options.kept
        kept = self._kept(-math.log(final), -math.log(final))["units"]
        try:
            parts.fit(unit_scores(self.scene, "magnitude"), parts.limit(kept), self.scene.options.allocator)
        except BudgetError as error:
            raise BudgetError(f"{error} Here units keep {kept:.3g} of it; give weights a larger share.") from error

    def observe(self, moment: Moment) -> None:
        """Add the gradients of gates and of units."""
        super().observe(moment)
        if moment.updates_left:
            self._sensitivity.observe()

    def update(self, moment: Moment) -> Masks | None:
        """Drop branches, then remove units, then mask weights, each down to its part of the schedule."""
        kept = self._kept(-math.log(self.scene.options.kept), -math.log(moment.kept))
        worth = self.means()
        if kept["structure"] < 1:
            self._drop_branches(replace(moment, kept=kept["structure"]), worth)
        self._remove_units(kept["units"])
        if self._zeros_count:
            self._mask_weights(moment.kept)
        return self.scene.parts.masks(self.scene.model)

    @property
    def _zeros_count(self) -> bool:
        return self.scene.parts.metric == "params" and bool(self.settings.shares.get("weights"))

    def _kept(self, total: float, now: float) -> dict[str, float]:
        """Return the share that is left after the structure, and after the units."""
        parts = self.settings.reductions(total, now)
        units = parts["structure"] + parts["units"] if self._zeros_count else now
        return {"structure": math.exp(-parts["structure"]), "units": math.exp(-units)}

    def _drop_branches(self, moment: Moment, worth: Mapping[str, float]) -> None:
        """Drop branches down to the share of structure, which is one of the network with all its units."""
        parts, keep = self.scene.parts, self.scene.parts.keep
        parts.keep = {}
        # Never the last change: units and weights make up for a branch that is too large.
        self.drop_to(replace(moment, updates_left=2), worth)
        graph = parts.without(parts.dropped)
        assert graph is not None
        live = live_axes(parts.coupling, graph)
        parts.keep = {axis: units for axis, units in keep.items() if axis in live}

    def _trim(self, limit: int) -> None:
        """Leave units to the share of units."""

    def _remove_units(self, kept: float) -> None:
        parts, scores = self.scene.parts, self._sensitivity.scores()
        graph, limit = parts.without(parts.dropped), parts.limit(kept)
        if graph is None or parts.spent(graph, parts.dropped) <= limit.value:
            return
        live = live_axes(parts.coupling, graph) - emptied(parts.coupling, parts.dropped).keys()
        scores = {axis: values for axis, values in scores.items() if axis in live}
        cost = cost_model(parts.coupling, graph)
        parts.keep = parts.fit(scores, limit, self.scene.options.allocator, cost=cost)

    @torch.no_grad()
    def _mask_weights(self, kept: float) -> None:
        """Mask the smallest weights of what is left, so that the parameters that are not zero meet the schedule."""
        parts, before = self.scene.parts, self.scene.parts.masked
        parts.masked = {}
        bare, alive = parts.plan().after.params, parts.masks(self.scene.model)
        weights = {n: w for n, w in self.scene.weights.items() if n not in alive or bool(alive[n].any())}
        whole = {n: alive[n] if n in alive else torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
        within = {n: mask & before[n] if n in before else mask for n, mask in whole.items()}
        stay = parts.limit(kept).value - (bare - sum(int(mask.sum()) for mask in whole.values()))
        if stay > sum(int(mask.sum()) for mask in within.values()):
            within = whole  # a branch went that left less than the schedule: weights come back
        count = min(stay, sum(int(mask.sum()) for mask in within.values()))
        masks = top_masks({n: w.detach().abs() for n, w in weights.items()}, keep_count=max(0, count), within=within)
        parts.masked = {n: m | ~whole[n] for n, m in masks.items() if not bool((m | ~whole[n]).all())}

    def evidence(self) -> list[Tensor]:
        """Return the sums of squared gradients of gates and units."""
        return [*super().evidence(), *self._sensitivity.tensors()]

    def state(self) -> dict[str, Any]:
        """Return sums and weight masks."""
        masked = {name: mask.clone() for name, mask in self.scene.parts.masked.items()}
        return {**super().state(), "sensitivity": self._sensitivity.state(), "masked": masked}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore sums and weight masks."""
        super().restore(state)
        self._sensitivity.restore(state["sensitivity"])
        self.scene.parts.masked = self.scene.placed(state["masked"])

    def forget(self) -> None:
        """Find branches and weights of the cut network."""
        super().forget()
        self._sensitivity = UnitSensitivity(self.scene)
