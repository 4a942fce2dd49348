"""Training that keeps masks: fine-tuning after a prune, and norm statistics without training."""

from prunus.training.finetune import TrainingReport, finetune_
from prunus.training.norms import reestimate_statistics_
from prunus.training.options import LOSSES, OPTIMIZERS, SCHEDULES, TrainingOptions
from prunus.training.reset import reset_weights_

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "TrainingOptions",
    "TrainingReport",
    "finetune_",
    "reestimate_statistics_",
    "reset_weights_",
]
