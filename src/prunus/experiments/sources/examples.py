"""Example inputs for a model that a text names, where the user gave none."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import ModelError, OptionError

_TOKENS, _SAMPLES, _IMAGE = 16, 16_000, 224
_DTYPES = {"float": torch.float32, "int": torch.int64, "bool": torch.bool}


def example_inputs(text: str, model: nn.Module, shapes: Sequence[str] = ()) -> Any:
    """Return arguments for one call of the model that ``text`` names, with a batch of one.

    Args:
        text: as for `resolve_model`.
        model: the model that `resolve_model` returned for it.
        shapes: one for each positional argument, such as ``1,3,224,224`` or ``1,16:int``; none takes the inputs that
            the source knows: the built-in workload's own, timm's and torchvision's usual image size, the config of
                transformers.

    Raises:
        OptionError: a shape that cannot be read.
        ModelError: the inputs are unknown, and no shape was given.
    """
    from prunus.experiments.workloads import WORKLOADS

    source, _, name = text.partition(":")
    if source == "hf":
        return _for_config(text, model, shapes)
    if shapes:
        return tuple(parse_shape(shape) for shape in shapes)
    if text in WORKLOADS:
        return WORKLOADS.get(text).example_inputs()
    if source == "torchvision":
        return _for_torchvision(name)
    if source == "timm":
        return (_noise(1, *getattr(model, "pretrained_cfg", {}).get("input_size", (3, _IMAGE, _IMAGE))),)
    raise ModelError(
        f"model {text!r}: the shape of its input is not known; add --input-shape, such as 1,3,224,224, or 1,16:int "
        "for ids; once for each argument."
    )


def parse_shape(text: str) -> Tensor:
    """Return a tensor of a shape in text: noise, or zeros for ``:int`` and ``:bool``.

    Raises:
        OptionError: the text is no list of whole numbers with commas, or names another type.

    Example:
        >>> parse_shape("2,16:int").shape, parse_shape("2,16:int").dtype
        (torch.Size([2, 16]), torch.int64)
    """
    numbers, _, kind = text.partition(":")
    parts = [part.strip() for part in numbers.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or (kind or "float") not in _DTYPES:
        raise OptionError(
            f"--input-shape: got {text!r}; allowed: whole numbers with commas, such as 1,3,224,224, then maybe "
            f"one of {', '.join(':' + name for name in _DTYPES)}."
        )
    shape = [int(part) for part in parts]
    return _noise(*shape) if kind in ("", "float") else torch.zeros(shape, dtype=_DTYPES[kind])


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _for_torchvision(name: str) -> Any:
    """Return one image, clip, or list of images in the size of the model's own preprocessing."""
    models = importlib.import_module("torchvision.models")
    weights = list(models.get_model_weights(name))
    preset = weights[0].transforms() if weights else None
    size = getattr(preset, "crop_size", None)
    side = size if isinstance(size, (list, tuple)) else [_IMAGE]
    image = (side[0], side[-1])
    families = {family: models.list_models(module=getattr(models, family)) for family in ("video", "detection")}
    if name in families["video"]:
        return (_noise(1, 3, 16, *image),)
    if name in families["detection"]:
        return ([_noise(3, *image)],)
    if name in models.list_models(module=models.optical_flow):
        return _noise(1, 3, 128, 128), _noise(1, 3, 128, 128)
    return (_noise(1, 3, *image),)


def _for_config(text: str, model: nn.Module, shapes: Sequence[str]) -> dict[str, Tensor]:
    """Return the main input of a transformers model, and further inputs that it requires."""
    config: Any = model.config
    main = str(getattr(model, "main_input_name", "input_ids"))
    if len(shapes) > 1:
        raise OptionError(
            f"--input-shape: got {len(shapes)} shapes for {text!r}; allowed: one, that of {main}. Give one."
        )
    joint = hasattr(config, "vision_config") and hasattr(config, "text_config")
    names = ["input_ids", "pixel_values"] if joint else [main]
    inputs = {name: _by_name(text, name, config) for name in names if not (shapes and name == main)}
    if shapes:
        inputs[main] = parse_shape(shapes[0] + (":int" if main.endswith("_ids") and ":" not in shapes[0] else ""))
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _by_name(text, "decoder_input_ids", config)
    return inputs


def _by_name(text: str, name: str, config: Any) -> Tensor:
    if name.endswith("input_ids"):
        words = getattr(config, "text_config", config).vocab_size
        return torch.randint(0, words, (1, _TOKENS), generator=torch.Generator().manual_seed(0))
    if name == "pixel_values":
        seen = getattr(config, "vision_config", config)
        size = getattr(seen, "image_size", _IMAGE)
        height, width = (size, size) if isinstance(size, int) else size
        return _noise(1, getattr(seen, "num_channels", 3), height, width)
    if name == "input_features" and hasattr(config, "max_source_positions"):
        return _noise(1, config.num_mel_bins, 2 * config.max_source_positions)
    if name == "input_values" and not hasattr(config, "num_mel_bins"):
        return _noise(1, _SAMPLES)
    raise ModelError(f"model {text!r}: the shape of its input {name!r} is not known; add --input-shape.")
