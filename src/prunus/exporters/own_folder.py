"""A Hugging Face folder of a network that no config can describe: it says so, and `prunus.load` makes it again."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import DataError, ModelError, shown
from prunus.exporters.checkpoint import write_checkpoint
from prunus.exporters.config_build import own_class, quiet
from prunus.exporters.config_instance import dense_config
from prunus.exporters.config_names import Widths, widths_by_name
from prunus.exporters.header import LONGEST_TEXT
from prunus.exporters.parts import Pruned, parts
from prunus.exporters.promised import check_counts, check_promised
from prunus.foundation.checksum import NO_CHECKSUM, checksum_error
from prunus.foundation.registry import words
from prunus.foundation.strict_json import parse_json, read_text
from prunus.foundation.user_code import one_line
from prunus.plans import Plan

CONFIG, CARD, ENTRY = "config.json", "README.md", "prunus"
_REFUSED = "none, this network needs prunus: prunus.load(folder) makes it, README.md says why"
"""The text in place of the name of a file of weights; transformers quotes it when it refuses to load the folder."""


def write_own_folder(result: Pruned, folder: Path, reason: str) -> None:
    """Put a checkpoint, the config before the cut and a card into a folder that is there.

    ``AutoModel.from_pretrained`` refuses the folder: its config names no file of weights, and says why.

    Args:
        result: what `prunus.prune` returned.
        folder: where to.
        reason: one sentence on what the config cannot say.
    """
    model, plan, surgery = parts(result)
    write_checkpoint(result, folder)
    kind = own_class(model)
    widths = _widths(result, plan)
    entry = {"needs": "prunus", "load": "prunus.load(folder)", "reason": reason, "widths": widths}
    with quiet():
        data = json.loads(dense_config(model, surgery).to_json_string(use_diff=True))
    data |= {"architectures": [kind.__name__], "transformers_weights": _REFUSED, ENTRY: entry}
    (folder / CONFIG).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_card(folder, kind, plan, widths, reason)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        with quiet():
            generation.save_pretrained(folder)


def write_card(folder: Path, kind: type[nn.Module], plan: Plan, widths: Widths, reason: str = "") -> None:
    """Write the README that the hub shows: the sizes after the cut, and how the network is loaded.

    Args:
        folder: where to.
        kind: the class of the network.
        plan: by which it was cut.
        widths: entries of the config → what they are now.
        reason: why transformers alone cannot load it; empty where it can.
    """
    before, after = plan.before.params, plan.after.params
    lines = ["---", f"library_name: {'prunus' if reason else 'transformers'}", "tags: [pruned]", "---", ""]
    lines += [f"# {kind.__name__}, pruned", "", f"{after:,} of {before:,} parameters are left.", ""]
    if reason:
        lines += [f"**This folder cannot be loaded without prunus.** {reason}", "", "```python", "import prunus", ""]
        lines += ["model = prunus.load(folder)", "```", ""]
        if not _in_library(kind):
            lines[-3] = f"model = prunus.load(folder, {kind.__name__}(config))  # the class and config before the cut"
    else:
        lines += [f"`{kind.__name__}.from_pretrained(folder)` loads it without prunus.", ""]
    if widths:
        lines += ["| entry of the config | now |", "|---|---|", *(_row(*item) for item in widths.items()), ""]
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")


def fresh_from(folder: Path) -> nn.Module | None:
    """Return an instance of the transformers class that a folder names, as before the cut and without values.

    Only classes that transformers ships are built: nothing in the folder is run. None where the folder names none.
    """
    data = _config_of(folder)
    if ENTRY not in data:
        return None
    kind = _class_of(data)
    if kind is None:
        return None
    check_folder(folder, data)
    check_counts(folder, data)
    try:
        config = kind.config_class.from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
        vars(config).pop("transformers_weights", None)
        vars(config).pop(ENTRY, None)
        with quiet(), torch.device("meta"):
            return kind(config).eval()
    except Exception as error:  # transformers fails in as many ways as there are configs
        raise _unloadable(folder, error) from error


def _unloadable(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"transformers cannot load {folder}: {type(error).__name__} {one_line(error, 200)}; copy the folder again."
    )


def load_pretrained(folder: Path) -> nn.Module | None:
    """Return the network of a folder that transformers loads by itself; None for another folder.

    Raises:
        ModelError: a folder that would make transformers run code of the hub, or open files elsewhere.
    """
    data = _config_of(folder)
    kind = _class_of(data)
    if kind is None:
        return None
    check_folder(folder, data)
    for weights in sorted(folder.glob("model*.safetensors")):
        if (broken := checksum_error(weights)) not in ("", NO_CHECKSUM):
            raise ModelError(f"{weights} is damaged: {broken}; copy the whole folder again.")
    check_promised(folder, data, kind)
    try:
        with quiet():
            model: nn.Module = kind.from_pretrained(  # type: ignore[attr-defined]
                folder, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # transformers fails in as many ways as there are configs
        raise _unloadable(folder, error) from error
    return model


def check_folder(folder: Path, config: Mapping[str, Any] | None = None) -> None:
    """Refuse what makes transformers fetch and run kernels, or read files outside of a folder.

    Args:
        folder: of a model of transformers.
        config: its parsed ``config.json``; read from the folder where absent.

    Raises:
        ModelError: the entry of the config, or the file, that does so.
    """
    config = _config_of(folder) if config is None else config
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter for another network, which is not followed; merge it and save again."
        )
    for key, value in _entries(config):
        if key == "quantization_config" and value is not None:
            raise ModelError(f"{folder / CONFIG} asks for quantised layers of another package; prunus.load makes none.")
        if "_implementation" in key and value is not None and value not in _IMPLEMENTATIONS:
            raise ModelError(
                f"{folder / CONFIG} has {key} = {shown(value)}, which may be code of the hub; allowed: "
                f"{', '.join(_IMPLEMENTATIONS)}."
            )
    for path in sorted(folder.glob("*.index.json")):
        names = _json_of(path).get("weight_map", {})
        for name in names.values() if isinstance(names, dict) else ():
            if type(name) is not str or Path(name).name != name:
                raise ModelError(f"{path} names the file {shown(name)}; only files of its own folder are allowed.")


_IMPLEMENTATIONS = words("eager sdpa flash_attention_2 flash_attention_3 flex_attention grouped_mm batched_mm")


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, those of configs inside a config too."""
    for key, value in config.items():
        if isinstance(value, dict) and "_implementation" in key:
            yield from ((key, part) for part in value.values())
            continue
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)


