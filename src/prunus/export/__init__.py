"""Checkpoints: a cut model as safetensors and JSON, and the way back to the original shapes."""

from prunus.export.checkpoint import save
from prunus.export.pack import packed_size
from prunus.export.restore import load
from prunus.export.undo import undo

__all__ = ["load", "packed_size", "save", "undo"]
