"""The step from the ``data:`` text of a recipe to splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from prunus.data.sources import DatasetSplit
from prunus.errors import DataError, nearest
from prunus.experiments.sources.callables import call_source, is_callable_source
from prunus.experiments.sources.image_files import find_images
from prunus.experiments.sources.images import ImageDataset, ImageOptions
from prunus.experiments.workloads import WORKLOADS, Splits, splits_from_loaders
from prunus.foundation.user_code import errors_named, one_line

_FORMS = "imagefolder:PATH, package.module:callable, file.py:callable"
_FOLDER_DEFAULTS: dict[str, Any] = {"batch_size": 64, "test_fraction": 0.2, "held_fraction": 0.1}


def resolve_data(text: str, args: Mapping[str, Any] | None = None, base_dir: Path | str = ".") -> Splits:
    """Return the train, calibration, selection and test splits that ``text`` names.

    Args:
        text: the name of a built-in workload, ``imagefolder:PATH``, ``package.module:callable`` or
            ``file.py:callable``; a callable returns loaders by split name (see `splits_from_loaders`).
        args: keyword arguments of the callable. For ``imagefolder``: image_size, resize, channels, mean, std (see
            `ImageOptions`), batch_size, test_fraction, held_fraction.
        base_dir: the folder from which relative paths start.

    Raises:
        DataError: an unknown name, an argument that is not allowed, or data that are empty, unlabelled or wrong.

    Example:
        >>> len(resolve_data("digits").test)
        300
    """
    base, options = Path(base_dir), dict(args or {})
    place, _, rest = text.partition(":")
    if place == "imagefolder":
        if not rest:
            raise DataError("data 'imagefolder:': the path is missing; allowed: imagefolder:PATH.")
        return _image_folder(base / Path(rest).expanduser(), options)
    if text in WORKLOADS:
        if options:
            raise DataError(f"data {text!r} are built in and take no arguments; got {', '.join(options)}. Remove them.")
        return WORKLOADS.get(text).load()
    if is_callable_source(text):
        try:
            with errors_named(repr(text), DataError):
                return splits_from_loaders(call_source(text, options, base, DataError))
        except DataError as error:
            raise DataError(one_line(error, 600) if repr(text) in str(error) else f"data {text!r}: {error}") from error
    near = nearest(text, WORKLOADS.names()) or nearest(place, ["imagefolder"])
    raise DataError(
        f"data {text!r} are not known.{near} Allowed: {_FORMS}, or built in: {', '.join(WORKLOADS.names())}."
    )


def _image_folder(folder: Path, args: dict[str, Any]) -> Splits:
    known = [field.name for field in fields(ImageOptions)]
    allowed = [*known, *_FOLDER_DEFAULTS]
    for name in args:
        if name not in allowed:
            raise DataError(
                f"imagefolder: unknown data_args key {name!r}.{nearest(name, allowed)} Allowed: {', '.join(allowed)}."
            )
    settings = {**_FOLDER_DEFAULTS, **{name: value for name, value in args.items() if name not in known}}
    _check_folder_options(settings)
    options = ImageOptions(**{name: value for name, value in args.items() if name in known})
    found = find_images(folder, settings["test_fraction"], settings["held_fraction"])
    splits: dict[str, Any] = {}
    for name, labelled in found.splits.items():
        dataset = ImageDataset(labelled, options)
        splits[name] = DatasetSplit(dataset, torch.arange(len(dataset)), name, settings["batch_size"])
    return splits_from_loaders({**splits, "classes": found.classes})


def _check_folder_options(settings: Mapping[str, Any]) -> None:
    if type(settings["batch_size"]) is not int or settings["batch_size"] < 1:
        raise DataError(f"imagefolder: data_args.batch_size: got {settings['batch_size']!r}; allowed: 1 or more.")
    for name in ("test_fraction", "held_fraction"):
        value = settings[name]
        if type(value) is not float or not 0 < value < 0.5:
            raise DataError(f"imagefolder: data_args.{name}: got {value!r}; allowed: a fraction between 0 and 0.5.")
    if settings["test_fraction"] + 2 * settings["held_fraction"] > 0.8:
        raise DataError(
            "imagefolder: test_fraction + 2 · held_fraction is above 0.8; leave at least a fifth to train on."
        )
