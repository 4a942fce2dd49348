"""A teacher in a running training: a trained network whose outputs the pruned network learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.data.batches import Inputs, call, logits_of
from prunus.errors import ModelError, OptionError
from prunus.foundation.as_found import in_eval_mode
from prunus.graph.capture import unwrap
from prunus.graph.weights_digest import weights_digest
from prunus.recovery.distillation_loss import soft_loss
from prunus.recovery.options import RecoveryOptions
from prunus.training.losses import Loss, loss_function, name_of


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A trained network and the weight of its outputs in the loss.

    L = (1 − soft)·L_labels + soft·T²·KL(teacher ‖ student)
    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

    Attributes:
        model: the network; it runs in eval mode without gradients, and is not changed.
        options: temperature, weight and loss, checked as those of a recovery.
    """

    model: nn.Module
    options: RecoveryOptions
    _digest: list[str] = field(default_factory=list)

    def loss(self, output: Any, targets: Tensor | None, inputs: Inputs) -> Tensor:
        """Return the loss of a batch; without targets the teacher alone counts.

        Raises:
            ModelError: the teacher cannot take the inputs, or answers in another shape.
        """
        student = logits_of(output)
        distance = soft_loss(self.options, student, self._answer(student, inputs))
        if targets is None or self.options.soft == 1:
            return distance
        return (1 - self.options.soft) * loss_function(self.options.loss)(output, targets) + (
            self.options.soft * distance
        )

    def check(self, model: nn.Module, inputs: Inputs) -> None:
        """Refuse a teacher that does not fit a network, by one call of both in eval mode.

        Raises:
            ModelError: the teacher cannot take the inputs, or answers in another shape.
        """
        with torch.no_grad(), in_eval_mode(model):
            self._answer(logits_of(call(model, inputs)), inputs)

    def _answer(self, student: Tensor, inputs: Inputs) -> Tensor:
        try:
            with torch.no_grad(), in_eval_mode(self.model):
                teacher = logits_of(call(self.model, inputs))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ModelError(
                f"the teacher cannot take the inputs of the network: {str(error).splitlines()[0][:160]}. Give a "
                "teacher of the same inputs on the same device."
            ) from error
        if student.shape != teacher.shape:
            raise ModelError(
                f"the teacher answers {tuple(teacher.shape)} where the network answers {tuple(student.shape)}; a "
                "teacher must have the same outputs. Give one trained for the same classes."
            )
        return teacher

    @property
    def digest(self) -> str:
        """A digest of its weights."""
        if not self._digest:
            self._digest.append(weights_digest(self.model))
        return self._digest[0]

    def describe(self) -> dict[str, Any]:
        """Return the entries by which a checkpoint recognises it; the weights themselves are not stored."""
        return {
            "weights": self.digest,
            "temperature": self.options.temperature,
            "soft": self.options.soft,
            "loss": name_of(self.options.loss),
        }


class Taught:
    """The objective of a training with a teacher."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        return self._teacher.loss(call(model, inputs), targets, inputs)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return nothing: only the model is trained."""
        return ()


def teacher_of(
    given: nn.Module | Teacher | None, model: nn.Module, *, temperature: float, soft: float, loss: Loss
) -> Teacher | None:
    """Return the teacher of a network; None without one.

    Raises:
        OptionError: a temperature or a weight that is not allowed.
        ModelError: it shares parameters with the network, or lies on another device.
    """
    if given is None or isinstance(given, Teacher):
        return given
    options = RecoveryOptions(steps=1, lr=1e-3, temperature=temperature, soft=soft, loss=loss, method="distil")
    teacher = unwrap(given)
    theirs = {id(parameter) for parameter in teacher.parameters()}
    shared = next((name for name, parameter in model.named_parameters() if id(parameter) in theirs), None)
    if shared is not None:
        raise ModelError(
            f"the network shares {shared!r} with its teacher, which would change while it teaches; give "
            "copy.deepcopy of the network before it is pruned."
        )
    here, there = (next(module.parameters(), None) for module in (model, teacher))
    if here is not None and there is not None and here.device != there.device:
        raise ModelError(f"the network lies on {here.device}, its teacher on {there.device}; move one to the other.")
    return Teacher(teacher, options)


def check_same_teacher(stored: Mapping[str, Any] | None, teacher: Teacher | None) -> None:
    """Refuse to go on with another teacher than a stored training had.

    Raises:
        OptionError: names what differs.
    """
    own = teacher.describe() if teacher is not None else None
    if stored is None or own is None:
        if stored is not own:
            had, has = ("no teacher", "one") if stored is None else ("a teacher", "none")
            raise OptionError(f"the stored pruning has {had}, this one has {has}; give Pruner(teacher=…) as before.")
        return
    for name, value in own.items():
        if stored.get(name) != value:
            raise OptionError(
                f"the stored pruning has a teacher of {name} {stored.get(name)!r}, this one of {value!r}; give the "
                "same teacher, or begin anew."
            )
