"""Images from files, resized, cropped and normalised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.experiments.sources.image_files import Labelled

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The means of the three above, for grey images.
_GREY = ((0.449,), (0.226,))


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """The options of the conversion of an image to a tensor.

    The shorter side is resized to ``resize`` (default: image_size / 0.875), the central ``image_size`` square is cut
    out, and each channel becomes (x − mean) / std with x in [0, 1].

    Raises:
        DataError: a size below 1, channels other than 1 or 3, or mean and std that do not fit the channels.
    """

    image_size: int = 224
    resize: int | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("image_size", 1), ("resize", self.image_size)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise DataError(
                    f"imagefolder: data_args.{name}: got {value!r}; allowed: a whole number, {least} or more."
                )
        if self.channels not in (1, 3):
            raise DataError(f"imagefolder: data_args.channels: got {self.channels!r}; allowed: 1 (grey) or 3 (colour).")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and (
                len(values) != self.channels
                or not all(type(v) in (int, float) and (v > 0 or name == "mean") for v in values)
            ):
                raise DataError(f"imagefolder: data_args.{name}: got {values!r}; allowed: {self.channels} numbers.")

    @property
    def shorter_side(self) -> int:
        """The length of the resized shorter side in pixels."""
        return self.resize or round(self.image_size / 0.875)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return (pixels / 255 − mean) / std.

        Shapes: uint8 (…, C, S, S) → float32 (…, C, S, S).
        """
        mean, std = _IMAGENET if self.channels == 3 else _GREY
        mean_, std_ = torch.tensor(self.mean or mean), torch.tensor(self.std or std)
        return (pixels.float() / 255 - mean_[:, None, None]) / std_[:, None, None]


class ImageDataset:
    """The images of one split by number, decoded on request and cached as bytes while they fit in ``cache_bytes``.

    Args:
        found: files and class numbers.
        options: the options of the conversion to tensors.
        cache_bytes: the memory limit of decoded images.

    Raises:
        DataError: a file is not an image, or Pillow is not installed.
    """

    def __init__(self, found: Labelled, options: ImageOptions, cache_bytes: int = 1 << 29) -> None:
        self._found = found
        self._options = options
        self._room = cache_bytes // (options.channels * options.image_size**2)
        self._cache: dict[int, Tensor] = {}
        for file in found.files:
            # Reads only the header, so that a wrong file is named before hours of training.
            with _opened(file):
                pass

    def __len__(self) -> int:
        return len(self._found.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return image (C, S, S), float32, and class number."""
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = read_pixels(self._found.files[index], self._options)
            if len(self._cache) < self._room:
                self._cache[index] = pixels
        return self._options.normalise(pixels), self._found.targets[index]


def read_pixels(file: Path, options: ImageOptions) -> Tensor:
    """Decode, turn upright, resize and crop one image.

    Shapes: → uint8 (C, S, S) with S = ``options.image_size``.

    Raises:
        DataError: the file is not a whole image.
    """
    from PIL import Image, ImageOps

    size, side = options.image_size, options.shorter_side
    with _opened(file) as image:
        try:
            upright = ImageOps.exif_transpose(image).convert("RGB" if options.channels == 3 else "L")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"image {str(file)!r} is damaged ({error}); replace or remove the file.") from error
    width, height = upright.size
    scale = side / min(width, height)
    grown = upright.resize(
        (max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.BILINEAR
    )
    left, top = (grown.width - size) // 2, (grown.height - size) // 2
    array = np.asarray(grown.crop((left, top, left + size, top + size))).reshape(size, size, options.channels)
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def _opened(file: Path) -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise DataError("imagefolder needs Pillow, which is not installed; pip install 'prunus[vision]'.") from error
    try:
        return Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image {str(file)!r} cannot be read as an image; replace or remove the file.") from error
