"""Keep gradients out of the memory format in which oneDNN writes past the end of its buffer.

oneDNN takes the gradient of the weight of a pointwise convolution with a stride, where the tensors lie with their
channels last, in a workspace that each thread steps through by blocks of channels: 8 with AVX2, 16 with AVX-512. Where
the layer has fewer input channels than a block, the steps leave the workspace: the process dies, hangs, or goes on with
damaged memory. Small images hide it on AVX-512, since little is written. Seen with torch 2.13, oneDNN 3.12, in
float32 and bfloat16; it is oneDNN's issue 6035. In the default format oneDNN works in whole blocks, and all is well.
"""

from __future__ import annotations

import platform
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

BLOCK = 16
"""Layers with fewer input channels are unsafe: oneDNN's block of channels with AVX-512, the larger of the two blocks.

One number for all processors: a network is then trained in the same format, and to the same weights, on each of them.
"""

_CONVOLUTIONS = frozenset(
    {
        torch.conv1d,
        torch.conv2d,
        torch.convolution,
        torch.ops.aten.conv1d.default,
        torch.ops.aten.conv2d.default,
        torch.ops.aten.convolution.default,
        torch.ops.aten.conv1d.padding,
        torch.ops.aten.conv2d.padding,
        torch.ops.aten.convolution,
        torch.ops.aten.conv1d,
        torch.ops.aten.conv2d,
    }
)
Weights = nn.Module | Mapping[str, Tensor]


class MemoryFormatWarning(UserWarning):
    """Some layers of a network compute in the default memory format, because their own would corrupt memory."""


def unsafe_in_channels_last(model: nn.Module) -> list[str]:
    """Return the names of the layers whose gradient must not be computed with the channels last.

    These are the convolutions with a kernel of size 1, a stride, one group, and fewer than `BLOCK` input channels.

    Example:
        >>> unsafe_in_channels_last(nn.Sequential(nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1)))
        ['0']
    """
    return [name for name, module in model.named_modules() if _unsafe(module)]


@contextmanager
def sound_gradients(*models: Weights) -> Iterator[None]:
    """Give every convolution that is unsafe with the channels last its tensors in the default format inside the block.

    Put it around forward and backward passes; capture nothing inside. A model without such a layer pays nothing, and
    one that has them and is stored in the default format computes the same bits. The weights of such layers may get
    other strides; their values stay. A recomputation in the backward pass (checkpointing) is covered in layers only,
    not in functions of a weight.

    Args:
        models: what runs inside: modules, functions of their weights, or a replay of a program; for the
            latter give the tensors by name.

    Warns:
        MemoryFormatWarning: once per model, when a layer would have computed with the channels last.
    """
    if not onednn_is_unsafe() or not any(True for model in models for _ in _suspects(model)):
        yield
        return
    modules = [model for model in models if isinstance(model, nn.Module)]
    free = [model for model in modules if not any(map(_hooks_of, model.modules()))]
    for model in free:
        hold_default_format_(model)
    try:
        with _DefaultFormat(models):
            yield
    finally:
        for model in free:
            release_format_(model)


def hold_default_format_(model: nn.Module) -> None:
    """Do the same for the layers of a model that a user's loop trains, until `release_format_`.

    Call it again when the model has changed.
    """
    release_format_(model)
    if not onednn_is_unsafe():
        return
    for name, module in model.named_modules():
        if _unsafe(module) and module.weight.device.type == "cpu":
            place = f"{f'{name}.weight'.lstrip('.')!r} of {type(model).__name__}"
            module.register_forward_pre_hook(_BeforeLayer(place, _teller_of(model)))


def release_format_(model: nn.Module) -> None:
    """Remove the hooks from a model, or from a copy that was made of it meanwhile."""
    for module in model.modules():
        for number in _hooks_of(module):
            del module._forward_pre_hooks[number]


