"""The models and data that a folder from someone else may name: those of prunus and of libraries, no other code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunus.errors import UsageError
from prunus.experiments.recipe import Recipe
from prunus.experiments.recipe.no_data import NO_DATA
from prunus.foundation.registry import words

_LIBRARIES = ("torchvision", "timm", "hf")
_TEXTS = {
    "torchvision": words("weights weights_backbone"),
    "timm": words("act_layer norm_layer global_pool"),
    "hf": words("auto_class dtype torch_dtype revision"),
}
"""Arguments of the builders of each library that take the name of something of its own."""
_SWITCHES = words(
    "use_cache return_dict output_attentions output_hidden_states ignore_mismatched_sizes tie_word_embeddings "
    "local_files_only low_cpu_mem_usage is_decoder add_pooling_layer num_labels"
)
"""Arguments of ``from_pretrained`` that only switch or count; others let it run code of a folder or of the hub."""
_FILES = words("checkpoint_path pretrained_cfg pretrained_cfg_overlay cache_dir file")


def trusted_recipe(recipe: Recipe, folder: Path, base_dir: Path, trust: bool) -> Recipe:
    """Return a recipe that was found in a folder; where it is trusted, its relative paths start from ``base_dir``.

    Without trust the folder leads nowhere: its paths start from itself, and nothing in it may name code or a file.

    Args:
        recipe: as read from the folder.
        folder: where it was found.
        base_dir: where the folder says that its relative paths start from.
        trust: whether the caller said that the code it names may run.

    Raises:
        UsageError: it needs code or files, which are named, and is not trusted.
    """
    if trust:
        return recipe.located(base_dir)
    need = needed_trust(recipe, folder)
    if need is not None:
        raise UsageError(
            f"{folder} needs {need}; look at it, and if you trust whoever made the folder give --trust (trust=True)."
        )
    return recipe.located(folder)


def needed_trust(recipe: Recipe, folder: Path) -> str | None:
    """Return what a recipe needs beside built-in models and those that libraries ship; None where nothing."""
    from prunus.experiments.workloads import WORKLOADS

    library, colon, name = recipe.model.partition(":")
    if recipe.model not in WORKLOADS:
        if not colon or library not in _LIBRARIES:
            return f"the code {recipe.model!r} for its model, which would be run"
        if library == "hf" and (name.startswith((".", "/", "~")) or name.count("/") > 1 or (folder / name).exists()):
            return f"the model folder {name!r}"
        argument = _argument(library, recipe.model_args)
        if argument is not None:
            return f"the argument {argument!r} for its model, which may name code or a file"
    if recipe.checkpoint is not None:
        return f"the file {recipe.checkpoint!r} for the weights of its model"
    if recipe.transfer:
        return f"the file {recipe.transfer['from']!r} from which its model is transferred"
    if recipe.data not in WORKLOADS and recipe.data != NO_DATA:
        images = recipe.data.startswith("imagefolder:")
        return f"the files {recipe.data!r}" if images else f"the code {recipe.data!r} for its data, which would be run"
    return None


def _argument(library: str, given: Mapping[str, Any]) -> str | None:
    """Return an argument that is not known to be harmless."""
    for key, value in given.items():
        if key in _TEXTS[library] and type(value) is str and value.replace("-", "_").replace(".", "_").isidentifier():
            continue
        if key == "attn_implementation" and value in ("eager", "sdpa"):
            continue
        known = key in _SWITCHES if library == "hf" else key not in _FILES
        if not known or not _plain(value):
            return f"{key}: {value}"[:80]
    return None


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or type(value) in (bool, int, float)
