"""Score a weight by its size relative to its tensor, for relative thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence
from prunus.errors import DataError, OptionError

Measure = Literal["max", "std"]


@CRITERIA.register("relative-max")
def relative_max(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by its share of the largest of its tensor: s = |w| / max|W|.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626
    (thresholds for each layer).
    """
    return relative_scores(evidence.weights, "max")


@CRITERIA.register("relative-std")
def relative_std(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight in standard deviations of its tensor: s = |w| / std(W).

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626
    (a quality parameter times the standard deviation of a layer).
    """
    return relative_scores(evidence.weights, "std")


def relative_scores(weights: Mapping[str, Tensor], scale: Measure = "max") -> dict[str, Tensor]:
    """Return |w| / max|W| or |w| / std(W) for each tensor, in float64.

    A tensor without spread (scale 0) exceeds any threshold with its non-zero weights, and none with its zeros.

    Raises:
        OptionError: an unknown scale.
        DataError: a weight is not finite.
    """
    if scale not in ("max", "std"):
        raise OptionError(f"scale is {scale!r}; allowed are 'max' and 'std'.")
    for name, weight in weights.items():
        # Checked before the division: max|W| = inf would turn the finite weights into zeros.
        bad = weight.numel() - int(torch.isfinite(weight).sum())
        if bad:
            raise DataError(f"tensor {name!r} has {bad} values that are NaN or infinite; allowed are finite numbers.")
    return {name: _ratios(weight.detach().to(torch.float64), scale) for name, weight in weights.items()}


def _ratios(weight: Tensor, scale: Measure) -> Tensor:
    if weight.numel() == 0:
        return weight
    size = weight.abs()
    unit = size.max() if scale == "max" else weight.std(correction=0)
    if unit > 0:
        return size / unit
    return (size > 0).to(torch.float64) * torch.finfo(torch.float64).max
