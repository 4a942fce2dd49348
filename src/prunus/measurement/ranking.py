"""AUC: the quality of scores that rank positive samples above negative ones."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.errors import DataError


def auc(scores: Tensor, positive: Tensor) -> float | None:
    """Return the area under the receiver operating characteristic; None where all samples are of one kind.

    AUC = P(score of a positive > score of a negative), a tie counting half; with mean ranks r from 1:
    (Σ_positive r − n₊(n₊ + 1)/2) / (n₊ n₋).
    Source: Hanley & McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 143, 1982.

    Args:
        scores: The higher, the more likely positive.
        positive: True for positive samples.

    Shapes: (N,) and (N,), bool.

    Raises:
        DataError: the shapes differ.

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
        0.75
    """
    if scores.shape != positive.shape or scores.ndim != 1:
        raise DataError(
            f"got scores {tuple(scores.shape)} and labels {tuple(positive.shape)}; allowed: two of shape (N,). "
            "Flatten them."
        )
    above = int(positive.sum())
    below = len(positive) - above
    if not above or not below:
        return None
    _, rank_of, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return float((ranks[rank_of][positive].sum() - above * (above + 1) / 2) / (above * below))
