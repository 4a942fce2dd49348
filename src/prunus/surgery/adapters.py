"""Adapters of peft in a model: their layers are cut together with the base layer, and their rank is kept."""

from __future__ import annotations

from torch import nn

from prunus.graph.coupling import Coupling
from prunus.graph.layout import Frozen, atoms_of

MERGE = "merge them first: model = model.merge_and_unload()"
_DOWN = ("lora_A", "lora_embedding_A")


def adapted_layers(model: nn.Module) -> list[str]:
    """Return the paths of the layers that an adapter of peft wraps and could be merged into."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(getattr(module, "base_layer", None), nn.Module) and callable(getattr(module, "merge", None))
    ]


def adapter_ranks(model: nn.Module, coupling: Coupling) -> dict[int, Frozen]:
    """Return the atoms that are the rank of an adapter; its config saves one rank for all layers."""
    ranks: dict[int, Frozen] = {}
    for path in adapted_layers(model):
        starts = tuple(f"{path}.{name}." if path else f"{name}." for name in _DOWN)
        for tensor, dims in coupling.tensors.items():
            if tensor.startswith(starts) and dims:
                reason = Frozen("the rank of an adapter stays, as its config says it")
                ranks.update({a: reason for a in atoms_of(dims[0]) if a in coupling.axis_of})
    return ranks
