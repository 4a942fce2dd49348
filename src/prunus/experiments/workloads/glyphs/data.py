"""The glyphs as splits: rendered once, stored in the user's cache, with sets of shifted test data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from prunus.data.batches import check_count
from prunus.data.sources import Split
from prunus.data.splits import Splits
from prunus.errors import OptionError
from prunus.experiments.workloads.glyphs.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from prunus.experiments.workloads.glyphs.fonts import CHARACTERS, HELD_OUT, SEEN, draw_fonts, find_fonts, tools
from prunus.experiments.workloads.glyphs.render import GlyphSet, render
from prunus.foundation.cache import cache_folder, cached_tensors

VERSION = 1  # raised with every change of an image
TAIL_RATIO = 50.0
MEAN, DEVIATION = 0.5, 0.25  # of the grey values, roughly; the same for every set


@dataclass(frozen=True, slots=True)
class GlyphSizes:
    """The number of images in each set; a set does not change when another one's size does.

    Raises:
        OptionError: a size below 1.
    """

    train: int = 24_000
    calibration: int = 512
    selection: int = 2_000
    test: int = 4_000
    unseen_fonts: int = 2_000

    def __post_init__(self) -> None:
        for item in fields(self):
            check_count(f"GlyphSizes.{item.name}", getattr(self, item.name))


def glyph_sets(sizes: GlyphSizes | None = None, seed: int = 0) -> dict[str, GlyphSet]:
    """Return the five sets of images by the names of `GlyphSizes`, from the cache or rendered.

    ``unseen_fonts`` is drawn from fonts that no other set holds.

    Raises:
        DataError: matplotlib or Pillow is missing, or the fonts are.
    """
    check_count("seed", seed, least=0)
    sizes, key = sizes or GlyphSizes(), glyph_key(sizes, seed)
    stored = cached_tensors(
        cache_folder() / "glyphs" / f"{key}.safetensors", lambda: _rendered(sizes, seed), "workload 'glyphs'"
    )
    return {
        item.name: GlyphSet(*(stored[f"{item.name}.{part}"] for part in ("images", "labels", "fonts")))
        for item in fields(sizes)
    }


def glyph_key(sizes: GlyphSizes | None = None, seed: int = 0) -> str:
    """Return 16 hexadecimal digits that depend on version, seed, sizes, fonts and tools, and so identify the images.

    Raises:
        DataError: matplotlib or Pillow is missing, or the fonts are.
    """
    parts = {
        "version": VERSION,
        "seed": seed,
        "sizes": asdict(sizes or GlyphSizes()),
        "fonts": [(font.name, font.digest) for names in (SEEN, HELD_OUT) for font in find_fonts(names)],
        "tools": tools(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_glyphs(sizes: GlyphSizes | None = None, seed: int = 0, tail_ratio: float = 1.0) -> Splits:
    """Return the glyphs in the four splits, classes in the order 0..9, A..Z, a..z.

    Args:
        sizes: The number of images in each split.
        seed: The seed of all random numbers.
        tail_ratio: The frequency of the most frequent class of the train split ÷ that of the least frequent; the other
            splits stay balanced.

    Shapes: inputs (N, 1, 32, 32) float32, (grey − ½) / ¼; targets (N) int64.

    Raises:
        DataError: matplotlib or Pillow is missing, or the fonts are.
        OptionError: a ratio below 1, or a negative seed.
    """
    sets = glyph_sets(sizes, seed)
    train = sets["train"]
    if tail_ratio != 1:
        train = train.take(long_tail(train.labels, tail_ratio, seed))
    return Splits(
        train=as_split(train, "train"),
        calibration=as_split(sets["calibration"], "calibration"),
        selection=as_split(sets["selection"], "selection"),
        test=as_split(sets["test"], "test"),
        classes=tuple(CHARACTERS),
    )


def long_tail(labels: Tensor, ratio: float, seed: int = 0) -> Tensor:
    """Return the indices of the samples that are left when class frequencies fall geometrically.

    The k-th of the C classes, in a random order, keeps the first n · ratio^(−k/(C−1)) of its n samples, at least one.
    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", arXiv:1901.05555 (the profile).

    Args:
        labels: The class of each sample.
        ratio: Largest class ÷ smallest class.
        seed: The seed of the order of the classes.

    Shapes: labels (N) → (kept) int64, ascending.

    Raises:
        OptionError: a ratio below 1.
    """
    if not 1 <= ratio < float("inf"):
        raise OptionError(f"tail_ratio is {ratio!r}; allowed: a finite number of at least 1.")
    classes = torch.unique(labels).tolist()
    order = _generator(seed, len(fields(GlyphSizes))).permutation(len(classes))
    kept = []
    for place, index in enumerate(order.tolist()):
        rows = (labels == classes[index]).nonzero()[:, 0]
        kept.append(rows[: max(1, round(len(rows) * ratio ** (-place / max(1, len(classes) - 1))))])
    return torch.cat(kept).sort().values


def as_split(glyphs: GlyphSet, name: str) -> Split:
    """Return images as a split on which a model can be trained."""
    return Split(((glyphs.images.float() / 255 - MEAN) / DEVIATION)[:, None], glyphs.labels.long(), name)


def _shift(kind: str, severity: int) -> Callable[[], Split]:
    def load() -> Split:
        test = glyph_sets()["test"]
        return as_split(GlyphSet(corrupted(test.images, kind, severity), test.labels, test.fonts), f"{kind}-{severity}")

    return load


# Name → function that loads the set; nothing is rendered before its call.
SHIFTS: Mapping[str, Callable[[], Split]] = {
    "unseen-fonts": lambda: as_split(glyph_sets()["unseen_fonts"], "unseen-fonts"),
    **{f"{kind}-{severity}": _shift(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES},
}


def _rendered(sizes: GlyphSizes, seed: int) -> dict[str, Tensor]:
    drawn = {names: draw_fonts(find_fonts(names)) for names in (SEEN, HELD_OUT)}
    found: dict[str, Tensor] = {}
    for number, item in enumerate(fields(sizes)):
        names = HELD_OUT if item.name == "unseen_fonts" else SEEN
        made = render(drawn[names], getattr(sizes, item.name), _generator(seed, number))
        found |= {f"{item.name}.{part}": getattr(made, part) for part in ("images", "labels", "fonts")}
    return found


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(VERSION, stream))))
