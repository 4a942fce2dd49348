"""The options of a training, and the registries of optimizers and schedules behind its names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator
from torch import nn, optim

from prunus.foundation.option_record import accepted_by, option_record
from prunus.foundation.registry import Registry
from prunus.training.losses import Loss, check_loss, name_of

Optimizers: TypeAlias = Callable[[list[nn.Parameter], float, float], optim.Optimizer]
Schedules: TypeAlias = Callable[[float], float]

WARMUP_FRACTION = 0.2

OPTIMIZERS: Registry[Optimizers] = Registry("optimizer")
SCHEDULES: Registry[Schedules] = Registry("learning-rate schedule")


Steps = Annotated[int, Field(strict=True, ge=0, description="a whole number of steps, 0 or more")]
Rate = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False, description="a number above 0")]
Decay = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False, description="a number, 0 or more")]
Count = Annotated[int, Field(strict=True, ge=1, description="a whole number, 1 or more")]


@option_record
class TrainingOptions:
    """The options of a training: the section ``train`` of a recipe, and the defaults of a workload.

    Attributes:
        steps: Optimizer steps; 0 only applies masks.
        lr: Highest learning rate.
        batch_size: Samples in a step.
        optimizer: A name of OPTIMIZERS: sgd (Nesterov momentum 0.9), adam, adamw, adadelta.
        weight_decay: As the optimizer defines it; decoupled for adamw.
        loss: A name of LOSSES (cross_entropy, sparse_cross_entropy, next_token, mse), or (output, targets) → loss.
        schedule: A name of SCHEDULES (cosine, one_cycle, linear, constant): progress t ∈ [0, 1) to a factor on ``lr``.

    Raises:
        OptionError: steps < 0, batch_size < 1, lr ≤ 0, weight_decay < 0, or an unknown name.
    """

    steps: Steps
    lr: Rate
    batch_size: Count = 64
    optimizer: Annotated[str, BeforeValidator(accepted_by(OPTIMIZERS.get))] = Field(
        default="adamw", description="the name of an optimizer, such as adamw or sgd"
    )
    weight_decay: Decay = 5e-4
    loss: Annotated[Loss, PlainValidator(accepted_by(check_loss))] = Field(
        default="cross_entropy", description="the name of a loss, such as cross_entropy or mse"
    )
    schedule: Annotated[str, BeforeValidator(accepted_by(SCHEDULES.get))] = Field(
        default="cosine", description="the name of a schedule, such as cosine or one_cycle"
    )

    def options(self) -> TrainingOptions:
        """Return the options of training alone, without those that a recovery adds."""
        return TrainingOptions(**{field.name: getattr(self, field.name) for field in fields(TrainingOptions)})

    def described(self) -> dict[str, Any]:
        """Return the options as plain values for a record; a callable loss is recorded by its name."""
        return {**asdict(self), "loss": name_of(self.loss)}


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
