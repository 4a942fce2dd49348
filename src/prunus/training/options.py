"""How to train: the options record and the registries of optimizers, losses and schedules behind its names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn, optim
from torch.nn import functional

from prunus.errors import OptionError
from prunus.measurement.batches import check_count
from prunus.registry import Registry

Optimizers: TypeAlias = Callable[[list[nn.Parameter], float, float], optim.Optimizer]
Losses: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Schedules: TypeAlias = Callable[[float], float]

WARMUP_FRACTION = 0.2

OPTIMIZERS: Registry[Optimizers] = Registry("optimizer")
LOSSES: Registry[Losses] = Registry("loss")
SCHEDULES: Registry[Schedules] = Registry("learning-rate schedule")


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a training run is made of, besides model, data and seed; a workload's defaults are two of these.

    ``schedule`` maps progress t ∈ [0, 1) to a factor on ``lr``. The names are those of OPTIMIZERS, LOSSES, SCHEDULES.

    Raises:
        OptionError: steps < 0, batch_size < 1, lr ≤ 0, weight_decay < 0, or an unknown name.
    """

    steps: int
    lr: float
    batch_size: int = 64
    optimizer: str = "adamw"
    weight_decay: float = 5e-4
    loss: str = "cross_entropy"
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        check_count("steps", self.steps, least=0)
        check_count("batch_size", self.batch_size)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise OptionError(f"lr is {self.lr!r}; allowed: a finite number above 0, such as 1e-3.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise OptionError(f"weight_decay is {self.weight_decay!r}; allowed: a finite number of at least 0.")
        OPTIMIZERS.get(self.optimizer)
        LOSSES.get(self.loss)
        SCHEDULES.get(self.schedule)

    def keywords(self) -> dict[str, Any]:
        """Return the options as keyword arguments of ``finetune_``."""
        return asdict(self)


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


LOSSES.register("cross_entropy")(functional.cross_entropy)


@LOSSES.register("mse")
def _mse(output: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(output, targets.to(output.dtype).reshape(output.shape))


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
