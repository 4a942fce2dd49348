"""A Hugging Face folder of a network that no config can describe: it says so, and `prunus.load` makes it again."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import DataError, ModelError
from prunus.exporters.checkpoint import write_checkpoint
from prunus.exporters.config_build import own_class, quiet
from prunus.exporters.config_instance import dense_config
from prunus.exporters.config_names import Widths, widths_by_name
from prunus.exporters.header import LONGEST_TEXT
from prunus.exporters.parts import Pruned, parts
from prunus.foundation.strict_json import parse_json, read_text
from prunus.plans import Plan

CONFIG, CARD, ENTRY = "config.json", "README.md", "prunus"
_REFUSED = "none, this network needs prunus: prunus.load(folder) makes it, README.md says why"
"""What stands where transformers looks for the name of a file of weights; it quotes it when it refuses to load."""


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
    """Write the README that the hub shows: what was cut, and how the network is loaded.

    Args:
        folder: where to.
        kind: the class of the network.
        plan: what went.
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
    config = kind.config_class.from_pretrained(folder)  # type: ignore[attr-defined]
    vars(config).pop("transformers_weights", None)
    vars(config).pop(ENTRY, None)
    with quiet(), torch.device("meta"):
        return kind(config).eval()


def load_pretrained(folder: Path) -> nn.Module | None:
    """Return the network of a folder that transformers loads by itself; None for another folder."""
    kind = _class_of(_config_of(folder))
    if kind is None:
        return None
    with quiet():
        model: nn.Module = kind.from_pretrained(folder)  # type: ignore[attr-defined]
    return model


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
    kind = getattr(library, names[0], None)
    return kind if isinstance(kind, type) and issubclass(kind, library.PreTrainedModel) else None


def _in_library(kind: type[nn.Module]) -> bool:
    return getattr(importlib.import_module("transformers"), kind.__name__, None) is kind


def _config_of(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        return {}
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
    told = str(width) if isinstance(width, int) else ", ".join(f"{n} in `{m}`" for m, n in width.items())
    return f"| `{name}` | {told} |"
