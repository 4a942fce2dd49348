"""Hold masked weights at exactly zero while an optimizer moves the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.errors import OptionError, SelectorError, nearest


class MaskKeeper:
    """The masks of a model, checked once and bound to its parameters.

    Gradients are zeroed before the step, so that momentum never holds a masked weight; weights are zeroed after it,
    so that neither weight decay nor stale optimizer state can bring one back.

    Args:
        model: Its parameters by name; tied parameters answer to each of their names.
        masks: Parameter name → boolean mask of the same shape, True = keep.

    Raises:
        SelectorError: a name that is no parameter.
        OptionError: a mask that is not boolean or not of the parameter's shape, or that removes non-zero weights of a
            parameter with requires_grad=False.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        named = dict(model.named_parameters(remove_duplicate=False))
        removed: dict[nn.Parameter, Tensor] = {}
        for name, keep in masks.items():
            parameter = _masked_parameter(name, keep, named)
            drop = ~keep.to(parameter.device)
            removed[parameter] = drop | removed[parameter] if parameter in removed else drop
        self._removed = [(parameter, drop) for parameter, drop in removed.items() if parameter.requires_grad]

    def zero_gradients_(self) -> None:
        """Zero the gradient of every masked weight."""
        for parameter, drop in self._removed:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(drop, 0)

    @torch.no_grad()
    def zero_weights_(self) -> None:
        """Zero every masked weight."""
        for parameter, drop in self._removed:
            parameter.masked_fill_(drop, 0)


def _masked_parameter(name: str, keep: Tensor, named: Mapping[str, nn.Parameter]) -> nn.Parameter:
    parameter = named.get(name)
    if parameter is None:
        raise SelectorError(
            f"masks name {name!r}, which is no parameter of the model.{nearest(name, named)} "
            "Use the names of model.named_parameters()."
        )
    if keep.dtype != torch.bool or keep.shape != parameter.shape:
        raise OptionError(
            f"the mask of {name!r} is {keep.dtype} {tuple(keep.shape)}; "
            f"allowed: torch.bool {tuple(parameter.shape)}, True = keep."
        )
    if not parameter.requires_grad and bool(parameter.detach()[~keep.to(parameter.device)].any()):
        raise OptionError(
            f"the mask of {name!r} removes non-zero weights, but the parameter is frozen (requires_grad=False); "
            "zero them first, or let the parameter train."
        )
    return parameter
