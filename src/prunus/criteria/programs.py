"""The captured program for batches of any shape: literals such as view sizes belong to one batch shape."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.errors import DataError
from prunus.graph.capture import capture, split_inputs, unwrap
from prunus.graph.coupling import Coupling, couple
from prunus.graph.run import flat_inputs

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
        # Fresh leaves: gradients reach frozen networks too, and no .grad is written.
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.tensors = {name: _leaf(tensor) for name, tensor in parameters.items()}
        self.tensors |= dict(self.model.named_buffers(remove_duplicate=False))
        self.device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        graph = coupling.graph
        self._known: dict[Shapes, Coupling] = {tuple(graph.node(name).shape for name in graph.inputs): coupling}

    def of(self, inputs: Any) -> tuple[Coupling, list[Tensor]]:
        """Return the coupling for a batch, and its tensors in the order of the graph's inputs.

        Raises:
            DataError: the batch runs through another program than the captured one.
        """
        split = split_inputs(inputs)
        shapes = tuple(tuple(leaf.shape) for leaf in pytree.tree_leaves(split) if isinstance(leaf, Tensor))
        if shapes not in self._known:
            protected = any(frozen.reason == "output" for frozen in self.first.frozen)
            local = couple(capture(self.model, inputs), protect_outputs=protected)
            if {n: a.size for n, a in local.axes.items()} != {n: a.size for n, a in self.first.axes.items()}:
                raise DataError(
                    f"a calibration batch of shapes {list(shapes)} runs through another program than the captured one; "
                    f"allowed is what gives the same axes. Capture with an example of the shapes of a batch."
                )
            self._known[shapes] = local
        found = self._known[shapes]
        return found, flat_inputs(found.graph, *split)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())
