"""What a small network learns from the dense one: its answers, its inner features, its blocks one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from prunus.data.batches import Inputs, call, logits_of
from prunus.foundation.as_found import in_eval_mode
from prunus.recovery.block_matching import Place
from prunus.recovery.distillation_loss import soft_loss
from prunus.recovery.feature_hooks import Taps
from prunus.recovery.mixup import mixed_inputs
from prunus.recovery.projections import Projections
from prunus.recovery.task import RecoveryTask
from prunus.training import loss_function
from prunus.training.losses import relative_square_error


class Distillation:
    """Learn from the dense network's answers, from labels where there are some, and from its features on request.

    L = (1 − s)·L_labels + s·T²·KL(dense ‖ small) + h·Σ_l ‖P_l(f_l) − f_l′‖² / ‖f_l′‖²  with learned P_l.
    On request a share of the samples is mixed first; see ``mixed_inputs``.
    Sources: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531;
    Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550 (the last term).

    Args:
        task: whose dense network teaches.
        places: where features are compared; projections are made for them.
    """

    def __init__(self, task: RecoveryTask, places: Sequence[Place] = ()) -> None:
        self._task, self._places = task, tuple(places)
        self._loss = loss_function(task.options.loss)
        self._projections = Projections(task, self._places)

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        soft = self._task.options.soft if self._task.labelled else 1.0
        inputs = mixed_inputs(inputs, self._task.options.mixed)
        with torch.no_grad(), in_eval_mode(self._task.dense), Taps(self._task.dense, _dense(self._places)) as theirs:
            taught = logits_of(call(self._task.dense, inputs))
        with Taps(model, _last(self._places)) as ours:
            output = call(model, inputs)
        loss = soft * soft_loss(self._task.options, logits_of(output), taught)
        if soft < 1:
            loss = loss + (1 - soft) * self._loss(output, targets)
        if self._places:
            errors = [
                relative_square_error(
                    self._projections(place.last, ours.values[place.last]), theirs.values[place.dense]
                )
                for place in self._places
            ]
            loss = loss + self._task.options.hints * torch.stack(errors).mean()
        return loss

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the projections' weights."""
        return self._projections.parameters()


class BlockByBlock:
    """Each block rebuilds what the dense network's block answers, on the inputs it really gets; labels are not used.

    L = mean_b ‖f_b(x_b) − f_b′[kept]‖² / ‖f_b′[kept]‖²,  no gradient passing from a block into the one before it.
    Blocks that are nearly right count as little as they cost; each is divided by the energy of its own goal.
    """

    def __init__(self, task: RecoveryTask, places: Sequence[Place]) -> None:
        self._task, self._places = task, tuple(places)

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        with torch.no_grad(), in_eval_mode(self._task.dense), Taps(self._task.dense, _dense(self._places)) as theirs:
            call(self._task.dense, inputs)
        borders = [place.first for place in self._places]
        with Taps(model, _last(self._places), borders) as ours:
            call(model, inputs)
        errors = [
            relative_square_error(ours.values[place.last], place.goal(theirs.values[place.dense]))
            for place in self._places
        ]
        return torch.stack(errors).mean()

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return nothing: there is only the model."""
        return ()


def _dense(places: Sequence[Place]) -> set[str]:
    return {place.dense for place in places}


def _last(places: Sequence[Place]) -> set[str]:
    return {place.last for place in places}
