"""Learned linear maps from the features of a small network to those of the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from prunus.data.batches import call, device_of
from prunus.foundation.as_found import in_eval_mode
from prunus.recovery.block_matching import BlockPair
from prunus.recovery.feature_hooks import FeatureHooks
from prunus.recovery.task import RecoveryTask, first_batch

_CHANNELS_SECOND = 4
"""Tensors of so many dims and more (images) have the features on dim 1; others (tokens, vectors) on the last."""


class Projections:
    """Linear maps, one for each pair, W ∈ (dense features, small features); at first the identity on kept features.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, §2.2 (the regressor).
    Shapes: (B, c, …) → (B, C, …) from 4 dims on, (…, c) → (…, C) below.
    """

    def __init__(self, task: RecoveryTask, pairs: Sequence[BlockPair]) -> None:
        self._weights: dict[str, nn.Parameter] = {}
        if not pairs:
            return
        inputs, _ = first_batch(task.train, task.model)
        with torch.no_grad(), in_eval_mode(task.model), FeatureHooks(task.model, [p.last for p in pairs]) as ours:
            call(task.model, inputs)
        for pair in pairs:
            axis = _axis(ours.values[pair.last])
            kept = pair.kept[axis]
            small = ours.values[pair.last].shape[axis]
            index = torch.arange(small) if kept is None else kept
            dense = small if kept is None else task_width(task, pair, axis)
            weight = torch.zeros(dense, small, dtype=ours.values[pair.last].dtype)
            weight[index, torch.arange(small)] = 1.0
            self._weights[pair.last] = nn.Parameter(weight.to(device_of(task.model)))

    def __call__(self, path: str, value: Tensor) -> Tensor:
        """Project the small features of a pair to the dense network's width."""
        axis = _axis(value)
        return (value.movedim(axis, -1) @ self._weights[path].T).movedim(-1, axis)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the trainable maps."""
        return self._weights.values()


def task_width(task: RecoveryTask, pair: BlockPair, axis: int) -> int:
    """Return how many features the dense network has at a pair."""
    inputs, _ = first_batch(task.train, task.model)
    with torch.no_grad(), in_eval_mode(task.dense), FeatureHooks(task.dense, [pair.dense]) as theirs:
        call(task.dense, inputs)
    return int(theirs.values[pair.dense].shape[axis])


def _axis(value: Tensor) -> int:
    return 1 if value.ndim >= _CHANNELS_SECOND else value.ndim - 1
