"""Fine-tuning: a model is trained in place for a number of steps, with masked weights exactly zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from prunus.data.batches import DataSource
from prunus.foundation import clock
from prunus.foundation.as_found import seeded
from prunus.foundation.clock import TimeLimit
from prunus.training.loop import StepHooks, TrainingLoop, TrainingReport, in_train_mode, optimizer_of
from prunus.training.mask_holder import MaskHolder
from prunus.training.objective import Labels, Objective
from prunus.training.options import TrainingOptions
from prunus.training.order import Order

Watch = Callable[[int, int], object]
"""Called with (steps done, steps) after each step; the training ends where it returns True."""


def finetune_(
    model: nn.Module,
    data: DataSource,
    options: TrainingOptions,
    *,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    objective: Objective | None = None,
    progress: Watch | None = None,
    limit: TimeLimit | None = None,
) -> TrainingReport:
    """Train ``model`` in place: its weights and norm statistics change, its train/eval modes are restored.

    The same model, data, options, seed, device and thread count give bit-identical weights: seed decides the order of
    the batches and every random draw in the model; the caller's random state is left as it was.
    Parameters with requires_grad=False stay untouched; gradients are None afterwards.

    Args:
        model: Changed in place.
        data: Read as often as the steps need, in a new order in each epoch.
        options: Steps, rate, optimizer, loss and schedule.
        masks: Parameter name → boolean mask, True = keep; masked weights are exactly zero in every forward pass and
            at the end, whatever momentum and weight decay do.
        seed: Of batch order and of randomness in the model.
        objective: Minimised in place of ``options.loss``: distillation, say.
        progress: Called with (steps done, steps) after each step; the training ends early where it returns True.
        limit: The time of the training, in place of ``options.steps``.

    Raises:
        OptionError: a mask that does not fit, or nothing to train.
        SelectorError: a mask for a name that is no parameter.
        DataError: no batches, or targets that do not fit the loss.
        OutcomeError: the loss is NaN or infinite; the model then holds the weights of the last step before it.

    Warns:
        MemoryFormatWarning: a layer works in the default memory format, because its own would corrupt memory.

    Example:
        >>> import torch
        >>> from prunus.data.splits import Split
        >>> data = Split(torch.eye(4), torch.arange(4), "train")
        >>> finetune_(nn.Linear(4, 4), data, TrainingOptions(steps=3, lr=0.1)).steps
        3
    """
    start, holder, losses = clock.seconds(), MaskHolder.of(model, masks or {}), list[float]()
    with seeded(seed), in_train_mode(model):
        holder.zero_weights_()
        if options.steps or limit is not None:
            objective = objective or Labels(options.loss)
            hooks = StepHooks(before_update=lambda loss: holder.zero_gradients_(), after_update=holder.zero_weights_)
            optimizer = optimizer_of(model, objective, options)
            loop = TrainingLoop(model, options, optimizer, objective, hooks, losses, limit)
            for done in loop.steps(iter(Order(data, options.batch_size, seed))):
                if progress is not None and progress(done, options.steps) is True:
                    break
    return TrainingReport.of(losses, clock.seconds() - start)
