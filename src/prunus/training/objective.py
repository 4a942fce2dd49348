"""The objective of a training: (model, inputs, targets) → loss, with parameters of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from prunus.data.batches import Inputs, call
from prunus.training.losses import Loss, loss_function


class Objective(Protocol):
    """A loss that may depend on more than outputs and targets: on a teacher, or on values inside the model."""

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Return the loss of one batch, already on the model's device."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters trained with the model, such as projections."""
        ...


class Labels:
    """The plain objective: a loss of the model's output and the targets."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss_function(loss)

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Return the loss of the model's output."""
        return self._loss(call(model, inputs), targets)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return nothing: only the model is trained."""
        return ()
