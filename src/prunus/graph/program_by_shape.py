"""The program of a model for each shape of a batch: literals such as view sizes fit one batch shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.errors import CaptureError, DataError
from prunus.graph.capture import capture, split_inputs
from prunus.graph.coupling import Coupling, couple_again
from prunus.graph.ir import Graph

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
Program = TypeVar("Program")


class ProgramsByShape(Generic[Program]):
    """Captures and couples a model once for each shape of its inputs, and keeps what ``made`` returns for each.

    Args:
        model: the network that was captured.
        coupling: the coupling of its graph, for the shapes of the example inputs.
        same: properties in which every program must equal the captured one: name in messages → function that reads it.
        made: function from a coupling to the value that `of` returns.

    Example:
        >>> import torch
        >>> from prunus.graph.coupling import couple
        >>> model = nn.Flatten(0)
        >>> programs = ProgramsByShape(model, couple(capture(model, torch.ones(2, 3))), {"ops": ops_of}, made=ops_of)
        >>> programs.of(torch.ones(5, 3)) == programs.first
        True
    """

    def __init__(
        self,
        model: nn.Module,
        coupling: Coupling,
        same: Mapping[str, Callable[[Coupling], object]],
        made: Callable[[Coupling], Program],
    ) -> None:
        self._model, self._coupling, self._same, self._made = model, coupling, same, made
        self.first = made(coupling)
        graph = coupling.graph
        self._known: dict[Shapes, Program] = {tuple(graph.node(name).shape for name in graph.inputs): self.first}

    def of(self, inputs: Any) -> Program:
        """Return the value made from the program for inputs of these shapes.

        Raises:
            DataError: the batch has another dtype, does not go through the model, or runs another program.
        """
        leaves = [leaf for leaf in pytree.tree_leaves(split_inputs(inputs)) if isinstance(leaf, Tensor)]
        _check_dtypes(self._coupling.graph, leaves)
        shapes = tuple(tuple(leaf.shape) for leaf in leaves)
        if shapes not in self._known:
            self._known[shapes] = self._made(self._captured(inputs, shapes))
        return self._known[shapes]

    def _captured(self, inputs: Any, shapes: Shapes) -> Coupling:
        try:
            graph = capture(self._model, inputs)
        except CaptureError as error:
            raise DataError(
                f"a calibration batch of shapes {list(shapes)} does not go through the model: {error} Wrap several "
                "arguments as ((a, b), targets)."
            ) from error
        local = couple_again(graph, self._coupling)
        for what, read in self._same.items():
            if read(local) != read(self._coupling):
                raise DataError(
                    f"a calibration batch of shapes {list(shapes)} runs another program than the captured one; "
                    f"allowed: batches that run a program with the same {what}. Capture with an example of the batch's "
                    "shapes."
                )
        return local


def ops_of(coupling: Coupling) -> list[tuple[str, str]]:
    """Return the name and the op of every node."""
    return [(node.name, node.op) for node in coupling.graph.nodes]


def axis_sizes(coupling: Coupling) -> dict[str, int]:
    """Return the size of every axis by its id."""
    return {name: axis.size for name, axis in coupling.axes.items()}


def _check_dtypes(graph: Graph, leaves: Sequence[Tensor]) -> None:
    """Refuse input tensors of another dtype than the captured ones where one of the two is a float.

    Raises:
        DataError: such a tensor.
    """
    for name, leaf in zip(graph.inputs, leaves, strict=False):
        meta = graph.node(name).outputs[0]
        required = leaf.dtype if meta is None else meta.dtype
        if leaf.dtype != required and (leaf.is_floating_point() or required.is_floating_point):
            raise DataError(
                f"calibration input {name!r} has dtype {leaf.dtype}; allowed: {required}, that of the example "
                "inputs. Convert the batches."
            )
