"""How many samples a walk can hold in memory: every lane keeps the values that later nodes still read."""

from __future__ import annotations

from prunus.cost.memory import memory_model
from prunus.graph.coupling import Coupling

ROOM = 8 << 30
"""Bytes that the values of both programs may take."""


def samples_that_fit(coupling: Coupling) -> int:
    """Return the number of samples.

    The dense program's greatest memory for activations is counted twice, for the small one is no larger.
    """
    graph = coupling.graph
    batch = next((graph.node(n).shape[0] for n in graph.inputs if graph.node(n).shape), 1)
    model = memory_model(coupling)
    tensors = sum(_bytes(info.shape, info.dtype.itemsize) for info in graph.tensors.values())
    one = 2 * max(model.price() - tensors, 1) / max(batch, 1)
    return max(1, int(ROOM / one))


def _bytes(shape: tuple[int, ...], item: int) -> int:
    for size in shape:
        item *= size
    return item
