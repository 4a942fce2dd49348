"""Captured programs of a model for batches of any shape, with tensors that can take gradients."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.graph.capture import split_inputs, unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import argument_names, flat_inputs
from prunus.graph.ir import Graph
from prunus.graph.program_by_shape import ProgramsByShape, axis_sizes


class Programs:
    """A model's program for each shape of a batch, with its named tensors as fresh leaves.

    Args:
        model: the network that was captured.
        coupling: the coupling of its graph.
    """

    def __init__(self, model: nn.Module, coupling: Coupling) -> None:
        self.model = unwrap(model)
        self.first = coupling
        self._names = names_of(self.model, coupling.graph)
        # Fresh leaves: gradients reach frozen networks, too, and no .grad is written.
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.tensors = {name: _leaf(tensor) for name, tensor in parameters.items()}
        self.tensors |= dict(self.model.named_buffers(remove_duplicate=False))
        self.device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        self._programs = ProgramsByShape(self.model, coupling, {"axes": axis_sizes}, made=lambda local: local)

    def of(self, inputs: Any) -> tuple[Coupling, list[Tensor]]:
        """Return the coupling for a batch, and its tensors in the order of the graph's inputs.

        Only the model's arguments of a mapping are used, in any order.

        Raises:
            DataError: the batch does not go through the model, or runs another program than the captured one.
        """
        inputs = named(inputs, self._names)
        local = self._programs.of(inputs)
        return local, flat_inputs(local.graph, *split_inputs(inputs))


def names_of(model: nn.Module, graph: Graph) -> tuple[str, ...]:
    """Return the names of a model's arguments in the order of the program: as captured, else as in its forward."""
    if names := argument_names(graph):
        return names
    try:
        return tuple(inspect.signature(unwrap(model).forward).parameters)
    except (TypeError, ValueError):  # compiled, without a signature
        return ()


def named(inputs: Any, names: Sequence[str]) -> Any:
    """Return the named arguments of a mapping, in this order; any other value unchanged."""
    if not isinstance(inputs, Mapping):
        return inputs
    return {name: inputs[name] for name in names if name in inputs} or dict(inputs)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())
