"""Regrow: at every change some weights go and as many others, where the loss is steepest, come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.masks import resolve_count, top_masks
from prunus.pruner.evidence import below
from prunus.pruner.strategy import STRATEGIES, Masks, Moment, Scene, Strategy, check_range


@dataclass(frozen=True, slots=True)
class RegrowSettings:
    """The share of a tensor's weights that is exchanged at the first change; it falls to 0 as a cosine."""

    fraction: float = 0.3

    def __post_init__(self) -> None:
        check_range("rigl", "fraction", self.fraction, 0.0, 1.0)


class _Regrow(Strategy):
    """Prune by |w| to the schedule, then exchange f(t) of each tensor's weights: least |w| for largest |g|.

    f(t) = fraction/2 · (1 + cos πt). The number of a tensor's weights stays. What comes back begins at zero, without
    momentum. |g| is the gradient of the last step, at masked weights too.
    """

    Settings = RegrowSettings

    def __init__(self, scene: Scene, settings: RegrowSettings) -> None:
        super().__init__(scene, settings)
        self._steepness: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, moment: Moment) -> None:
        """Note how steep the loss is in every weight, at the last step before a change."""
        if not moment.update_next:
            return
        grads = {name: w.grad for name, w in self.scene.weights.items() if w.grad is not None}
        if all(bool(torch.isfinite(g.sum())) for g in grads.values()):
            # A sign would not survive an average over processes that each saw their own data.
            self._steepness = {name: grad.clone() for name, grad in grads.items()}

    @torch.no_grad()
    def update(self, moment: Moment) -> Masks | None:
        """Prune, then exchange."""
        sizes = {name: weight.detach().abs() for name, weight in self.scene.weights.items()}
        total = sum(size.numel() for size in sizes.values())
        masks = top_masks(below(sizes, self.scene.masks), keep_count=resolve_count(total, moment.kept, None))
        share = self.settings.fraction / 2 * (1 + math.cos(math.pi * moment.t))
        if not moment.final:
            masks = {name: self._exchanged(name, mask, sizes[name], share) for name, mask in masks.items()}
        self._steepness = {}
        return masks

    def _exchanged(self, name: str, mask: Tensor, size: Tensor, share: float) -> Tensor:
        grad = self._steepness.get(name)
        count = min(int(share * int(mask.sum())), int((~mask).sum()))
        if grad is None or count == 0:
            return mask
        flat, live = mask.reshape(-1), size.reshape(-1)
        weakest = torch.where(flat, live, torch.inf).argsort(stable=True)[:count]
        steepest = torch.where(flat, -1.0, grad.abs().reshape(-1)).argsort(descending=True, stable=True)[:count]
        swapped = flat.clone()
        swapped[weakest], swapped[steepest] = False, True
        return swapped.reshape(mask.shape)

    def evidence(self) -> list[Tensor]:
        """Return the gradients of the last step."""
        return list(self._steepness.values())

    def state(self) -> dict[str, Any]:
        """Return the gradients of the last step."""
        return {"steepness": dict(self._steepness)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the gradients of the last step."""
        self._steepness = dict(state["steepness"])


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
