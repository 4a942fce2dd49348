"""Objectives of learning from the dense network: its outputs, its inner features, its blocks one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from prunus.data.batches import Inputs, call, logits_of
from prunus.foundation.as_found import in_eval_mode
from prunus.recovery.block_matching import BlockPair
from prunus.recovery.distillation_loss import soft_loss
from prunus.recovery.feature_hooks import FeatureHooks
from prunus.recovery.mixup import mixed_inputs
from prunus.recovery.projections import Projections
from prunus.recovery.task import RecoveryTask
from prunus.training import loss_function
from prunus.training.losses import relative_square_error


class Distillation:
    """Distillation of outputs, with labels where there are some, and of inner features on request.

    L = (1 − s)·L_labels + s·T²·KL(dense ‖ small) + h·Σ_l ‖P_l(f_l) − f_l′‖² / ‖f_l′‖²  with learned P_l.
    On request a share of the samples is mixed first; see ``mixed_inputs``.
    Sources: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531;
    Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550 (the last term).

    Args:
        task: its dense network teaches.
        pairs: blocks whose features are compared; a projection is trained for each.
    """

    def __init__(self, task: RecoveryTask, pairs: Sequence[BlockPair] = ()) -> None:
        self._task, self._pairs = task, tuple(pairs)
        self._loss = loss_function(task.options.loss)
        self._projections = Projections(task, self._pairs)

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        soft = self._task.options.soft if self._task.labelled else 1.0
        inputs = mixed_inputs(inputs, self._task.options.mixed)
        with (
            torch.no_grad(),
            in_eval_mode(self._task.dense),
            FeatureHooks(self._task.dense, _dense(self._pairs)) as theirs,
        ):
            teacher = logits_of(call(self._task.dense, inputs))
        with FeatureHooks(model, _last(self._pairs)) as ours:
            output = call(model, inputs)
        loss = soft * soft_loss(self._task.options, logits_of(output), teacher)
        if soft < 1:
            loss = loss + (1 - soft) * self._loss(output, targets)
        if self._pairs:
            errors = [
                relative_square_error(self._projections(pair.last, ours.values[pair.last]), theirs.values[pair.dense])
                for pair in self._pairs
            ]
            loss = loss + self._task.options.hints * torch.stack(errors).mean()
        return loss

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the projections' weights."""
        return self._projections.parameters()


class BlockByBlock:
    """Block reconstruction: each block fits the dense block's output on its own real inputs; labels are not used.

    L = mean_b ‖f_b(x_b) − f_b′[kept]‖² / ‖f_b′[kept]‖²,  with no gradient from a block to the one before it.
    Each error is divided by the energy of its own goal, so all blocks count on one scale.
    """

    def __init__(self, task: RecoveryTask, pairs: Sequence[BlockPair]) -> None:
        self._task, self._pairs = task, tuple(pairs)

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        with (
            torch.no_grad(),
            in_eval_mode(self._task.dense),
            FeatureHooks(self._task.dense, _dense(self._pairs)) as theirs,
        ):
            call(self._task.dense, inputs)
        borders = [pair.first for pair in self._pairs]
        with FeatureHooks(model, _last(self._pairs), borders) as ours:
            call(model, inputs)
        errors = [
            relative_square_error(ours.values[pair.last], pair.goal(theirs.values[pair.dense])) for pair in self._pairs
        ]
        return torch.stack(errors).mean()

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return nothing: only the model is trained."""
        return ()


def _dense(pairs: Sequence[BlockPair]) -> set[str]:
    return {pair.dense for pair in pairs}


def _last(pairs: Sequence[BlockPair]) -> set[str]:
    return {pair.last for pair in pairs}
