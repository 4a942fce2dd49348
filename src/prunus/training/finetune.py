"""Train a model in place for a number of steps, masked weights staying exactly zero."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.errors import OptionError, OutcomeError
from prunus.measurement.batches import Batch, DataSource, device_of, move
from prunus.memory_format import sound_gradients
from prunus.training.keeping import MaskKeeper
from prunus.training.objective import Labels, Objective
from prunus.training.options import OPTIMIZERS, SCHEDULES, TrainingOptions
from prunus.training.order import Order

KEPT_LOSSES = 100


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training run did; ``losses`` are about 100 of the step losses, evenly spaced, the last one included."""

    steps: int
    losses: tuple[float, ...]
    seconds: float


Watch = Callable[[int, int], object]
"""Told (steps done, steps) after each step; answering True ends the training there."""


def finetune_(
    model: nn.Module,
    data: DataSource,
    options: TrainingOptions,
    *,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    objective: Objective | None = None,
    progress: Watch | None = None,
) -> TrainingReport:
    """Train ``model`` in place: its weights and norm statistics change, its train/eval modes are put back.

    The same model, data, options, seed, device and thread count give bit-identical weights: seed decides the order of
    the batches and every random draw in the model; the caller's random state is left as it was.
    Parameters with requires_grad=False stay untouched; gradients are None afterwards.

    Args:
        model: Changed in place.
        data: Walked through as often as the steps need, in a new order each time.
        options: Steps, rate, optimizer, loss and schedule.
        masks: Parameter name → boolean mask, True = keep; what is masked is exactly zero in every forward pass and at
            the end, whatever momentum and weight decay do.
        seed: Of batch order and of randomness in the model.
        objective: What is minimised in place of ``options.loss``: distillation, say.
        progress: Called with (steps done, steps) after each step; the training ends early where it answers True.

    Raises:
        OptionError: a mask that does not fit, or nothing to train.
        SelectorError: a mask for a name that is no parameter.
        DataError: no batches, or targets that do not fit the loss.
        OutcomeError: the loss is NaN or infinite; the model then holds the weights of the last step before it.

    Warns:
        MemoryFormatWarning: a layer works in the default memory format, because its own would corrupt memory.

    Example:
        >>> from prunus.workloads.splits import Split
        >>> data = Split(torch.eye(4), torch.arange(4), "train")
        >>> finetune_(nn.Linear(4, 4), data, TrainingOptions(steps=3, lr=0.1)).steps
        3
    """
    keeper = MaskKeeper(model, masks or {})
    run = _Run(model, data, options, keeper, objective or Labels(options.loss))
    start = time.perf_counter()
    modes = [(module, module.training) for module in model.modules()]
    cuda = [device_of(model)] if device_of(model).type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.enable_grad():
        torch.manual_seed(seed)
        keeper.zero_weights_()
        try:
            model.train()
            with sound_gradients(model):
                losses = run.train(seed, progress) if options.steps else []
        finally:
            model.zero_grad(set_to_none=True)
            for module, mode in modes:
                module.training = mode
    stride = max(1, math.ceil(len(losses) / KEPT_LOSSES))
    return TrainingReport(len(losses), tuple(losses[::-stride][::-1]), time.perf_counter() - start)


@dataclass(frozen=True, slots=True)
class _Run:
    """One training: what is trained, on what, and how."""

    model: nn.Module
    data: DataSource
    options: TrainingOptions
    keeper: MaskKeeper
    objective: Objective

    def train(self, seed: int, progress: Watch | None) -> list[float]:
        """Take the steps and return the loss of each."""
        options, losses = self.options, list[float]()
        optimizer, factor = self._optimizer(), SCHEDULES.get(options.schedule)
        batches = Order(self.data, options.batch_size, seed)
        self.model.zero_grad(set_to_none=True)
        for step, batch in zip(range(options.steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * factor(step / options.steps)
            losses.append(self._step(optimizer, batch, step))
            if progress is not None and progress(step + 1, options.steps) is True:
                break
        return losses

    def _optimizer(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            raise OptionError("the model has no parameter with requires_grad=True; nothing to train. Unfreeze some.")
        trained += self.objective.parameters()
        return OPTIMIZERS.get(self.options.optimizer)(trained, self.options.lr, self.options.weight_decay)

    def _step(self, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> float:
        device = device_of(self.model)
        loss = self.objective(self.model, move(batch[0], device), batch[1].to(device))
        value = loss.item()
        if not math.isfinite(value):
            raise OutcomeError(
                f"the loss is {value} at step {step + 1} of {self.options.steps}; it must stay finite. "
                f"Lower lr (now {self.options.lr:g}) or check the weights and inputs for NaN."
            )
        torch.autograd.backward(loss)
        self.keeper.zero_gradients_()
        optimizer.step()
        self.keeper.zero_weights_()
        optimizer.zero_grad(set_to_none=True)
        return value
