"""Chain depth: whole layers of a plain chain go, by identity, by folding two linear maps, or by a fitted bridge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.graph.ir import Graph, ModuleCall, Ref, refs_in
from prunus.methods.bridge_fit import CONVOLUTIONS, Run
from prunus.methods.bridges import best_plan, reconnected
from prunus.methods.method import method
from prunus.plans import Plan
from prunus.substitutes import Bridge

MOST_INPUTS = 2304
"""Most inputs of a kernel of several positions; beyond that a bridge reads one position."""
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm2d", "LayerNorm")
_ACTIVATIONS = ("ReLU", "ReLU6", "GELU", "SiLU", "ELU", "LeakyReLU", "Tanh", "Sigmoid", "Hardswish", "Mish", "Softplus")
_SILENT = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Identity", "Bypass")


@method(
    "chain-depth",
    "structure",
    "remove whole layers of a chain: identity, folding, or a fitted bridge",
    counts="modules",
)
def plan_chain_depth(analysis: Analysis, limits: Limits) -> Plan:
    """Remove whole layers, each time those that raise the true loss least for what they save, then trim units.

    A layer goes by the identity, with the norm and the activation behind it, where it keeps the shape; two linear
    maps with nothing between them become their product; of two layers with something between them, or of a
    convolution over several positions, a bridge stays: one layer fitted by ridge regression from the run's input to its
    output on calibration data, without labels, strided where the resolution changes. All runs are fitted and
    measured again after each removal. Of the networks after each round, trimmed to the budget, the one of least true
    loss is taken. The forward stays the user's: the bridge stands in place of a module.

    Source: own; linear maps fitted in place of removed layers: Yu et al., "Width & Depth Pruning for Vision
    Transformers", AAAI 2022; Dror et al., "Layer Folding: Neural Network Depth Reduction using Activation
    Linearization", arXiv:2106.09309.

    Args:
        analysis: the network and its data.
        limits: limits of the analysis's metric.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    rounds = reconnected(analysis, chain_runs, limit=limits[0].value)
    return best_plan(analysis, rounds, limits[0], "chain-depth")


def layers_of(analysis: Analysis) -> list[str]:
    """Return the paths of the layers of the chains of a network."""
    return [layer.path for layer in _layers(analysis, analysis.coupling.graph)]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A linear layer or a convolution of a chain, with the norm and the activation modules behind it.

    ``end`` is the value behind them, ``normed`` the path of the last norm, or of the layer.
    """

    call: ModuleCall
    tail: tuple[str, ...]
    norms: tuple[str, ...]
    active: bool
    end: Ref

    @property
    def path(self) -> str:
        """Path of the layer's module."""
        return self.call.path

    @property
    def start(self) -> Ref:
        """The value that the layer reads."""
        return self.call.in_leaves[0]  # type: ignore[no-any-return]

    @property
    def normed(self) -> str:
        """Path of the module whose output is the layer's before its activation."""
        return self.norms[-1] if self.norms else self.path


def chain_runs(analysis: Analysis) -> Iterator[Run]:
    """Yield the runs of the chains of a network that bridges may replace."""
    graph = analysis.coupling.graph
    modules = dict(analysis.user_model.named_modules())
    layers = {layer.path: layer for layer in _layers(analysis, graph)}
    starts = {layer.start: layer for layer in layers.values()}
    readers = _readers(graph)
    for layer in layers.values():
        module = modules[layer.path]
        same = graph.meta(layer.start) == graph.meta(layer.end)
        if same:
            paths = layer.tail
            yield Run(layer.path, paths, layer.path, "Bypass", ready=Bridge(layer.path, paths), layers=(layer.path,))
        if isinstance(module, nn.modules.conv._ConvNd) and max(module.kernel_size) > 1:
            yield Run(
                layer.path,
                layer.norms,
                layer.normed,
                _kind(module),
                (1,) * len(module.kernel_size),
                layers=(layer.path,),
                stays=1,
            )
        following = starts.get(_behind(graph, readers, layer.end))
        if following is None or type(modules[following.path]) is not type(module) or following.path == layer.path:
            continue
        both = (layer.path, following.path)
        if not layer.active and not layer.norms and layer.end == following.start:
            folded = _folded(layer, following, modules)
            if folded is not None:
                reason = "two linear maps with nothing between them are one"
                yield Run(
                    folded.path,
                    folded.skipped,
                    following.path,
                    folded.kind,
                    ready=folded,
                    reason=reason,
                    layers=both,
                    stays=1,
                )
                continue
        yield from _pair(layer, following, modules)


