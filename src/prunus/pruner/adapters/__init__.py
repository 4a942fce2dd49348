"""A few lines each for the loops people have: their own, Hugging Face, Lightning, Accelerate."""

from prunus.pruner.adapters.accelerate import accelerated
from prunus.pruner.adapters.huggingface import huggingface_callback
from prunus.pruner.adapters.lightning import lightning_callback
from prunus.pruner.pruner import Pruner

attached = Pruner.attached

__all__ = ["accelerated", "attached", "huggingface_callback", "lightning_callback"]
