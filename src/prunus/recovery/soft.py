"""The distance of a small network's answers to the dense network's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from prunus.recovery.options import RecoveryOptions
from prunus.training import Loss

CLASSES_LAST = ("sparse_cross_entropy", "next_token")


def soft_loss(options: RecoveryOptions, student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the student's answers are from the teacher's, as the loss of the labels suggests.

    Class scores: T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)), averaged over samples and positions; numbers (loss ``mse``,
    or one answer a sample, whose softmax is always 1): mean (z_s − z_t)².
    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

    Shapes: student and teacher (B, C, …), or (…, C) for losses whose classes are the last axis.
    """
    axis = -1 if options.training.loss in CLASSES_LAST or student.ndim < 3 else 1
    if not of_classes(options.training.loss) or student.ndim < 2 or student.shape[axis] == 1:
        return functional.mse_loss(student, teacher)
    return divergence(student.movedim(axis, -1), teacher.movedim(axis, -1), options.distilling.temperature)


def of_classes(loss: Loss) -> bool:
    """Whether a loss reads outputs as scores of classes; only ``mse`` and its like among torch's own do not."""
    name = loss if isinstance(loss, str) else str(getattr(loss, "__name__", type(loss).__name__))
    return not any(word in name.lower() for word in ("mse", "l1", "huber"))


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over all but the last axis.

    Its gradient is zero where the two are equal. Shapes: (…, C) and (…, C).
    """
    student, teacher = student.flatten(0, -2) / temperature, teacher.flatten(0, -2) / temperature
    inner = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
    return inner * temperature**2