def _class_of(data: Mapping[str, Any]) -> type[nn.Module] | None:
    names = data.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return None
    try:
        library = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ModelError(
            "This is the folder of a transformers model, and transformers is missing; pip install 'prunus[text]'."
        ) from error
    try:
        kind = getattr(library, names[0], None)
    except ImportError as error:  # transformers reads its classes late, with all that they import
        raise ModelError(
            f"transformers cannot import {shown(names[0])}: {one_line(error, 200)}; mend the installation, for "
            "instance of torchvision beside this torch."
        ) from error
    return kind if isinstance(kind, type) and issubclass(kind, library.PreTrainedModel) else None


def _in_library(kind: type[nn.Module]) -> bool:
    return getattr(importlib.import_module("transformers"), kind.__name__, None) is kind


def _config_of(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    return _json_of(path) if path.is_file() else {}


def _json_of(path: Path) -> Mapping[str, Any]:
    try:
        data = parse_json(read_text(path, LONGEST_TEXT), str(path))
    except (OSError, DataError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return data if isinstance(data, dict) else {}


def _widths(result: Any, plan: Plan) -> Widths:
    """Return the widths by name, where the result still knows the network before the cut."""
    analysis = getattr(result, "analysis", None)
    return {} if analysis is None else widths_by_name(analysis.user_model, analysis.coupling, plan.axes)


def _row(name: str, width: int | dict[str, int]) -> str:
    text = str(width) if isinstance(width, int) else ", ".join(f"{n} in `{m}`" for m, n in width.items())
    return f"| `{name}` | {text} |"