def _pair(layer: _Layer, following: _Layer, modules: Mapping[str, nn.Module]) -> Iterator[Run]:
    skipped = (layer.path, *layer.tail, *following.norms)
    both = (layer.path, following.path)
    second = modules[following.path]
    if isinstance(second, nn.Linear):
        yield Run(following.path, skipped, following.normed, "Linear", layers=both, stays=1)
        return
    first = modules[layer.path]
    assert isinstance(first, nn.modules.conv._ConvNd)
    assert isinstance(second, nn.modules.conv._ConvNd)
    inputs, kernel = first.in_channels, tuple(second.kernel_size)
    odd = all(size % 2 for size in kernel)
    for size in dict.fromkeys((kernel if odd else (1,) * len(kernel), (1,) * len(kernel))):
        if inputs * torch.Size(size).numel() <= MOST_INPUTS or max(size) == 1:
            yield Run(following.path, skipped, following.normed, _kind(second), size, layers=both, stays=1)


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _layers(analysis: Analysis, graph: Graph) -> Iterator[_Layer]:
    """Yield the layers that are called once, have one input and one output, no groups, and no frozen place."""
    held = {m.tensor for a in analysis.held for m in analysis.coupling.axes[a].members}
    calls = [call for call in graph.calls if call.path]
    times = {path: sum(call.path == path for call in calls) for path in {call.path for call in calls}}
    readers = _readers(graph)
    by_input: dict[Ref, list[ModuleCall]] = {}
    for call in calls:
        if call.in_leaves and isinstance(call.in_leaves[0], Ref):
            by_input.setdefault(call.in_leaves[0], []).append(call)
    modules = dict(analysis.user_model.named_modules())
    for call in calls:
        module = modules.get(call.path)
        name = call.kind.rpartition(".")[2]
        if name not in ("Linear", *CONVOLUTIONS) or module is None or times[call.path] > 1 or not _single(call):
            continue
        if getattr(module, "groups", 1) != 1 or f"{call.path}.weight" in held:
            continue
        tail, norms, active, end = list[str](), list[str](), False, call.out_leaves[0]
        while readers.get(end, 0) == 1:
            following = next((c for c in by_input.get(end, ()) if _name(c) in (*_NORMS, *_ACTIVATIONS, *_SILENT)), None)
            if following is None or times[following.path] > 1 or not _single(following):
                break
            if _name(following) in _NORMS and not active:
                norms.append(following.path)
            elif _name(following) in _NORMS:
                break
            active |= _name(following) in _ACTIVATIONS
            if _name(following) != "Bypass":
                tail.append(following.path)
            moved = following.out_leaves[0]
            if moved == end:
                break
            end = moved
        yield _Layer(call, tuple(tail), tuple(norms), active, end)


def _name(call: ModuleCall) -> str:
    return call.kind.rpartition(".")[2]


def _single(call: ModuleCall) -> bool:
    leaves = [leaf for leaf in call.in_leaves if isinstance(leaf, Ref)]
    return len(leaves) == 1 and len(call.out_leaves) == 1 and isinstance(call.out_leaves[0], Ref)


def _readers(graph: Graph) -> dict[Ref, int]:
    """Return how many times the program reads each value."""
    count: dict[Ref, int] = {}
    for ref in (*(r for node in graph.nodes for r in refs_in(node.args)), *refs_in(list(graph.outputs))):
        count[ref] = count.get(ref, 0) + 1
    return count


_PASSED = ("relu", "relu_", "gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu", "hardtanh", "dropout", "max_pool2d")
"""Ops of a forward that may lie between two layers of a chain; they stay."""


def _behind(graph: Graph, readers: Mapping[Ref, int], value: Ref) -> Ref:
    """Return the value behind the activations and poolings that a forward applies to a value read once."""
    while readers.get(value, 0) == 1:
        node = next((n for n in graph.nodes if value in list(refs_in(n.args))), None)
        if node is None:  # an output of the network
            break
        name = node.op.split(".")[1] if "." in node.op else node.op
        if name not in _PASSED or len(node.outputs) != 1:
            break
        value = Ref(node.name)
    return value


def _folded(first: _Layer, second: _Layer, modules: Mapping[str, nn.Module]) -> Bridge | None:
    """Return the product of two linear maps, W₂W₁ and W₂b₁ + b₂; None where it is not one layer of the same kind."""
    one, two = modules[first.path], modules[second.path]
    skipped = (*first.tail, second.path)
    assert isinstance(one, nn.Linear | nn.modules.conv._ConvNd)
    assert isinstance(two, nn.Linear | nn.modules.conv._ConvNd)
    w1, w2 = (m.weight.detach().double().cpu() for m in (one, two))
    b1, b2 = (
        torch.zeros(len(m.weight)).double() if m.bias is None else m.bias.detach().double().cpu() for m in (one, two)
    )
    if isinstance(one, nn.Linear) and isinstance(two, nn.Linear):
        weight, sizes = w2 @ w1, dict[str, int]()
    elif isinstance(one, nn.modules.conv._ConvNd) and isinstance(two, nn.modules.conv._ConvNd):
        plain = max(two.kernel_size) == 1 and max(two.stride) == 1 and two.padding in (0, (0,) * len(two.kernel_size))
        numbers = (set(one.stride), set(one.padding) if not isinstance(one.padding, str) else {0, 1})
        if not plain or any(len(n) > 1 for n in numbers) or set(one.dilation) != {1} or one.padding_mode != "zeros":
            return None
        weight = torch.einsum("om,mi...->oi...", w2.flatten(1), w1)
        sizes = {"stride": one.stride[0], "padding": int(one.padding[0])}
    else:
        return None
    bias = w2.flatten(1) @ b1 + b2
    return Bridge(first.path, skipped, _kind(one), sizes, weight.float().numpy(), bias.float().numpy())
