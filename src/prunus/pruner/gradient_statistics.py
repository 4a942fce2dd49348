"""Gradient statistics of a running training, without extra passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunus.criteria import CRITERIA, CriterionLike, Evidence, criterion_name, weight_criterion_of
from prunus.errors import OptionError
from prunus.masks import relative_scores
from prunus.pruner.strategy import Scene

_FIELDS = {
    "magnitude": (),
    "relative": (),
    "random": (),
    "gradient": ("grad_abs",),
    "importance": ("grad_sq",),
    "importance-weighted": ("grad_sq",),
    "taylor-weight": ("grad",),
}
_ALL = ("grad", "grad_abs", "grad_sq")


class Gathered:
    """Means of g, |g| and g² over the steps since the last change of the masks; only those that a criterion reads.

    A step whose gradients are not finite (gradient scaling skips it) is ignored. Sums of half-precision gradients
    are kept in float32: their squares would vanish.

    Raises:
        OptionError: an unknown criterion, or one that needs more than weights and gradients.
    """

    def __init__(self, scene: Scene, criterion: CriterionLike) -> None:
        if criterion != "relative":
            _check_shown(criterion)
        self._scene, self.criterion = scene, criterion
        self._fields = () if callable(criterion) else _FIELDS.get(criterion_name(criterion), _ALL)
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._count = 0

    @torch.no_grad()
    def observe(self) -> None:
        """Add the gradients of one step."""
        if not self._fields:
            return
        grads = {name: w.grad for name, w in self._scene.weights.items() if w.grad is not None}
        if not all(bool(torch.isfinite(g.sum())) for g in grads.values()):
            return
        for field in self._fields:
            sums = self._sums.setdefault(field, {n: zeros_for(w) for n, w in self._scene.weights.items()})
            for name, grad in grads.items():
                if field == "grad":
                    sums[name].add_(grad)
                elif field == "grad_abs":
                    sums[name].add_(grad.abs())
                else:
                    wide = grad.to(sums[name].dtype)
                    sums[name].addcmul_(wide, wide)
        self._count += 1

    def tensors(self) -> list[Tensor]:
        """Return the sums, which are averaged over processes."""
        return [tensor for sums in self._sums.values() for tensor in sums.values()]

    @torch.no_grad()
    def scores(self) -> dict[str, Tensor]:
        """Score every weight by the criterion and reset the sums; masked weights are scored like all others.

        Raises:
            DataError: a score is not finite.
        """
        weights = {name: w.detach() for name, w in self._scene.weights.items()}
        if self.criterion == "relative":
            scores = relative_scores(weights)
        else:
            means = {field: self._mean(field) for field in self._fields}
            evidence = Evidence(weights, seed=self._scene.options.seed, **means)
            scores = weight_criterion_of(self.criterion)(evidence)
        self.clear()
        return scores

    def _mean(self, field: str) -> dict[str, Tensor]:
        if field not in self._sums:
            return {name: zeros_for(w) for name, w in self._scene.weights.items()}
        return {name: total / max(1, self._count) for name, total in self._sums[field].items()}

    def clear(self) -> None:
        """Reset the sums."""
        self._sums, self._count = {}, 0

    def state(self) -> dict[str, Any]:
        """Return sums and count."""
        return {"sums": {f: dict(s) for f, s in self._sums.items()}, "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore sums and count."""
        self._sums = {f: self._scene.placed(s) for f, s in state["sums"].items()}
        self._count = int(state["count"])


def zeros_for(weight: Tensor) -> Tensor:
    """Return zeros for a sum over many steps: in the weight's type, and at least in float32."""
    return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32), requires_grad=False)


def _check_shown(criterion: CriterionLike) -> None:
    """Try a criterion on one weight with all statistics, so that it fails now and not after hours of training."""
    weight_criterion_of(criterion)
    if isinstance(criterion, str) and not _is_shown(criterion):
        raise OptionError(
            f"criterion {criterion!r} reads more than weights and gradients, which is all that a running training "
            f"shows; allowed: {', '.join([*shown_criteria(), 'relative'])}."
        )


def shown_criteria() -> list[str]:
    """Return the weight criteria that need only weights and gradients."""
    return [name for name in CRITERIA if _is_shown(name)]


def _is_shown(criterion: str) -> bool:
    one = {"weight": torch.ones(1, 1)}
    try:
        weight_criterion_of(criterion)(Evidence(one, grad=one, grad_abs=one, grad_sq=one))
    except OptionError:
        return False
    return True


def below(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores in which masked weights lie below all others."""
    least = min(float(score.min()) for score in scores.values()) - 1.0
    return {n: s.masked_fill(~masks[n], least) if n in masks else s for n, s in scores.items()}
