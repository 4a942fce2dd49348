"""Movement: keep the weights that training moves away from zero; masked ones may return with their old value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunus.masks import resolve_count, top_masks
from prunus.pruner.gradient_statistics import zeros_for
from prunus.pruner.options import Moment
from prunus.pruner.strategy import STRATEGIES, Masks, NoSettings, Scene, Strategy


@STRATEGIES.register("movement")
class Movement(Strategy):
    """Keep the n(t) weights of highest movement score S ← S − lr·g·W, with straight-through masks.

    The forward pass uses W ⊙ M(S); the gradient of S passes M as if it were the identity, so that masked weights are
    scored by the value W that they had when they were masked, and return with it.
    Source: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv:2005.07683.
    """

    reads = ()
    Settings = NoSettings

    def __init__(self, scene: Scene, settings: NoSettings) -> None:
        super().__init__(scene, settings)
        self._scores = {name: zeros_for(w) for name, w in scene.weights.items()}
        self._hidden: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, moment: Moment) -> None:
        """Add the movement of one step."""
        if not moment.updates_left:
            return
        grads = {name: w.grad for name, w in self.scene.weights.items() if w.grad is not None}
        if not all(bool(torch.isfinite(g.sum())) for g in grads.values()):
            return
        for name, grad in grads.items():
            weight = self.scene.weights[name].detach()
            self._scores[name].addcmul_(grad, weight, value=-moment.lr)
            if name in self._hidden:
                self._scores[name].addcmul_(grad, self._hidden[name], value=-moment.lr)

    @torch.no_grad()
    def update(self, moment: Moment) -> Masks | None:
        """Keep the weights of highest score; store the values of newly masked ones, restore those that return."""
        total = sum(score.numel() for score in self._scores.values())
        count = min(self.scene.kept_count(), resolve_count(total, moment.kept, None))
        masks = top_masks(self._scores, keep_count=count)
        for name, mask in masks.items():
            weight, hidden = self.scene.weights[name].detach(), self._hidden.get(name)
            if hidden is not None:
                weight.add_(hidden)
            if not moment.final:
                self._hidden[name] = torch.mul(weight, ~mask, out=hidden)
            weight.mul_(mask)
        if moment.final:
            self._hidden = {}
        return masks

    def evidence(self) -> list[Tensor]:
        """Return the scores."""
        return list(self._scores.values())

    def state(self) -> dict[str, Any]:
        """Return scores and hidden values."""
        return {"scores": dict(self._scores), "hidden": dict(self._hidden)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore scores and hidden values."""
        self._scores, self._hidden = self.scene.placed(state["scores"]), self.scene.placed(state["hidden"])
