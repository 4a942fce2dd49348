"""A repair: the least-squares weight of `refold`, as far as samples that it was not fitted to agree."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from prunus.repairs import Moments, Site
from prunus.repairs.refold import Fit, refold
from prunus.repairs.repairs import Repair

STEPS = (0.25, 0.5, 0.75, 1.0)


def _layer(
    site: Site, matrix: Tensor, bias: Tensor, fit: Moments, check: Moments | None, shifts: bool, mask: Tensor | None
) -> Fit:
    """Refit a layer and go part of the way: W_t = W + t·(W′ − W), b likewise, with the t of least error on ``check``.

    Source: own; W′ by He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168.

    Shapes: matrix (G, O, D), bias (G, O), mask (G, O, D).
    """
    found = refold(matrix, bias, fit, check, shifts=shifts, mask=mask)
    judge = fit if check is None else check
    scale = float(judge.target_variance().sum()) + 1e-30

    def error(step: float) -> float:
        return float(judge.error(matrix.lerp(found.matrix, step), bias.lerp(found.bias, step)).sum()) / scale

    step = min(STEPS, key=error)
    return replace(
        found,
        matrix=matrix.lerp(found.matrix, step),
        bias=bias.lerp(found.bias, step),
        after=min(error(step), found.after),
    )


LINE_SEARCH = Repair(
    "line-search", "every layer refitted, as far as held-out samples agree", _layer, "fit", absorb=True
)
