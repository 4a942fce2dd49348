"""Regrow: every change masks some weights and returns as many others, those with the largest gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.masks import resolve_count, top_masks
from prunus.masks.selection import find_cut, kept_by
from prunus.pruner.options import Moment
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy, check_range


@dataclass(frozen=True, slots=True)
class RegrowSettings:
    """The share of a tensor's weights that is exchanged at the first change; it falls to 0 along a cosine."""

    fraction: float = 0.3

    def __post_init__(self) -> None:
        check_range("rigl", "fraction", self.fraction, 0.0, 1.0)


class _Regrow(Strategy):
    """Prune by |w| to the schedule, then exchange f(t) of each tensor's weights: least |w| for largest |g|.

    f(t) = fraction/2 · (1 + cos πt). The number of kept weights per tensor stays. Returned weights begin at zero,
    without momentum. |g| is the gradient of the last step, at masked weights too.
    """

    reads = ()
    Settings = RegrowSettings

    def __init__(self, scene: Scene, settings: RegrowSettings) -> None:
        super().__init__(scene, settings)
        self._steepness: dict[str, Tensor] = {}
        self._spare: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, moment: Moment) -> None:
        """Store |g| of every weight, at the last step before a change."""
        if not moment.update_next:
            return
        grads = {name: w.grad for name, w in self.scene.weights.items() if w.grad is not None}
        if all(bool(torch.isfinite(g.sum())) for g in grads.values()):
            # Signs would cancel in an average over processes that each have their own data.
            self._steepness = {name: self._copied(name, grad) for name, grad in grads.items()}

    def _copied(self, name: str, grad: Tensor) -> Tensor:
        # New memory costs several times as much as the copy.
        return self._spare[name].copy_(grad) if name in self._spare else grad.clone()

    @torch.no_grad()
    def update(self, moment: Moment) -> Masks | None:
        """Prune, then exchange weights."""
        sizes = {name: weight.detach().abs() for name, weight in self.scene.weights.items()}
        total = sum(size.numel() for size in sizes.values())
        count = min(self.scene.kept_count(), resolve_count(total, moment.kept, None))
        masks = top_masks(sizes, keep_count=count, within=self.scene.masks)
        share = self.settings.fraction / 2 * (1 + math.cos(math.pi * moment.t))
        if not moment.final:
            masks = {name: self._exchanged(name, mask, sizes[name], share) for name, mask in masks.items()}
        self._spare, self._steepness = {**self._spare, **self._steepness}, {}
        return masks

    def _exchanged(self, name: str, mask: Tensor, size: Tensor, share: float) -> Tensor:
        grad = self._steepness.get(name)
        live = int(torch.count_nonzero(mask))
        count = min(int(share * live), mask.numel() - live)
        if grad is None or count == 0:
            return mask
        weakest = _best(size.neg_(), count, mask)
        steepest = _best(grad.abs_(), count, ~mask)
        return mask.logical_xor_(weakest).logical_or_(steepest)

    def evidence(self) -> list[Tensor]:
        """Return the gradients of the last step."""
        return list(self._steepness.values())

    def state(self) -> dict[str, Any]:
        """Return the gradients of the last step."""
        return {"steepness": dict(self._steepness)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the gradients of the last step."""
        self._steepness = self.scene.placed(state["steepness"])


def _best(score: Tensor, count: int, within: Tensor) -> Tensor:
    parts = [(score, within)]
    return kept_by(find_cut(parts, count), parts)[0]


@STRATEGIES.register("rigl")
class RigL(_Regrow):
    """Prune to the final level at the first change, then keep exchanging.

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners", arXiv:1911.11134.
    """

    schedule = "one_shot"


@STRATEGIES.register("granet")
class GraNet(_Regrow):
    """Prune along the cubic schedule, exchanging at every change.

    Source: Liu et al., "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", arXiv:2106.10404.
    """

    schedule = "cubic"
