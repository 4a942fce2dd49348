"""What a plan does to the true loss: the cut network on the selection split."""

from __future__ import annotations

import torch
from torch import nn

from prunus.criteria.calibration import evaluating, pairs
from prunus.measurement.batches import call, device_of
from prunus.methods.subject import BATCH, Subject
from prunus.plans import Plan
from prunus.surgery.cut import operate
from prunus.training import reestimate_statistics_

_STATISTICS_BATCH = 64


def selection_loss(subject: Subject, plan: Plan | None) -> float:
    """Return the mean loss of the cut network on the selection split, norm statistics re-estimated; None is dense."""
    if plan is None:
        return loss_of(subject, subject.model)
    small, _ = operate(subject.model, subject.coupling, plan, subject.example_inputs)
    reestimate_statistics_(small, subject.calibration.batches(_STATISTICS_BATCH))
    return loss_of(subject, small)


def loss_of(subject: Subject, model: nn.Module) -> float:
    """Return the mean loss of a network on the selection split, in eval mode; all modes are put back."""
    total = count = 0.0
    with evaluating(model), torch.no_grad():
        for inputs, targets in pairs(subject.selection.batches(BATCH), device_of(model)):
            total += float(subject.loss(call(model, inputs), targets)) * len(targets)
            count += len(targets)
    return total / count
