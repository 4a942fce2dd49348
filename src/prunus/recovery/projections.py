"""Learned linear maps from the features of a small network to those of the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from prunus.data.batches import call, device_of
from prunus.foundation.as_found import in_eval_mode
from prunus.recovery.block_matching import Place
from prunus.recovery.feature_hooks import Taps
from prunus.recovery.task import RecoveryTask, first_batch

_CHANNELS_SECOND = 4
"""From so many dims on (images) the features stand second; below (tokens, vectors) they stand last."""


class Projections:
    """One map a place, W ∈ (dense features, small features), beginning where kept features go to themselves.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, §2.2 (the regressor).
    Shapes: (B, c, …) → (B, C, …) from 4 dims on, (…, c) → (…, C) below.
    """

    def __init__(self, task: RecoveryTask, places: Sequence[Place]) -> None:
        self._weights: dict[str, nn.Parameter] = {}
        if not places:
            return
        inputs, _ = first_batch(task.train, task.model)
        with torch.no_grad(), in_eval_mode(task.model), Taps(task.model, [p.last for p in places]) as ours:
            call(task.model, inputs)
        for place in places:
            axis = _axis(ours.values[place.last])
            kept = place.kept[axis]
            small = ours.values[place.last].shape[axis]
            index = torch.arange(small) if kept is None else kept
            dense = small if kept is None else task_width(task, place, axis)
            weight = torch.zeros(dense, small, dtype=ours.values[place.last].dtype)
            weight[index, torch.arange(small)] = 1.0
            self._weights[place.last] = nn.Parameter(weight.to(device_of(task.model)))

    def __call__(self, path: str, value: Tensor) -> Tensor:
        """Return the features of a place in the dense network's width."""
        axis = _axis(value)
        return (value.movedim(axis, -1) @ self._weights[path].T).movedim(-1, axis)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the maps."""
        return self._weights.values()


def task_width(task: RecoveryTask, place: Place, axis: int) -> int:
    """Return how many features the dense network has at a place."""
    inputs, _ = first_batch(task.train, task.model)
    with torch.no_grad(), in_eval_mode(task.dense), Taps(task.dense, [place.dense]) as theirs:
        call(task.dense, inputs)
    return int(theirs.values[place.dense].shape[axis])


def _axis(value: Tensor) -> int:
    return 1 if value.ndim >= _CHANNELS_SECOND else value.ndim - 1
