"""A decorator that makes public functions work within `torch.no_grad` and `torch.inference_mode` too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from prunus.foundation.arguments import door

Function = TypeVar("Function", bound=Callable[..., object])


def in_ordinary_mode(function: Function) -> Function:
    """Check the arguments of a public function and run it with gradients enabled, so that its results can be trained.

    Inference mode would create parameters that no optimizer accepts; under no_grad no weight could be refitted.
    """
    return door()(torch.inference_mode(False)(function))
