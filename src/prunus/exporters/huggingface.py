"""A cut Hugging Face model as an instance of its own class again, and as a folder that loads without prunus."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import ModelError
from prunus.exporters.config_build import Builder, Changes, quiet, spelled
from prunus.exporters.config_instance import as_pretrained, call_of, dense_config
from prunus.exporters.config_proof import outputs
from prunus.exporters.config_search import ELSE, UntoldError
from prunus.exporters.header import CHECKPOINT
from prunus.exporters.own_folder import write_card, write_own_folder
from prunus.exporters.parts import Pruned, parts
from prunus.foundation.atomic_files import atomic_dir
from prunus.foundation.checksum import add_checksum
from prunus.foundation.places import Contents
from prunus.plans import PLAN, PLAN_FILES
from prunus.surgery.proving.proof_run import relative_error

_HUGGINGFACE = (
    *("config.json", "generation_config.json", "README.md"),
    *("model*.safetensors", "model.safetensors.index.json"),
)
FOLDER = Contents(PLAN, CHECKPOINT.names.union(_HUGGINGFACE), PLAN_FILES.text)


class NeedsPrunusWarning(UserWarning):
    """A Hugging Face folder was written that transformers cannot load by itself."""


def save_pretrained(result: Pruned, folder: Path | str, example_inputs: Any = None) -> Path:
    """Write a folder that ``AutoModel….from_pretrained`` loads without prunus; an older one is replaced.

    The folder is loaded once before it takes its place, and must give every tensor to the bit and the cut model's
    outputs; the plan is added as ``plan.json``. Where the config cannot say what was cut, the folder is a checkpoint
    that `prunus.load` reads; its config and its README say why, and transformers refuses to load it.

    Args:
        result: what `prunus.prune` returned.
        folder: where to.
        example_inputs: one call, for the proof; by default what the result remembers.

    Warns:
        NeedsPrunusWarning: the folder needs prunus, and why.

    Raises:
        ModelError: no transformers model.
    """
    try:
        return _save_told(result, folder, example_inputs)
    except UntoldError as error:
        with atomic_dir(folder, FOLDER) as temporary:
            write_own_folder(result, temporary, error.reason)
        warnings.warn(
            f"{folder} loads with prunus.load, not with transformers alone: {error.reason} Cut with config_ties=True "
            "for a folder that needs no prunus.",
            NeedsPrunusWarning,
            stacklevel=3,
        )
        return Path(folder)


def _save_told(result: Pruned, folder: Path | str, example_inputs: Any) -> Path:
    fresh = as_pretrained(result, example_inputs)
    model, plan, surgery = parts(result)
    inputs = call_of(result, model, example_inputs)
    with atomic_dir(folder, FOLDER) as temporary:
        with quiet():
            fresh.save_pretrained(temporary)  # type: ignore[operator]
            for weights in temporary.glob("model*.safetensors"):
                add_checksum(weights)
            loaded = type(fresh).from_pretrained(temporary)  # type: ignore[attr-defined]
        _check(model, fresh, loaded.to(next(model.parameters()).device), inputs)
        plan.write(temporary)
        old, new = (Builder(type(fresh), c).numbers(least=1) for c in (dense_config(model, surgery), fresh.config))
        write_card(temporary, type(fresh), plan, {spelled(p): v for p, v in new.items() if old.get(p) != v})
    return Path(folder)


def update_config_(result: Pruned, example_inputs: Any = None) -> dict[str, int]:
    """Set the numbers of the cut model's own config to what the network now is; all of them or none.

    Returns:
        Config field → new number.

    Raises:
        ModelError: as `as_pretrained`, or a forward reads a number that it needs as it was; nothing is changed then.
    """
    model = parts(result)[0]
    fresh = as_pretrained(result, example_inputs)
    inputs = call_of(result, model, example_inputs)
    before = outputs(model, inputs)
    old, new = (Builder.of(m).numbers(least=1) for m in (model, fresh))
    changes = {p: v for p, v in new.items() if old.get(p) != v}
    _assign_(model.config, changes)
    if not _same(outputs(model, inputs), before):
        _assign_(model.config, {p: old[p] for p in changes})
        raise ModelError(
            f"A forward of {type(fresh).__name__} reads a number of its config; it stays as it was. {ELSE}"
        )
    return {spelled(p): v for p, v in changes.items()}


def _check(model: nn.Module, fresh: nn.Module, loaded: nn.Module, inputs: Any) -> None:
    """Insist that what the folder gives is what was meant."""
    own, back = fresh.state_dict(), loaded.state_dict()
    name = next((n for n in {**own, **back} if n not in own or n not in back or not torch.equal(own[n], back[n])), None)
    if name is not None:
        raise UntoldError(f"{type(fresh).__name__} does not load {name!r} as it was saved.", ELSE.capitalize())
    if not _same(outputs(loaded, inputs), outputs(model, inputs)):
        raise UntoldError(f"{type(fresh).__name__} loaded from the folder computes something else.", ELSE.capitalize())


def _same(got: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    eps = max((torch.finfo(t.dtype).eps for t in expected if t.is_floating_point()), default=0.0)
    return relative_error(got, expected) <= 100 * eps


def _assign_(config: Any, changes: Changes) -> None:
    for path, value in changes.items():
        *above, last = path
        place = config
        for step in above:
            place = place[step] if isinstance(step, int) else getattr(place, step)
        if isinstance(last, int):
            place[last] = value
        else:
            setattr(place, last, value)
