"""The fonts of matplotlib that have all 62 characters, and each character drawn once in large size."""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.foundation.registry import words

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
# Only text fonts: the symbol fonts (cmex10, cmsy10, STIXSiz…) have other shapes at these codes, and cmmi10 has the
# digits of old books, whose 0 is an o.
SEEN = words(
    "DejaVuSans DejaVuSans-Bold DejaVuSans-BoldOblique DejaVuSans-Oblique "
    "DejaVuSansMono DejaVuSansMono-Bold DejaVuSansMono-BoldOblique "
    "DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic "
    "STIXGeneral STIXGeneralBolIta STIXGeneralItalic "
    "cmb10 cmr10 cmtt10"
)
HELD_OUT = ("DejaVuSansMono-Oblique", "DejaVuSerif-BoldItalic", "STIXGeneralBol", "cmss10", "cmti10")
CANVAS, EM, BASELINE = 64, 48, 46  # pixels, at twice the size of an image


@dataclass(frozen=True, slots=True)
class Font:
    """A font file; ``digest`` is the SHA-256 of its bytes."""

    name: str
    path: Path
    digest: str


def find_fonts(names: tuple[str, ...]) -> tuple[Font, ...]:
    """Return the fonts of these names in the installed matplotlib, in the given order.

    Raises:
        DataError: matplotlib is missing, or has none of them.
    """
    try:
        from matplotlib import get_data_path
    except ImportError as error:
        raise _missing("matplotlib") from error
    folder = Path(get_data_path()) / "fonts" / "ttf"
    files = {name: folder / f"{name}.ttf" for name in names}
    found = {name: path for name, path in files.items() if path.is_file()}
    if not found:
        raise DataError(
            f"workload 'glyphs' found none of its {len(names)} fonts ({names[0]}.ttf, …) in {str(folder)!r}; "
            "install matplotlib from its own wheel, which brings them along."
        )
    return tuple(Font(name, path, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in found.items())


def draw_fonts(fonts: tuple[Font, ...]) -> Tensor:
    """Return every character of every font, white on black, all on one baseline and at one size of type.

    A common baseline and size distinguishes c from C, and o from O from 0 where their shapes are the same.

    Shapes: → (fonts, 62, 64, 64) uint8.

    Raises:
        DataError: Pillow is missing, or cannot read a font.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise _missing("Pillow") from error
    drawn = np.zeros((len(fonts), len(CHARACTERS), CANVAS, CANVAS), np.uint8)
    for row, font in enumerate(fonts):
        try:
            # The basic layout does not need libraqm, which some builds of Pillow lack.
            face = ImageFont.truetype(str(font.path), EM, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise DataError(f"workload 'glyphs' cannot read the font {str(font.path)!r}; reinstall matplotlib.") from (
                error
            )
        for column, character in enumerate(CHARACTERS):
            image = Image.new("L", (CANVAS, CANVAS))
            ImageDraw.Draw(image).text((CANVAS // 2, BASELINE), character, fill=255, font=face, anchor="ms")
            drawn[row, column] = np.asarray(image)
    return torch.from_numpy(drawn)


def tools() -> str:
    """Return the versions of the libraries that draw the characters and the random numbers.

    Raises:
        DataError: Pillow is missing.
    """
    try:
        from PIL import __version__, features
    except ImportError as error:
        raise _missing("Pillow") from error
    return f"numpy {np.__version__}, pillow {__version__}, freetype {features.version('freetype2')}"


def _missing(package: str) -> DataError:
    return DataError(
        f"workload 'glyphs' needs {package}, which is not installed. Run: pip install 'prunus[report]' "
        "(matplotlib, which brings Pillow and the fonts along)."
    )
