"""The layer problem min tr((W−Ŵ)H(W−Ŵ)ᵀ): its checks, damping, error, and the result of a solver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import DataError, OptionError

DAMPING = 0.01
_STRONGER = 10.0
_TRIES = 6


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of a weight solver.

    Attributes:
        weight: (O, I), zero where the mask is False, in the dtype of the given weight.
        mask: (O, I), bool, True = keep.
    """

    weight: Tensor
    mask: Tensor


def check(weight: Tensor, moment: Tensor) -> None:
    """Refuse matrices that make no layer problem.

    Shapes: weight (O, I), moment (I, I).

    Raises:
        DataError: shapes that do not fit, whole numbers, or values that are NaN or infinite.
    """
    if weight.dim() != 2 or moment.shape != (weight.shape[-1],) * 2:
        raise DataError(
            f"the weight has shape {tuple(weight.shape)} and the moment {tuple(moment.shape)}; allowed is (O, I) with "
            "(I, I). Flatten kernels as im2col does."
        )
    if not (weight.is_floating_point() and moment.is_floating_point()):
        raise DataError(
            f"the weight is {weight.dtype} and the moment {moment.dtype}; allowed are floats. Convert them."
        )
    if not (torch.isfinite(weight).all() and torch.isfinite(moment).all()):
        raise DataError("the weight or the moment holds NaN or infinite values; check the calibration data.")


def checked(weight: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Check both and return detached copies in the wider of the two dtypes, at least float32."""
    check(weight, moment)
    dtype = torch.promote_types(torch.promote_types(weight.dtype, moment.dtype), torch.float32)
    return weight.detach().to(dtype, copy=True), moment.detach().to(dtype, copy=True)


def check_count(count: int, total: int) -> None:
    """Refuse a number of weights to keep that is out of range.

    Raises:
        OptionError: no whole number, below 0 or above ``total``.
    """
    if not hasattr(count, "__index__") or not 0 <= count <= total:
        raise OptionError(
            f"count is {count}; allowed is 0 to {total}, the number of weights, in whole numbers. Give how many stay."
        )


def damped(moment: Tensor, damping: float = DAMPING) -> Tensor:
    """Return H + λ·mean(diag H)·I; an input that is always zero gets a one, so that no division by zero follows.

    Raises:
        OptionError: negative damping.
    """
    if damping < 0:
        raise OptionError(f"damping is {damping}; allowed is at least 0, a share of the mean of the diagonal.")
    result = moment.clone()
    diagonal = result.diagonal()
    level = diagonal.mean() if len(diagonal) else diagonal.sum()
    diagonal[diagonal <= 0] = 1.0
    diagonal += damping * level
    return result


def inverse(moment: Tensor) -> Tensor:
    """Invert a symmetric positive definite matrix; add the least sufficient ridge if it is singular to rounding.

    Shapes: (I, I) → (I, I), exactly symmetric.

    Raises:
        DataError: it is far from positive definite.
    """
    result: Tensor = torch.cholesky_inverse(factor(moment))
    return result


def factor(moment: Tensor) -> Tensor:
    """Return L with L·Lᵀ = H; add the least sufficient ridge to H if it is singular to rounding.

    Raises:
        DataError: it is far from positive definite.
    """
    ridge = torch.finfo(moment.dtype).eps * len(moment) * float(moment.diagonal().abs().max()) if len(moment) else 0.0
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(moment)
    for _ in range(_TRIES):
        if not info:
            return lower
        lower, info = torch.linalg.cholesky_ex(moment + ridge * torch.eye(len(moment)).to(moment))
        ridge *= _STRONGER
    if info:
        raise DataError("the moment is not positive semidefinite; allowed is E[xxᵀ] of data. Accumulate it in float64.")
    return lower


def triangle(matrix: Tensor, *, upper: bool = False) -> Tensor:
    """Return the Cholesky factor of the remaining block of a moment, or of its inverse, after elimination.

    Shapes: (…, I, I) → the same, lower triangular, or upper.

    Raises:
        DataError: it is singular to rounding.
    """
    result: Tensor
    result, info = torch.linalg.cholesky_ex(matrix, upper=upper)
    if bool(info.any()):
        raise DataError(
            "the moment is singular to rounding: some inputs are sums of others. Give more damping, such as "
            f"damping={DAMPING}."
        )
    return result


def reconstruction_error(weight: Tensor, approximation: Tensor, moment: Tensor) -> float:
    """Return tr((W−Ŵ)H(W−Ŵ)ᵀ), in float64: the squared error of the layer's output over all outputs.

    Shapes: weight, approximation (O, I), moment (I, I).
    """
    change = weight.detach().double() - approximation.detach().double()
    return float(((change @ moment.double()) * change).sum())
