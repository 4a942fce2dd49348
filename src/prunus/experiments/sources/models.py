"""The step from the ``model:`` text of a recipe to an ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import ModelError, nearest
from prunus.experiments.sources.callables import call_source, is_callable_source
from prunus.experiments.sources.checkpoints import load_checkpoint_
from prunus.experiments.sources.hub import from_hf, from_timm, from_torchvision
from prunus.foundation.as_found import seeded
from prunus.foundation.user_code import errors_named, one_line

_HUBS: dict[str, Callable[[str, Mapping[str, Any], Path], nn.Module]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_hf,
}
FORMS = "torchvision:NAME, timm:NAME, hf:PATH, package.module:callable, file.py:callable"


def resolve_model(
    text: str,
    args: Mapping[str, Any] | None = None,
    base_dir: Path | str = ".",
    checkpoint: str | None = None,
    *,
    seed: int = 0,
) -> nn.Module:
    """Build the model that ``text`` names, with new weights drawn from ``seed`` if it has none of its own.

    Args:
        text: ``torchvision:NAME``, ``timm:NAME``, ``hf:PATH``, ``package.module:callable``, ``file.py:callable``, or
            the name of a built-in workload.
        args: keyword arguments of the function that builds it.
        base_dir: the folder from which relative paths start.
        checkpoint: a ``.safetensors`` or ``.pt`` state dict to load, relative to ``base_dir``.
        seed: the seed of the initial weights; the global random state is restored.

    Raises:
        ModelError: it cannot be found or built, is not a module, has no parameters, or a weight is not finite.

    Example:
        >>> type(resolve_model("torch.nn:Linear", {"in_features": 2, "out_features": 1})).__name__
        'Linear'
    """
    base = Path(base_dir)
    with seeded(seed):
        model = _built(text, dict(args or {}), base, seed)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {text!r} returned a {type(model).__name__}; allowed: a torch.nn.Module. Return one.")
    if checkpoint is not None:
        load_checkpoint_(model, base / Path(checkpoint).expanduser())
    _check_weights(model, text)
    return model


def _built(text: str, args: dict[str, Any], base: Path, seed: int) -> Any:
    from prunus.experiments.workloads import WORKLOADS

    place, colon, rest = text.partition(":")
    if colon and place in _HUBS:
        if not rest:
            raise ModelError(f"model {text!r}: the name after {place + ':'!r} is missing; allowed: {FORMS}.")
        return _HUBS[place](rest, args, base)
    if text in WORKLOADS:
        if args:
            raise ModelError(f"model {text!r} is built in and takes no arguments; got {', '.join(args)}. Remove them.")
        return WORKLOADS.get(text).build(seed)
    if is_callable_source(text):
        try:
            return call_source(text, args, base, ModelError, seed)
        except ModelError as error:
            raise ModelError(
                f"model {one_line(error, 600)}{nearest(place, _HUBS) if '.' not in place else ''}"
            ) from error
    near = nearest(text, WORKLOADS.names())
    raise ModelError(
        f"model {text!r} is not known.{near} Allowed: {FORMS}, or built in: {', '.join(WORKLOADS.names())}."
    )


def _check_weights(model: nn.Module, text: str) -> None:
    with errors_named(repr(text), ModelError):
        parameters = dict(model.named_parameters())
    if not parameters:
        raise ModelError(f"model {text!r} has no parameters; there is nothing to prune. Give a trained network.")
    for name, tensor in parameters.items():
        if not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"model {text!r}: {count} of {tensor.numel()} values of {name!r} are NaN or infinite; "
                "load sound weights."
            )
    for name, buffer in model.named_buffers():
        # An infinite buffer may be an attention mask; NaN never is.
        if buffer.is_floating_point() and torch.isnan(buffer).any():
            raise ModelError(f"model {text!r}: the buffer {name!r} holds NaN; load sound weights.")
