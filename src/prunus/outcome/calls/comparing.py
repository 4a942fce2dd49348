"""The difference between two results of one call, of the masked dense network and of the cut one, and its place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from prunus.graph.open_outputs import opened_leaves
from prunus.surgery.proving.proof_run import Trial, relative_error

_SMALL = {torch.float64: 1e-6}
"""Gradients below this share of the largest one are compared relative to that share: they may be rounding."""
_ROUNDED = 1e-3
_CHOICES = 256

Masks = Mapping[int, Sequence[np.ndarray]]
Named = list[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Learned:
    """The results of a training step: the outputs, and gradients and buffers by their names in the network."""

    results: Any
    gradients: Mapping[str, torch.Tensor]
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Distance:
    """The difference between two results: ``where`` names the worst tensor, ``note`` what was compared only in part."""

    error: float
    where: str = ""
    note: str = ""


def distance(expected: Any, got: Any, masks: Masks, it: Trial) -> Distance:
    """Compare results of one call.

    Args:
        expected: the results of the masked dense network, in its shapes.
        got: the results of the cut one.
        masks: size of a dim → the masks by which such dims are cut; one of them maps ``expected`` to ``got``.
        it: the trial; gradients and buffers are compared at kept positions.
    """
    if isinstance(expected, Learned) and isinstance(got, Learned):
        found = distance(expected.results, got.results, masks, it)
        for before, after in ((expected.gradients, got.gradients), (expected.buffers, got.buffers)):
            learned = _named_distance(before, after, it)
            found = max(found, learned, key=lambda d: d.error)
        return found
    one, two = named_tensors(expected), named_tensors(got)
    if len(one) != len(two):
        return Distance(float("inf"), f"{len(two)} tensors where the dense model returns {len(one)}")
    worst, parted = Distance(0.0), []
    for (name, whole), (_, other) in zip(one, two, strict=True):
        stays = whole
        if whole.shape != other.shape:
            stays = _kept(whole, other, masks)
            parted.append(name)
        error = _difference(stays, other)
        if not error <= worst.error:
            worst = Distance(error, _shapes(name, stays, other))
    note = f"{parted[0]}{' and others are' if len(parted) > 1 else ' is'} compared where it stays" if parted else ""
    return Distance(worst.error, worst.where, note)


def named_tensors(value: Any) -> Named:
    """Return the tensors of a result with names for messages, tensors inside objects included."""
    if isinstance(value, Mapping):
        return [
            (f"{key}.{name}" if name else str(key), tensor)
            for key, inner in value.items()
            for name, tensor in named_tensors(inner)
        ]
    leaves = [x for x in opened_leaves(value) if isinstance(x, torch.Tensor)]
    return [("" if len(leaves) == 1 else str(i), x) for i, x in enumerate(leaves)]


def _named_distance(expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor], it: Trial) -> Distance:
    aliases, dims = it.coupling.graph.aliases, it.coupling.tensors
    mine = {n: it.kept(g, dims[aliases.get(n, n)]) if aliases.get(n, n) in dims else g for n, g in expected.items()}
    common = {n: g for n, g in mine.items() if n in got and g.is_floating_point()}
    scale = max((float(g.abs().max()) for g in common.values() if g.numel()), default=0.0)
    least = max(_SMALL.get(it.dtype, _ROUNDED) * scale, 1e-12)
    worst = Distance(0.0)
    for name, value in common.items():
        error = relative_error([got[name]], [value], least=least)
        if not error <= worst.error:
            worst = Distance(error, _shapes(f"the gradient of {name}", value, got[name]))
    return worst


def _shapes(name: str, mine: torch.Tensor, other: torch.Tensor) -> str:
    if mine.shape == other.shape:
        return name
    return f"{name or 'the result'} has shape {tuple(other.shape)}, the dense model's what stays is {tuple(mine.shape)}"


def _difference(mine: torch.Tensor, other: torch.Tensor) -> float:
    if mine.shape == other.shape and not (mine.is_floating_point() or mine.is_complex()):
        return 0.0 if torch.equal(mine, other) else float("inf")
    if mine.shape == other.shape and torch.equal(mine.isnan(), other.isnan()):
        mine, other = mine.nan_to_num(), other.nan_to_num()  # a row of attention in which everything is masked
    return relative_error([other], [mine])


def _kept(mine: torch.Tensor, other: torch.Tensor, masks: Masks) -> torch.Tensor:
    """Return the kept positions by those masks of the plan under which the results agree best."""
    if mine.dim() != other.dim():
        return mine
    dims = [d for d in range(mine.dim()) if mine.shape[d] != other.shape[d]]
    ways = [[m for m in masks.get(mine.shape[d], ()) if int(m.sum()) == other.shape[d]] for d in dims]
    best, least = mine, float("inf")
    for chosen in itertools.islice(itertools.product(*ways), _CHOICES):
        cut = mine
        for d, mask in zip(dims, chosen, strict=True):
            cut = cut.index_select(d, torch.from_numpy(np.flatnonzero(mask)).to(cut.device))
        error = _difference(cut, other)
        if error < least or best is mine:
            best, least = cut, error
    return best
