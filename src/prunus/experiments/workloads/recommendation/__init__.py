"""A name of a network in; clicks from a known latent model and a network of embeddings that predicts them out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from prunus.experiments.workloads.recommendation.data import (
    FIELDS,
    SHIFTS,
    ClickSizes,
    click_key,
    load_clicks,
    make_world,
)
from prunus.experiments.workloads.recommendation.networks import DeepFM, TwoTower
from prunus.experiments.workloads.registry import WORKLOADS, Workload
from prunus.foundation.as_found import seeded
from prunus.training.options import TrainingOptions

__all__ = ["DEFAULT", "FAMILIES", "FIELDS", "SHIFTS", "ClickSizes", "load_clicks", "make_world"]

DEFAULT = "deepfm"  # the network of the bare name `recommendation`
_SIZES = tuple(FIELDS.values())

# Right-sized, then with about 8 times the parameters.
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "deepfm": partial(DeepFM, _SIZES, 12, (32, 16)),
    "deepfm-8x": partial(DeepFM, _SIZES, 56, (112, 48)),
    "two-tower": partial(TwoTower, _SIZES, 12, (48,), 16),
    "two-tower-8x": partial(TwoTower, _SIZES, 56, (128,), 64),
}


def _build(name: str, seed: int) -> nn.Module:
    with seeded(seed):
        return FAMILIES[name]()


def _workload(model: str) -> Workload:
    return Workload(
        name=f"recommendation/{model}",
        build=partial(_build, model),
        load=load_clicks,
        example_inputs=lambda: (torch.zeros(2, len(FIELDS), dtype=torch.int64),),
        training=TrainingOptions(
            2_000, 3e-3 if model.endswith("-8x") else 1e-2, 256, weight_decay=0.1, schedule="one_cycle"
        ),
        recovery=TrainingOptions(200, 1e-3, 256, weight_decay=0.0),
        data_key=click_key,
        shifts=SHIFTS,
    )


for _name in FAMILIES:
    _names = (f"recommendation/{_name}", "recommendation") if _name == DEFAULT else (f"recommendation/{_name}",)
    WORKLOADS.register(*_names)(_workload(_name))
