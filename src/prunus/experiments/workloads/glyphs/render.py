"""Random images of glyphs: turned, scaled, slanted, shifted, blurred, on an uneven background, with noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prunus.experiments.workloads.glyphs.fonts import CHARACTERS

SIDE = 32
MAX_DEGREES, MAX_SCALING, MAX_STRETCH, MAX_SLANT, MAX_SHIFT = 12.0, 0.08, 0.05, 0.15, 2.0
MAX_BLUR, MAX_NOISE, MAX_GRADIENT, MIN_CONTRAST, MAX_CONTRAST = 1.0, 0.12, 0.2, 0.3, 0.9
_CHUNK = 512  # images at a time, which limits memory


@dataclass(frozen=True, slots=True, eq=False)
class GlyphSet:
    """Images with their labels and fonts.

    Shapes: images (N, 32, 32) uint8, labels (N) uint8 into CHARACTERS, fonts (N) uint8 into the fonts drawn from.
    """

    images: Tensor
    labels: Tensor
    fonts: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> GlyphSet:
        """Return the samples at ``index``."""
        return GlyphSet(self.images[index], self.labels[index], self.fonts[index])


def render(drawn: Tensor, count: int, generator: np.random.Generator) -> GlyphSet:
    """Return ``count`` random images, equally many of each character, give or take one.

    The font of each is drawn uniformly. Uniform too, on top of it: turn ±12°, size 1 ± 0.08, width against height
    1 ± 0.05, slant ±0.15, shift ±2 pixels both ways, blur σ ≤ 1 pixel, contrast 0.3..0.9 of either sign, a slope of
    the background ≤ 0.2, noise σ ≤ 0.12.

    Args:
        drawn: the characters of `fonts.draw_fonts`.
        count: the number of images.
        generator: the source of all random numbers.

    Shapes: drawn (fonts, 62, 64, 64) uint8.
    """
    labels = generator.permutation(np.arange(count) % len(CHARACTERS))
    fonts = generator.integers(len(drawn), size=count)
    draws = torch.from_numpy(generator.random((count, 12), dtype=np.float32))
    images = torch.empty(count, SIDE, SIDE, dtype=torch.uint8)
    for start in range(0, count, _CHUNK):
        part = slice(start, min(start + _CHUNK, count))
        shape = (part.stop - start, SIDE, SIDE)
        noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        glyphs = drawn[torch.from_numpy(fonts[part]), torch.from_numpy(labels[part])].float() / 255
        ink = blurred(_moved(glyphs, draws[part, :6]), draws[part, 6] * MAX_BLUR)
        images[part] = quantised(_on_ground(ink, draws[part, 7:11]) + MAX_NOISE * draws[part, 11, None, None] * noise)
    return GlyphSet(images, torch.from_numpy(labels.astype(np.uint8)), torch.from_numpy(fonts.astype(np.uint8)))


def quantised(images: Tensor) -> Tensor:
    """Return grey values as bytes, clipped to 0..1."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def blurred(images: Tensor, sigma: Tensor, reach: int = 3) -> Tensor:
    """Return each image under a Gaussian of its own width, in pixels, cut off at ``reach``; edges are repeated.

    Shapes: images (B, h, w), sigma (B) → (B, h, w).
    """
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-2)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    for dim in (1, 2):
        length = images.shape[dim]
        images = sum(
            weights[:, tap, None, None] * images.index_select(dim, (torch.arange(length) + offset).clamp(0, length - 1))
            for tap, offset in enumerate(offsets.tolist())
        )  # type: ignore[assignment]  # a sum of tensors is typed as Tensor | int
    return images


def _moved(glyphs: Tensor, draws: Tensor) -> Tensor:
    """Turn, scale, slant and shift (bilinear), and halve the size.

    Shapes: glyphs (B, 64, 64), draws (B, 6) in 0..1 → (B, 32, 32).
    """
    turn, size, stretch, slant, across, down = (draws * 2 - 1).unbind(1)
    angle = turn * math.radians(MAX_DEGREES)
    wide = (1 + size * MAX_SCALING) * (1 + stretch * MAX_STRETCH)
    high = (1 + size * MAX_SCALING) / (1 + stretch * MAX_STRETCH)
    cos, sin, slant = torch.cos(angle), torch.sin(angle), slant * MAX_SLANT
    # From positions in the image back to those in the glyph: shift, turn, slant, size; the grid spans −1..1.
    right, below = across * 2 * MAX_SHIFT / SIDE, down * 2 * MAX_SHIFT / SIDE
    first, second = [(cos + slant * sin) / wide, (slant * cos - sin) / wide, right], [sin / high, cos / high, below]
    rows = torch.stack([*first, *second], 1)
    grid = functional.affine_grid(rows.reshape(-1, 2, 3), [len(glyphs), 1, *glyphs.shape[1:]], align_corners=False)
    return functional.avg_pool2d(functional.grid_sample(glyphs[:, None], grid, align_corners=False), 2)[:, 0]


def _on_ground(ink: Tensor, draws: Tensor) -> Tensor:
    """Mix ink into a background with a linear slope: background + contrast · ink, with contrast of either sign.

    Shapes: ink (B, h, w), draws (B, 4) in 0..1 → (B, h, w).
    """
    signed, level, slope, direction = draws.unbind(1)
    size = MIN_CONTRAST + (MAX_CONTRAST - MIN_CONTRAST) * (signed * 2 - 1).abs()
    dark_ink = signed < 0.5
    ground = level * (1 - size) + torch.where(dark_ink, size, torch.zeros(()))
    contrast = torch.where(dark_ink, -size, size)
    places = torch.linspace(-0.5, 0.5, ink.shape[-1])
    angle = direction * 2 * math.pi
    along = torch.cos(angle)[:, None, None] * places + torch.sin(angle)[:, None, None] * places[:, None]
    return ground[:, None, None] + slope[:, None, None] * MAX_GRADIENT * along + contrast[:, None, None] * ink
