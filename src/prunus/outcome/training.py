"""The three forms of recovery: none, plain fine-tuning, or a recovery method that held-out data judge."""

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
"""The allowed forms of ``recover``: options of `prunus.recover_`, or of plain fine-tuning."""


def recovery_of(recover: Recover, *, has_data: bool) -> RecoveryOptions | TrainingOptions | None:
    """Return the checked options of a recovery; None for no recovery.

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
    """Train a model by options, with progress; zero steps leave it as it is."""
    if not options.steps:
        return
    progress.start(task, options.steps)
    finetune_(model, data, options, seed=seed, masks=masks, progress=lambda done, steps: progress.advance(task))
    progress.finish(task)
