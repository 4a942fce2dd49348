"""Write a cut model as a folder of safetensors and JSON: no pickle, nothing executable, whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import ModelError, OptionError, UsageError, nearest, shown
from prunus.exporters.header import CHECKPOINT, CONSTANTS, GRAPH, WEIGHTS, FileMark, Header
from prunus.exporters.pack import fleeting_names, stored_tensors, write_tensors
from prunus.exporters.parts import Pruned, check_metadata, class_name, parts
from prunus.exporters.surgery_json import check_rewriting, constant_attribute, decode_surgery, encode_surgery
from prunus.foundation.atomic_files import atomic_dir
from prunus.graph.recorder import named_tensors
from prunus.surgery.record import Surgery
from prunus.surgery.rewriting.edited_program import Program


def save(
    result: Pruned,
    folder: Path | str,
    *,
    tensors: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a cut model, its plan and the way it was cut into a folder; an older folder of that name is replaced.

    ``weights.safetensors`` holds parameters and persistent buffers by their state-dict names, ties once, tensors with
    many zeros packed; ``constants.safetensors`` the other buffers; ``plan.json`` the plan; ``graph.json`` the program
    from which rewritten forwards are written again; ``checkpoint.json`` all else.

    Args:
        result: has ``.model``, ``.plan`` and ``.surgery``; the model may have been trained since.
        folder: where to.
        tensors: values to store instead of the model's own (an average over training, say), by state-dict names.
        metadata: anything with a JSON form; kept in ``checkpoint.json``.

    Returns:
        The folder.

    Raises:
        UsageError: a plain model, a name or shape in ``tensors`` that is not the model's, a model that holds objects
            without a JSON form. Nothing is written then.

    Example:
        ``prunus.save(prunus.prune(model, x, budget={"macs": 0.5}), "small")``
    """
    with atomic_dir(folder, CHECKPOINT) as temporary:
        write_checkpoint(result, temporary, tensors=tensors, metadata=metadata)
    return Path(folder)


def write_checkpoint(
    result: Pruned,
    folder: Path,
    *,
    tensors: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Put the files of a checkpoint into a folder that is there; as `save`, which puts it into its place at once."""
    model, plan, surgery = parts(result)
    check_metadata(metadata)
    weights, aliases = stored_tensors(model)
    _refuse_unstorable(model, weights)
    weights |= _replacements(tensors or {}, weights, aliases)
    constants, more_aliases, constant_names = _constants(model, surgery, weights)
    rewriting = encode_surgery(surgery)
    if rewriting is not None:
        _prove(model, surgery, rewriting)
    write_tensors(folder / WEIGHTS, weights)
    if constants:
        write_tensors(folder / CONSTANTS, constants)
    if rewriting is not None:
        text = json.dumps(rewriting, separators=(",", ":"), allow_nan=False)
        (folder / GRAPH).write_text(text + "\n", encoding="utf-8")
    plan.write(folder)
    Header.make(
        mode=surgery.mode,
        model=class_name(model, surgery),
        dtype=_dtype(model),
        aliases=aliases | more_aliases,
        frozen=tuple(n for n, p in model.named_parameters() if not p.requires_grad),
        attributes={path: dict(values) for path, values in surgery.attributes.items()},
        spliced=tuple(surgery.spliced),
        removed=tuple(surgery.removed),
        constants=constant_names,
        mended=tuple(surgery.mended),
        shipped={path: asdict(record) for path, record in surgery.shipped.items()},
        forward=surgery.forward,
        files={p.name: asdict(FileMark.of(p)) for p in sorted(folder.iterdir())},
        metadata=dict(metadata or {}),
    ).write(folder)


def _refuse_unstorable(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{name!r} is a {type(value).__name__}, not a tensor; it cannot be stored without pickle.")
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            what = "has no values (meta device)" if tensor.device.type == "meta" else f"has the layout {tensor.layout}"
            raise ModelError(f"Tensor {name!r} {what}; only dense tensors with values can be stored.")


def _replacements(
    given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], aliases: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    if not isinstance(given, Mapping) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        raise OptionError(f"tensors is {shown(given)}; allowed: a mapping of state-dict names to tensors.")
    found = {}
    for alias, value in given.items():
        name = aliases.get(alias, alias)
        if name not in own:
            raise UsageError(f"tensors names {alias!r}, which the model does not store.{nearest(alias, own)}")
        if value.shape != own[name].shape:
            got, expected = tuple(value.shape), tuple(own[name].shape)
            raise UsageError(
                f"tensors[{alias!r}] has shape {got}, the model's is {expected}; give the cut model's tensors."
            )
        found[name] = value
    return found


def _constants(
    model: nn.Module, surgery: Surgery, weights: Iterable[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, str]]:
    """Return the buffers that no state dict holds, alias → name for ties, and graph constant → where it is stored."""
    named = named_tensors(model)
    fleeting = [n for n in sorted(fleeting_names(model)) if n in named]
    graph = surgery.splice.graph if surgery.splice is not None else None
    attributes = {constant_attribute(n): n for n in graph.constants} if graph is not None else {}
    owner = {id(named[n]): n for n in weights}
    values: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name in fleeting:
        if name.rpartition(".")[2] in attributes:
            continue
        first = owner.setdefault(id(named[name]), name)
        if first == name:
            values[name] = named[name].detach()
        else:
            aliases[name] = first
    found: dict[str, str] = {}
    for path in surgery.spliced:
        for attribute, constant in attributes.items():
            name = f"{path}.{attribute}" if path else attribute
            if name in named and constant not in found:
                found[constant] = name
                values[name] = named[name].detach()
    return values, aliases, found


def _prove(model: nn.Module, surgery: Surgery, rewriting: dict[str, Any]) -> None:
    """Read the JSON back before anything is written, and compare what it says with what the model runs."""
    graph = surgery.program or (surgery.splice.graph if surgery.splice is not None else None)
    constants = graph.constants if graph is not None else {}
    found = decode_surgery(json.loads(json.dumps(rewriting)), constants, "the stored graph")
    if isinstance(model, Program):
        sources = {"": model.source}
    else:
        modules = dict(model.named_modules(remove_duplicate=False))
        sources = {path: getattr(modules.get(path), "prunus_source", "") for path in surgery.spliced}
    check_rewriting(found, sources)


def _dtype(model: nn.Module) -> str:
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        counts[parameter.dtype] += parameter.numel()
    return str(counts.most_common(1)[0][0] if counts else torch.get_default_dtype()).removeprefix("torch.")
