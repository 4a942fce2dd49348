"""The images of a folder tree: one folder per class, with or without folders for the splits above them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prunus.errors import DataError, nearest

_ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
_TEST_NAMES = ("test", "val", "valid", "validation")
_FEWEST = 4


@dataclass(frozen=True, slots=True)
class Labelled:
    """Image files with the number of their class."""

    files: tuple[Path, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The images of every split, and the class names in order of their numbers."""

    splits: dict[str, Labelled]
    classes: tuple[str, ...]


def find_images(folder: Path, test_fraction: float = 0.2, held_fraction: float = 0.1) -> Found:
    """Return the train, calibration, selection and test images under ``folder``.

    With a folder ``train`` the test images come from ``test``, else from ``val``; with both, ``val`` gives the
    selection images. Without it, the class folders lie in ``folder`` itself and every class is divided. The split of an
    image depends on a hash of its path inside the folder, so it is the same on every machine and in every run.

    Args:
        folder: the root.
        test_fraction: the share of each class for test, where no folder defines it.
        held_fraction: the share of each class for calibration, and the same again for selection.

    Raises:
        DataError: no folder, no class folders, an empty class, too few images, or a test class unknown to train.
    """
    if not folder.is_dir():
        near = nearest(folder.name, _folder_names(folder.parent)) if folder.parent.is_dir() else ""
        raise DataError(
            f"imagefolder {str(folder)!r}: no such folder.{near} Give a path relative to the recipe's folder."
        )
    if not (folder / "train").is_dir():
        by_class = _by_class(folder)
        fractions = {"test": test_fraction, "calibration": held_fraction, "selection": held_fraction}
        return _divided(folder, by_class, fractions, {})
    given = {name: _by_class(folder / name) for name in _TEST_NAMES if (folder / name).is_dir()}
    if not given:
        raise DataError(
            f"imagefolder {str(folder)!r}: it has 'train' but none of {', '.join(_TEST_NAMES)}; "
            "add a folder with test images."
        )
    test = next(iter(given))
    fixed = {"test": given[test]}
    if test == "test" and len(given) > 1:
        fixed["selection"] = given[list(given)[1]]
    fractions = {name: held_fraction for name in ("calibration", "selection") if name not in fixed}
    return _divided(folder, _by_class(folder / "train"), fractions, fixed)


def _divided(
    folder: Path,
    by_class: dict[str, list[Path]],
    fractions: dict[str, float],
    fixed: dict[str, dict[str, list[Path]]],
) -> Found:
    classes = tuple(by_class)
    parts: dict[str, dict[str, list[Path]]] = {"train": {}, **{name: {} for name in fractions}, **fixed}
    for name, files in by_class.items():
        if len(files) < _FEWEST:
            raise DataError(
                f"imagefolder {str(folder)!r}: class {name!r} has {len(files)} images; at least {_FEWEST} are needed "
                "to divide it. Add images or remove the class."
            )
        rest = sorted(files, key=lambda file: hashlib.sha256(file.relative_to(folder).as_posix().encode()).digest())
        for split, fraction in fractions.items():
            count = max(1, round(fraction * len(files)))
            parts[split][name], rest = rest[:count], rest[count:]
        parts["train"][name] = rest
    for split, content in fixed.items():
        for name in content:
            if name not in classes:
                raise DataError(
                    f"imagefolder {str(folder)!r}: class {name!r} of {split} is not in train.{nearest(name, classes)} "
                    f"Train has: {', '.join(classes[:12])}."
                )
    return Found({split: _labelled(content, classes) for split, content in parts.items()}, classes)


def _labelled(content: dict[str, list[Path]], classes: tuple[str, ...]) -> Labelled:
    pairs = [(file, classes.index(name)) for name, files in content.items() for file in files]
    return Labelled(tuple(file for file, _ in pairs), tuple(number for _, number in pairs))


def _by_class(folder: Path) -> dict[str, list[Path]]:
    names = _folder_names(folder)
    if not names:
        loose = len(_images(folder.iterdir()))
        got = f"{loose} images without a class folder" if loose else "no folders and no images"
        raise DataError(
            f"imagefolder {str(folder)!r}: got {got}; allowed: one folder per class with its images inside. "
            "Sort them so."
        )
    if len(names) == 1:
        raise DataError(f"imagefolder {str(folder)!r}: only the class {names[0]!r} was found; at least 2 are needed.")
    found = {name: sorted(_images((folder / name).rglob("*"))) for name in names}
    for name, files in found.items():
        if not files:
            raise DataError(
                f"imagefolder {str(folder)!r}: the class folder {name!r} holds no image "
                f"({', '.join(sorted(_ENDINGS))}); add images or remove the folder."
            )
    return found


def _images(entries: Iterable[Path]) -> list[Path]:
    return [
        entry
        for entry in entries
        if entry.suffix.lower() in _ENDINGS and not entry.name.startswith(".") and entry.is_file()
    ]


def _folder_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