def onednn_is_unsafe() -> bool:
    """Return whether this process may use the kernel, which is one of oneDNN's for x86."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _unsafe(module: nn.Module) -> bool:
    return (
        isinstance(module, (nn.Conv1d, nn.Conv2d))
        and _narrow(module.weight)
        and module.groups == 1
        and any(step > 1 for step in module.stride)
    )


def _narrow(weight: Tensor) -> bool:
    if is_lazy(weight) or weight.dim() not in (3, 4):
        return False
    return weight.shape[1] < BLOCK and weight.shape[2:].numel() == 1


def _suspects(model: Weights) -> Iterable[Tensor]:
    """Return the weights that may be unsafe; the stride is known only for convolution modules."""
    found: Iterable[Tensor] = model.values() if isinstance(model, Mapping) else _without_sound_layers(model)
    return (weight for weight in found if _narrow(weight) and weight.device.type == "cpu")


def _without_sound_layers(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if not isinstance(module, (nn.Conv1d, nn.Conv2d)) or _unsafe(module):
            yield from module.parameters(recurse=False)


def _channels_last(tensor: Tensor) -> bool:
    """Return whether torch counts the tensor as channels last, which it decides by the strides alone."""
    return tensor.stride(1) == 1 and tensor.stride() != _default_strides(tensor)


def _default_strides(tensor: Tensor) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= max(1, size)
    return tuple(reversed(strides))


def _default(tensor: Tensor) -> Tensor:
    # `contiguous` leaves strides of dims of size 1 as they are, and torch judges by those too.
    return tensor.clone(memory_format=torch.contiguous_format)


def _plain(value: object) -> bool:
    """Return whether a value is an ordinary tensor on the processor, neither fake nor of a subclass."""
    return type(value) in (Tensor, nn.Parameter) and value.device.type == "cpu"  # type: ignore[attr-defined]


class _Teller:
    """Warns once per model."""

    def __init__(self) -> None:
        self.warned = False

    def tell(self, place: str, channels: int) -> None:
        if self.warned:
            return
        self.warned = True
        warnings.warn(
            f"{place} has {channels} input channels, a stride and a kernel of 1, and gets tensors in channels_last; "
            f"oneDNN corrupts memory in the backward pass of such a layer below {BLOCK} channels. It works in the "
            "default memory format here; do the same in a loop of your own: "
            "model.to(memory_format=torch.contiguous_format), and inputs.contiguous().",
            MemoryFormatWarning,
            stacklevel=3,
        )


_tellers: weakref.WeakKeyDictionary[nn.Module, _Teller] = weakref.WeakKeyDictionary()
# A repair has new tensors in every step; name and shape identify them.
_tellers_of_tensors: dict[tuple[str, tuple[int, ...]], _Teller] = {}


def _teller_of(model: nn.Module) -> _Teller:
    return _tellers.setdefault(model, _Teller())


class _DefaultFormat(TorchFunctionMode):
    """Gives unsafe convolutions their input and weight in the default format."""

    def __init__(self, models: tuple[Weights, ...]) -> None:
        super().__init__()
        self._models = models

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS and torch.is_grad_enabled():
            args, kwargs = self._sound(args, kwargs)
        return func(*args, **kwargs)

    def _sound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = dict(zip(("input", "weight", "bias", "stride"), args, strict=False)) | kwargs
        pair: tuple[Any, Any] = (named.get("input"), named.get("weight"))
        if not all(map(_plain, pair)) or not _narrow(pair[1]) or not _strided(named.get("stride", 1)):
            return args, kwargs
        if not any(map(_channels_last, pair)):
            return args, kwargs
        self._tell(pair[1])
        rest = {name: value for name, value in kwargs.items() if name not in ("input", "weight")}
        return (*map(_default, pair), *args[2:]), rest

    def _tell(self, weight: Tensor) -> None:
        """Warn of the model that has the weight, or of the first model where none is known to have it."""
        known = ((name, model) for model in self._models for name, found in _named(model) if found is weight)
        name, model = next(known, ("", self._models[0]))
        place = repr(name) if name else "a convolution"
        if isinstance(model, nn.Module):
            _teller_of(model).tell(f"{place} of {type(model).__name__}", weight.shape[1])
        else:
            _tellers_of_tensors.setdefault((name, weight.shape), _Teller()).tell(place, weight.shape[1])


def _named(model: Weights) -> Iterable[tuple[str, Tensor]]:
    return model.items() if isinstance(model, Mapping) else model.named_parameters()


def _strided(stride: Any) -> bool:
    return any(step > 1 for step in (stride if isinstance(stride, (tuple, list)) else (stride,)))


class _BeforeLayer:
    """A hook that converts a layer and its input to the default format where gradients are needed.

    It is copied and stored together with the module.
    """

    def __init__(self, place: str, teller: _Teller) -> None:
        self._place, self._teller = place, teller

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not inputs or not _plain(inputs[0]):
            return None
        if torch._C._functorch.peek_interpreter_stack() is not None:  # no weight may be moved inside `vmap` and `grad`
            return None
        # A mask or a parametrisation computes the weight from a parameter, which has the weight's format.
        weights = [w for w in (module.weight, *module.parameters()) if isinstance(w, Tensor) and w.dim() > 2]
        last = _channels_last(inputs[0])
        if not last and not any(map(_channels_last, weights)):
            return None
        self._teller.tell(self._place, weights[0].shape[1])
        for weight in weights:
            weight.data = _default(weight.data)
        return (_default(inputs[0]), *inputs[1:]) if last else None


def _hooks_of(module: nn.Module) -> list[int]:
    return [number for number, hook in module._forward_pre_hooks.items() if isinstance(hook, _BeforeLayer)]
