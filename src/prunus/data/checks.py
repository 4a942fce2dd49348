"""Checks of labelled data, made where they enter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prunus.data.batches import IGNORED, tensors_in
from prunus.errors import DataError


def check_batch(inputs: Any, targets: Any, where: str) -> None:
    """Raise unless inputs and targets are finite tensors with the same, non-zero number of samples.

    Args:
        inputs: A tensor, or a nest of tensors: tuples, mappings, dataclasses.
        targets: A tensor.
        where: Name of the data; the message begins with it.

    Raises:
        DataError: wrong types, no samples, lengths that differ, NaN or infinity, or negative labels.
    """
    tensors = _tensors(inputs, where)
    if not isinstance(targets, Tensor):
        raise DataError(
            f"{where} has targets of type {type(targets).__name__}; allowed: a torch.Tensor with one label a sample."
        )
    if not targets.ndim or not len(targets):
        raise DataError(f"{where} holds no samples; at least 1 is needed. Check its source or filter.")
    for tensor in tensors:
        if not tensor.ndim or len(tensor) != len(targets):
            raise DataError(
                f"{where} has inputs of shape {tuple(tensor.shape)} for {len(targets)} targets; "
                "allowed: the same number of samples in both. Put the samples first."
            )
    for what, tensor in (*(("inputs", tensor) for tensor in tensors), ("targets", targets)):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(f"{where} has NaN or infinite {what}; allowed: finite numbers. Clean or drop such samples.")
    if not targets.is_floating_point() and bool((low := (targets < 0) & (targets != IGNORED)).any()):
        raise DataError(
            f"{where} has label {int(targets[low].min())}; allowed: 0 and above, or {IGNORED} for what counts in no "
            "loss. Number the classes from 0."
        )


def check_range(targets: Tensor, classes: int, where: str) -> None:
    """Raise DataError if an integer label is not one of 0..classes−1."""
    if targets.is_floating_point():
        return
    wrong = targets[((targets < 0) & (targets != IGNORED)) | (targets >= classes)]
    if len(wrong):
        raise DataError(
            f"{where} has label {int(wrong.max())}; allowed: 0..{classes - 1} for {classes} classes. "
            "Name all the classes, or renumber the labels."
        )


def _tensors(inputs: Any, where: str) -> list[Tensor]:
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    parts = parts if isinstance(parts, list | tuple) else [parts]
    tensors_of_parts = [list(tensors_in(part)) for part in parts]
    wrong = next((part for part, tensors in zip(parts, tensors_of_parts, strict=True) if not tensors), None)
    if wrong is not None or not parts:
        got = "nothing" if not parts else type(wrong).__name__
        raise DataError(
            f"{where} has inputs of {got}; allowed: a torch.Tensor, or a tuple, mapping or dataclass of tensors. "
            "Convert with torch.as_tensor."
        )
    return [tensor for tensors in tensors_of_parts for tensor in tensors]
