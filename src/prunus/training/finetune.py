"""Train a model in place for a number of steps, masked weights staying exactly zero."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.errors import DataError, OptionError, OutcomeError
from prunus.measurement.batches import Batch, DataSource, Inputs, call, device_of, logits_of, move
from prunus.training.keeping import MaskKeeper
from prunus.training.options import LOSSES, OPTIMIZERS, SCHEDULES, TrainingOptions

KEPT_LOSSES = 100


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training run did; ``losses`` are about 100 of the step losses, evenly spaced, the last one included."""

    steps: int
    losses: tuple[float, ...]
    seconds: float


def finetune_(
    model: nn.Module,
    data: DataSource,
    *,
    steps: int,
    lr: float,
    batch_size: int = 64,
    optimizer: str = "adamw",
    weight_decay: float = 5e-4,
    loss: str = "cross_entropy",
    schedule: str = "cosine",
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingReport:
    """Train ``model`` in place: its weights and norm statistics change, its train/eval modes are put back.

    The same model, data, options, seed, device and thread count give bit-identical weights: seed decides the order of
    the batches and every random draw in the model; the caller's random state is left as it was.
    Parameters with requires_grad=False stay untouched; gradients are None afterwards.

    Args:
        model: Changed in place.
        data: Walked through as often as the steps need, in a new order each time.
        steps: Optimizer steps; 0 only applies the masks.
        lr: Highest learning rate.
        batch_size: Samples a step.
        optimizer: A name of OPTIMIZERS: sgd (Nesterov momentum 0.9), adam, adamw, adadelta.
        weight_decay: As the optimizer defines it; decoupled for adamw.
        loss: A name of LOSSES: cross_entropy, mse.
        schedule: A name of SCHEDULES: cosine, one_cycle, linear, constant.
        masks: Parameter name → boolean mask, True = keep; what is masked is exactly zero in every forward pass and at
            the end, whatever momentum and weight decay do.
        seed: Of batch order and of randomness in the model.
        progress: Called with (steps done, steps) after each step.

    Raises:
        OptionError: an option outside its range, an unknown name, a mask that does not fit, or nothing to train.
        SelectorError: a mask for a name that is no parameter.
        DataError: no batches, or targets that do not fit the loss.
        OutcomeError: the loss is NaN or infinite; the model then holds the weights of the last step before it.

    Example:
        >>> from prunus.workloads.splits import Split
        >>> data = Split(torch.eye(4), torch.arange(4), "train")
        >>> finetune_(nn.Linear(4, 4), data, steps=3, lr=0.1).steps
        3
    """
    options = TrainingOptions(steps, lr, batch_size, optimizer, weight_decay, loss, schedule)
    keeper = MaskKeeper(model, masks or {})
    start = time.perf_counter()
    modes = [(module, module.training) for module in model.modules()]
    cuda = [device_of(model)] if device_of(model).type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.enable_grad():
        torch.manual_seed(seed)
        keeper.zero_weights_()
        try:
            model.train()
            losses = _train(model, data, options, keeper, seed, progress) if steps else []
        finally:
            model.zero_grad(set_to_none=True)
            for module, mode in modes:
                module.training = mode
    stride = max(1, math.ceil(len(losses) / KEPT_LOSSES))
    return TrainingReport(steps, tuple(losses[::-stride][::-1]), time.perf_counter() - start)


def _train(
    model: nn.Module,
    data: DataSource,
    options: TrainingOptions,
    keeper: MaskKeeper,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[float]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise OptionError("the model has no parameter with requires_grad=True; nothing to train. Unfreeze some.")
    optimizer = OPTIMIZERS.get(options.optimizer)(trained, options.lr, options.weight_decay)
    factor = SCHEDULES.get(options.schedule)
    device, losses = device_of(model), []
    model.zero_grad(set_to_none=True)
    for step, (inputs, targets) in zip(range(options.steps), _endless(data, options.batch_size, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * factor(step / options.steps)
        loss = _loss(model, options.loss, inputs, targets, device)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise OutcomeError(
                f"the loss is {losses[-1]} at step {step + 1} of {options.steps}; it must stay finite. "
                f"Lower lr (now {options.lr:g}) or check the weights and inputs for NaN."
            )
        torch.autograd.backward(loss)
        keeper.zero_gradients_()
        optimizer.step()
        keeper.zero_weights_()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1, options.steps)
    return losses


def _loss(model: nn.Module, name: str, inputs: Inputs, targets: Tensor, device: torch.device) -> Tensor:
    output = logits_of(call(model, move(inputs, device)))
    try:
        return LOSSES.get(name)(output, targets.to(device))
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"loss {name!r} refuses output {tuple(output.shape)} with targets {targets.dtype} {tuple(targets.shape)}: "
            f"{str(error).splitlines()[0]}. Check the labels, or choose another loss."
        ) from error


def _endless(data: DataSource, batch_size: int, seed: int) -> Iterator[Batch]:
    walk = 0
    while True:
        empty = True
        for batch in data.batches(batch_size, _shuffle_seed(seed, walk)):
            if empty or len(batch[1]) > 1:  # a last batch of one sample has no variance for a batch norm
                empty = False
                yield batch
        if empty:
            raise DataError("the training data yield no batch; at least 1 sample is needed. Check the train split.")
        walk += 1


def _shuffle_seed(seed: int, walk: int) -> int:
    return (seed * 1_000_003 + walk) % 2**63
