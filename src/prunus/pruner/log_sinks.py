"""Logs for the numbers of a running pruning: TensorBoard, MLflow, or several at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from prunus.errors import UsageError

Log: TypeAlias = Callable[[str, float, int], None]


def to_tensorboard(folder: Path | str) -> Log:
    """Return a log that writes scalars for TensorBoard into a folder.

    Raises:
        UsageError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("TensorBoard scalars need the package tensorboard; pip install tensorboard.") from error
    writer = SummaryWriter(str(folder))

    def log(name: str, value: float, step: int) -> None:
        writer.add_scalar(name, value, step)
        writer.flush()

    return log


def to_mlflow() -> Log:
    """Return a log that adds metrics to the active MLflow run.

    Raises:
        UsageError: the package mlflow is not installed.
    """
    try:
        import mlflow
    except ImportError as error:
        raise UsageError("MLflow metrics need the package mlflow; pip install mlflow.") from error

    def log(name: str, value: float, step: int) -> None:
        mlflow.log_metric(name, value, step=step)

    return log


def to_all(*logs: Log) -> Log:
    """Return a log that passes every number on to each of several logs."""

    def log(name: str, value: float, step: int) -> None:
        for one in logs:
            one(name, value, step)

    return log
