"""How to train: the options record and the registries of optimizers and schedules behind its names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from torch import nn, optim

from prunus.errors import OptionError
from prunus.measurement.batches import check_count
from prunus.registry import Registry
from prunus.training.losses import Loss, check_loss, name_of

Optimizers: TypeAlias = Callable[[list[nn.Parameter], float, float], optim.Optimizer]
Schedules: TypeAlias = Callable[[float], float]

WARMUP_FRACTION = 0.2

OPTIMIZERS: Registry[Optimizers] = Registry("optimizer")
SCHEDULES: Registry[Schedules] = Registry("learning-rate schedule")


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a training run is made of, besides model, data and seed; a workload's defaults are two of these.

    Attributes:
        steps: Optimizer steps; 0 only applies masks.
        lr: Highest learning rate.
        batch_size: Samples a step.
        optimizer: A name of OPTIMIZERS: sgd (Nesterov momentum 0.9), adam, adamw, adadelta.
        weight_decay: As the optimizer defines it; decoupled for adamw.
        loss: A name of LOSSES (cross_entropy, sparse_cross_entropy, next_token, mse), or (output, targets) → loss.
        schedule: A name of SCHEDULES (cosine, one_cycle, linear, constant): progress t ∈ [0, 1) to a factor on ``lr``.

    Raises:
        OptionError: steps < 0, batch_size < 1, lr ≤ 0, weight_decay < 0, or an unknown name.
    """

    steps: int
    lr: float
    batch_size: int = 64
    optimizer: str = "adamw"
    weight_decay: float = 5e-4
    loss: Loss = "cross_entropy"
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        check_count("steps", self.steps, least=0)
        check_count("batch_size", self.batch_size)
        if not (is_number(self.lr) and self.lr > 0):
            raise OptionError(f"lr is {self.lr!r}; allowed: a finite number above 0, such as 1e-3.")
        if not (is_number(self.weight_decay) and self.weight_decay >= 0):
            raise OptionError(f"weight_decay is {self.weight_decay!r}; allowed: a finite number of at least 0.")
        OPTIMIZERS.get(self.optimizer)
        check_loss(self.loss)
        SCHEDULES.get(self.schedule)

    def described(self) -> dict[str, Any]:
        """Return the options as plain values for a record; a loss that is a callable goes by its name."""
        return {**asdict(self), "loss": name_of(self.loss)}


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# The fused kernels take one call for all parameters; on a small net the plain loop costs as much as the forward pass.
@OPTIMIZERS.register("sgd")
def _sgd(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> optim.Optimizer:
    return optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)


@OPTIMIZERS.register("adam")
def _adam(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> optim.Optimizer:
    return optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)


@OPTIMIZERS.register("adamw")
def _adamw(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> optim.Optimizer:
    return optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=True)


@OPTIMIZERS.register("adadelta")
def _adadelta(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> optim.Optimizer:
    return optim.Adadelta(parameters, lr, weight_decay=weight_decay)


@SCHEDULES.register("constant")
def _constant(t: float) -> float:
    return 1.0


@SCHEDULES.register("linear")
def _linear(t: float) -> float:
    return 1.0 - t


@SCHEDULES.register("cosine")
def _cosine(t: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * t))


@SCHEDULES.register("one_cycle")
def _one_cycle(t: float) -> float:
    """Rise linearly over the first fifth, then fall as a cosine."""
    if t < WARMUP_FRACTION:
        return (0.1 * WARMUP_FRACTION + 0.9 * t) / WARMUP_FRACTION
    return _cosine((t - WARMUP_FRACTION) / (1.0 - WARMUP_FRACTION))
