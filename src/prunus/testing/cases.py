"""Cases for the suites: a small trained network with data, and the state that must stay unchanged."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis import Analysis, analyse
from prunus.data.splits import Split
from prunus.experiments.workloads.digits_net import DigitsNet
from prunus.graph.axis import Axis
from prunus.graph.capture import preserved
from prunus.graph.coupling import Coupling
from prunus.graph.recorder import named_tensors
from prunus.training import TrainingOptions, finetune_

CLASSES, SIDE, SAMPLES = 10, 8, 64
NOISE = 0.4


def example_data(count: int, seed: int) -> Split:
    """Return labelled samples that can be learned: one pattern for each class, with noise.

    Shapes: inputs (count, 1, 8, 8), targets (count,).
    """
    patterns = torch.rand(CLASSES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1000 + seed)
    targets = torch.arange(count) % CLASSES
    noise = torch.randn(count, 1, SIDE, SIDE, generator=draw)
    order = torch.randperm(count, generator=draw)
    return Split((patterns[targets] + NOISE * noise)[order], targets[order], "example")


@functools.cache
def _trained() -> nn.Module:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = DigitsNet(CLASSES)
        finetune_(model, example_data(640, 0), TrainingOptions(steps=12, lr=1e-2), seed=0)
    return model.eval()


def example_analysis(*, seed: int = 0, held: frozenset[str] = frozenset()) -> Analysis:
    """Return a small trained convolutional network with its analysis and data; nothing is measured yet.

    It has residual blocks, parallel branches that are concatenated, grouped and depthwise convolutions, batch norms and
    a linear layer behind a flatten.
    """
    calibration, selection = example_data(SAMPLES, 1), example_data(SAMPLES, 2)
    with torch.random.fork_rng():
        inputs = torch.zeros(2, 1, SIDE, SIDE)
        analysis = analyse(copy.deepcopy(_trained()), inputs, data=calibration, held_out=selection, seed=seed)
    return replace(analysis, held=held)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return the state of a model that a reading function must not change: name of a part → its state."""
    tensors = named_tensors(model)
    state: dict[str, Any] = {f"values of {n!r}": t.detach().clone() for n, t in tensors.items()}
    state |= {f"gradient of {n!r}": None if t.grad is None else t.grad.clone() for n, t in tensors.items()}
    state |= {f"requires_grad of {n!r}": t.requires_grad for n, t in tensors.items()}
    for path, module in model.named_modules():
        name = path or "the model"
        state[f"train mode of {name!r}"] = module.training
        state[f"hooks of {name!r}"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
        state[f"attributes of {name!r}"] = sorted(vars(module))
    return state


def first_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the name of the first part whose state differs, or None."""
    for name in {**before, **after}:
        if name not in before or name not in after or not _same(before[name], after[name]):
            return name
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return type(one) is type(other) and bool(one == other)


def plain_axis(coupling: Coupling) -> Axis:
    """Return the first axis of at least four units that fills every dim on which it lies."""
    return next(
        axis for axis in coupling.axes.values() if axis.size >= 4 and all(m.expr == axis.atom for m in axis.members)
    )


@torch.no_grad()
def permuted(model: nn.Module, axis: Axis, order: Tensor) -> nn.Module:
    """Return a copy of a model with the units of a plain axis in another order; it computes the same."""
    other = copy.deepcopy(model)
    tensors = named_tensors(other)
    for member in axis.members:
        if member.tensor in tensors:
            tensors[member.tensor].copy_(tensors[member.tensor].index_select(member.dim, order))
    return other


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's outputs in eval mode; modes and random state stay as they are."""
    with preserved(model), torch.no_grad():
        answer: Tensor = model.eval()(inputs)
    return answer
