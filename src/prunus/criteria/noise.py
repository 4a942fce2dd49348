"""Gaussian noise in place of calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.errors import OptionError


def noise_batches(example_inputs: Any, *, samples: int = 512, batch_size: int = 32, seed: int = 0) -> list[Any]:
    """Return batches of random inputs without labels, with the shape, mean and spread of the example.

    Floating-point tensors get Gaussian noise with the example's mean and standard deviation (0 and 1 where the example
    is constant), integers are drawn uniformly between the example's least and largest, booleans stay. A tensor
    whose first dim differs from that of the first tensor stays as it is.

    Source: own; data-free calibration by Gaussian inputs as a baseline: Nagel et al., "Data-Free Quantization Through
    Weight Equalization and Bias Correction", arXiv:1906.04721.

    Args:
        example_inputs: as given to `prunus.prune`: a tensor, a tuple, or a mapping of keyword arguments.
        samples: number of samples in all.
        batch_size: most samples in a batch.
        seed: seed of the noise.

    Raises:
        OptionError: fewer than one sample, or an example without tensors.
    """
    leaves, spec = pytree.tree_flatten(example_inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
    if samples < 1 or batch_size < 1:
        raise OptionError(f"samples is {samples} and batch_size {batch_size}; allowed: whole numbers of at least 1.")
    if not tensors:
        raise OptionError("the example inputs hold no tensor with samples; noise needs one to take its shape from.")
    count, generator = len(tensors[0]), torch.Generator().manual_seed(seed)
    sizes = [min(batch_size, samples - done) for done in range(0, samples, batch_size)]
    return [pytree.tree_unflatten([_noise(leaf, count, size, generator) for leaf in leaves], spec) for size in sizes]


def data_or_noise(data: Iterable[Any] | str | None, example_inputs: Any, seed: int) -> Iterable[Any] | None:
    """Return the data unchanged, or noise where they are the word ``noise``.

    Raises:
        OptionError: another word.
    """
    if not isinstance(data, str):
        return data
    if data != "noise":
        raise OptionError(
            f'data is {data!r}; allowed: batches, None, or "noise" for noise that looks like the example.'
        )
    return noise_batches(example_inputs, seed=seed)


def _noise(leaf: Any, count: int, size: int, generator: torch.Generator) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.dim() or len(leaf) != count:
        return leaf
    shape = (size, *leaf.shape[1:])
    if leaf.dtype is torch.bool:
        return leaf[:1].expand(shape).clone()
    if not leaf.is_floating_point():
        least, largest = (int(leaf.min()), int(leaf.max())) if leaf.numel() else (0, 0)
        return torch.randint(least, largest + 1, shape, generator=generator).to(leaf)
    values = leaf.detach().double()
    spread = float(values.std()) if leaf.numel() > 1 else 0.0
    mean, spread = (float(values.mean()), spread) if spread > 0 else (0.0, 1.0)
    return (mean + spread * torch.randn(shape, generator=generator)).to(leaf)
