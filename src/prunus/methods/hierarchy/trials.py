"""Trials of the hierarchical procedure: the loss with parts at zero, and the loss after a short training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from prunus.analysis import BATCH, Analysis
from prunus.data.batches import answer, device_of
from prunus.data.calibration import evaluating, pairs
from prunus.graph.recorder import named_tensors
from prunus.methods.layer_wise import masked_loss
from prunus.methods.true_loss import loss_of
from prunus.plans import Plan
from prunus.surgery.copy_module import deep_copy
from prunus.surgery.tensors import sliced_masks
from prunus.training import TrainingOptions, finetune_, reestimate_statistics_

STEPS = 12
_MOST_BATCHES = 4


class Trials:
    """The rise of the loss on the selection split with some units or weights at zero."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.batches = list(islice(analysis.selection.batches(BATCH), _MOST_BATCHES))
        self.base = masked_loss(analysis, {}, self.batches)

    def units(self, keep: Mapping[str, np.ndarray]) -> float:
        """Return the rise with units at zero: axis id → units that stay."""
        return masked_loss(self.analysis, keep, self.batches) - self.base

    def weights(self, masks: Mapping[str, np.ndarray]) -> float:
        """Return the rise with weights at zero: weight name → weights that stay."""
        named = named_tensors(self.analysis.model)
        changed = {
            name: named[name].detach() * torch.from_numpy(mask).to(named[name].device, named[name].dtype)
            for name, mask in masks.items()
        }
        model, total, count = self.analysis.model, 0.0, 0

        def run(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, changed, args, kwargs)

        with evaluating(model), torch.no_grad():
            for inputs, targets in pairs(self.batches, device_of(model)):
                total += float(self.analysis.loss(answer(run, inputs), targets)) * len(targets)
                count += len(targets)
        return total / count - self.base


def trained_loss(analysis: Analysis, plan: Plan) -> float:
    """Return the loss on the selection split of the cut network after a short recovery.

    Norm statistics are re-estimated, and a few steps on calibration data make candidates comparable.
    """
    small = deep_copy(analysis.cut(plan))
    reestimate_statistics_(small, analysis.calibration.batches(64))
    options = TrainingOptions(STEPS, lr=1e-3, loss=analysis.loss)
    finetune_(small, analysis.calibration, options, masks=sliced_masks(plan) or None, seed=analysis.seed)
    return loss_of(analysis, small)
