"""Public functions work alike wherever they are called, within `torch.no_grad` and `torch.inference_mode` too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from prunus.foundation.arguments import door

Function = TypeVar("Function", bound=Callable[..., object])


def in_ordinary_mode(function: Function) -> Function:
    """Run a public function with its arguments checked and gradients allowed; what it makes can be trained afterwards.

    Under inference mode torch would make parameters that no optimizer accepts, under no_grad nothing can be refitted.
    """
    return door()(torch.inference_mode(False)(function))
