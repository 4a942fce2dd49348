"""The true loss of a plan: that of the cut network on the selection split."""

from __future__ import annotations

import torch
from torch import nn

from prunus.analysis import BATCH, Analysis
from prunus.data.batches import answer, device_of
from prunus.data.calibration import evaluating, pairs
from prunus.plans import Plan
from prunus.training import reestimate_statistics_

_STATISTICS_BATCH = 64


def selection_loss(analysis: Analysis, plan: Plan | None) -> float:
    """Return the mean loss of the cut network on the selection split, norm statistics re-estimated; None is dense."""
    if plan is None:
        return loss_of(analysis, analysis.user_model)
    small = analysis.cut(plan)
    reestimate_statistics_(small, analysis.calibration.batches(_STATISTICS_BATCH))
    return loss_of(analysis, small)


def loss_of(analysis: Analysis, model: nn.Module) -> float:
    """Return the mean loss of a network on the selection split, in eval mode; all modes are restored."""
    total = count = 0.0
    with evaluating(model), torch.no_grad():
        for inputs, targets in pairs(analysis.selection.batches(BATCH), device_of(model)):
            total += float(analysis.loss(answer(model, inputs), targets)) * len(targets)
            count += len(targets)
    return total / count
