"""The file of a running training: tensors as safetensors, everything else as JSON in the same file; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prunus.errors import OptionError, shown
from prunus.foundation.atomic_files import write_bytes_atomic
from prunus.foundation.checksum import KEY, bytes_with_checksum, checksum_error
from prunus.foundation.user_code import one_line

FORMAT, WITHOUT_CHECKSUM = "prunus-training/3", "prunus-training/2"
"""The format, and the one before it, which is read too: it had no checksum."""
_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"


def write_state(path: Path | str, state: Mapping[str, Any]) -> Path:
    """Write a nest of mappings, lists, tuples, tensors, numbers and texts; a reader sees the old file or the new.

    Raises:
        OptionError: the nest holds something else, or the file cannot be written: the old one is then intact.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(state, tensors))
    return write_bytes_atomic(path, bytes_with_checksum(tensors, {"format": FORMAT, "state": text}))


def read_state(path: Path | str) -> dict[str, Any]:
    """Read what `write_state` wrote, after its checksum is compared.

    Raises:
        OptionError: no such file, a damaged one, or another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator)
        broken = "" if about.get("format") == WITHOUT_CHECKSUM and KEY not in about else checksum_error(path)
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise OptionError(
            f"cannot read the checkpoint {str(path)!r}: {one_line(error, 200)}; give one that was written whole."
        ) from error
    if about.get("format") not in (FORMAT, WITHOUT_CHECKSUM):
        raise OptionError(f"{str(path)!r} has format {shown(about.get('format'))}; this version reads {FORMAT!r}.")
    if broken:
        raise _malformed(path, broken)
    try:
        state = _unpacked(json.loads(about["state"]), tensors)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise _malformed(path, f"{type(error).__name__} {one_line(error, 200)}") from error
    if not isinstance(state, dict):
        raise _malformed(path, f"its state is a {type(state).__name__}, not a mapping")
    return state


def _malformed(path: Path | str, reason: str) -> OptionError:
    return OptionError(f"the checkpoint {str(path)!r} is damaged: {reason}; give one that was written whole.")


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # Each tensor is stored separately, even if two share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _packed(item, tensors) for key, item in value.items()}
        return {_PAIRS: [[_packed(key, tensors), _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_packed(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_packed(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise OptionError(
        f"a checkpoint cannot hold a {type(value).__name__}; allowed: tensors, numbers, texts, and nests of them."
    )


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _TUPLE in value:
        return tuple(_unpacked(item, tensors) for item in value[_TUPLE])
    if _PAIRS in value:
        return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in value[_PAIRS]}
    return {key: _unpacked(item, tensors) for key, item in value.items()}
