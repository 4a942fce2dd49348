"""The task of a recovery: the small network, the dense network, and their data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from prunus.data.batches import Batch, DataSource, answer, call, device_of, logits_of, moved, tensors_in
from prunus.errors import DataError, ModelError, OptionError
from prunus.foundation.as_found import in_eval_mode
from prunus.graph.coupling import Coupling
from prunus.plans import Plan
from prunus.recovery.distillation_loss import soft_loss
from prunus.recovery.mixup import can_be_mixed
from prunus.recovery.options import RecoveryOptions, check_steps
from prunus.training import loss_function

LEAST_SAMPLES = 2
HELD_OUT_BATCH = 256
HELD_OUT_AT_MOST = 4096
"""Largest number of samples in one evaluation on held-out data; more would cost time and change little."""


@dataclass(frozen=True, slots=True, eq=False)
class RecoveryTask:
    """One recovery, checked once.

    Attributes:
        model: the small network, which is trained.
        dense: the network it was cut from; the teacher, never changed.
        train: the training data.
        held_out: the data that select the best state; nothing is learned from them.
        options: budget, method and learning options.
        masks: parameter name → mask, True = keep; masked weights of ``model`` stay zero.
        plan, coupling: the cut of ``model`` from ``dense``; without them methods that need them are passed over.
        example_inputs: one call of ``dense``.
        labelled: True if the data have labels; without them the teacher's outputs take their place.
    """

    model: nn.Module
    dense: nn.Module
    train: DataSource
    held_out: DataSource
    options: RecoveryOptions
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    plan: Plan | None = None
    coupling: Coupling | None = None
    example_inputs: Any = None
    seed: int = 0
    labelled: bool = True

    def measure(self) -> float:
        """Return the mean loss on held-out data in eval mode; without labels, the distance to the dense network."""
        total = count = 0.0
        loss: Callable[[Any, Tensor], Tensor] = loss_function(self.options.loss)
        with torch.no_grad(), in_eval_mode(self.model), in_eval_mode(self.dense):
            for inputs, targets in self._evaluated():
                outputs = call(self.model, inputs)
                if self.labelled:
                    value = loss(outputs, targets)
                else:
                    value = soft_loss(self.options, logits_of(outputs), logits_of(call(self.dense, inputs)))
                size = len(next(tensors_in(inputs)))
                total, count = total + float(value) * size, count + size
        if not count:
            raise DataError("the held-out data yield no batch; at least 1 sample is needed. Give more data.")
        return total / count

    def check(self) -> None:
        """Refuse a teacher with other outputs and labels that do not fit the loss, before anything is trained.

        Raises:
            ModelError: outputs of different shapes, or a teacher on another device or with shared parameters.
            DataError: no samples, or targets that do not fit the loss.
            OptionError: no steps, or inputs that cannot be mixed where ``mixed`` is above 0.
        """
        check_steps(self.options)
        if len(self.train) < LEAST_SAMPLES:
            raise DataError(
                f"a recovery got {len(self.train)} sample to learn from, what is held out aside; at least "
                f"{LEAST_SAMPLES} are needed. Give more data."
            )
        inputs, targets = first_batch(self.train, self.model)
        self._check_teacher(any(tensor.is_floating_point() for tensor in tensors_in(inputs)))
        if self.options.mixed and not can_be_mixed(inputs):
            raise OptionError(
                f"mixed is {self.options.mixed:g}, and the inputs hold whole numbers; nothing lies between two of "
                "them. Allowed: floating-point inputs; leave mixed out."
            )
        with torch.no_grad(), in_eval_mode(self.model), in_eval_mode(self.dense):
            small, dense = answer(self.model, inputs, "training batch"), call(self.dense, inputs)
        ours, theirs = logits_of(small).shape, logits_of(dense).shape
        if ours != theirs:
            raise ModelError(
                f"the small network answers {tuple(ours)} where the dense one answers {tuple(theirs)}; a teacher must "
                "have the same outputs. Give the network that the small one was cut from."
            )
        if self.labelled:
            loss_function(self.options.loss)(small, targets)

    def _check_teacher(self, of_floats: bool) -> None:
        theirs = {id(parameter) for parameter in self.dense.parameters()}
        shared = [name for name, p in self.model.named_parameters() if p.requires_grad and id(p) in theirs]
        if shared:
            raise ModelError(
                f"the small network shares {shared[0]!r} with the dense one, so the teacher would change while it "
                "teaches; give copy.deepcopy of the network before it was pruned."
            )
        here, there = (next(module.parameters(), None) for module in (self.model, self.dense))
        if here is None or there is None:
            return
        if here.device != there.device or (of_floats and here.dtype != there.dtype):
            raise ModelError(
                f"the small network is {here.dtype} on {here.device}, the dense one {there.dtype} on {there.device}; "
                "both get the same inputs. Move one to the other."
            )

    def _evaluated(self) -> Iterator[Batch]:
        device, seen = device_of(self.model), 0
        for inputs, targets in self.held_out.batches(HELD_OUT_BATCH):
            yield moved(inputs, device), targets.to(device)
            seen += len(targets)
            if seen >= HELD_OUT_AT_MOST:
                return


def first_batch(data: DataSource, model: nn.Module, size: int = 8) -> Batch:
    """Return the first batch of a source on the model's device.

    Raises:
        DataError: the source has none.
    """
    batch = next(islice(data.batches(size), 1), None)
    if batch is None:
        raise DataError("the training data yield no batch; at least 1 sample is needed. Check the train split.")
    device = device_of(model)
    return moved(batch[0], device), batch[1].to(device)
