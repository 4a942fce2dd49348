"""`save` and `load`: one name for the folder, the `.pt2` file, the Hugging Face folder and formats of packages."""

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
from prunus.exporters.exporter import EXPORTERS, Exporter, exporter_for, exporter_to_write
from prunus.exporters.huggingface import save_pretrained
from prunus.exporters.parts import Pruned
from prunus.foundation.arguments import door
from prunus.foundation.autograd_mode import in_ordinary_mode

CHECKPOINT = "checkpoint"


def _read_program(path: Path, model: nn.Module | None) -> nn.Module:
    if model is not None:
        raise UsageError(f"{path} is a whole program and needs no {type(model).__name__}; give load the path alone.")
    return load_program(path)


for _exporter in (
    Exporter(
        CHECKPOINT,
        "a folder of safetensors and JSON from which the user's class is made again",
        checkpoint.save,
        takes=("tensors", "metadata"),
        read=restore.load,
    ),
    Exporter(
        "pt2",
        "torch.export's program in one file, for use without the user's class",
        save_program,
        takes=("metadata", "example_inputs"),
        suffix=SUFFIX,
        read=_read_program,
    ),
    Exporter(
        "huggingface",
        "a folder that from_pretrained loads without prunus where the config can say what was cut, else prunus.load",
        save_pretrained,
        takes=("example_inputs",),
    ),
):
    EXPORTERS.register(_exporter.name)(_exporter)


@door()
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
    ``from_pretrained`` loads without prunus where the config can say what was cut, and `load` alone where not.

    Args:
        result: has ``.model``, ``.plan`` and ``.surgery``; the model may have been trained since.
        path: where to.
        format: one of the three, or a name that an installed package added to `prunus.exporters.EXPORTERS`; by default
            the one whose suffix the path has (``pt2`` for ``.pt2``), else ``checkpoint``.
        tensors: values to store instead of the model's own (an average over training), by state-dict names; for the
            checkpoint alone.
        metadata: anything with a JSON form; not for the Hugging Face folder.
        example_inputs: one call, which the other two formats need; by default what the result remembers. What a
            package's format takes of these three, its `Exporter` says.

    Raises:
        OptionError: an unknown format, or an argument that it does not take.
        UsageError: a plain model, a name or shape in ``tensors`` that is not the model's, inputs that are missing.
        ModelError: what cannot be stored this way. Nothing is written then.

    Example:
        ``prunus.save(prunus.prune(model, x, budget={"macs": 0.5}), "small.pt2")``
    """
    exporter = exporter_to_write(path, format, CHECKPOINT)
    options = {"tensors": tensors, "metadata": metadata}
    refused = [name for name, value in options.items() if value is not None and name not in exporter.takes]
    if refused:
        raise OptionError(
            f"The format {exporter.name!r} takes no {refused[0]}; leave it out or save a checkpoint folder."
        )
    options["example_inputs"] = example_inputs
    return exporter.write(result, path, **{name: options[name] for name in exporter.takes})


@in_ordinary_mode
def load(path: Path | str, model: nn.Module | None = None, *, format: str | None = None) -> nn.Module:
    """Return the cut model that `save` wrote; needs no example inputs.

    Args:
        path: the checkpoint folder, a `.pt2` file, or what the format of an installed package wrote.
        model: for a folder: a fresh instance of the user's class with the original shapes and any values (the meta
            device will do); it is left untouched. Its mode and device are kept. Not needed where the folder holds a
            whole program, which then comes in eval mode on the CPU. A `.pt2` file takes none.
        format: as in `save`; by default the one whose suffix the path has, else ``pt2`` for a file and ``checkpoint``
            for a folder.

    Raises:
        ModelError: no checkpoint, a damaged or foreign file.
        UsageError: ``model`` is needed and absent, or given for a `.pt2` file.
        OptionError: an unknown format, or one that is not for reading.
        PlanError: ``model`` is not what was cut; the first tensor that differs is named.

    Example:
        ``small = prunus.load("small", MyNet())``
    """
    place = Path(path)
    if place.is_dir() and format is None:
        return restore.load(place, model)  # whatever its name ends in
    exporter = exporter_for(place, format, "pt2" if place.is_file() else CHECKPOINT)
    if exporter.read is None:
        raise OptionError(
            f"The format {exporter.name!r} is {exporter.description}; prunus.load does not read it. Open it with what "
            "it was written for."
        )
    return exporter.read(place, model)
