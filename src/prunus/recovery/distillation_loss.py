"""Distillation loss: the KL divergence, or distance, of the small network's outputs to the dense network's."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from prunus.measurement.quality import CLASSES_LAST
from prunus.recovery.options import RecoveryOptions
from prunus.training import Loss
from prunus.training.losses import name_of

Kind: TypeAlias = Literal["classes", "labels", "numbers"]


def soft_loss(options: RecoveryOptions, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distance of the student's outputs to the teacher's, of the kind that fits the loss of the labels.

    Class scores: T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)), averaged over samples and positions; scores of
    several labels (a binary loss on logits): T²·KL(σ(z_t/T) ‖ σ(z_s/T)), averaged over labels too; numbers and
    probabilities (loss ``mse``, or one output for each sample, whose softmax is always 1): mean (z_s − z_t)².
    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

    Shapes: student and teacher (B, C, …), or (…, C) for losses whose classes are the last axis.
    """
    temperature, kind = options.temperature, kind_of(options.loss)
    if kind == "labels":
        return divergence_of_labels(student, teacher, temperature)
    axis = -1 if options.loss in CLASSES_LAST or student.ndim < 3 else 1
    if kind == "numbers" or student.ndim < 2 or student.shape[axis] == 1:
        return functional.mse_loss(student, teacher)
    return divergence(student.movedim(axis, -1), teacher.movedim(axis, -1), temperature)


def kind_of(loss: Loss) -> Kind:
    """Return the kind of outputs that a loss reads, by its name.

    Example:
        >>> [kind_of(loss) for loss in ("cross_entropy", functional.smooth_l1_loss)]
        ['classes', 'numbers']
    """
    # SmoothL1Loss and smooth_l1_loss are one name; the l1 in "label1" is no match.
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name_of(loss)).lower()
    if re.search(r"(bce|binary).*logits|multi_?label", name):
        return "labels"
    return "numbers" if re.search(r"mse|mae|huber|(^|_)l[12](_|$)|poisson|gaussian|bce|binary", name) else "classes"


def divergence_of_labels(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(σ(teacher/T) ‖ σ(student/T)), the mean over all entries.

    Its gradient is zero where the two are equal. Shapes: any, equal.
    """
    target = torch.sigmoid(teacher / temperature)
    loss = functional.binary_cross_entropy_with_logits
    return (loss(student / temperature, target) - loss(teacher / temperature, target)) * temperature**2


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over all but the last axis.

    Its gradient is zero where the two are equal. Shapes: (…, C) and (…, C).
    """
    student, teacher = student.flatten(0, -2) / temperature, teacher.flatten(0, -2) / temperature
    inner = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
    return inner * temperature**2
