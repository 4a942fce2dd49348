"""Noise in the place of data: splits without a real sample, labelled by the dense network itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.criteria import noise_batches
from prunus.data.batches import Batch, DataSource, call, device_of, logits_of, moved
from prunus.data.sources import BatchList, Split
from prunus.data.splits import Splits
from prunus.errors import DataError, ModelError, nearest
from prunus.experiments.sources.examples import example_inputs
from prunus.foundation.as_found import in_eval_mode

NOISE = "noise"
"""The value of ``calibration`` or ``data`` in a recipe that stands for noise."""
SAMPLES: Mapping[str, int] = {"train": 256, "calibration": 512, "selection": 256, "test": 512}
_BATCH = 32
_EXAMPLES = 2


def with_noise(splits: Splits, model: nn.Module, seed: int) -> Splits:
    """Return splits whose calibration split is noise; the others are not changed.

    It has the shape, mean and spread of the first two calibration samples, and its labels are drawn from
    the network's own p(y|x).

    Args:
        splits: the splits of the task.
        model: the trained network.
        seed: the seed of noise and labels.

    Raises:
        DataError: inputs without a tensor.
        ModelError: the model's outputs hold no floating-point tensor.
    """
    inputs, _ = next(iter(splits.calibration.batches(_EXAMPLES)))
    found = _split(model, inputs, "calibration", seed, len(splits.calibration), draw=True)
    return replace(splits, calibration=found)


def noise_splits(text: str, model: nn.Module, args: Mapping[str, Any], seed: int) -> Splits:
    """Return the four splits of a task for which there are no data.

    Inputs are noise of the shape that the model takes. Targets are the dense network's own predictions, drawn from
    p(y|x)
    for calibration and the most likely one elsewhere: accuracy on them is the share of noise samples on which a network
    agrees with the dense one.

    Args:
        text: the model, as in the recipe.
        model: the trained model that it names.
        args: ``input_shape``, a text such as 1,3,224,224 or 1,16:int, or a list of them, one for each argument; without
            it, the model's source has to know the shape.
        seed: the seed of noise and labels.

    Raises:
        DataError: an unknown argument, or unknown inputs.
        OptionError: a shape that cannot be read.
        ModelError: the model's outputs hold no floating-point tensor.
    """
    unknown = next((name for name in args if name != "input_shape"), None)
    if unknown is not None:
        raise DataError(
            f"data 'noise': unknown data_args key {unknown!r}.{nearest(unknown, ['input_shape'])} Allowed: input_shape."
        )
    given = args.get("input_shape", ())
    shapes = (given,) if isinstance(given, str) else given
    if not isinstance(shapes, list | tuple) or not all(isinstance(shape, str) for shape in shapes):
        raise DataError(
            f"data 'noise': data_args.input_shape: got {given!r}; allowed: a text such as '1,3,224,224', or a list."
        )
    try:
        example = example_inputs(text, model, shapes)
    except ModelError as error:
        raise DataError(
            f"data 'noise': the shape of the inputs of model {text!r} is not known; add "
            "data_args: {input_shape: '1,3,224,224'}, with :int behind it for ids."
        ) from error
    train, calibration, selection, test = (
        _split(model, example, name, 10 * seed + number, samples, draw=name == "calibration")
        for number, (name, samples) in enumerate(SAMPLES.items())
    )
    return Splits(train, calibration, selection, test)


def _split(model: nn.Module, example: Any, name: str, seed: int, samples: int, *, draw: bool) -> DataSource:
    batches = noise_batches(example, samples=samples, batch_size=_BATCH, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    items = _answered(model, batches, generator if draw else None)
    tensors = [inputs for inputs, _ in items if isinstance(inputs, Tensor)]
    if len(tensors) == len(items):
        return Split(torch.cat(tensors), torch.cat([targets for _, targets in items]), name)
    return BatchList(items, name)


@torch.no_grad()
def _answered(model: nn.Module, batches: list[Any], generator: torch.Generator | None) -> list[Batch]:
    """Return each batch with the network's outputs; the network's modes are restored."""
    found: list[Batch] = []
    with in_eval_mode(model):
        for batch in batches:
            single = isinstance(batch, tuple) and len(batch) == 1
            inputs = batch[0] if single else batch
            found.append((inputs, _targets(logits_of(call(model, moved(inputs, device_of(model)))).cpu(), generator)))
    return found


def _targets(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return one label per prediction; the output itself if it has one column, as in a regression.

    Classes lie on the last dim of (B, C) and (B, T, C), and on dim 1 of (B, C, H, W).
    """
    if logits.dim() < 2 or logits.shape[1:].numel() == 1:
        return logits
    lines = logits.movedim(1, -1) if logits.dim() > 3 else logits
    if generator is None:
        return lines.argmax(-1)
    chances = lines.double().softmax(-1)
    drawn = torch.multinomial(chances.reshape(-1, chances.shape[-1]), 1, generator=generator)
    return drawn.reshape(chances.shape[:-1])
