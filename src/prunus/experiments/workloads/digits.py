"""The digits workload: 1,797 grey 8×8 images that scikit-learn contains, so that nothing is downloaded."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunus.data.sources import AugmentedSplit, Split
from prunus.data.splits import Splits
from prunus.errors import DataError
from prunus.experiments.workloads.digits_net import DigitsNet
from prunus.experiments.workloads.registry import WORKLOADS, Workload
from prunus.foundation.as_found import seeded
from prunus.training.options import TrainingOptions

SIZES = {"train": 1097, "calibration": 200, "selection": 200, "test": 300}
_SPLIT_SEED = 20  # part of the definition of the workload: another value gives another data set
MAX_DEGREES, MAX_SCALING, MAX_SHIFT, NOISE = 8.0, 0.08, 0.5, 0.25


def load_digits_splits() -> Splits:
    """Return the digits, normalised by mean and deviation of the train split, in fixed stratified splits.

    The shuffled batches of the train split are augmented, with new random numbers in each epoch.

    Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    Shapes: inputs (N, 1, 8, 8) float32, targets (N) int64.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "workload 'digits' needs scikit-learn, which is not installed. Run: pip install 'prunus[train]'."
        ) from error
    bundle = load_digits()
    images = torch.from_numpy(bundle.images).float()[:, None]
    targets = torch.from_numpy(bundle.target).long()
    parts = dict(zip(SIZES, torch.split(stratified_order(targets), list(SIZES.values())), strict=True))
    train = images[parts["train"]]
    images = (images - train.mean()) / train.std()
    splits = {name: Split(images[index], targets[index], name) for name, index in parts.items()}
    return Splits(
        train=AugmentedSplit(splits["train"], varied),
        calibration=splits["calibration"],
        selection=splits["selection"],
        test=splits["test"],
        classes=tuple(map(str, bundle.target_names)),
    )


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image turned, scaled and shifted a little (bilinear), with noise added.

    Angle in ±8°, scale in 1 ± 0.08, shift in ±½ pixel both ways, all uniform; noise of deviation ¼.

    Shapes: (B, C, h, w) → (B, C, h, w).
    """
    count, _, height, width = images.shape
    draws = torch.rand(4, count, generator=generator) * 2 - 1
    angle, scale = draws[0] * math.radians(MAX_DEGREES), 1 + draws[1] * MAX_SCALING
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    across, down = draws[2] * 2 * MAX_SHIFT / width, draws[3] * 2 * MAX_SHIFT / height  # the grid spans −1..1
    maps = torch.stack([cos, -sin, across, sin, cos, down], 1).reshape(count, 2, 3)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    background = images.min()  # grid_sample fills pixels from outside with zeros
    moved = functional.grid_sample(images - background, grid, align_corners=False) + background
    return moved + NOISE * torch.randn(images.shape, generator=generator)


def stratified_order(targets: Tensor) -> Tensor:
    """Return an order of the samples in which every section has nearly the same share of each class.

    The r-th of the n_c shuffled samples of class c is placed at (r + ½)/n_c.

    Shapes: targets (N) → order (N), int64.
    """
    # RandomState's stream is frozen by NumPy's compatibility policy; a Generator's may change with a release.
    shuffled = np.random.RandomState(_SPLIT_SEED).permutation(len(targets))
    labels = targets.numpy()[shuffled]
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return torch.from_numpy(shuffled[np.argsort(place, kind="stable")])


def build_digits_net(seed: int = 0) -> nn.Module:
    """Return a new DigitsNet; the caller's random state is restored."""
    with seeded(seed):
        return DigitsNet()


WORKLOADS.register("digits")(
    Workload(
        name="digits",
        build=build_digits_net,
        load=load_digits_splits,
        example_inputs=lambda: (torch.zeros(2, 1, 8, 8),),
        training=TrainingOptions(steps=240, lr=3e-3, weight_decay=0.05, schedule="one_cycle"),
        recovery=TrainingOptions(steps=40, lr=2e-3, batch_size=32, weight_decay=0.0),
    )
)
