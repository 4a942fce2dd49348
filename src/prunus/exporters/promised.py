"""A Hugging Face config is held against its weights before a network of the size that it promises is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import ModelError
from prunus.exporters.config_build import quiet
from prunus.foundation.user_code import one_line

_CONFIG = "config.json"
_COUNTED = {re.compile(r"layer|block|depth|stage|stack"): 512, re.compile(r"expert"): 4096}
"""Entries that say how often modules are built, and the number up to which they are, whatever the weights hold."""
_SPARE = 1 << 24
"""Parameters that a network may have beyond those that are stored, such as tied ones and tables that are computed."""


def check_counts(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config that asks for more modules than the weights have tensors.

    Raises:
        ModelError: the entry, its number, and the number of tensors.
    """
    stored = _tensors(folder)
    for key, number in _numbers(config):
        if any(pattern.search(key) and number > max(stored, most) for pattern, most in _COUNTED.items()):
            raise ModelError(
                f"{folder / _CONFIG} has {key} = {number}, and the weights beside it hold {stored} tensors; copy the "
                "whole folder again."
            )


def check_promised(folder: Path, config: Mapping[str, Any], kind: type[nn.Module]) -> None:
    """Refuse a config whose network is far larger than the weights: it is built without values and counted.

    Args:
        folder: of a model of transformers.
        config: its parsed ``config.json``.
        kind: the class of transformers that the config names.

    Raises:
        ModelError: the parameters that the config promises, and the bytes that are stored.
    """
    check_counts(folder, config)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    try:
        own = kind.config_class.from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
        with quiet(), torch.device("meta"):
            promised = sum(p.numel() for p in kind(own).parameters())
    except Exception as error:  # transformers fails in as many ways as there are configs
        raise ModelError(
            f"transformers cannot load {folder}: {type(error).__name__} {one_line(error, 200)}; copy the folder again."
        ) from error
    if promised > stored + _SPARE:  # a stored parameter takes a byte at least
        raise ModelError(
            f"{folder / _CONFIG} describes {promised:,} parameters, and the weights beside it have {stored:,} bytes; "
            "copy the whole folder again."
        )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, int):
                yield key, number


def _tensors(folder: Path) -> int:
    """Return the number of tensors in the files of weights; a file that cannot be read has none."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                count += len(file.keys())
        except (OSError, SafetensorError):
            continue
    return count
