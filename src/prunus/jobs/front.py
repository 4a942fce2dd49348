"""What a plan does to the true loss, before any recovery."""

from __future__ import annotations

import torch

from prunus.measurement.batches import call
from prunus.methods.subject import BATCH, Subject
from prunus.plans import Plan
from prunus.surgery.cut import operate
from prunus.training import reestimate_statistics_


def selection_loss(subject: Subject, plan: Plan | None) -> float:
    """Return the mean loss of the cut network on the selection split, norm statistics re-estimated; None is dense."""
    model = subject.model
    if plan is not None:
        model, _ = operate(subject.model, subject.coupling, plan, subject.example_inputs)
        reestimate_statistics_(model, subject.calibration.batches(BATCH))
    was_training = model.training
    model.eval()
    total = count = 0.0
    try:
        with torch.no_grad():
            for inputs, targets in subject.selection.batches(BATCH):
                total += float(subject.loss(call(model, inputs), targets)) * len(targets)
                count += len(targets)
    finally:
        model.train(was_training)
    return total / count
