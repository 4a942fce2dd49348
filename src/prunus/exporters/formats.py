"""`save` and `load`: one name for the folder, the `.pt2` file and the Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import OptionError, UsageError
from prunus.exporters import checkpoint, restore
from prunus.exporters.exported import save_program
from prunus.exporters.exported_reading import SUFFIX, load_program
from prunus.exporters.huggingface import save_pretrained
from prunus.exporters.parts import Pruned
from prunus.ordinary import in_ordinary_mode

FORMATS = ("checkpoint", "pt2", "huggingface")


def save(
    result: Pruned,
    path: Path | str,
    *,
    format: str | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
    example_inputs: Any = None,
) -> Path:
    """Write a cut model; an older file or folder of that name is replaced, whole or not at all.

    ``checkpoint``: a folder of safetensors and JSON from which `load` makes the model again with the user's class;
    ``pt2``: torch.export's program in one file, for use without that class; ``huggingface``: a folder that
    ``from_pretrained`` loads without prunus, where the config can say what was cut.

    Args:
        result: has ``.model``, ``.plan`` and ``.surgery``; the model may have been trained since.
        path: where to.
        format: one of the three; by default ``pt2`` for a path that ends in ``.pt2``, else ``checkpoint``.
        tensors: values to store instead of the model's own (an average over training), by state-dict names; for the
            checkpoint alone.
        metadata: anything with a JSON form; not for the Hugging Face folder.
        example_inputs: one call, which the other two formats need; by default what the result remembers.

    Raises:
        OptionError: an unknown format, or an argument that it does not take.
        UsageError: a plain model, a name or shape in ``tensors`` that is not the model's, inputs that are missing.
        ModelError: what cannot be stored this way. Nothing is written then.

    Example:
        ``prunus.save(prunus.prune(model, x, budget={"macs": 0.5}), "small.pt2")``
    """
    chosen = format or ("pt2" if str(path).endswith(SUFFIX) else "checkpoint")
    if chosen not in FORMATS:
        raise OptionError(f"format is {format!r}; allowed: {', '.join(FORMATS)}.")
    refused = [
        n
        for n, v, where in (("tensors", tensors, ("checkpoint",)), ("metadata", metadata, FORMATS[:2]))
        if v is not None and chosen not in where
    ]
    if refused:
        raise OptionError(f"The format {chosen!r} takes no {refused[0]}; leave it out or save a checkpoint folder.")
    if chosen == "pt2":
        return save_program(result, path, example_inputs=example_inputs, metadata=metadata)
    if chosen == "huggingface":
        return save_pretrained(result, path, example_inputs)
    return checkpoint.save(result, path, tensors=tensors, metadata=metadata)


@in_ordinary_mode
def load(path: Path | str, model: nn.Module | None = None) -> nn.Module:
    """Return the cut model that `save` wrote; needs no example inputs.

    Args:
        path: the checkpoint folder, or a `.pt2` file.
        model: for a folder: a fresh instance of the user's class with the original shapes and any values (the meta
            device will do); it is left untouched. Its mode and device are kept. Not needed where the folder holds a
            whole program, which then comes in eval mode on the CPU. A `.pt2` file takes none.

    Raises:
        ModelError: no checkpoint, a damaged or foreign file.
        UsageError: ``model`` is needed and absent, or given for a `.pt2` file.
        PlanError: ``model`` is not what was cut; the first tensor that differs is named.

    Example:
        ``small = prunus.load("small", MyNet())``
    """
    if Path(path).is_file() or (str(path).endswith(SUFFIX) and not Path(path).is_dir()):
        if model is not None:
            raise UsageError(
                f"{path} is a whole program and needs no {type(model).__name__}; give load the path alone."
            )
        return load_program(path)
    return restore.load(path, model)
