"""A name of a network in; 24 words spoken by espeak-ng in many voices and a network that classifies them out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from prunus.experiments.workloads.registry import WORKLOADS, Workload
from prunus.experiments.workloads.speech.data import SHIFTS, SpeechSizes, load_speech, speech_key, speech_sets
from prunus.experiments.workloads.speech.features import BANDS, FRAMES
from prunus.experiments.workloads.speech.networks import SpeechCNN, SpeechMLP, SpeechRecurrent
from prunus.experiments.workloads.speech.render import WORDS
from prunus.foundation.as_found import seeded
from prunus.training.options import TrainingOptions

__all__ = ["DEFAULT", "FAMILIES", "SHIFTS", "WORDS", "SpeechSizes", "load_speech", "speech_sets"]

DEFAULT = "cnn"  # the network of the bare name `speech`
_CLASSES = len(WORDS)

# Right-sized, then with about 8 times the parameters.
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "mlp": partial(SpeechMLP, (128, 128), _CLASSES),
    "mlp-8x": partial(SpeechMLP, (768, 640), _CLASSES),
    "cnn": partial(SpeechCNN, (16, 32, 48), _CLASSES),
    "cnn-8x": partial(SpeechCNN, (48, 96, 128), _CLASSES),
    "lstm": partial(SpeechRecurrent, nn.LSTM, 64, 1, _CLASSES),
    "lstm-8x": partial(SpeechRecurrent, nn.LSTM, 208, 1, _CLASSES),
    "gru": partial(SpeechRecurrent, nn.GRU, 64, 1, _CLASSES),
    "gru-8x": partial(SpeechRecurrent, nn.GRU, 76, 2, _CLASSES, both_ways=True),
}
_STEPS = {"mlp": 2_400, "cnn": 900, "lstm": 900, "gru": 900}
_RATES = {"mlp": 2e-3, "cnn": 6e-3, "lstm": 6e-3, "gru": 6e-3}


def _build(name: str, seed: int) -> nn.Module:
    with seeded(seed):
        return FAMILIES[name]()


def _workload(model: str) -> Workload:
    family = model.partition("-")[0]
    steps, rate = _STEPS[family], _RATES[family] * (0.5 if model.endswith("-8x") else 1.0)
    return Workload(
        name=f"speech/{model}",
        build=partial(_build, model),
        load=load_speech,
        example_inputs=lambda: (torch.zeros(2, 1, BANDS, FRAMES),),
        training=TrainingOptions(steps, rate, 64, weight_decay=0.05, schedule="one_cycle"),
        recovery=TrainingOptions(steps // 8, rate / 3, 64, weight_decay=0.0),
        data_key=speech_key,
        shifts=SHIFTS,
    )


for _name in FAMILIES:
    _names = (f"speech/{_name}", "speech") if _name == DEFAULT else (f"speech/{_name}",)
    WORKLOADS.register(*_names)(_workload(_name))
