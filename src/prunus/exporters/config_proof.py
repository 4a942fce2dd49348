"""Proof that a class built from a changed config computes what a cut model computes, with the scales folded for it."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.graph.capture import preserved, split_inputs
from prunus.graph.recorder import named_tensors
from prunus.surgery.proving.precision import computing_in
from prunus.surgery.proving.proof_run import output_tensors, relative_error, widened

TOLERANCE = 1e-6
Tensors = dict[str, torch.Tensor]
Fold = Mapping[str, float]


def disagreement(cut: nn.Module, fresh: nn.Module, example_inputs: Any, fold: Fold) -> float:
    """Return the relative difference of two models that hold the same noisy tensors, in float64.

    Noise keeps small weights from hiding a wrong number of heads: W + 1/√fan_in · noise, vectors + 0.1 · noise.

    Args:
        cut: the cut model.
        fresh: an instance of its class with tensors of the same names and shapes.
        example_inputs: one call.
        fold: tensor of ``fresh`` → what it is multiplied by.
    """
    values = _noisy(cut)
    scaled = {n: v * fold[n] if n in fold else v for n, v in values.items()}
    try:
        return relative_error(_run(_twin(fresh, scaled), example_inputs), _run(_twin(cut, values), example_inputs))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return float("inf")  # sizes that the class computes from its config do not meet


def outputs(model: nn.Module, example_inputs: Any) -> list[torch.Tensor]:
    """Return the output tensors of one call in eval mode, in the model's own float type."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, split_inputs(example_inputs))
    with preserved(model), torch.no_grad():
        return output_tensors(model(*args, **kwargs))


def folds(cut: nn.Module, fresh: nn.Module) -> Iterator[dict[str, float]]:
    """Yield ways to make up for scales that a class computes from its sizes, nothing first.

    A module whose scale is c in the cut model and c′ in the fresh one computes the same when one of its own linear
    children is multiplied by c / c′: with 1/√D that is √(D′/D) on the queries.
    """
    yield {}
    theirs = dict(fresh.named_modules())
    ratios: dict[str, float] = {}
    for path, module in cut.named_modules():
        own, new = vars(module), vars(theirs.get(path, module))
        for key, value in own.items():
            if type(value) is float and type(new.get(key)) is float and new[key] and new[key] != value:
                ratios[path] = value / new[key]
    children = {
        p: [n for n, c in theirs[p].named_children() if isinstance(getattr(c, "weight", None), nn.Parameter)]
        for p in ratios
    }
    for name in dict.fromkeys(n for names in children.values() for n in names):
        yield {
            f"{path}.{name}.{leaf}": ratio
            for path, ratio in ratios.items()
            if name in children[path]
            for leaf, _ in theirs[path].get_submodule(name).named_parameters(recurse=False)
        }


def _noisy(model: nn.Module) -> Tensors:
    out: Tensors = {}
    for name, tensor in model.state_dict().items():
        value = widened(tensor, torch.float64, tensor.device).detach().clone()
        if value.is_floating_point():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            if value.dim() > 1:
                noise = (
                    torch.randn(value.shape, generator=generator, dtype=value.dtype) / max(value[0].numel(), 1) ** 0.5
                )
            else:  # positive: a variance may be among them
                noise = 0.1 * torch.rand(value.shape, generator=generator, dtype=value.dtype)
            value += noise.to(value.device)
        out[name] = value
    return out


def _twin(model: nn.Module, values: Tensors) -> nn.Module:
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model).items():
        own = values.get(name, tensor)
        own = widened(own.detach(), torch.float64, tensor.device)
        memo.setdefault(id(tensor), nn.Parameter(own, False) if isinstance(tensor, nn.Parameter) else own.clone())
    return copy.deepcopy(model, memo)


def _run(model: nn.Module, example_inputs: Any) -> list[torch.Tensor]:
    device = next((t.device for t in named_tensors(model).values()), torch.device("cpu"))
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: widened(t.detach(), torch.float64, device).clone(), split_inputs(example_inputs)
    )
    with preserved(model), torch.no_grad(), computing_in(torch.float64):
        return output_tensors(model(*args, **kwargs))
