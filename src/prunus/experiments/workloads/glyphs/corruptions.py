"""Five kinds of corruption, each in five severities, for images that a model was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prunus.errors import OptionError
from prunus.experiments.workloads.glyphs.render import SIDE, blurred, quantised
from prunus.foundation.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)
_NOISE = (0.06, 0.10, 0.15, 0.21, 0.28)  # deviation, of a grey range of 1
_BLUR = (0.7, 1.0, 1.4, 1.9, 2.5)  # deviation, pixels
_CONTRAST = (0.7, 0.5, 0.35, 0.25, 0.17)  # factor of the contrast
_OCCLUSION = (0.04, 0.08, 0.13, 0.19, 0.26)  # covered share of the image
_CELLS = (26, 21, 17, 14, 12)  # pixels along a side, for pixelation

Corrupt = Callable[[Tensor, int, np.random.Generator], Tensor]
CORRUPTIONS: Registry[Corrupt] = Registry("corruption")


def corrupted(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Return the images with one corruption; seed, kind and severity determine it.

    Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    arXiv:1903.12261 (the idea of kinds in five severities).

    Args:
        images: Grey values as bytes.
        kind: A name of CORRUPTIONS: noise, blur, contrast, occlusion, pixelation.
        severity: 1 (slight) to 5 (heavy).
        seed: The seed of the corruption.

    Shapes: (N, 32, 32) uint8 → (N, 32, 32) uint8.

    Raises:
        OptionError: an unknown kind, or a severity outside 1..5.
    """
    corrupt = CORRUPTIONS.get(kind)
    if severity not in SEVERITIES:
        raise OptionError(f"severity of {kind!r} is {severity!r}; allowed: 1, 2, 3, 4 or 5.")
    # One random stream per kind: with the severity the same noise grows and the same patch widens.
    stream = np.random.SeedSequence(seed, spawn_key=(CORRUPTIONS.names().index(kind),))
    return quantised(corrupt(images.float() / 255, severity - 1, np.random.Generator(np.random.PCG64(stream))))


@CORRUPTIONS.register("noise")
def _noise(images: Tensor, level: int, generator: np.random.Generator) -> Tensor:
    return images + _NOISE[level] * torch.from_numpy(generator.standard_normal(tuple(images.shape), dtype=np.float32))


@CORRUPTIONS.register("blur")
def _blur(images: Tensor, level: int, generator: np.random.Generator) -> Tensor:
    return blurred(images, torch.full((len(images),), _BLUR[level]), reach=7)


@CORRUPTIONS.register("contrast")
def _contrast(images: Tensor, level: int, generator: np.random.Generator) -> Tensor:
    middle = images.mean((1, 2), keepdim=True)
    return middle + _CONTRAST[level] * (images - middle)


@CORRUPTIONS.register("occlusion")
def _occlusion(images: Tensor, level: int, generator: np.random.Generator) -> Tensor:
    """Cover a square of one grey, somewhere in the middle half, with its centre and grey drawn at random."""
    draws = torch.from_numpy(generator.random((3, len(images)), dtype=np.float32))
    half = SIDE * math.sqrt(_OCCLUSION[level]) / 2
    centre = SIDE * (0.25 + 0.5 * draws[:2])
    places = torch.arange(SIDE) + 0.5
    inside = (places - centre[:, :, None]).abs() <= half  # (2, N, 32): down, across
    covered = inside[0, :, :, None] & inside[1, :, None, :]
    return torch.where(covered, draws[2, :, None, None], images)


@CORRUPTIONS.register("pixelation")
def _pixelation(images: Tensor, level: int, generator: np.random.Generator) -> Tensor:
    cells = functional.adaptive_avg_pool2d(images[:, None], _CELLS[level])
    return functional.interpolate(cells, size=(SIDE, SIDE), mode="nearest")[:, 0]
