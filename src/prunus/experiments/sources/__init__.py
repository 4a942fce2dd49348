"""The ``model:`` and ``data:`` texts of a recipe in; a module, example inputs and splits out."""

from prunus.experiments.sources.checkpoints import load_checkpoint_
from prunus.experiments.sources.data import resolve_data
from prunus.experiments.sources.models import resolve_model

__all__ = ["load_checkpoint_", "resolve_data", "resolve_model"]
