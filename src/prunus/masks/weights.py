"""Find the weights that weight-level pruning may mask."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy

from prunus.errors import ModelError

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return every weight that weight-level pruning may mask, each tied tensor once.

    A parameter counts if it requires grad, has at least two dims and is neither a bias nor owned by a norm. A vector
    stored with more dims (class token, layer scale: one dim larger than 1) counts only if its name begins with
    ``weight``, like the weight of a linear layer with a single output.

    Args:
        model: any module; it is only read.

    Returns:
        Name → detached view of the parameter (it shares memory), in the order of ``model.named_parameters()``.

    Raises:
        ModelError: a lazy parameter has no shape yet.

    Example:
        >>> list(prunable_weights(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))))
        ['0.weight']
    """
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            if is_lazy(parameter):
                raise ModelError(f"parameter {name!r} is lazy and has no shape yet; run one forward pass first.")
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if not isinstance(module, _NORMS) and _is_weight(leaf, parameter):
                weights[name] = parameter.detach()
    return weights


def _is_weight(leaf: str, parameter: Tensor) -> bool:
    if not parameter.requires_grad or parameter.dim() < 2 or leaf.startswith("bias"):
        return False
    return leaf.startswith("weight") or sum(size > 1 for size in parameter.shape) >= 2


def contracted_dims(model: nn.Module) -> dict[str, int]:
    """Return the weights whose input dim is not 1: transposed convolutions and the linear layers of GPT-2.

    Windows and N:M take the result as ``input_dims``; every weight not named has its inputs on dim 1.

    Shapes: transposed convolutions (I, O/groups, *K); ``Conv1D`` of transformers (I, O).
    """
    return {
        f"{path}.weight" if path else "weight": 0
        for path, module in model.named_modules()
        # Importing transformers is not needed; its layer is recognised by its name.
        if isinstance(module, _ConvTransposeNd) or type(module).__name__ == "Conv1D"
    }


def kept_weights(masks: Mapping[str, Tensor]) -> int:
    """Count the weights that the masks keep."""
    return sum(int(mask.sum()) for mask in masks.values())
