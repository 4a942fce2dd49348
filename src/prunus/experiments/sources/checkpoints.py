"""Loading of a state dict into a model, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import ModelError, nearest
from prunus.foundation.user_code import one_line

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def load_checkpoint_(model: nn.Module, path: Path) -> None:
    """Fill ``model`` in place with the tensors of ``path``; names and shapes must match exactly.

    Safetensors are preferred. A ``.pt`` file is read with ``weights_only=True``: it can hold tensors, never code.
    A state dict under the key ``state_dict`` or ``model``, and names that all begin with ``module.``, are unwrapped.

    Raises:
        ModelError: no such file, another format, or a name or shape that does not match; the model is then unchanged.
    """
    state = _unwrapped(_read(path), path)
    _check_names(model, state, path)
    model.load_state_dict(state)


def _read(path: Path) -> Any:
    if path.suffix not in _SUFFIXES:
        raise ModelError(
            f"checkpoint {str(path)!r}: the ending {path.suffix!r} is unknown; allowed: .safetensors, .pt."
        )
    if not path.is_file():
        folder = path.parent
        near = nearest(path.name, [entry.name for entry in folder.iterdir()]) if folder.is_dir() else ""
        raise ModelError(f"checkpoint {str(path)!r}: no such file.{near} Give a path relative to the recipe's folder.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"checkpoint {str(path)!r} cannot be read ({type(error).__name__}: {one_line(error, 120)}); "
            "save the model's state_dict() with safetensors."
        ) from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"checkpoint {str(path)!r} holds no state dict (name → tensor); save model.state_dict().")
    state = dict(content)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _check_names(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    where = f"checkpoint {str(path)!r} does not fit the model"
    if missing := [name for name in expected if name not in state]:
        raise ModelError(
            f"{where}: {missing[0]!r} is not in it ({len(missing)} missing).{nearest(missing[0], state)} "
            "Check model_args."
        )
    if extra := [name for name in state if name not in expected]:
        raise ModelError(
            f"{where}: it contains {extra[0]!r}, which the model does not have ({len(extra)} such). Check model_args."
        )
    for name, value in state.items():
        if expected[name].shape != value.shape:
            raise ModelError(
                f"{where}: {name!r} has shape {tuple(value.shape)}, the model {tuple(expected[name].shape)}. "
                "Check model_args."
            )
