"""The captured program for batches of any shape: literals such as view sizes belong to one batch shape."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.errors import CaptureError, DataError
from prunus.graph.capture import capture, split_inputs, unwrap
from prunus.graph.coupling import Coupling, couple_again
from prunus.graph.ir import Graph
from prunus.graph.run import argument_names, flat_inputs

Shapes = tuple[tuple[int, ...], ...]


class Programs:
    """A model's program for each shape of a batch, with its named tensors as fresh leaves.

    Args:
        model: the network that was captured.
        coupling: of its graph.
    """

    def __init__(self, model: nn.Module, coupling: Coupling) -> None:
        self.model = unwrap(model)
        self.first = coupling
        self._names = names_of(self.model, coupling.graph)
        # Fresh leaves: gradients reach frozen networks too, and no .grad is written.
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.tensors = {name: _leaf(tensor) for name, tensor in parameters.items()}
        self.tensors |= dict(self.model.named_buffers(remove_duplicate=False))
        self.device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        graph = coupling.graph
        self._known: dict[Shapes, Coupling] = {tuple(graph.node(name).shape for name in graph.inputs): coupling}

    def of(self, inputs: Any) -> tuple[Coupling, list[Tensor]]:
        """Return the coupling for a batch, and its tensors in the order of the graph's inputs.

        Of a mapping, the model's arguments count alone, in any order.

        Raises:
            DataError: the batch does not go through the model, or runs through another program than the captured one.
        """
        inputs = named(inputs, self._names)
        split = split_inputs(inputs)
        leaves = [leaf for leaf in pytree.tree_leaves(split) if isinstance(leaf, Tensor)]
        check_dtypes(self.first.graph, leaves)
        shapes = tuple(tuple(leaf.shape) for leaf in leaves)
        if shapes not in self._known:
            local = couple_again(recaptured(self.model, inputs, shapes), self.first)
            if {n: a.size for n, a in local.axes.items()} != {n: a.size for n, a in self.first.axes.items()}:
                raise DataError(
                    f"a calibration batch of shapes {list(shapes)} runs through another program than the captured one; "
                    f"allowed is what gives the same axes. Capture with an example of the shapes of a batch."
                )
            self._known[shapes] = local
        found = self._known[shapes]
        return found, flat_inputs(found.graph, *split)


def names_of(model: nn.Module, graph: Graph) -> tuple[str, ...]:
    """Return the names of a model's arguments in the order of its program: as captured, else as in its forward."""
    if names := argument_names(graph):
        return names
    try:
        return tuple(inspect.signature(unwrap(model).forward).parameters)
    except (TypeError, ValueError):  # compiled, without a signature
        return ()


def named(inputs: Any, names: Sequence[str]) -> Any:
    """Return a mapping with the named arguments alone, in this order; anything else as it is."""
    if not isinstance(inputs, Mapping):
        return inputs
    return {name: inputs[name] for name in names if name in inputs} or dict(inputs)


def check_dtypes(graph: Graph, leaves: Sequence[Tensor]) -> None:
    """Refuse input tensors that are floats where the captured ones are not, of another width, or the other way round.

    Raises:
        DataError: such a tensor.
    """
    for name, leaf in zip(graph.inputs, leaves, strict=False):
        meta = graph.node(name).outputs[0]
        wanted = leaf.dtype if meta is None else meta.dtype
        if leaf.dtype != wanted and (leaf.is_floating_point() or wanted.is_floating_point):
            raise DataError(
                f"calibration input {name!r} has dtype {leaf.dtype}; allowed: {wanted}, that of the example "
                "inputs. Convert the batches."
            )


def recaptured(model: nn.Module, inputs: Any, shapes: Shapes) -> Graph:
    """Capture a model once more, on a calibration batch.

    Raises:
        DataError: the batch does not go through the model.
    """
    try:
        return capture(model, inputs)
    except CaptureError as error:
        raise DataError(
            f"a calibration batch of shapes {list(shapes)} does not go through the model: {error} Wrap several "
            "arguments as ((a, b), targets)."
        ) from error


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())
