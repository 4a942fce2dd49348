"""A name of a network in; images of 62 characters in 21 fonts and the network out, right-sized or 8× too large."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from prunus.experiments.workloads.glyphs.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from prunus.experiments.workloads.glyphs.data import (
    SHIFTS,
    TAIL_RATIO,
    GlyphSizes,
    glyph_key,
    glyph_sets,
    load_glyphs,
    long_tail,
)
from prunus.experiments.workloads.glyphs.fonts import CHARACTERS
from prunus.experiments.workloads.glyphs.mobilenet import MobileNet
from prunus.experiments.workloads.glyphs.render import SIDE
from prunus.experiments.workloads.glyphs.resnet import ResNet
from prunus.experiments.workloads.glyphs.vgg import VGG
from prunus.experiments.workloads.glyphs.vit import ViT
from prunus.experiments.workloads.registry import WORKLOADS, Workload
from prunus.foundation.as_found import seeded
from prunus.training.options import TrainingOptions

__all__ = [
    "CHARACTERS",
    "CORRUPTIONS",
    "DEFAULT",
    "FAMILIES",
    "SEVERITIES",
    "SHIFTS",
    "GlyphSizes",
    "corrupted",
    "glyph_sets",
    "load_glyphs",
    "long_tail",
]

DEFAULT = "resnet-8x"  # the network of the bare name `glyphs`
BATCH = 128
_STEPS_PER_EPOCH = -(-GlyphSizes().train // BATCH)

# Right-sized, then with about 8 times the parameters; epochs and learning rate.
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vgg": partial(VGG, (16, 32, 32, 64, 64), 128),
    "vgg-8x": partial(VGG, (32, 64, 64, 128, 128), 640),
    "resnet": partial(ResNet, (16, 32, 64), 1),
    "resnet-8x": partial(ResNet, (32, 64, 128), 2),
    "mobilenet": partial(MobileNet, (16, 24, 48), (1, 2, 2), 128),
    "mobilenet-8x": partial(MobileNet, (32, 64, 128), (1, 2, 3), 256),
    "vit": partial(ViT, 48, 4, 4),
    "vit-8x": partial(ViT, 96, 8, 8),
}
_EPOCHS = {"vgg": 10, "resnet": 12, "mobilenet": 10, "vit": 16}
_RATES = {"vgg": 2e-3, "resnet": 4e-3, "mobilenet": 4e-3, "vit": 2e-3}


def _build(name: str, seed: int) -> nn.Module:
    with seeded(seed):
        return FAMILIES[name]()


def _workload(name: str, model: str, tail_ratio: float = 1.0) -> Workload:
    family = model.partition("-")[0]
    rate = _RATES[family] * (0.5 if model.endswith("-8x") else 1.0)
    training = TrainingOptions(_EPOCHS[family] * _STEPS_PER_EPOCH, rate, BATCH, weight_decay=0.05, schedule="one_cycle")
    return Workload(
        name=name,
        build=partial(_build, model),
        load=partial(load_glyphs, tail_ratio=tail_ratio),
        example_inputs=lambda: (torch.zeros(2, 1, SIDE, SIDE),),
        training=training,
        recovery=TrainingOptions(2 * _STEPS_PER_EPOCH, rate / 2, BATCH, weight_decay=0.0),
        data_key=lambda: f"{glyph_key()}-{tail_ratio:g}",
        shifts=SHIFTS,
    )


for _name in FAMILIES:
    _names = (f"glyphs/{_name}", "glyphs") if _name == DEFAULT else (f"glyphs/{_name}",)
    WORKLOADS.register(*_names)(_workload(_names[0], _name))
WORKLOADS.register("glyphs/long-tail")(_workload("glyphs/long-tail", DEFAULT, TAIL_RATIO))
