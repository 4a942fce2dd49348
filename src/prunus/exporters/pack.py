"""Tensors with many zeros as a bitmap and the values that are left, exact to the bit, in a plain safetensors file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import DataError, ModelError, SelectorError, nearest
from prunus.foundation.strict_json import parse_json

BITMAP, VALUES, SIGNS = "|bitmap", "|values", "|signs"
_SHAPES = "prunus_shapes"
_ENTRY_BYTES = 100  # about what one more entry costs in the header of the file
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack_tensors(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
    """Return the tensors as they go into the file, and the file's metadata.

    A tensor of n elements of b bytes with k non-zero ones takes ⌈n/8⌉ + k·b bytes packed (⌈(n−k)/8⌉ more if a zero is
    negative) instead of n·b; each is packed where that is smaller. NaN bits and −0.0 survive.

    Shapes: ``name|bitmap`` uint8 (⌈n/8⌉,), ``name|values`` (k,) in the tensor's dtype, ``name|signs`` uint8.
    """
    out: dict[str, torch.Tensor] = {}
    shapes: dict[str, list[int]] = {}
    owners: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        packed = _packed(value)
        if packed is None:
            place = value.untyped_storage().data_ptr()
            # safetensors refuses memory that two names share.
            out[name] = value.clone() if place in owners else value
            owners.add(place)
            continue
        shapes[name] = list(value.shape)
        for ending, part in packed.items():
            out[name + ending] = part
    return out, {_SHAPES: json.dumps(shapes)} if shapes else None


def unpack_tensors(stored: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None) -> dict[str, torch.Tensor]:
    """Return what `pack_tensors` was given.

    Raises:
        ValueError: the parts of a packed tensor do not belong together.
    """
    shapes: dict[str, Any] = parse_json((metadata or {}).get(_SHAPES, "{}"), _SHAPES)
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise ValueError(f"{_SHAPES} is no object from names to shapes")
    parts = {name + ending for name in shapes for ending in (BITMAP, VALUES, SIGNS)}
    out = {name: tensor for name, tensor in stored.items() if name not in parts}
    for name, shape in shapes.items():
        bitmap, values = stored.get(name + BITMAP), stored.get(name + VALUES)
        if bitmap is None or values is None:
            raise ValueError(f"{name!r} lacks its bitmap or its values")
        out[name] = _unpacked(name, shape, bitmap, values, stored.get(name + SIGNS))
    return out


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to a safetensors file, packed where that is smaller."""
    from safetensors.torch import save_file

    packed, metadata = pack_tensors(tensors)
    save_file(packed, path, metadata)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read what `write_tensors` wrote.

    Raises:
        ModelError: missing or damaged file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            # Copies: what lies inside a file is not aligned, and sums over it round differently.
            return unpack_tensors({name: value.clone() for name, value in stored.items()}, file.metadata())
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        DataError,
    ) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} cannot be read: {reason}. Save the model again.") from error


def packed_size(model: nn.Module, masks: Mapping[str, torch.Tensor] | None = None) -> int:
    """Return the size of the weights file that `save` writes for a model.

    Args:
        model: the (cut) network.
        masks: parameter name → kept weights (bool, the parameter's shape); weights outside count as zero even where
            the model still holds them.

    Units: bytes, the file's header included.

    Raises:
        SelectorError: a mask for a tensor that the model does not have.
    """
    from safetensors.torch import save

    tensors, aliases = stored_tensors(model)
    for alias, mask in (masks or {}).items():
        name = aliases.get(alias, alias)
        if name not in tensors:
            raise SelectorError(f"A mask names {name!r}, which the model does not store.{nearest(name, tensors)}")
        value = tensors[name]
        tensors[name] = value.masked_fill(~mask.to(value.device) & (value != 0), 0)
    packed, metadata = pack_tensors(tensors)
    return len(save(packed, metadata))


def stored_tensors(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what the weights file holds: parameters and persistent buffers, each once, and alias → name for ties."""
    fleeting = fleeting_names(model)
    named: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update((n, b) for n, b in model.named_buffers(remove_duplicate=False) if n not in fleeting)
    first: dict[int, str] = {}
    aliases = {n: first[id(t)] for n, t in named.items() if first.setdefault(id(t), n) != n}
    return {n: t.detach() for n, t in named.items() if n not in aliases}, aliases


def fleeting_names(model: nn.Module) -> set[str]:
    """Return the names of the buffers that a state dict leaves out."""
    modules = model.named_modules(remove_duplicate=False)
    return {f"{path}.{leaf}" if path else leaf for path, m in modules for leaf in m._non_persistent_buffers_set}


def _packed(value: torch.Tensor) -> dict[str, torch.Tensor] | None:
    size = value.element_size()
    if value.numel() == 0 or size not in _INTEGERS:
        return None
    bits = value.reshape(-1).view(_INTEGERS[size])
    lowest = torch.iinfo(bits.dtype).min  # the sign bit alone: −0.0 in every float type
    negative = bits == lowest
    present = (bits != 0) & ~negative
    kept = int(present.sum())
    signed = bool(negative.any())
    count = value.numel()
    cost = math.ceil(count / 8) + kept * size + (math.ceil((count - kept) / 8) if signed else 0)
    if cost + (2 + signed) * _ENTRY_BYTES >= count * size:
        return None
    parts = {BITMAP: _to_bits(present), VALUES: bits[present].view(value.dtype)}
    if signed:
        parts[SIGNS] = _to_bits(negative[~present])
    return parts


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**40 for size in shape)


def _unpacked(
    name: str, shape: Any, bitmap: torch.Tensor, values: torch.Tensor, signs: torch.Tensor | None
) -> torch.Tensor:
    count = math.prod(shape)
    present = _from_bits(name, bitmap, count)
    if int(present.sum()) != values.numel() or values.element_size() not in _INTEGERS:
        raise ValueError(f"{name!r} has {values.numel()} values for a bitmap of {int(present.sum())}")
    integer = _INTEGERS[values.element_size()]
    bits = torch.zeros(count, dtype=integer)
    bits[present] = values.view(integer)
    if signs is not None:
        absent = torch.zeros(count - values.numel(), dtype=integer)
        absent[_from_bits(name, signs, len(absent))] = torch.iinfo(integer).min
        bits[~present] = absent
    return bits.view(values.dtype).reshape(shape)


def _to_bits(mask: torch.Tensor) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.packbits(mask.numpy()))


def _from_bits(name: str, bitmap: torch.Tensor, count: int) -> torch.Tensor:
    import numpy as np

    if bitmap.dtype != torch.uint8 or bitmap.shape != (math.ceil(count / 8),):
        raise ValueError(f"{name!r} has a bitmap of {tuple(bitmap.shape)} bytes for {count} elements")
    return torch.from_numpy(np.unpackbits(bitmap.numpy(), count=count).astype(bool))
