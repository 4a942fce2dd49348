"""Score a weight by its size."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence, precise
from prunus.errors import OptionError


@CRITERIA.register("magnitude")
def magnitude(evidence: Evidence, /, *, p: int = 1) -> dict[str, Tensor]:
    """Score a weight by its size: s = |w|^p.

    Both powers rank single weights alike; summed over a window or a unit they are the L1 and the squared L2 norm.
    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626.

    Args:
        evidence: weights.
        p: 1 or 2.

    Raises:
        OptionError: another p.

    Example:
        >>> import torch
        >>> magnitude(Evidence({"w": torch.tensor([[-2.0, 1.0]])}), p=2)["w"].tolist()
        [[4.0, 1.0]]
    """
    if p not in (1, 2):
        raise OptionError(f"p is {p}; allowed are 1 and 2.")
    sizes = {name: precise(weight).abs() for name, weight in evidence.weights.items()}
    return sizes if p == 1 else {name: size.square_() for name, size in sizes.items()}
