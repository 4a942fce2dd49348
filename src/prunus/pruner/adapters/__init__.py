"""A `Pruner` and a training loop in; a callback or a ``with`` block that calls the pruner's hooks out."""

from prunus.pruner.adapters.accelerate import accelerated
from prunus.pruner.adapters.huggingface import huggingface_callback
from prunus.pruner.adapters.lightning import lightning_callback
from prunus.pruner.pruner import Pruner

attached = Pruner.attached

__all__ = ["accelerated", "attached", "huggingface_callback", "lightning_callback"]
