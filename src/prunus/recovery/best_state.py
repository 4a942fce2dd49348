"""Keep the best state of a model, by what it does on held-out data."""

from __future__ import annotations

import copy
import math
from itertools import chain

import torch
from torch import Tensor, nn

from prunus.recovery.task import RecoveryTask


class Best:
    """The state with the lowest held-out loss so far; restoring it can therefore never be worse than the beginning.

    Attributes:
        value: the held-out loss of that state.
    """

    def __init__(self, task: RecoveryTask) -> None:
        self._task = task
        self.value = task.measure()
        self._state = _state(task.model)

    def fork(self) -> Best:
        """Return a second keeper that begins with the same best state and goes its own way."""
        return copy.copy(self)

    def offer(self) -> float:
        """Measure the model as it is now, keep it if it is the best so far, and return its loss."""
        value = self._task.measure()
        if value < self.value or (math.isfinite(value) and not math.isfinite(self.value)):
            self.value, self._state = value, _state(self._task.model)
        return value

    def restore_(self) -> None:
        """Give the model its best state back."""
        with torch.no_grad():
            for name, tensor in _tensors(self._task.model).items():
                tensor.copy_(self._state[name])


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))
