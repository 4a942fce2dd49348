"""What recovery means at every door: nothing, plain fine-tuning, or a way to recover that held-out data judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from prunus.data.batches import DataSource
from prunus.errors import OptionError
from prunus.foundation.progress import Progress
from prunus.recovery import RecoveryOptions
from prunus.recovery.options import check_steps
from prunus.training import TrainingOptions, finetune_

Recover = Mapping[str, Any] | RecoveryOptions | TrainingOptions | None
"""How a cut network recovers: options of `prunus.recover_`, or plain fine-tuning."""


def recovery_of(recover: Recover, *, has_data: bool) -> RecoveryOptions | TrainingOptions | None:
    """Return the options behind what was asked for, checked; None for no recovery.

    Raises:
        OptionError: an option that is not allowed, or no data to train on.
    """
    options: RecoveryOptions | TrainingOptions | None
    if isinstance(recover, TrainingOptions) and not isinstance(recover, RecoveryOptions):
        options = recover if recover.steps else None
    else:
        options = None if recover is None else RecoveryOptions.of(recover)
    if isinstance(options, RecoveryOptions):
        check_steps(options)
    if options is not None and not has_data:
        way = options.method if isinstance(options, RecoveryOptions) else "finetune"
        raise OptionError(f"recover ({way}) needs data=train_loader; give some, or leave recover out.")
    return options


def train_(
    model: nn.Module,
    data: DataSource,
    options: TrainingOptions,
    seed: int,
    progress: Progress,
    task: str,
    masks: Mapping[str, Tensor] | None = None,
) -> None:
    """Train a model as options say, with a bar; no steps leave it as it is."""
    if not options.steps:
        return
    progress.start(task, options.steps)
    finetune_(model, data, options, seed=seed, masks=masks, progress=lambda done, steps: progress.advance(task))
    progress.finish(task)
