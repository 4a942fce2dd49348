"""A name of a network in; snippets of the standard library, with package or next byte, and the network out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from prunus.experiments.workloads.registry import WORKLOADS, Workload
from prunus.experiments.workloads.text.corpus import PACKAGES
from prunus.experiments.workloads.text.data import (
    CONTEXT,
    LANGUAGE_SHIFTS,
    LM_SIZES,
    SHIFTS,
    SNIPPET,
    TextSizes,
    load_language,
    load_text,
    text_key,
)
from prunus.experiments.workloads.text.language import ByteGPT
from prunus.experiments.workloads.text.networks import TextRecurrent, TextTransformer
from prunus.foundation.as_found import seeded
from prunus.training.options import TrainingOptions

__all__ = ["CLASSIFIERS", "DEFAULT", "LANGUAGE_MODELS", "PACKAGES", "TextSizes", "load_language", "load_text"]

DEFAULT = "transformer"  # the network of the bare name `text`
_CLASSES = len(PACKAGES)

# Right-sized, then with about 8 times the parameters.
CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "transformer": partial(TextTransformer, 48, 3, 4, _CLASSES),
    "transformer-8x": partial(TextTransformer, 128, 4, 8, _CLASSES),
    "lstm": partial(TextRecurrent, nn.LSTM, 48, 64, 1, _CLASSES),
    "lstm-8x": partial(TextRecurrent, nn.LSTM, 96, 240, 1, _CLASSES),
    "gru": partial(TextRecurrent, nn.GRU, 48, 64, 1, _CLASSES),
    "gru-8x": partial(TextRecurrent, nn.GRU, 96, 160, 2, _CLASSES),
}
LANGUAGE_MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt": partial(ByteGPT, 64, 2, 4, CONTEXT),
    "gpt-8x": partial(ByteGPT, 160, 3, 5, CONTEXT),
}
_TRAINING = {
    "transformer": TrainingOptions(600, 3e-3, 64, weight_decay=0.05, schedule="one_cycle"),
    "transformer-8x": TrainingOptions(500, 1e-3, 64, weight_decay=0.05, schedule="one_cycle"),
    "lstm": TrainingOptions(900, 5e-3, 64, weight_decay=0.05, schedule="one_cycle"),
    "lstm-8x": TrainingOptions(600, 2e-3, 64, weight_decay=0.05, schedule="one_cycle"),
    "gru": TrainingOptions(900, 5e-3, 64, weight_decay=0.05, schedule="one_cycle"),
    "gru-8x": TrainingOptions(600, 2e-3, 64, weight_decay=0.05, schedule="one_cycle"),
    "gpt": TrainingOptions(900, 5e-3, 32, weight_decay=0.05, schedule="one_cycle"),
    "gpt-8x": TrainingOptions(600, 2e-3, 32, weight_decay=0.05, schedule="one_cycle"),
}


def _build(name: str, seed: int) -> nn.Module:
    with seeded(seed):
        return (CLASSIFIERS | LANGUAGE_MODELS)[name]()


def _workload(model: str) -> Workload:
    language = model in LANGUAGE_MODELS
    training = _TRAINING[model]
    length = CONTEXT if language else SNIPPET
    return Workload(
        name=f"text/{model}",
        build=partial(_build, model),
        load=load_language if language else load_text,
        example_inputs=lambda: (torch.zeros(2, length, dtype=torch.int64),),
        training=training,
        recovery=TrainingOptions(training.steps // 8, training.lr / 3, training.batch_size, weight_decay=0.0),
        data_key=lambda: f"{'next-byte' if language else 'package'}-{text_key(LM_SIZES if language else None)}",
        shifts=LANGUAGE_SHIFTS if language else SHIFTS,
    )


for _name in (*CLASSIFIERS, *LANGUAGE_MODELS):
    _names = (f"text/{_name}", "text") if _name == DEFAULT else (f"text/{_name}",)
    WORKLOADS.register(*_names)(_workload(_name))
