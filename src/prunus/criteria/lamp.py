"""LAMP: score a weight by its share of the sum of squares of the weights of its tensor that are at least as large."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence, precise


@CRITERIA.register("lamp")
def lamp(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight within its tensor so that one ranking serves all tensors: s = w² / Σ_{|v| ≥ |w|} v².

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.
    """
    return {
        name: torch.from_numpy(lamp_scores(precise(weight).cpu().numpy())).to(weight.device)
        for name, weight in evidence.weights.items()
    }


def lamp_scores(scores: np.ndarray) -> np.ndarray:
    """Return lamp_u = s_u² / Σ_{v: s_v ≥ s_u} s_v²; the best has 1, equal scores are ordered by index.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.

    Args:
        scores: norms, of any shape; signs are ignored.

    Shapes: as given, float64.
    """
    flat = np.abs(np.asarray(scores, float)).reshape(-1)
    order = np.argsort(-flat, kind="stable")
    energy = flat[order] ** 2
    out = np.empty_like(flat)
    out[order] = energy / np.maximum(np.cumsum(energy), 1e-300)
    return np.asarray(out.reshape(np.shape(scores)))
