"""A holder that keeps masked weights at zero under any optimizer, cheap enough for every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus.errors import OptionError, SelectorError, nearest

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class MaskHolder:
    """The parameters that are masked at present, with a bit mask for each weight: all ones to keep it, else all zeros.

    Gradients are zeroed before an update, so masked weights never build up momentum; weights are zeroed after it, so
    neither weight decay nor old momentum brings one back. Weights and masks are combined as integers, w ← w & m with
    m = −1 or 0: exact, also for NaN, and ten times as fast on a processor as filling by a bool mask.
    """

    def __init__(self) -> None:
        self._masked: list[tuple[nn.Parameter, Tensor]] = []

    @staticmethod
    def of(model: nn.Module, masks: Mapping[str, Tensor]) -> MaskHolder:
        """Return a holder of checked masks; a tied parameter may go by any of its names.

        Args:
            model: its parameters by name; frozen ones are left alone.
            masks: parameter name → boolean mask of the same shape, True = keep.

        Raises:
            SelectorError: a name that is no parameter.
            OptionError: a mask that is not boolean or not of the parameter's shape, or that removes non-zero weights of
                a parameter with requires_grad=False.
        """
        named = dict(model.named_parameters(remove_duplicate=False))
        for name, keep in masks.items():
            _check_mask(name, keep, named)
        holder = MaskHolder()
        holder.hold(named, {name: keep for name, keep in masks.items() if named[name].requires_grad})
        return holder

    def hold(self, parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
        """Hold these masks from now on; two masks of one parameter are combined by *and*."""
        old, masked = (
            {id(parameter): bits for parameter, bits in self._masked},
            dict[int, tuple[nn.Parameter, Tensor]](),
        )
        for name, mask in masks.items():
            parameter = parameters[name]
            if id(parameter) in masked:
                masked[id(parameter)][1].bitwise_and_(_bits(parameter, mask, None))
            else:
                masked[id(parameter)] = (parameter, _bits(parameter, mask, old.get(id(parameter))))
        self._masked = list(masked.values())

    def zero_gradients_(self) -> None:
        """Zero the gradient of every masked weight, so that it never builds up momentum."""
        for parameter, bits in self._masked:
            if parameter.grad is not None:
                parameter.grad.view(bits.dtype).bitwise_and_(bits)

    def zero_weights_(self) -> None:
        """Zero every masked weight again after decay or old momentum changed it."""
        for parameter, bits in self._masked:
            parameter.detach().view(bits.dtype).bitwise_and_(bits)

    @torch.no_grad()
    def forget_(self, optimizer: Optimizer) -> None:
        """Zero the optimizer's state of masked weights, so that a regrown weight starts without momentum."""
        for parameter, bits in self._masked:
            for value in optimizer.state[parameter].values() if parameter in optimizer.state else ():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    if value.element_size() == bits.element_size():
                        value.view(bits.dtype).bitwise_and_(bits)
                    else:
                        value.masked_fill_(bits == 0, 0)


def _bits(parameter: nn.Parameter, mask: Tensor, old: Tensor | None) -> Tensor:
    if old is None or old.shape != parameter.shape or old.element_size() != parameter.element_size():
        old = torch.empty_like(parameter, dtype=_BITS[parameter.element_size()], requires_grad=False)
    return old.copy_(mask).neg_()


def _check_mask(name: str, keep: Tensor, named: Mapping[str, nn.Parameter]) -> None:
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
