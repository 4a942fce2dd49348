"""A name in; a built-in model with its data out; packages add theirs through the entry point ``prunus.workload``."""

from prunus.data.splits import Split, Splits, splits_from_loaders
from prunus.experiments.workloads.digits import load_digits_splits
from prunus.experiments.workloads.glyphs import load_glyphs
from prunus.experiments.workloads.recommendation import load_clicks
from prunus.experiments.workloads.registry import WORKLOADS, Workload
from prunus.experiments.workloads.speech import load_speech
from prunus.experiments.workloads.text import load_language, load_text
from prunus.experiments.workloads.train import Trained, train_workload, trained

__all__ = [
    "WORKLOADS",
    "Split",
    "Splits",
    "Trained",
    "Workload",
    "load_clicks",
    "load_digits_splits",
    "load_glyphs",
    "load_language",
    "load_speech",
    "load_text",
    "splits_from_loaders",
    "train_workload",
    "trained",
]
