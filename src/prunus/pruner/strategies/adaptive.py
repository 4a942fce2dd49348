"""Adaptive: prune on plateaus of the loss, pause while it rises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.masks import resolve_count, top_masks
from prunus.pruner.gradient_statistics import Gathered
from prunus.pruner.options import Moment
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy, check_range

LATE = 0.75
_FAST, _SLOW = 0.3, 0.05
"""Weights of the newest loss in the two running means."""


@dataclass(frozen=True, slots=True)
class AdaptiveSettings:
    """The least slope that counts, and the factors of an even share on a plateau and while the loss falls."""

    tolerance: float = 0.02
    plateau: float = 2.0
    falling: float = 0.5

    def __post_init__(self) -> None:
        check_range("adaptive", "tolerance", self.tolerance, 0.0, 1.0)
        check_range("adaptive", "plateau", self.plateau, 0.0, 100.0)
        check_range("adaptive", "falling", self.falling, 0.0, 100.0)


class LossPace:
    """The pace of pruning by the phase of the loss, from two running means of it."""

    def __init__(self, method: str, settings: AdaptiveSettings) -> None:
        self._method, self.settings = method, settings
        self.means = torch.full((2,), math.nan, dtype=torch.float64)

    def follow(self, moment: Moment) -> None:
        """Update the running means of the loss.

        Raises:
            DataError: the loop did not report the loss.
        """
        if moment.loss is None:
            raise DataError(
                f"method {self._method!r} follows the loss, and the loop gave none; call before_optimizer_step(loss), "
                "or pruner.tell(loss) after every forward pass where an adapter or a with block calls the hooks."
            )
        if math.isfinite(moment.loss):
            rates = torch.tensor([_FAST, _SLOW], dtype=torch.float64)
            first = bool(self.means.isnan().any())
            self.means = (
                torch.full_like(rates, moment.loss)
                if first
                else self.means.lerp(torch.full_like(rates, moment.loss), rates)
            )

    def phase(self) -> str:
        """Return the phase: rising, plateau or falling."""
        fast, slow = self.means.tolist()
        slope = (fast - slow) / max(abs(slow), 1e-12)
        if slope > self.settings.tolerance:
            return "rising"
        return "falling" if slope < -self.settings.tolerance else "plateau"

    def factor(self, moment: Moment) -> float:
        """Return the factor on an even share of what is still to go."""
        factor = {"rising": 0.0, "plateau": self.settings.plateau, "falling": self.settings.falling}[self.phase()]
        return max(1.0, factor) if moment.t >= LATE else factor

    def share(self, moment: Moment, have: float, final: float) -> float | None:
        """Return the kept share after this change; None where nothing goes."""
        if moment.final:
            return final
        removed = min(have - final, self.factor(moment) * (have - final) / moment.updates_left)
        return have - removed if removed > 0 else None


@STRATEGIES.register("adaptive")
class Adaptive(Strategy):
    """Remove a·(have − final)/(changes left) weights, where a depends on the phase of the training.

    slope = (fast − slow)/slow of two running means of the loss. Rising (slope > tolerance): a = 0, pause. On a plateau
    a = 2, while it falls a = 0.5. In the last quarter a is at least 1, so that postponed weights leave in even
    shares and not all at once; the last change meets the budget exactly.
    The loop has to report the loss, by ``before_optimizer_step(loss)`` or ``tell(loss)``. The callbacks for Hugging
    Face and Lightning do it; without it the first step is refused.

    Source: own.
    """

    needs_loss = True
    reads = ("criterion",)
    Settings = AdaptiveSettings

    def __init__(self, scene: Scene, settings: AdaptiveSettings) -> None:
        super().__init__(scene, settings)
        self._gathered = Gathered(scene, scene.options.criterion or "magnitude")
        self.pace = LossPace("adaptive", settings)

    def observe(self, moment: Moment) -> None:
        """Update the running means of the loss, and sum gradients if the criterion reads them."""
        self.pace.follow(moment)
        if moment.updates_left:
            self._gathered.observe()

    def update(self, moment: Moment) -> Masks | None:
        """Prune as many weights as the phase allows."""
        total = sum(w.numel() for w in self.scene.weights.values())
        have, final = self.scene.kept_count(), resolve_count(total, self.scene.options.kept, None)
        factor = self.pace.factor(moment)
        removed = (
            have - final if moment.final else min(have - final, int(factor * (have - final) / moment.updates_left))
        )
        scores = self._gathered.scores()
        return top_masks(scores, keep_count=have - removed, within=self.scene.masks) if removed > 0 else None

    def evidence(self) -> list[Tensor]:
        """Return the running means of the loss and the sums over gradients."""
        return [self.pace.means, *self._gathered.tensors()]

    def state(self) -> dict[str, Any]:
        """Return running means and sums."""
        return {"means": self.pace.means.clone(), "gathered": self._gathered.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore running means and sums."""
        self.pace.means = state["means"].clone()
        self._gathered.restore(state["gathered"])
