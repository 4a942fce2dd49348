"""A model, data and options in; the trained model with its masks at zero, and a report, out."""

from prunus.training.finetune import Watch, finetune_
from prunus.training.loop import TrainingReport
from prunus.training.losses import LOSSES, Loss, loss_function
from prunus.training.norms import reestimate_statistics_
from prunus.training.objective import Labels, Objective
from prunus.training.options import OPTIMIZERS, SCHEDULES, TrainingOptions
from prunus.training.reset import reset_weights_

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Labels",
    "Loss",
    "Objective",
    "TrainingOptions",
    "TrainingReport",
    "Watch",
    "finetune_",
    "loss_function",
    "reestimate_statistics_",
    "reset_weights_",
]
