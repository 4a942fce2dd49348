"""A stored network as a source for another: its tensors in the shapes of the other, and what was removed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.errors import ModelError, OptionError, nearest, shown
from prunus.exporters.fit import is_below
from prunus.exporters.header import CONSTANTS, HEADER, WEIGHTS, read_header
from prunus.exporters.pack import fleeting_names, read_tensors
from prunus.graph.capture import unwrap
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.surgery.record import Surgery

_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class SourceNetwork:
    """A pretrained network, dense or pruned.

    Attributes:
        origin: where it comes from, in words for messages.
        tensors: name → tensor, as stored.
        plan: what was removed from it; None for a dense network.
        removed: paths of modules that were taken out whole.
    """

    origin: str
    tensors: Mapping[str, Tensor]
    plan: Plan | None = None
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The tensors of a source in the shapes of another network.

    Attributes:
        values: name → values, zero where the source has removed or masked something.
        kept: name → mask of the positions that the source still has.
        unmatched: parameters of the other network for which the source has none of their name and shape.
        unused: tensors of the source that the other network does not have in this shape.
    """

    values: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    unmatched: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self, origin: str) -> tuple[str, ...]:
        """Return what was matched, and what was not by its names."""
        return match_lines(origin, len(self.values), self.unmatched, self.unused)


def match_lines(origin: str, matched: int, unmatched: Sequence[str], unused: Sequence[str]) -> tuple[str, ...]:
    """Return the lines about a match: how many tensors, and the names of those without one."""
    found = [f"transfer from {origin}: {matched} tensors match by name and shape"]
    if unmatched:
        found.append(f"not in {origin}, or of another shape: {', '.join(unmatched)}")
    if unused:
        found.append(f"in {origin} alone, or of another shape: {', '.join(unused)}")
    return tuple(found)


def read_source(given: Any) -> SourceNetwork:
    """Read a source: a folder that `save` wrote, a safetensors file, an outcome, a network, or a state dict.

    Files are data: no code of a checkpoint is run, and no pickle is read.

    Raises:
        ModelError: no such file or folder, another format, or a damaged one.
        OptionError: something else.
    """
    plan, surgery = getattr(given, "plan", None), getattr(given, "surgery", None)
    if isinstance(plan, Plan) and isinstance(surgery, Surgery):
        whole = read_source(given.model)
        return replace(whole, plan=plan, removed=tuple(surgery.removed))
    if isinstance(given, nn.Module):
        return SourceNetwork(type(given).__name__, {n: t.detach() for n, t in named_tensors(unwrap(given)).items()})
    if isinstance(given, Mapping) and all(isinstance(value, Tensor) for value in given.values()):
        return SourceNetwork("the state dict", _bare_names(given))
    if not isinstance(given, str | Path) or not str(given):
        raise OptionError(
            f"transfer.from is {shown(given)}; allowed: a folder that prunus.save wrote, or a {_SUFFIX} file."
        )
    path = Path(given).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        near = nearest(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise ModelError(f"transfer.from {str(path)!r}: no such file or folder.{near} Give a path that is there.")
    if path.suffix != _SUFFIX:
        raise ModelError(
            f"transfer.from {str(path)!r}: the ending {path.suffix!r} is unknown; allowed: a folder that prunus.save "
            f"wrote, or a {_SUFFIX} file. Save the state dict with safetensors."
        )
    return SourceNetwork(path.name, _bare_names(read_tensors(path)))


def _folder(path: Path) -> SourceNetwork:
    if not (path / HEADER).is_file():
        raise ModelError(
            f"transfer.from {str(path)!r} is no checkpoint; give the folder that prunus.save or 'prunus prune' wrote."
        )
    header = read_header(path)
    tensors = read_tensors(path / WEIGHTS)
    tensors |= read_tensors(path / CONSTANTS) if CONSTANTS in header.files else {}
    tensors |= {alias: tensors[name] for alias, name in header.aliases.items() if name in tensors}
    return SourceNetwork(path.name, tensors, Plan.load(path), header.removed)


def _bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    wrapped = bool(state) and all(name.startswith(prefix) for name in state)
    return {name.removeprefix(prefix) if wrapped else name: value.detach() for name, value in state.items()}


def match_source(source: SourceNetwork, model: nn.Module) -> Match:
    """Match a source with a network by the names and shapes of their tensors, in the network's own shapes.

    Raises:
        ModelError: no weight of the network has one in the source.
    """
    bare = unwrap(model)
    own, fleeting = named_tensors(bare), fleeting_names(bare)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in own.items():
        pair = _widened(source, name, tensor.detach())
        if pair is not None:
            found[name] = pair
    parameters = dict(bare.named_parameters())
    unmatched = tuple(name for name in parameters if name not in found)
    if not any(name in found and parameter.dim() > 1 for name, parameter in parameters.items()):
        first = next(iter(parameters))
        raise ModelError(
            f"no weight of {type(bare).__name__} has one of its name and shape in {source.origin}: {first!r} is "
            f"{tuple(own[first].shape)}, the source has {_first(source)}. Give a "
            "network of the same architecture."
        )
    unused = tuple(name for name in source.tensors if name not in found and name not in fleeting)
    return Match({n: v for n, (v, _) in found.items()}, {n: k for n, (_, k) in found.items()}, unmatched, unused)


def _first(source: SourceNetwork) -> str:
    name = next(iter(source.tensors), None)
    return "no tensors" if name is None else f"{name!r} {tuple(source.tensors[name].shape)} first"


def _widened(source: SourceNetwork, name: str, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return a tensor of the source in the network's shape, and the positions that it has; None if it differs."""
    keep: Mapping[int, Any] = {} if source.plan is None else source.plan.keep.get(name, {})
    value = source.tensors.get(name)
    if value is None:
        gone = is_below(name, source.removed) or any(not len(index) for index in keep.values())
        return (torch.zeros_like(tensor), torch.zeros_like(tensor, dtype=torch.bool)) if gone else None
    inside = all(dim < tensor.dim() and (not len(i) or i.max() < tensor.shape[dim]) for dim, i in keep.items())
    expected = tuple(len(keep[d]) if d in keep else size for d, size in enumerate(tensor.shape))
    if not inside or tuple(value.shape) != expected or value.is_floating_point() != tensor.is_floating_point():
        return None
    value = value.to(tensor.device, tensor.dtype)
    if not keep:
        whole, kept = value.clone(), torch.ones_like(tensor, dtype=torch.bool)
    else:
        whole, kept = torch.zeros_like(tensor), torch.zeros_like(tensor, dtype=torch.bool)
        lines = [torch.from_numpy(keep[d]) if d in keep else torch.arange(n) for d, n in enumerate(tensor.shape)]
        place = torch.meshgrid(*(line.to(tensor.device) for line in lines), indexing="ij")
        whole[place], kept[place] = value, True
    mask = None if source.plan is None else source.plan.masks.get(name)
    if mask is not None and mask.shape == tuple(tensor.shape):
        kept &= torch.from_numpy(np.ascontiguousarray(mask)).to(tensor.device)
    elif source.plan is None and tensor.dim() > 1:
        kept &= whole != 0  # a state dict that holds zeros was masked
    return whole, kept
